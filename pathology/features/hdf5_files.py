"""Feature files of TRIDENT, CLAM, STAMP and AtlasPatch in HDF5, told apart by their content.

The layouts are those of the programs' own writers, in 2026:

========== ================================================== ====================================================
program    features                                           coordinates
========== ================================================== ====================================================
TRIDENT    ``features`` (N, D), or (1, N, D) in older files   ``coords`` (N, 2), level-0 pixels, with attributes
CLAM       ``features`` (N, D)                                ``coords`` (N, 2), level-0 pixels, without scale
STAMP      ``feats`` (N, D)                                   ``coords`` (N, 2), micrometres
AtlasPatch group ``features`` with one dataset per encoder    ``coords`` (N, 5): x, y, width, height, level
========== ================================================== ====================================================

This is the one file that imports h5py for features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pathology.errors import OutputError, StoreError
from pathology.extras import missing_extra
from pathology.features.slide_features import SlideFeatures

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["encoders_in", "open_hdf5", "write_stamp", "write_trident"]

_AGAIN = "Compute the features again, or copy the file again"
_OBJECTIVE_MPP = 10.0
"""Micrometres per pixel of 1x: TRIDENT's and everyone's convention, 0.5 at 20x."""


def _h5py() -> Any:  # noqa: ANN401 - the module
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("feature files in HDF5 need h5py", "encoders") from error
    return h5py


def open_hdf5(path: Path, *, encoder: str | None = None, slide_mpp: float | None = None) -> SlideFeatures:
    """Open a feature file of another program.

    Parameters
    ----------
    path
        The file.
    encoder
        Which encoder's features to take from a file with several; ``None``: the only one.
    slide_mpp
        Micrometres per level-0 pixel of the slide, which turns STAMP's micrometres into pixels; without it, STAMP's
        coordinates are left out.

    Raises
    ------
    StoreError
        If the file is damaged, follows none of the layouts, or contradicts itself; the message says what is missing.
    MissingDependencyError
        If h5py is not installed.
    """
    try:
        with _h5py().File(path, "r") as file:
            if "feats" in file:
                return _stamp(path, file, slide_mpp)
            if "features" in file and hasattr(file["features"], "keys"):
                return _atlaspatch(path, file, encoder)
            if "features" in file:
                return _trident_or_clam(path, file)
            found = ", ".join(sorted(file)) or "nothing"
    except OSError as error:
        raise StoreError(f"the file is damaged or no HDF5 ({error})", where=path, remedy=_AGAIN) from error
    raise StoreError(
        f"no features: the file holds {found}, and neither features (TRIDENT, CLAM, AtlasPatch) nor feats (STAMP)",
        where=path,
        remedy="Give files of features, not of coordinates or of whole slides",
    )


def encoders_in(path: Path) -> tuple[str, ...]:
    """Return the encoders of an AtlasPatch file; none for files of other programs or damaged ones."""
    try:
        with _h5py().File(path, "r") as file:
            return tuple(file["features"]) if hasattr(file.get("features"), "keys") else ()
    except OSError:
        return ()


def _dataset(path: Path, name: str) -> Any:  # noqa: ANN401 - a function of a slice
    """Return a function that reads rows; the file is opened for each, so that thousands need not stay open."""

    def read(rows: slice) -> NDArray[np.floating]:
        with _h5py().File(path, "r") as file:
            data = file[name]
            return np.asarray(data[0, rows] if data.ndim == 3 else data[rows])

    return read


def _shape(path: Path, data: Any) -> tuple[int, int]:  # noqa: ANN401 - an h5py dataset
    shape = tuple(data.shape)
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if shape == (0,):
        raise StoreError("the slide has no patches: no tissue was found", where=path, remedy="Leave this slide out")
    if len(shape) != 2 or data.dtype.kind != "f":
        raise StoreError(
            f"features: expected (N, D) floating-point numbers, got {tuple(data.shape)} {data.dtype}",
            where=path,
            remedy=_AGAIN,
        )
    if not shape[0]:
        raise StoreError("the slide has no patches: no tissue was found", where=path, remedy="Leave this slide out")
    return shape


def _coords(path: Path, file: Any, count: int, columns: int = 2) -> NDArray[Any]:  # noqa: ANN401 - an h5py file
    if "coords" not in file:
        raise StoreError("the file has no coords", where=path, remedy=_AGAIN)
    coords = np.asarray(file["coords"][...])
    if coords.shape != (count, columns):
        raise StoreError(
            f"coords: expected ({count}, {columns}), one row per vector, got {coords.shape}", where=path, remedy=_AGAIN
        )
    return coords


def _number(attributes: Mapping[str, Any], name: str) -> float | None:
    """Return a positive attribute; ``None`` if it is missing."""
    value = attributes.get(name)
    return float(value) if value is not None and np.isfinite(float(value)) and float(value) > 0 else None


def _text(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name, "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _trident_or_clam(path: Path, file: Any) -> SlideFeatures:  # noqa: ANN401 - an h5py file
    data = file["features"]
    count, vector = _shape(path, data)
    coords = _coords(path, file, count)
    about = file["coords"].attrs
    made_by = "trident" if "patch_size_level0" in about or "encoder" in data.attrs else "clam"
    if made_by == "trident" and (missing := [n for n in ("patch_size", "patch_size_level0") if n not in about]):
        raise StoreError(
            f"coords has no attribute {missing[0]}, so that the size of a patch is unknown", where=path, remedy=_AGAIN
        )
    magnification = _number(about, "target_magnification")
    return SlideFeatures(
        path=path,
        slide_id=path.stem,
        made_by=made_by,
        encoder=_text(data.attrs, "encoder"),
        weights_sha256="",
        count=count,
        vector=vector,
        coords=_whole(path, coords),
        patch_level0=_number(about, "patch_size_level0"),
        mpp=None if magnification is None else _OBJECTIVE_MPP / magnification,
        fingerprint="",
        _read=_dataset(path, "features"),
    )


def _stamp(path: Path, file: Any, slide_mpp: float | None) -> SlideFeatures:  # noqa: ANN401 - an h5py file
    data, about = file["feats"], file.attrs
    if (kind := _text(about, "feat_type") or "tile") != "tile":
        raise StoreError(
            f"the file holds features of a whole {kind}, not of patches",
            where=path,
            remedy="Give STAMP's tile features",
        )
    count, vector = _shape(path, data)
    coords = _coords(path, file, count).astype(np.float64)
    if (unit := _text(about, "unit")) != "um":
        raise StoreError(
            f"STAMP's coordinates are in micrometres (unit um); this file states {unit or 'no unit'}",
            where=path,
            remedy="Compute the features again with a current STAMP",
        )
    micrometres, pixels = _number(about, "tile_size_um"), _number(about, "tile_size_px")
    if micrometres is None or pixels is None:
        missing = "tile_size_um" if micrometres is None else "tile_size_px"
        raise StoreError(f"the file has no {missing}, so that the scale is unknown", where=path, remedy=_AGAIN)
    return SlideFeatures(
        path=path,
        slide_id=path.stem,
        made_by="stamp",
        encoder=_text(about, "extractor"),
        weights_sha256="",
        count=count,
        vector=vector,
        coords=None if slide_mpp is None else np.rint(coords / slide_mpp).astype(np.int64),
        patch_level0=None if slide_mpp is None else micrometres / slide_mpp,
        mpp=micrometres / pixels,
        fingerprint="",
        _read=_dataset(path, "feats"),
    )


def _atlaspatch(path: Path, file: Any, encoder: str | None) -> SlideFeatures:  # noqa: ANN401 - an h5py file
    names = sorted(file["features"])
    if encoder is None and len(names) != 1:
        raise StoreError(
            f"the file has features of {len(names)} encoders ({', '.join(names)})",
            where=path,
            remedy="Choose one of them with --encoder",
        )
    chosen = encoder or names[0]
    if chosen not in names:
        raise StoreError(f"the file has no features of {chosen!r}, only of {', '.join(names)}", where=path)
    data = file["features"][chosen]
    count, vector = _shape(path, data)
    coords = _coords(path, file, count, columns=5)
    side = _number(file.attrs, "patch_size_level0")
    if side is None:
        raise StoreError(
            "the file has no patch_size_level0, so that the size of a patch is unknown", where=path, remedy=_AGAIN
        )
    return SlideFeatures(
        path=path,
        slide_id=path.stem,
        made_by="atlaspatch",
        encoder=chosen,
        weights_sha256="",
        count=count,
        vector=vector,
        coords=_whole(path, coords[:, :2]),
        patch_level0=side,
        mpp=None,
        fingerprint="",
        _read=_dataset(path, f"features/{chosen}"),
    )


def _whole(path: Path, coords: NDArray[Any]) -> NDArray[np.int64]:
    found = coords.astype(np.int64)
    if (found < 0).any() or (found != coords).any():
        raise StoreError(
            "coords: expected whole level-0 pixels, 0 or more", where=path, remedy="Compute the features again"
        )
    return found


def write_trident(
    path: Path,
    coords: NDArray[np.integer],
    vectors: Iterable[NDArray[np.floating]],
    vector: int,
    attributes: Mapping[str, Any],
) -> None:
    """Write features as TRIDENT lays them out; parameters as for :func:`pathology.features.store.write_store`."""
    target = _OBJECTIVE_MPP / attributes["mpp"]
    width, height = attributes["dimensions"]
    about = {
        "patch_size": attributes["patch"],
        "patch_size_level0": round(attributes["patch_level0"]),
        "level0_magnification": _OBJECTIVE_MPP / attributes["slide_mpp"],
        "target_magnification": target,
        "overlap": attributes["patch"] - attributes["stride"],
        "name": attributes["slide_id"],
        "level0_width": width,
        "level0_height": height,
    }
    features = {"encoder": attributes["encoder"]["encoder"], "name": attributes["slide_id"]}
    _write(path, "features", coords.astype(np.int64), vectors, vector, about, features, {})


def write_stamp(
    path: Path,
    coords: NDArray[np.integer],
    vectors: Iterable[NDArray[np.floating]],
    vector: int,
    attributes: Mapping[str, Any],
) -> None:
    """Write features as STAMP lays them out; parameters as for :func:`pathology.features.store.write_store`."""
    about = {
        "extractor": attributes["encoder"]["encoder"],
        "unit": "um",
        "tile_size_um": attributes["patch"] * attributes["mpp"],
        "tile_size_px": attributes["patch"],
        "feat_type": "tile",
    }
    places = coords.astype(np.float64) * attributes["slide_mpp"]
    _write(path, "feats", places, vectors, vector, {}, {}, about)


def _write(
    path: Path,
    name: str,
    coords: NDArray[Any],
    vectors: Iterable[NDArray[np.floating]],
    vector: int,
    of_coords: Mapping[str, Any],
    of_features: Mapping[str, Any],
    of_file: Mapping[str, Any],
) -> None:
    aside = path.with_name(f".{path.name}.partial")
    try:
        with _h5py().File(aside, "w") as file:
            place = file.create_dataset("coords", data=coords)
            place.attrs.update(of_coords)
            data = file.create_dataset(name, (len(coords), vector), "float16", chunks=(min(512, len(coords)), vector))
            written = 0
            for part in vectors:
                data[written : written + len(part)] = part.astype(np.float16)
                written += len(part)
            data.attrs.update(of_features)
            file.attrs.update(of_file)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise OutputError(f"the features cannot be written ({error.strerror or error})", where=path) from error
