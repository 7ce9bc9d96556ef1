"""Detectors as engines: uint8 windows in, a fixed number of boxes per window out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import batched_nms, box_convert

from pathology.inference.engines.base import BOXES_PER_PATCH
from pathology.inference.engines.domain_distance import DomainDistance
from pathology.networks.darknet import Darknet
from pathology.networks.stem import StemFeatures, describe_cells
from pathology.networks.ultralytics_detectors import UltralyticsDetector

if TYPE_CHECKING:
    from pathology.stats.out_of_distribution import FeatureDomain

__all__ = ["CellDistance", "DetectorNetwork", "PatchDetector", "WindowDetector", "calibrated", "strongest_boxes"]

DetectorNetwork = Darknet | UltralyticsDetector
"""Architectures of detectors."""

MOST_BOXES = 64
"""Boxes kept per window.  A window of 416 pixels at 0.25 µm (0.011 mm²) contains a dozen mitoses at most."""


def strongest_boxes(decoded: Tensor, *, floor: float, iou: float = 0.4, most: int = MOST_BOXES) -> Tensor:
    """Select the highest-scoring boxes of each window.

    Parameters
    ----------
    decoded
        ``(B, N, 4 + C)`` centre x, centre y, width, height and confidences, as returned by a detector's ``decode``.
    floor
        Lowest confidence kept.
    iou
        Boxes that overlap a higher-scoring box of the same window by more are dropped.
    most
        Boxes kept per window.

    Returns
    -------
    Tensor
        ``(B, most, 5)`` left, top, right, bottom in window pixels and confidence, by decreasing confidence; rows
        without a box are 0.
    """
    count = len(decoded)
    # Several anchors report each mitosis; a network that reports more than this reports everything.
    confidence, anchor = decoded[..., 4:].amax(dim=-1).topk(min(4 * most, decoded.shape[1]), dim=1)
    window, place = torch.nonzero(confidence >= floor, as_tuple=True)
    boxes = box_convert(decoded[window, anchor[window, place], :4], "cxcywh", "xyxy")
    scores = confidence[window, place]
    kept = batched_nms(boxes, scores, window, iou)
    # Highest score first within each window; batched_nms returns them highest first overall.
    kept = kept[window[kept].argsort(stable=True)]
    window, boxes, scores = window[kept], boxes[kept], scores[kept]
    first = torch.searchsorted(window, torch.arange(count, device=window.device))
    rank = torch.arange(len(window), device=window.device) - first[window]
    result = torch.zeros((count, most, 5), device=decoded.device)
    fitting = rank < most
    result[window[fitting], rank[fitting]] = torch.cat([boxes, scores[:, None]], dim=1)[fitting]
    return result


def calibrated(confidence: Tensor, calibration: tuple[float, float]) -> Tensor:
    """Return ``sigmoid(slope logit(confidence) + intercept)`` (Platt 1999), for ``(slope, intercept)``."""
    slope, intercept = calibration
    inside = confidence.clamp(1e-6, 1 - 1e-6)
    # The logit, written out: OpenVINO has no rule for converting torch's own.
    return torch.sigmoid(slope * torch.log(inside / (1 - inside)) + intercept)


class WindowDetector:
    """Runs a detector over windows.

    Parameters
    ----------
    network
        In evaluation mode.
    device
        Where it runs.
    batch_size
        Windows at once.
    floor
        Lowest confidence kept.
    calibration
        Slope and intercept on the logit of the confidence (Platt 1999); (1, 0) leaves it as it is.
    """

    def __init__(
        self,
        network: DetectorNetwork,
        *,
        device: torch.device,
        batch_size: int = 8,
        floor: float = 0.05,
        calibration: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        self.device, self.batch_size, self.floor, self.calibration = device, batch_size, floor, calibration
        self._network = network

    def detect(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Find boxes.

        Parameters
        ----------
        windows
            ``(B, H, W, 3)`` uint8 RGB; H and W multiples of 32.

        Returns
        -------
        numpy.ndarray
            ``(B, 64, 5)`` float32; see :func:`strongest_boxes`.  The confidences are calibrated.
        """
        parts = [np.empty((0, MOST_BOXES, 5), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(windows), self.batch_size):
                part = np.ascontiguousarray(windows[start : start + self.batch_size])
                pixels = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2).float() / 255
                decoded = self._network.decode(self._network(pixels), pixels.shape[-1])
                if self.calibration != (1.0, 0.0):
                    decoded = torch.cat([decoded[..., :4], calibrated(decoded[..., 4:], self.calibration)], dim=-1)
                parts.append(strongest_boxes(decoded, floor=self.floor).cpu().numpy())
        return np.concatenate(parts)


