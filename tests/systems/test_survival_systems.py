"""The survival systems and MethylationToActivity compose what they say."""

import numpy as np
import pandas as pd
import pytest

from pathology.survival.crossvalidation import CrossValidationSettings, cross_validate, score_predictions
from pathology.survival.models.bhambhvani import BhambhvaniNetwork
from pathology.survival.outcome import Outcome
from pathology.systems.survival import bhambhvani_2021, han_2018, ryu_2020, williams_2021


@pytest.mark.parametrize("system", [bhambhvani_2021, han_2018, ryu_2020])
def test_candidates_can_be_made(system):
    for candidates in system.candidates().values():
        for candidate in candidates:
            assert candidate.make().kind == candidate.kind


def test_parameters_are_those_of_the_networks():
    assert sum(p.numel() for p in BhambhvaniNetwork().parameters()) == bhambhvani_2021.SYSTEM.parameters
    from pathology.omics.activity import ActivityNetwork

    assert sum(p.numel() for p in ActivityNetwork().parameters()) == williams_2021.SYSTEM.parameters


def test_red_snn_runs_as_a_system():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(size=80), "site": rng.choice(["a", "b"], 80)})
    table.loc[::9, "age"] = np.nan
    outcome = Outcome(rng.exponential(900, 80), rng.random(80) < 0.6)
    spec = ryu_2020.covariates(("age",), ("site",))
    assert spec.imputation == "knn"
    quick = {
        name: [c.model_copy(update={"settings": {"epochs": 3}}) if c.kind != "cox" else c for c in candidates]
        for name, candidates in ryu_2020.candidates().items()
    }
    settings = CrossValidationSettings(outer=2, inner=2, resamples=100)
    result = cross_validate(table, outcome, spec, quick, [300.0, 600.0], settings)
    assert {name: score_predictions(result, name).patients for name in quick} == dict.fromkeys(quick, 80)


def test_methylation_to_activity_runs_from_files(tmp_path, write_keras_weights):
    rng = np.random.default_rng(0)
    write_keras_weights(tmp_path / "w.h5")
    calls = pd.DataFrame({"chrom": "chr1", "pos": np.arange(1000, 90_000, 37), "mval": 0.0})
    calls["mval"] = rng.normal(size=len(calls)).round(3)
    calls.to_csv(tmp_path / "calls.tsv", sep="\t", index=False)
    promoters = pd.DataFrame(
        {
            "EnsmblID_T": ["t1", "t2"],
            "Strand": ["+", "-"],
            "Chr": "chr1",
            "Start": [40_000, 20_000],
            "End": [50_000, 60_000],
        }
    )
    promoters.to_csv(tmp_path / "promoters.tsv", sep="\t", index=False)
    found = williams_2021.run(tmp_path / "calls.tsv", tmp_path / "promoters.tsv", tmp_path / "w.h5")
    assert found["EnsmblID_T"].tolist() == ["t1", "t2"]
    assert np.isfinite(found["enrichment"]).all()
    assert found["enrichment"].nunique() == 2
