"""Coded terms for findings on slides.

Terms come from the standard's dictionaries where available (SNOMED CT, DICOM, UCUM).  A model's classes and a few other
terms use a private scheme, ``99PATHOLOGY``, whose code values are derived from the words, so that the same words always
have the same code.
"""

from __future__ import annotations

import hashlib
from typing import Final

from pydicom.sr.codedict import codes

from pathology.outputs.export.highdicom_library import CodedConcept
from pathology.path_text import valid_text

__all__ = [
    "AREA",
    "ARTIFICIAL_INTELLIGENCE",
    "COUNTS",
    "MORPHOLOGY",
    "NO_UNITS",
    "PER_MM2",
    "PROBABILITY",
    "PROCEDURE",
    "REPORT_TITLE",
    "SQUARE_MM",
    "TISSUE",
    "private_code",
]

_SCHEME: Final = "99PATHOLOGY"

ARTIFICIAL_INTELLIGENCE: Final = codes.DCM.ArtificialIntelligence
REPORT_TITLE: Final = codes.DCM.ImagingMeasurementReport
PROCEDURE: Final = codes.SCT.Histopathology
TISSUE: Final = codes.SCT.Tissue
MORPHOLOGY: Final = codes.SCT.MorphologicallyAbnormalStructure
AREA: Final = codes.SCT.Area
PROBABILITY: Final = codes.DCM.Probability
SQUARE_MM: Final = codes.UCUM.SquareMillimeter
NO_UNITS: Final = codes.UCUM.NoUnits
COUNTS: Final = codes.UCUM.Counts
PER_MM2: Final = CodedConcept("/mm2", "UCUM", "per square millimeter")


def private_code(meaning: str) -> CodedConcept:
    """Return the code of a term that is private to this package."""
    words = valid_text(meaning)[:64]
    value = hashlib.sha256(words.lower().encode()).hexdigest()[:12].upper()
    return CodedConcept(value, _SCHEME, words)
