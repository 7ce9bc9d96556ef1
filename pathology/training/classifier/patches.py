"""Training patches of labelled slides: cut by the tiling engine, tissue only, within regions if given."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from pathology.errors import InputTableError, SlideError
from pathology.evaluation.labels import LabelledSlide, LabelledSlides
from pathology.outputs.export.geojson import read_geojson
from pathology.progress import Progress
from pathology.scoring.tile import tile
from pathology.settings import GridSettings
from pathology.slide.open import open_reader
from pathology.tiling.store import PatchStore
from pathology.tiling.torch_dataset import ShuffledPatches
from pathology.training.classifier.patch_augmentation import change_patch
from pathology.training.classifier.recipe import AugmentationName, SlideRecipe

__all__ = ["SlidePatches", "TrainingPatches", "prepare_patches", "slide_fingerprints"]

Rows = NDArray[np.int64]

_SHOWN = 50
"""Most slides named in one message."""


@dataclass(frozen=True)
class SlidePatches:
    """Patch stores of labelled slides.

    Attributes
    ----------
    labelled
        Labelled slides.
    stores
        Store folder of each slide, in the same order.
    keep
        ``(N,)`` bool per store: the selected patches.
    """

    labelled: LabelledSlides
    stores: tuple[Path, ...]
    keep: tuple[NDArray[np.bool_], ...]

    def counts(self, rows: Rows) -> NDArray[np.int64]:
        """Return the number of selected patches per class among the given slides, shape (C,)."""
        result = np.zeros(len(self.labelled.classes), np.int64)
        for row in rows:
            result[self.labelled.slides[row].label] += int(self.keep[row].sum())
        return result

    def shuffled(
        self, rows: Rows, *, seed: int, part: tuple[int, int] = (0, 1), shuffle: bool = True
    ) -> ShuffledPatches:
        """Return the patches of the given slides as a data set of ``((P, P, 3) uint8, (position in rows, patch))``."""
        return ShuffledPatches(
            [self.stores[row] for row in rows],
            transform=_as_they_are,
            shuffle=shuffle,
            seed=seed,
            part=part,
            keep=[self.keep[row] for row in rows],
        )


def _as_they_are(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


class TrainingPatches(IterableDataset[tuple[Tensor, int]]):
    """Augmented patches in random order, with the class of their slide.

    Augmentation depends on seed, epoch, slide and patch, not on the number of loaders.

    Parameters
    ----------
    patches
        From :meth:`SlidePatches.shuffled`.
    labels
        Class index of each store.
    augmentation
        Name of the augmentation.
    seed
        Augmentation seed.
    """

    def __init__(
        self, patches: ShuffledPatches, labels: Sequence[int], augmentation: AugmentationName, seed: int
    ) -> None:
        super().__init__()
        self._patches, self._labels = patches, list(labels)
        self._augmentation, self._seed = augmentation, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which seeds order and augmentation; call before each pass."""
        self._epoch.fill_(epoch)
        self._patches.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of patches."""
        return len(self._patches)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Yield ``(P, P, 3)`` uint8 tensors and class indices."""
        epoch = int(self._epoch)
        for pixels, (store, patch) in self._patches:
            seed = np.random.SeedSequence((self._seed, epoch, store, patch)).generate_state(1)[0]
            changed = change_patch(pixels, self._augmentation, int(seed))
            yield torch.from_numpy(np.ascontiguousarray(changed)), self._labels[store]


def slide_fingerprints(labelled: LabelledSlides) -> list[str]:
    """Open every slide and return its fingerprint, to detect unreadable and duplicate slides before any work starts.

    Raises
    ------
    SlideError
        If slides cannot be opened; the message names all of them, so that one run finds what is to be repaired.
    """
    found, refused = [], []
    for slide in labelled.slides:
        try:
            with open_reader(slide.path) as reader:
                found.append(reader.fingerprint)
        except SlideError as error:
            refused.append(f"{slide.slide_id}: {error.what}")
    _refuse(refused, "cannot be opened")
    return found


