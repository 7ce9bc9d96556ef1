"""Damaged results are found and named, or are none: nothing damaged is read as a result."""

import json
import shutil

import numpy as np
import pytest

from pathology.errors import StoreError
from pathology.outputs.results.predictions import read_masks
from pathology.outputs.results.record import check_files, damaged_files, read_slide_record
from pathology.outputs.results.results_folder import open_results
from pathology.outputs.results.run import batch_files_whole, read_run, write_run
from pathology.outputs.results.tables import read_results
from pathology.testing.constructed_results import write_constructed_results


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    return write_constructed_results(
        out, slide_ids=("a", "b"), failed=("c",), dimensions=(500, 400), square=(1, 1, 2, 2), detections=30
    )


def everything(out):
    """Return all that can be read of a results folder; what cannot be is its error."""
    found = {}
    results = open_results(out)
    for slide in results:
        name = slide.slide_id
        found[name, "record"] = slide.record
        for what, read in {
            "maps": lambda slide=slide: slide.heatmaps.values.tobytes(),
            "tissue": lambda slide=slide: slide.tissue.tobytes(),
            "masks": lambda slide=slide: {k: v.tobytes() for k, v in read_masks(slide.folder).items()},
            "card": lambda slide=slide: slide.card,
            "overview": lambda slide=slide: slide.overview.pixels.tobytes(),
            "detections": lambda slide=slide: (
                None if slide.detections is None else slide.detections.found.boxes.tobytes()
            ),
        }.items():
            try:
                found[name, what] = read()
            except StoreError as error:
                found[name, what] = error.what
    return found


def damage(path, random):
    content = bytearray(path.read_bytes())
    kind = random.choice(["flip", "cut", "gone", "empty"])
    if kind == "flip" and content:
        content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    elif kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = bytearray()
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(content))
    return kind


def test_two_hundred_random_damages_are_found_or_harmless(whole, tmp_path):
    random = np.random.default_rng(0)
    before = everything(whole)
    paths = sorted(p.relative_to(whole) for p in (whole / "slides").rglob("*") if p.is_file())
    for number in range(200):
        out = tmp_path / str(number)
        shutil.copytree(whole, out)
        relative = paths[int(random.integers(len(paths)))]
        original = (out / relative).read_bytes()
        kind = damage(out / relative, random)
        if (out / relative).exists() and (out / relative).read_bytes() == original:
            shutil.rmtree(out)
            continue
        slide = relative.parts[1]
        after = everything(out)
        for key, value in before.items():
            if key[0] != slide:
                assert after[key] == value, f"{kind} of {relative} changed {key}"
            elif after.get(key) != value and key in after:
                said = after[key].error if key[1] == "record" else after[key]
                assert isinstance(said, str), f"{kind} of {relative} was read as {key}"
                assert "damaged" in said or "not finished" in said or "not scored" in said, said
        # The same command finds it, whatever reads the folder.
        try:
            assert damaged_files(out / "slides" / slide, read_slide_record(out / "slides" / slide), thorough=False)
        except (FileNotFoundError, StoreError):
            in_record = relative.name == "slide.json"
            assert in_record
        shutil.rmtree(out)


def test_an_untouched_folder_is_whole_at_no_cost(whole, monkeypatch):
    record = read_slide_record(whole / "slides" / "a")
    assert len(record.files) > 10
    read = []
    monkeypatch.setattr("pathology.outputs.results.record.file_checksum", lambda path: read.append(path) or "")
    assert damaged_files(whole / "slides" / "a", record, thorough=False) == []
    assert read == []


def test_a_copied_folder_is_whole(whole, tmp_path):
    # Copying may leave files newer than the record; they are then read.
    shutil.copytree(whole, tmp_path / "copy", copy_function=shutil.copyfile)
    for slide in open_results(tmp_path / "copy"):
        assert not damaged_files(slide.folder, read_slide_record(slide.folder), thorough=False)


def test_the_damaged_file_is_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    folder = tmp_path / "out" / "slides" / "a"
    (folder / "overview.jpg").write_bytes(b"")
    with pytest.raises(
        StoreError, match=r"overview.jpg is missing or damaged.*same pathology score command again, with --verify"
    ):
        check_files(folder, "overview.jpg")
    check_files(folder, "predictions.zarr")


def test_a_lost_chunk_is_no_probability_of_nothing(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "out")
    chunk = next((tmp_path / "out" / "slides" / "a" / "predictions.zarr" / "probabilities" / "c").rglob("0"))
    chunk.unlink() if chunk.is_file() else shutil.rmtree(chunk)
    with pytest.raises(StoreError, match=r"predictions.zarr/probabilities/c.* is missing or damaged"):
        _ = open_results(tmp_path / "out")["a"].heatmaps


def test_the_run_and_the_tables(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "index.html").write_text("page")
    write_run(out, read_run(out), finished=True)
    assert batch_files_whole(out)
    read_results(out / "results.csv")
    (out / "results.csv").write_bytes((out / "results.csv").read_bytes().replace(b"patient 1", b"patient 2"))
    assert not batch_files_whole(out)
    with pytest.raises(StoreError, match="modified or damaged"):
        read_results(out / "results.csv")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "slides": []}))
    assert read_run(out) == {}
