"""Ultralytics detectors behind our own interface, and a YOLOv4-CSP defined in Ultralytics' format.

Ultralytics is licensed under the AGPL-3.0 and is an optional extra; this is the only module that imports it.  Nothing
phones home: its settings go to a temporary folder, its analytics, update check, font and weight downloads are disabled,
and it runs in offline mode.  Weights are plain tensors: no pickle is loaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pathology.extras import missing_extra

__all__ = [
    "UltralyticsDetector",
    "others_left_alone",
    "ultralytics_detector",
    "ultralytics_library",
    "yolov4_csp_definition",
]


def ultralytics_library(settings: Path) -> Any:  # noqa: ANN401 - the library has no types
    """Import the library with all network access disabled.

    Parameters
    ----------
    settings
        Folder for the library's settings file, unless ``YOLO_CONFIG_DIR`` names one.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_VERBOSE"] = "false"
    os.environ.setdefault("YOLO_CONFIG_DIR", str(settings))
    try:
        # Its classes create tensors on import, which must not be on the "meta" device.
        with others_left_alone(), torch.device("cpu"):
            import ultralytics
            from ultralytics.nn import tasks
    except ImportError as error:
        raise missing_extra("this detector needs the ultralytics library (AGPL-3.0)", "ultralytics") from error
    update: Any = ultralytics.settings.update
    update({"sync": False, **dict.fromkeys(("clearml", "comet", "dvc", "mlflow", "raytune"), False)})
    return ultralytics, tasks


@contextmanager
def others_left_alone() -> Iterator[None]:
    """Undo the library's changes to global state, made on import and when its trainer starts.

    It replaces ``PIL.Image.open`` (an unreadable image then asks for another package instead of reporting the error)
    and ``torch.save``, lifts Pillow's limit against decompression bombs, and sets the number of OpenMP threads of every
    process started later.
    """
    image_open, limit, save = Image.open, Image.MAX_IMAGE_PIXELS, torch.save
    threads = os.environ.get("OMP_NUM_THREADS")
    try:
        yield
    finally:
        Image.open, Image.MAX_IMAGE_PIXELS, torch.save = image_open, limit, save
        if threads is None:
            os.environ.pop("OMP_NUM_THREADS", None)


