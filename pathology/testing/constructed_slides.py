"""Whole slides assembled from labelled tiles, with a known class map.

Labelled real tiles are available, but few public slides are fully annotated.  A constructed slide tests the whole path
from a slide file to class fractions, heatmap and prediction against known ground truth.  It cannot test transitions
between tiles: tissue here changes class at straight borders, and several squares may come from one tile.

Tiles may be real (:func:`pathology.training.tile_classifier.osteosarcoma.read_osteosarcoma`) or drawn
(:func:`drawn_tiles`); all tiles of a slide come from one patient, so a split by patient also splits the pixels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathology.errors import UsageError
from pathology.testing.synthetic_slides import write_tiff
from pathology.testing.synthetic_tissue import TISSUE_KINDS, Picture, tissue_tile
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles, tissue_shares

__all__ = ["ConstructedSlide", "construct_cohort", "construct_slide", "drawn_tiles", "read_truth"]

_GLASS: Final = 244
"""Brightness of bare glass, as in :mod:`pathology.testing.synthetic_tissue`."""
_NO_TISSUE: Final = -1


@dataclass(frozen=True)
class ConstructedSlide:
    """A slide with known classes at every position.

    Attributes
    ----------
    slide_id, patient_id
        Ids of the slide and its patient.
    path
        The pyramidal TIFF.
    label
        Class with the largest tissue area.
    classes
        Names, in the order of the map's class indices.
    mpp
        Micrometres per pixel of level 0.
    cell
        Side of a square of the map, in level-0 pixels.
    origin
        Level-0 position ``(x, y)`` of the map's first square.
    map
        ``(rows, columns)`` int class of each square, -1 for glass.
    tissue
        ``(rows, columns)`` tissue fraction of each square, 0 to 1.
    """

    slide_id: str
    patient_id: str
    path: Path
    label: str
    classes: tuple[str, ...]
    mpp: float
    cell: int
    origin: tuple[int, int]
    map: NDArray[np.int64]
    tissue: NDArray[np.float64]

    def shares(self) -> dict[str, float]:
        """Return the fraction of the tissue area of each class; they sum to 1."""
        areas = np.array([self.tissue[self.map == k].sum() for k in range(len(self.classes))])
        return {name: float(area / areas.sum()) for name, area in zip(self.classes, areas, strict=True)}

    def class_at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the class at level-0 positions, -1 on glass.

        Parameters
        ----------
        x, y
            ``(N,)`` level-0 pixels.
        """
        column = np.floor((np.asarray(x) - self.origin[0]) / self.cell).astype(int)
        row = np.floor((np.asarray(y) - self.origin[1]) / self.cell).astype(int)
        rows, columns = self.map.shape
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        found = self.map[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)]
        return np.asarray(np.where(inside, found, _NO_TISSUE), np.int64)


