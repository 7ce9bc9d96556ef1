"""Compare survival models on a clinical table by nested cross-validation.

    python scripts/evaluate_survival.py tcga_sarc_clinical.csv OUT [--record pathology/systems/measured]

The table is that of TCGA-SARC with the curated outcomes of Liu et al. 2018 (Cell 173:400); times are in days.
For each outcome (overall, disease-specific and progression-free survival) every model uses the same patients, the same
covariates and the same folds.  Writes to OUT: ``scores.json``, ``scores.csv`` and the out-of-fold predictions.
``--record`` also writes overall survival to the files that ``pathology systems`` shows.
Research use only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pathology.survival.covariates import CovariateSettings, read_outcome_columns
from pathology.survival.crossvalidation import (
    Candidate,
    CrossValidationSettings,
    cross_validate,
    score_predictions,
)
from pathology.systems.own_metrics import OwnMetric, record_own_metrics

# Known at diagnosis or resection.  Later treatment is excluded: patients who live longer receive more of it.
COVARIATES = CovariateSettings(
    numeric=("age", "size_cm"),
    categorical=(
        "gender",
        "histological_type",
        "site",
        "tumor_depth",
        "multifocal",
        "residual",
        "metastatic_at_diagnosis",
        "necrosis_category",
    ),
    imputation="knn",
    min_patients=10,
)
OUTCOMES = ("OS", "DSS", "PFI")
YEARS = (1.0, 2.0, 3.0, 5.0)
MODELS = {
    "Cox": [Candidate(kind="cox")],
    "penalised Cox": [
        Candidate(kind="cox", settings={"penalty": penalty, "l1_ratio": l1})
        for penalty in (0.02, 0.1, 0.5)
        for l1 in (0.0, 0.5)
    ],
    "DeepSurv": [
        Candidate(kind="deepsurv", settings={"hidden": hidden, "weight_decay": decay})
        for hidden in ((16,), (32, 16))
        for decay in (0.1, 1.0)
    ],
    "discrete hazards": [Candidate(kind="discrete", settings={"hidden": hidden}) for hidden in ((16,), (32, 16))],
    "DeepHit": [Candidate(kind="deephit", settings={"alpha": alpha}) for alpha in (0.2, 0.5, 0.8)],
    "RED_SNN": [Candidate(kind="red_snn")],
    "Bhambhvani": [Candidate(kind="bhambhvani", settings={"epochs": 600, "patience": 40})],
}


RECORDED = {
    "han-2018": (("RED_SNN", "C-index"), ("Cox", "C-index")),
    "ryu-2020": (("RED_SNN", "C-index"), ("RED_SNN", "AUC at 5 years"), ("Cox", "C-index")),
    "bhambhvani-2021": (("Bhambhvani", "AUC at 5 years"), ("Cox", "AUC at 5 years")),
}
"""Models whose metrics are recorded in each system's file."""


def record_scores(scores: Sequence[Mapping[str, Any]], repeats: int, folder: Path) -> list[Path]:
    """Write the scores of overall survival to the systems' files; return them."""
    by_model = {score["model"]: score for score in scores if score["outcome"] == "OS"}
    data = f"TCGA-SARC, overall survival; nested cross-validation, 5 folds x {repeats}"
    written = []
    for system, wanted in RECORDED.items():
        own = []
        for model, metric in wanted:
            if model in by_model:
                score = by_model[model]
                found = score["harrell"] if metric == "C-index" else score["auc"][f"{5 * 365.25:g}"]
                name = metric if model == "Bhambhvani" else f"{metric}, {model}"
                own.append(
                    OwnMetric(
                        metric=name,
                        value=round(found["value"], 3),
                        interval=(round(found["low"], 3), round(found["high"], 3)),
                        n=score["patients"],
                        unit="patients",
                        data=data,
                    )
                )
        if own:
            written.append(record_own_metrics(system, "scripts/evaluate_survival.py", own, folder))
    return written


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--outcomes", nargs="+", default=list(OUTCOMES))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="also update the systems' files here: pathology/systems/measured",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)

    table = pd.read_csv(options.table)
    rows, scores = [], []
    for name in options.outcomes:
        outcome, kept = read_outcome_columns(table, f"{name}.time", name)
        started = time.perf_counter()
        result = cross_validate(
            table.iloc[kept],
            outcome,
            COVARIATES,
            {model: MODELS[model] for model in options.models},
            [365.25 * year for year in YEARS],
            CrossValidationSettings(repeats=options.repeats, seed=options.seed),
            progress=lambda line, name=name: print(name, line, flush=True),
        )
        for model, folds in result.predictions.items():
            score = score_predictions(result, model)
            scores.append({"outcome": name, **score.model_dump(mode="json")})
            print(name, model, "C", score.harrell, "IBS", score.integrated_brier, flush=True)
            for fold in folds:
                for i, row in enumerate(fold.fold.test):
                    rows.append(
                        {
                            "outcome": name,
                            "model": model,
                            "patient": table["patient"].iloc[kept[row]],
                            "repeat": fold.fold.repeat,
                            "fold": fold.fold.index,
                            "time": outcome.time[row],
                            "event": int(outcome.event[row]),
                            "risk": fold.risk[i],
                            "group": fold.groups[i],
                            **{f"survival_{year:g}y": fold.survival[i, j] for j, year in enumerate(YEARS)},
                        }
                    )
        print(f"{name}: {len(outcome)} patients, {outcome.events} events, {time.perf_counter() - started:.0f} s")
        (options.out / "scores.json").write_text(json.dumps(scores, indent=1))
        pd.DataFrame(rows).to_csv(options.out / "predictions.csv", index=False)
    flat = [
        {
            "outcome": s["outcome"],
            "model": s["model"],
            "patients": s["patients"],
            "events": s["events"],
            **{
                f"{key}{end}": np.round(figure[part], 3)
                for key, figure in (
                    ("harrell", s["harrell"]),
                    ("uno", s["uno"]),
                    ("ibs", s["integrated_brier"]),
                    *((f"auc_{float(t) / 365.25:.0f}y", auc) for t, auc in s["auc"].items()),
                )
                for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
            },
        }
        for s in scores
    ]
    pd.DataFrame(flat).to_csv(options.out / "scores.csv", index=False)
    if options.record is not None:
        record_scores(scores, options.repeats, options.record)


if __name__ == "__main__":
    main()
