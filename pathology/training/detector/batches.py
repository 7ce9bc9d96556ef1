"""Training images generated on the fly on one device: mosaics of crops, and crops blended into backgrounds.

Every image is sampled pixel by pixel from the stored sources through an affine map (flip, 90° rotation, zoom, shift),
so the same code runs on a CPU for a test and at thousands of images a second on a GPU.

A detector must not learn the seams.  Therefore mosaics contain parts of crops with and without their
mitosis, ordinary tissue is blended in the same way and as often as mitoses, stain and brightness vary from cell
to cell of a mosaic, and blur, noise and JPEG artefacts are added to the finished image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from pathology.settings import Record
from pathology.training.detector.data import BOX, CROP, MPP, MitosisData

__all__ = ["Batch", "BatchMaker", "BatchSettings", "ordinary_nuclei", "tissue_cells"]


class BatchSettings(Record):
    """Settings of training image generation.  Fractions and probabilities are 0 to 1."""

    size: Annotated[int, Field(ge=128, multiple_of=32)] = 256
    """Side of an image in pixels; a multiple of the network's coarsest stride."""
    background: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Fraction of images that are a background window with blended crops."""
    cells: tuple[float, float, float] = (0.25, 0.35, 0.4)
    """Relative frequency of mosaics of 2 x 2, 3 x 3 and 4 x 4 cells.  In small cells the mitosis lies anywhere, cut or
    whole; in large ones it lies near the centre, which must not become a shortcut."""
    background_cell: Annotated[float, Field(ge=0, le=1)] = 0.08
    """Fraction of mosaic cells with background."""
    paste: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Probability that each of the four positions of a background image receives a paste."""
    mitosis: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of pastes with a mitosis; the others show ordinary tissue, blended in the same way."""
    stain: Annotated[float, Field(ge=0)] = 0.22
    """Standard deviation of the log stain intensity, per stain."""
    tint: Annotated[float, Field(ge=0)] = 0.04
    """Standard deviation of the colour channel mixing."""
    spoil: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Probability of blur, of noise and of JPEG artefacts, each."""


@dataclass(frozen=True)
class Batch:
    """Images with their targets.

    Attributes
    ----------
    images
        ``(B, 3, S, S)`` float32 RGB, 0 to 1.
    targets
        ``(T, 5)`` float32: image, centre x, centre y, width, height, in pixels.
    ignored
        ``(I, 5)``, same format: mitoses cropped so much that either prediction is acceptable.
    """

    images: Tensor
    targets: Tensor
    ignored: Tensor


_MOST_CELLS = 4
"""Maximum number of cells along one side of a mosaic."""

# Optical density of haematoxylin and eosin (red, green, blue): Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291.
_HAEMATOXYLIN = (0.650, 0.704, 0.286)
_EOSIN = (0.072, 0.990, 0.105)

# The eight symmetries of a square.
_DIHEDRAL = torch.tensor(
    [[[c, -s], [s, c]] for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    + [[[c, s], [s, -c]] for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))],
    dtype=torch.float32,
)

# JPEG's luminance quantisation table: ITU-T T.81 (1992), annex K, table K.1.
_QUANTISATION = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)


