"""Scoring with a model that may decline: from the slide file to every page that speaks of it."""

import html
import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
import zarr

from pathology.bundle.catalogue import load_bundle
from pathology.errors import BundleError
from pathology.scoring.aggregate import aggregate_outputs, needs_features
from pathology.scoring.batch import score
from pathology.settings import ScoreSettings
from pathology.testing.constructed_slides import construct_slide, drawn_tiles
from pathology.testing.random_bundle import (
    add_random_trust,
    reference_features,
    reference_probabilities,
    write_random_bundle,
)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    tiles = drawn_tiles(("a", "b"), 1, side=128)
    path = tmp_path_factory.mktemp("slides") / "drawn.tiff"
    return construct_slide(path, tiles, patient="patient-01", shares={"a": 1}, rows=4, columns=5, cell=128, margin=64)


def model(folder, **trust):
    write_random_bundle(folder, mpp=1.0)
    add_random_trust(folder, **trust)
    return folder


@pytest.mark.parametrize(
    ("trust", "aggregator", "said"),
    [
        ({"limit": 0.001, "threshold": 0.9}, "mean", "outside this model's training domain"),
        (
            {"limit": 1e9, "threshold": 0.0, "aggregators": ("attention",)},
            "attention",
            "inconclusive: no class is probable enough",
        ),
    ],
)
def test_a_slide_without_an_answer(slide, tmp_path, trust, aggregator, said):
    folder = model(tmp_path / "model", **trust)
    if aggregator != "mean":
        card = yaml.safe_load((folder / "card.yaml").read_text())
        card["trust"]["aggregator"] = aggregator
        (folder / "card.yaml").write_text(yaml.safe_dump(card))
    settings = ScoreSettings(aggregator=aggregator)
    out = tmp_path / "out"
    (result,) = score(slide.path, folder, out, settings=settings, engine="torch", device="cpu").slides
    assert result.abstained
    assert result.answer.startswith(said)
    row = pd.read_csv(out / "results.csv").iloc[0]
    assert row["status"] == "abstained"
    assert pd.isna(row["prediction"])
    assert row["most_probable_class"] == result.most_probable_class
    assert row["abstained_because"].startswith(said)
    assert bool(row["out_of_domain"]) == said.startswith("outside")
    assert row["domain_score"] == pytest.approx(result.domain_score)
    assert row["prediction_set"] == "none" or said.startswith("outside")
    record = json.loads((out / "slides" / "drawn" / "slide.json").read_text())
    assert record["out_of_domain"] == said.startswith("outside")
    for page in (out / "index.html", out / "slides" / "drawn" / "report.html"):
        assert said[1:] in html.unescape(page.read_text(encoding="utf-8"))
    scores = zarr.open_group(out / "slides" / "drawn" / "predictions.zarr", mode="r")["domain_score"][...]
    assert np.median(scores) == pytest.approx(result.domain_score, rel=1e-5)


def test_aggregators(tmp_path):
    bundle = load_bundle(model(tmp_path / "model", limit=1e9, threshold=0.9, aggregators=("attention", "transformer")))
    random = np.random.default_rng(0)
    patches = random.integers(0, 255, (12, 64, 64, 3)).astype(np.uint8)
    outputs = np.concatenate(
        [reference_probabilities(bundle, patches), np.ones((12, 1)), reference_features(bundle, patches)], axis=1
    ).astype(np.float32)
    outputs[3] = np.nan
    plain = {}
    for aggregator in ("mean", "share", "majority", "top", "attention", "transformer"):
        given = outputs if needs_features(aggregator) else outputs[:, :4]
        answer = aggregate_outputs(bundle, given, aggregator)
        np.testing.assert_array_equal(answer.probabilities, outputs[:, :3])
        np.testing.assert_array_equal(answer.domain_scores, outputs[:, 3])
        if aggregator == "mean":
            assert answer.of_slide is None
            continue
        plain[aggregator] = answer.of_slide
        assert answer.of_slide.sum() == pytest.approx(1, abs=1e-6)
        assert (answer.attention is not None) == needs_features(aggregator)
        if answer.attention is not None:
            assert np.isnan(answer.attention[3])
            assert np.nansum(answer.attention) == pytest.approx(1, abs=1e-5)
            with torch.inference_mode():
                direct = bundle.aggregator(aggregator)(torch.from_numpy(np.delete(outputs, 3, axis=0)[:, 4:]))
            np.testing.assert_allclose(answer.of_slide, torch.softmax(direct.logits, 0), atol=1e-6)
    assert len({round(float(p[0]), 6) for p in plain.values()}) >= 4


def test_an_aggregator_the_model_has_not(slide, tmp_path):
    with pytest.raises(BundleError, match="has no aggregator 'attention'"):
        score(
            slide.path,
            write_random_bundle(tmp_path / "plain"),
            tmp_path / "out",
            settings=ScoreSettings(aggregator="attention"),
        )
    assert not (tmp_path / "out").exists()