class UltralyticsDetector(nn.Module):
    """An Ultralytics detector with the interface of :class:`pathology.networks.darknet.Darknet`.

    Parameters
    ----------
    definition
        Name of one of the library's model files, such as ``yolo26n.yaml``, or a custom definition.
    classes
        Number of classes.

    Raises
    ------
    MissingDependencyError
        If the library is not installed.
    """

    def __init__(self, definition: str | Mapping[str, Any], classes: int = 1) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            _, tasks = ultralytics_library(Path(folder))
            given = definition if isinstance(definition, str) else dict(definition)
            # The constructor runs a forward pass to find the strides, which does not work on the "meta" device.
            with torch.device("cpu"):
                self.model: nn.Module = tasks.DetectionModel(given, nc=classes, verbose=False)
        # The newest models have a second branch with one box per object; use the first: boxes of one object are merged
        # here anyway, because windows overlap.
        self._head.end2end = False
        self._strides = tuple(int(stride) for stride in self._head.stride.tolist())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one tensor of boxes in the library's format for ``(B, 3, H, W)`` RGB in 0..1.

        Returns
        -------
        list of Tensor
            ``(B, 4 + C, N)`` centre x, centre y, width, height and confidences.
        """
        output = self.model(x)
        return [output[0] if isinstance(output, (tuple, list)) else output]

    def decode(self, maps: list[Tensor], width: int) -> Tensor:  # noqa: ARG002 - part of the interface
        """Return ``(B, N, 4 + C)`` boxes, like a Darknet detector."""
        return maps[0].transpose(1, 2).float()

    def candidates(self, x: Tensor) -> Tensor:
        """Return the most confident boxes per neighbourhood; see :meth:`.darknet.Darknet.candidates`."""
        rows = self.decode(self(x), x.shape[-1])
        confidence = self._peaks(rows[..., 4:].amax(dim=-1), x.shape[-2], x.shape[-1])
        return torch.cat([rows[..., :4], confidence[..., None]], dim=-1)

    @property
    def _head(self) -> Any:  # noqa: ANN401 - the library has no types
        layers: Any = self.model.model
        return layers[-1]

    def _peaks(self, confidence: Tensor, height: int, width: int) -> Tensor:
        """Keep the most confident cell of each 3 x 3 neighbourhood of a level."""
        levels, start = [], 0
        for stride in self._strides:
            rows, columns = height // stride, width // stride
            level = confidence[:, start : start + rows * columns].unflatten(1, (1, rows, columns))
            levels.append(torch.where(level == functional.max_pool2d(level, 3, 1, 1), level, 0.0).flatten(1))
            start += rows * columns
        return torch.cat(levels, dim=1)


def ultralytics_detector(
    classes: int, *, definition: str = "yolo26n.yaml", width: float | None = None
) -> UltralyticsDetector:
    """Build a detector with random weights.

    Parameters
    ----------
    classes
        Number of classes.
    definition
        Name of one of the library's model files, or ``yolov4-csp`` for :func:`yolov4_csp_definition`.
    width
        Width of ``yolov4-csp``; the library's own models have their width in their name.

    Raises
    ------
    MissingDependencyError
        If the library is not installed.
    ValueError
        If the definition is unknown.
    """
    if definition == "yolov4-csp":
        return UltralyticsDetector(yolov4_csp_definition(classes, width=width or 1.0), classes)
    if width is not None:
        raise ValueError(f"width only applies to yolov4-csp, not {definition}")
    try:
        return UltralyticsDetector(definition, classes)
    except FileNotFoundError as error:
        raise ValueError(f"unknown model file {definition!r}") from error


def yolov4_csp_definition(classes: int = 1, *, width: float = 1.0) -> dict[str, Any]:
    """Describe YOLOv4-CSP (Wang et al. 2021, arXiv 2011.08036) in the library's model file format.

    Backbone, pyramid pooling and path aggregation neck are those of :func:`pathology.networks.yolov4.yolov4_csp_cfg`,
    in the library's cross-stage-partial blocks; the heads are the library's own, without anchors.

    Parameters
    ----------
    classes
        Number of classes.
    width
        Factor on every hidden channel count.

    Returns
    -------
    dict
        Content of a model ``.yaml`` of the library.
    """
    here = -1

    def layer(source: int | Sequence[int], module: str, *arguments: object, repeats: int = 1) -> list[object]:
        return [source, repeats, module, list(arguments)]

    backbone = [layer(here, "Conv", 32, 3, 1), layer(here, "Conv", 64, 3, 2), layer(here, "Bottleneck", 64)]
    for channels, blocks in ((128, 2), (256, 8), (512, 8), (1024, 4)):
        backbone += [layer(here, "Conv", channels, 3, 2), layer(here, "BottleneckCSP", channels, repeats=blocks)]
    fine, middle = 6, 8  # the stages at strides 8 and 16
    neck = [layer(here, "SPP", 512, [5, 9, 13])]
    coarse = len(backbone)

    def place() -> int:
        """Return the index of the last layer."""
        return len(backbone) + len(neck) - 1

    def merge_up(other: int, channels: int) -> int:
        neck.extend([layer(here, "Conv", channels, 1, 1), layer(here, "nn.Upsample", None, 2, "nearest")])
        up = place()
        neck.append(layer(other, "Conv", channels, 1, 1))
        neck.extend([layer([here, up], "Concat", 1), layer(here, "BottleneckCSP", channels, False, repeats=2)])
        return place()

    def merge_down(other: int, channels: int) -> int:
        neck.append(layer(here, "Conv", channels, 3, 2))
        neck.extend([layer([here, other], "Concat", 1), layer(here, "BottleneckCSP", channels, False, repeats=2)])
        return place()

    up16 = merge_up(middle, 256)
    out8 = merge_up(fine, 128)
    out16 = merge_down(up16, 256)
    out32 = merge_down(coarse, 512)
    return {
        "nc": classes,
        "activation": "torch.nn.Mish()",
        "depth_multiple": 1.0,
        "width_multiple": width,
        "backbone": backbone,
        "head": [*neck, layer([out8, out16, out32], "Detect", classes)],
    }
