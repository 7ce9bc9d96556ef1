"""Open slides and what is prepared from them, shared by the requests of a viewer and bounded in number."""

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
"""Slides kept open: two side by side, and the two seen before."""


def find_slide(slide: SlideFolder, folders: tuple[Path, ...]) -> Path:
    """Return where a slide's file is now.

    Parameters
    ----------
    slide
        Its results, which say where it was.
    folders
        Where else it may be, under its own name.

    Raises
    ------
    SlideNotFoundError
        If it is nowhere.
    """
    stated = Path(slide.record.path)
    for path in (stated, *(folder / stated.name for folder in folders)):
        if path.exists():
            return path
    raise SlideNotFoundError(
        "the slide's file is no longer there",
        where=stated,
        remedy="Put it back, or say where it is now with --slides FOLDER",
    )


def _overview(slide: SlideFolder, reader: SlideReader) -> NDArray[np.uint8] | None:
    """Return the picture stored with the results if it is one of these pixels."""
    if slide.record.fingerprint is None or slide.record.fingerprint != reader.fingerprint:
        return None
    try:
        return slide.overview.pixels
    except StoreError:
        return None  # the slide itself shows the same, only later


@dataclass
class _Held:
    reader: SlideReader
    pyramid: TilePyramid
    path: Path
    users: int = 0
    unchanged: bool | None = None
    checking: threading.Lock = field(default_factory=threading.Lock)


class OpenSlides:
    """Slides opened on demand; the ones used longest ago are closed.

    Parameters
    ----------
    folders
        Where slides may be that are not where they were when they were scored.
    """

    def __init__(self, folders: tuple[Path, ...] = ()) -> None:
        self._folders = folders
        self._held: OrderedDict[object, _Held] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def pyramid(self, key: object, slide: SlideFolder) -> Iterator[TilePyramid]:
        """Give the pyramid of a slide; the slide stays open meanwhile.

        Raises
        ------
        SlideError
            If the slide is gone or cannot be opened.
        ValueError
            If everything is closed already.
        """
        with self._in_use(key, slide) as held:
            yield held.pyramid

    def is_unchanged(self, key: object, slide: SlideFolder) -> bool:
        """Tell whether the file still has the pixels that were scored.

        Raises
        ------
        SlideError
            If the slide is gone or cannot be opened.
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
                reader.close()  # another request was faster
            held.users += 1
            self._held.move_to_end(key)
            return held

    def _close_surplus(self) -> None:
        surplus = len(self._held) - (0 if self._closed else _MOST_OPEN)
        for key in [key for key, held in self._held.items() if held.users == 0][: max(0, surplus)]:
            self._held.pop(key).reader.close()

    def close(self) -> None:
        """Close every slide; those in use, once they no longer are."""
        with self._lock:
            self._closed = True
            self._close_surplus()
