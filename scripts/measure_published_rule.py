"""Measure the apparent skill that a published selection rule finds in pure noise.

    python scripts/measure_published_rule.py OUT.json

Bhambhvani 2021 chooses the epoch by the AUC on the test fold and restarts a fold until that AUC reaches 0.85.
Here the labels are random: an unbiased evaluation must give 0.5.  Three evaluations are compared on the same networks
and data: the published rule, the same training without access to the test fold, and this package's model under nested
cross-validation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pathology.stats.intervals import mean_interval
from pathology.survival.covariates import CovariateSettings
from pathology.survival.crossvalidation import Candidate, CrossValidationSettings, cross_validate, score_predictions
from pathology.survival.models.bhambhvani import BhambhvaniSettings, published_rule
from pathology.survival.outcome import Outcome

PATIENTS = 201  # the number left in the published data after exclusions
EPOCHS = 150
HORIZON = 60 * 365.25 / 12


def measure(seed: int) -> dict[str, float]:
    """Return the three mean AUCs on one dataset with random labels, and the number of restarts."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(PATIENTS, 9))
    survived = rng.random(PATIENTS) < 0.5
    months = np.where(survived, rng.uniform(60, 180, PATIENTS), rng.uniform(1, 60, PATIENTS))
    found = published_rule(x, months, survived, settings=BhambhvaniSettings(epochs=EPOCHS), seed=seed)
    table = pd.DataFrame(x, columns=[f"x{i}" for i in range(9)])
    result = cross_validate(
        table,
        Outcome(months * 365.25 / 12, ~survived),
        CovariateSettings(numeric=tuple(table.columns)),
        {"ours": [Candidate(kind="bhambhvani", settings={"epochs": EPOCHS, "patience": 40})]},
        [HORIZON],
        CrossValidationSettings(seed=seed, resamples=200),
    )
    return {
        "seed": seed,
        "published": float(np.mean(found.reported)),
        "last_epoch": float(np.mean(found.honest)),
        "ours": score_predictions(result, "ours").auc[f"{HORIZON:g}"].value,
        "restarts": int(sum(found.restarts)),
    }


def main() -> None:
    """Run from the command line; datasets already in OUT.json are skipped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-sets", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    each = json.loads(options.out.read_text())["each"] if options.out.exists() else []
    for seed in range(options.data_sets):
        if seed in [one["seed"] for one in each]:
            continue
        each.append(measure(seed))
        print(json.dumps(each[-1]), flush=True)
        names = ("published", "last_epoch", "ours")
        means = {name: str(mean_interval([one[name] for one in each])) for name in names} if len(each) > 1 else {}
        summary = {"patients": PATIENTS, "epochs": EPOCHS, "each": each, "means": means}
        options.out.write_text(json.dumps(summary, indent=1))
    print(json.dumps(json.loads(options.out.read_text())["means"], indent=1))


if __name__ == "__main__":
    main()
