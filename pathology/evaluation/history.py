"""What one epoch of training left."""

from __future__ import annotations

from pathology.settings import Record

__all__ = ["EpochRecord"]


class EpochRecord(Record):
    """One pass over the training patches."""

    stage: int
    """From 1."""
    epoch: int
    """From 1, within the stage."""
    steps: int
    loss: float
    """Mean training loss (weighted cross-entropy, nats)."""
    learning_rate: float
    """Of the head at the end of the epoch."""
    validation_loss: float
    """Mean cross-entropy of the validation patches, each slide counting alike."""
    validation_accuracy: float
    """Share of the validation patches called right."""
    validation_slide_loss: float
    """Mean cross-entropy of the validation slides' mean probabilities."""
    best: bool
    """Whether it is the best so far by the recipe's figure."""
    seconds: float
    """Of training, validation left out."""
    waiting: float
    """Share of that time spent waiting for patches, 0 to 1."""
    patches_per_second: float
