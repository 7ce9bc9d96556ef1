"""Open slides and their pyramids, shared by the requests of a viewer and limited in number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pathology.errors import SlideNotFoundError, StoreError
from pathology.outputs.results.results_folder import SlideFolder
from pathology.slide.open import open_reader
from pathology.slide.readers.base import SlideReader
from pathology.viewer.tiles import TilePyramid

__all__ = ["OpenSlides", "find_slide"]

_MOST_OPEN: Final = 4
"""Slides kept open: two side by side, and the previous two."""


def find_slide(slide: SlideFolder, folders: tuple[Path, ...]) -> Path:
    """Return the current path of a slide file.

    Parameters
    ----------
    slide
        Its results, which contain its original path.
    folders
        Other folders to search for a file of the same name.

    Raises
    ------
    SlideNotFoundError
        If it is not found.
    """
    stated = Path(slide.record.path)
    for path in (stated, *(folder / stated.name for folder in folders)):
        if path.exists():
            return path
    raise SlideNotFoundError(
        "the slide file is missing",
        where=stated,
        remedy="Restore it, or give its new folder with --slides FOLDER",
    )


def _overview(slide: SlideFolder, reader: SlideReader) -> NDArray[np.uint8] | None:
    """Return the image stored with the results if it belongs to these pixels."""
    if slide.record.fingerprint is None or slide.record.fingerprint != reader.fingerprint:
        return None
    try:
        return slide.overview.pixels
    except StoreError:
        return None  # the slide itself provides the same image, only more slowly


@dataclass
class _Held:
    reader: SlideReader
    pyramid: TilePyramid
    path: Path
    users: int = 0
    unchanged: bool | None = None
    checking: threading.Lock = field(default_factory=threading.Lock)


class OpenSlides:
    """Slides opened on demand; the least recently used ones are closed.

    Parameters
    ----------
    folders
        Folders to search for slides that were moved after scoring.
    """

    def __init__(self, folders: tuple[Path, ...] = ()) -> None:
        self._folders = folders
        self._held: OrderedDict[object, _Held] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def pyramid(self, key: object, slide: SlideFolder) -> Iterator[TilePyramid]:
        """Provide the pyramid of a slide, which stays open during use.

        Raises
        ------
        SlideError
            If the slide is missing or cannot be opened.
        ValueError
            If the viewer is closed.
        """
        with self._in_use(key, slide) as held:
            yield held.pyramid

    def is_unchanged(self, key: object, slide: SlideFolder) -> bool:
        """Return whether the file still contains the pixels that were scored.

        Raises
        ------
        SlideError
            If the slide is missing or cannot be opened.
        """
        with self._in_use(key, slide) as held, held.checking:
            if held.unchanged is None:
                held.unchanged = slide.record.fingerprint in (None, held.reader.fingerprint)
            return held.unchanged

    @contextmanager
    def _in_use(self, key: object, slide: SlideFolder) -> Iterator[_Held]:
        held = self._take(key, slide)
        try:
            yield held
        finally:
            with self._lock:
                held.users -= 1
                self._close_surplus()

    def _take(self, key: object, slide: SlideFolder) -> _Held:
        with self._lock:
            if self._closed:
                raise ValueError("the viewer is closed")
            held = self._held.get(key)
            if held is not None:
                held.users += 1
                self._held.move_to_end(key)
                return held
        path = find_slide(slide, self._folders)
        reader = open_reader(path)
        pyramid = TilePyramid(reader, _overview(slide, reader))
        with self._lock:
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = _Held(reader, pyramid, path)
            else:
                reader.close()  # another request opened it first
            held.users += 1
            self._held.move_to_end(key)
            return held

    def _close_surplus(self) -> None:
        surplus = len(self._held) - (0 if self._closed else _MOST_OPEN)
        for key in [key for key, held in self._held.items() if held.users == 0][: max(0, surplus)]:
            self._held.pop(key).reader.close()

    def close(self) -> None:
        """Close every slide; slides in use are closed after use."""
        with self._lock:
            self._closed = True
            self._close_surplus()
