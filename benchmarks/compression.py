"""Compare compression methods for decoded H&E patches: size, write and read speed, on patches as stored.

    python -m benchmarks compression [--slide SLIDE] [--patches 100] [--write]

Patches of 224 px at 1.0 µm/px, plain and stain-normalised, at most half of them glass.  Rates are patches per
CPU-second of one thread, best of three.
"""

import argparse
import time
from pathlib import Path

import numpy as np

DOCS = Path(__file__).resolve().parent.parent / "docs"


def patches_of(slide, count):
    """Return ``(n, 224, 224, 3)`` patches from across the tissue, plain and normalised."""
    from pathology.scoring.prepare import prepare
    from pathology.settings import GridSettings, TissueSettings
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader

    with open_reader(slide) as reader:
        ready = prepare(
            reader,
            option_mpp=None,
            manifest_mpp=None,
            tissue=TissueSettings(),
            quality=None,
            grid=lambda _: GridSettings(),
            stain="macenko",
        )
        plan, blocks, found = ready.plan, BlockReader(reader, ready.plan.grid), []
        step = max(1, len(plan) // count)
        for k in range(len(plan.blocks)):
            part = plan.of_block(k)
            chosen = np.arange(part.start, part.stop)
            chosen = chosen[chosen % step == 0] - part.start
            if len(chosen):
                found.append(blocks.read(int(plan.blocks[k]), plan.positions[part][chosen]).pixels)
    plain = np.concatenate(found)[:count]
    return {"plain": plain, "stain-normalised": ready.stain.apply(plain)}


def methods():
    """Return pairs of compress and decompress by name."""
    import imagecodecs
    from numcodecs import blosc

    found = {"none": (lambda patch: patch.tobytes(), lambda data: np.frombuffer(data, np.uint8).copy())}
    for name, levels in (("lz4", (5,)), ("zstd", (1, 3, 9))):
        for level in levels:
            for filter_name, filter_number, size in (
                ("", blosc.NOSHUFFLE, 1),
                (", bytes of a colour together", blosc.SHUFFLE, 3),
                (", bits together", blosc.BITSHUFFLE, 3),
            ):
                if level == 9 and filter_name:
                    continue

                def compress(patch, name=name, level=level, number=filter_number, size=size):
                    return blosc.compress(patch.reshape(-1).view(f"V{size}"), name.encode(), level, number)

                found[f"{name} {level}{filter_name}"] = (compress, blosc.decompress)
    found["PNG"] = (lambda p: imagecodecs.png_encode(p, level=1), imagecodecs.png_decode)
    found["JPEG-LS, lossless"] = (imagecodecs.jpegls_encode, imagecodecs.jpegls_decode)
    found["WebP, lossless"] = (lambda p: imagecodecs.webp_encode(p, lossless=True, level=0), imagecodecs.webp_decode)
    return found


def cpu_rate(function, items):
    """Return items per CPU-second (best of three) and the results."""
    best, results = float("inf"), []
    for _ in range(3):
        began = time.process_time()
        results = [function(item) for item in items]
        best = min(best, time.process_time() - began)
    return len(items) / max(best, 1e-9), results


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--patches", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="write the table to docs/performance.md")
    arguments, _ = parser.parse_known_args()
    if arguments.slide is None:
        parser.error("give a real H&E slide with --slide: synthetic tissue compresses differently")
    kinds = patches_of(arguments.slide, arguments.patches)
    lines = [
        "| compression | smaller, plain | smaller, normalised | write/CPU-s | read/CPU-s |",
        "|---|---|---|---|---|",
    ]
    for name, (compress, decompress) in methods().items():
        sizes, written, read = [], 0.0, 0.0
        for patches in kinds.values():
            written, packed = cpu_rate(compress, list(patches))
            read, _ = cpu_rate(decompress, packed)
            sizes.append(patches.nbytes / sum(map(len, packed)))
        lines.append(f"| {name} | {sizes[0]:.2f} | {sizes[1]:.2f} | {written:,.0f} | {read:,.0f} |")
    count = len(kinds["plain"])
    lines += ["", f"{count} patches of 224 px of one slide; rates are those of normalised patches."]
    print("\n".join(lines))
    if arguments.write:
        from benchmarks.report import write_section

        write_section(DOCS / "performance.md", "compression", "\n".join(lines))


if __name__ == "__main__":
    main()
