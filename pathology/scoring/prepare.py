"""Preparation of a slide before its patches are read: scale, tissue, artefacts, patches, stain."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pathology.errors import NoTissueError
from pathology.memory import give_back_freed_memory
from pathology.settings import GridSettings, QualitySettings, TissueSettings
from pathology.slide.readers.base import SlideReader
from pathology.slide.scale import Scale, resolve_mpp
from pathology.slide.stain.normalise import StainMethod, StainNormaliser, fit_stain, sample_tissue
from pathology.slide.thumbnail import Thumbnail, thumbnail
from pathology.slide.tissue.detect import TissueMask, find_tissue, mask_mpp
from pathology.slide.tissue.quality import ARTEFACTS, SlideQuality, find_quality
from pathology.slide.tissue.unreadable import check_unreadable
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.patch_quality import PatchQuality
from pathology.tiling.plan import TilePlan, plan_tiles

__all__ = ["PreparedSlide", "Region", "Stain", "prepare", "write_quality_picture"]

Stain = Literal["none"] | StainMethod
"""A stain normalisation, or none."""

Region = Callable[[tuple[int, int], tuple[int, int]], NDArray[np.bool_]]
"""Maps ``(rows, columns)`` of a mask and ``(width, height)`` of the slide in level-0 pixels to a search mask."""


_MAGNIFIED = 0.8
"""Level-0 pixels per patch pixel below which patches count as upsampled.  Scanners with the same objective differ by
less: 0.22 to 0.28 µm per pixel at 40x."""


@dataclass(frozen=True)
class PreparedSlide:
    """A slide with its selected patches.

    Attributes
    ----------
    scale
        Its micrometres per pixel and their source.
    overview
        The slide at the scale of the tissue mask.
    tissue
        Its tissue mask.
    quality
        Its artefact masks; ``None`` without artefact detection.
    plan
        Its patches; at least one.
    stain
        Its stain normalisation; ``None`` without normalisation.
    whole_tissue_mm2
        Area of all tissue in mm² if only part of it is searched, else ``None``.
    reader_warnings
        What was notable in reading the file.
    """

    scale: Scale
    overview: Thumbnail
    tissue: TissueMask
    quality: SlideQuality | None
    plan: TilePlan
    stain: StainNormaliser | None
    whole_tissue_mm2: float | None = None
    reader_warnings: tuple[str, ...] = ()

    @property
    def tissue_mm2(self) -> float:
        """Area of tissue in mm²."""
        width, height = self.plan.grid.dimensions
        return float(self.tissue.mask.mean() * width * height * (self.scale.mpp / 1000) ** 2)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the reader of the results."""
        warnings = [self.scale.warning] if self.scale.warning else []
        warnings += self.reader_warnings
        if self.plan.grid.scale < _MAGNIFIED:
            warnings.append(
                f"The slide was scanned at {self.scale.mpp:.3g} µm per pixel and the model expects "
                f"{self.plan.grid.settings.mpp:.3g}: patches were upsampled {1 / self.plan.grid.scale:.1f} times and "
                "lack detail that the model was trained on"
            )
        if self.plan.excluded is not None and len(self.plan.excluded):
            warnings.append(_exclusions(self.plan))
        if self.whole_tissue_mm2 is not None:
            warnings.append(
                f"Searched only the tumour region of the given map: {self.tissue.area_mm2:.2f} of "
                f"{self.whole_tissue_mm2:.2f} mm² of tissue"
            )
        return tuple(warnings)


