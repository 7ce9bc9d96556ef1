"""The program of a reading process: ``python -m pathology.inference.reading.process_main DESCRIPTOR``.

The parent process announces slides and rings over a socket and requests blocks; for each block, this process replies
which patches were readable.  It exits when the socket closes, including when the parent is killed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathology.inference.reading.shared_patches import PatchRing
from pathology.settings import GridSettings
from pathology.slide.open import open_reader
from pathology.slide.readers.base import SlideReader, TileCounts
from pathology.slide.stain.normalise import StainNormaliser
from pathology.tiling.blocks import BlockReader
from pathology.tiling.grid import Grid

__all__ = ["BlockRead", "BlockRequest", "SlideRequest", "main"]


@dataclass(frozen=True)
class SlideRequest:
    """A slide and how to read it.

    Attributes
    ----------
    path
        The slide file.
    state
        Changes when the file does: a changed file is reopened.
    grid
        JSON of the :class:`pathology.settings.GridSettings`.
    dimensions, mpp
        The slide's size and its micrometres per level-0 pixel.
    stain
        JSON of a fitted stain normalisation, or empty.
    """

    path: Path
    state: str
    grid: str
    dimensions: tuple[int, int]
    mpp: float
    stain: str = ""


@dataclass(frozen=True)
class BlockRequest:
    """A request for one block.

    Attributes
    ----------
    slide, ring
        Numbers under which they were announced.
    block
        Index in the grid.
    positions
        ``(n,)`` int32 indices into the block's patch positions.
    places
        Where the patches go in the ring.
    """

    slide: int
    ring: int
    block: int
    positions: NDArray[np.int32]
    places: tuple[slice, ...]


@dataclass(frozen=True)
class BlockRead:
    """The outcome of reading a block.

    Attributes
    ----------
    readable
        ``(n,)`` bool.
    unreadable_tiles
        Tiles of the slide that this process has been unable to decode so far.
    decoded, reused
        Stored tiles decoded, and taken from the cache, since the last reply.
    """

    readable: NDArray[np.bool_]
    unreadable_tiles: frozenset[tuple[int, int, int]]
    decoded: int
    reused: int


class _Slide:
    """A slide that this process reads."""

    def __init__(self, request: SlideRequest) -> None:
        self.reader: SlideReader = open_reader(request.path)
        self._counted = TileCounts()
        grid = Grid(GridSettings.model_validate_json(request.grid), request.dimensions, request.mpp)
        stain = StainNormaliser.from_record(json.loads(request.stain)) if request.stain else None
        self._blocks = BlockReader(self.reader, grid, stain.apply if stain is not None else None)

    def read(self, request: BlockRequest, ring: NDArray[np.uint8]) -> BlockRead:
        memory = chain.from_iterable(ring[place] for place in request.places)
        readable = self._blocks.read_into(memory, request.block, request.positions)
        now, before = self.reader.tile_counts, self._counted
        self._counted = now
        decoded, reused = now.decoded - before.decoded, now.reused - before.reused
        return BlockRead(readable, self.reader.unreadable_tiles, decoded, reused)


def main(connection: Connection) -> None:
    """Answer requests until the socket closes."""
    slides: dict[int, _Slide] = {}
    rings: dict[int, PatchRing] = {}

    def carry_out(kind: str, *what: Any) -> BlockRead | None:
        if kind == "ring":
            number, capacity, patch = what
            rings[number] = PatchRing(capacity, patch, recv_handle(connection))
        elif kind == "slide":
            number, request = what
            slides[number] = _Slide(request)
        elif kind == "forget":
            for number in what[0]:
                if number in slides:
                    slides.pop(number).reader.close()
                if number in rings:
                    rings.pop(number).close()
        else:
            (block,) = what
            return slides[block.slide].read(block, rings[block.ring].patches)
        return None

    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        answer: BlockRead | Exception | None
        try:
            answer = carry_out(*message)
        except Exception as error:  # any failure is reported to the parent
            answer = error
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception:  # an exception that cannot be pickled is sent as text
            connection.send(RuntimeError(f"{type(answer).__name__}: {answer}"))


if __name__ == "__main__":
    # Pickled classes must come from the importable module, which the parent can also import, not from __main__.
    from pathology.inference.reading.process_main import main as answer_requests

    answer_requests(Connection(int(sys.argv[1])))
