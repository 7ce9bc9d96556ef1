"""Deep-learning radiomic nomograms: features, a signature, clinical data, and one probability per patient.

The signature's scores that the nomogram is fitted on come from inner folds: scores of the very patients the signature
was fitted on would make it look better than it is, and the nomogram would trust it too much.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from pathology.bundle.card import Metric
from pathology.errors import InputTableError, UsageError
from pathology.radiology.features.linear_classifier import FrozenClassifier, freeze
from pathology.radiology.features.radiomics import FeatureSettings, default_features, extract_features
from pathology.radiology.features.signature import Signature, SignatureSettings, fit_signature
from pathology.radiology.images.shells import peritumoural_shell
from pathology.radiology.io.clinical import clinical_numbers, clinical_row, stand_ins
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.models.bundle import CardText, RadiologyCard, read_bundle_state, save_radiology_bundle
from pathology.radiology.models.deep_features import DeepFeatureSettings, deep_feature_table
from pathology.radiology.models.recipe import NOT_MEASURED, Progress, Recipe, as_metric, describe_split
from pathology.stats.nomogram import Nomogram, NomogramTerm, draw_nomogram
from pathology.stats.splits import audit_leakage, grouped_k_fold, repeated_grouped_k_fold
from pathology.stats.within_fold import NestedPredictions, within_fold_area

__all__ = ["CombinedModel", "SignatureRecipe", "first_row", "fit_combined", "nested_probabilities"]

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
SIGNATURE = "signature"
"""Name of the signature's axis in the nomogram."""


@dataclass(frozen=True, slots=True, eq=False)
class CombinedModel:
    """A signature (or none) and clinical covariates in one logistic nomogram.

    Attributes
    ----------
    signature
        ``None`` for a model of clinical data alone.
    score_centre, score_scale
        Standardisation of the signature's score.
    clinical
        Names of the clinical covariates.
    fill
        What stands in for a missing covariate.
    nomogram
        The logistic model.
    """

    signature: Signature | None
    score_centre: float
    score_scale: float
    clinical: tuple[str, ...]
    fill: dict[str, float]
    nomogram: Nomogram

    def values(self, table: pd.DataFrame, clinical: pd.DataFrame) -> list[dict[str, float]]:
        """Return the nomogram's inputs of each row."""
        rows: list[dict[str, float]] = [{} for _ in range(len(clinical))]
        if self.signature is not None:
            scores = (self.signature.score(table) - self.score_centre) / self.score_scale
            for row, score in zip(rows, scores, strict=True):
                row[SIGNATURE] = float(score)
        for name in self.clinical:
            column = clinical[name].to_numpy(float)
            for row, value in zip(rows, column, strict=True):
                row[name] = float(value) if np.isfinite(value) else self.fill[name]
        return rows

    def probability(self, table: pd.DataFrame, clinical: pd.DataFrame) -> Floats:
        """Return the probability of class 1 for each row."""
        totals = [self.nomogram.total(v) for v in self.values(table, clinical)]
        return np.asarray([self.nomogram.probability(t) for t in totals])


