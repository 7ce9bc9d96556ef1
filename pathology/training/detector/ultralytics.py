"""Train Ultralytics detectors with the Ultralytics trainer, on the same crops as our detector.

Ultralytics is licensed under the AGPL-3.0 and is an optional extra; see
:mod:`pathology.networks.ultralytics_detectors`, where it is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image

from pathology.networks.ultralytics_detectors import (
    others_left_alone,
    ultralytics_library,
    yolov4_csp_definition,
)
from pathology.training.detector.batches import tissue_cells
from pathology.training.detector.data import BOX, CROP, MPP, MitosisData

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["train_ultralytics", "write_yolo_folder"]


def write_yolo_folder(data: MitosisData, folder: Path, *, seed: int = 0) -> Path:
    """Write crops, and unlabelled background windows, as an Ultralytics data set folder.

    Parameters
    ----------
    data
        Training and validation parts of the split.
    folder
        Created if missing.
    seed
        Seed of the background windows (one for every two crops).

    Returns
    -------
    Path
        The ``data.yaml``.
    """
    generator = np.random.default_rng(seed)
    for part, name in (("train", "train"), ("validation", "val")):
        side = data.of(part)  # type: ignore[arg-type]
        images, labels = folder / "images" / name, folder / "labels" / name
        images.mkdir(parents=True, exist_ok=True)
        labels.mkdir(parents=True, exist_ok=True)
        for index, (crop, objects) in enumerate(zip(side.crops, side.objects, strict=True)):
            Image.fromarray(crop).save(images / f"{index:05d}.png")
            rows = [
                f"0 {x / CROP:.6f} {y / CROP:.6f} {BOX / CROP:.6f} {BOX / CROP:.6f}"
                for x, y, label in objects
                if label == 1
            ]
            (labels / f"{index:05d}.txt").write_text("\n".join(rows), encoding="utf-8")
        backgrounds = [b for b in side.backgrounds if b.mpp == MPP and tissue_cells(b.pixels, 64).any()]
        for count in range(len(side.crops) // 2 if backgrounds else 0):
            background = backgrounds[count % len(backgrounds)]
            rows_, columns = np.nonzero(tissue_cells(background.pixels, 64))
            pick = generator.integers(len(rows_))
            top = int(np.clip(rows_[pick] * 64 - 32, 0, background.pixels.shape[0] - CROP))
            left = int(np.clip(columns[pick] * 64 - 32, 0, background.pixels.shape[1] - CROP))
            window = background.pixels[top : top + CROP, left : left + CROP]
            Image.fromarray(window).save(images / f"background-{count:05d}.png")
    path = folder / "data.yaml"
    content = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val", "names": {0: "mitosis"}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def train_ultralytics(
    definition: str,
    data: Path,
    work: Path,
    *,
    width: float | None = None,
    epochs: int = 100,
    seconds: float | None = None,
    batch: int = 16,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[dict[str, Tensor], float]:
    """Train a detector from random weights with the Ultralytics trainer and its defaults.

    Parameters
    ----------
    definition, width
        As :func:`pathology.networks.ultralytics_detectors.ultralytics_detector` takes them.
    data
        The ``data.yaml`` of :func:`write_yolo_folder`.
    work
        Working folder of the trainer.
    epochs
        Number of epochs.
    seconds
        Time budget, instead of ``epochs``.
    batch, device, seed
        Passed to the trainer.

    Returns
    -------
    tuple
        Averaged weights by the names of
        :class:`pathology.networks.ultralytics_detectors.UltralyticsDetector`, and the seconds the fit took.

    Raises
    ------
    MissingDependencyError
        If the library is not installed.
    """
    import time

    library, _ = ultralytics_library(work)
    if definition == "yolov4-csp":
        work.mkdir(parents=True, exist_ok=True)
        definition = str(work / "own-yolov4-csp.yaml")
        Path(definition).write_text(yaml.safe_dump(yolov4_csp_definition(width=width or 1.0)), encoding="utf-8")
    began = time.monotonic()
    with others_left_alone():
        model = library.YOLO(definition, task="detect")
        kept: dict[str, Tensor] = {}

        def keep(trainer: Any) -> None:  # noqa: ANN401 - the library has no types
            averaged = trainer.ema.ema.state_dict()
            kept.update({f"model.{name}": value.detach().float().cpu().clone() for name, value in averaged.items()})

        model.add_callback("on_train_epoch_end", keep)
        model.train(
            data=str(data),
            epochs=epochs,
            time=None if seconds is None else seconds / 3600,
            batch=batch,
            imgsz=CROP,
            device=device,
            seed=seed,
            project=str(work),
            pretrained=False,
            amp=False,
            workers=0,
            plots=False,
            val=False,
            save=True,  # without a weight file, a run ended by the time budget counts as failed
            verbose=False,
            exist_ok=True,
        )
    # Its pickle files must never be loaded.
    for pickle in Path(model.trainer.save_dir).rglob("*.pt"):
        pickle.unlink()
    return kept, time.monotonic() - began
