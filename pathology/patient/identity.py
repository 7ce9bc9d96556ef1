"""Identifiers replaced by keyed hashes, so that a record can leave the house without naming anybody.

A plain hash of a hospital number is undone by hashing all hospital numbers; a keyed one (HMAC-SHA-256, RFC 2104) is
not, as long as the key stays at home.  The same key gives the same pseudonym, so later results still join.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from pathology.errors import OutputError, UsageError

__all__ = ["Pseudonyms"]

KEY_BYTES = 32
DIGITS = 16
"""Hexadecimal digits of a pseudonym: 64 bits, so that two of a million patients collide once in 37 million builds."""


class Pseudonyms:
    """Pseudonyms under one key.

    Parameters
    ----------
    key
        At least 32 random bytes.

    Raises
    ------
    UsageError
        The key is too short to be safe.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise UsageError(f"the key has {len(key)} bytes, expected at least {KEY_BYTES} random ones")
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """Read the key from a file; a file that does not exist is made, readable by its owner only.

        Raises
        ------
        OutputError
            The file can be neither read nor made.
        UsageError
            It holds fewer than 32 bytes written as hexadecimal digits.
        """
        try:
            if not path.exists():
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    file.write(secrets.token_hex(KEY_BYTES) + "\n")
            text = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"the key file cannot be used ({error})", where=path) from error
        try:
            return cls(bytes.fromhex(text))
        except ValueError as error:
            raise UsageError(
                "the key file holds no key",
                where=path,
                remedy="Give 64 hexadecimal digits, or a name that does not exist yet",
            ) from error

    def of(self, identifier: str) -> str:
        """Return the pseudonym of an identifier: ``P`` and 16 hexadecimal digits."""
        return "P" + hmac.new(self._key, identifier.encode(), hashlib.sha256).hexdigest()[:DIGITS]
