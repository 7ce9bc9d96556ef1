"""A batch scored in parts and merged equals the batch scored whole."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pathology.errors import OutputError, StoreError, UsageError
from pathology.scoring.batch import score
from pathology.scoring.bookkeeping.merge import merge_parts, part_numbers
from pathology.testing.synthetic_slides import write_svs
from pathology.testing.synthetic_tissue import TissuePicture


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_svs(folder / "s1.svs", TissuePicture(500, 400, tissue=0.7, seed=1), factors=(1,))
    (folder / "s2.svs").write_bytes(b"")
    Image.fromarray(np.full((300, 300, 3), 243, np.uint8)).save(folder / "s3.png")
    return folder


@pytest.fixture(scope="module")
def parted(slides, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("parts") / "out"
    for part in ("1/2", "2/2"):
        score(slides, model, out, part=part, engine="torch")
    return out


def table(out):
    return pd.read_csv(out / "results.csv").drop(columns="seconds")


def test_parts_merged_equal_the_whole(slides, model, parted, tmp_path):
    score(slides, model, tmp_path / "whole", engine="torch")
    assert not (parted / "results.csv").exists()
    assert merge_parts(parted) == (3, 2)
    pd.testing.assert_frame_equal(table(parted), table(tmp_path / "whole"))
    runs = [json.loads((out / "run.json").read_text()) for out in (parted, tmp_path / "whole")]
    assert runs[0]["state"] == "finished"
    assert [s["slide_id"] for s in runs[0]["slides"]] == [s["slide_id"] for s in runs[1]["slides"]]
    assert "s1" in (parted / "index.html").read_text()


def test_a_part_again_does_nothing(slides, model, parted):
    assert score(slides, model, parted, part="1/2", engine="torch").unchanged == 2


def test_whole_and_parts_are_not_mixed(slides, model, parted, tmp_path):
    for part in (None, "1/3"):
        with pytest.raises(OutputError, match="parts"):
            score(slides, model, parted, part=part, engine="torch")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="whole"):
        score(slides, model, tmp_path, part="1/2", engine="torch")


def test_what_is_missing_is_named(parted, tmp_path):
    with pytest.raises(StoreError, match="batch in parts"):
        merge_parts(tmp_path)
    out = shutil.copytree(parted, tmp_path / "out")
    (out / "slides" / "s2" / "slide.json").unlink()
    with pytest.raises(StoreError, match="results of s2 are missing"):
        merge_parts(out)
    (out / "parts" / "1-of-2" / "run.json").write_text("{}")
    with pytest.raises(StoreError, match="part 1 of 2 is not finished"):
        merge_parts(out)
    shutil.rmtree(out / "parts" / "1-of-2")
    with pytest.raises(StoreError, match="part 1 of 2 is not finished"):
        merge_parts(out)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2"])
def test_what_is_no_part_is_refused(part):
    with pytest.raises(UsageError, match="--part"):
        part_numbers(part)
