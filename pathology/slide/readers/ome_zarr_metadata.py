"""What an OME-Zarr hierarchy says of its images: which there are, their levels, axes, scale and channels.

Sources: the OME-NGFF specification 0.4 and 0.5 (https://ngff.openmicroscopy.org), and the layout of bioformats2raw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pathology.errors import CorruptSlideError, NotBrightfieldError, UnsupportedSlideError
from pathology.slide.readers.zarr_chunks import LARGEST_METADATA, METADATA_FILES

__all__ = ["ImageLayout", "describe_channels", "image_layouts", "is_ome_zarr", "is_zarr"]

_MICROMETRES: Final[Mapping[str, float]] = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "inch": 25_400.0,
    "meter": 1e6,
}
_AXES: Final = ("t", "c", "z", "y", "x")
_PURE: Final = {"ff0000": "r", "00ff00": "g", "0000ff": "b"}
_NAMED: Final = {"r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b"}


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """One multiscale image of a hierarchy.

    Attributes
    ----------
    path
        Of the image's group below the root; empty for the root itself.
    version
        Of the specification.
    axes
        Names of the arrays' axes, in their order.
    units
        Unit of each axis in micrometres; ``None`` where it is not stated.
    datasets
        Path of every level's array below the root.
    scales
        Size of a pixel along every axis for each level, in the axes' units; ``None`` where not stated.
    channels
        The entries of ``omero``, empty where there are none.
    """

    path: str
    version: str
    axes: tuple[str, ...]
    units: tuple[float | None, ...]
    datasets: tuple[str, ...]
    scales: tuple[tuple[float, ...] | None, ...]
    channels: tuple[Mapping[str, Any], ...]

    def mpp(self, level: int) -> float | None:
        """Return µm per pixel of a level, mean of both axes, ``None`` where the file does not say."""
        scale = self.scales[level]
        if scale is None:
            return None
        sides = []
        for name in ("x", "y"):
            axis = self.axes.index(name)
            unit = self.units[axis]
            if unit is None or not 0 < scale[axis] < float("inf"):
                return None
            sides.append(scale[axis] * unit)
        return sum(sides) / 2


def is_zarr(path: Path) -> bool:
    """Say whether a folder is a zarr hierarchy, of any kind."""
    return path.is_dir() and any((path / name).is_file() for name in METADATA_FILES)


def is_ome_zarr(path: Path) -> bool:
    """Say whether a folder is an OME-Zarr image that this package did not write itself as a result.

    Only the metadata of the root are read; whatever is wrong with them is found when the slide is opened.
    """
    if not is_zarr(path):
        return False
    for name in ("zarr.json", ".zattrs"):
        try:
            if (path / name).stat().st_size > LARGEST_METADATA:
                continue
            attributes = json.loads((path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(attributes, dict):
            found = ome_attributes(attributes.get("attributes") if name == "zarr.json" else attributes)
            if "bioformats2raw.layout" in found:
                return True
            images = found.get("multiscales")
            if isinstance(images, list) and images and isinstance(images[0], dict):
                about = images[0].get("metadata")
                return not (isinstance(about, dict) and str(about.get("made_by", "")).startswith("pathology "))
    return False


def ome_attributes(attributes: object) -> dict[str, Any]:
    """Return the attributes of a group that OME-Zarr defines, wherever its version puts them."""
    if not isinstance(attributes, Mapping):
        return {}
    inner = attributes.get("ome")  # since 0.5
    return dict(inner) if isinstance(inner, Mapping) else dict(attributes)


def image_layouts(attributes_of: Callable[[str], Mapping[str, Any] | None], where: Path) -> list[ImageLayout]:
    """List the images of a hierarchy.

    Parameters
    ----------
    attributes_of
        From the path of a group to its attributes, ``None`` where there is no such group.
    where
        The slide, for errors.

    Raises
    ------
    UnsupportedSlideError
        If there is no image: a plate, labels, or something else.
    CorruptSlideError
        If the metadata contradict themselves.
    """
    root = ome_attributes(attributes_of(""))
    if "multiscales" in root:
        return [_layout("", root, where)]
    if "plate" in root or "well" in root:
        raise UnsupportedSlideError(
            "the OME-Zarr is a multi-well plate, not a slide", where=where, remedy="Name one of its images"
        )
    if "bioformats2raw.layout" in root:
        names = ome_attributes(attributes_of("OME")).get("series")
        if not isinstance(names, Sequence) or isinstance(names, str):
            names = [str(i) for i in range(100)]
        found = []
        for name in map(str, names):
            if ".." in name.split("/"):
                raise CorruptSlideError(f"a series is said to lie at {name!r}, outside the slide", where=where)
            attributes = ome_attributes(attributes_of(name))
            if "multiscales" in attributes:
                found.append(_layout(name, attributes, where))
        if found:
            return found
    raise UnsupportedSlideError(
        "the zarr hierarchy holds no OME-Zarr image",
        where=where,
        remedy="Name the folder whose metadata have 'multiscales'",
    )


def _layout(path: str, attributes: Mapping[str, Any], where: Path) -> ImageLayout:
    if "image-label" in attributes:
        raise NotBrightfieldError("the OME-Zarr is a label image, not a slide", where=where)
    try:
        image = attributes["multiscales"][0]
        axes, units = _axes(image.get("axes"))
        prefix = f"{path}/" if path else ""
        datasets, scales = [], []
        for dataset in image["datasets"]:
            name = str(dataset["path"]).strip("/")
            if ".." in name.split("/"):
                raise CorruptSlideError(f"a level is said to lie at {name!r}, outside the slide", where=where)
            datasets.append(prefix + name)
            scales.append(
                _scale([dataset.get("coordinateTransformations"), image.get("coordinateTransformations")], len(axes))
            )
        omero = attributes.get("omero") or {}
        channels = tuple(c for c in omero.get("channels") or () if isinstance(c, Mapping))
        version = str(attributes.get("version") or image.get("version") or "unknown")
        if not datasets or len(set(axes)) != len(axes) or not {"x", "y"} <= set(axes):
            raise ValueError("no levels, or no axes x and y")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CorruptSlideError(f"the OME-Zarr metadata are not valid ({error})", where=where) from error
    return ImageLayout(path, version, axes, units, tuple(datasets), tuple(scales), channels)


def _axes(stated: Sequence[Any] | None) -> tuple[tuple[str, ...], tuple[float | None, ...]]:
    if stated is None:  # until 0.2
        return _AXES, (None,) * 5
    names: list[str] = []
    units: list[float | None] = []
    for axis in stated:
        if isinstance(axis, str):  # 0.3
            names.append(axis.lower())
            units.append(None)
        else:
            names.append(str(axis["name"]).lower())
            units.append(_MICROMETRES.get(str(axis.get("unit", "")).lower()))
    return tuple(names), tuple(units)


def _scale(transformations: Sequence[Any], axes: int) -> tuple[float, ...] | None:
    """Multiply the scales of a level and of its image; ``None`` where neither states one."""
    total: tuple[float, ...] | None = None
    for stated in transformations:
        for transformation in stated or ():
            if transformation.get("type") == "scale" and "scale" in transformation:
                factors = tuple(map(float, transformation["scale"]))
                if len(factors) != axes:
                    raise ValueError(f"a scale has {len(factors)} numbers for {axes} axes")
                total = factors if total is None else tuple(a * b for a, b in zip(total, factors, strict=True))
    return total


def describe_channels(layout: ImageLayout, count: int, where: Path) -> tuple[tuple[int, int, int], bool]:
    """Return which channels are red, green and blue, and whether the file says so itself.

    Parameters
    ----------
    layout
        The image.
    count
        How many channels its arrays have.
    where
        The slide, for errors.

    Raises
    ------
    NotBrightfieldError
        If they are something else.
    """
    remedy = "Export it as RGB, or choose the brightfield image"
    if count != 3:
        raise NotBrightfieldError(
            f"the OME-Zarr has {count} channel(s), not the 3 of RGB: it looks like fluorescence or a mask",
            where=where,
            remedy=remedy,
        )
    if len(layout.channels) != 3:
        return (0, 1, 2), False
    labels = [str(channel.get("label") or channel.get("name") or "").strip().lower() for channel in layout.channels]
    for found in ([_NAMED.get(label) for label in labels], [_colour(channel) for channel in layout.channels]):
        if sorted(filter(None, found)) == ["b", "g", "r"]:
            own = all(not label or label in _NAMED or label.startswith("channel") for label in labels)
            if own:
                return (found.index("r"), found.index("g"), found.index("b")), True
    stains = ", ".join(label for label in labels if label)
    if stains and not all(label.startswith("channel") or label.isdecimal() for label in filter(None, labels)):
        raise NotBrightfieldError(
            f"the channels of the OME-Zarr are {stains}, not red, green and blue: it looks like fluorescence",
            where=where,
            remedy=remedy,
        )
    return (0, 1, 2), False


def _colour(channel: Mapping[str, Any]) -> str | None:
    return _PURE.get(str(channel.get("color", "")).lstrip("#").lower()[:6])
