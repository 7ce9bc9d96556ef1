"""Evaluate the whole pipeline from pixels to a hotspot on a slide with known mitoses.

    python scripts/measure_mitosis_path.py --data DIR --out OUT [--model mitosis-yolov4] [--workers 1] [--kill]

Builds a slide of 20,000 x 20,000 pixels at 0.25 µm: glass with three copies of the held-out canine field, into which
300 mitoses of held-out slides and 300 ordinary nuclei are blended, 60 % of the mitoses of one copy within a circle.
Scores it like any slide and reports mitoses found, count error, and the distance of the detected hotspot from the true
one.  The slide is kept in OUT, so that runs with different numbers of workers can be compared.  With ``--kill`` the
program is killed after some blocks, and the same command is run again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from pathology.findings.detections import match_by_distance
from pathology.findings.hotspot import HotspotWindow, find_hotspot
from pathology.outputs.results.detection_file import read_detections
from pathology.scoring.batch import score
from pathology.testing.synthetic_slides import ArrayPicture, write_svs
from pathology.training.detector.data import MPP, read_folder
from pathology.training.detector.fit import MATCH_PIXELS
from pathology.training.detector.synthetic_fields import construct_field

SIDE = 20_000
PIECES = ((1_000, 1_000), (10_500, 8_000), (3_000, 13_500))
"""Left and top of each copy of the field."""
CIRCLE = (3_250, 4_650, 1_000.0, 0.6)
"""The circle with most mitoses of the first copy, in pixels of the field."""
KILL_AFTER = 12
"""Blocks done when the program is killed."""


def build(data: Path, path: Path) -> np.ndarray:
    """Write the slide and return the centres of its mitoses in level-0 pixels."""
    test = read_folder(data).of("test")
    field = next(b for b in test.backgrounds if b.mpp == MPP).pixels
    canvas = np.full((SIDE, SIDE, 3), 240, np.uint8)
    mitoses = []
    for index, (left, top) in enumerate(PIECES):
        made = construct_field(
            field, test, mitoses=100, decoys=100, hotspot=CIRCLE if index == 0 else None, seed=100 + index
        )
        height, width = made.pixels.shape[:2]
        canvas[top : top + height, left : left + width] = made.pixels
        mitoses.append(made.mitoses + np.array([left, top]))
    write_svs(path, ArrayPicture(canvas), factors=(1, 4, 16), mpp=MPP, objective_power=40, quality=90)
    return np.concatenate(mitoses)


def killed(slide: Path, model: str, results: Path, workers: int, blocks: int) -> int:
    """Score the slide in a separate process, kill it after this many blocks, and return how many are left."""
    shutil.rmtree(results, ignore_errors=True)
    code = f"from pathology import score; score({str(slide)!r}, {model!r}, {str(results)!r}, workers={workers})"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        while process.poll() is None and len(list(results.glob("slides/*/unfinished/block-*.npz"))) < blocks:
            time.sleep(0.02)
        if process.poll() is not None:
            raise SystemExit("the process ended before it could be killed")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return len(list(results.glob("slides/*/unfinished/block-*.npz")))


def main() -> None:
    """Build the slide if missing, score it, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mitosis-yolov4")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kill", action="store_true", help="kill the run midway and restart it")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    slide, truth = arguments.out / "constructed.svs", arguments.out / "truth.npy"
    if not truth.exists():
        np.save(truth, build(arguments.data, slide))
    mitoses = np.load(truth)
    results = arguments.out / f"workers-{arguments.workers}{'-killed' if arguments.kill else ''}"
    kept = killed(slide, arguments.model, results, arguments.workers, KILL_AFTER) if arguments.kill else None
    batch = score(slide, arguments.model, results, workers=arguments.workers)
    folder = results / "slides" / batch.slides[0].slide_id
    detections = read_detections(folder)
    assert detections is not None, batch.slides[0].error
    counted = detections.found.take(detections.counted())
    matches = match_by_distance(counted, mitoses, MATCH_PIXELS)
    window = HotspotWindow(area_mm2=math.pi * (CIRCLE[2] * MPP / 1000) ** 2)
    seen, true = (find_hotspot(points, MPP, window) for points in (counted.centres, mitoses))
    assert seen is not None
    assert true is not None
    found = {
        "mitoses": len(mitoses),
        "found": matches.true_positives,
        "false_positives": matches.false_positives,
        "counted": len(counted),
        "tissue_mm2": batch.slides[0].tissue_mm2,
        "hotspot_found": seen.count,
        "hotspot_true": true.count,
        "hotspot_distance_um": round(math.hypot(seen.x - true.x, seen.y - true.y) * MPP, 1),
        "identity": detections.identity,
        "blocks_kept_over_the_kill": kept,
        "seconds": batch.slides[0].seconds,
        "engine": batch.slides[0].engine,
    }
    print(json.dumps(found, indent=1))
    (results / "measured.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
