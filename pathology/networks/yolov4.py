"""YOLOv4 and its CSP variant as Darknet cfg text, at any width.

Two graphs:

* :func:`yolov4_cfg`: stock YOLOv4 (Bochkovskiy, Wang & Liao 2020, arXiv 2004.10934): CSPDarknet53 backbone
  with Mish, spatial pyramid pooling, path aggregation neck with leaky units.  63,937,686 learnable parameters
  at one class and width 1, 110 convolutions.
* :func:`yolov4_csp_cfg`: the graph of Scaled-YOLOv4's ``yolov4-csp`` (Wang, Bochkovskiy & Liao 2021, arXiv
  2011.08036; CSP stages in the neck as well, Mish throughout, a plain first stage) with the linear heads of
  YOLOv3/v4.  This is the graph that Zehra et al. (Cancers 2022;14:3785) released for mitoses of leiomyosarcoma.
  52,496,022 learnable parameters at one class and width 1, 115 convolutions.

``width`` multiplies every hidden channel count of the same graph: 0.5 has about a quarter of the parameters and
of the operations, which suits a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pathology.networks.darknet import Darknet

__all__ = ["COCO_ANCHORS", "yolov4", "yolov4_cfg", "yolov4_csp", "yolov4_csp_cfg"]

Anchors = Sequence[Sequence[int]]

COCO_ANCHORS: Anchors = (
    (12, 16),
    (19, 36),
    (40, 28),
    (36, 75),
    (76, 55),
    (72, 146),
    (142, 110),
    (192, 243),
    (459, 401),
)
"""Nine anchor boxes, width and height in pixels, as published with YOLOv4 (k-means on MS COCO at 512 px)."""

SCALE_XY_YOLOV4 = (1.2, 1.1, 1.05)
"""``scale_x_y`` of the heads at strides 8, 16 and 32 of stock YOLOv4."""

SCALE_XY_ZEHRA = (1.05, 1.05, 1.05)
"""The same, from the cfg released by Zehra et al. 2022."""

IOU_NORMALISER = 0.07
"""Weight of the box loss against objectness in the published cfgs."""


class _Writer:
    """Writes layers one by one and tracks their indices, so that routes can refer to layers."""

    def __init__(self, size: int, width: float, activation: str) -> None:
        self._width = width
        self.activation = activation
        self._lines = ["[net]", f"width={size}", f"height={size}", "channels=3", ""]
        self.last = -1

    def _layer(self, kind: str, **options: object) -> int:
        self._lines += [f"[{kind}]", *(f"{name}={value}" for name, value in options.items()), ""]
        self.last += 1
        return self.last

    def convolution(self, filters: int, size: int, stride: int = 1) -> int:
        """Write a hidden convolution with batch normalisation; ``filters`` is scaled by the width."""
        # Multiples of eight suit both tensor cores and vector units.
        scaled = max(8, round(filters * self._width / 8) * 8)
        return self._layer(
            "convolutional",
            batch_normalize=1,
            filters=scaled,
            size=size,
            stride=stride,
            pad=1,
            activation=self.activation,
        )

    def bottleneck(self, first: int, second: int) -> int:
        """Write a 1x1 and a 3x3 convolution."""
        self.convolution(first, 1)
        return self.convolution(second, 3)

    def residual(self, first: int, second: int) -> int:
        """Write a 1x1 and a 3x3 convolution with a residual connection."""
        self.bottleneck(first, second)
        return self._layer("shortcut", **{"from": -3, "activation": "linear"})

    def route(self, *layers: int) -> int:
        """Concatenate earlier layers, given by index."""
        return self._layer("route", layers=",".join(str(layer - self.last - 1) for layer in layers))

    def pyramid_pooling(self) -> int:
        """Concatenate the map with its max pooling over 13, 9 and 5 cells."""
        source = self.last
        pools = []
        for size in (5, 9, 13):
            if self.last != source:
                self.route(source)
            pools.append(self._layer("maxpool", stride=1, size=size))
        return self.route(*reversed(pools), source)

    def upsample(self) -> int:
        """Double the resolution."""
        return self._layer("upsample", stride=2)

    def head(self, classes: int, mask: tuple[int, ...], anchors: Anchors, scale_xy: float) -> int:
        """Write the linear convolution and the ``[yolo]`` layer of one scale."""
        self._layer("convolutional", filters=len(mask) * (5 + classes), size=1, stride=1, pad=1, activation="linear")
        return self._layer(
            "yolo",
            mask=",".join(map(str, mask)),
            anchors=", ".join(f"{w},{h}" for w, h in anchors),
            classes=classes,
            num=len(anchors),
            scale_x_y=scale_xy,
            iou_thresh=0.213,
            iou_normalizer=IOU_NORMALISER,
            iou_loss="ciou",
            nms_kind="greedynms",
            beta_nms=0.6,
        )

    def text(self) -> str:
        """Return the cfg."""
        return "\n".join(self._lines)


def _stage(writer: _Writer, filters: int, blocks: int) -> int:
    """Write a downsampling and a cross-stage-partial stage of residual blocks (CSPDarknet53)."""
    down = writer.convolution(filters, 3, 2)
    bypass = writer.convolution(filters // 2, 1)
    writer.route(down)
    writer.convolution(filters // 2, 1)
    for _ in range(blocks):
        writer.residual(filters // 2, filters // 2)
    through = writer.convolution(filters // 2, 1)
    writer.route(through, bypass)
    return writer.convolution(filters, 1)


def _check(classes: int, width: float, anchors: Anchors, size: int) -> tuple[tuple[int, ...], ...]:
    if classes < 1 or width <= 0 or size < 32 or size % 32:
        raise ValueError(
            f"expected classes >= 1, width > 0 and a size in multiples of 32, got {classes}, {width}, {size}"
        )
    if not anchors or len(anchors) % 3:
        raise ValueError(f"three heads share the anchors: expected a multiple of 3, got {len(anchors)}")
    each = len(anchors) // 3
    return tuple(tuple(range(i * each, (i + 1) * each)) for i in range(3))


def yolov4_cfg(classes: int = 1, *, width: float = 1.0, size: int = 416, anchors: Anchors = COCO_ANCHORS) -> str:
    """Return the cfg of stock YOLOv4.

    Parameters
    ----------
    classes
        Number of classes.
    width
        Factor on every hidden channel count; 1 is the published network.
    size
        Side of the input in pixels, a multiple of 32.
    anchors
        Width and height in pixels, ordered by size; a third per head (strides 8, 16, 32).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    masks = _check(classes, width, anchors, size)
    w = _Writer(size, width, "mish")
    w.convolution(32, 3)
    down = w.convolution(64, 3, 2)
    bypass = w.convolution(64, 1)
    w.route(down)
    w.convolution(64, 1)
    w.residual(32, 64)
    through = w.convolution(64, 1)
    w.route(through, bypass)
    w.convolution(64, 1)
    _stage(w, 128, 2)
    fine = _stage(w, 256, 8)
    middle = _stage(w, 512, 8)
    _stage(w, 1024, 4)
    w.activation = "leaky"
    w.bottleneck(512, 1024)
    w.convolution(512, 1)
    w.pyramid_pooling()
    w.bottleneck(512, 1024)
    coarse = w.convolution(512, 1)
    up16 = _merge_up(w, middle, 256, lambda: _plain(w, 256))
    up8 = _merge_up(w, fine, 128, lambda: _plain(w, 128))
    w.convolution(256, 3)
    w.head(classes, masks[0], anchors, SCALE_XY_YOLOV4[0])
    down16 = _merge_down(w, up8, up16, 256, lambda: _plain(w, 256))
    w.convolution(512, 3)
    w.head(classes, masks[1], anchors, SCALE_XY_YOLOV4[1])
    _merge_down(w, down16, coarse, 512, lambda: _plain(w, 512))
    w.convolution(1024, 3)
    w.head(classes, masks[2], anchors, SCALE_XY_YOLOV4[2])
    return w.text()


