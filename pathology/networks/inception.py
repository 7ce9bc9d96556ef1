"""InceptionV3 with auxiliary logits (Szegedy et al. 2016, CVPR, "Rethinking the Inception architecture")."""

from __future__ import annotations

from torchvision.models import Inception3

__all__ = ["inception_v3"]


def inception_v3(classes: int, *, aux_logits: bool = True, dropout: float = 0.5) -> Inception3:
    """Build torchvision's InceptionV3: 27,161,264 parameters at 1000 classes with auxiliary logits.

    Parameters
    ----------
    classes
        Number of outputs ``C``.
    aux_logits
        Whether to build the auxiliary classifier.  It only runs in training mode, where the network then
        returns ``(logits, auxiliary logits)``, each ``(B, C)``.
    dropout
        Dropout rate of the 2048 pooled features in training, 0 to 1.

    Returns
    -------
    torchvision.models.Inception3
        ``(B, 3, H, W)`` float to ``(B, C)`` logits in evaluation mode.  Made for 299 px; ``H`` and ``W`` >= 75.
        Names in the state dict are torchvision's.
    """
    return Inception3(num_classes=classes, aux_logits=aux_logits, init_weights=True, dropout=dropout)
