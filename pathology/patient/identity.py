"""Pseudonyms: keyed hashes in place of patient identifiers, so that records can be shared.

A plain hash of a hospital number can be reversed by hashing all hospital numbers; a keyed hash (HMAC-SHA-256,
RFC 2104) cannot, as long as the key stays secret.  The same key gives the same pseudonym, so later results still match.
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
"""Hexadecimal digits of a pseudonym: 64 bits.  Two of a million patients collide once in 37 million builds."""


class Pseudonyms:
    """Pseudonyms from one secret key.

    Parameters
    ----------
    key
        At least 32 random bytes.

    Raises
    ------
    UsageError
        The key is shorter than 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES:
            raise UsageError(f"the key has {len(key)} bytes, expected at least {KEY_BYTES} random ones")
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Pseudonyms:
        """Read the key from a file; create the file, readable by its owner only, if it does not exist.

        Raises
        ------
        OutputError
            The file can be neither read nor created.
        UsageError
            The file does not hold at least 32 bytes in hexadecimal.
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
                "the key file does not contain a valid key",
                where=path,
                remedy="Use 64 hexadecimal digits, or a new file name to create a key",
            ) from error

    def of(self, identifier: str) -> str:
        """Return the pseudonym of an identifier: ``P`` and 16 hexadecimal digits."""
        return "P" + hmac.new(self._key, identifier.encode(), hashlib.sha256).hexdigest()[:DIGITS]
