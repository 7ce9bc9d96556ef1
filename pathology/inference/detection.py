"""Detectors as engines: uint8 windows in, a fixed number of boxes per window out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from pathology.networks.darknet import Darknet

__all__ = ["WindowDetector", "strongest_boxes"]

MOST_BOXES = 64
"""Boxes kept of a window.  A window of 416 pixels at 0.25 µm (0.011 mm²) holds a dozen mitoses at most."""


def strongest_boxes(decoded: Tensor, *, floor: float, iou: float = 0.4, most: int = MOST_BOXES) -> Tensor:
    """Choose the surest boxes of each window.

    Parameters
    ----------
    decoded
        ``(B, N, 4 + C)`` centre x, centre y, width, height and confidences, as a detector's ``decode`` gives them.
    floor
        Smallest confidence kept.
    iou
        Boxes that overlap a surer one of the same window by more are dropped.
    most
        Boxes kept of a window.

    Returns
    -------
    Tensor
        ``(B, most, 5)`` left, top, right, bottom in window pixels and confidence, by falling confidence; rows
        without a box are 0.
    """
    count = len(decoded)
    # Every mitosis is claimed by several anchors; a network that claims more than this claims everything.
    confidence, anchor = decoded[..., 4:].amax(dim=-1).topk(min(4 * most, decoded.shape[1]), dim=1)
    window, place = torch.nonzero(confidence >= floor, as_tuple=True)
    boxes = box_convert(decoded[window, anchor[window, place], :4], "cxcywh", "xyxy")
    scores = confidence[window, place]
    kept = batched_nms(boxes, scores, window, iou)
    # Surest first within each window; batched_nms gives them surest first over all.
    kept = kept[window[kept].argsort(stable=True)]
    window, boxes, scores = window[kept], boxes[kept], scores[kept]
    first = torch.searchsorted(window, torch.arange(count, device=window.device))
    rank = torch.arange(len(window), device=window.device) - first[window]
    result = torch.zeros((count, most, 5), device=decoded.device)
    fitting = rank < most
    result[window[fitting], rank[fitting]] = torch.cat([boxes, scores[:, None]], dim=1)[fitting]
    return result


class WindowDetector:
    """Runs a Darknet detector over windows.

    Parameters
    ----------
    network
        In evaluation mode.
    device
        Where it runs.
    batch_size
        Windows at once.
    floor
        Smallest confidence kept.
    calibration
        Slope and intercept on the logit of the confidence (Platt 1999); (1, 0) leaves it as it is.
    """

    def __init__(
        self,
        network: Darknet,
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
                slope, intercept = self.calibration
                if self.calibration != (1.0, 0.0):
                    logit = torch.logit(decoded[..., 4:], eps=1e-6)
                    decoded = torch.cat([decoded[..., :4], torch.sigmoid(slope * logit + intercept)], dim=-1)
                parts.append(strongest_boxes(decoded, floor=self.floor).cpu().numpy())
        return np.concatenate(parts)
