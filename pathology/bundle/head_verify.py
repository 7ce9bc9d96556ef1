"""Checks of a slide-level head's bundle, from its card to its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pathology.bundle.check import Check, checked
from pathology.bundle.head_card import read_head, read_head_card, read_head_domain
from pathology.errors import BundleError
from pathology.networks.dense_head import DenseHead

__all__ = ["verify_head"]

_DECILES = 10
"""Numbers per feature that SAMPLER's head takes; see :func:`pathology.features.bag.deciles`."""


def verify_head(folder: Path) -> list[Check]:
    """Check a head's bundle; stop at the first failure.

    In this order: the card's schema; that the folder has the bundle's name; the hash of its arrays; the file behind
    ``trust``; and that features of the stated length give one finite number per class.

    Parameters
    ----------
    folder
        The bundle.

    Returns
    -------
    list of Check
        The last one carries the error, if there is one.
    """

    def folder_is_named() -> str:
        name = read_head_card(folder).name
        if folder.name != name:
            raise BundleError(
                f"name: the card says {name!r}, the folder is called {folder.name!r}",
                where=folder,
                remedy=f"Rename the folder to {name}",
            )
        return name

    def arrays_are_the_cards() -> str:
        card = read_head_card(folder)
        read_head(folder, card)
        return f"SHA-256 {card.weights_sha256[:12]}…"

    def trust_is_the_cards() -> str:
        card = read_head_card(folder)
        domain = read_head_domain(folder, card)
        if domain is not None and domain.centres.shape[1] != card.encoder.vector:
            raise BundleError(
                f"the domain file is about {domain.centres.shape[1]} numbers per patch, the card about"
                f" {card.encoder.vector}",
                where=folder,
                remedy="Copy the complete bundle again",
            )
        return "none" if domain is None else f"{domain.centres.shape[1]} features"

    def features_give_outputs() -> str:
        card = read_head_card(folder)
        head, vector = read_head(folder, card), card.encoder.vector
        try:
            if isinstance(head, DenseHead):
                length = vector * _DECILES if card.head == "sampler" else vector
                logits = head.logits(np.zeros((1, length)))
            else:
                import torch

                with torch.inference_mode():
                    logits = head(torch.zeros(2, vector)).logits.double().numpy()[None]
        except (IndexError, ValueError, RuntimeError) as error:
            raise BundleError(
                f"the head does not take {vector} numbers per patch ({str(error).splitlines()[0]})", where=folder
            ) from error
        if logits.shape != (1, len(card.classes)) or not np.isfinite(logits).all():
            raise BundleError(
                f"classes: the card names {len(card.classes)}, the head gives {logits.shape[1:]} numbers"
                if logits.shape != (1, len(card.classes))
                else "the head gives a non-finite output",
                where=folder,
            )
        return f"{len(card.classes)} classes from {vector} numbers per patch"

    steps: list[tuple[str, Callable[[], str]]] = [
        ("the card is valid", lambda: read_head_card(folder).name),
        ("the folder has the model's name", folder_is_named),
        ("the arrays match the card", arrays_are_the_cards),
        ("the file behind trust matches the card", trust_is_the_cards),
        ("features give the output that the card declares", features_give_outputs),
    ]
    return checked(steps)
