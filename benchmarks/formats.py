"""Read speed of other formats: DICOM compared with the same tiles as SVS, JPEG 2000 compared with OpenSlide.

    python -m benchmarks formats --slide SLIDE [--seconds 3] [--write]

The upper left part of a slide is rewritten in each format by this project's own writers.  Readers take turns reading
whole tiles; ``half`` are regions at half the resolution, which OpenSlide reads at full resolution and OpenCV
downsamples.  ``OpenJPEG alone`` is the decoder both use, with the tiles in memory.  Rates are tiles per CPU-second of
one thread.
"""

import argparse
import math
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.tiling import Turns

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIDE, TILE = 2048, 256
PEAK_SIGNAL_TO_NOISE = (28, 30, 35)
"""Quality of the JPEG 2000 slides, in dB."""


def ours(reader, reduction):
    """Return a function that reads the i-th tile through this project's reader."""
    side = TILE // reduction
    memory = np.empty((side, side, 3), np.uint8)
    across = reader.dimensions[0] // TILE

    def read(i):
        y, x = divmod(i, across)
        reader.read_reduced(0, reduction, x * side, y * side, side, side, out=memory)
        return 1

    return read


def decoder_alone(reader, reduction):
    """Return a function that only decodes the i-th tile from memory."""
    from pathology.slide.readers.codecs import decode_jpeg2000, reduced_codestream

    stored = reader.stored_tiles(0, np.arange(math.prod(side // TILE for side in reader.dimensions)))
    tiles = [bytes(stored.tile(i)) for i in range(len(stored.lengths))]
    if reduction > 1:
        tiles = [reduced_codestream(tile, reduction) for tile in tiles]

    def decode(i):
        decode_jpeg2000(tiles[i])
        return 1

    return decode


def openslides(path, reduction):
    """Return the same for openslide-python, and the whole image."""
    import openslide

    slide = openslide.OpenSlide(path)
    slide.set_cache(openslide.OpenSlideCache(0))  # otherwise such a small slide would be decoded only once
    across, side = slide.dimensions[0] // TILE, TILE // reduction

    def read(i):
        y, x = divmod(i, across)
        pixels = np.asarray(slide.read_region((x * TILE, y * TILE), 0, (TILE, TILE)).convert("RGB"))
        if reduction > 1:
            cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        return 1

    return read, np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def in_turns(reads, count, seconds):
    """Return the rates of several functions per CPU-second."""
    turns = [Turns(read, count) for read in reads]
    for _ in range(max(1, round(seconds / 0.1))):
        for turn in turns:
            turn.turn(1, 0.1)
    return [turn.metrics["per_cpu_s"] for turn in turns]


def main():
    """Write the slides, measure, and print the table."""
    from pathology.slide.open import open_reader
    from pathology.testing.synthetic_slides import ArrayPicture, write_dicom, write_svs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--write", action="store_true", help="write the table to docs/performance.md")
    arguments = parser.parse_args()
    with open_reader(arguments.slide) as reader:
        width, height = (min(SIDE, side // TILE * TILE) for side in reader.dimensions)
        picture = ArrayPicture(reader.read(0, 0, 0, width, height))
    count = width * height // TILE**2
    lines = ["| tiles | tiles/CPU-s | of | tiles/CPU-s | ratio |", "|---|---|---|---|---|"]

    def row(name, rate, beside, other):
        lines.append(f"| {name} | {rate:,.0f} | {beside} | {other:,.0f} | {rate / other:.2f} |")

    with tempfile.TemporaryDirectory() as folder:
        svs = write_svs(Path(folder) / "jpeg.svs", picture, factors=(1,))
        series = write_dicom(Path(folder) / "series", picture, factors=(1,))
        with open_reader(svs) as one, open_reader(series) as other:
            rates = in_turns([ours(other, 1), ours(one, 1)], count, arguments.seconds)
        row("DICOM, JPEG frames", rates[0], "the same as SVS", rates[1])
        for decibels in PEAK_SIGNAL_TO_NOISE:
            path = write_svs(
                Path(folder) / f"{decibels}.svs", picture, compression="jpeg2000", quality=2 * decibels, factors=(1,)
            )
            peers = {reduction: openslides(path, reduction) for reduction in (1, 2)}
            bits = path.stat().st_size * 8 / (width * height)
            with open_reader(path) as reader:
                if not np.array_equal(reader.read(0, 0, 0, width, height), peers[1][1]):
                    raise SystemExit(f"pixels differ at {decibels} dB")
                for reduction, name in ((1, "full"), (2, "half")):
                    reads = [ours(reader, reduction), peers[reduction][0], decoder_alone(reader, reduction)]
                    rates = in_turns(reads, count, arguments.seconds)
                    row(f"JPEG 2000, {bits:.1f} bit/px, {name}", rates[0], "OpenSlide", rates[1])
                    row("OpenJPEG alone", rates[2], "OpenSlide", rates[1])
    lines += ["", f"{count} tiles of {TILE} px of a real slide, written again; pixels equal OpenSlide's."]
    print("\n".join(lines))
    if arguments.write:
        from benchmarks.report import write_section

        write_section(DOCS / "performance.md", "formats", "\n".join(lines))


if __name__ == "__main__":
    main()
