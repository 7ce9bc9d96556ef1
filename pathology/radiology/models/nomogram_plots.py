"""Nomogram figures: the nomogram, decision curves and calibration, from nested cross-validation."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pathology.errors import UsageError
from pathology.radiology.io.cohort import Cohort
from pathology.radiology.models.signature_recipe import SignatureRecipe, fit_combined, nested_probabilities
from pathology.stats.decision_curve import decision_curve, draw_decision_curves
from pathology.stats.logistic_calibration import calibration_groups, draw_calibration
from pathology.stats.nomogram import draw_nomogram

__all__ = ["draw_nomogram_plots"]


def draw_nomogram_plots(
    recipe: SignatureRecipe, table: pd.DataFrame, cohort: Cohort, folder: Path, *, folds: int = 5, seed: int = 0
) -> tuple[Path, ...]:
    """Draw the nomogram (fitted on all patients), and decision curves and calibration (nested cross-validation).

    Parameters
    ----------
    recipe
        Recipe of the system.
    table
        Of its :meth:`~pathology.radiology.models.signature_recipe.SignatureRecipe.table`.
    cohort
        The same patients.
    folder
        Output folder.
    folds, seed
        Of the cross-validation.

    Returns
    -------
    tuple of Path
        The PNG files written.

    Raises
    ------
    UsageError
        If the system has no clinical columns, because it then gives scores, not probabilities.
    """
    if not recipe.numeric and not recipe.categories:
        raise UsageError("decision curves require probabilities, but a signature without clinical columns gives scores")
    table = table.loc[list(cohort.patients)]
    labels, clinical = recipe.labels(cohort), recipe.clinical(cohort)
    title = f"{recipe.label}, n = {len(labels)}"
    parts: dict[str, pd.DataFrame | None] = {"combined": table, "clinical data alone": None}
    nested = {
        name: nested_probabilities(
            features,
            clinical,
            labels,
            cohort.patients,
            recipe.signature,
            outcome=recipe.label,
            folds=folds,
            seed=seed,
        ).mean
        for name, features in parts.items()
    }
    whole = fit_combined(
        table,
        clinical,
        labels,
        cohort.patients,
        recipe.signature,
        outcome=recipe.label,
        categories=recipe.categories,
    )
    figures = {
        "nomogram.png": draw_nomogram(whole.nomogram, title=title),
        "decision_curve.png": draw_decision_curves(
            {n: decision_curve(labels, p) for n, p in nested.items()}, title=title
        ),
        "calibration.png": draw_calibration({n: calibration_groups(labels, p) for n, p in nested.items()}, title=title),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    return tuple(folder / name for name in figures)
