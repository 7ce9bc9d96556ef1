"""Fingerprints of slides whose stored tiles this package does not index itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["file_fingerprint"]

_WHOLE_BELOW: Final = 64 * 2**20
"""Files with fewer bytes than this are hashed whole."""
_SAMPLES: Final = 256
"""Evenly spaced pieces hashed of each larger file."""
_SAMPLE_BYTES: Final = 64 * 2**10


def file_fingerprint(files: Iterable[Path], *salt: str) -> str:
    """Hash the contents of files, independent of their names.

    Parameters
    ----------
    files
        In an order that does not depend on the name of the first.
    *salt
        Additional text to include, such as a library's own hash of the coarsest level.

    Returns
    -------
    str
        64 hexadecimal digits.  Of files of 64 MiB and more, only 16 MiB in 256 evenly spaced pieces are hashed, so
        that opening a large slide does not read all of it.
    """
    digest = hashlib.sha256()
    for text in salt:
        digest.update(text.encode() + b"\0")
    for path in files:
        size = path.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        with path.open("rb") as file:
            if size < _WHOLE_BELOW:
                digest.update(file.read())
                continue
            for i in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
