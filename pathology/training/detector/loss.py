"""YOLOv4 loss: anchor assignment, box, objectness and class terms."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, complete_box_iou_loss

from pathology.networks.darknet import Darknet, YoloHead
from pathology.settings import Record

__all__ = ["LossSettings", "YoloLoss", "anchor_iou"]


class LossSettings(Record):
    """Weights and thresholds of the loss."""

    objectness: Literal["sum", "focal"] = "focal"
    """``sum``: Darknet's, binary cross-entropy summed over all anchors of a batch and divided by the number of
    images.  ``focal``: weighted by ``|target - p|**gamma`` and divided by the number of assigned anchors (Lin et
    al. 2017, arXiv 1708.02002), which needs less tuning for few objects among thousands of anchors."""
    gamma: Annotated[float, Field(ge=0)] = 1.5
    """Exponent of the focal weight."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Weight of assigned anchors relative to the others in the focal loss; 0.5 weights both equally."""
    box: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the complete-IoU loss (Zheng et al. 2020, arXiv 1911.08287); 0.07 in the released cfg."""
    assign_iou: Annotated[float, Field(gt=0, lt=1)] = 0.213
    """Besides the best anchor, every anchor whose shape IoU with the object exceeds this is also assigned
    (``iou_thresh`` of the released cfg)."""
    ignore_iou: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """A prediction with an IoU above this with an object is not penalised as a false positive."""


def anchor_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """Return the IoU of concentric boxes, ``(T, A)``, from ``(T, 2)`` and ``(A, 2)`` widths and heights."""
    overlap = torch.minimum(sizes[:, None], anchors[None]).prod(dim=-1)
    return overlap / (sizes.prod(dim=-1)[:, None] + anchors.prod(dim=-1)[None] - overlap)


class YoloLoss(nn.Module):
    """Loss on the raw output maps of all heads.

    Parameters
    ----------
    heads
        Heads of the network.
    settings
        Weights and thresholds.
    """

    def __init__(self, heads: tuple[YoloHead, ...], settings: LossSettings) -> None:
        super().__init__()
        # Not registered as submodules: they belong to the network.
        self._heads = heads
        self.settings = settings

    @classmethod
    def of(cls, network: Darknet, settings: LossSettings) -> YoloLoss:
        """Create the loss for a network."""
        return cls(network.heads, settings)

    def forward(
        self, maps: list[Tensor], width: int, targets: Tensor, ignored: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the loss.

        Parameters
        ----------
        maps
            Raw output maps of the network, ``(B, A * 6, h, w)`` each (one class).
        width
            Input width in pixels.
        targets
            ``(T, 5)``: image, centre x, centre y, width, height in pixels.
        ignored
            ``(I, 5)``: boxes whose cells are not penalised.

        Returns
        -------
        tuple of Tensor
            Total, box part, objectness part.  The class part of a single class is the same question as
            objectness; it is trained on assigned anchors and included in it.
        """
        s = self.settings
        anchors = torch.tensor([a for head in self._heads for a in head.anchors], device=targets.device)
        owner = torch.cat([torch.full((len(head.mask),), i) for i, head in enumerate(self._heads)]).to(targets.device)
        within = torch.cat([torch.arange(len(head.mask)) for head in self._heads]).to(targets.device)
        overlap = anchor_iou(targets[:, 3:], anchors)
        answering = overlap > s.assign_iou
        if len(targets):
            answering[torch.arange(len(targets), device=targets.device), overlap.argmax(dim=1)] = True
        box_loss = torch.zeros((), device=targets.device)
        object_loss = torch.zeros((), device=targets.device)
        answers = 0
        for index, (head, raw) in enumerate(zip(self._heads, maps, strict=True)):
            split = head.split(raw.float())
            stride = width / raw.shape[-1]
            rows, columns = split.shape[2:4]
            boxes = head.boxes(split, stride)
            target, anchor = torch.nonzero(answering & (owner == index), as_tuple=True)
            chosen = targets[target]
            image, slot = chosen[:, 0].long(), within[anchor]
            column = (chosen[:, 1] / stride).long().clamp(0, columns - 1)
            row = (chosen[:, 2] / stride).long().clamp(0, rows - 1)
            wanted = torch.zeros(split.shape[:4], device=split.device)
            wanted[image, slot, row, column] = 1
            punished = (wanted == 0) & ~self._excused(boxes.detach(), targets, ignored, stride)
            counted = (punished | (wanted == 1)).float()
            logits = split[..., 4]
            loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            if s.objectness == "focal":
                away = (wanted - logits.sigmoid()).abs() ** s.gamma
                loss = loss * away * torch.where(wanted == 1, 2 * s.alpha, 2 * (1 - s.alpha))
            object_loss = object_loss + (loss * counted).sum()
            if len(target):
                predicted = boxes[image, slot, row, column]
                pairs = complete_box_iou_loss(
                    box_convert(predicted, "cxcywh", "xyxy"), box_convert(chosen[:, 1:], "cxcywh", "xyxy")
                )
                box_loss = box_loss + pairs.sum()
                classes = split[image, slot, row, column, 5:]
                object_loss = object_loss + functional.binary_cross_entropy_with_logits(
                    classes, torch.ones_like(classes), reduction="sum"
                )
                answers += len(target)
        share = max(answers, 1) if s.objectness == "focal" else len(maps[0])
        box_loss, object_loss = s.box * box_loss / share, object_loss / share
        return box_loss + object_loss, box_loss.detach(), object_loss.detach()

    def _excused(self, boxes: Tensor, targets: Tensor, ignored: Tensor, stride: float) -> Tensor:
        """Return the predictions that are not penalised although they are not assigned to an object."""
        count, _, rows, columns = boxes.shape[:4]
        excused = torch.zeros(boxes.shape[:4], dtype=torch.bool, device=boxes.device)
        corners = box_convert(boxes, "cxcywh", "xyxy")
        if len(targets):
            # Padded to the same number of objects per image, so that all images are compared at once.
            image = targets[:, 0].long()
            most = int(torch.bincount(image, minlength=count).max())
            order = image.argsort(stable=True)
            sorted_image = image[order]
            first = torch.searchsorted(sorted_image, torch.arange(count, device=boxes.device))
            place = torch.arange(len(order), device=boxes.device) - first[sorted_image]
            # Empty boxes overlap nothing.
            padded = torch.full((count, most, 4), -1.0, device=boxes.device)
            padded[sorted_image, place] = box_convert(targets[order, 1:], "cxcywh", "xyxy")
            overlap = _batched_iou(corners.flatten(1, 3), padded)
            excused |= (overlap.amax(dim=-1) > self.settings.ignore_iou).view_as(excused)
        if len(ignored):
            x = (torch.arange(columns, device=boxes.device) + 0.5) * stride
            y = (torch.arange(rows, device=boxes.device) + 0.5) * stride
            near_x = (x[None] - ignored[:, 1:2]).abs() <= ignored[:, 3:4] / 2
            near_y = (y[None] - ignored[:, 2:3]).abs() <= ignored[:, 4:5] / 2
            near = (near_y[:, :, None] & near_x[:, None, :]).float()
            cells = torch.zeros((count, rows, columns), device=boxes.device)
            cells.index_add_(0, ignored[:, 0].long(), near)
            excused |= (cells > 0)[:, None]
        return excused


def _batched_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the IoU of ``(B, N, 4)`` with ``(B, M, 4)`` boxes as ``(B, N, M)``."""
    a, b = first[:, :, None], second[:, None]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(dim=-1)
    area_b = (b[..., 2:] - b[..., :2]).prod(dim=-1)
    return overlap / (area_a + area_b - overlap)
