"""Soft tissue tumour names of the WHO classification 2020, with older names and abbreviations.

Grades and training labels depend on the histotype, and public data use many names for the same tumour.  Every name
here maps to one code; an outdated name that now covers several entities maps to none and raises an error that lists
them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pathology.errors import UsageError

__all__ = ["VOCABULARY_VERSION", "Histotype", "find_histotype", "histotypes"]

VOCABULARY_VERSION = "WHO 2020 (5th edition), list 2"
"""Edition of the classification and revision of this list; stored in every record that uses a code."""


@dataclass(frozen=True, slots=True)
class Histotype:
    """One entity.

    Attributes
    ----------
    code
        Abbreviation used in tables and on the command line.
    name
        Name in the classification.
    synonyms
        Other names in use, ignoring case, hyphens and the suffix "NOS".
    """

    code: str
    name: str
    synonyms: tuple[str, ...] = ()


_ENTRIES = (
    Histotype(
        "ALT-WDLPS",
        "atypical lipomatous tumour / well-differentiated liposarcoma",
        ("ALT", "WDLPS", "well-differentiated liposarcoma", "atypical lipomatous tumour", "atypical lipomatous tumor"),
    ),
    Histotype("DDLPS", "dedifferentiated liposarcoma"),
    Histotype("MLPS", "myxoid liposarcoma", ("MLS", "low-grade myxoid liposarcoma")),
    Histotype(
        "MLPS-HG",
        "high-grade myxoid liposarcoma",
        (
            "round cell liposarcoma",
            "myxoid/round cell liposarcoma, high grade",
            "high-grade myxoid (round cell) liposarcoma",
        ),
    ),
    Histotype("PLPS", "pleomorphic liposarcoma"),
    Histotype("LMS", "leiomyosarcoma", ("conventional leiomyosarcoma",)),
    Histotype("LMS-WD", "well-differentiated leiomyosarcoma"),
    Histotype(
        "LMS-PD", "poorly differentiated leiomyosarcoma", ("pleomorphic leiomyosarcoma", "epithelioid leiomyosarcoma")
    ),
    Histotype("MFS", "myxofibrosarcoma", ("myxoid MFH", "myxoid malignant fibrous histiocytoma")),
    Histotype("UPS", "undifferentiated pleomorphic sarcoma", ("undifferentiated sarcoma, pleomorphic",)),
    Histotype("USCS", "undifferentiated spindle cell sarcoma"),
    Histotype(
        "SS",
        "synovial sarcoma",
        (
            "monophasic synovial sarcoma",
            "biphasic synovial sarcoma",
            "synovial sarcoma - monophasic",
            "synovial sarcoma - biphasic",
        ),
    ),
    Histotype("SS-PD", "poorly differentiated synovial sarcoma", ("sarcoma; synovial; poorly differentiated",)),
    Histotype("ERMS", "embryonal rhabdomyosarcoma", ("botryoid rhabdomyosarcoma",)),
    Histotype("ARMS", "alveolar rhabdomyosarcoma"),
    Histotype(
        "SSRMS",
        "spindle cell/sclerosing rhabdomyosarcoma",
        ("spindle cell rhabdomyosarcoma", "sclerosing rhabdomyosarcoma"),
    ),
    Histotype("PRMS", "pleomorphic rhabdomyosarcoma"),
    Histotype(
        "MPNST",
        "malignant peripheral nerve sheath tumour",
        (
            "malignant peripheral nerve sheath tumor",
            "malignant peripheral nerve sheath tumors",
            "conventional MPNST",
            "neurofibrosarcoma",
            "malignant schwannoma",
        ),
    ),
    Histotype(
        "MPNST-LG",
        "low-grade malignant peripheral nerve sheath tumour",
        ("malignant neurofibroma", "well-differentiated MPNST"),
    ),
    Histotype(
        "MPNST-PD", "poorly differentiated malignant peripheral nerve sheath tumour", ("poorly differentiated MPNST",)
    ),
    Histotype(
        "MTT", "malignant triton tumour", ("malignant triton tumor", "MPNST with rhabdomyosarcomatous differentiation")
    ),
    Histotype("AFS", "adult fibrosarcoma", ("fibrosarcoma", "conventional fibrosarcoma")),
    Histotype("AFS-WD", "well-differentiated fibrosarcoma"),
    Histotype("AFS-PD", "poorly differentiated fibrosarcoma"),
    Histotype("AS", "angiosarcoma", ("conventional angiosarcoma",)),
    Histotype("AS-PD", "poorly differentiated angiosarcoma", ("epithelioid angiosarcoma",)),
    Histotype("EMC", "extraskeletal myxoid chondrosarcoma", ("myxoid chondrosarcoma",)),
    Histotype("MCS", "mesenchymal chondrosarcoma"),
    Histotype("ESOS", "extraskeletal osteosarcoma"),
    Histotype(
        "ES", "Ewing sarcoma", ("extraskeletal Ewing sarcoma", "primitive neuroectodermal tumour", "PNET", "ESFT")
    ),
    Histotype("ASPS", "alveolar soft part sarcoma"),
    Histotype("EPS", "epithelioid sarcoma"),
    Histotype("CCS", "clear cell sarcoma of soft tissue", ("clear cell sarcoma", "melanoma of soft parts")),
    Histotype(
        "MRT",
        "extrarenal malignant rhabdoid tumour",
        ("extrarenal rhabdoid tumour", "malignant rhabdoid tumour", "malignant rhabdoid tumor"),
    ),
)

_AMBIGUOUS = {
    "mfh": ("UPS", "MFS", "DDLPS"),
    "malignant fibrous histiocytoma": ("UPS", "MFS", "DDLPS"),
    "rhabdomyosarcoma": ("ERMS", "ARMS", "SSRMS", "PRMS"),
    "pleomorphic mfh undifferentiated pleomorphic sarcoma": ("UPS", "MFS", "DDLPS"),
    "giant cell mfh undifferentiated pleomorphic sarcoma with giant cells": ("UPS", "DDLPS"),
    "rms": ("ERMS", "ARMS", "SSRMS", "PRMS"),
    "liposarcoma": ("ALT-WDLPS", "DDLPS", "MLPS", "MLPS-HG", "PLPS"),
    "undifferentiated sarcoma": ("UPS", "USCS"),
}
"""Names that now cover several entities; choosing one requires review of the case."""


def _plain(name: str) -> str:
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    text = re.sub(r"[^a-z0-9]+", " ", text).strip()
    return re.sub(r" nos$", "", text)


_BY_NAME = {_plain(name): entry for entry in _ENTRIES for name in (entry.code, entry.name, *entry.synonyms)}


def histotypes() -> tuple[Histotype, ...]:
    """Return all entities of the list.

    Examples
    --------
    >>> len(histotypes()) > 30
    True
    """
    return _ENTRIES


def find_histotype(name: str) -> Histotype:
    """Return the entity for a code, name or synonym.

    Raises
    ------
    UsageError
        If the name is unknown, or now covers several entities; the message then lists them.

    Examples
    --------
    >>> find_histotype("UPS").name
    'undifferentiated pleomorphic sarcoma'
    """
    plain = _plain(name)
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    # "Leiomyosarcoma (LMS)": a name with its code, if they agree.
    twice = re.fullmatch(r"(.+?)\s*\(([^()]+)\)", name.strip())
    if twice is not None:
        first, second = (_BY_NAME.get(_plain(part)) for part in twice.groups())
        if first is not None and first is second:
            return first
    if plain in _AMBIGUOUS:
        raise UsageError(
            f"{name!r} covers several entities of {VOCABULARY_VERSION}: {', '.join(_AMBIGUOUS[plain])}",
            remedy="Review the case and use one of these codes",
        )
    raise UsageError(f"unknown histotype {name!r}", remedy=f"Use one of {', '.join(e.code for e in _ENTRIES)}")
