"""Synthetic fields: real mitosis crops blended into real tissue at known positions.

Few public fields have every mitosis annotated, and none are of sarcoma.  A constructed field tests the whole pipeline
from pixels to a hotspot against known truth.  It cannot test the difficulty of real tissue: the surroundings of a
blended mitosis are not its own.  Therefore ordinary nuclei are blended in the same way, as decoys: a detector that has
learnt to detect blending finds both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathology.errors import UsageError
from pathology.training.detector.batches import ordinary_nuclei, tissue_cells
from pathology.training.detector.data import BOX, CROP, MitosisData

__all__ = ["ConstructedField", "blend", "construct_field"]

_CELL = 64


@dataclass(frozen=True)
class ConstructedField:
    """An image with known mitoses.

    Attributes
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.
    mitoses
        ``(M, 2)`` centres of blended mitoses, in pixels.
    decoys
        ``(D, 2)`` centres of blended ordinary nuclei.
    """

    pixels: NDArray[np.uint8]
    mitoses: NDArray[np.float64]
    decoys: NDArray[np.float64]


def blend(
    pixels: NDArray[np.uint8],
    crop: NDArray[np.uint8],
    source: tuple[float, float],
    place: tuple[int, int],
    *,
    radius: float = 20,
    softness: float = 4,
    adapt: float = 0.5,
) -> None:
    """Blend part of a crop into an image, in place.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB, changed.
    crop
        ``(128, 128, 3)`` uint8 RGB.
    source
        Centre of the part in the crop, x and y.
    place
        Position of that centre in the image, x and y; at least 40 pixels from the border.
    radius, softness
        Radius and edge softness of the circular mask, in pixels.
    adapt
        Fraction of the stain difference between the two surroundings to remove, 0 to 1.
    """
    half = int(radius + 3 * softness)
    x, y = place
    offset = np.arange(-half, half + 1)
    rows = np.clip(np.rint(source[1] + offset).astype(int), 0, CROP - 1)
    columns = np.clip(np.rint(source[0] + offset).astype(int), 0, CROP - 1)
    distance = np.hypot(offset[None, :], offset[:, None])
    alpha = (1 / (1 + np.exp((distance - radius) / softness)))[..., None]
    part = pixels[y - half : y + half + 1, x - half : x + half + 1]
    there = -np.log((part.astype(np.float64) + 1) / 256)
    here = -np.log((crop[np.ix_(rows, columns)].astype(np.float64) + 1) / 256)
    rim = np.abs(distance - radius) < softness
    factor = np.clip(there[rim].mean(axis=0) / np.maximum(here[rim].mean(axis=0), 0.05), 0.5, 2.0) ** adapt
    mixed = there * (1 - alpha) + here * factor * alpha
    part[:] = np.clip(np.rint(np.exp(-mixed) * 256 - 1), 0, 255).astype(np.uint8)


def construct_field(
    background: NDArray[np.uint8],
    data: MitosisData,
    *,
    mitoses: int,
    decoys: int,
    hotspot: tuple[int, int, float, float] | None = None,
    seed: int = 0,
) -> ConstructedField:
    """Blend mitoses and ordinary nuclei into an image.

    Parameters
    ----------
    background
        ``(H, W, 3)`` uint8 RGB at the resolution of the crops, without mitoses; not modified.
    data
        Crops of one part of the split.
    mitoses, decoys
        Numbers to blend in.
    hotspot
        ``(x, y, radius, share)``: fraction of the mitoses within a circle, in pixels; ``None``: all
        anywhere on tissue.
    seed
        Seed of crops and positions.

    Returns
    -------
    ConstructedField
        No two objects lie closer than 64 pixels.

    Raises
    ------
    UsageError
        If the tissue area is too small.
    """
    generator = np.random.default_rng(seed)
    pixels = background.copy()
    rows, columns = np.nonzero(tissue_cells(background, _CELL))
    # One object a cell, away from its border, keeps them apart.
    inner = (
        (rows > 0)
        & (columns > 0)
        & (rows < background.shape[0] // _CELL - 1)
        & (columns < background.shape[1] // _CELL - 1)
    )
    cells = np.stack([columns[inner], rows[inner]], axis=1)
    generator.shuffle(cells)
    chosen = _with_hotspot(cells, mitoses, hotspot, generator)
    free = np.array([c for c in cells.tolist() if tuple(c) not in {tuple(m) for m in chosen.tolist()}])
    if len(chosen) < mitoses or len(free) < decoys:
        raise UsageError(f"the tissue has room for {len(cells)} objects, {mitoses + decoys} requested")
    nuclei = ordinary_nuclei(data).numpy()
    places: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for kind, spots in enumerate((chosen, free[:decoys])):
        crops = generator.choice(len(data.crops), len(spots), replace=len(spots) > len(data.crops))
        for spot, index in zip(spots, crops, strict=True):
            place = tuple(int(v) for v in spot * _CELL + _CELL // 2)
            source = data.objects[index, 0, :2] if kind == 0 else nuclei[index, 0]
            crop = data.crops[index]
            blend(pixels, crop, (float(source[0]), float(source[1])), (place[0], place[1]))
            places[kind].append((place[0], place[1]))
    return ConstructedField(
        pixels, np.array(places[0], float).reshape(-1, 2), np.array(places[1], float).reshape(-1, 2)
    )


def _with_hotspot(
    cells: NDArray[np.intp],
    count: int,
    hotspot: tuple[int, int, float, float] | None,
    generator: np.random.Generator,
) -> NDArray[np.intp]:
    """Choose cells for the mitoses, a fraction of them within a circle."""
    if hotspot is None:
        return cells[:count]
    x, y, radius, share = hotspot
    centres = cells * _CELL + _CELL / 2
    near = np.hypot(*(centres - (x, y)).T) <= radius - BOX / 2
    inside = min(round(count * share), int(near.sum()))
    picked = np.concatenate([cells[near][:inside], cells[~near][: count - inside]])
    generator.shuffle(picked)
    return picked
