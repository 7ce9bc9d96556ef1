"""Which DICOM files belong together as one slide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom
import pydicom.filereader
from pydicom import uid

from pathology.errors import UnsupportedSlideError

# Files are read as they are; pydicom's warnings about overlong values are of no use when scoring slides.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

__all__ = [
    "LARGEST_ELEMENT",
    "Instance",
    "dicom_files",
    "first_of_each_series",
    "is_dicom",
    "one_of_each_instance",
    "read_instance",
    "require_plain_header",
]

_PREAMBLE: Final = 128
LARGEST_ELEMENT: Final = 64 * 2**20
"""Bytes of a header's element above which it is left in the file; colour profiles have some megabytes."""
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
    """The header fields of one DICOM file that are needed to group files.

    Attributes
    ----------
    path
        The file.
    series
        SeriesInstanceUID; the file's own path if the header cannot be read, so that it forms its own group.
    image_type
        ImageType, upper case; the third value tells VOLUME, LABEL, OVERVIEW and THUMBNAIL apart.
    width
        TotalPixelMatrixColumns, in pixels; 0 if unknown.
    readable
        Whether the header could be read.
    uid
        SOPInstanceUID; the file's own path if it is unknown.
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
    """Whether a file with these first bytes (at least 132) is a DICOM file."""
    return head[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def read_instance(path: Path) -> Instance:
    """Read the header fields needed for grouping; pixel data are not read."""
    try:
        require_plain_header(path)
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
    except Exception:
        # A damaged header raises whatever its garbage provokes: NotImplementedError, BytesLengthException, ...
        return Instance(path, str(path), (), 0, readable=False, uid=str(path))


def require_plain_header(path: Path) -> None:
    """Refuse a deflated DICOM file, which is unpacked as a whole, to any size, before its first element is known.

    Raises
    ------
    UnsupportedSlideError
        If the file is deflated.
    """
    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        raise UnsupportedSlideError("deflated DICOM files are not read", where=path, remedy="Export it uncompressed")


def one_of_each_instance(instances: Iterable[Instance]) -> list[Instance]:
    """Keep the first copy of each instance: browsers and file managers save a second copy as ``name (1)``."""
    kept: dict[str, Instance] = {}
    for instance in instances:
        kept.setdefault(instance.uid, instance)
    return list(kept.values())


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files directly in a folder, sorted by name."""
    found = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        try:
            with file.open("rb") as opened:
                head = opened.read(_PREAMBLE + 4)
        except OSError:  # a neighbour that may not be read is no part of the slide
            continue
        if is_dicom(head):
            found.append(file)
    return found


def first_of_each_series(paths: Iterable[Path]) -> set[Path]:
    """Choose one file to represent each series of whole-slide images: its finest level.

    A series with only labels, overviews or thumbnails still gets a file, so that the slide is listed and its failure
    explained.  Annotations, directories and other non-slide objects get none.
    """
    best: dict[str, Instance] = {}
    for instance in map(read_instance, paths):
        if not instance.microscopy:
            continue
        current = best.get(instance.series)
        if current is None or (instance.is_volume, instance.width) > (current.is_volume, current.width):
            best[instance.series] = instance
    return {instance.path for instance in best.values()}
