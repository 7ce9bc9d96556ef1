"""Shared memory for patches."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
from numpy.typing import NDArray

__all__ = ["PatchRing"]


class PatchRing:
    """A buffer of patches in anonymous shared memory.

    It is freed when the last process that holds its descriptor exits, however that happens: named shared memory
    outlives a killed process, and ``/dev/shm`` is limited to 64 MiB in many containers.

    Parameters
    ----------
    capacity
        Number of patches.
    patch
        Side of a patch in pixels.
    descriptor
        Of a ring that another process created; ``None`` creates one.

    Attributes
    ----------
    patches : numpy.ndarray
        ``(capacity, patch, patch, 3)`` uint8.
    descriptor : int
        Pass it to another process to share the memory.
    """

    def __init__(self, capacity: int, patch: int, descriptor: int | None = None) -> None:
        shape = (capacity, patch, patch, 3)
        size = int(np.prod(shape))
        self.descriptor = _anonymous_file(size) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, size)
        self.patches: NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8).reshape(shape)

    def close(self) -> None:
        """Release the memory once nothing refers to it any more.  Closing twice is allowed."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            # The mapping itself lives until the last array that views it is gone.
            del self.patches, self._memory


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pathology-patches")
    else:  # macOS: an unlinked file, which stays in the page cache
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
