"""The one file that imports highdicom, which writes DICOM segmentations and structured reports.

Importing this module fails with words for people where the library is not installed.
"""

from __future__ import annotations

from pathology.errors import MissingDependencyError

__all__ = ["CodedConcept", "highdicom"]

try:
    import highdicom
    from highdicom.sr.coding import CodedConcept
except ImportError as error:
    raise MissingDependencyError(
        "writing DICOM needs highdicom, which is not installed", remedy="pip install 'sarcoma-pathology[interop]'"
    ) from error
