"""The only file that imports highdicom, which writes DICOM segmentations and structured reports.

Importing this module raises a readable error if the library is not installed.
"""

from __future__ import annotations

from pathology.extras import missing_extra

__all__ = ["CodedConcept", "highdicom"]

try:
    import highdicom
    from highdicom.sr.coding import CodedConcept
except ImportError as error:
    raise missing_extra("writing DICOM needs highdicom", "interop") from error
