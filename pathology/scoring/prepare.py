"""What is done once for a slide before its patches are read: scale, tissue, quality, patches, stain."""

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
from pathology.slide.stain.normalise import StainMethod, StainNormaliser, fit_look, sample_tissue
from pathology.slide.thumbnail import Thumbnail, thumbnail
from pathology.slide.tissue.detect import TissueMask, find_tissue, mask_mpp
from pathology.slide.tissue.quality import ARTEFACTS, SlideQuality, find_quality
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.patch_quality import PatchQuality
from pathology.tiling.plan import TilePlan, plan_tiles

__all__ = ["PreparedSlide", "Region", "Stain", "prepare", "write_quality_picture"]

Stain = Literal["none"] | StainMethod
"""A stain normalisation, or none."""

Region = Callable[[tuple[int, int], tuple[int, int]], NDArray[np.bool_]]
"""From ``(rows, columns)`` of a mask and ``(width, height)`` of the slide in level-0 pixels to where to search."""


_MAGNIFIED = 0.8
"""Level-0 pixels per pixel of a patch below which patches are called magnified.  Scanners at one objective differ by
less: 0.22 to 0.28 µm per pixel at 40x."""


@dataclass(frozen=True)
class PreparedSlide:
    """A slide whose patches are chosen.

    Attributes
    ----------
    scale
        Its micrometres per pixel and where they come from.
    overview
        The slide at the scale of the tissue mask.
    tissue
        Its tissue.
    quality
        What spoils it; ``None`` where that was not looked for.
    plan
        Its patches; at least one.
    stain
        Changes its colours to the reference's; ``None`` where stain is left alone.
    whole_tissue_mm2
        Area of all tissue in mm² where only part of it is searched, else ``None``.
    """

    scale: Scale
    overview: Thumbnail
    tissue: TissueMask
    quality: SlideQuality | None
    plan: TilePlan
    stain: StainNormaliser | None
    whole_tissue_mm2: float | None = None

    @property
    def tissue_mm2(self) -> float:
        """Area of tissue in mm²."""
        width, height = self.plan.grid.dimensions
        return float(self.tissue.mask.mean() * width * height * (self.scale.mpp / 1000) ** 2)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results must know, in words."""
        said = [self.scale.warning] if self.scale.warning else []
        if self.plan.grid.scale < _MAGNIFIED:
            said.append(
                f"The slide has {self.scale.mpp:.3g} µm per pixel and the model works at "
                f"{self.plan.grid.settings.mpp:.3g}: patches were magnified {1 / self.plan.grid.scale:.1f} times and "
                "lack detail that the model learnt from"
            )
        if self.plan.left_out is not None and len(self.plan.left_out):
            said.append(_left_out_in_words(self.plan))
        if self.whole_tissue_mm2 is not None:
            said.append(
                f"Searched where the map given calls it tumour: {self.tissue.area_mm2:.2f} of "
                f"{self.whole_tissue_mm2:.2f} mm² of tissue"
            )
        return tuple(said)


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
) -> PreparedSlide:
    """Find a slide's tissue, choose its patches and fit its stain.

    Parameters
    ----------
    reader
        The slide.
    option_mpp, manifest_mpp
        Micrometres per level-0 pixel as given by the caller and by the manifest.
    tissue, quality
        How tissue is found, and when a patch is spoilt; no quality settings: spoilt patches are taken too.
    grid
        From the slide's micrometres per level-0 pixel to the grid wanted.
    stain
        Stain normalisation to fit, on pixels sampled from the tissue.
    region
        Where of the tissue to search; ``None``: everywhere.

    Raises
    ------
    NoTissueError
        If no patch holds enough tissue, every one that does is spoilt, none of it is to be searched, or too little
        tissue is stained to fit.
    SlideError
        If the scale is unknown or implausible.
    """
    scale = resolve_mpp(reader, option=option_mpp, manifest=manifest_mpp)
    overview = thumbnail(reader, scale.mpp, mask_mpp(reader.dimensions, scale.mpp, tissue))
    found = find_tissue(overview.pixels, overview.mpp, tissue)
    give_back_freed_memory()
    whole = found.area_mm2 if region is not None else None
    if region is not None and found.mask.any():
        rows, columns = found.mask.shape
        found = replace(found, mask=found.mask & region((rows, columns), reader.dimensions))
        if not found.mask.any():
            raise NoTissueError("the map given calls no tissue of this slide tumour")
    spoilt = find_quality(reader, scale.mpp, overview, found, quality) if quality is not None else None
    give_back_freed_memory()
    limits = PatchQuality(spoilt, reader.dimensions, quality) if spoilt is not None and quality is not None else None
    plan = plan_tiles(
        Grid(grid(scale.mpp), reader.dimensions, scale.mpp), TissueShare(found.mask, reader.dimensions), limits
    )
    if not len(plan):
        if plan.left_out is not None and len(plan.left_out):
            raise NoTissueError(
                f"every patch with tissue is spoilt: {_left_out_in_words(plan)}",
                remedy="Look at the quality picture; --no-quality takes spoilt patches too",
            )
        raise NoTissueError(
            "no tissue was found" if not found.mask.any() else "no patch holds enough tissue",
            remedy="Look at the slide; if it holds tissue, lower --min-tissue",
        )
    normaliser = None
    if stain != "none":
        pixels = sample_tissue(reader, scale.mpp, found)
        normaliser = StainNormaliser(fit_look(pixels, stain, source=reader.fingerprint))
    return PreparedSlide(scale, overview, found, spoilt, plan, normaliser, whole)


def _left_out_in_words(plan: TilePlan) -> str:
    """Return how many patches were left out, and for what most of them."""
    assert plan.left_out is not None
    counts = plan.left_out.over.sum(axis=0)
    reasons = ", ".join(f"{ARTEFACTS[i]} {counts[i]}" for i in np.argsort(-counts, kind="stable") if counts[i])
    return f"{len(plan.left_out)} of {len(plan) + len(plan.left_out)} patches were left out for quality ({reasons})"


def write_quality_picture(path: Path, prepared: PreparedSlide, title: str) -> None:
    """Write a picture of the tissue and of what was left out, or remove an old one where quality was not looked at.

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
