"""Seeded mutations of a file, among them what has broken readers before."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["mutated"]

PAST_FAILURES: Final = (
    b"CQ",  # a DICOM value representation that does not exist
    b"\0",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    (16_777_216).to_bytes(4, "big"),  # a picture of 16,777,216 x 8 pixels
    (2**40).to_bytes(8, "little"),
    (65_535).to_bytes(2, "little"),
    b"[" * 2000,
    b"nan",
    b"-1",
    b"1e999",
    b"\xed\xb2\x80",  # a lone surrogate in UTF-8
    b"\xef\xbb\xbf",
)
"""Bytes that a reader once answered with a crash, a hang, gigabytes of memory or an error of another library."""


def mutated(data: bytes, random_numbers: random.Random) -> bytes:
    """Return a copy of a file with one to six mutations.

    Parameters
    ----------
    data
        The sound file; at least one byte.
    random_numbers
        Decides everything: the same state gives the same bytes.

    Examples
    --------
    >>> mutated(b"abcdef", random.Random(1)) == mutated(b"abcdef", random.Random(1))
    True
    """
    changed = bytearray(data)
    for _ in range(random_numbers.choice((1, 1, 2, 3, 6))):
        _mutate(changed, random_numbers)
    return bytes(changed)


def _mutate(data: bytearray, random_numbers: random.Random) -> None:
    # Headers decide more than pixels: half of the mutations fall into the first kilobyte or the last.
    region = random_numbers.choice(("head", "tail", "any", "any"))
    size = max(1, len(data))
    span = {"head": (0, min(size, 1024)), "tail": (max(0, size - 1024), size), "any": (0, size)}[region]
    at = random_numbers.randrange(*span)
    match random_numbers.randrange(7):
        case 0:
            data[at : at + 1] = bytes([random_numbers.randrange(256)])
        case 1:
            known = random_numbers.choice(PAST_FAILURES)
            data[at : at + len(known)] = known
        case 2:
            del data[at:]
        case 3:
            data[at:at] = random_numbers.choice(PAST_FAILURES)
        case 4:
            del data[at : at + random_numbers.choice((1, 2, 4, 16, 256))]
        case 5:
            length = random_numbers.choice((4, 64, 1024))
            data[at : at + length] = bytes(min(length, len(data) - at))
        case 6:
            start = random_numbers.randrange(size)
            data[at:at] = data[start : start + random_numbers.choice((8, 128, 4096))]
