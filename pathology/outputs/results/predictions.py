"""``predictions.zarr``: a slide's patches, their probabilities, and the masks over the whole slide."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from pathology.atomic_files import output_error
from pathology.errors import StoreError
from pathology.outputs.figures.heatmap import Heatmap, build_heatmap
from pathology.outputs.results.layout import PREDICTIONS
from pathology.outputs.results.record import check_files

if TYPE_CHECKING:
    from pathology.findings.scored_slide import ScoredSlide

__all__ = ["read_heatmap", "read_masks", "read_unread_patches", "write_predictions"]

_MASK = "_mask"
"""Suffix of the names of masks."""
_MOST_BYTES = 2 * 2**30
"""Largest array that is read: four million patches of a hundred classes are 1.6 GB."""


def write_predictions(folder: Path, scored: ScoredSlide) -> None:
    """Write the patches of a slide, their probabilities and the masks over the slide, completely or not at all.

    Raises
    ------
    OutputError
        If they cannot be written.
    """
    path, plan, result = folder / PREDICTIONS, scored.plan, scored.result
    aside = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        arrays: dict[str, NDArray[Any]] = {
            "coords": plan.coords,
            "probabilities": scored.probabilities,
            "tissue": plan.tissue,
        }
        if scored.domain_scores is not None:
            arrays["domain_score"] = np.asarray(scored.domain_scores, np.float32)
        if scored.attention is not None:
            arrays["attention"] = np.asarray(scored.attention, np.float32)
        arrays |= {f"{name}{_MASK}": mask for name, mask in scored.masks.items()}
        for name, values in arrays.items():
            # About 8 MB per chunk: one file for most slides, and no chunk too large to read at once.
            rows = max(1, min(len(values), 2**23 // max(1, values[:1].nbytes)))
            chunks = (rows, *(max(1, n) for n in values.shape[1:]))
            array = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=chunks,
                compressors=[ZstdCodec(), Crc32cCodec()],
                # Otherwise chunks of zeros would be omitted and could not be distinguished from lost ones.
                config={"write_empty_chunks": True},
            )
            array[...] = values
        group.attrs.update(
            {
                "classes": list(scored.card.classes),
                "model": result.model,
                "model_sha256": result.model_sha256,
                "slide_id": result.slide_id,
                "fingerprint": result.fingerprint,
                "dimensions": list(plan.grid.dimensions),
                "mpp": plan.grid.slide_mpp,
                "patch_extent": plan.grid.patch_extent,
                "stride": plan.grid.settings.stride * plan.grid.scale,
                "grid": plan.grid.settings.model_dump(mode="json"),
                "research_use_only": True,
            }
        )
        shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
    except OSError as error:
        raise output_error(error, path) from error


def read_heatmap(folder: Path) -> tuple[Heatmap, NDArray[np.bool_]]:
    """Return the heatmap and the tissue mask of a scored slide.

    Raises
    ------
    StoreError
        If the folder contains no predictions.
    """
    group = _predictions(folder)

    def array(name: str) -> NDArray[Any]:
        return _bounded(group[name], folder)

    attributes: dict[str, Any] = dict(group.attrs)
    heatmap = build_heatmap(
        array("coords"),
        array("probabilities"),
        array("tissue"),
        classes=attributes["classes"],
        extent=attributes["patch_extent"],
        stride=attributes["stride"],
    )
    return heatmap, array("tissue_mask")


def read_unread_patches(folder: Path) -> tuple[NDArray[np.int32], float, NDArray[np.bool_]]:
    """Return corners ``(N, 2)`` and side of the patches in level-0 pixels, and ``(N,)`` which could not be read.

    Raises
    ------
    StoreError
        If the folder contains no predictions.
    """
    group = _predictions(folder)
    unread = np.isnan(_bounded(group["probabilities"], folder)).any(axis=1)
    return _bounded(group["coords"], folder), float(group.attrs["patch_extent"]), unread


def read_masks(folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Return the masks over the whole slide by name: ``tissue`` first, then the artefacts.

    Raises
    ------
    StoreError
        If the folder contains no predictions.
    """
    group = _predictions(folder)
    names = sorted(name.removesuffix(_MASK) for name in group.array_keys() if name.endswith(_MASK))
    names.sort(key=lambda name: name != "tissue")
    return {name: _bounded(group[f"{name}{_MASK}"], folder).astype(bool, copy=False) for name in names}


def _bounded(array: Any, folder: Path) -> NDArray[Any]:  # noqa: ANN401 - a zarr array
    """Read an array whole, unless the size it states, which may be anybody's, is one that no slide has."""
    if array.nbytes > _MOST_BYTES:
        raise StoreError(f"the array {array.basename} is stated to hold {array.nbytes / 2**30:,.0f} GiB", where=folder)
    return np.asarray(array[...])


def _predictions(folder: Path) -> Any:  # noqa: ANN401 - zarr groups contain arrays and groups
    if not (folder / PREDICTIONS).exists():
        raise StoreError("no predictions found", where=folder, remedy="Score the slide first")
    check_files(folder, PREDICTIONS)
    try:
        return zarr.open_group(folder / PREDICTIONS, mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise StoreError("no predictions found", where=folder, remedy="Score the slide first") from error
