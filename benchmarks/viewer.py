"""Tile latency: our server compared with OpenSlide's DeepZoom, in one run.

Ours is the viewer's own server with all its checks and headers on every request; DeepZoom is served by a bare server of
the same kind (standard library, keep-alive connections), so HTTP overhead counts against ours.  Four clients, in a
separate process like a browser (in the server's process they would compete for the interpreter lock), request tiles at
random positions of every level down to full resolution, none twice, so that no cache of whole tiles helps either
server.  The two alternate round by round, so that a busy machine affects both equally.

    python -m benchmarks.viewer SLIDE ... [--mosaic SIDE] [--tiles N] [--rounds N]
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide.deepzoom import DeepZoomGenerator

from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.record import write_slide_record
from pathology.slide.open import open_reader
from pathology.testing.synthetic_slides import Picture, write_svs
from pathology.viewer.batch import Batch
from pathology.viewer.server import ViewerServer
from pathology.viewer.tiles import QUALITY, TilePyramid

CLIENTS = 4
Tile = tuple[int, int, int]


@contextmanager
def viewer(path: Path, scratch: Path):
    """Serve a slide like `pathology view`; yields the port and the URL of its tiles."""
    record = SlideResult(slide_id="slide", path=str(path), status="scored", model="none 0", model_sha256="0" * 64)
    folder = scratch / "results" / "slides" / "slide"
    folder.mkdir(parents=True, exist_ok=True)
    write_slide_record(folder, record)
    server = ViewerServer(Batch([scratch / "results"]), None)
    server.start()
    try:
        yield server.port, f"/{server.address.split('/')[3]}/api/tile/0/slide"
    finally:
        server.close()


@contextmanager
def served(tile: Callable[[int, int, int], bytes]):
    """Serve tiles under /z/column/row; yields the port and the URL of the tiles."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 64 * 1024

        def do_GET(self) -> None:
            z, column, row = (int(part) for part in self.path.strip("/").split("/"))
            body = tile(z, column, row)
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], ""
    finally:
        server.shutdown()
        server.server_close()


def deep_zoom(path: Path, tile_size: int) -> tuple[Callable[[int, int, int], bytes], Callable[[], None]]:
    """Return OpenSlide's DeepZoom as used in its example server, and a function that closes it.

    Without tile overlap, like ours; with the same JPEG quality and the example's cache size.
    """
    slide = openslide.OpenSlide(path)
    slide.set_cache(openslide.OpenSlideCache(128 * 2**20))
    generator = DeepZoomGenerator(slide, tile_size=tile_size, overlap=0, limit_bounds=False)
    finest = generator.level_count - 1

    def tile(z: int, column: int, row: int) -> bytes:
        picture = generator.get_tile(finest - z, (column, row))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    return tile, slide.close


class Mosaic(Picture):
    """A real slide repeated to a square of any size.

    Parameters
    ----------
    pixels
        ``(H, W, 3)`` uint8 RGB.
    side
        Side of the square, in pixels.
    """

    def __init__(self, pixels: NDArray[np.uint8], side: int) -> None:
        self.pixels, self.width, self.height = pixels, side, side

    def window(self, x: int, y: int, w: int, h: int) -> NDArray[np.uint8]:
        """Return ``(h, w, 3)`` uint8 RGB."""
        rows, columns = np.arange(y, y + h) % self.pixels.shape[0], np.arange(x, x + w) % self.pixels.shape[1]
        return self.pixels[rows[:, None], columns]


