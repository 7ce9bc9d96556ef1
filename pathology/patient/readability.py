"""Readability of English text: Flesch reading ease and Flesch-Kincaid grade level."""

from __future__ import annotations

import re

from pydantic import Field

from pathology.settings import Record

__all__ = ["Readability", "readability", "syllables"]


class Readability(Record):
    """Readability scores of a text."""

    words: int = Field(ge=1)
    sentences: int = Field(ge=1)
    syllables: int
    reading_ease: float
    """Flesch 1948: 60 to 70 is plain English, below 30 very hard."""
    grade: float
    """Kincaid 1975: US school grade; 6 to 8 is recommended for patients."""


_WORD = re.compile(r"[A-Za-z]+(?:['\u2019][A-Za-z]+)?|\d[\d.,]*")
_SENTENCE = re.compile(r"[.!?]+(?=\s|$)")


def readability(text: str) -> Readability:
    """Score a text.

    Parameters
    ----------
    text
        Plain text; a line break ends a line without a full stop (a heading).

    Returns
    -------
    Readability
        Reading ease is 206.835 - 1.015 words / sentences - 84.6 syllables / words (Flesch 1948, J Appl Psychol 32:221);
        the grade is 0.39 words / sentences + 11.8 syllables / words - 15.59 (Kincaid 1975, Navy report 8-75).

    Examples
    --------
    >>> readability("The tumour is large. It grows fast.").grade < 5
    True
    """
    closed = re.sub(r"(?<![.!?:])\n", ".\n", text.strip())
    words = _WORD.findall(closed)
    sentences = max(1, len(_SENTENCE.findall(closed)))
    count = max(1, len(words))
    spoken = sum(syllables(word) for word in words)
    return Readability(
        words=count,
        sentences=sentences,
        syllables=spoken,
        reading_ease=206.835 - 1.015 * count / sentences - 84.6 * spoken / count,
        grade=0.39 * count / sentences + 11.8 * spoken / count - 15.59,
    )


def syllables(word: str) -> int:
    """Estimate the syllables of an English word: groups of vowels, less a silent ending; a number counts as one."""
    plain = re.sub(r"[^a-z]", "", word.lower())
    if not plain:
        return 1
    count = len(re.findall(r"[aeiouy]+", plain))
    if re.search(r"(?<![aeiouyl])e$|(?<=[aeiouy])le$|(?<![td])ed$|(?<![sxzcgh])es$", plain) and count > 1:
        count -= 1
    # Two vowels in separate syllables.
    count += len(re.findall(r"ia(?!n$|l$)|io(?!n|us)|(?<!p)eo|ua|uo|ea$|^scie|eio|myo", plain))
    return max(1, count)