def prepare(
    reader: SlideReader,
    *,
    option_mpp: float | None,
    manifest_mpp: float | None,
    tissue: TissueSettings,
    quality: QualitySettings | None,
    grid: Callable[[float], GridSettings],
    stain: Stain,
    region: Region | None = None,
    max_unreadable: float = 0.2,
) -> PreparedSlide:
    """Detect a slide's tissue, select its patches and fit its stain normalisation.

    Parameters
    ----------
    reader
        The slide.
    option_mpp, manifest_mpp
        Micrometres per level-0 pixel given by the caller and in the manifest.
    tissue, quality
        Settings of tissue and artefact detection; without quality settings, patches with artefacts are kept.
    grid
        Returns the grid for the slide's micrometres per level-0 pixel.
    stain
        Stain normalisation to fit, on pixels sampled from the tissue.
    region
        Part of the tissue to search; ``None``: all of it.
    max_unreadable
        Largest unreadable fraction of the tissue area, 0 to 1.

    Raises
    ------
    CorruptSlideError
        If more of the tissue cannot be read.
    NoTissueError
        If no patch contains enough tissue, every such patch has artefacts, none lies in the region to search, or too
        little tissue is stained for a fit.
    SlideError
        If the scale is unknown or implausible.
    """
    scale = resolve_mpp(reader, option=option_mpp, manifest=manifest_mpp)
    overview = thumbnail(reader, scale.mpp, mask_mpp(reader.dimensions, scale.mpp, tissue))
    found = find_tissue(overview.pixels, overview.mpp, tissue, overview.unreadable_mask(reader.dimensions))
    give_back_freed_memory()
    check_unreadable(found.area_mm2, found.unreadable_tissue_mm2, max_unreadable, where=reader.path)
    whole = found.area_mm2 if region is not None else None
    if region is not None and found.mask.any():
        rows, columns = found.mask.shape
        found = replace(found, mask=found.mask & region((rows, columns), reader.dimensions))
        if not found.mask.any():
            raise NoTissueError("the given tumour map contains no tumour in this slide's tissue")
    artefacts = find_quality(reader, scale.mpp, overview, found, quality) if quality is not None else None
    give_back_freed_memory()
    limits = (
        PatchQuality(artefacts, reader.dimensions, quality) if artefacts is not None and quality is not None else None
    )
    plan = plan_tiles(
        Grid(grid(scale.mpp), reader.dimensions, scale.mpp), TissueShare(found.mask, reader.dimensions), limits
    )
    if not len(plan):
        if plan.excluded is not None and len(plan.excluded):
            raise NoTissueError(
                f"every tissue patch has artefacts: {_exclusions(plan)}",
                remedy="Inspect the quality image; --no-quality keeps patches with artefacts",
            )
        raise NoTissueError(
            "no tissue was found" if not found.mask.any() else "no patch contains enough tissue",
            remedy="Inspect the slide; if it contains tissue, lower --min-tissue",
        )
    normaliser = None
    if stain != "none":
        pixels = sample_tissue(reader, scale.mpp, found)
        normaliser = StainNormaliser(fit_stain(pixels, stain, source=reader.fingerprint))
    return PreparedSlide(scale, overview, found, artefacts, plan, normaliser, whole, reader.warnings)


def _exclusions(plan: TilePlan) -> str:
    """Return how many patches were excluded, with counts by artefact, most frequent first."""
    assert plan.excluded is not None
    counts = plan.excluded.over.sum(axis=0)
    reasons = ", ".join(f"{ARTEFACTS[i]} {counts[i]}" for i in np.argsort(-counts, kind="stable") if counts[i])
    return f"{len(plan.excluded)} of {len(plan) + len(plan.excluded)} patches were excluded for artefacts ({reasons})"


def write_quality_picture(path: Path, prepared: PreparedSlide, title: str) -> None:
    """Write an image of the tissue and the artefacts, or remove an outdated one if artefact detection is off.

    Parameters
    ----------
    path
        The PNG file.
    prepared
        The slide.
    title
        Its name.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    from pathology.atomic_files import write_bytes
    from pathology.outputs.figures.quality import quality_picture

    if prepared.quality is None:
        path.unlink(missing_ok=True)
        return
    buffer = io.BytesIO()
    quality_picture(prepared.overview.pixels, prepared.quality, title=title).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())
