"""Opening a results folder, and exporting from it."""

import json

import numpy as np
import pytest
from PIL import Image

from pathology.errors import StoreError, UsageError
from pathology.outputs.export.exports import FORMATS, ExportSettings, export_slide
from pathology.outputs.export.geojson import read_geojson
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "out"
    write_constructed_results(out, slide_ids=("b", "a"), failed=("bad",), detections=50, dimensions=(1500, 1200))
    return open_results(out)


def test_slides_come_in_the_order_of_the_batch(results):
    assert results.slide_ids == ("b", "a", "bad")
    assert [slide.slide_id for slide in results] == ["b", "a", "bad"]
    assert len(results) == 3
    assert "a" in results
    with pytest.raises(UsageError, match="no slide 'c'"):
        results["c"]


def test_arrays(results):
    slide = results["a"]
    tumour = slide.heatmap("tumour")
    assert tumour.dtype == np.float32
    assert tumour.shape == slide.heatmaps.shape
    assert np.nanmax(tumour) == np.float32(0.9)
    assert slide.tissue.dtype == bool
    assert slide.dimensions == (1500, 1200)
    assert slide.card.classes == ("stroma", "tumour")
    assert len(slide.detections) == 50
    assert slide.decisions() == {}
    with pytest.raises(UsageError, match="stroma, tumour"):
        slide.heatmap("fat")


def test_a_failed_slide_says_why(results, tmp_path):
    slide = results["bad"]
    for access in (lambda: slide.heatmaps, lambda: slide.tissue, lambda: export_slide(slide, "geojson", tmp_path)):
        with pytest.raises(StoreError, match="truncated"):
            access()
    with pytest.raises(StoreError, match="size of the slide is unknown"):
        _ = slide.dimensions
    assert slide.detections is None


def test_no_results_folder_is_refused(tmp_path):
    with pytest.raises(StoreError, match="not a results folder"):
        open_results(tmp_path)


def test_a_slide_still_being_scored_is_left_out(results, tmp_path):
    (tmp_path / "slides" / "half").mkdir(parents=True)
    assert len(open_results(tmp_path)) == 0


def test_every_format_is_written(results, tmp_path):
    slide = results["a"]
    paths = [export_slide(slide, name, tmp_path) for name in FORMATS]
    assert all(path.exists() and path.name.startswith("a.") for path in paths)
    assert len(set(paths)) == len(FORMATS)
    with pytest.raises(UsageError, match="unknown format 'docx'"):
        export_slide(slide, "docx", tmp_path)


def test_the_hotspot_goes_along(results, tmp_path):
    features = list(read_geojson(export_slide(results["a"], "geojson", tmp_path)))
    assert {feature.classification for feature in features} == {"stroma", "tumour", "tissue", "hotspot"}
    (hotspot,) = [feature for feature in features if feature.classification == "hotspot"]
    slide = results["a"]
    assert hotspot.measurements["Count"] == slide.detections.counted().sum()  # the window is larger than the slide
    assert hotspot.measurements["Per mm^2"] == pytest.approx(
        hotspot.measurements["Count"] / hotspot.measurements["Tissue mm^2"]
    )


def test_smoothing_changes_maps_but_not_where_they_are(results, tmp_path):
    slide = results["a"]
    with np.load(export_slide(slide, "npz", tmp_path, ExportSettings(smooth_um=80)), allow_pickle=False) as saved:
        smooth = saved["probabilities"]
    assert np.isnan(smooth[0]).tolist() == np.isnan(slide.heatmap("stroma")).tolist()
    assert np.nanmax(smooth[1]) < 0.9
    np.testing.assert_allclose(np.nansum(smooth, axis=0)[~np.isnan(smooth[0])], 1, atol=1e-6)


def test_overlays_have_the_chosen_width(results, tmp_path):
    def width(name, **settings):
        path = export_slide(results["a"], "overlay", tmp_path / name, ExportSettings(**settings))
        with Image.open(path) as picture:
            return picture.size[0]

    assert width("wide", longest=700, class_name="tumour") - width("narrow", longest=300) == pytest.approx(400, abs=100)


def test_results_folders_carry_the_open_formats(results):
    folder = results["a"].folder
    assert (folder / "heatmap.ome.zarr" / "zarr.json").exists()
    features = list(read_geojson(folder / "annotations.geojson"))
    assert {feature.classification for feature in features} == {"stroma", "tumour", "tissue"}
    assert json.loads((folder / "card.json").read_text())["name"] == "constructed"
