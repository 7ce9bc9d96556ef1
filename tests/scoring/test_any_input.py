"""Whatever lies in a folder, each slide gets one row, and the sound ones are scored."""

import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pathology.errors import UsageError
from pathology.scoring.batch import score
from pathology.scoring.select import select_slides
from pathology.scoring.tile import tile
from pathology.settings import GridSettings
from pathology.testing import synthetic_slides
from pathology.testing.random_bundle import write_random_bundle
from pathology.testing.synthetic_tissue import TissuePicture


def sound_slide(path):
    synthetic_slides.write_svs(
        path, TissuePicture(500, 400, seed=1, tissue=0.6), factors=(1,), mpp=0.5, objective_power=20
    )


def damaged_dicom(path, slide):
    """A header with a value representation that does not exist: pydicom raises NotImplementedError."""
    shutil.copy(slide, path)
    data = bytearray(path.read_bytes())
    place = data.index(b"\x08\x00\x08\x00CS")
    data[place + 4 : place + 6] = b"CQ"
    path.write_bytes(data)


@pytest.fixture
def hostile(tmp_path):
    folder = tmp_path / "slides"
    (folder / "sub").mkdir(parents=True)
    sound_slide(folder / "sound.svs")
    os.rename(folder / "sound.svs", os.fsencode(folder) + b"/caf\xe9.svs")  # noqa: PTH104 - a name that is not UTF-8
    os.mkfifo(folder / "pipe.svs")
    (folder / "nowhere.svs").symlink_to(folder / "gone.svs")
    (folder / "sub" / "one").symlink_to(folder)
    (folder / "sub" / "two").symlink_to(folder)
    synthetic_slides.write_dicom(folder / "dicom", TissuePicture(300, 200, seed=2), factors=(1,), mpp=0.5)
    file = sorted((folder / "dicom").iterdir())[0]
    damaged_dicom(folder / "damaged.dcm", file)
    shutil.rmtree(folder / "dicom")
    deep = folder
    for _ in range(300):
        deep /= "d"
        os.mkdir(deep)  # noqa: PTH102 - each is a child of the last
    return folder


NAMES = {
    "caf\\udce9": None,
    "pipe": "named pipe",
    "nowhere": "not found",
    "damaged": "cannot be read",
    "d": "nested",
}


@pytest.mark.timeout(120)
def test_each_input_gets_one_row_and_sound_slides_are_scored(tmp_path, hostile):
    bundle = write_random_bundle(tmp_path / "bundle")
    batch = score(hostile, bundle, tmp_path / "out", engine="torch", workers=1)
    table = pd.read_csv(tmp_path / "out" / "results.csv", keep_default_na=False)
    rows = {row["slide_id"].rsplit("d-", 1)[-1]: row for row in table.to_dict("records")}
    assert len(batch) == len(table) == len(NAMES)
    assert [row["status"] for row in table.to_dict("records")].count("failed") == 4
    for name, reason in NAMES.items():
        row = rows[name.replace("\\", "_")]
        assert (row["status"] == "failed") == (reason is not None)
        assert reason is None or reason in row["error"]


@pytest.mark.timeout(120)
def test_tiling_names_what_cannot_be_tiled(tmp_path, hostile):
    tiled = tile(hostile, tmp_path / "stores", GridSettings(patch=64, stride=64, mpp=0.5), workers=1)
    assert len(tiled) == len(NAMES)
    assert sum(not slide.error for slide in tiled) == 1


def test_a_source_that_is_not_there_does_not_stop_the_others(tmp_path):
    sound_slide(tmp_path / "a.svs")
    entries = select_slides([tmp_path / "a.svs", tmp_path / "gone.svs", Path("a\0b")])
    assert [bool(entry.problem) for entry in entries] == [False, True, True]
    with pytest.raises(UsageError, match="no such file"):
        select_slides([tmp_path / "gone.svs", tmp_path / "gone2.svs"])
