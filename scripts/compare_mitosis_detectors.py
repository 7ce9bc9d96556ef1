"""Compare mitosis detectors trained with the same budget: one thread, the same time, the same slides.

    python scripts/compare_mitosis_detectors.py fit --data DIR --out OUT --detector own --seconds 600
    python scripts/compare_mitosis_detectors.py fit --data DIR --out OUT --detector yolo11n.yaml --seconds 600
    python scripts/compare_mitosis_detectors.py measure --data DIR --out OUT

DIR contains the crops of the AMi-Br benchmark with ``crops.csv``, ``MIDOG++.json`` and ``fields/``.

``fit`` trains one detector from random weights on the training slides: ``own`` is the YOLOv4-CSP graph at a quarter of
its width with the project's own training; all others are Ultralytics models with the library's trainer and defaults.
Both use images of 128 pixels in batches of 16.  Each keeps its own augmentation, loss and schedule, so the comparison
is of recipes, not of networks alone.

``measure`` chooses each detector's threshold on the validation slides (the highest with a recall of 95 %), and
evaluates every detector in OUT once on the held-out slides.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from pathology.bundle.weights import load_weights, read_state_dict, write_state_dict
from pathology.evaluation.detector import Image, intervals_by_slide, rates
from pathology.inference.engines.detector import DetectorNetwork
from pathology.networks.darknet import Darknet
from pathology.networks.ultralytics_detectors import ultralytics_detector
from pathology.networks.yolov4 import yolov4_csp
from pathology.stats.intervals import poisson_interval
from pathology.training.detector.data import MitosisData, read_folder
from pathology.training.detector.fit import (
    MATCH_PIXELS,
    DetectorFitSettings,
    evaluate_crops,
    evaluate_windows,
    false_alarms,
    fit_detector,
)
from pathology.training.detector.ultralytics import train_ultralytics, write_yolo_folder

ANCHORS = ((40, 40), (50, 50), (62, 62)) * 3
"""Values of the shipped bundle."""

OWN_WIDTH = 0.25
"""Width of our own graph: 3.3 million parameters, compared with 2.6 million of YOLO11n."""

SIZE, BATCH = 128, 16
DEVICE = torch.device("cpu")


def build(detector: str) -> DetectorNetwork:
    """Return a detector with random weights."""
    if detector == "own":
        return yolov4_csp(1, width=OWN_WIDTH, anchors=ANCHORS)
    width = OWN_WIDTH if detector == "yolov4-csp" else None
    return ultralytics_detector(1, definition=detector, width=width)


def fit(arguments: argparse.Namespace) -> None:
    """Train one detector within the budget."""
    data = read_folder(arguments.data)
    folder = arguments.out / f"{arguments.detector.removesuffix('.yaml')}-{arguments.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    processor = time.process_time()
    record: dict[str, Any] = {"detector": arguments.detector, "seed": arguments.seed, "budget": arguments.seconds}
    if arguments.detector == "own":
        settings = DetectorFitSettings(
            iterations=1_000_000, seconds=arguments.seconds, batch=BATCH, mining_windows=256, seed=arguments.seed
        )
        settings = settings.model_copy(update={"batches": settings.batches.model_copy(update={"size": SIZE})})
        network = build("own")
        assert isinstance(network, Darknet)
        fitted = fit_detector(network, data.of("train"), settings, device=DEVICE, report=print)
        state, seconds = fitted.network.state_dict(), fitted.seconds
        record["images"] = fitted.images
    else:
        images = write_yolo_folder(data.of("train", "validation"), folder / "images", seed=arguments.seed)
        state, seconds = train_ultralytics(
            arguments.detector,
            images,
            folder / "work",
            width=OWN_WIDTH if arguments.detector == "yolov4-csp" else None,
            seconds=arguments.seconds,
            batch=BATCH,
            seed=arguments.seed,
        )
    write_state_dict(state, folder / "weights.safetensors")
    record |= {"seconds": round(seconds), "processor_seconds": round(time.process_time() - processor)}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    print(json.dumps(record))


def measure(arguments: argparse.Namespace) -> None:
    """Evaluate every trained detector on the held-out slides, at its threshold from the validation slides."""
    data = read_folder(arguments.data)
    validation, test = data.of("validation"), data.of("test")
    for run in sorted(arguments.out.glob("*/run.json")):
        record = json.loads(run.read_text(encoding="utf-8"))
        network = build(record["detector"])
        load_weights(network, read_state_dict(run.with_name("weights.safetensors")), where=run)
        network = network.float().eval()
        threshold = threshold_of_recall(evaluate_crops(network, validation, device=DEVICE, batch_size=16))
        record |= {
            "parameters": sum(p.numel() for p in network.parameters()),
            "threshold": threshold,
            "crops": metrics(evaluate_crops(network, test, device=DEVICE, batch_size=16), threshold),
            "windows": metrics(evaluate_windows(network, test, device=DEVICE, batch_size=16), threshold),
            "field": on_field(network, test, threshold),
        }
        run.with_name("measured.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        print(json.dumps(record), flush=True)


def threshold_of_recall(images: list[Image], recall: float = 0.95) -> float:
    """Return the highest threshold, in hundredths, with at least this recall; 0.02 if there is none."""
    return max((t / 100 for t in range(2, 100) if rates(images, t / 100, MATCH_PIXELS).recall >= recall), default=0.02)


def metrics(images: list[Image], threshold: float) -> dict[str, Any]:
    """Return counts and rates with intervals over slides."""
    measured = rates(images, threshold, MATCH_PIXELS)
    limits = intervals_by_slide(images, threshold, MATCH_PIXELS)
    return {
        "slides": len({image.slide for image in images}),
        "tp_fp_fn": [measured.true_positives, measured.false_positives, measured.false_negatives],
    } | {
        name: [round(float(v), 4) for v in (getattr(measured, name), *limits[name])]
        for name in ("recall", "precision", "f1")
    }


def on_field(network: DetectorNetwork, test: MitosisData, threshold: float) -> dict[str, Any]:
    """Return the false positives on the held-out field, which contains no mitosis."""
    count, area = false_alarms(network, test.backgrounds, device=DEVICE, threshold=threshold)
    rate = poisson_interval(count, exposure=area)
    return {
        "false_positives": count,
        "tissue_mm2": round(area, 3),
        "per_mm2": [round(number, 2) for number in (rate.value, rate.low, rate.high)],
    }


def main() -> None:
    """Run the chosen command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("fit", "measure"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", default="own", help="own, yolov4-csp (Ultralytics version), or yolo11n.yaml")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # The library would otherwise use all threads.
    torch.set_num_threads(1)
    torch.set_num_threads = lambda nthreads: None  # noqa: ARG005 - called by name
    {"fit": fit, "measure": measure}[arguments.command](arguments)


if __name__ == "__main__":
    main()
