"""A model card as a page for people."""

from __future__ import annotations

from collections.abc import Mapping

from pathology.bundle.card import Card, Figure

__all__ = ["card_markdown"]


def card_markdown(card: Card) -> str:
    """Render a card as a Markdown page, complete: nothing of the card is left out.

    Parameters
    ----------
    card
        A validated card.

    Returns
    -------
    str
        GitHub-flavoured Markdown, ending in a newline.
    """
    options = ", ".join(f"{name} = {value}" for name, value in card.architecture_options.items())
    facts = {
        "Name": f"{card.name} {card.version}",
        "Task": card.task,
        "Network": card.architecture + (f" ({options})" if options else ""),
        "Learnable parameters": f"{card.parameters:,}",
        "Classes": ", ".join(card.classes),
        "Colours": ", ".join(card.colours) or "standard palette",
        "Patches": f"{card.patch} px at {card.mpp:g} µm/px"
        f" ({card.patch * card.mpp:g} µm), every {card.stride or card.patch} px",
        "Normalisation": f"mean {_numbers(card.normalisation.mean)}, standard deviation"
        f" {_numbers(card.normalisation.std)}, of values 0 to 1",
        "Stain normalisation": card.stain,
        "Weights (SHA-256)": f"`{card.weights_sha256}`",
        "Started from": card.initialisation,
        "Calibration": _pairs(card.calibration) or "none",
        "Abstention": _abstention(card),
        "Licence of the weights": card.licence,
        "Reference": card.reference or "none",
        "Made by": card.made_by or "not stated",
    }
    lines = [
        f"# {card.title}",
        "",
        "**Research use only. Not for diagnosis or treatment.**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in facts.items()),
        "",
        "## Intended use",
        "",
        card.intended_use,
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card.limits),
        "",
        "## Training data",
        "",
        "| data | source | licence | patients | images | used for |",
        "|---|---|---|---:|---:|---|",
    ]
    lines += [
        "| "
        + " | ".join(
            _cell(value)
            for value in (
                data.name,
                data.source,
                data.licence,
                "not known" if data.patients is None else str(data.patients),
                str(data.images),
                data.used_for,
            )
        )
        + " |"
        for data in card.training_data
    ]
    lines += ["", "## Split", "", card.split, "", "## Figures", ""]
    lines += [
        "| metric | value | confidence interval | n | data | note |",
        "|---|---:|---|---:|---|---|",
        *(_figure_row(figure) for figure in card.figures),
    ]
    return "\n".join(lines) + "\n"


def _figure_row(figure: Figure) -> str:
    interval = "none"
    if figure.interval is not None:
        low, high = figure.interval
        interval = f"{low:.3g} to {high:.3g} ({figure.level * 100:g} %, {figure.method})"
    value = "not estimable" if figure.value is None else f"{figure.value:.3g}"
    cells = (figure.metric, value, interval, f"{figure.n} {figure.unit}", figure.data, figure.note)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _abstention(card: Card) -> str:
    if card.abstention is None:
        return "none: the model always answers"
    rule = card.abstention
    parts = [rule.method]
    if rule.min_probability is not None:
        parts.append(f"undecided below a probability of {rule.min_probability:g}")
    if rule.parameters:
        parts.append(_pairs(rule.parameters))
    return "; ".join(parts)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _cell(text: str) -> str:
    # A bar or a line break would end the cell.
    return text.replace("|", "\\|").replace("\n", " ")
