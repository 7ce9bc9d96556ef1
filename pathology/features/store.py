"""Our own feature store: zarr v3, one a slide, float16, sharded."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from pathology.errors import OutputError, StoreError
from pathology.features.slide_features import SlideFeatures

__all__ = ["open_store", "store_attributes", "write_store"]

_CHUNK_ROWS: Final = 512
_SHARD_ROWS: Final = 16_384
_KIND: Final = "pathology-features"


def store_attributes(path: Path) -> dict[str, Any] | None:
    """Return what a store says of itself; ``None`` if there is no complete store."""
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, ValueError, zarr.errors.GroupNotFoundError):
        return None
    return attributes if attributes.get("kind") == _KIND else None


def write_store(
    path: Path,
    coords: NDArray[np.integer],
    vectors: Iterable[NDArray[np.floating]],
    vector: int,
    attributes: Mapping[str, Any],
) -> None:
    """Write a store aside and rename it, so that its presence means it is whole.

    Parameters
    ----------
    path
        The store; replaced if it exists.
    coords
        ``(N, 2)`` level-0 corners.
    vectors
        Parts ``(n, D)`` in the order of ``coords``; held one shard at a time.
    vector
        ``D``.
    attributes
        What the features are: encoder, scale, patch size, slide.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        count = len(coords)
        array = group.create_array(
            "features",
            shape=(count, vector),
            dtype="float16",
            chunks=(_CHUNK_ROWS, vector),
            shards=(_SHARD_ROWS, vector),
        )
        written = 0
        for rows in _regrouped(vectors, _SHARD_ROWS):
            array[written : written + len(rows)] = rows
            written += len(rows)
        if written != count:
            raise ValueError(f"{written} vectors for {count} patches")
        place = group.create_array("coords", shape=(count, 2), dtype="int32", chunks=(max(1, count), 2))
        place[...] = coords.astype(np.int32)
        group.attrs.update({"kind": _KIND, **attributes})
        shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise OutputError(f"the features cannot be written ({error.strerror or error})", where=path) from error


def _regrouped(parts: Iterable[NDArray[np.floating]], rows: int) -> Iterable[NDArray[np.float16]]:
    """Yield the same rows in whole shards, so that each shard is written once."""
    waiting: list[NDArray[np.float16]] = []
    count = 0
    for part in parts:
        waiting.append(part.astype(np.float16))
        count += len(part)
        while count >= rows:
            joined = np.concatenate(waiting)
            yield joined[:rows]
            waiting, count = [joined[rows:]], count - rows
    if count:
        yield np.concatenate(waiting)


def open_store(path: Path) -> SlideFeatures:
    """Open a store written by :func:`write_store`.

    Raises
    ------
    StoreError
        If it is missing, incomplete or damaged.
    """
    attributes = store_attributes(path)
    try:
        if attributes is None:
            raise KeyError("no attributes")
        group: Any = zarr.open_group(path, mode="r")
        array, coords = group["features"], np.asarray(group["coords"][...], np.int64)
        return SlideFeatures(
            path=path,
            slide_id=str(attributes["slide_id"]),
            made_by="pathology",
            encoder=str(attributes["encoder"]["encoder"]),
            weights_sha256=str(attributes["encoder"]["weights_sha256"]),
            count=int(array.shape[0]),
            vector=int(array.shape[1]),
            coords=coords,
            patch_level0=float(attributes["patch_level0"]),
            mpp=float(attributes["mpp"]),
            fingerprint=str(attributes["fingerprint"]),
            _read=lambda rows: array[rows],
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            "no complete feature store", where=path, remedy="Compute it again: pathology features"
        ) from error
