"""A trained bundle on another cohort, never refitted: predictions, then metrics beside those of its card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from pathology._version import __version__
from pathology.bundle.card import Metric
from pathology.errors import UsageError
from pathology.evaluation.binary_cohort import BinaryPredictions, binary_sections, evaluate_binary
from pathology.evaluation.checklist import checklist_section
from pathology.evaluation.survival_cohort import CohortPredictions, evaluate_survival, survival_sections
from pathology.radiology.io.cohort import Cohort
from pathology.radiology.models.bundle import RadiologyCard, read_radiology_card
from pathology.radiology.models.image_recipe import ImageRecipe
from pathology.radiology.models.recipe import Recipe
from pathology.radiology.models.registry import recipe_of
from pathology.radiology.models.signature_recipe import SignatureRecipe
from pathology.radiology.models.survival_recipe import SurvivalRecipe
from pathology.radiology.predict import predict_cohort
from pathology.reports.page import Cell, Section, Table, write_report

__all__ = ["evaluate_bundle"]


def evaluate_bundle(
    model: Path,
    cohort: Cohort,
    out: Path,
    *,
    centre: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, str]:
    """Predict every patient with a known outcome, measure the predictions, and write ``report.html``.

    Parameters
    ----------
    model
        Bundle of a model of two classes or of a time to an event.
    cohort
        Patients it was not trained on, with the outcome in the clinical table, coded as in training.
    out
        Output folder: ``predictions/`` (as of ``predict``), ``evaluation.json``, ``report.html``.
    centre
        Clinical column with the centre.
    device
        ``cpu`` or ``cuda``.
    seed
        Of the bootstrap.
    progress
        Called with patient ID, completed patients and total patients.

    Returns
    -------
    dict
        The main metrics as text, by name.

    Raises
    ------
    UsageError
        If the bundle segments or has more than two classes, or nobody could be predicted.
    InputTableError
        If the clinical table lacks a column.
    """
    card = read_radiology_card(model)
    recipe = recipe_of(card)
    chosen = _with_outcome(recipe, cohort)
    if centre is not None:
        cohort.column(centre)
    table = predict_cohort(model, chosen, out / "predictions", device=device, progress=progress)
    done = table[table["status"] == "done"].reset_index(drop=True)
    if done.empty:
        raise UsageError("no patient could be predicted", where=out, remedy="See predictions/results.csv for reasons")
    kept = set(done["patient_id"].astype(str))
    known = chosen.take([i for i, p in enumerate(chosen.patients) if p in kept])
    centres = () if centre is None else tuple(str(known.column(centre)[p]) for p in known.patients)
    warnings = [f"{r['patient_id']} was not evaluated: {r['error']}" for r in table.to_dict("records") if r["error"]]
    if "notes" in done:
        warnings += [f"{r['patient_id']}: {r['notes']}" for r in done.to_dict("records") if r["notes"]]
    if card.constructed:
        warnings.insert(0, "The model was trained on constructed data: its predictions have no clinical meaning.")
    measure = _survival if isinstance(recipe, SurvivalRecipe) else _binary
    record, sections, said = measure(recipe, card, known, done, centres, out, seed)
    (out / "evaluation.json").write_text(record + "\n", encoding="utf-8")
    sections += [_own_section(card), _checklist(card, cohort, chosen, known, centre)]
    write_report(
        out / "report.html",
        f"{card.name} {card.version} on another cohort",
        f"{len(known)} of {len(cohort)} patients; {card.intended_use}",
        sections,
        warnings=warnings,
    )
    return said


def _with_outcome(recipe: Recipe, cohort: Cohort) -> Cohort:
    """Keep the patients whose outcome is known."""
    if isinstance(recipe, SurvivalRecipe):
        return cohort.having((), recipe.time).having((), recipe.event)
    if isinstance(recipe, SignatureRecipe | ImageRecipe) and len(recipe.classes) == 2:
        return cohort.having((), recipe.label)
    raise UsageError(
        f"a bundle of the recipe '{recipe.kind}' cannot be evaluated on another cohort by this version",
        remedy="Use a model of two classes or of a time to an event; 'predict' gives the output of every bundle",
    )


def _binary(
    recipe: Recipe,
    card: RadiologyCard,
    known: Cohort,
    done: pd.DataFrame,
    centres: tuple[str, ...],
    out: Path,
    seed: int,
) -> tuple[str, list[Section], dict[str, str]]:
    assert isinstance(recipe, SignatureRecipe | ImageRecipe)
    column = "probability" if isinstance(recipe, SignatureRecipe) else f"probabilities.{recipe.classes[1]}"
    found = BinaryPredictions(
        known.labels(recipe.label, recipe.classes), done[column].to_numpy(float), known.patients, centres
    )
    evaluation = evaluate_binary(found, seed=seed)
    own = {"area under the ROC curve": _own(card, "area under the ROC curve")}
    outcome = f"'{recipe.classes[1]}' in '{recipe.label}'"
    sections = binary_sections(evaluation, found, out / "figures", own=own, outcome=outcome)
    said = {name: str(value) for name, value in evaluation.metrics.items()}
    return evaluation.model_dump_json(indent=2), sections, said


def _survival(
    recipe: Recipe,
    card: RadiologyCard,
    known: Cohort,
    done: pd.DataFrame,
    centres: tuple[str, ...],
    out: Path,
    seed: int,
) -> tuple[str, list[Section], dict[str, str]]:
    assert isinstance(recipe, SurvivalRecipe)
    times = sorted(recipe.horizons.items(), key=lambda item: item[1])
    found = CohortPredictions(
        outcome=recipe.follow_up(known),
        risk=done["risk"].to_numpy(float),
        survival=1 - done[[f"probability.{name}" for name, _ in times]].to_numpy(float),
        times=np.asarray([t for _, t in times]),
        groups=tuple(done["risk_group"]),
        order=recipe.risk_groups(card).names,
        patients=known.patients,
        centres=centres,
    )
    evaluation = evaluate_survival(found, seed=seed)
    own = {"Harrell's C": _own(card, "concordance index")}
    sections = survival_sections(
        evaluation, found, out / "figures", own=own, outcome_name=recipe.outcome, unit=1.0, units=recipe.unit
    )
    return evaluation.model_dump_json(indent=2), sections, {"concordance index": str(evaluation.concordance)}


def _own(card: RadiologyCard, metric: str) -> str:
    """Return the card's own value of a metric, of the whole model where it has parts."""
    named = [m for m in card.metrics if m.metric.startswith(metric)]
    whole = [m for m in named if m.metric.endswith("combined")] or named
    return f"{_value(whole[0])}, {whole[0].data}" if whole else "not recorded"


