"""Readers of other packages: ten lines add a format, and whatever they do, one slide is affected."""

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pathology.cli.app import app
from pathology.errors import CorruptSlideError, UnsupportedSlideError
from pathology.slide import find_slides, open_slide
from pathology.slide.open import open_reader
from pathology.slide.readers.outside import outside_readers
from pathology.testing.random_bundle import SMALL_NETWORK, write_random_bundle
from pathology.testing.synthetic_tissue import TissuePicture

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
MORE = '''

class OddSlide(ArraySlide):
    """Does what its file's name says."""

    suffixes = (".odd", ".png")
    seconds = 1.0

    def __init__(self, path):
        super().__init__(path)
        self.what = path.stem
        if self.what == "refuses":
            raise KeyError("no such block")
        if self.what == "upside-down":
            self.sizes = [(10, 10), (20, 20)]

    def region(self, level, x, y, w, h):
        import os
        import time

        if self.what == "raises":
            raise ZeroDivisionError("division by zero")
        if self.what == "hangs":
            time.sleep(60)
        if self.what == "crashes":
            os._exit(1)
        return super().region(level, x, y, w, h)[:, :, :2] if self.what == "grey" else super().region(level, x, y, w, h)
'''
POINTS = "[pathology.slide_readers]\narray = example_slides:ArraySlide\nodd = example_slides:OddSlide\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The documentation's package, and another reader, as pip installs them."""
    folder = tmp_path_factory.mktemp("site")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "example_slides.py").write_text(code + MORE, encoding="utf-8")
    about = folder / "example_slides-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: example-slides\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS + "broken = example_slides:Nothing\nwrong = os.path:join\n")
    return folder


@pytest.fixture
def installed(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package))
    outside_readers.cache_clear()
    yield
    outside_readers.cache_clear()
    sys.modules.pop("example_slides", None)


@pytest.fixture(scope="module")
def pixels():
    return TissuePicture(700, 600, tissue=0.8, seed=1).window(0, 0, 700, 600)


def save(path, pixels):
    with path.open("wb") as file:
        np.save(file, pixels)
    return path


def test_the_documented_class_reads_its_format(installed, pixels, tmp_path):
    path = save(tmp_path / "a.npyslide", pixels)
    assert find_slides([tmp_path]) == [path]
    with open_reader(path) as reader:
        assert (reader.backend, reader.dimensions, reader.mpp) == ("outside", (700, 600), 0.5)
        np.testing.assert_array_equal(reader.read(0, 100, 50, 300, 200), pixels[50:250, 100:400])
        beyond = reader.read(0, 600, -10, 200, 20)
        np.testing.assert_array_equal(beyond[10:, :100], pixels[:10, 600:])
        assert (beyond[:10] == 255).all()
        assert (beyond[:, 100:] == 255).all()
        assert reader.warnings == ("read by array of example-slides 1.0, which is not part of this program",)
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 0, 0, 1, 1)
    with open_slide(path) as slide:
        assert slide.mpp == 0.5


@pytest.mark.parametrize("name", ["raises", "grey"])
def test_what_it_cannot_return_is_unreadable(installed, pixels, tmp_path, name):
    with open_reader(save(tmp_path / f"{name}.odd", pixels)) as reader:
        region = reader.read_masked(0, 650, 0, 100, 100)
        assert (region.pixels == 255).all()
        assert [(r.x, r.y, r.width, r.height) for r in region.unreadable] == [(0, 0, 50, 100)]
        assert reader.unreadable_tiles == {(0, 2, 0)}


def test_one_that_hangs_ends_in_time_and_is_not_asked_again(installed, pixels, tmp_path):
    reader = open_reader(save(tmp_path / "hangs.odd", pixels))
    began = time.monotonic()
    with pytest.raises(CorruptSlideError, match=r"a region took the reader odd of example-slides 1.0 more than 1 s"):
        reader.read(0, 0, 0, 10, 10)
    for _ in range(20):
        with pytest.raises(CorruptSlideError):
            reader.read(0, 0, 0, 10, 10)
    reader.close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("name", "said"), [("refuses", "cannot open it .*no such block"), ("upside-down", "not given from the finest")]
)
def test_what_it_refuses_is_refused_with_its_reason(installed, pixels, tmp_path, name, said):
    with pytest.raises(UnsupportedSlideError, match=said):
        open_reader(save(tmp_path / f"{name}.odd", pixels))


def test_it_comes_after_our_own_readers_for_formats_of_theirs(installed, pixels, tmp_path):
    with open_reader(save(tmp_path / "fine.png", pixels)) as reader:  # an array by the name of a PNG
        assert reader.backend == "outside"


def test_info_and_doctor_name_them(installed):
    listed = CliRunner().invoke(app, ["info", "--readers"])
    assert listed.exit_code == 0, listed.output
    assert "array (example-slides 1.0): .npyslide" in listed.output
    assert "broken (example-slides 1.0): cannot be used: AttributeError" in listed.output
    assert "wrong (example-slides 1.0): cannot be used: it is no SlideSource" in listed.output
    found = CliRunner().invoke(app, ["doctor"])
    assert "broken of example-slides 1.0: AttributeError" in found.output


def test_in_a_batch_each_is_a_row(package, pixels, tmp_path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("fine", "raises", "hangs", "crashes"):
        save(slides / f"{name}.odd", pixels)
    model = write_random_bundle(tmp_path / "model", **SMALL_NETWORK)
    paths = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pathology", "score", slides, "--model", model, "--out", tmp_path / "out"]
    done = subprocess.run(
        list(map(str, [*command, "--engine", "torch", "--workers", "1"])),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "fine": "scored",
        "raises": "failed",
        "hangs": "failed",
        "crashes": "failed",
    }
    assert "more than 1 s" in rows["hangs"]["error"]
    assert "not part of this program" in rows["fine"]["warnings"]
