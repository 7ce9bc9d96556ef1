"""How much skill a published selection rule finds where there is none.

    python scripts/measure_published_rule.py OUT.json

Bhambhvani 2021 chooses the epoch by the AUC on the test fold and starts a fold afresh until that AUC reaches 0.85.
Here the labels are coin tosses: an honest evaluation must say 0.5.  Three figures are measured on the same networks and
data: the published rule, the same training without a look at the test fold, and this package's model under nested
cross-validation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pathology.survival.bhambhvani import BhambhvaniSettings, published_rule
from pathology.survival.covariates import CovariateSettings
from pathology.survival.crossvalidation import Candidate, CrossValidationSettings, cross_validate, score_predictions
from pathology.survival.outcome import Outcome
from pathology.training.statistics import mean_interval

PATIENTS = 201  # as many as the published data keep after dropping
EPOCHS = 150
HORIZON = 60 * 365.25 / 12


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-sets", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    reported, honest, ours, restarts = [], [], [], []
    for seed in range(options.data_sets):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(PATIENTS, 9))
        survived = rng.random(PATIENTS) < 0.5
        months = np.where(survived, rng.uniform(60, 180, PATIENTS), rng.uniform(1, 60, PATIENTS))
        found = published_rule(x, months, survived, settings=BhambhvaniSettings(epochs=EPOCHS), seed=seed)
        reported.append(float(np.mean(found.reported)))
        honest.append(float(np.mean(found.honest)))
        restarts.append(int(sum(found.restarts)))
        table = pd.DataFrame(x, columns=[f"x{i}" for i in range(9)])
        result = cross_validate(
            table,
            Outcome(months * 365.25 / 12, ~survived),
            CovariateSettings(numeric=tuple(table.columns)),
            {"ours": [Candidate(kind="bhambhvani", settings={"epochs": EPOCHS, "patience": 40})]},
            [HORIZON],
            CrossValidationSettings(seed=seed, resamples=200),
        )
        ours.append(score_predictions(result, "ours").auc[f"{HORIZON:g}"].value)
        print(
            f"data set {seed}: published {reported[-1]:.3f}, last epoch {honest[-1]:.3f}, ours {ours[-1]:.3f}",
            flush=True,
        )
    summary = {
        "patients": PATIENTS,
        "data_sets": options.data_sets,
        "epochs": EPOCHS,
        "restarts": restarts,
        **{
            name: {"each": values, "mean": str(mean_interval(values))}
            for name, values in (("published", reported), ("last_epoch", honest), ("ours", ours))
        },
    }
    options.out.write_text(json.dumps(summary, indent=1))
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
