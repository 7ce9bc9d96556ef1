"""Time the exact hotspot search on 10,000 detections.

    python -m benchmarks hotspots [--midog MIDOG++.json] [--repeats 5]

Times ``pathology.findings.hotspot.find_hotspot`` on 10,000 detections in four layouts, for circles and rectangles with
the area of ten high-power fields and of a single field.  The CPU time of the fastest repeat is the cost of the search;
the slowest shows the load of the machine.

With ``--midog`` the mitoses of all cases of the MIDOG++ database (Aubreville et al. 2023, Sci Data 10:484; only its
coordinates are needed) are placed side by side on one plane, and the search is timed on the first 10,000.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from pathology.findings.hotspot import HotspotWindow, find_hotspot

DETECTIONS = 10_000
MPP = 0.25
AREAS = (0.237, 1.734, 2.37)
"""In mm²: one modern field, ten FNCLCC fields, ten modern fields."""
REGION = 12_000
"""Pixels between cases on the plane; wider than any region of MIDOG++."""


def layouts() -> dict[str, np.ndarray]:
    """Return the positions of detections by layout, ``(10,000, 2)`` level-0 pixels each."""
    generator = np.random.default_rng(0)
    centres = generator.uniform(0, 80_000, (10, 2))
    return {
        "even, 400 mm²": generator.uniform(0, 80_000, (DETECTIONS, 2)),
        "ten clusters": np.concatenate([generator.normal(c, 3_000, (DETECTIONS // 10, 2)) for c in centres]),
        "dense, 25 mm²": generator.uniform(0, 20_000, (DETECTIONS, 2)),
        "whole numbers, 100 mm²": generator.integers(0, 40_000, (DETECTIONS, 2)),
    }


def real(path: Path) -> np.ndarray:
    """Return the first 10,000 mitoses of MIDOG++, with the cases side by side."""
    content = json.loads(path.read_text(encoding="utf-8"))
    cases: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for annotation in content["annotations"]:
        if annotation["category_id"] == 1:
            left, top, right, bottom = annotation["bbox"]
            cases[annotation["image_id"]].append(((left + right) / 2, (top + bottom) / 2))
    points = [
        np.array(cases[case]) + REGION * np.array([index % 22, index // 22]) for index, case in enumerate(sorted(cases))
    ]
    return np.concatenate(points)[:DETECTIONS]


def main() -> None:
    """Print a table of CPU times in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--midog", type=Path, help="MIDOG++.json")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    sets = layouts()
    if arguments.midog is not None:
        sets["MIDOG++, case beside case"] = real(arguments.midog)
    print("| detections | window | area mm² | held | fastest ms | slowest ms |\n|---|---|---|---|---|---|")
    worst = 0.0
    for name, points in sets.items():
        for shape in ("circle", "rectangle"):
            for area in AREAS:
                window = HotspotWindow(shape=shape, area_mm2=area)
                taken = []
                for _ in range(arguments.repeats):
                    began = time.process_time()
                    found = find_hotspot(points, MPP, window)
                    taken.append(1000 * (time.process_time() - began))
                worst = max(worst, min(taken))
                held = 0 if found is None else found.count
                row = (f"{len(points):,}, {name}", shape, area, held, f"{min(taken):.0f}", f"{max(taken):.0f}")
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print(f"\nThe slowest of these searches took {worst:.0f} ms of CPU time (fastest of {arguments.repeats}).")


if __name__ == "__main__":
    main()
