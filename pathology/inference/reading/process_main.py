"""The program of a reading process: ``python -m pathology.inference.reading.process_main DESCRIPTOR``.

It is told over a socket which slides and rings there are and which block to read where, and answers each block with
which patches could be read.  It ends when the other side of the socket is closed, also because its owner was killed.
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
    """A slide and how it is to be read.

    Attributes
    ----------
    path
        The slide file.
    state
        Changes when the file does: a changed file is opened anew.
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
    """A block to be read.

    Attributes
    ----------
    slide, ring
        Numbers under which they were introduced.
    block
        Index in the grid.
    positions
        ``(n,)`` int32 places among the block's patch positions.
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
    """What came of a block.

    Attributes
    ----------
    readable
        ``(n,)`` bool.
    unreadable_tiles
        Tiles of the slide that this process found undecodable so far.
    decoded, reused
        Stored tiles decoded and taken from the cache since the last answer.
    """

    readable: NDArray[np.bool_]
    unreadable_tiles: frozenset[tuple[int, int, int]]
    decoded: int
    reused: int


class _Slide:
    """A slide this process reads."""

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
    """Answer requests until the other side is gone."""
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
        except Exception as error:  # whatever it is, it is the asker's to judge
            answer = error
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception:  # an error that cannot travel still has words
            connection.send(RuntimeError(f"{type(answer).__name__}: {answer}"))


if __name__ == "__main__":
    # What is sent must belong to the module of that name, which the other side has too, not to this program.
    from pathology.inference.reading.process_main import main as answer_requests

    answer_requests(Connection(int(sys.argv[1])))
