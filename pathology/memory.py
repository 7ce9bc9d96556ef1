"""Memory that Python has freed, given back to the system."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Final, ParamSpec, TypeVar

__all__ = ["give_back_freed_memory", "reuse_freed_memory", "then_gives_back_memory"]

P = ParamSpec("P")
R = TypeVar("R")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's settings (``malloc.h``)."""
_FROM_SYSTEM: Final = 32 * 2**20
"""Bytes from which memory comes from the system and goes back at once; glibc allows no more."""
_KEPT: Final = 64 * 2**20
"""Free bytes at the end of the heap from which they are given back unasked."""


@cache
def reuse_freed_memory() -> None:
    """Let the C library use again what a step has freed, until the step gives it back.

    Dask starts its workers with a setting of glibc's heap that hands every array above 128 kB back to the system once
    it is freed.  The next one then comes back page by page, each filled with zeros first: that was more than half of
    the time for cutting a slide of 10 gigapixels.
    """
    if sys.platform == "linux":
        change = getattr(ctypes.CDLL(None), "mallopt", None)
        if change is not None:
            change(_M_MMAP_THRESHOLD, _FROM_SYSTEM)
            change(_M_TRIM_THRESHOLD, _KEPT)


def give_back_freed_memory() -> None:
    """Give back what the C library keeps of freed memory.

    glibc hands back only what lies at the end of its heap, so that one small object in use keeps alive the masks of a
    whole slide freed below it: some 100 MB after tissue was found on a slide of 10 gigapixels.  Elsewhere this does
    nothing.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
        if trim is not None:
            trim(0)


def then_gives_back_memory(step: Callable[P, R]) -> Callable[P, R]:
    """Make a step give back what it has freed by its end, so that it does not add to what other steps need.

    Libraries imported on the way may leave tracebacks behind that refer to each other and to the step's variables, so
    these are collected first.
    """

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return step(*args, **kwargs)
        finally:
            gc.collect()
            give_back_freed_memory()

    return run
