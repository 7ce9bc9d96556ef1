"""A million detections: exported, read back and looked at within 1 GiB."""

import subprocess
import sys
from pathlib import Path

import pytest

from pathology.outputs.results.detection_file import write_detections
from pathology.testing.constructed_results import random_detections, write_constructed_results

MILLION = 1_000_000

MEASURED = r"""
import re, sys
from pathlib import Path
from pathology.outputs.results.results_folder import open_results
folder, path = Path(sys.argv[1]), Path(sys.argv[2])
slide = open_results(folder)["square"]
{work}
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
assert peak < 2**20, f"{{peak / 2**10:.0f}} MiB"
"""

EXPORT = """
from pathology.outputs.export.annotations import detection_features
from pathology.outputs.export.geojson import write_geojson
assert write_geojson(path, detection_features(slide.detections)) == 1_000_000
"""

VIEW = """
from pathology.viewer.batch import Batch
batch = Batch([folder])
assert batch.about(0, "square")["detections"]["total"] == 1_000_000
view = batch.view(0, "square")
whole = view.detections_within((0, 0, 1500, 1200), 0.0)
assert len(whole) < 200_000, "a million boxes must not be sent to a browser"
few = view.detections_within((100, 100, 130, 130), 0.0)
assert len(few) < 200_000
view.decide(0, "rejected")
assert view.count()["rejected"] == 1
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = write_constructed_results(tmp_path_factory.mktemp("million") / "out", dimensions=(1500, 1200))
    write_detections(out / "slides" / "square", random_detections("square", (1500, 1200), MILLION))
    return out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to know a peak of memory")
@pytest.mark.parametrize("work", [EXPORT, VIEW], ids=["export", "view"])
def test_a_million_detections_stay_below_a_gibibyte(results, tmp_path, work):
    # A process of its own, because a peak is the whole process's.  VmHWM begins anew with a program; ru_maxrss is
    # inherited from the process that started it.
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(work=work), str(results), str(tmp_path / "a.geojson")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
