"""Which DICOM files belong together as one slide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom
from pydicom import uid
from pydicom.errors import InvalidDicomError

# What others wrote is read as it is; pydicom's warnings about overlong values help nobody who scores slides.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

__all__ = ["Instance", "dicom_files", "first_of_each_series", "is_dicom", "one_of_each_instance", "read_instance"]

_PREAMBLE: Final = 128
_WANTED: Final = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "ImageType",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
]


@dataclass(frozen=True, slots=True)
class Instance:
    """One DICOM file, as far as grouping needs it.

    Attributes
    ----------
    path
        The file.
    series
        SeriesInstanceUID; the file's own path where the header cannot be read, so that it stands alone.
    image_type
        ImageType, upper case; the third value tells VOLUME, LABEL, OVERVIEW and THUMBNAIL apart.
    width
        TotalPixelMatrixColumns, in pixels; 0 where unknown.
    readable
        Whether the header could be read.
    uid
        SOPInstanceUID; the file's own path where it is unknown.
    microscopy
        Whether the object is a whole-slide image rather than an annotation, a directory or something else.
    """

    path: Path
    series: str
    image_type: tuple[str, ...]
    width: int
    readable: bool = True
    uid: str = ""
    microscopy: bool = True

    @property
    def is_volume(self) -> bool:
        """Whether this is a level of the slide rather than its label, overview or thumbnail."""
        return len(self.image_type) > 2 and self.image_type[2] == "VOLUME"


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these 132 bytes or more is a DICOM file."""
    return head[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def read_instance(path: Path) -> Instance:
    """Read what grouping needs of one file's header; pixel data are not touched."""
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_WANTED)
        kind = str(data.file_meta.get("MediaStorageSOPClassUID") or data.get("SOPClassUID") or "")
        if kind == uid.MediaStorageDirectoryStorage:
            return Instance(path, str(path), (), 0, uid=str(path), microscopy=False)
        types = data.get("ImageType") or ()
        return Instance(
            path,
            str(data.SeriesInstanceUID),
            tuple(str(value).upper() for value in ((types,) if isinstance(types, str) else types)),
            int(data.get("TotalPixelMatrixColumns", 0) or 0),
            uid=str(data.get("SOPInstanceUID") or path),
            microscopy=str(data.get("SOPClassUID") or kind) == uid.VLWholeSlideMicroscopyImageStorage,
        )
    except (InvalidDicomError, OSError, AttributeError, EOFError, KeyError, TypeError, ValueError):
        return Instance(path, str(path), (), 0, readable=False, uid=str(path))


def one_of_each_instance(instances: Iterable[Instance]) -> list[Instance]:
    """Keep the first of several copies of an instance: browsers and file managers save a second as ``name (1)``."""
    kept: dict[str, Instance] = {}
    for instance in instances:
        kept.setdefault(instance.uid, instance)
    return list(kept.values())


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files that lie in a folder, by name."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        with file.open("rb") as opened:
            if is_dicom(opened.read(_PREAMBLE + 4)):
                found.append(file)
    return found


def first_of_each_series(paths: Iterable[Path]) -> set[Path]:
    """Choose one file to stand for each series of whole-slide images: its finest level.

    Series of labels, overviews or thumbnails alone still get a file, so that the slide is listed and its failure
    explained.  Annotations, directories and other objects that lie beside slides get none.
    """
    best: dict[str, Instance] = {}
    for instance in map(read_instance, paths):
        if not instance.microscopy:
            continue
        current = best.get(instance.series)
        if current is None or (instance.is_volume, instance.width) > (current.is_volume, current.width):
            best[instance.series] = instance
    return {instance.path for instance in best.values()}
