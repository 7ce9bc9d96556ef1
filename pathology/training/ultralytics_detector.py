"""Detectors of the Ultralytics family, trained by their own trainer, run through the contract of our own.

Ultralytics is licensed under the AGPL-3.0 and is an optional extra; this is the only file that imports it.  Nothing
phones home: its settings go to a folder of ours, its analytics, update check, font and weight downloads are off, and
it is told that there is no network.  Weights leave it as plain tensors, so that no pickle is loaded when scoring.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from pathology.errors import MissingDependencyError
from pathology.training.detection_batches import tissue_cells
from pathology.training.detection_data import BOX, CROP, MPP, MitosisData

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["UltralyticsNetwork", "train_ultralytics", "write_yolo_folder"]


def _ultralytics(settings: Path) -> Any:  # noqa: ANN401 - the library has no types
    """Import the library with everything switched off that reaches outside."""
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_VERBOSE"] = "false"
    os.environ.setdefault("YOLO_CONFIG_DIR", str(settings))
    try:
        with _others_left_alone():
            import ultralytics
            from ultralytics.nn import tasks
    except ImportError as error:
        raise MissingDependencyError(
            "this detector needs the library ultralytics (AGPL-3.0)",
            remedy='Install it with: pip install "sarcoma-pathology[ultralytics]"',
        ) from error
    update: Any = ultralytics.settings.update
    update({"sync": False, **dict.fromkeys(("clearml", "comet", "dvc", "mlflow", "raytune"), False)})
    return ultralytics, tasks


@contextmanager
def _others_left_alone() -> Iterator[None]:
    """Undo what the library does to others, some of it when imported and some when its trainer starts.

    It puts functions of its own in the place of ``PIL.Image.open`` (an unreadable image then asks for another package
    instead of saying what is wrong) and ``torch.save``, lifts Pillow's limit against decompression bombs, and sets the
    number of OpenMP threads of every process started later.
    """
    image_open, limit, save = Image.open, Image.MAX_IMAGE_PIXELS, torch.save
    threads = os.environ.get("OMP_NUM_THREADS")
    try:
        yield
    finally:
        Image.open, Image.MAX_IMAGE_PIXELS, torch.save = image_open, limit, save
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)


class UltralyticsNetwork(nn.Module):
    """A detector of the Ultralytics family behind the calls of :class:`pathology.networks.darknet.Darknet`.

    Parameters
    ----------
    definition
        Name of one of the library's model files, such as ``yolo11n.yaml``.
    state
        Weights by name; ``None``: random.

    Raises
    ------
    MissingDependencyError
        If the library is not installed.
    """

    def __init__(self, definition: str, state: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            _, tasks = _ultralytics(Path(folder))
            self.model: nn.Module = tasks.DetectionModel(definition, nc=1, verbose=False)
        if state is not None:
            self.model.load_state_dict({name: value.float() for name, value in state.items()})

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one tensor ``(B, 4 + 1, N)`` of boxes (centre x, centre y, width, height, confidence)."""
        output = self.model(x)
        return [output[0] if isinstance(output, (tuple, list)) else output]

    def decode(self, maps: list[Tensor], width: int) -> Tensor:  # noqa: ARG002 - the contract's argument
        """Return ``(B, N, 5)`` boxes, as a Darknet detector does."""
        return maps[0].transpose(1, 2).float()


def write_yolo_folder(data: MitosisData, folder: Path, *, seed: int = 0) -> Path:
    """Write crops, and windows of backgrounds without a label, as the folder of images that Ultralytics trains on.

    Parameters
    ----------
    data
        Training and validation sides of the split.
    folder
        Made if it is missing.
    seed
        Of the background windows: one for every two crops.

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
        backgrounds = [b for b in side.backgrounds if b.mpp == MPP]
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
    definition: str, data: Path, work: Path, *, epochs: int, batch: int = 16, device: str = "cpu", seed: int = 0
) -> tuple[dict[str, Tensor], float]:
    """Train a detector from random weights with the library's own trainer and defaults.

    Parameters
    ----------
    definition
        Name of one of the library's model files.
    data
        The ``data.yaml`` of :func:`write_yolo_folder`.
    work
        Folder for the trainer's files.
    epochs, batch, device, seed
        As the trainer calls them.

    Returns
    -------
    tuple
        Averaged weights by name, and the seconds the fit took.

    Raises
    ------
    MissingDependencyError
        If the library is not installed.
    """
    import time

    library, _ = _ultralytics(work)
    began = time.monotonic()
    with _others_left_alone():
        model = library.YOLO(definition, task="detect")
        kept: dict[str, Tensor] = {}

        def keep(trainer: Any) -> None:  # noqa: ANN401 - the library has no types
            kept.update(
                {name: value.detach().float().cpu().clone() for name, value in trainer.ema.ema.state_dict().items()}
            )

        model.add_callback("on_train_epoch_end", keep)
        model.train(
            data=str(data),
            epochs=epochs,
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
            save=False,
            verbose=False,
            exist_ok=True,
        )
    # Pickles, which the trainer writes whether asked to or not.
    for pickle in Path(model.trainer.save_dir).rglob("*.pt"):
        pickle.unlink()
    return kept, time.monotonic() - began
