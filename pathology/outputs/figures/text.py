"""Text in figures: a bundled typeface, measured and wrapped, that handles any name."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from pathology.formatting import one_line

__all__ = ["Lettering", "drawable"]

MISSING = "\N{WHITE SQUARE}"
"""Placeholder for a character that the typeface lacks (an emoji, a CJK character)."""


def _font_file(bold: bool) -> Path:
    # DejaVu Sans is included in matplotlib, so figures look the same on every machine.
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / name


@cache
def _characters(bold: bool) -> frozenset[int]:
    return frozenset(FT2Font(str(_font_file(bold))).get_charmap())


def drawable(text: str, *, bold: bool = False) -> str:
    """Return text with everything the typeface cannot draw replaced.

    An emoji becomes one white square, also when it is joined from several; invisible joiners, direction marks
    and line breaks go.  Reports in HTML show the true name.
    """
    characters = _characters(bold)
    result: list[str] = []
    joined = False
    for character in unicodedata.normalize("NFC", one_line(text)):
        if character == "\N{ZERO WIDTH JOINER}":
            joined = True
            continue
        category = unicodedata.category(character)
        selector = 0xFE00 <= ord(character) <= 0xFE0F  # asks for a sign as text or as a colour picture
        # Marks and skin tones belong to the sign before them.
        modifier = selector or category in ("Cf", "Mn", "Me") or 0x1F3FB <= ord(character) <= 0x1F3FF
        if ord(character) in characters and category != "Cf" and not selector:
            result.append(character)
        elif not modifier and not (joined and result[-1:] == [MISSING]):
            result.append(MISSING)
        joined = False
    return "".join(result)


class Lettering:
    """One size and weight of the typeface.  Make one per picture: a font is not shared between threads.

    Parameters
    ----------
    size
        Height of the letters in pixels.
    bold
        Whether bold.
    """

    def __init__(self, size: int, *, bold: bool = False) -> None:
        self.size = size
        self.bold = bold
        self.font = ImageFont.truetype(str(_font_file(bold)), size)
        self.line_height = round(size * 1.35)

    def width(self, text: str) -> float:
        """Return the width of drawable text in pixels."""
        return float(self.font.getlength(text))

    def wrap(self, text: str, width: float, lines: int | None = None) -> list[str]:
        """Break text into drawable lines of at most ``width`` pixels.

        Breaks between words, and within a word (a file name) that is wider than a line.  Text beyond ``lines``
        is cut with an ellipsis.
        """
        result: list[str] = []
        line = ""
        for word in drawable(text, bold=self.bold).split():
            trial = f"{line} {word}" if line else word
            if self.width(trial) <= width:
                line = trial
                continue
            if line:
                result.append(line)
            while self.width(word) > width and len(word) > 1:
                fitting = self._fitting(word, width)
                result.append(word[:fitting])
                word = word[fitting:]
            line = word
        result.append(line)
        if lines is not None and len(result) > lines:
            last = result[lines - 1]
            while last and self.width(last + "…") > width:
                last = last[:-1]
            result = [*result[: lines - 1], last.rstrip() + "…"]
        return result

    def _fitting(self, word: str, width: float) -> int:
        """Return how many letters of a word go on a line: up to a hyphen, dot or such, unless that wastes half."""
        count = len(word)
        while count > 1 and self.width(word[:count]) > width:
            count -= 1
        after_mark = max((place + 1 for place in range(count) if word[place] in "-_.,/"), default=0)
        return after_mark if after_mark > count // 2 else count
