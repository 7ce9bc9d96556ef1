"""Scoring whole batches, with real worker processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import tifffile
import zarr
from PIL import Image

from pathology.errors import (
    OutputError,
    UnknownModelError,
    UnsafeWeightsError,
    UsageError,
    WeightsHashError,
)
from pathology.scoring.batch import score
from pathology.settings import ScoreSettings
from pathology.testing import synthetic_slides
from pathology.testing.synthetic_tissue import TissuePicture


def write_svs(path, *, size=(1500, 1300), mpp=0.5, seed=0):
    picture = TissuePicture(*size, seed=seed, tissue=0.6)
    power = 20 if mpp else None
    return synthetic_slides.write_svs(path, picture, factors=(1,), mpp=mpp, objective_power=power)


def arrays(folder):
    group = zarr.open_group(folder / "predictions.zarr", mode="r")
    return {name: np.asarray(group[name][...]) for name in sorted(group.array_keys())}


def assert_same_results(one, other):
    names = sorted(p.name for p in (one / "slides").iterdir())
    assert names == sorted(p.name for p in (other / "slides").iterdir())
    for name in names:
        if (one / "slides" / name / "predictions.zarr").exists():
            first, second = arrays(one / "slides" / name), arrays(other / "slides" / name)
            assert first.keys() == second.keys()
            for array in first:
                np.testing.assert_array_equal(first[array], second[array])
        records = [json.loads((out / "slides" / name / "slide.json").read_text()) for out in (one, other)]
        for record in records:
            del record["seconds"], record["attempts"], record["checksum"]
            record["files"].pop("report.html", None)  # it says when and in what time it was made
        assert records[0] == records[1]


class Watch:
    """Progress that remembers."""

    def __init__(self):
        self.began_with = None
        self.patches = {}
        self.done = []

    def began(self, slides, unchanged):
        self.began_with = (slides, unchanged)

    def workers(self, count, dashboard):
        self.slots = count

    def prepared(self, slide_id, patches):
        self.patches[slide_id] = [patches, 0]

    def advanced(self, slide_id, patches):
        self.patches[slide_id][1] += patches

    def finished(self, slide_id, outcome, *, failed):
        self.done.append((slide_id, failed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good slides and bad ones of every kind."""
    folder = tmp_path_factory.mktemp("slides")
    write_svs(folder / "good one.svs")
    write_svs(folder / "tumour 🔬 β.svs", seed=1)
    whole = (folder / "good one.svs").read_bytes()
    (folder / "truncated.svs").write_bytes(whole[: len(whole) // 2])
    (folder / "text.svs").write_text("hello, I am text")
    (folder / "empty.svs").write_bytes(b"")
    write_svs(folder / "no scale.svs", mpp=None)
    Image.fromarray(np.full((300, 300, 3), 180, np.uint8)).save(folder / "field.png")
    Image.fromarray(np.full((2000, 2000, 3), 243, np.uint8)).save(folder / "glass.png")
    return folder


@pytest.fixture(scope="module")
def scored(folder, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "results"
    watch = Watch()
    return score([folder], model, out, progress=watch), out, watch


def test_good_slides_are_scored_and_bad_ones_say_why(scored):
    batch, _, watch = scored
    errors = {result.slide_id: result.error for result in batch}
    assert {name for name, error in errors.items() if not error} == {"good one", "tumour 🔬 β"}
    assert "truncated" in errors["truncated"]
    assert "text file" in errors["text"]
    assert "empty" in errors["empty"]
    for name in ("no scale", "field"):
        assert "--mpp" in errors[name]
    assert all("Traceback" not in error for error in errors.values())
    assert watch.began_with == (8, 0)
    assert sorted(name for name, failed in watch.done if failed) == sorted(n for n, e in errors.items() if e)
    for patches, done in watch.patches.values():
        assert patches == done > 0


def test_tables(scored):
    batch, out, _ = scored
    table = pd.read_csv(out / "results.csv")
    assert list(table.columns[:5]) == ["slide_id", "patient_id", "path", "status", "prediction"]
    assert len(table) == len(batch) == 8
    row = table.set_index("slide_id").loc["good one"]
    assert row[["p_a", "p_b", "p_c"]].sum() == pytest.approx(1, abs=1e-6)
    assert row.prediction == "abc"[int(np.argmax(row[["p_a", "p_b", "p_c"]].to_numpy()))]
    assert row.reader == "tiff"
    assert row.mpp == 0.5
    assert pd.read_parquet(out / "results.parquet").slide_id.tolist() == table.slide_id.tolist()


def test_every_file_of_the_layout_is_there(scored):
    _, out, _ = scored
    for name in ("run.json", "index.html", "results.csv", "results.parquet"):
        assert (out / name).stat().st_size > 0
    good = {p.name for p in (out / "slides" / "good one").iterdir()}
    pictures = {"overlay.png", "overview.jpg", "preview.jpg"}
    maps = {"predictions.zarr", "heatmap.ome.zarr", "annotations.geojson"}
    assert good == {*pictures, *maps, "card.json", "report.html", "slide.json"}
    run = json.loads((out / "run.json").read_text())
    assert run["state"] == "finished"
    assert run["versions"]["torch"]
    assert len(run["slides"]) == 8
    assert not (out / ".lock").exists()


def test_predictions_are_the_networks(scored, model):
    """Patch for patch what plain torch gives for the slide's own pixels."""
    from pathology.bundle.catalogue import load_bundle
    from pathology.slide.open import open_reader
    from pathology.testing.random_bundle import reference_probabilities

    batch, out, _ = scored
    found = arrays(out / "slides" / "good one")
    result = next(r for r in batch if r.slide_id == "good one")
    with open_reader(result.path) as reader:
        for i in (0, len(found["coords"]) // 2):
            x, y = found["coords"][i]
            pixels = reader.read(0, int(x), int(y), 128, 128).reshape(64, 2, 64, 2, 3).astype(float).mean((1, 3))
            patch = np.floor(pixels + 0.5).astype(np.uint8)[None]
            expected = reference_probabilities(load_bundle(model), patch)
            np.testing.assert_allclose(found["probabilities"][i], expected[0], atol=5e-3)


def test_again_does_nothing(scored, folder, model):
    _, out, _ = scored
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    watch = Watch()
    again = score([folder], model, out, progress=watch)
    assert again.unchanged == len(again) == 8
    assert watch.began_with == (0, 8)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


def test_again_imports_neither_dask_nor_torch(scored, folder, model):
    _, out, _ = scored
    code = (
        "import sys; from pathology import score; "
        f"score([{str(folder)!r}], {str(model)!r}, {str(out)!r}); "
        "print([m for m in ('torch', 'dask', 'distributed') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_what_changed_is_scored_again(folder, model, scored, tmp_path):
    _, out, _ = scored
    slides, copied = tmp_path / "slides", tmp_path / "results"
    slides.mkdir()
    for name in ("good one.svs", "empty.svs"):
        shutil.copy(folder / name, slides / name)
    first = score([slides], model, copied)
    assert first.unchanged == 0
    write_svs(slides / "empty.svs", seed=5)
    watch = Watch()
    second = score([slides], model, copied, progress=watch)
    assert watch.began_with == (1, 1)
    assert not second.failed
    third = score([slides], model, copied, settings=ScoreSettings(min_tissue=0.9))
    assert third.unchanged == 0
    del out


def test_two_workers_give_the_same_results(folder, model, scored, tmp_path):
    _, out, _ = scored
    score([folder], model, tmp_path / "two", workers=2)
    assert_same_results(out, tmp_path / "two")


def test_a_killed_run_goes_on_and_gives_the_same(model, tmp_path):
    """kill -9 in the middle: no process stays, no block is done twice, the results are equal bit for bit."""
    slide = write_svs(tmp_path / "large.svs", size=(2600, 2600))
    settings = ScoreSettings(stride=56, block=256)
    whole = tmp_path / "whole"
    score([slide], model, whole, settings=settings)
    out = tmp_path / "killed"
    code = (
        "from pathology import score; from pathology.settings import ScoreSettings; "
        f"score([{str(slide)!r}], {str(model)!r}, {str(out)!r}, settings=ScoreSettings(stride=56, block=256))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    unfinished = out / "slides" / "large" / "unfinished"
    deadline = time.monotonic() + 120
    while len(list(unfinished.glob("block-*.npz"))) < 3:
        assert process.poll() is None, "it finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    done = {p.name: p.stat().st_mtime_ns for p in unfinished.glob("block-*.npz")}
    assert not (out / "slides" / "large" / "slide.json").exists()
    watch = Watch()
    score([slide], model, out, settings=settings, progress=watch)
    total = len(arrays(whole / "slides" / "large")["coords"])
    assert 0 < watch.patches["large"][0] < total
    assert len(done) >= 3
    assert_same_results(whole, out)


PRELOAD = """
import os, signal
import pathology.slide.open as module
def deadly(original):
    def open_reader(path, **options):
        if "deadly" in str(path):
            os.kill(os.getpid(), signal.SIGSEGV)
        return original(path, **options)
    return open_reader
module.open_reader = deadly(module.open_reader)
"""


def test_a_slide_that_kills_its_worker_is_given_up_alone(model, tmp_path, monkeypatch):
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(3):
        write_svs(slides / f"good {number}.svs", seed=number)
    write_svs(slides / "deadly.svs")
    preload = tmp_path / "preload_deadly.py"
    preload.write_text(PRELOAD)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__PRELOAD", f"['{preload}']")
    batch = score([slides], model, tmp_path / "out")
    errors = {result.slide_id: result.error for result in batch}
    assert [name for name, error in errors.items() if error] == ["deadly"], errors
    assert "crashed twice" in errors["deadly"]


def test_unreadable_tiles_are_counted_and_masked(model, tmp_path):
    slide = write_svs(tmp_path / "damaged.svs")
    with tifffile.TiffFile(slide) as file:
        page = file.pages[0]
        start, count = page.dataoffsets[14], page.databytecounts[14]
    data = bytearray(slide.read_bytes())
    data[start : start + count] = bytes(count)
    slide.write_bytes(bytes(data))
    (result,) = score([slide], model, tmp_path / "out")
    assert result.status == "scored"
    assert result.unreadable_tiles == 1
    (said,) = (warning for warning in result.warnings if "could not be decoded" in warning)
    assert "1 stored tile could not be decoded: about" in said
    found = arrays(tmp_path / "out" / "slides" / "damaged")
    assert np.isnan(found["probabilities"]).any(axis=1).sum() == result.masked_patches


@pytest.mark.parametrize(("every", "reason"), [(2, "of its tissue"), (1, "no tissue can be read")])
def test_a_slide_with_too_much_unreadable_tissue_fails(model, tmp_path, every, reason):
    slide = write_svs(tmp_path / "damaged.svs")
    with tifffile.TiffFile(slide) as file:
        places = list(zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True))
    data = bytearray(slide.read_bytes())
    for start, count in places[::every]:
        data[start : start + count] = bytes(count)
    slide.write_bytes(bytes(data))
    (result,) = score([slide], model, tmp_path / "out")
    assert result.status == "failed"
    assert reason in result.error
    if every == 2:
        (result,) = score([slide], model, tmp_path / "out", settings=ScoreSettings(max_unreadable=0.9))
        assert result.status == "scored"
        assert any("of the tissue" in warning and "not examined" in warning for warning in result.warnings)


class TestRefusals:
    """Exit status 2 on the command line: one reason, nothing written."""

    @pytest.fixture
    def slide(self, tmp_path):
        return write_svs(tmp_path / "slide.svs", size=(400, 400))

    def test_a_wrong_model_name(self, slide, tmp_path):
        with pytest.raises(UnknownModelError, match="no model is called"):
            score([slide], "osteosarcoma-viabilty", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_corrupted_weights(self, slide, model, tmp_path):
        copy = tmp_path / model.name
        shutil.copytree(model, copy)
        data = bytearray((copy / "weights.safetensors").read_bytes())
        data[-1] ^= 1
        (copy / "weights.safetensors").write_bytes(bytes(data))
        with pytest.raises(WeightsHashError):
            score([slide], copy, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_pickle(self, slide, tmp_path):
        (tmp_path / "model.pt").write_bytes(b"\x80\x04")
        with pytest.raises(UnsafeWeightsError):
            score([slide], tmp_path / "model.pt", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_an_unwritable_folder(self, slide, model, tmp_path):
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(OutputError):
            score([slide], model, tmp_path / "file" / "out")

    def test_two_runs_at_once(self, slide, model, tmp_path):
        import fcntl

        out = tmp_path / "out"
        out.mkdir()
        with (out / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(OutputError, match="another run"):
                score([slide], model, out)

    @pytest.mark.parametrize("options", [{"mpp": 0}, {"mpp": -0.5}, {"workers": 0}])
    def test_values_that_make_no_sense(self, slide, model, tmp_path, options):
        with pytest.raises(UsageError):
            score([slide], model, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()