class BatchMaker:
    """Generates training batches.

    Parameters
    ----------
    data
        Training part of the data.
    settings
        Image generation settings.
    device
        Storage and compute device.
    seed
        Random seed.
    """

    def __init__(self, data: MitosisData, settings: BatchSettings, device: torch.device, seed: int = 0) -> None:
        self.settings, self.device = settings, device
        self._random = torch.Generator(device=device).manual_seed(seed)
        self._crops = len(data.crops)
        images = [*data.crops, *(b.pixels for b in data.backgrounds)]
        sizes = torch.tensor([image.shape[:2] for image in images])
        areas = sizes.prod(dim=1)
        self._pixels = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images])).to(device)
        self._start = (areas.cumsum(0) - areas).to(device)
        self._height, self._width = sizes[:, 0].to(device), sizes[:, 1].to(device)
        self._objects = torch.from_numpy(data.objects).to(device)
        # Magnification of each source to the resolution of the crops.
        zoom = [1.0] * self._crops + [b.mpp / MPP for b in data.backgrounds]
        self._zoom = torch.tensor(zoom, device=device)
        self._tissue = self._tissue_places(data).to(device)
        self.crop_weights = torch.ones(self._crops, device=device)
        self.hard_places = torch.empty((0, 3), device=device)
        # The diagonal is the identity where no change is applied.
        stains = torch.tensor([_HAEMATOXYLIN, _EOSIN], dtype=torch.float32)
        stains = functional.normalize(stains, dim=1)
        third = functional.normalize(torch.linalg.cross(stains[0], stains[1]), dim=0)
        self._stains = torch.stack([stains[0], stains[1], third]).T.to(device)
        self._dihedral = _DIHEDRAL.to(device)
        self._ring = self._border_density(data).to(device)
        self._nuclei = ordinary_nuclei(data).to(device)

    def state(self) -> dict[str, Tensor]:
        """Return what changes during a training: the random generator, and what is oversampled."""
        return {"random": self._random.get_state(), "weights": self.crop_weights, "hard": self.hard_places}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a :meth:`state`: the next batches are those that would have followed it."""
        self._random.set_state(state["random"])
        self.crop_weights, self.hard_places = (state[name].to(self.device) for name in ("weights", "hard"))

    def _tissue_places(self, data: MitosisData) -> Tensor:
        """List source, x, y on a 64-pixel grid of the backgrounds where there is tissue."""
        places = [torch.empty((0, 3))]
        for index, background in enumerate(data.backgrounds):
            step = 64
            rows, columns = np.nonzero(tissue_cells(background.pixels, step))
            source = np.full(len(rows), self._crops + index)
            places.append(
                torch.from_numpy(np.stack([source, columns * step + step / 2, rows * step + step / 2], 1)).float()
            )
        return torch.cat(places)

    @staticmethod
    def _border_density(data: MitosisData) -> Tensor:
        """Mean optical density of each crop outside its mitosis, ``(N, 3)``."""
        y, x = np.mgrid[:CROP, :CROP] - (CROP - 1) / 2
        outside = torch.from_numpy(np.hypot(x, y) > BOX / 2)
        crops = torch.from_numpy(data.crops)[:, outside].float()
        return (-torch.log((crops + 1) / 256)).mean(dim=1)

    def _uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self._random, device=self.device) * (high - low) + low

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._random, device=self.device)

    def _whole(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self._random, device=self.device)

    def _sample(self, source: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Read sources at fractional coordinates (bilinear, clamped to the image); ``(..., 3)`` float 0..255."""
        width, height, start = self._width[source], self._height[source], self._start[source]
        u = u.clamp(min=0).minimum(width - 1)
        v = v.clamp(min=0).minimum(height - 1)
        left, top = u.floor().long(), v.floor().long()
        right, bottom = (left + 1).minimum(width - 1), (top + 1).minimum(height - 1)
        fu, fv = (u - left)[..., None], (v - top)[..., None]

        def at(row: Tensor, column: Tensor) -> Tensor:
            return self._pixels[start + row * width + column].float()

        upper = at(top, left) * (1 - fu) + at(top, right) * fu
        lower = at(bottom, left) * (1 - fu) + at(bottom, right) * fu
        return upper * (1 - fv) + lower * fv

    def _background_windows(self, count: int) -> tuple[Tensor, Tensor]:
        """Sample source and ``(x, y)`` of background positions, oversampling earlier false positives."""
        chosen = self._tissue[self._whole(len(self._tissue), count)]
        if len(self.hard_places):
            hard = self.hard_places[self._whole(len(self.hard_places), count)]
            chosen = torch.where((self._uniform(count) < 0.4)[:, None], hard, chosen)
        shift = (self._uniform(count, 2) - 0.5) * 128
        return chosen[:, 0].long(), chosen[:, 1:] + shift

    def tissue_windows(self, size: int, most: int) -> tuple[list[int], NDArray[np.float64], NDArray[np.uint8]]:
        """Cut tissue windows from the backgrounds at the resolution of the crops, without augmentation.

        Parameters
        ----------
        size
            Side in pixels at the resolution of the crops.
        most
            Maximum number; positions are sampled without replacement.

        Returns
        -------
        tuple
            Source of each window, ``(N, 2)`` centres in source pixels, ``(N, size, size, 3)`` uint8 pixels.
        """
        order = torch.randperm(len(self._tissue), generator=self._random, device=self.device)[:most]
        source, centre = self._tissue[order, 0].long(), self._tissue[order, 1:]
        windows = np.empty((len(order), size, size, 3), np.uint8)
        axis = torch.arange(size, device=self.device, dtype=torch.float32) + 0.5 - size / 2
        for index in range(len(order)):
            zoom = self._zoom[source[index]]
            u = (axis[None, :] / zoom + centre[index, 0] - 0.5).expand(size, size)
            v = (axis[:, None] / zoom + centre[index, 1] - 0.5).expand(size, size)
            pixels = self._sample(source[index].expand(size, size), u, v)
            windows[index] = pixels.round().byte().cpu().numpy()
        return source.tolist(), centre.cpu().numpy().astype(np.float64), windows

    def make(self, count: int) -> Batch:
        """Generate a batch of ``count`` images."""
        size, s = self.settings.size, self.settings
        kind = self._uniform(count)
        plain = kind < s.background
        if not len(self._tissue):
            plain = torch.zeros_like(plain)
        per_side = torch.tensor(s.cells, device=self.device).multinomial(count, True, generator=self._random) + 2
        per_side = torch.where(plain, 1, per_side)[:, None]
        # Borders of up to four columns and rows; one at ``size`` leaves the cells beyond it empty.
        step = torch.arange(1, _MOST_CELLS, device=self.device)
        edges = []
        for _ in range(2):
            jitter = (self._uniform(count, _MOST_CELLS - 1) - 0.5) * 0.4
            inner = torch.where(step < per_side, (step + jitter) * size / per_side, float(size)).round()
            ends = torch.tensor([0.0, size], device=self.device).expand(count, 2)
            edges.append(torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1))
        edge_x, edge_y = edges
        row, column = torch.meshgrid(*[torch.arange(_MOST_CELLS, device=self.device)] * 2, indexing="ij")
        row, column = row.flatten(), column.flatten()
        low = torch.stack([edge_x[:, column], edge_y[:, row]], dim=-1)
        high = torch.stack([edge_x[:, column + 1], edge_y[:, row + 1]], dim=-1)
        extent, middle = high - low, (low + high) / 2  # (B, 16, 2)

        each = _MOST_CELLS**2
        cells = count * each
        source = torch.multinomial(self.crop_weights, cells, replacement=True, generator=self._random).view(count, each)
        is_background = plain[:, None].expand(count, each)
        if len(self._tissue):
            is_background = is_background | (self._uniform(count, each) < s.background_cell)
        turn = self._dihedral[self._whole(8, count, each)]
        # A crop must cover its cell; the zoom beyond that varies the size of nuclei.
        least = (extent.amax(dim=-1) / (CROP - 2)).clamp(min=0.8)
        zoom = least * self._uniform(count, each, low=1.0, high=1.3)
        reach = extent / 2 / zoom[..., None]
        reach = (turn.abs() @ reach[..., None])[..., 0]
        room = (CROP / 2 - 1 - reach).clamp(min=0)
        origin = CROP / 2 + (self._uniform(count, each, 2) * 2 - 1) * room
        if len(self._tissue):
            other, place = self._background_windows(cells)
            other, place = other.view(count, each), place.view(count, each, 2)
            source = torch.where(is_background, other, source)
            origin = torch.where(is_background[..., None], place, origin)
            magnified = self._zoom[other] * self._uniform(count, each, low=0.85, high=1.2)
            zoom = torch.where(is_background, magnified, zoom)
            # Background windows stay inside their image.
            most = torch.stack([self._width[source], self._height[source]], dim=-1).float()
            margin = torch.minimum(((turn.abs() @ extent[..., None])[..., 0] / 2 / zoom[..., None]), most / 2)
            kept = torch.minimum(torch.maximum(origin, margin), most - margin)
            origin = torch.where(is_background[..., None], kept, origin)

        x = torch.arange(size, device=self.device, dtype=torch.float32)
        cell_column = (x >= edge_x[:, 1:-1, None]).sum(dim=1)
        cell_row = (x >= edge_y[:, 1:-1, None]).sum(dim=1)
        cell = cell_row[:, :, None] * _MOST_CELLS + cell_column[:, None, :]  # (B, S, S)

        def per_pixel(values: Tensor) -> Tensor:
            flat = values.reshape(count, each, -1)
            index = cell.view(count, -1, 1).expand(-1, -1, flat.shape[-1])
            return flat.gather(1, index).view(count, size, size, *values.shape[2:])

        inverse = turn / zoom[..., None, None]  # output offset -> source offset
        offset = (
            torch.stack(torch.broadcast_tensors(x[None, None, :], x[None, :, None]), dim=-1) + 0.5 - per_pixel(middle)
        )
        where = _apply(per_pixel(inverse), offset) + per_pixel(origin) - 0.5
        colour = self._sample(per_pixel(source), where[..., 0], where[..., 1])
        density = -torch.log((colour + 1) / 256)

        # Objects of the crops, in output pixels.
        objects = self._objects[source.clamp(max=self._crops - 1)]  # (B, 16, K, 3)
        forward = turn.transpose(-1, -2) * zoom[..., None, None]
        away = objects[..., :2] - origin[:, :, None]
        centre = middle[:, :, None] + (forward[:, :, None] @ away[..., None])[..., 0]
        side = (BOX * zoom)[:, :, None].expand(objects.shape[:3])
        visible = _overlap(centre, side, low[:, :, None], high[:, :, None])
        mitosis = (objects[..., 2] == 1) & ~is_background[..., None] & (extent.amin(dim=-1) > 0)[..., None]
        image = torch.arange(count, device=self.device)[:, None, None].expand(objects.shape[:3]).float()
        boxes = torch.cat([image[..., None], centre, side[..., None], side[..., None]], dim=-1)
        targets = boxes[mitosis & (visible >= 0.6)]
        ignored = boxes[mitosis & (visible >= 0.05) & (visible < 0.6)]

        which = torch.nonzero(plain)[:, 0]
        if len(which):
            pasted, added = self._paste(density[which])
            density = density.index_copy(0, which, pasted)
            added[:, 0] = which[added[:, 0].long()].float()
            targets = torch.cat([targets, added])
        density = self._restain(density, per_pixel)
        images = (torch.exp(-density) * 256 - 1).clamp(0, 255).permute(0, 3, 1, 2) / 255
        return Batch(self._degrade(images), targets, ignored)

    def _paste(self, density: Tensor) -> tuple[Tensor, Tensor]:
        """Blend crops, with or without their mitosis, into four positions of each image."""
        count, size = density.shape[:2]
        s = self.settings
        x = torch.arange(size, device=self.device, dtype=torch.float32) + 0.5
        grid = torch.stack(torch.broadcast_tensors(x[None, :], x[:, None]), dim=-1)
        found = []
        for quarter in range(4):
            base = torch.tensor([quarter % 2, quarter // 2], device=self.device) * size / 2 + size / 4
            place = base + (self._uniform(count, 2) * 2 - 1) * (size / 4 - 34)
            used = self._uniform(count) < s.paste
            shows = self._uniform(count) < s.mitosis
            source = torch.multinomial(self.crop_weights, count, replacement=True, generator=self._random)
            zoom = self._uniform(count, low=0.85, high=1.2)
            nucleus = self._nuclei[source, self._whole(3, count)]
            origin = torch.where(shows[:, None], self._objects[source, 0, :2], nucleus)
            turn = self._dihedral[self._whole(8, count)]
            away = grid[None] - place[:, None, None]
            where = _apply(turn[:, None, None], away) / zoom[:, None, None, None] + origin[:, None, None]
            expanded = source[:, None, None].expand(count, size, size)
            patch = -torch.log((self._sample(expanded, where[..., 0] - 0.5, where[..., 1] - 0.5) + 1) / 256)
            distance = away.norm(dim=-1)
            angle = torch.atan2(away[..., 1], away[..., 0])
            wave = self._whole(4, count)[:, None, None] + 2
            wobble = 1 + 0.15 * torch.sin(wave * angle + self._uniform(count)[:, None, None] * 2 * math.pi)
            radius = self._uniform(count, low=17, high=26)[:, None, None] * zoom[:, None, None] * wobble
            softness = self._uniform(count, low=2, high=6)[:, None, None]
            alpha = torch.sigmoid((radius - distance) / softness)[..., None] * used[:, None, None, None]
            # Reduce the stain difference between the crop and its new surroundings.
            local = torch.exp(-(((distance - radius) / 10) ** 2))[..., None]
            there = (density * local).sum(dim=(1, 2)) / local.sum(dim=(1, 2))
            factor = (there / self._ring[source].clamp(min=0.05)).clamp(0.5, 2.0) ** self._uniform(count, 1)
            density = density * (1 - alpha) + patch * factor[:, None, None] * alpha
            side = BOX * zoom
            box = torch.stack([torch.arange(count, device=self.device).float(), *place.T, side, side], dim=1)
            found.append(box[used & shows])
        return density, torch.cat(found)

    def _restain(self, density: Tensor, per_pixel: Callable[[Tensor], Tensor]) -> Tensor:
        """Vary stain intensity, colour mixing and brightness, cell by cell."""
        count, s = density.shape[0], self.settings
        strength = torch.exp(self._normal(count, _MOST_CELLS**2, 3) * s.stain)
        change = self._stains @ torch.diag_embed(strength) @ torch.linalg.inv(self._stains)
        change = change + self._normal(count, _MOST_CELLS**2, 3, 3) * s.tint
        shift = self._normal(count, _MOST_CELLS**2, 3) * 0.03
        return _apply(per_pixel(change), density) + per_pixel(shift)

    def _degrade(self, images: Tensor) -> Tensor:
        """Add blur, noise and JPEG artefacts to some of the images."""
        count, chance = len(images), self.settings.spoil
        radius = 4
        taps = torch.arange(-radius, radius + 1, device=self.device, dtype=torch.float32)
        sigma = self._uniform(count, low=0.3, high=1.4) * (self._uniform(count) < chance) + 1e-3
        kernel = torch.exp(-(taps**2) / (2 * sigma[:, None] ** 2))
        kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
        flat = functional.pad(images.reshape(1, count * 3, *images.shape[2:]), (radius,) * 4, mode="reflect")
        flat = functional.conv2d(flat, kernel[:, None, None, :], groups=count * 3)
        flat = functional.conv2d(flat, kernel[:, None, :, None], groups=count * 3)
        images = flat.view_as(images)
        strength = self._uniform(count, low=0.0, high=0.03) * (self._uniform(count) < chance)
        images = images + self._normal(*images.shape) * strength[:, None, None, None]
        coarse = self._uniform(count, low=0.1, high=1.2)
        blocks = _jpeg_blocks(images.clamp(0, 1), coarse)
        return torch.where((self._uniform(count) < chance)[:, None, None, None], blocks, images).clamp(0, 1)


def ordinary_nuclei(data: MitosisData) -> Tensor:
    """Find three dark spots in each crop that are not annotated as mitosis: mostly interphase nuclei.

    Parameters
    ----------
    data
        Crops with their annotated objects.

    Returns
    -------
    Tensor
        ``(N, 3, 2)`` float32 x and y in crop pixels.
    """
    density = -torch.log((torch.from_numpy(data.crops).float().mean(dim=-1) + 1) / 256)
    # Separable mean and maximum over a square.
    smooth = functional.avg_pool2d(density[:, None], (1, 13), stride=1, padding=(0, 6))
    smooth = functional.avg_pool2d(smooth, (13, 1), stride=1, padding=(6, 0))[:, 0]
    # Crops at the edge of a region are padded with black, which is not a nucleus.
    filled = torch.from_numpy((data.crops.max(axis=-1) < 8).astype(np.float32))
    filled = functional.max_pool2d(filled[:, None], (1, 31), stride=1, padding=(0, 15))
    smooth[functional.max_pool2d(filled, (31, 1), stride=1, padding=(15, 0))[:, 0] > 0] = -1
    axis = torch.arange(CROP, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    border = ((grid < 18) | (grid > CROP - 19)).any(dim=-1)
    smooth[:, border] = -1
    taken = torch.from_numpy(data.objects)
    found = []
    # A blended piece reaches 26 pixels from its centre, and half a mitosis measures 16.
    for crop, index in torch.nonzero(taken[..., 2] == 1).tolist():
        smooth[crop, (grid - taken[crop, index, :2]).norm(dim=-1) < 42] = -1
    for _ in range(3):
        value, darkest = smooth.flatten(1).max(dim=1)
        place = torch.stack([darkest % CROP, darkest // CROP], dim=1).float()
        # If no candidate is left, use a corner, which contains no part of the central mitosis.
        place[value < 0] = 28.0
        found.append(place)
        smooth[((grid[None] - place[:, None, None]).abs() < 14).all(dim=-1)] = -1
    return torch.stack(found, dim=1)


def tissue_cells(pixels: NDArray[np.uint8], side: int) -> NDArray[np.bool_]:
    """Return which squares of an image show tissue rather than glass.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.
    side
        Side of a square in pixels, a multiple of 4.

    Returns
    -------
    numpy.ndarray
        ``(H // side, W // side)`` bool.  Glass is bright and colourless; a square with 15 % coloured pixels counts
        as tissue.
    """
    # Every fourth pixel is enough.
    coarse, cell = pixels[::4, ::4].astype(np.int16), side // 4
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    red, green, blue = coarse[: rows * cell, : columns * cell].transpose(2, 0, 1)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    result: NDArray[np.bool_] = (spread > 24).reshape(rows, cell, columns, cell).mean(axis=(1, 3)) > 0.15
    return result


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply small matrices with vectors elementwise, which is faster than a batched product of millions of them."""
    return (matrices * vectors[..., None, :]).sum(dim=-1)


def _overlap(centre: Tensor, side: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the fraction of each square inside its rectangle."""
    half = side[..., None] / 2
    inside = (torch.minimum(centre + half, high) - torch.maximum(centre - half, low)).clamp(min=0)
    return inside.prod(dim=-1) / side**2


def _jpeg_blocks(images: Tensor, coarse: Tensor) -> Tensor:
    """Quantise 8 x 8 blocks as JPEG does, in YCbCr; ``coarse`` scales the standard quantisation table."""
    device = images.device
    to_ycc = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], device=device)
    k = torch.arange(8, device=device, dtype=torch.float32)
    cosine = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) / 2
    cosine[0] /= math.sqrt(2)
    count, _, height, width = images.shape
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, images * 255)
    blocks = ycc.view(count, 3, height // 8, 8, width // 8, 8)
    spectrum = torch.einsum("ux,bcixjy,vy->bciujv", cosine, blocks, cosine)
    table = (_QUANTISATION.to(device) * coarse[:, None, None]).clamp(min=1)[:, None, None, :, None, :]
    spectrum = (spectrum / table).round() * table
    ycc = torch.einsum("ux,bciujv,vy->bcixjy", cosine, spectrum, cosine).reshape(count, 3, height, width)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), ycc) / 255
