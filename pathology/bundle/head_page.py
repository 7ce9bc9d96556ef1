"""The card of a slide-level head as a page for people."""

from __future__ import annotations

from pathology.bundle.card_page import conformal_said, domain_said, table_cell, training_and_metrics
from pathology.bundle.head_card import EncoderReference, HeadCard

__all__ = ["head_markdown"]


def head_markdown(card: HeadCard) -> str:
    """Render every field of a head's card as a Markdown page.

    Returns
    -------
    str
        GitHub-flavoured Markdown, ending in a newline.
    """
    setting = ", ".join(f"{name} = {value}" for name, value in card.setting.items())
    trust = [conformal_said(card.trust.conformal)] if card.trust.conformal is not None else []
    trust += [domain_said(card.trust.out_of_domain)] if card.trust.out_of_domain is not None else []
    facts = {
        "Name": f"{card.name} {card.version}",
        "Head": card.head + (f" ({setting})" if setting else ""),
        "Classes": ", ".join(card.classes),
        "Encoder": _encoder(card.encoder),
        "Patches": f"up to {card.patches:,} of a slide, evenly spread",
        "Several slides of a patient": {"average": "averaged predictions", "bag": "one bag"}[card.patient],
        "Weights (SHA-256)": f"`{card.weights_sha256}`",
        "Calibration": f"temperature = {card.temperature:.3g}",
        "Trust": "; ".join([*trust, *([card.trust.note] if card.trust.note else [])]) or "nothing was fitted",
        "Licence of the head": card.licence,
        "Licence of the encoder": card.encoder.licence,
        "Made by": card.made_by or "not stated",
    }
    return "\n".join(
        [
            f"# {card.title}",
            *("", "**Research use only. Not for diagnosis or treatment.**", "", "| | |", "|---|---|"),
            *(f"| {name} | {table_cell(value)} |" for name, value in facts.items()),
            *("", "## Intended use", "", card.intended_use, "", "## Limits", ""),
            *(f"- {limit}" for limit in card.limits),
            "",
            *training_and_metrics(card.training_data, card.split, card.metrics),
            "",
        ]
    )


def _encoder(encoder: EncoderReference) -> str:
    parts = [encoder.name or "not stated", f"{encoder.vector} numbers per patch"]
    parts += [f"{encoder.mpp:g} µm/px"] if encoder.mpp is not None else []
    parts += [encoder.hub] if encoder.hub else []
    parts += [f"revision {encoder.revision}"] if encoder.revision else []
    parts += [f"SHA-256 of the weights `{encoder.weights_sha256}`"] if encoder.weights_sha256 else []
    return ", ".join(parts)
