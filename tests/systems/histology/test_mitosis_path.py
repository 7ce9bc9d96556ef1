"""From pixels to a hotspot: real mitoses blended into real tissue, scored by the detector that is shipped."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.findings.detections import match_by_distance
from pathology.findings.hotspot import HotspotWindow, find_hotspot
from pathology.outputs.results.detection_file import read_detections
from pathology.scoring.batch import score
from pathology.settings import ScoreSettings
from pathology.testing.synthetic_slides import ArrayPicture, write_svs
from pathology.training.detector.data import MPP, read_folder
from pathology.training.detector.synthetic_fields import construct_field

SIDE = 1_500
SETTINGS = ScoreSettings(block=512)
MATCH = 7.5 / MPP
WINDOW = HotspotWindow(area_mm2=0.05)


@pytest.fixture(scope="module")
def constructed(data_dir, tmp_path_factory):
    """A slide with 16 known mitoses and 16 ordinary nuclei, blended in alike; half the mitoses close together."""
    held_out = read_folder(data_dir / "mitosis").of("test")
    field = next(b for b in held_out.backgrounds if b.mpp == MPP).pixels
    corner = field[3600 : 3600 + SIDE - 300, 2200 : 2200 + SIDE - 300]
    made = construct_field(corner, held_out, mitoses=16, decoys=16, hotspot=(600, 600, 300.0, 0.5), seed=5)
    canvas = np.full((SIDE, SIDE, 3), 240, np.uint8)
    # Not on the corner of a window or block, so that borders run through it.
    canvas[150 : 150 + len(made.pixels), 150 : 150 + made.pixels.shape[1]] = made.pixels
    path = tmp_path_factory.mktemp("slides") / "constructed.svs"
    write_svs(path, ArrayPicture(canvas), factors=(1, 4), mpp=MPP, objective_power=40, quality=92)
    return path, made.mitoses + 150


def found_by(folder):
    detections = read_detections(folder / "slides" / "constructed")
    assert detections is not None
    return detections


def test_known_mitoses_end_to_end_for_any_workers_and_after_a_kill(constructed, tmp_path):
    slide, mitoses = constructed
    model = load_bundle("mitosis-yolov4").directory
    first = score(slide, model, tmp_path / "one", engine="torch", device="cpu", workers=1, settings=SETTINGS)
    assert first.slides[0].status != "failed", first.slides[0].error
    one = found_by(tmp_path / "one")
    counted = one.found.take(one.counted())
    matches = match_by_distance(counted, mitoses, MATCH)
    # The card gives 60 % of blended mitoses found; half of that would be a broken path.
    assert matches.true_positives > 0.3 * len(mitoses)
    assert matches.false_positives < len(mitoses)
    seen, true = (find_hotspot(points, MPP, WINDOW) for points in (counted.centres, mitoses))
    assert np.hypot(seen.x - true.x, seen.y - true.y) * MPP < 150

    score(slide, model, tmp_path / "two", engine="torch", device="cpu", workers=2, settings=SETTINGS)
    assert found_by(tmp_path / "two").identity == one.identity

    out = tmp_path / "killed"
    code = (
        "from pathology import score; from pathology.settings import ScoreSettings; "
        f"score({str(slide)!r}, {str(model)!r}, {str(out)!r}, engine='torch', device='cpu', workers=1, "
        "settings=ScoreSettings(block=512))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while process.poll() is None and not list(out.glob("slides/constructed/unfinished/block-*.npz")):
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    score(slide, model, out, engine="torch", device="cpu", workers=1, settings=SETTINGS)
    assert found_by(out).identity == one.identity
