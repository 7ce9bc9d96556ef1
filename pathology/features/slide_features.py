"""The features of one slide, whoever computed them: what is known of them, and the vectors on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pathology.errors import StoreError

__all__ = ["SlideFeatures"]

_ROWS = 4096
"""Patches read at once: 25 MB of 1,536 numbers."""


@dataclass(frozen=True, eq=False)
class SlideFeatures:
    """Features of a slide's patches.  Vectors are read when asked for.

    Attributes
    ----------
    path
        The file or store.
    slide_id
        The slide's id: the file's name without its suffix.
    made_by
        Program whose layout it is: ``pathology``, ``trident``, ``clam``, ``stamp``, ``atlaspatch``.
    encoder
        The encoder's name as the file states it; empty if it does not.
    weights_sha256
        Hash of the encoder's weights; empty if unknown.
    count, vector
        Patches ``N`` and numbers per patch ``D``.
    coords
        ``(N, 2)`` int64 level-0 pixels of the patches' top left corners; ``None`` if the file has none.
    patch_level0
        Side of a patch in level-0 pixels; ``None`` if unknown.
    mpp
        Micrometres per pixel at which patches were read; ``None`` if unknown.
    fingerprint
        Of the slide; empty if unknown.
    """

    path: Path
    slide_id: str
    made_by: str
    encoder: str
    weights_sha256: str
    count: int
    vector: int
    coords: NDArray[np.int64] | None
    patch_level0: float | None
    mpp: float | None
    fingerprint: str
    _read: Callable[[slice], NDArray[np.floating]]

    def __len__(self) -> int:
        """Number of patches."""
        return self.count

    def __repr__(self) -> str:
        return (
            f"SlideFeatures({self.slide_id!r}: {self.count} patches x {self.vector},"
            f" {self.encoder or 'encoder unknown'}, by {self.made_by})"
        )

    def chunks(self, rows: int = _ROWS) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors in order, ``(n, D)`` float32, at most ``rows`` at once.

        Raises
        ------
        StoreError
            If they cannot be read, or one holds a number that is not finite.
        """
        for start in range(0, self.count, rows):
            try:
                found = np.asarray(self._read(slice(start, min(start + rows, self.count))), np.float32)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise StoreError(
                    f"the features cannot be read ({str(error).splitlines()[0] if str(error) else 'no reason'})",
                    where=self.path,
                    remedy="Compute or copy them again",
                ) from error
            if not np.isfinite(found).all():
                raise StoreError(
                    f"the features of patch {start + int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])} are not"
                    " finite numbers",
                    where=self.path,
                    remedy="Compute them again in a higher precision",
                )
            yield found

    def read(self) -> NDArray[np.float32]:
        """Return all vectors, ``(N, D)`` float32."""
        return np.concatenate([np.empty((0, self.vector), np.float32), *self.chunks()])