def fit_combined(
    table: pd.DataFrame | None,
    clinical: pd.DataFrame,
    labels: Labels,
    patients: Sequence[Hashable],
    settings: SignatureSettings,
    *,
    outcome: str,
    held_out: Sequence[Hashable] = (),
    penalty: float = 1.0,
    categories: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> CombinedModel:
    """Fit signature and nomogram on training rows.

    Parameters
    ----------
    table
        Image features; ``None`` for clinical data alone.
    clinical
        Numeric covariates; may have no column where there is a table.
    labels, patients, settings, held_out
        As in :func:`fit_signature`.
    outcome
        What the probability is of.
    penalty
        Ridge of the logistic model on standardised covariates: with few patients an unpenalised one separates them.
    categories
        Names of the values 0, 1, 2, ... of ordered covariates, for the nomogram's axes.

    Raises
    ------
    UsageError
        If there is neither a table nor a clinical column.
    """
    if table is None and clinical.shape[1] == 0:
        raise UsageError("a nomogram requires image features or clinical columns")
    columns: dict[str, Floats] = {}
    signature, centre, scale = None, 0.0, 1.0
    if table is not None:
        signature = fit_signature(table, labels, patients, settings, held_out=held_out)
        inner = _inner_scores(table, labels, patients, settings)
        # The final signature's scores are on its own scale; place and width are taken from the inner ones' fits.
        centre, scale = float(inner.mean()), float(inner.std()) or 1.0
        columns[SIGNATURE] = (inner - centre) / scale
    fill = {}
    for name in clinical.columns:
        values = clinical[name].to_numpy(float)
        fill[str(name)] = float(np.nanmedian(values))
        columns[str(name)] = np.where(np.isfinite(values), values, fill[str(name)])
    # A covariate that does not vary among the training patients has no axis.
    columns = {n: v for n, v in columns.items() if np.ptp(v) > 0}
    if not columns:
        raise UsageError("all covariates are constant in the training patients")
    matrix = np.column_stack(list(columns.values()))
    middle, width = matrix.mean(axis=0), matrix.std(axis=0)
    model = LogisticRegression(C=1 / penalty, max_iter=5000).fit((matrix - middle) / width, labels)
    coefficients = model.coef_[0] / width
    terms = []
    for name, coefficient, values in zip(columns, coefficients, matrix.T, strict=True):
        low, high = float(values.min()), float(values.max())
        if name == SIGNATURE:
            low, high = min(low, -3.0), max(high, 3.0)
        named = tuple((label, float(i)) for i, label in enumerate(categories.get(name, ())) if low <= i <= high)
        terms.append(NomogramTerm(name=name, coefficient=float(coefficient), low=low, high=high, labels=named))
    nomogram = Nomogram(
        terms=tuple(terms), intercept=float(model.intercept_[0] - coefficients @ middle), outcome=outcome
    )
    kept = tuple(n for n in columns if n != SIGNATURE)
    return CombinedModel(signature if SIGNATURE in columns else None, centre, scale, kept, fill, nomogram)


def _inner_scores(
    table: pd.DataFrame, labels: Labels, patients: Sequence[Hashable], settings: SignatureSettings
) -> Floats:
    """Out-of-fold signature scores of the training patients."""
    owner = [str(p) for p in patients]
    rarest = min(len({p for p, y in zip(owner, labels, strict=True) if y == c}) for c in (0, 1))
    scores = np.full(len(labels), np.nan)
    for fold in grouped_k_fold(owner, labels, k=max(2, min(5, rarest)), seed=settings.seed + 1):
        train, test = fold.train, fold.test
        fitted = fit_signature(
            table.iloc[train], labels[train], [owner[i] for i in train], settings, held_out=[owner[i] for i in test]
        )
        scores[test] = fitted.score(table.iloc[test])
    return scores


def nested_probabilities(
    table: pd.DataFrame | None,
    clinical: pd.DataFrame,
    labels: Labels,
    patients: Sequence[Hashable],
    settings: SignatureSettings,
    *,
    outcome: str,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> NestedPredictions:
    """Predict each row by nested cross-validation.

    With clinical covariates the prediction is the nomogram's probability.  Without them it is the signature's own
    score, since a nomogram of one axis adds nothing to its order.
    """
    owner = [str(p) for p in patients]
    result = np.full((repeats, len(labels)), np.nan)
    number = np.zeros((repeats, len(labels)), np.int64)
    divisions = repeated_grouped_k_fold(owner, labels, k=folds, repeats=repeats, seed=seed)
    for done, fold in enumerate(divisions):
        train, test = fold.train, fold.test
        audit_leakage({"train": train, "test": test}, patients=owner)
        number[fold.repeat, test] = fold.index
        inside, held = [owner[i] for i in train], [owner[i] for i in test]
        if table is not None and clinical.shape[1] == 0:
            signature = fit_signature(table.iloc[train], labels[train], inside, settings, held_out=held)
            result[fold.repeat, test] = signature.score(table.iloc[test])
        else:
            fitted = fit_combined(
                None if table is None else table.iloc[train],
                clinical.iloc[train],
                labels[train],
                inside,
                settings,
                outcome=outcome,
                held_out=held,
            )
            part = clinical.iloc[test]
            result[fold.repeat, test] = fitted.probability(part if table is None else table.iloc[test], part)
        if progress is not None:
            progress("nested cross-validation", done + 1, len(divisions))
    return NestedPredictions(result, number)


class SignatureRecipe(Recipe):
    """Radiomics, deep features and clinical data for a binary outcome."""

    kind: ClassVar[str] = "signature"

    sequences: Annotated[tuple[str, ...], Field(min_length=1)]
    """Sequences whose tumours are measured; each needs an image and a mask."""
    label: str
    """Clinical column of the outcome."""
    classes: tuple[str, str]
    """Its values: class 0 and class 1."""
    numeric: tuple[str, ...] = ()
    """Numeric clinical columns of the nomogram."""
    categories: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Ordered categorical columns: their values from least to most, which count 0, 1, 2, ..."""
    features: dict[str, FeatureSettings] = Field(default_factory=dict)
    """Feature settings by sequence, where they are not the modality's default."""
    shape_of: str | None = None
    """The one sequence whose mask gives shape features (they repeat where masks are copies); ``None``: the first."""
    shell_mm: Annotated[float, Field(gt=0)] | None = None
    """Width of a peritumoural shell for additional features; ``None``: none."""
    deep: tuple[DeepFeatureSettings, ...] = ()
    """Deep features beside the radiomics."""
    signature: SignatureSettings = SignatureSettings()
    """Signature settings."""
    repeats: Annotated[int, Field(ge=1)] = 5
    """Repeats of the cross-validation: only patients of one fold are compared, so pairs must be given a chance to
    meet."""

    def feature_settings(self, sequence: str) -> FeatureSettings:
        """Return the settings of a sequence; shape is measured once."""
        from pathology.radiology.io.cohort import modality_of

        chosen = self.features.get(sequence) or default_features(modality_of(sequence))
        if sequence == (self.shape_of or self.sequences[0]):
            return chosen
        families = tuple(f for f in chosen.families if f != "morphology")
        return chosen.model_copy(update={"families": families})

    def measure(self, case: Case) -> dict[str, float]:
        """Compute the radiomic features of one patient.

        Raises
        ------
        StudyError
            And its kinds, where an image or mask is missing or unfit.
        """
        row: dict[str, float] = {}
        for name in self.sequences:
            opened = case.open(name)
            mask = case.contours(name, opened)[0]
            settings = self.feature_settings(name)
            row |= {f"{name}:{k}": v for k, v in extract_features(opened.volume, mask, settings).items()}
            if self.shell_mm is not None:
                around = settings.model_copy(
                    update={"families": tuple(f for f in settings.families if f != "morphology")}
                )
                shell = peritumoural_shell(mask, self.shell_mm)
                row |= {f"{name}-shell:{k}": v for k, v in extract_features(opened.volume, shell, around).items()}
        return row

    def table(self, cohort: Cohort, *, device: str = "cpu", progress: Progress | None = None) -> pd.DataFrame:
        """Compute all image features of a cohort, one row per patient, in the cohort's order."""
        rows = {}
        for number, case in enumerate(cohort.cases):
            rows[case.patient_id] = self.measure(case)
            if progress is not None:
                progress("radiomics", number + 1, len(cohort))
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "patient_id"
        for settings in self.deep:
            table = table.join(deep_feature_table(cohort, settings, device=device, progress=progress))
        return table

    def check_table(self, table: pd.DataFrame, cohort: Cohort, *, device: str = "cpu") -> None:
        """Reject a precomputed table that does not match this recipe, because its bundle could not predict.

        The first patient is measured again.  That finds features the recipe does not have (a shell, another sequence,
        a network) as well as those of other settings (a shell of another width), which no name tells.

        Parameters
        ----------
        table
            Rows by patient, as of :meth:`table`; may lack columns.
        cohort
            Patients of the table.
        device
            Where deep features are computed.

        Raises
        ------
        InputTableError
            If a column is not among the recipe's, or a value is another.
        """
        first = cohort.patients[0]
        again = self.table(cohort.take([0]), device=device)
        unknown = [str(c) for c in table.columns if c not in again.columns]
        if unknown:
            raise InputTableError(
                f"{len(unknown)} of {table.shape[1]} features in the table are not features of this recipe, first: "
                f"'{unknown[0]}'",
                remedy="Match the recipe to the table (--set sequences=[MR_T1,CT]) or drop the columns",
            )
        given = table.loc[first].to_numpy(float)
        measured = again.loc[first, list(table.columns)].to_numpy(float)
        # A thousandth of the value and of the patients' spread: more than rounding, less than another setting.
        spread = np.nan_to_num(table.std(ddof=0).to_numpy(float))
        near = np.abs(given - measured) <= 1e-3 * (np.abs(measured) + spread)
        other = np.flatnonzero(~(near | (np.isnan(given) & np.isnan(measured))))
        if other.size:
            at = int(other[0])
            raise InputTableError(
                f"{other.size} of {table.shape[1]} features in the table differ from those of this recipe: "
                f"'{table.columns[at]}' of {first} is {given[at]:.6g} in the table, {measured[at]:.6g} recomputed",
                remedy="Recompute the table with the recipe settings, or match the recipe to the table",
            )

    def clinical(self, cohort: Cohort) -> pd.DataFrame:
        """Return the clinical covariates as numbers, in the cohort's order; see :func:`clinical_numbers`."""
        return clinical_numbers(cohort, self.numeric, self.categories)

    def with_columns(self, used: Collection[str]) -> SignatureRecipe:
        """Return the recipe with these of its clinical columns."""
        return self.model_copy(
            update={
                "numeric": tuple(n for n in self.numeric if n in used),
                "categories": {k: v for k, v in self.categories.items() if k in used},
            }
        )

    def clinical_columns(self, card: RadiologyCard) -> tuple[str, ...]:
        """Return the clinical columns of the fitted nomogram; see :meth:`Recipe.clinical_columns`."""
        return tuple(card.fitted["clinical"])

    def labels(self, cohort: Cohort) -> Labels:
        """Return 0 or 1 for each patient."""
        return cohort.labels(self.label, self.classes)

    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by patient-level nested cross-validation; see :meth:`Recipe.evaluate`."""
        chosen = cohort.having(self.sequences, self.label)
        return self.evaluate_table(
            self.table(chosen, device=device, progress=progress), chosen, folds=folds, seed=seed, progress=progress
        )

    def evaluate_table(
        self,
        table: pd.DataFrame,
        cohort: Cohort,
        *,
        folds: int = 5,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> tuple[Metric, ...]:
        """Evaluate on a precomputed table: clinical data alone, radiomics, deep features, and combined.

        Parameters
        ----------
        table
            Of :meth:`table`, rows in the cohort's order.
        cohort
            The same patients.
        """
        labels, clinical = self.labels(cohort), self.clinical(cohort)
        table = table.loc[list(cohort.patients)]
        deep = [c for c in table.columns if str(c).startswith("deep-")]
        radiomic = table.drop(columns=deep)
        nothing = clinical.iloc[:, :0]
        parts: dict[str, tuple[pd.DataFrame | None, pd.DataFrame]] = {}
        if clinical.shape[1]:
            parts["clinical data alone"] = (None, clinical)
        parts["radiomics"] = (radiomic, nothing)
        if deep:
            parts["deep features"] = (table[deep], nothing)
        if deep or clinical.shape[1]:
            parts["combined"] = (table, clinical)
        metrics = []
        for name, (features, covariates) in parts.items():
            p = nested_probabilities(
                features,
                covariates,
                labels,
                cohort.patients,
                self.signature,
                outcome=self.label,
                folds=folds,
                repeats=self.repeats,
                seed=seed,
                progress=progress,
            )
            data = (
                f"{len(labels)} patients, {int(labels.sum())} '{self.classes[1]}' in '{self.label}', nested "
                f"{folds}-fold cross-validation by patient, {self.repeats} times, {name}"
            )
            metrics.append(
                as_metric(
                    f"area under the ROC curve, {name}",
                    within_fold_area(labels, p, cohort.patients, seed=seed),
                    unit="patients",
                    data=data,
                    note="over pairs of patients in the same fold",
                )
            )
        return tuple(metrics)

    def train(
        self,
        cohort: Cohort,
        folder: Path,
        text: CardText,
        *,
        system: str,
        metrics: tuple[Metric, ...] = (NOT_MEASURED,),
        constructed: bool = False,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> RadiologyCard:
        """Fit on the whole cohort and write a bundle; see :meth:`Recipe.train`."""
        chosen = cohort.having(self.sequences, self.label)
        table = self.table(chosen, device=device, progress=progress)
        return self.train_table(
            table,
            chosen,
            folder,
            text,
            system=system,
            metrics=metrics,
            constructed=constructed,
            seed=seed,
            device=device,
        )

    def train_table(
        self,
        table: pd.DataFrame,
        cohort: Cohort,
        folder: Path,
        text: CardText,
        *,
        system: str,
        metrics: tuple[Metric, ...] = (NOT_MEASURED,),
        constructed: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> RadiologyCard:
        """Fit on a precomputed table of :meth:`table` and write a bundle; see :meth:`Recipe.train`.

        Raises
        ------
        InputTableError
            If the recipe would measure other features; see :meth:`check_table`.
        """
        import torch

        self.check_table(table, cohort, device=device)
        chosen, table = cohort, table.loc[list(cohort.patients)]
        settings = self.signature.model_copy(update={"seed": seed})
        model = fit_combined(
            table,
            self.clinical(chosen),
            self.labels(chosen),
            chosen.patients,
            settings,
            outcome=self.label if self.classes[1] == "1" else self.classes[1],
            categories=self.categories,
        )
        state: dict[str, Any] = {}
        fitted: dict[str, Any] = {
            "clinical": list(model.clinical),
            "fill": model.fill,
            "nomogram": model.nomogram.model_dump(mode="json"),
            "score": [model.score_centre, model.score_scale],
            "columns": [],
        }
        count = len(model.nomogram.terms) + 1
        if model.signature is not None:
            frozen = freeze(model.signature.classifier)
            arrays = frozen.arrays() | {
                "median": model.signature.median,
                "centre": model.signature.centre,
                "scale": model.signature.scale,
            }
            state = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
            fitted |= {"columns": list(model.signature.columns), "classifier": frozen.kind}
            count += frozen.weights.size + 1
        else:
            state = {"none": torch.zeros(1)}
        return save_radiology_bundle(
            folder,
            state,
            **text.model_dump(),
            system=system,
            recipe=self.kind,
            recipe_settings=self.model_dump(mode="json"),
            architecture="signature",
            parameters=count,
            classes=self.classes,
            fitted=fitted,
            initialisation="none",
            split=describe_split(
                "fitted on all patients", "nested cross-validation by patient with the same recipe", metrics
            ),
            metrics=metrics,
            constructed=constructed,
        )

    def load(self, folder: Path, card: RadiologyCard) -> CombinedModel:
        """Read the fitted model of a bundle."""
        state = read_bundle_state(folder, card)
        fitted = card.fitted
        signature = None
        if fitted["columns"]:
            arrays = {k: v.double().numpy() for k, v in state.items()}
            signature = Signature(
                settings=self.signature,
                columns=tuple(fitted["columns"]),
                median=arrays["median"],
                centre=arrays["centre"],
                scale=arrays["scale"],
                classifier=FrozenClassifier.from_arrays(fitted["classifier"], arrays),
            )
        centre, scale = fitted["score"]
        return CombinedModel(
            signature,
            centre,
            scale,
            tuple(fitted["clinical"]),
            dict(fitted["fill"]),
            Nomogram.model_validate(fitted["nomogram"]),
        )

    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Predict one patient with the nomogram and draw it; see :meth:`Recipe.predict`."""
        model = self.load(folder, card)
        cohort = clinical_row(case, model.clinical)
        table = self.table(cohort, device=device)
        clinical = self.with_columns(model.clinical).clinical(cohort)[list(model.clinical)]
        notes = stand_ins(case.patient_id, "clinical value", first_row(clinical), model.fill)
        if model.signature is not None:
            medians = dict(zip(model.signature.columns, model.signature.median.tolist(), strict=True))
            notes += stand_ins(case.patient_id, "image feature", first_row(table[list(medians)]), medians)
        values = model.values(table, clinical)[0]
        total = model.nomogram.total(values)
        out.mkdir(parents=True, exist_ok=True)
        draw_nomogram(model.nomogram, title=f"{card.title}").savefig(out / "nomogram.png", dpi=110)
        return {
            "probability": model.nomogram.probability(total),
            "of": self.classes[1],
            "total_points": total,
            "points": {t.name: model.nomogram.points(t, values[t.name]) for t in model.nomogram.terms},
            "values": values,
            "notes": list(notes),
            "files": ["nomogram.png"],
        }


def first_row(table: pd.DataFrame) -> dict[str, float]:
    """Return the first row of a table of numbers by column."""
    return {str(name): float(value) for name, value in table.iloc[0].items()}
