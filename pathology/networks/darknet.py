"""Networks defined by a Darknet ``.cfg``, run in PyTorch.

Both Darknet file formats are supported: the ``.cfg``, which lists a network's layers, and the ``.weights``, which
contains their parameters.  Published detectors in that format run unchanged, and the detectors of this package are
defined in it, so that any other program that reads Darknet can load them.

The layer semantics are those of the AlexeyAB fork of Darknet (https://github.com/AlexeyAB/darknet), which YOLOv4
was published with; the tests compare them with OpenCV's independent implementation.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Darknet", "Section", "YoloHead", "dump_weights", "load_weights", "parse_cfg"]

BATCH_NORM_EPS = 1e-5
"""Darknet's epsilon, added to a channel's variance before the square root."""

BATCH_NORM_MOMENTUM = 0.01
"""Weight of the latest batch in Darknet's running mean and variance (0.99 for the old value)."""

_LARGEST = 20.0
"""Largest absolute logarithm of a size relative to its anchor; beyond it nothing is an object, and ``exp`` would
overflow or vanish."""


@dataclass(frozen=True)
class Section:
    """One ``[section]`` of a ``.cfg``.

    Attributes
    ----------
    kind
        Name between the brackets, such as ``convolutional``.
    options
        Option name to text, as written.
    line
        Line of the opening bracket, counted from 1, for messages.
    """

    kind: str
    options: dict[str, str] = field(default_factory=dict)
    line: int = 0

    def integer(self, name: str, default: int) -> int:
        """Return an option as an integer, or ``default`` if it is not given."""
        return int(self._convert(name, str(default), int))

    def number(self, name: str, default: float) -> float:
        """Return an option as a number, or ``default`` if it is not given."""
        return float(self._convert(name, str(default), float))

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a comma-separated option as numbers; empty if it is not given."""
        text = self.options.get(name, "")
        try:
            return tuple(float(part) for part in text.split(",") if part.strip())
        except ValueError:
            raise ValueError(f"line {self.line}: [{self.kind}] {name}={text} is not a list of numbers") from None

    def text(self, name: str, default: str) -> str:
        """Return an option's text, or ``default`` if it is not given."""
        return self.options.get(name, default)

    def _convert(self, name: str, default: str, kind: type[int] | type[float]) -> float:
        text = self.options.get(name, default)
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"line {self.line}: [{self.kind}] {name}={text} is not a valid {kind.__name__}") from None


def parse_cfg(text: str) -> tuple[Section, ...]:
    """Read the sections of a Darknet ``.cfg``.

    Parameters
    ----------
    text
        The file's content.  ``#`` and ``;`` start comments.

    Returns
    -------
    tuple of Section
        In file order; the first is ``[net]`` (or ``[network]``).

    Raises
    ------
    ValueError
        If a line is neither a section nor ``name=value``, or the first section is not ``[net]``.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].split(";", 1)[0].strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            sections.append(Section(line[1:-1].strip().lower(), {}, number))
            continue
        name, separator, value = line.partition("=")
        if not separator or not sections:
            raise ValueError(f"line {number}: expected [section] or name=value, got {raw.strip()!r}")
        sections[-1].options[name.strip()] = value.strip()
    if not sections or sections[0].kind not in {"net", "network"}:
        raise ValueError("a Darknet cfg begins with a [net] section")
    return tuple(sections)


class _Pool(nn.Module):
    """Darknet's max pooling: ``size - 1`` pixels of padding by default, the larger half at the right and bottom."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.padding // 2, self.padding - self.padding // 2
        if before == after:
            return functional.max_pool2d(x, self.size, self.stride, before)
        padded = functional.pad(x, (before, after, before, after), value=float("-inf"))
        return functional.max_pool2d(padded, self.size, self.stride)


