"""Penultimate features of slides, computed once and stored, for training aggregators."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pathology.bundle.catalogue import load_bundle
from pathology.errors import OutputError, StoreError
from pathology.inference.engines.base import outputs_per_patch
from pathology.scoring.select import select_slides
from pathology.settings import GridSettings, TissueSettings

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.engines.base import Engine
    from pathology.slide.readers.base import SlideReader

__all__ = ["SlideFeatures", "extract_features", "read_features"]


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """Features of a slide's patches.

    Attributes
    ----------
    coords
        ``(N, 2)`` int32 level-0 corners.
    features
        ``(N, F)`` float32, stored as float16.
    probabilities
        ``(N, C)`` float32 of the bundle's classifier.
    """

    coords: NDArray[np.int32]
    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def extract_features(
    slides: Sequence[str | PathLike[str]],
    model: str | Path,
    out: Path,
    *,
    engine: str = "auto",
    device: str | None = None,
    mpp: float | None = None,
    stride: int | None = None,
    progress: Callable[[str], None] = lambda _slide_id: None,
) -> dict[str, Path]:
    """Compute the features of slides, one store per slide; complete stores of the same model are kept.

    Parameters
    ----------
    slides
        Slide files, folders or CSV manifests.
    model
        A classifier's name or folder.
    out
        Folder for ``<slide_id>.zarr``.
    engine, device
        See :func:`pathology.inference.engines.select.make_engine`.
    mpp
        Micrometres per level-0 pixel, overriding files and manifests.
    stride
        Distance between patches in pixels at the model's scale; ``None``: the model's.
    progress
        Called with the id of each finished slide.

    Returns
    -------
    dict
        Store by slide id.

    Raises
    ------
    SlideError
        If a slide cannot be read: otherwise training would silently use an incomplete cohort.
    """
    from pathology.inference.engines.select import make_engine
    from pathology.slide.open import open_reader

    bundle = load_bundle(model)
    card = bundle.card
    grid = GridSettings(patch=card.patch, mpp=card.mpp, stride=stride or card.stride or card.patch)
    stores: dict[str, Path] = {}
    running: Engine | None = None
    try:
        for entry in select_slides(list(slides)):
            path = out / f"{entry.slide_id}.zarr"
            with open_reader(entry.path) as reader:
                about = {
                    "weights_sha256": card.weights_sha256,
                    "fingerprint": reader.fingerprint,
                    "grid": grid.model_dump(mode="json"),
                    "mpp": [mpp, entry.mpp],
                }
                if not _is_of(path, about):
                    running = running or make_engine(bundle, kind=engine, device=device, features=True)
                    _write(path, _computed(reader, bundle, running, grid, mpp, entry.mpp), about)
            stores[entry.slide_id] = path
            progress(entry.slide_id)
    finally:
        if running is not None:
            running.close()
    return stores


def read_features(path: Path) -> SlideFeatures:
    """Read the features written by :func:`extract_features`.

    Raises
    ------
    StoreError
        If the store does not exist.
    """
    try:
        group: Any = zarr.open_group(path, mode="r")
        return SlideFeatures(
            np.asarray(group["coords"][...]),
            np.asarray(group["features"][...], np.float32),
            np.asarray(group["probabilities"][...]),
        )
    except (FileNotFoundError, KeyError, zarr.errors.GroupNotFoundError) as error:
        raise StoreError("no features found", where=path, remedy="Extract them again") from error


def _computed(
    reader: SlideReader,
    bundle: Bundle,
    engine: Engine,
    grid: GridSettings,
    mpp: float | None,
    manifest_mpp: float | None,
) -> SlideFeatures:
    from pathology.inference.reading.pipeline import predict_blocks
    from pathology.inference.reading.threads import ReadingThreads
    from pathology.scoring.prepare import prepare
    from pathology.tiling.blocks import BlockReader

    slide = prepare(
        reader,
        option_mpp=mpp,
        manifest_mpp=manifest_mpp,
        tissue=TissueSettings(),
        quality=None,
        grid=lambda _: grid,
        stain=bundle.card.stain,
    )
    plan = slide.plan
    blocks = BlockReader(reader, plan.grid, slide.stain.apply if slide.stain is not None else None)
    outputs = np.full((len(plan.coords), engine.classes), np.nan, np.float32)
    with ReadingThreads(blocks, plan, 2) as source:
        order = list(range(len(plan.blocks)))
        for block in predict_blocks(engine.predict, engine.classes, engine.preferred_batch, source, plan, order):
            outputs[plan.of_block(block.k)] = block.probabilities
    readable = ~np.isnan(outputs).any(axis=1)
    classes = outputs_per_patch(bundle.card)
    features = outputs[readable, len(bundle.card.classes) + engine.extras - _width(bundle, engine) :]
    return SlideFeatures(plan.coords[readable], features, outputs[readable, :classes])


def _width(bundle: Bundle, engine: Engine) -> int:
    """Return how many of the engine's columns are features: all but probabilities and out-of-distribution score."""
    from pathology.inference.engines.base import extra_outputs

    return engine.extras - extra_outputs(bundle.card)


def _is_of(path: Path, about: dict[str, Any]) -> bool:
    try:
        return dict(zarr.open_group(path, mode="r").attrs) == about
    except (FileNotFoundError, ValueError, zarr.errors.GroupNotFoundError):
        return False


def _write(path: Path, found: SlideFeatures, about: dict[str, Any]) -> None:
    aside = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        for name, values in (
            ("coords", found.coords),
            ("features", found.features.astype(np.float16)),
            ("probabilities", found.probabilities),
        ):
            rows = max(1, min(len(values), 2**23 // max(1, values[:1].nbytes)))
            group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(rows, values.shape[1]))[...] = (
                values
            )
        group.attrs.update(about)
        shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write the features ({error.strerror})", where=path) from error
