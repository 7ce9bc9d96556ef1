"""A model card as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pathology.bundle.card import Card, Int8, Metric, TrainingData
from pathology.stats.conformal import ConformalRule
from pathology.stats.out_of_distribution import OutOfDomainRule

__all__ = ["card_markdown", "conformal_said", "domain_said", "table_cell", "training_and_metrics"]


def card_markdown(card: Card) -> str:
    """Render every field of a card as a Markdown page.

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
        "Initial weights": card.initialisation,
        "Calibration": _pairs(card.calibration) or "none",
        "Abstention": _abstention(card),
        "Trust": _trust(card),
        "Learned aggregators": "; ".join(
            f"{entry.name}: {entry.parameters:,} parameters on {entry.features} features"
            + (f" ({_pairs(entry.options)})" if entry.options else "")
            + f", SHA-256 `{entry.sha256}`, {entry.training}"
            for entry in card.aggregators
        )
        or "none",
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
        *(f"| {name} | {table_cell(value)} |" for name, value in facts.items()),
        "",
        "## Intended use",
        "",
        card.intended_use,
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in card.limits),
        "",
        *training_and_metrics(card.training_data, card.split, card.metrics),
    ]
    if card.graph is not None:
        lines += [
            "",
            "## Without torch",
            "",
            "The bundle carries its network for OpenVINO. When it was converted, the mean difference from torch in fp32"
            f" was {card.graph.mean_difference:.1g}; `pathology models verify` compares again. SHA-256"
            f" `{card.graph.graph_sha256}` (graph), `{card.graph.constants_sha256}` (constants). Made by"
            f" {card.graph.made_by}.",
        ]
    if card.int8 is not None:
        lines += _int8_lines(card.int8)
    return "\n".join(lines) + "\n"


def training_and_metrics(data: Sequence[TrainingData], split: str, metrics: Sequence[Metric]) -> list[str]:
    """Return the sections on training data, split and metrics, which cards of every kind have."""
    return [
        "## Training data",
        "",
        "| data | source | licence | patients | images | used for |",
        "|---|---|---|---:|---:|---|",
        *(_training_row(entry) for entry in data),
        *("", "## Split", "", split, "", "## Metrics", ""),
        "| metric | value | confidence interval | n | data | note |",
        "|---|---:|---|---:|---|---|",
        *(_metric_row(figure) for figure in metrics),
    ]


def _training_row(data: TrainingData) -> str:
    patients, images = ("not known" if n is None else str(n) for n in (data.patients, data.images))
    cells = (data.name, data.source, data.licence, patients, images, data.used_for)
    return "| " + " | ".join(table_cell(cell) for cell in cells) + " |"


def _int8_lines(int8: Int8) -> list[str]:
    """The 8-bit network: its calibration and its agreement with fp32."""
    found = int8.agreement
    others = {
        "patients": "of patients not used for calibration",
        "slides": "of slides not used for calibration",
        "places": "of the same slide, at locations not used for calibration",
    }[found.apart]
    rows = {
        f"Patches compared, every {found.stride} px, {others}": f"{found.patches:,}",
        "Mean difference of a probability": f"{found.mean_difference:.4f}",
        "Largest difference of a probability": f"{found.largest_difference:.3f}",
        "Same predicted class": f"{found.same_class:.2%} ({found.same_class_alone:.2%} before rechecking near ties)",
        "Recomputed in fp32 as near ties": f"{found.computed_again:.1%}",
        f"Largest difference of a slide's mean probability (slides of fewer than {found.smallest_slide} patches"
        " pooled)": f"{found.slide_difference:.4f}",
        "Largest relative difference of a slide's out-of-distribution score": "no such rule"
        if found.domain_difference is None
        else f"{found.domain_difference:.1%}",
        "Slides compared": ", ".join(found.slides),
    }
    return [
        "",
        "## 8-bit integers",
        "",
        f"OpenVINO runs this network in 8-bit integers on CPUs, calibrated on {int8.calibration_patches:,}"
        f" patches of {len(int8.calibration_slides)} slides ({', '.join(int8.calibration_slides)}). Patches whose top"
        f" two probabilities differ by less than {int8.margin:.3g} are recomputed in fp32; `--precision exact`"
        f" runs everything in fp32. SHA-256 `{int8.graph_sha256}` (graph), `{int8.constants_sha256}` (constants)."
        f" Made by {int8.made_by}.",
        "",
        "| against fp32 | |",
        "|---|---|",
        *(f"| {name} | {table_cell(value)} |" for name, value in rows.items()),
    ]