class _Upsample(nn.Module):
    """Nearest-neighbour upsampling by an integer factor."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=self.stride, mode="nearest")


class _Route(nn.Module):
    """Concatenation of earlier outputs, or of one group of their channels."""

    def __init__(self, sources: tuple[int, ...], groups: int, group: int) -> None:
        super().__init__()
        self.sources, self.groups, self.group = sources, groups, group

    def forward(self, inputs: list[Tensor]) -> Tensor:
        if self.groups > 1:
            inputs = [x.chunk(self.groups, dim=1)[self.group] for x in inputs]
        return inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=1)


class _Shortcut(nn.Module):
    """Sum of the previous output and an earlier one of equal shape."""

    def __init__(self, sources: tuple[int, ...], activation: nn.Module) -> None:
        super().__init__()
        self.sources = sources
        self.activation = activation

    def forward(self, inputs: list[Tensor]) -> Tensor:
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        result: Tensor = self.activation(total)
        return result


class YoloHead(nn.Module):
    """One ``[yolo]`` layer: decodes a feature map to boxes.

    Attributes
    ----------
    anchors : tuple
        Width and height, in input pixels, of this head's anchors.
    mask : tuple of int
        Indices of these anchors in the cfg.
    classes : int
        Number of classes.
    scale_xy : float
        Lets a centre lie outside its cell: the sigmoid is stretched about 0.5 by this factor.
    new_coords : bool
        Scaled-YOLOv4's coordinates (values already in 0..1, size ``(2 v)**2``) instead of YOLOv3's.
    """

    def __init__(
        self,
        anchors: tuple[tuple[float, float], ...],
        mask: tuple[int, ...],
        classes: int,
        scale_xy: float = 1.0,
        *,
        new_coords: bool = False,
    ) -> None:
        super().__init__()
        self.anchors, self.mask, self.classes = anchors, mask, classes
        self.scale_xy, self.new_coords = scale_xy, new_coords

    @property
    def channels(self) -> int:
        """Input channels of the head: per anchor a box, an objectness and the classes."""
        return len(self.mask) * (5 + self.classes)

    def split(self, raw: Tensor) -> Tensor:
        """Return a raw map ``(B, A * (5 + C), H, W)`` as ``(B, A, H, W, 5 + C)``."""
        batch, _, height, width = raw.shape
        return raw.view(batch, len(self.mask), 5 + self.classes, height, width).permute(0, 1, 3, 4, 2)

    def boxes(self, split: Tensor, stride: float) -> Tensor:
        """Decode boxes.

        Parameters
        ----------
        split
            ``(B, A, H, W, 5 + C)`` raw values; see :meth:`split`.
        stride
            Input pixels per cell.

        Returns
        -------
        Tensor
            ``(B, A, H, W, 4)`` centre x, centre y, width, height in input pixels.  For YOLOv3 coordinates
            ``x = (s (sigmoid(t_x) - 0.5) + 0.5 + column) stride`` and ``w = anchor exp(t_w)`` (Redmon &
            Farhadi 2018, arXiv 1804.02767; ``s``: Bochkovskiy et al. 2020, arXiv 2004.10934, "eliminate grid
            sensitivity"); with new coordinates the values are used directly and ``w = anchor (2 t_w)**2``
            (Wang et al. 2021, arXiv 2011.08036).
        """
        height, width = split.shape[2:4]
        columns = torch.arange(width, device=split.device, dtype=split.dtype)
        rows = torch.arange(height, device=split.device, dtype=split.dtype)
        cells = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
        anchors = torch.tensor(self.anchors, dtype=split.dtype, device=split.device)[None, :, None, None, :]
        offsets = split[..., :2] if self.new_coords else split[..., :2].sigmoid()
        centres = ((offsets - 0.5) * self.scale_xy + 0.5 + cells) * stride
        raw = split[..., 2:4]
        sizes = anchors * ((2 * raw) ** 2 if self.new_coords else raw.clamp(-_LARGEST, _LARGEST).exp())
        return torch.cat([centres, sizes], dim=-1)

    def decode(self, raw: Tensor, stride: float) -> Tensor:
        """Decode a raw map.

        Returns
        -------
        Tensor
            ``(B, A * H * W, 4 + C)``: box as in :meth:`boxes`, then per class objectness times class
            probability.  Order: row, column, anchor (Darknet's and OpenCV's).
        """
        split = self.split(raw)
        chances = split[..., 4:] if self.new_coords else split[..., 4:].sigmoid()
        decoded = torch.cat([self.boxes(split, stride), chances[..., :1] * chances[..., 1:]], dim=-1)
        return decoded.permute(0, 2, 3, 1, 4).flatten(1, 3)

    def forward(self, raw: Tensor) -> Tensor:
        """Return the raw map unchanged: training needs it, and :meth:`decode` converts it to boxes."""
        return raw


def _activation(section: Section) -> nn.Module:
    name = section.text("activation", "linear" if section.kind == "shortcut" else "logistic")
    known: dict[str, nn.Module] = {
        "linear": nn.Identity(),
        "leaky": nn.LeakyReLU(0.1, inplace=True),
        "mish": nn.Mish(inplace=True),
        "relu": nn.ReLU(inplace=True),
        "logistic": nn.Sigmoid(),
        "swish": nn.SiLU(inplace=True),
    }
    if name not in known:
        raise ValueError(f"line {section.line}: unknown activation {name}; choose from {', '.join(sorted(known))}")
    return known[name]


class Darknet(nn.Module):
    """A detector built from a Darknet ``.cfg``.

    Parameters
    ----------
    cfg
        Text of the ``.cfg``, or its parsed sections.

    Attributes
    ----------
    size : tuple of int
        ``(width, height)`` of the input stated in the cfg; any multiple of the coarsest stride works.
    heads : tuple of YoloHead
        In cfg order.

    Raises
    ------
    ValueError
        If the cfg has an unsupported layer or option, a route to a missing layer, or no ``[yolo]`` layer; the message
        gives the line.
    """

    def __init__(self, cfg: str | tuple[Section, ...]) -> None:
        super().__init__()
        sections = parse_cfg(cfg) if isinstance(cfg, str) else cfg
        net = sections[0]
        self.size = (net.integer("width", 416), net.integer("height", 416))
        self.layers = nn.ModuleList()
        # Per layer: the outputs it reads, and its own output channels.
        self._reads: list[tuple[int, ...]] = []
        channels: list[int] = []
        for index, section in enumerate(sections[1:]):
            previous = channels[-1] if channels else net.integer("channels", 3)
            layer, out = self._build(section, index, previous, channels)
            self.layers.append(layer)
            self._reads.append(layer.sources if isinstance(layer, (_Route, _Shortcut)) else (index - 1,))
            channels.append(out)
        if not self.heads:
            raise ValueError("the cfg has no [yolo] layer, so it detects nothing")
        last_use = {source: index for index, sources in enumerate(self._reads) for source in sources}
        # A layer's output is freed after its last consumer, which bounds the memory of a forward pass.
        self._dropped = [
            tuple(s for s, last in last_use.items() if last == i and s >= 0) for i in range(len(self.layers))
        ]

    @staticmethod
    def _build(section: Section, index: int, previous: int, channels: list[int]) -> tuple[nn.Module, int]:
        match section.kind:
            case "convolutional":
                return _convolution(section, previous)
            case "maxpool":
                size = section.integer("size", 1)
                return _Pool(size, section.integer("stride", 1), section.integer("padding", size - 1)), previous
            case "upsample":
                return _Upsample(section.integer("stride", 2)), previous
            case "route":
                sources = _sources(section, "layers", index)
                groups = section.integer("groups", 1)
                total = sum(channels[s] for s in sources)
                return _Route(sources, groups, section.integer("group_id", 0)), total // groups
            case "shortcut":
                sources = (index - 1, *_sources(section, "from", index))
                if len({channels[s] for s in sources}) != 1:
                    raise ValueError(f"line {section.line}: a shortcut adds layers of unequal width")
                return _Shortcut(sources, _activation(section)), previous
            case "yolo":
                return _head(section, previous), previous
        raise ValueError(f"line {section.line}: layer [{section.kind}] is not supported")

    @property
    def heads(self) -> tuple[YoloHead, ...]:
        """The ``[yolo]`` layers in cfg order."""
        return tuple(layer for layer in self.layers if isinstance(layer, YoloHead))

    @property
    def stem(self) -> nn.Sequential:
        """The first layers, up to the first that halves the resolution.

        Raises
        ------
        TypeError
            If a later layer reads one of them, so that they cannot be run on their own.
        """
        first = next((i for i, layer in enumerate(self.layers) if _halves(layer)), None)
        if first is None or any(s < first for reads in self._reads[first + 1 :] for s in reads):
            raise TypeError("this detector has no separable stem")
        return nn.Sequential(*self.layers[: first + 1])

    def forward(self, x: Tensor, early: Tensor | None = None) -> list[Tensor]:
        """Run the network.

        Parameters
        ----------
        x
            ``(B, 3, H, W)`` RGB in 0..1; H and W multiples of the coarsest stride (32 for YOLOv4).
        early
            Output of :attr:`stem` for ``x``, if already known.

        Returns
        -------
        list of Tensor
            One raw map ``(B, A * (5 + C), h, w)`` per head, in cfg order.
        """
        known = 0 if early is None else len(self.stem)
        outputs: dict[int, Tensor] = {-1: x} if early is None else {known - 1: early}
        maps = []
        for index, layer in enumerate(self.layers):
            if index < known:
                continue
            inputs = [outputs[source] for source in self._reads[index]]
            result = layer(inputs) if isinstance(layer, (_Route, _Shortcut)) else layer(inputs[0])
            outputs[index] = result
            if isinstance(layer, YoloHead):
                maps.append(result)
            if index == 0:
                del outputs[-1]
            for source in self._dropped[index]:
                del outputs[source]
        return maps

    def decode(self, maps: list[Tensor], width: int) -> Tensor:
        """Decode the raw maps to boxes.

        Parameters
        ----------
        maps
            Output of :meth:`forward`.
        width
            Width of the input in pixels.

        Returns
        -------
        Tensor
            ``(B, N, 4 + C)``: centre x, centre y, width, height in input pixels, then the confidence per
            class; all boxes of all heads, unfiltered.
        """
        return torch.cat(
            [head.decode(raw.float(), width / raw.shape[-1]) for head, raw in zip(self.heads, maps, strict=True)], dim=1
        )

    def candidates(self, x: Tensor, early: Tensor | None = None) -> Tensor:
        """Run the network and keep the most confident boxes of each neighbourhood.

        Parameters
        ----------
        x, early
            As for :meth:`forward`.

        Returns
        -------
        Tensor
            ``(B, N, 5)``: centre x, centre y, width, height in input pixels, and the confidence of the most probable
            class; 0 if an adjacent cell of the same map has a higher confidence for the same object.
        """
        found = []
        for head, raw in zip(self.heads, self(x, early), strict=True):
            split = head.split(raw.float())
            boxes = head.boxes(split, x.shape[-1] / raw.shape[-1])
            chances = split[..., 4:] if head.new_coords else split[..., 4:].sigmoid()
            confidence = chances[..., 0] * chances[..., 1:].amax(dim=-1)
            # The most confident anchor per cell, and the most confident cell of each 3 x 3 neighbourhood.
            best, anchor = confidence.max(dim=1)
            peak = torch.where(best == functional.max_pool2d(best, 3, 1, 1), best, 0.0)
            chosen = boxes.gather(1, anchor[:, None, :, :, None].expand(-1, 1, -1, -1, 4))[:, 0]
            found.append(torch.cat([chosen, peak[..., None]], dim=-1).flatten(1, 2))
        return torch.cat(found, dim=1)


def _halves(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Sequential) and isinstance(layer[0], nn.Conv2d) and layer[0].stride == (2, 2)


def _convolution(section: Section, previous: int) -> tuple[nn.Module, int]:
    filters, size = section.integer("filters", 1), section.integer("size", 1)
    normalised = bool(section.integer("batch_normalize", 0))
    padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
    convolution = nn.Conv2d(
        previous,
        filters,
        size,
        section.integer("stride", 1),
        padding,
        groups=section.integer("groups", 1),
        bias=not normalised,
    )
    # A leaky ReLU or Mish keeps about half of the variance, like a ReLU: He et al. 2015, arXiv 1502.01852.
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    parts: list[nn.Module] = [convolution]
    if normalised:
        parts.append(nn.BatchNorm2d(filters, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM))
    return nn.Sequential(*parts, _activation(section)), filters


def _sources(section: Section, name: str, index: int) -> tuple[int, ...]:
    found = []
    for value in section.numbers(name):
        source = int(value) if value >= 0 else index + int(value)
        if not 0 <= source < index:
            raise ValueError(
                f"line {section.line}: {name}={section.text(name, '')} refers to a layer that does not exist yet"
            )
        found.append(source)
    if not found:
        raise ValueError(f"line {section.line}: [{section.kind}] without {name}")
    return tuple(found)


def _head(section: Section, previous: int) -> YoloHead:
    flat = section.numbers("anchors")
    pairs = tuple(pairwise(flat))[::2]
    mask = tuple(int(m) for m in section.numbers("mask")) or tuple(range(len(pairs)))
    if not pairs or len(flat) % 2 or max(mask) >= len(pairs):
        raise ValueError(f"line {section.line}: [yolo] needs anchors in pairs and a mask within them")
    head = YoloHead(
        tuple(pairs[m] for m in mask),
        mask,
        section.integer("classes", 20),
        section.number("scale_x_y", 1.0),
        new_coords=bool(section.integer("new_coords", 0)),
    )
    if head.channels != previous:
        raise ValueError(
            f"line {section.line}: [yolo] reads {head.channels} channels, but the layer before has {previous}"
        )
    return head


def _tensors(network: Darknet) -> list[Tensor]:
    """List all stored tensors in the order of a ``.weights`` file."""
    found: list[Tensor] = []
    for layer in network.layers:
        if not isinstance(layer, nn.Sequential):
            continue
        convolution, norm = layer[0], layer[1]
        assert isinstance(convolution, nn.Conv2d)
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            found += [norm.bias, norm.weight, norm.running_mean, norm.running_var]
        else:
            assert convolution.bias is not None
            found.append(convolution.bias)
        found.append(convolution.weight)
    return found


def load_weights(network: Darknet, data: bytes) -> int:
    """Fill a network from the content of a Darknet ``.weights`` file.

    Parameters
    ----------
    network
        Changed in place.
    data
        The whole file: three int32 (major, minor, revision), the number of images seen (int64 from version 0.2
        on, int32 before), then little-endian float32; per convolution the biases (batch normalisation: biases,
        scales, means, variances) and then the weights.

    Returns
    -------
    int
        Number of training images seen, as stated in the file.

    Raises
    ------
    ValueError
        If the number of parameters in the file and the network differ; the network is then unchanged.
    """
    if len(data) < 16:
        raise ValueError(
            f"a Darknet weights file has a header of at least 16 bytes, but this file has only {len(data)} bytes"
        )
    major, minor, _ = struct.unpack_from("<3i", data)
    seen_format = "<q" if major * 10 + minor >= 2 else "<i"
    (seen,) = struct.unpack_from(seen_format, data, 12)
    offset = 12 + struct.calcsize(seen_format)
    tensors = _tensors(network)
    wanted = sum(t.numel() for t in tensors)
    if (len(data) - offset) != 4 * wanted:
        raise ValueError(
            f"the network has {wanted} parameters, the weights file {(len(data) - offset) / 4:g}; "
            "cfg and weights do not match"
        )
    values = np.frombuffer(data, "<f4", offset=offset)
    with torch.no_grad():
        for tensor in tensors:
            part, values = values[: tensor.numel()], values[tensor.numel() :]
            tensor.copy_(torch.from_numpy(part.astype(np.float32)).view(tensor.shape))
    return int(seen)


def dump_weights(network: Darknet, seen: int = 0) -> bytes:
    """Return the content of a Darknet ``.weights`` file (version 0.2.5) for a network.

    Parameters
    ----------
    network
        Any network of this module.
    seen
        Number of training images to write to the header.
    """
    parts = [struct.pack("<3iq", 0, 2, 5, seen)]
    parts += [t.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes() for t in _tensors(network)]
    return b"".join(parts)