def _value(metric: Metric) -> str:
    if metric.value is None or metric.interval is None:
        return f"not available ({metric.note})"
    return f"{metric.value:.3f} ({metric.interval[0]:.3f}–{metric.interval[1]:.3f}, n = {metric.n})"


def _own_section(card: RadiologyCard) -> Section:
    return Section(
        heading="The model's card",
        text=card.title,
        table=Table(
            head=("Metric", "Value", "Data"),
            rows=tuple((Cell(value=m.metric), Cell(value=_value(m)), Cell(value=m.data)) for m in card.metrics),
        ),
        note="Limits: " + " ".join(card.limits),
    )


def _checklist(card: RadiologyCard, cohort: Cohort, chosen: Cohort, known: Cohort, centre: str | None) -> Section:
    recipe = recipe_of(card)
    used = recipe.clinical_columns(card)
    gaps = {c: int(known.column(c)[list(known.patients)].isna().sum()) for c in used}
    missing = ", ".join(f"{c} in {n}" for c, n in gaps.items() if n) or "none"
    by_centre = f"By '{centre}', each centre on its own." if centre else ""
    counts = f"{len(cohort)} patients with images, {len(chosen)} with the outcome, {len(known)} predicted and evaluated"
    return checklist_section(
        {
            "4": "Evaluation of an existing model; no development.",
            "7": "As in the recipe on the card.",
            "8a": f"{', '.join(card.classes)}.",
            "9b": f"{', '.join(('Images', *used))}, by the recipe on the card.",
            "10": counts + ".",
            "11": f"Missing clinical values: {missing}.",
            "12a": "All patients serve evaluation, none fitting.",
            "12c": f"{card.recipe}, {card.architecture}; {card.split}.",
            "12d": by_centre,
            "12e": "Discrimination, calibration and net benefit, with intervals by patient.",
            "12f": "None: the model is used as stored.",
            "12g": f"By the bundle {card.name} {card.version}, weights {card.weights_sha256[:12]}.",
            "16": "; ".join(f"trained on {d.name} ({d.source})" for d in card.training_data) + ".",
            "18f": f"pathology {__version__}.",
            "20a": counts + ".",
            "21": f"{len(known)} patients.",
            "22": "card.yaml and weights.safetensors of the bundle.",
            "23a": "Tables of this report.",
            "23b": "Table by centre." if centre else "",
            "24": "Not updated.",
            "26": " ".join(card.limits),
            "27a": "Studies that would give silently wrong results are refused; missing clinical values are named.",
        }
    )