COLOURLESS: Final = 15 / 255
"""Squares whose pixels have a smaller mean difference between their largest and smallest channel are glass."""


class CellDistance(nn.Module):
    """The out-of-distribution score of a patch from squares as large as the crops that the model was trained on.

    Parameters
    ----------
    domain
        Distribution of the features of the training crops.
    cells
        Squares along each side of a patch.
    """

    middle: Tensor

    def __init__(self, domain: FeatureDomain, cells: int) -> None:
        super().__init__()
        self.distance = DomainDistance(domain)
        self.cells = cells
        # A table: OpenVINO rounds the integer division of the exported graph.
        self.register_buffer("middle", torch.tensor([max(0, (n - 1) // 2) for n in range(cells * cells + 1)]))

    def forward(self, patches: Tensor, maps: Tensor) -> Tensor:
        """Return the median score over the squares of each patch that are not glass; over all, if all are.

        Parameters
        ----------
        patches
            ``(B, H, W, 3)`` uint8.
        maps
            ``(B, C, h, w)`` output of the network's first layers.

        Returns
        -------
        Tensor
            ``(B, 1)`` float32; of an even number of squares, the lower of the two in the middle.
        """
        batch, n = len(maps), self.cells
        scores = self.distance(describe_cells(maps, n).flatten(0, 1)).reshape(batch, n * n)
        values = patches.float()
        chroma = (values.amax(dim=3) - values.amin(dim=3)) / 255
        side = chroma.shape[1] // n
        tissue = chroma.reshape(batch, n, side, n, side).mean(dim=(2, 4)).reshape(batch, n * n) >= COLOURLESS
        tissue = tissue | ~tissue.any(dim=1, keepdim=True)
        ordered = torch.where(tissue, scores, torch.finfo(torch.float32).max).sort(dim=1).values
        return ordered.gather(1, self.middle[tissue.sum(dim=1, keepdim=True)])


class PatchDetector(nn.Module):
    """A detector with built-in input scaling, calibration and selection of boxes, and a fixed output size.

    Every engine runs it like a classifier; its output per patch is ``BOXES_PER_PATCH`` boxes of five numbers.  Boxes of
    the same object are merged later, over all patches at once.

    Parameters
    ----------
    network
        One class or several; the class with the highest score counts.
    mean, std
        Per channel, of values scaled to 0..1.
    floor
        Lowest score kept.
    calibration
        Slope and intercept on the logit of the confidence (Platt 1999); (1, 0) leaves it as it is.
    distance
        If given, a column with each patch's out-of-distribution score follows the boxes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: DetectorNetwork,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        floor: float,
        calibration: tuple[float, float] = (1.0, 0.0),
        distance: CellDistance | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.distance = distance
        self.stem = None if distance is None else StemFeatures(network).layers
        self.floor = floor
        self.calibration = calibration
        deviation = torch.tensor(std).view(1, 3, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation))
        self.register_buffer("shift", -torch.tensor(mean).view(1, 3, 1, 1) / deviation)

    def forward(self, patches: Tensor) -> Tensor:
        """Turn ``(B, H, W, 3)`` uint8 patches into boxes.

        Returns
        -------
        Tensor
            ``(B, BOXES_PER_PATCH * 5)`` float32: left, top, right, bottom in patch pixels and score, by decreasing
            score; zeros where there are fewer boxes.  The out-of-distribution score follows, if there is one.
        """
        pixels = patches.permute(0, 3, 1, 2).to(self.scale.dtype) * self.scale + self.shift
        early = None if self.stem is None else self.stem(pixels)
        # Only Darknet networks have a stem.
        network = self.network
        rows = network.candidates(pixels, early) if isinstance(network, Darknet) else network.candidates(pixels)
        confidence, place = rows[..., 4].topk(min(BOXES_PER_PATCH, rows.shape[1]), dim=1)
        rows = rows.gather(1, place[..., None].expand(-1, -1, 5))
        if self.calibration != (1.0, 0.0):
            # A box that its neighbourhood suppressed has confidence 0 and keeps it.
            confidence = torch.where(confidence > 0, calibrated(confidence, self.calibration), 0.0)
        half = rows[..., 2:4] / 2
        result = torch.cat([rows[..., :2] - half, rows[..., :2] + half, confidence[..., None]], dim=-1)
        result = torch.where((confidence >= self.floor)[..., None], result, 0.0)
        missing = BOXES_PER_PATCH - result.shape[1]
        boxes = functional.pad(result, (0, 0, 0, missing)).flatten(1)
        if self.distance is None or early is None:
            return boxes
        return torch.cat([boxes, self.distance(patches, early.float())], dim=1)
