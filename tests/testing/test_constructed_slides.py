"""Constructed slides: what the file shows is what the truth says."""

import csv

import numpy as np
import pytest

from pathology.errors import UsageError
from pathology.slide.open import find_slides, open_reader
from pathology.testing.constructed_slides import construct_cohort, construct_slide, drawn_tiles, read_truth
from pathology.training.tile_classifier.osteosarcoma import read_osteosarcoma


@pytest.fixture(scope="module")
def tiles():
    return drawn_tiles(("sarcoma", "carcinoma", "stroma"), 2, side=128, background=True)


def test_pixels_lie_where_the_map_says(tiles, tmp_path):
    # Flat tiles: a class can be read off a pixel.
    flat = tiles.pixels.copy()
    for k, value in enumerate((60, 120, 180)):
        flat[tiles.labels == k] = value
    plain = type(tiles)(flat, tiles.labels, tiles.classes, tiles.patients, tiles.slides, tiles.names)
    slide = construct_slide(
        tmp_path / "a.tiff",
        plain,
        patient="patient-01",
        shares={"sarcoma": 3, "stroma": 1},
        cell=64,
        margin=96,
        seed=3,
    )
    with open_reader(slide.path) as reader:
        assert reader.mpp == pytest.approx(1.0, rel=1e-3)
        width, height = reader.dimensions
        pixels = reader.read(0, 0, 0, width, height)
    rows, columns = slide.map.shape
    assert (width, height) == (columns * 64 + 192, rows * 64 + 192)
    x, y = np.meshgrid(np.arange(20, width, 64.0), np.arange(20, height, 64.0))
    found = slide.class_at(x.ravel(), y.ravel())
    shown = pixels[y.astype(int).ravel(), x.astype(int).ravel(), 1].astype(int)
    nearest = np.abs(shown[:, None] - [60, 120, 180, 244]).argmin(axis=1)
    np.testing.assert_array_equal(np.where(nearest == 3, -1, nearest), found)
    assert (found >= 0).sum() > 20


def test_shares_are_as_asked_for_and_truth_is_read_back(tiles, tmp_path):
    slide = construct_slide(
        tmp_path / "b.tiff",
        tiles,
        patient="patient-03",
        shares={"carcinoma": 0.75, "stroma": 0.25},
        rows=10,
        columns=10,
        cell=32,
        margin=32,
    )
    squares = slide.map[slide.map >= 0]
    assert len(squares) == 85
    assert (squares == 1).mean() == pytest.approx(0.75, abs=0.01)
    assert slide.label == "carcinoma"
    assert sum(slide.shares().values()) == pytest.approx(1)
    again = read_truth(slide.path)
    np.testing.assert_array_equal(again.map, slide.map)
    assert again.shares() == pytest.approx(slide.shares(), abs=1e-5)


def test_same_seed_same_bytes(tiles, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        construct_slide(
            tmp_path / name / "s.tiff",
            tiles,
            patient="patient-01",
            shares={"sarcoma": 1},
            rows=2,
            columns=2,
            cell=64,
            margin=16,
            seed=seed,
        )
    a, b, c = ((tmp_path / name / "s.tiff").read_bytes() for name in "abc")
    assert a == b != c


def test_cohort_has_a_table_that_scoring_takes(tiles, tmp_path):
    slides = construct_cohort(tmp_path, tiles, rows=2, columns=3, cell=64, margin=32)
    with (tmp_path / "labels.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["slide_id"] for row in table] == [slide.slide_id for slide in slides]
    assert len(table) == 8
    assert sorted(path.name for path in find_slides([tmp_path])) == sorted(row["path"] for row in table)
    own = {"patient-01": "sarcoma", "patient-02": "sarcoma", "patient-03": "carcinoma", "patient-04": "carcinoma"}
    assert all(row["label"] in {own[row["patient_id"]], "stroma"} for row in table)


def test_asking_for_a_class_the_patient_has_not(tiles, tmp_path):
    with pytest.raises(UsageError, match="patient-01 has no tile of class 'carcinoma'"):
        construct_slide(tmp_path / "x.tiff", tiles, patient="patient-01", shares={"carcinoma": 1}, cell=64)


def test_real_tiles(data_dir, tmp_path):
    tiles = read_osteosarcoma(data_dir / "osteosarcoma")
    assert (len(tiles), sorted(set(tiles.patients))) == (45, ["Case-3", "Case-48", "P9"])
    slide = construct_slide(
        tmp_path / "real.tiff",
        tiles,
        patient="Case-48",
        shares={"viable tumour": 0.7, "non-tumour": 0.3},
        rows=2,
        columns=3,
    )
    with open_reader(slide.path) as reader:
        assert len(reader.levels) == 2
    assert 0.5 < slide.tissue[slide.map == 2].mean() <= 1
