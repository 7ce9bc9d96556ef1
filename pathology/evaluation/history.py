"""Training history, one record per epoch."""

from __future__ import annotations

from pathology.settings import Record

__all__ = ["EpochRecord"]


class EpochRecord(Record):
    """Losses and speed of one epoch."""

    stage: int
    """From 1."""
    epoch: int
    """From 1, within the stage."""
    steps: int
    loss: float
    """Mean training loss (weighted cross-entropy, nats)."""
    learning_rate: float
    """Learning rate of the head at the end of the epoch."""
    validation_loss: float
    """Mean cross-entropy of the validation patches, each slide weighted equally."""
    validation_accuracy: float
    """Accuracy on the validation patches."""
    validation_slide_loss: float
    """Mean cross-entropy of the validation slides' mean probabilities."""
    best: bool
    """Whether this is the best epoch so far by the selection metric of the recipe."""
    seconds: float
    """Training time, excluding validation."""
    waiting: float
    """Share of that time spent waiting for patches, 0 to 1."""
    patches_per_second: float