def yolov4_csp_cfg(classes: int = 1, *, width: float = 1.0, size: int = 416, anchors: Anchors = COCO_ANCHORS) -> str:
    """Return the cfg of ``yolov4-csp`` with linear heads, the graph released by Zehra et al. 2022.

    Parameters are those of :func:`yolov4_cfg`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    masks = _check(classes, width, anchors, size)
    w = _Writer(size, width, "mish")
    w.convolution(32, 3)
    w.convolution(64, 3, 2)
    w.residual(32, 64)
    _stage(w, 128, 2)
    fine = _stage(w, 256, 8)
    middle = _stage(w, 512, 8)
    _stage(w, 1024, 4)
    bypass_source = w.last
    bypass = w.convolution(512, 1)
    w.route(bypass_source)
    w.bottleneck(512, 512)
    w.convolution(512, 1)
    w.pyramid_pooling()
    through = w.bottleneck(512, 512)
    w.route(through, bypass)
    coarse = w.convolution(512, 1)
    up16 = _merge_up(w, middle, 256, lambda: _partial(w, 256))
    up8 = _merge_up(w, fine, 128, lambda: _partial(w, 128))
    w.convolution(256, 3)
    w.head(classes, masks[0], anchors, SCALE_XY_ZEHRA[0])
    down16 = _merge_down(w, up8, up16, 256, lambda: _partial(w, 256))
    w.convolution(512, 3)
    w.head(classes, masks[1], anchors, SCALE_XY_ZEHRA[1])
    _merge_down(w, down16, coarse, 512, lambda: _partial(w, 512))
    w.convolution(1024, 3)
    w.head(classes, masks[2], anchors, SCALE_XY_ZEHRA[2])
    return w.text()


def _plain(writer: _Writer, filters: int) -> int:
    """Five convolutions in a row (the neck of stock YOLOv4)."""
    writer.bottleneck(filters, 2 * filters)
    writer.bottleneck(filters, 2 * filters)
    return writer.convolution(filters, 1)


def _partial(writer: _Writer, filters: int) -> int:
    """A cross-stage-partial stage without residuals (the neck of ``yolov4-csp``)."""
    source = writer.convolution(filters, 1)
    bypass = writer.convolution(filters, 1)
    writer.route(source)
    writer.bottleneck(filters, filters)
    through = writer.bottleneck(filters, filters)
    writer.route(through, bypass)
    return writer.convolution(filters, 1)


def _merge_up(writer: _Writer, lateral: int, filters: int, body: Callable[[], int]) -> int:
    """Upsample the coarser map, concatenate it with a backbone map, and refine."""
    writer.convolution(filters, 1)
    up = writer.upsample()
    writer.route(lateral)
    side = writer.convolution(filters, 1)
    writer.route(side, up)
    return body()


def _merge_down(writer: _Writer, finer: int, coarser: int, filters: int, body: Callable[[], int]) -> int:
    """Downsample the finer map, concatenate it with the map of the upward path, and refine."""
    writer.route(finer)
    down = writer.convolution(filters, 3, 2)
    writer.route(down, coarser)
    return body()


def yolov4(classes: int = 1, *, width: float = 1.0, size: int = 416, anchors: Anchors = COCO_ANCHORS) -> Darknet:
    """Build stock YOLOv4; see :func:`yolov4_cfg`."""
    return Darknet(yolov4_cfg(classes, width=width, size=size, anchors=anchors))


def yolov4_csp(classes: int = 1, *, width: float = 1.0, size: int = 416, anchors: Anchors = COCO_ANCHORS) -> Darknet:
    """Build ``yolov4-csp`` with linear heads; see :func:`yolov4_csp_cfg`."""
    return Darknet(yolov4_csp_cfg(classes, width=width, size=size, anchors=anchors))