def _refuse(refused: Sequence[str], what: str, where: Path | None = None) -> None:
    """Name every slide that cannot be used: training on the others would silently use an incomplete cohort."""
    if refused:
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise SlideError(
            f"{len(refused)} slides {what}: {'; '.join(refused[:_SHOWN])}{more}",
            where=where,
            remedy="Repair them or remove them from the label table",
        )


def prepare_patches(
    labelled: LabelledSlides,
    recipe: SlideRecipe,
    folder: Path,
    *,
    pixels: Literal["decoded", "reference"] = "decoded",
    mpp: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SlidePatches:
    """Tile labelled slides into patch stores; finished stores are reused.

    Parameters
    ----------
    labelled
        Labelled slides.
    recipe
        Patch size, resolution, stain normalisation, tissue fraction and maximum patches per slide; requires ``mpp``.
    folder
        Output folder of the stores.
    pixels
        ``decoded``: store stain-normalised pixels, about six times the size of the slides;
        ``reference``: store coordinates only and decode the slides in every epoch.
    mpp
        Level-0 micrometres per pixel of all slides; overrides files and manifests.
    seed
        Seed for patch sampling.
    workers
        Number of local processes.
    progress
        Progress callbacks.

    Raises
    ------
    SlideError
        If slides cannot be tiled or have no readable patch; the message names them.
    InputTableError
        If no patch lies within the regions of a slide.
    """
    assert recipe.mpp is not None
    grid = GridSettings(
        patch=recipe.patch,
        mpp=recipe.mpp,
        stride=recipe.stride or recipe.patch,
        min_tissue=recipe.min_tissue,
        block=max(2048, recipe.patch),
    )
    manifest = _manifest(labelled, folder)
    tiled = tile(manifest, folder, grid, mode=pixels, stain=recipe.stain, mpp=mpp, workers=workers, progress=progress)
    by_id = {result.slide_id: result for result in tiled}
    _refuse([f"{r.slide_id}: {r.error}" for r in tiled if r.error], "cannot be tiled", folder)
    stores, keep, empty = [], [], []
    for number, slide in enumerate(labelled.slides):
        result = by_id[slide.slide_id]
        with PatchStore.open(result.store) as store:
            used = store.readable & _in_regions(store, slide)
        if not used.any():
            empty.append(slide.slide_id)
        stores.append(result.store)
        keep.append(_draw(used, recipe.patches_per_slide, np.random.default_rng((seed, number))))
    _refuse(empty, "have no readable patch", folder)
    return SlidePatches(labelled, tuple(stores), tuple(keep))


def _manifest(labelled: LabelledSlides, folder: Path) -> Path:
    """Write the manifest for the tiling engine, with the slide IDs of the label table."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "slides.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "slide_id", "mpp"])
        table.writerows([slide.path.resolve(), slide.slide_id, slide.mpp or ""] for slide in labelled.slides)
    return path


def _in_regions(store: PatchStore, slide: LabelledSlide) -> NDArray[np.bool_]:
    """Patches with their centre in a region of the slide; all if it has none."""
    if slide.regions is None:
        return np.ones(len(store), bool)
    centres = store.coords + store.grid.patch_extent / 2
    inside = np.zeros(len(store), bool)
    for feature in read_geojson(slide.regions):
        for outer, *holes in feature.polygons:
            here = Outline(outer).contains_points(centres)
            for hole in holes:
                here &= ~Outline(hole).contains_points(centres)
            inside |= here
    if not inside.any():
        raise InputTableError(
            f"no patch of slide {slide.slide_id} lies within its regions",
            where=slide.regions,
            remedy="Check that the regions are in level-0 pixels and on tissue",
        )
    return inside


def _draw(used: NDArray[np.bool_], most: int | None, random: np.random.Generator) -> NDArray[np.bool_]:
    places = np.flatnonzero(used)
    if most is None or len(places) <= most:
        return used
    chosen = np.zeros_like(used)
    chosen[random.choice(places, most, replace=False)] = True
    return chosen
