"""Feature files by path, and all those of a folder, which must fit together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathology.errors import StoreError, UnsafeWeightsError, UsageError
from pathology.features.hdf5_files import open_hdf5
from pathology.features.slide_features import SlideFeatures
from pathology.features.store import open_store

if TYPE_CHECKING:
    from pathology.encoders.specification import EncoderSpecification

__all__ = ["find_features", "open_features", "same_encoder"]

_HDF5: Final = (".h5", ".hdf5")
_TENSORS: Final = (".pt", ".pth")


def open_features(path: Path, *, encoder: str | None = None, slide_mpp: float | None = None) -> SlideFeatures:
    """Open the features of one slide; the program that made them is recognised by the content.

    Parameters
    ----------
    path
        A store ``<slide>.zarr``, ``<slide>.h5`` of TRIDENT, CLAM, STAMP or AtlasPatch, or ``<slide>.pt`` of CLAM.
    encoder, slide_mpp
        As for :func:`pathology.features.hdf5_files.open_hdf5`.

    Raises
    ------
    StoreError
        If it cannot be read or follows no known layout.
    UnsafeWeightsError
        If a ``.pt`` file holds anything but tensors.

    Examples
    --------
    >>> import torch
    >>> torch.save(torch.ones(3, 8), folder / "slide.pt")
    >>> features = open_features(folder / "slide.pt")
    >>> features.count, features.vector
    (3, 8)
    """
    path = Path(path)
    if path.suffix == ".zarr":
        return open_store(path)
    if path.suffix in _HDF5:
        return open_hdf5(path, encoder=encoder, slide_mpp=slide_mpp)
    if path.suffix in _TENSORS:
        return _open_tensor(path)
    raise StoreError(
        "this is no feature file", where=path, remedy="Features are <slide>.zarr, <slide>.h5 or <slide>.pt"
    )


def _open_tensor(path: Path) -> SlideFeatures:
    """Open CLAM's tensor ``(N, D)``, which has no coordinates, with PyTorch's restricted reader."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage raises one of many error types
        raise UnsafeWeightsError(
            "the file is damaged or contains more than tensors, and is not loaded",
            where=path,
            remedy="Use the .h5 file that CLAM writes beside it",
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or not len(found):
        raise StoreError("expected one tensor (N, D) with at least one patch", where=path, remedy="Leave it out")
    values = found.float().numpy()
    return SlideFeatures(
        path=path,
        slide_id=path.stem,
        made_by="clam",
        encoder="",
        weights_sha256="",
        count=len(values),
        vector=values.shape[1],
        coords=None,
        patch_level0=None,
        mpp=None,
        fingerprint="",
        _read=lambda rows: values[rows],
    )


def find_features(folder: Path, *, encoder: str | None = None) -> list[SlideFeatures]:
    """Open all features of a folder, and check that one encoder made them at one scale.

    Parameters
    ----------
    folder
        With one file or store per slide.
    encoder
        The encoder they must be of, by any of its names; ``None``: whichever made them.

    Returns
    -------
    list of SlideFeatures
        By slide id.

    Raises
    ------
    UsageError
        If there are none, two are of one slide, or they differ in encoder, weights, length or scale; the message names
        two that differ.
    StoreError
        If one cannot be read.

    Examples
    --------
    >>> import torch
    >>> torch.save(torch.ones(3, 8), folder / "slide.pt")
    >>> [features.slide_id for features in find_features(folder)]
    ['slide']
    """
    folder = Path(folder)
    paths = sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if not path.name.startswith(".")
        and ((path.suffix == ".zarr" and path.is_dir()) or (path.suffix in (*_HDF5, *_TENSORS) and path.is_file()))
    )
    with_coords = {path.stem for path in paths if path.suffix not in _TENSORS}
    paths = [path for path in paths if path.suffix not in _TENSORS or path.stem not in with_coords]
    if not paths:
        raise UsageError(
            "no feature files here", where=folder, remedy="Give a folder with <slide>.zarr, <slide>.h5 or <slide>.pt"
        )
    found = [open_features(path, encoder=_name_in_file(path, encoder)) for path in paths]
    _check_same(found, encoder)
    return sorted(found, key=lambda features: features.slide_id)


def _name_in_file(path: Path, encoder: str | None) -> str | None:
    """Return which of several encoders of an AtlasPatch file is meant."""
    if encoder is None or path.suffix not in _HDF5:
        return None
    from pathology.features.hdf5_files import encoders_in

    wanted = _names(encoder)
    return next((name for name in encoders_in(path) if name.lower() in wanted), None)


def _check_same(found: Sequence[SlideFeatures], encoder: str | None) -> None:
    seen: dict[str, SlideFeatures] = {}
    for features in found:
        if (other := seen.setdefault(features.slide_id, features)) is not features:
            raise UsageError(
                f"two files have features of {features.slide_id}", where=features.path, remedy=f"Remove {other.path}"
            )
    first = found[0]
    for other in found[1:]:
        for what, a, b in (
            ("encoder", _canonical(first.encoder), _canonical(other.encoder)),
            ("weights", first.weights_sha256, other.weights_sha256),
            ("length of the vectors", first.vector, other.vector),
            ("scale in µm per pixel", _rounded(first.mpp), _rounded(other.mpp)),
        ):
            if a != b and a and b:
                raise UsageError(
                    f"features differ in {what}: {a} in {first.path.name}, {b} in {other.path.name}",
                    where=other.path,
                    remedy="Keep features of different encoders or scales in different folders",
                )
    if encoder is not None and first.encoder and _canonical(first.encoder) not in _names(encoder):
        raise UsageError(
            f"the features are of {first.encoder}, not of {encoder}",
            where=first.path,
            remedy="Give the encoder that made them, or other features",
        )


def _rounded(mpp: float | None) -> float | None:
    # Scanners of one objective differ by some per cent in what they state.
    return None if mpp is None else round(mpp, 1)


def same_encoder(one: str, other: str) -> bool:
    """Return whether two names, neither empty, are of one encoder.

    Examples
    --------
    >>> same_encoder("uni_v2", "uni2-h"), same_encoder("uni", "uni2-h")
    (True, False)
    """
    return _canonical(one) == _canonical(other)


def _published(name: str) -> EncoderSpecification | None:
    from pathology.encoders.published import find_published

    return find_published(name) if name else None


def _canonical(name: str) -> str:
    """Return one name for all names of an encoder."""
    known = _published(name)
    return known.name if known is not None else name.lower()


def _names(name: str) -> frozenset[str]:
    known = _published(name)
    return known.names() if known is not None else frozenset({name.lower()})