class _Mosaic(Picture):
    """Squares cut from tiles, rotated and mirrored, on glass."""

    def __init__(
        self, squares: Sequence[Sequence[NDArray[np.uint8] | None]], cell: int, margin: int, seed: int
    ) -> None:
        self._squares, self._cell, self._margin = squares, cell, margin
        self.height = len(squares) * cell + 2 * margin
        self.width = len(squares[0]) * cell + 2 * margin
        # Sensor noise, so that glass is not perfectly flat; repeated with a prime period.
        self._grain = np.random.default_rng((seed, 3)).normal(0, 1.2, (509, 509)).astype(np.float32)

    def window(self, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        grain = self._grain[np.ix_(np.arange(y, y + h) % 509, np.arange(x, x + w) % 509)]
        pixels = np.repeat(np.clip(np.rint(_GLASS + grain), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        cell, margin = self._cell, self._margin
        for row in range(max(0, (y - margin) // cell), min(len(self._squares), -(-(y + h - margin) // cell))):
            for column in range(max(0, (x - margin) // cell), min(len(self._squares[0]), -(-(x + w - margin) // cell))):
                square = self._squares[row][column]
                if square is None:
                    continue
                top, left = row * cell + margin, column * cell + margin
                t, b, le, r = max(top, y), min(top + cell, y + h), max(left, x), min(left + cell, x + w)
                pixels[t - y : b - y, le - x : r - x] = square[t - top : b - top, le - left : r - left]
        return pixels


def construct_slide(
    path: Path,
    tiles: LabelledTiles,
    *,
    patient: str,
    shares: Mapping[str, float],
    rows: int = 6,
    columns: int = 8,
    cell: int = 512,
    margin: int = 384,
    mpp: float = 1.0,
    factors: Sequence[int] = (1, 4),
    seed: int = 0,
) -> ConstructedSlide:
    """Write a slide from one patient's tiles, and its ground truth next to it (``<name>.truth.json``).

    Classes form connected areas: they are level sets of a smooth random field.  Each square of the map is cut from a
    random tile of its class at a random position, and randomly rotated and mirrored.

    Parameters
    ----------
    path
        The slide to write, ``.tiff``; its stem becomes the slide's id.
    tiles
        Tiles to cut squares from.
    patient
        Only tiles of this patient are used.
    shares
        Target fraction of squares per class; other classes do not occur.  They need not sum to 1.
    rows, columns
        Size of the map in squares.
    cell
        Side of a square in pixels, at most that of the tiles.
    margin
        Glass around the map, in pixels.
    mpp
        Micrometres per pixel of the tiles, written into the file.
    factors
        Reduction of each level of the pyramid, the first 1.
    seed
        The same seed gives the same slide.

    Raises
    ------
    UsageError
        If the patient has no tile of a requested class, or the squares are larger than the tiles.
    """
    random = np.random.default_rng(seed)
    side = min(tiles.pixels.shape[1:3])
    if cell > side:
        raise UsageError(f"cell is {cell} px, larger than the tiles ({side} px)")
    wanted = {tiles.classes.index(name): share for name, share in shares.items() if share > 0}
    of_patient = np.asarray(tiles.patients) == patient
    sources = {k: np.flatnonzero(of_patient & (tiles.labels == k)) for k in wanted}
    for k, found in sources.items():
        if not len(found):
            raise UsageError(f"patient {patient} has no tile of class {tiles.classes[k]!r}")

    classes = _areas(rows, columns, wanted, random)
    squares: list[list[NDArray[np.uint8] | None]] = []
    tissue = np.zeros((rows, columns))
    for row in range(rows):
        squares.append([])
        for column in range(columns):
            k = int(classes[row, column])
            if k == _NO_TISSUE:
                squares[-1].append(None)
                continue
            tile = tiles.pixels[random.choice(sources[k])]
            top, left = random.integers(0, tile.shape[0] - cell + 1), random.integers(0, tile.shape[1] - cell + 1)
            square = np.rot90(tile[top : top + cell, left : left + cell], int(random.integers(4)))
            square = np.ascontiguousarray(square[:, ::-1] if random.random() < 0.5 else square)
            tissue[row, column] = float(tissue_shares(square, cell, [0], [0])[0, 0])
            squares[-1].append(square)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tiff(path, _Mosaic(squares, cell, margin, seed), compression="jpeg", quality=90, factors=factors, mpp=mpp)
    areas = np.array([tissue[classes == k].sum() for k in range(len(tiles.classes))])
    slide = ConstructedSlide(
        slide_id=path.stem,
        patient_id=patient,
        path=path,
        label=tiles.classes[int(areas.argmax())],
        classes=tiles.classes,
        mpp=mpp,
        cell=cell,
        origin=(margin, margin),
        map=classes,
        tissue=tissue,
    )
    _write_truth(slide)
    return slide


def construct_cohort(
    folder: Path,
    tiles: LabelledTiles,
    *,
    slides_per_patient: int = 2,
    rows: int = 4,
    columns: int = 5,
    cell: int = 512,
    margin: int = 256,
    mpp: float = 1.0,
    seed: int = 0,
) -> tuple[ConstructedSlide, ...]:
    """Write slides of all patients of a tile set, their ground truth, and ``labels.csv``.

    Each slide is a random mixture of its patient's classes; the dominant class alternates.  ``labels.csv`` has
    the columns ``path`` (relative), ``slide_id``, ``patient_id`` and ``label`` (class with the largest area).

    Parameters
    ----------
    folder
        Output folder; slides are written directly to it.
    tiles
        Real or drawn.
    slides_per_patient
        Number of slides per patient.
    rows, columns, cell, margin, mpp
        As for :func:`construct_slide`.
    seed
        The same seed gives the same slides.
    """
    made: list[ConstructedSlide] = []
    for number, patient in enumerate(sorted(set(tiles.patients))):
        of_patient = np.asarray(tiles.patients) == patient
        present = [k for k in range(len(tiles.classes)) if (of_patient & (tiles.labels == k)).any()]
        for k in range(slides_per_patient):
            random = np.random.default_rng((seed, number, k))
            mixture = random.dirichlet(np.ones(len(present)))
            # The dominant class gets at least half, so that the slide's label is unambiguous.
            leading = k % len(present)
            mixture = 0.45 * mixture
            mixture[leading] += 0.55
            name = f"{patient.replace(' ', '_')}-{k + 1}"
            made.append(
                construct_slide(
                    folder / f"{name}.tiff",
                    tiles,
                    patient=patient,
                    shares={tiles.classes[c]: float(m) for c, m in zip(present, mixture, strict=True)},
                    rows=rows,
                    columns=columns,
                    cell=cell,
                    margin=margin,
                    mpp=mpp,
                    seed=int(random.integers(2**31)),
                )
            )
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "slide_id", "patient_id", "label"])
        table.writerows([slide.path.name, slide.slide_id, slide.patient_id, slide.label] for slide in made)
    return tuple(made)


def read_truth(path: Path) -> ConstructedSlide:
    """Read the ground truth written by :func:`construct_slide`.

    Parameters
    ----------
    path
        The slide.
    """
    saved = json.loads(_truth_path(path).read_text(encoding="utf-8"))
    return ConstructedSlide(
        slide_id=path.stem,
        patient_id=saved["patient_id"],
        path=path,
        label=saved["label"],
        classes=tuple(saved["classes"]),
        mpp=saved["mpp"],
        cell=saved["cell"],
        origin=(saved["origin"][0], saved["origin"][1]),
        map=np.asarray(saved["map"], np.int64),
        tissue=np.asarray(saved["tissue"], np.float64),
    )


def drawn_tiles(
    classes: Sequence[str],
    patients_per_class: int,
    *,
    tiles_per_patient: int = 3,
    side: int = 256,
    mpp: float = 1.0,
    background: bool = False,
    seed: int = 0,
) -> LabelledTiles:
    """Draw tiles of several patients, for tests without real data.

    Each class is a different kind of tissue, and each patient has a different stain intensity.

    Parameters
    ----------
    classes
        At most as many as there are kinds of tissue (:data:`pathology.testing.synthetic_tissue.TISSUE_KINDS`).
    patients_per_class
        Number of patients per tumour class.
    tiles_per_patient
        Number of tiles per patient and class.
    side
        Side of a tile in pixels.
    mpp
        Micrometres per pixel.
    background
        Whether every patient also has tiles of the last class, like stroma next to every tumour; the last class is
        then not a tumour class.
    seed
        The same seed gives the same tiles.

    Raises
    ------
    UsageError
        If more classes are requested than can be drawn.
    """
    if len(classes) > len(TISSUE_KINDS):
        raise UsageError(f"{len(classes)} classes requested, but only {len(TISSUE_KINDS)} kinds of tissue can be drawn")
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    patients: list[str] = []
    names: list[str] = []
    last = len(classes) - 1
    for tumour in range(last if background else last + 1):
        for number in range(patients_per_class):
            patient = f"patient-{tumour * patients_per_class + number + 1:02d}"
            random = np.random.default_rng((seed, tumour, number))
            stain = (float(random.uniform(0.8, 1.25)), float(random.uniform(0.8, 1.25)))
            for k in (tumour, last) if background else (tumour,):
                for index in range(tiles_per_patient):
                    pixels.append(
                        tissue_tile(TISSUE_KINDS[k], side, mpp=mpp, seed=int(random.integers(2**31)), stain=stain)
                    )
                    labels.append(k)
                    patients.append(patient)
                    names.append(f"{patient}-{classes[k]}-{index}")
    return LabelledTiles(
        np.stack(pixels), np.asarray(labels, np.int64), tuple(classes), tuple(patients), tuple(patients), tuple(names)
    )


def _areas(rows: int, columns: int, wanted: Mapping[int, float], random: np.random.Generator) -> NDArray[np.int64]:
    """Lay out connected areas of the given sizes within a rounded outline."""
    down, across = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    outline = np.hypot(down, across) + 0.15 * random.normal(size=(rows, columns))
    tissue = outline <= np.quantile(outline, 0.85)
    field = ndimage.gaussian_filter(random.normal(size=(rows, columns)), max(rows, columns) / 6)
    places = np.argwhere(tissue)[np.argsort(field[tissue], kind="stable")]
    order = list(wanted)
    random.shuffle(order)
    share = np.cumsum([wanted[k] for k in order]) / sum(wanted.values())
    bounds = [0, *np.rint(share * len(places)).astype(int).tolist()]
    classes = np.full((rows, columns), _NO_TISSUE, np.int64)
    for k, begin, end in zip(order, bounds, bounds[1:], strict=False):
        classes[tuple(places[begin:end].T)] = k
    return classes


def _truth_path(slide: Path) -> Path:
    return slide.with_name(f"{slide.stem}.truth.json")


def _write_truth(slide: ConstructedSlide) -> None:
    content = {
        "slide_id": slide.slide_id,
        "patient_id": slide.patient_id,
        "label": slide.label,
        "classes": slide.classes,
        "mpp": slide.mpp,
        "cell": slide.cell,
        "origin": slide.origin,
        "map": slide.map.tolist(),
        "tissue": np.round(slide.tissue, 6).tolist(),
        "shares": slide.shares(),
    }
    _truth_path(slide.path).write_text(json.dumps(content), encoding="utf-8")
