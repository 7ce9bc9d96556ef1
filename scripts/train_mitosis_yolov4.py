"""Train and measure the bundle ``models/mitosis-yolov4``.

    python scripts/train_mitosis_yolov4.py pack --data DIR [--osteosarcoma DIR] data.npz
    python scripts/train_mitosis_yolov4.py train --data data.npz --out RUN [--width 0.5] [--seconds 300]
    python scripts/train_mitosis_yolov4.py train --data data.npz --out RUN --schedule released

DIR holds the crops of the AMi-Br benchmark with ``crops.csv``, ``MIDOG++.json`` and ``fields/``.  The split is by
slide and follows from the slides' names (``pathology.training.detection_data.part_of_slide``).  ``pack`` leaves the
test slides out unless told otherwise, so that training cannot see them.

``train`` writes ``weights.safetensors`` (half precision, averaged weights) and ``run.json`` with the settings, the
history and the figures on the validation slides, among them the threshold with the best F1.  It uses a GPU where
there is one.  On a processor, ``--iterations 20 --width 0.125 --batch 4 --size 128
--mining-windows 16`` shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from pathology.bundle.weights import write_state_dict
from pathology.errors import PathologyError
from pathology.networks.yolov4 import COCO_ANCHORS, yolov4, yolov4_csp
from pathology.training.detection_data import MitosisData, read_folder, read_pack, write_pack
from pathology.training.detection_evaluation import froc, rates, threshold_of_best_f1
from pathology.training.detection_fit import (
    MATCH_PIXELS,
    FitSettings,
    best_f1,
    evaluate_crops,
    evaluate_windows,
    false_alarms,
    fit_detector,
    released_settings,
)

ANCHORS = ((40, 40), (50, 50), (62, 62)) * 3
"""All annotated boxes are squares of 50 pixels; every head looks for them, zoomed a little either way."""


def load(path: Path, osteosarcoma: Path | None = None) -> MitosisData:
    """Read a folder or a packed file."""
    return read_pack(path) if path.is_file() else read_folder(path, osteosarcoma)


def pack(arguments: argparse.Namespace) -> None:
    """Write the data into one file."""
    data = read_folder(arguments.data, arguments.osteosarcoma)
    if not arguments.with_test:
        data = data.of("train", "validation")
    write_pack(data, arguments.file)
    print(f"{len(data.crops)} crops, {len(data.backgrounds)} backgrounds, {arguments.file.stat().st_size / 1e6:.1f} MB")


def train(arguments: argparse.Namespace) -> None:
    """Train one detector and measure it on the validation slides."""
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = load(arguments.data, arguments.osteosarcoma)
    released = arguments.schedule == "released"
    settings = released_settings() if released else FitSettings()
    changes = {
        name: value
        for name in ("iterations", "seconds", "batch", "rate", "seed", "mining_windows")
        if (value := getattr(arguments, name)) is not None
    }
    settings = settings.model_copy(update=changes)
    if arguments.size is not None:
        settings = settings.model_copy(update={"batches": settings.batches.model_copy(update={"size": arguments.size})})
    anchors = COCO_ANCHORS if released else ANCHORS
    build = {"yolov4": yolov4, "yolov4-csp": yolov4_csp}[arguments.network]
    torch.manual_seed(settings.seed)
    network = build(1, width=arguments.width, anchors=anchors)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    fitted = fit_detector(
        network, data.of("train"), settings, device=device, report=lambda line: print(line, flush=True)
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    digest = write_state_dict(fitted.network.state_dict(), arguments.out / "weights.safetensors")
    validation = data.of("validation")
    threshold, _ = best_f1(fitted.network, validation, device=device)
    images = evaluate_crops(fitted.network, validation, device=device)
    measured = rates(images, threshold, MATCH_PIXELS)
    curve = froc(images, MATCH_PIXELS)
    shifted = evaluate_windows(fitted.network, validation, device=device)
    elsewhere = rates(shifted, threshold, MATCH_PIXELS)
    alarms, area = false_alarms(fitted.network, validation.backgrounds, device=device, threshold=threshold)
    record = {
        "network": arguments.network,
        "width": arguments.width,
        "anchors": anchors,
        "parameters": sum(p.numel() for p in network.parameters()),
        "settings": settings.model_dump(mode="json"),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "iterations": fitted.iterations,
        "images": fitted.images,
        "seconds": round(fitted.seconds, 1),
        "false_alarms": fitted.false_alarms,
        "skipped": fitted.skipped,
        "history": fitted.history,
        "weights_sha256": digest,
        "validation": {
            "slides": len(set(validation.slides.tolist())),
            "mitoses": measured.true_positives + measured.false_negatives,
            "threshold": threshold,
            "precision": [measured.precision, *measured.precision_interval],
            "recall": [measured.recall, *measured.recall_interval],
            "f1": [measured.f1, *measured.f1_interval],
            "windows": {
                "best_f1": threshold_of_best_f1(shifted, MATCH_PIXELS),
                "precision": [elsewhere.precision, *elsewhere.precision_interval],
                "recall": [elsewhere.recall, *elsewhere.recall_interval],
                "f1": [elsewhere.f1, *elsewhere.f1_interval],
            },
            "backgrounds": {"false_alarms": alarms, "tissue_mm2": area},
            "sensitivity_at_fp_per_mm2": {str(n): curve.sensitivity_at(n) for n in (5, 10, 20, 50, 100)},
        },
    }
    (arguments.out / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(json.dumps({k: v for k, v in record.items() if k != "history"}))


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    main = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = main.add_subparsers(required=True)
    one = commands.add_parser("pack", help="write the data into one file")
    one.add_argument("file", type=Path)
    one.add_argument("--data", type=Path, required=True)
    one.add_argument("--osteosarcoma", type=Path)
    one.add_argument("--with-test", action="store_true", help="include the test slides")
    one.set_defaults(run=pack)
    two = commands.add_parser("train", help="train and measure on the validation slides")
    two.add_argument("--data", type=Path, required=True, help="folder or packed file")
    two.add_argument("--osteosarcoma", type=Path)
    two.add_argument("--out", type=Path, required=True)
    two.add_argument("--network", choices=("yolov4", "yolov4-csp"), default="yolov4-csp")
    two.add_argument("--width", type=float, default=0.5)
    two.add_argument("--schedule", choices=("modern", "released"), default="modern")
    two.add_argument("--iterations", type=int)
    two.add_argument("--seconds", type=float)
    two.add_argument("--batch", type=int)
    two.add_argument("--size", type=int, help="side of a training image in pixels")
    two.add_argument("--rate", type=float)
    two.add_argument("--seed", type=int)
    two.add_argument("--mining-windows", type=int, help="images looked at for false alarms each time")
    two.add_argument("--device")
    two.set_defaults(run=train)
    return main


def main() -> None:
    """Run the chosen command."""
    arguments = parser().parse_args()
    try:
        arguments.run(arguments)
    except PathologyError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
