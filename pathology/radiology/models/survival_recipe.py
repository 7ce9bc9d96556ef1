"""Recipe of systems that predict survival from images and clinical data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from pathology.bundle.card import Metric
from pathology.radiology.features.survival_signature import (
    SurvivalCombined,
    SurvivalSignature,
    SurvivalSignatureSettings,
    fit_survival_combined,
    nested_risks,
)
from pathology.radiology.io.clinical import clinical_row, stand_ins
from pathology.radiology.io.cohort import Case, Cohort
from pathology.radiology.models.bundle import CardText, RadiologyCard, read_bundle_state, save_radiology_bundle
from pathology.radiology.models.recipe import NOT_MEASURED, Progress, Recipe, as_metric, describe_split
from pathology.radiology.models.signature_recipe import SignatureRecipe, first_row
from pathology.stats.bootstrap import bootstrap
from pathology.stats.nomogram import draw_nomogram
from pathology.survival.groups import RiskGroups
from pathology.survival.metrics import harrell_c, integrated_brier_score
from pathology.survival.models.cox import CoxModel, CoxSettings
from pathology.survival.outcome import Outcome

__all__ = ["SurvivalRecipe"]


class SurvivalRecipe(Recipe):
    """Radiomics, deep features and clinical data for a time to an event."""

    kind: ClassVar[str] = "survival-signature"

    measuring: SignatureRecipe
    """Sequences, features and clinical columns; its label, classes and signature are not used."""
    time: str
    """Clinical column with the time to the event or to last follow-up."""
    event: str
    """Clinical event column: 1 observed, 0 censored."""
    unit: str = "days"
    """Unit of the time."""
    horizons: dict[str, float] = Field(default_factory=lambda: {"1 year": 365.0, "2 years": 730.0, "3 years": 1095.0})
    """Times at which the nomogram gives a probability."""
    outcome: Annotated[str, Field(min_length=1)] = "event"
    """What the event is."""
    signature: SurvivalSignatureSettings = SurvivalSignatureSettings()
    """Signature settings."""

    def follow_up(self, cohort: Cohort) -> Outcome:
        """Return the outcome of the cohort's patients, in its order."""
        patients = list(cohort.patients)
        time = pd.to_numeric(cohort.column(self.time)[patients]).to_numpy(float)
        return Outcome(time, cohort.column(self.event)[patients].to_numpy())

    def patients(self, cohort: Cohort) -> Cohort:
        """Keep the patients with images and a follow-up."""
        return cohort.having(self.measuring.sequences, self.time).having(self.measuring.sequences, self.event)

    def risk_groups(self, card: RadiologyCard) -> RiskGroups:
        """Return low, medium and high risk, cut at the thirds of the training patients."""
        return RiskGroups.model_validate(card.fitted["risk_groups"])

    def clinical_columns(self, card: RadiologyCard) -> tuple[str, ...]:
        """Return the clinical columns of the fitted Cox model; see :meth:`Recipe.clinical_columns`."""
        return tuple(card.fitted["fill"])

    def evaluate(
        self, cohort: Cohort, *, folds: int = 5, seed: int = 0, device: str = "cpu", progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate by patient-level nested cross-validation; see :meth:`Recipe.evaluate`."""
        chosen = self.patients(cohort)
        table = self.measuring.table(chosen, device=device, progress=progress)
        return self.evaluate_table(table, chosen, folds=folds, seed=seed, progress=progress)

    def evaluate_table(
        self, table: pd.DataFrame, cohort: Cohort, *, folds: int = 5, seed: int = 0, progress: Progress | None = None
    ) -> tuple[Metric, ...]:
        """Evaluate on a precomputed table: clinical data alone, images alone, and both."""
        outcome, clinical = self.follow_up(cohort), self.measuring.clinical(cohort)
        table = table.loc[list(cohort.patients)]
        parts: dict[str, tuple[pd.DataFrame | None, pd.DataFrame]] = {"images": (table, clinical.iloc[:, :0])}
        if clinical.shape[1]:
            parts = {"clinical data alone": (None, clinical), **parts, "combined": (table, clinical)}
        seen = outcome.time[outcome.event]
        grid = [float(v) for v in np.quantile(seen, np.linspace(0.1, 0.9, 9))]
        metrics = []
        for number, (name, (features, covariates)) in enumerate(parts.items()):
            risk, survival, divisions = nested_risks(
                features,
                covariates,
                outcome,
                cohort.patients,
                self.signature,
                folds=folds,
                seed=seed,
                times=tuple(sorted(set(grid))),
            )
            data = (
                f"{len(outcome)} patients, {outcome.events} events ({self.outcome}), nested {folds}-fold "
                f"cross-validation by patient, {name}"
            )

            def concordance(rows: NDArray[np.int64], risk: NDArray[np.float64] = risk) -> float:
                return harrell_c(outcome.take(rows), risk[rows])

            metrics.append(
                as_metric(
                    f"concordance index, {name}",
                    bootstrap(concordance, cohort.patients, seed=seed),
                    unit="patients",
                    data=data,
                )
            )
            times = sorted(set(grid))
            brier = float(
                np.mean(
                    [
                        integrated_brier_score(outcome.take(f.train), outcome.take(f.test), survival[f.test], times)
                        for f in divisions
                        if outcome.take(f.test).time.max() > times[-1]
                    ]
                    or [np.nan]
                )
            )
            if np.isfinite(brier):
                metrics.append(
                    Metric(
                        metric=f"integrated Brier score, {name}",
                        value=None,
                        interval=None,
                        method="none",
                        n=len(outcome),
                        unit="patients",
                        data=data,
                        note=f"mean over folds {brier:.3f}; folds are too small for an interval",
                    )
                )
            if progress is not None:
                progress("nested cross-validation", number + 1, len(parts))
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
        chosen = self.patients(cohort)
        table = self.measuring.table(chosen, device=device, progress=progress)
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
        """Fit on a precomputed feature table and write a bundle; see :meth:`SignatureRecipe.train_table`."""
        import torch

        self.measuring.check_table(table, cohort, device=device)
        chosen, table = cohort, table.loc[list(cohort.patients)]
        settings = self.signature.model_copy(update={"seed": seed})
        clinical = self.measuring.clinical(chosen)
        model = fit_survival_combined(table, clinical, self.follow_up(chosen), chosen.patients, settings)
        assert model.signature is not None
        learnt, arrays = model.model.state()
        stored = {f"cox.{k}": v for k, v in arrays.items()} | {
            "signature.median": model.signature.median,
            "signature.centre": model.signature.centre,
            "signature.scale": model.signature.scale,
            "signature.coefficients": model.signature.coefficients,
            "centre": model.centre,
        }
        state = {k: torch.from_numpy(np.array(v, np.float64)) for k, v in stored.items()}
        return save_radiology_bundle(
            folder,
            state,
            **text.model_dump(),
            system=system,
            recipe=self.kind,
            recipe_settings=self.model_dump(mode="json"),
            architecture="signature",
            parameters=len(model.signature.columns) + len(model.ranges),
            classes=(self.outcome,),
            fitted={
                "columns": list(model.signature.columns),
                "penalty": model.signature.penalty,
                "score": [model.score_centre, model.score_scale],
                "fill": model.fill,
                "ranges": [list(r) for r in model.ranges],
                "cox": learnt,
                "risk_groups": RiskGroups.cut(model.risk(table, clinical), 3).model_dump(mode="json"),
            },
            initialisation="none",
            split=describe_split(
                "fitted on all patients", "nested cross-validation by patient with the same recipe", metrics
            ),
            metrics=metrics,
            constructed=constructed,
        )

    def load(self, folder: Path, card: RadiologyCard) -> SurvivalCombined:
        """Read the fitted model of a bundle."""
        arrays = {k: v.double().numpy() for k, v in read_bundle_state(folder, card).items()}
        fitted = card.fitted
        cox = CoxModel(CoxSettings(penalty=self.signature.nomogram_penalty))
        cox.restore(fitted["cox"], {k.removeprefix("cox."): v for k, v in arrays.items() if k.startswith("cox.")})
        signature = SurvivalSignature(
            tuple(fitted["columns"]),
            arrays["signature.median"],
            arrays["signature.centre"],
            arrays["signature.scale"],
            arrays["signature.coefficients"],
            float(fitted["penalty"]),
        )
        centre, scale = fitted["score"]
        ranges = tuple((str(n), float(a), float(b)) for n, a, b in fitted["ranges"])
        return SurvivalCombined(signature, centre, scale, dict(fitted["fill"]), cox, arrays["centre"], ranges)

    def predict(
        self, folder: Path, card: RadiologyCard, case: Case, out: Path, *, device: str = "cpu"
    ) -> dict[str, Any]:
        """Read one patient's risk off the Cox nomogram; draws it.  See :meth:`SignatureRecipe.predict`."""
        model = self.load(folder, card)
        used = list(model.fill)
        cohort = clinical_row(case, used)
        table = self.measuring.table(cohort, device=device)
        clinical = self.measuring.with_columns(used).clinical(cohort)[used]
        notes = stand_ins(case.patient_id, "clinical value", first_row(clinical), model.fill)
        if model.signature is not None:
            medians = dict(zip(model.signature.columns, model.signature.median.tolist(), strict=True))
            notes += stand_ins(case.patient_id, "image feature", first_row(table[list(medians)]), medians)
        nomogram = model.nomogram(self.horizons, outcome=self.outcome)
        row = model.matrix(table, clinical)[0]
        values = {name: float(v) for (name, _, _), v in zip(model.ranges, row, strict=True)}
        total = nomogram.total(values)
        out.mkdir(parents=True, exist_ok=True)
        draw_nomogram(nomogram, title=card.title).savefig(out / "nomogram.png", dpi=110)
        risk = float(model.risk(table, clinical)[0])
        return {
            "risk": risk,
            "risk_group": self.risk_groups(card).assign([risk])[0],
            "probability": {t: nomogram.probability(total, t) for t in self.horizons},
            "of": self.outcome,
            "total_points": total,
            "values": values,
            "notes": list(notes),
            "files": ["nomogram.png"],
        }
