"""Time and memory of training a head: 260 constructed slides x 5,000 patches x 1,536 numbers, from disk to a bundle.

    python -m benchmarks.heads [--head sampler] [--slides 260] [--patches 5000] [--folder DIR]

The features are random with a planted signal; they are written once to DIR (4 GB) and read by the training.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from pathology.features.store import write_store
from pathology.training.heads import HeadSettings, train_heads

VECTOR = 1536


def write_features(folder: Path, slides: int, patches: int) -> None:
    """Write the stores and the label table; those that are there are left."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    rows = ["slide_id,patient_id,label"]
    for number in range(slides):
        rows.append(f"S{number},P{number},{'AB'[number % 2]}")
        path = folder / "features" / f"S{number}.zarr"
        if path.exists():
            continue
        vectors = np.random.default_rng(number).standard_normal((patches, VECTOR), np.float32)
        vectors[: patches * (3 if number % 2 else 1) // 10, :8] += 1
        about = {
            "slide_id": path.stem,
            "encoder": {"encoder": "uni2-h", "weights_sha256": "0" * 64},
            "patch_level0": 256,
            "mpp": 0.5,
            "fingerprint": path.stem,
        }
        write_store(path, np.zeros((patches, 2), int), [vectors], VECTOR, about)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--head", default="sampler")
    parser.add_argument("--slides", type=int, default=260)
    parser.add_argument("--patches", type=int, default=5000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        write_features(folder, given.slides, given.patches)
        started = time.perf_counter()
        settings = HeadSettings(features=folder / "features", labels=folder / "labels.csv", head=given.head)
        trained = train_heads(settings, folder / given.head)
        print(
            json.dumps(
                {
                    "head": given.head,
                    "slides": given.slides,
                    "patches": given.patches,
                    "seconds": round(time.perf_counter() - started, 1),
                    "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                    "mean_auc": str(trained.areas[given.head]),
                }
            )
        )


if __name__ == "__main__":
    main()
