"""Searching only where a classifier's map calls tissue tumour."""

import numpy as np
import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.errors import StoreError, UsageError
from pathology.outputs.figures.heatmap import build_heatmap
from pathology.outputs.results.detection_file import read_detections
from pathology.outputs.results.predictions import read_heatmap
from pathology.outputs.results.record import read_slide_record, write_slide_record
from pathology.scoring.batch import score
from pathology.scoring.region import _where as where
from pathology.scoring.region import region_mask, within
from pathology.settings import RegionSettings, ScoreSettings
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.random_detector import write_random_detector
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


def test_cells_of_the_map_become_places_of_the_slide():
    # Two patches of 100 pixels side by side, the third unknown; classes a, b, c.
    heatmap = build_heatmap(
        np.array([[0, 0], [100, 0]]),
        np.array([[0.2, 0.35, 0.45], [0.1, 0.3, 0.6]], np.float32),
        np.ones(2, np.float32),
        classes=("a", "b", "c"),
        extent=100.0,
        stride=100.0,
    )
    asked = RegionSettings(results="r", classes=("a", "b"))
    mask = where(heatmap, asked, (5, 15), (300, 100))
    expected = np.zeros((5, 15), bool)
    expected[:, :5] = True  # 0.55 in the first patch, 0.4 in the second, nothing known of the third
    np.testing.assert_array_equal(mask, expected)
    assert where(heatmap, asked.model_copy(update={"threshold": 0.4}), (5, 15), (300, 100))[:, :10].all()
    with pytest.raises(UsageError, match="unknown class"):
        where(heatmap, RegionSettings(results="r", classes=("tumour",)), (5, 15), (300, 100))


def test_points_within_a_mask():
    mask = np.array([[True, False], [False, False]])
    inside = within(np.array([[0, 0], [49.9, 24.9], [50, 0], [0, 25], [100, 50]]), mask, (100, 50))
    assert inside.tolist() == [True, True, False, False, False]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    picture = TissuePicture(1200, 900, seed=3, tissue=0.9)
    return write_svs(tmp_path_factory.mktemp("slides") / "one.svs", picture, factors=(1,), mpp=0.25)


@pytest.fixture(scope="module")
def classified(slide, tmp_path_factory):
    folder = write_random_bundle(tmp_path_factory.mktemp("models") / "random-densenet", patch=64, mpp=0.5)
    out = tmp_path_factory.mktemp("classified")
    result = score(slide, load_bundle(folder).directory, out, engine="torch", device="cpu")
    assert result.slides[0].status == "scored", result.slides[0].error
    return out


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return load_bundle(write_random_detector(tmp_path_factory.mktemp("models") / "random-detector")).directory


def halving(classified):
    """A class and a threshold that call about half of the map tumour."""
    heatmap, _ = read_heatmap(classified / "slides" / "one")
    name = heatmap.classes[0]
    return RegionSettings(
        results=str(classified), classes=(name,), threshold=float(np.nanmedian(heatmap.probability(name)))
    )


def test_only_the_region_is_searched_and_counted(slide, classified, detector, tmp_path):
    region = halving(classified)
    everywhere = score(slide, detector, tmp_path / "all", engine="torch", device="cpu").slides[0]
    there = score(
        slide, detector, tmp_path / "there", engine="torch", device="cpu", settings=ScoreSettings(region=region)
    ).slides[0]
    assert there.status == "scored", there.error
    assert 0.2 < there.tissue_mm2 / everywhere.tissue_mm2 < 0.8
    assert any("Searched only the tumour region of the given map" in warning for warning in there.warnings)
    found = read_detections(tmp_path / "there" / "slides" / "one")
    every = read_detections(tmp_path / "all" / "slides" / "one")
    _, searched = read_heatmap(tmp_path / "there" / "slides" / "one")
    inside = within(every.found.centres, searched, (1200, 900))
    assert 0 < inside.sum() < len(every)
    # The same detections, less those elsewhere.
    np.testing.assert_array_equal(found.found.boxes, every.found.boxes[inside])
    count = there.mitoses
    assert count.overall_per_mm2 == pytest.approx(count.total / there.tissue_mm2)


def test_another_map_makes_an_earlier_result_invalid(slide, classified, detector, tmp_path):
    settings = ScoreSettings(region=halving(classified))
    first = score(slide, detector, tmp_path, engine="torch", device="cpu", settings=settings)
    assert score(slide, detector, tmp_path, engine="torch", device="cpu", settings=settings).unchanged == 1
    folder = classified / "slides" / "one"
    kept = (folder / "slide.json").read_text()
    stored = read_slide_record(folder)
    try:
        other = stored.result.model_copy(update={"key": "0" * 32})
        write_slide_record(folder, other, [folder / name for name in stored.files])
        again = score(slide, detector, tmp_path, engine="torch", device="cpu", settings=settings)
    finally:
        (folder / "slide.json").write_text(kept)
    assert again.unchanged == 0
    assert again.slides[0].key != first.slides[0].key


def test_maps_that_do_not_fit_are_refused(slide, classified, detector, tmp_path):
    with pytest.raises(StoreError, match="not a results folder"):
        score(
            slide, detector, tmp_path / "a", settings=ScoreSettings(region=RegionSettings(results="x", classes=("a",)))
        )
    asked = RegionSettings(results=str(classified), classes=("no such class",))
    failed = score(slide, detector, tmp_path / "b", engine="torch", device="cpu", settings=ScoreSettings(region=asked))
    assert failed.slides[0].status == "failed"
    assert "no such class" in failed.slides[0].error
    asked = halving(classified)
    with pytest.raises(StoreError, match="another file"):
        region_mask(asked, "one", "another fingerprint", (10, 10), (1200, 900))
    with pytest.raises(StoreError, match="no result for this slide"):
        region_mask(asked, "two", "f", (10, 10), (1200, 900))
