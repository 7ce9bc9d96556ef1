"""Features of slides, computed once and kept."""

import numpy as np
import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.errors import StoreError
from pathology.scoring.features import extract_features, read_features
from pathology.slide.open import open_reader
from pathology.testing.constructed_slides import construct_slide, drawn_tiles
from pathology.testing.random_bundle import (
    add_random_trust,
    reference_features,
    reference_probabilities,
    write_random_bundle,
)


def test_features_are_the_networks_and_are_kept(tmp_path):
    slide = construct_slide(
        tmp_path / "slides" / "s.tiff",
        drawn_tiles(("a",), 1, side=128),
        patient="patient-01",
        shares={"a": 1},
        rows=2,
        columns=3,
        cell=128,
        margin=64,
    )
    folder = write_random_bundle(tmp_path / "model", mpp=1.0)
    add_random_trust(folder, limit=2.0)
    done = []
    stores = extract_features(
        [slide.path], folder, tmp_path / "features", engine="torch", device="cpu", progress=done.append
    )
    assert done == ["s"]
    found = read_features(stores["s"])
    bundle = load_bundle(folder)
    with open_reader(slide.path) as reader:
        patches = np.stack([reader.read(0, int(x), int(y), 64, 64) for x, y in found.coords[:6]])
    np.testing.assert_allclose(found.probabilities[:6], reference_probabilities(bundle, patches), atol=0.03)
    expected = reference_features(bundle, patches)
    np.testing.assert_allclose(found.features[:6], expected, atol=0.05 * np.abs(expected).max())
    before = (stores["s"] / "zarr.json").stat().st_mtime_ns
    extract_features([slide.path], folder, tmp_path / "features", engine="torch", device="cpu")
    assert (stores["s"] / "zarr.json").stat().st_mtime_ns == before
    extract_features([slide.path], folder, tmp_path / "features", engine="torch", device="cpu", stride=32)
    assert len(read_features(stores["s"]).coords) > len(found.coords)


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match="no features"):
        read_features(tmp_path / "none.zarr")