def choose(pyramid: TilePyramid, count: int, seed: int) -> list[Tile]:
    """Choose distinct tiles at random positions, equally many per level."""
    rng = random.Random(seed)
    chosen: list[Tile] = []
    levels = range(pyramid.coarsest + 1)
    for z in levels:
        width, height = pyramid.level_size(z)
        columns, rows = -(-width // pyramid.tile_size), -(-height // pyramid.tile_size)
        places = [(z, c, r) for c in range(columns) for r in range(rows)]
        rng.shuffle(places)
        chosen += places[: -(-count // len(levels))]
    rng.shuffle(chosen)
    return chosen


def ask(port: int, address: str, tiles: Sequence[Tile]) -> dict[Tile, float]:
    """Fetch tiles with four clients; return the seconds each took."""
    taken: dict[Tile, float] = {}

    def client(share: Sequence[Tile]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for tile in share:
            began = time.perf_counter()
            connection.request("GET", "/".join([address, *map(str, tile)]))
            answer = connection.getresponse()
            body = answer.read()
            taken[tile] = time.perf_counter() - began
            if answer.status != 200 or not body.startswith(b"\xff\xd8"):
                raise RuntimeError(f"tile {tile}: status {answer.status}")
        connection.close()

    threads = [threading.Thread(target=client, args=(tiles[i::CLIENTS],)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(taken) != len(tiles):
        raise RuntimeError("a client failed")
    return taken


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile in milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def compare(path: Path, tiles: int, rounds: int) -> dict[str, object]:
    """Measure one slide."""
    found: dict[str, list[float]] = {"ours": [], "deepzoom": []}
    by_level: dict[str, dict[int, list[float]]] = {"ours": {}, "deepzoom": {}}
    with open_reader(path) as reader:
        pyramid = TilePyramid(reader)
        backend, size = reader.backend, reader.dimensions
    people = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    for number in range(rounds):
        chosen = choose(pyramid, tiles, number)
        # Each round starts with everything closed, and alternates which server goes first.
        for name in ("ours", "deepzoom")[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
                if name == "ours":
                    port, address = stack.enter_context(viewer(path, Path(scratch)))
                else:
                    tile, close = deep_zoom(path, pyramid.tile_size)
                    stack.callback(close)
                    port, address = stack.enter_context(served(tile))
                for place, seconds in people.submit(ask, port, address, chosen).result().items():
                    found[name].append(seconds)
                    by_level[name].setdefault(place[0], []).append(seconds)
    people.shutdown()
    ours, theirs = (statistics.median(found[name]) for name in ("ours", "deepzoom"))
    return {
        "slide": path.name,
        "size": size,
        "reader": backend,
        "tiles": len(found["ours"]),
        "rounds": rounds,
        "ours_median_ms": round(1000 * ours, 2),
        "ours_p95_ms": round(quantile(found["ours"], 0.95), 2),
        "deepzoom_median_ms": round(1000 * theirs, 2),
        "deepzoom_p95_ms": round(quantile(found["deepzoom"], 0.95), 2),
        "times_faster_median": round(theirs / ours, 1),
        "times_faster_p95": round(quantile(found["deepzoom"], 0.95) / quantile(found["ours"], 0.95), 1),
        "median_ms_by_level": {
            z: {name: round(1000 * statistics.median(by_level[name][z]), 2) for name in by_level}
            for z in sorted(by_level["ours"])
        },
    }


def main() -> None:
    """Measure the given slides and a mosaic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path, help="slides that OpenSlide can also read")
    parser.add_argument(
        "--mosaic", type=int, default=40_000, help="side of an Aperio slide built by repeating the first one; 0: none"
    )
    parser.add_argument("--tiles", type=int, default=400, help="tiles per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds")
    arguments = parser.parse_args()
    results = [compare(path, arguments.tiles, arguments.rounds) for path in arguments.slides]
    if arguments.mosaic:
        with open_reader(arguments.slides[0]) as reader:
            picture = Mosaic(reader.read(0, 0, 0, *reader.dimensions), arguments.mosaic)
        with tempfile.TemporaryDirectory(prefix="pathology-bench-") as folder:
            path = write_svs(Path(folder) / f"mosaic-{arguments.mosaic}.svs", picture, factors=(1, 4, 16))
            results.append(compare(path, arguments.tiles, arguments.rounds))
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "openslide": openslide.__library_version__}
    print(json.dumps({"clients": CLIENTS, "machine": machine, "slides": results}, indent=1))


if __name__ == "__main__":
    main()
