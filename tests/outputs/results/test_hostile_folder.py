"""A results folder received from somebody else: it leads nowhere, writes nowhere and fills no memory."""

import shutil

import numpy as np
import pytest
import zarr
from PIL import Image

from pathology.errors import StoreError
from pathology.outputs.export.exports import export_slide
from pathology.outputs.results.record import damaged_files, read_slide_record, write_slide_record
from pathology.outputs.results.results_folder import open_results
from pathology.testing.constructed_results import write_constructed_results


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    out = tmp_path_factory.mktemp("honest") / "out"
    write_constructed_results(out, slide_ids=("a", "b"), dimensions=(1500, 1200))
    return out


@pytest.fixture
def results(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "out")


def rewrite(folder, files=None, **changes):
    """Write a slide's record anew, with a right checksum, as its sender can."""
    stored = read_slide_record(folder)
    names = stored.files if files is None else files
    write_slide_record(folder, stored.result.model_copy(update=changes), [folder / name for name in names])


@pytest.mark.parametrize("name", ["../../stolen", "/tmp/stolen", "b", "..", "a/../../c", ""])
def test_an_id_that_is_not_the_folders_is_no_result(results, name, tmp_path):
    rewrite(results / "slides" / "a", slide_id=name)
    opened = open_results(results)
    assert opened.slide_ids == ("a", "b")
    assert opened["a"].record.status == "failed"
    assert "another slide" in opened["a"].record.error
    to = tmp_path / "x" / "to"
    to.mkdir(parents=True)
    before = {path for path in tmp_path.rglob("*") if to not in path.parents}
    if name == "../../stolen":
        export_slide(opened["a"], "pdf", to)
        assert [path.name for path in to.iterdir()] == ["a.report.pdf"]
    assert {path for path in tmp_path.rglob("*") if to not in path.parents} == before


@pytest.mark.parametrize("name", ["overview.jpg", "card.json", "predictions.zarr", "slide.json"])
def test_links_are_not_followed(results, tmp_path, name):
    path = results / "slides" / "a" / name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    slide = open_results(results)["a"]
    if name == "slide.json":
        assert "link" in slide.record.error
        return
    read = {"overview.jpg": "overview", "card.json": "card", "predictions.zarr": "heatmaps"}
    with pytest.raises(StoreError, match="link"):
        getattr(slide, read[name])


def test_a_link_among_the_chunks_is_not_followed(results, tmp_path):
    (tmp_path / "secret").write_text("of the reader's")
    inside = results / "slides" / "a" / "predictions.zarr" / "coords" / "more"
    inside.symlink_to(tmp_path / "secret")
    with pytest.raises(StoreError, match="link"):
        _ = open_results(results)["a"].heatmaps


def test_a_linked_slide_folder_is_not_followed(results, tmp_path):
    (results / "slides" / "a").rename(tmp_path / "a")
    (results / "slides" / "a").symlink_to(tmp_path / "a")
    assert "link" in open_results(results)["a"].record.error


def test_a_record_names_no_file_outside(results, tmp_path):
    folder = results / "slides" / "a"
    (tmp_path / "secret").write_text("of the reader's")
    stored = read_slide_record(folder)
    for name in ("../../../secret", str(tmp_path / "secret"), "predictions.zarr/../../../../secret"):
        hostile = type(stored)(stored.result, {name: "0" * 64})
        assert damaged_files(folder, hostile) == [name]
    assert damaged_files(folder, stored) == []


def test_stated_sizes_are_bounded(results):
    folder = results / "slides" / "a"
    group = zarr.open_group(folder / "predictions.zarr", mode="a")
    del group["tissue_mask"]
    group.create_array("tissue_mask", shape=(1_000_000, 1_000_000), chunks=(1000, 1000), dtype=bool)
    picture = Image.fromarray(np.zeros((9000, 9000), np.uint8))
    picture.save(folder / "overview.jpg")
    rewrite(folder, files=["predictions.zarr", "overview.jpg", "card.json"])
    slide = open_results(results)["a"]
    with pytest.raises(StoreError, match="GiB"):
        _ = slide.tissue
    with pytest.raises(StoreError, match="9000 x 9000"):
        _ = slide.overview