def _metric_row(figure: Metric) -> str:
    interval = "none"
    if figure.interval is not None:
        low, high = figure.interval
        interval = f"{low:.3g} to {high:.3g} ({figure.level * 100:g} %, {figure.method})"
    value = "not estimable" if figure.value is None else f"{figure.value:.3g}"
    cells = (figure.metric, value, interval, f"{figure.n} {figure.unit}", figure.data, figure.note)
    return "| " + " | ".join(table_cell(cell) for cell in cells) + " |"


def _abstention(card: Card) -> str:
    if card.abstention is None:
        return "none: the model never abstains"
    rule = card.abstention
    parts = [rule.method]
    if rule.min_probability is not None:
        parts.append(f"abstains below a probability of {rule.min_probability:g}")
    if rule.parameters:
        parts.append(_pairs(rule.parameters))
    return "; ".join(parts)


def conformal_said(rule: ConformalRule) -> str:
    """State in one sentence what prediction sets guarantee, and from which data."""
    name = {"lac": "least ambiguous sets", "aps": "adaptive sets"}[rule.method]
    data = f" ({rule.data})" if rule.data else ""
    if rule.threshold is None:
        return (
            f"prediction sets with {rule.coverage:.0%} coverage are not available: {rule.n} calibration {rule.unit} are"
            f" too few{data}; every set contains all classes"
        )
    return (
        f"the prediction set ({name}, score up to {rule.threshold:.3g}) is designed to contain the true class for"
        f" {rule.coverage:.0%} of {rule.unit} like the {rule.n} calibration {rule.unit}{data}; the model abstains if"
        " the set has more or fewer than one class"
    )


def domain_said(rule: OutOfDomainRule) -> str:
    """State in one sentence when a slide is out of distribution, and from which data."""
    data = f" ({rule.data})" if rule.data else ""
    if rule.limit is None:
        return (
            f"the out-of-distribution score is reported without a limit: {rule.n} calibration {rule.unit} are too"
            f" few for {rule.false_alarm:.0%} false alarms{data}"
        )
    return (
        f"a slide whose score (Mahalanobis distance of {rule.features} {rule.layer} features, median over patches, 1"
        f" for training patches) exceeds {rule.limit:.3g} is outside what the model was trained on;"
        f" {rule.false_alarm:.0%} of {rule.unit} like the {rule.n} calibration {rule.unit} are expected to exceed"
        f" it{data}"
    )


def _trust(card: Card) -> str:
    if card.trust is None:
        return "nothing was fitted"
    trust = card.trust
    parts = [conformal_said(trust.conformal)] if trust.conformal is not None else []
    if trust.conformal is not None and trust.aggregator != "mean":
        parts.append(f"sets are valid for the aggregator {trust.aggregator}")
    if trust.out_of_domain is not None:
        parts.append(f"{domain_said(trust.out_of_domain)}; SHA-256 of the domain file `{trust.out_of_domain.sha256}`")
    return "; ".join([*parts, trust.note]) if trust.note else "; ".join(parts)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def table_cell(text: str) -> str:
    """Return a text as it may stand in a cell."""
    # A bar or a line break would end the cell.
    return text.replace("|", "\\|").replace("\n", " ")
