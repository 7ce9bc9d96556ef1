"""Numbers and names formatted for reading, consistently in tables, figures and reports."""

from __future__ import annotations

import math
import re
import unicodedata

from pathology.path_text import valid_text

__all__ = [
    "MPP_SOURCES",
    "NOT_KNOWN",
    "RESEARCH_USE_ONLY",
    "area",
    "duration",
    "extent",
    "heading",
    "length",
    "one_line",
    "percent",
    "round_length",
    "scale",
    "sentence",
]

RESEARCH_USE_ONLY = "Research use only. Not for diagnosis or treatment."
"""Printed on every figure, card and page."""

NOT_KNOWN = "not known"
"""Shown where a value is missing."""

MPP_SOURCES = {
    "option": "set with --mpp",
    "manifest": "from the manifest",
    "file": "from the slide file",
    "objective power": "estimated from the objective power, accurate to a few per cent",
}
"""Source of a slide's scale, by the names used in results."""


def percent(share: float | None) -> str:
    """Return a share 0 to 1 as a percentage: whole numbers, one decimal below 10 %, never a false 0 % or 100 %."""
    if share is None or math.isnan(share):
        return NOT_KNOWN
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.995 <= share < 1:
        return "> 99 %" if share < 0.9995 else "> 99.9 %"
    return f"{share * 100:.1f} %" if 0 < share < 0.0995 else f"{share * 100:.0f} %"


def area(mm2: float | None) -> str:
    """Return an area with its unit; three significant figures below 10 mm²."""
    if mm2 is None or math.isnan(mm2):
        return NOT_KNOWN
    if mm2 == 0:
        return "0 mm²"
    if mm2 < 0.01:
        return "< 0.01 mm²"
    return f"{mm2:.2f} mm²" if mm2 < 10 else f"{mm2:.1f} mm²" if mm2 < 100 else f"{mm2:,.0f} mm²"


def duration(seconds: float | None) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds is None or math.isnan(seconds):
        return NOT_KNOWN
    if 0 < seconds < 0.05:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def scale(mpp: float | None) -> str:
    """Return a scale in µm per pixel to three significant figures."""
    return NOT_KNOWN if mpp is None or math.isnan(mpp) else f"{mpp:.3g} µm/px"


def round_length(longest: float) -> float:
    """Return the longest round length (1, 2 or 5 times a power of ten) up to ``longest``.

    Parameters
    ----------
    longest
        In µm (or any unit), above 0.
    """
    power = 10.0 ** math.floor(math.log10(longest))
    # The floor of a logarithm can be one too low or too high near a power of ten.
    return max(
        step * candidate
        for candidate in (power / 10, power, power * 10)
        for step in (1, 2, 5)
        if step * candidate <= longest * (1 + 1e-12)
    )


def extent(width: int, height: int, mpp: float) -> str:
    """Return the physical size of a slide, in mm to one decimal or, below 1 mm, in whole µm.

    Parameters
    ----------
    width, height
        In pixels.
    mpp
        Micrometres per pixel.
    """
    across, down = width * mpp, height * mpp
    if max(across, down) < 1000:
        return f"{across:.0f} × {down:.0f} µm"
    return f"{across / 1000:.1f} × {down / 1000:.1f} mm"


def length(micrometres: float) -> str:
    """Return a length in µm, or in mm from 1 mm."""
    return f"{micrometres / 1000:g} mm" if micrometres >= 1000 else f"{micrometres:g} µm"


def sentence(text: str) -> str:
    """Return a reason or warning as a sentence: capitalised, unless it starts with a file name, with a full stop."""
    if re.match(r"[a-z]+[ ,]", text):
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?…" else f"{text}."


def heading(answer: str) -> str:
    """Return the status of a slide without a prediction as a heading: capitalised, without a full stop."""
    if answer == "no prediction":
        return "No prediction: the model abstained"
    return sentence(answer).removesuffix(".")


def one_line(text: str) -> str:
    """Return valid text with every control character and line break replaced by a space."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in valid_text(text))
