"""Speed of reading and storing patches compared with other readers: same slide, same regions, same run.

In every case the readers take turns for a few seconds each, in several processes one after another::

    python -m benchmarks tiling [--slide SLIDE.svs | --mosaic PROGRAM SMALL.svs] [--seconds 3] [--write]

``aligned`` reads whole stored tiles of 256 px, ``unaligned`` regions of 512 px that start away from tile corners,
``resampled`` patches of 224 px at 1.0 µm/px; all row by row over the slide.  ``narrow`` is ``unaligned`` over the
middle half of the width, where the two rows of tiles that libvips caches are enough to decode almost everything once.

``ours, single`` reads one region after another like the others, into reused memory, as raw decoding does;
``ours, blocks`` reads the way this project does: a block of patches at a time.  ``--write`` writes the table to
``docs/performance.md``, and chart and measurements next to it.
"""

import argparse
import cProfile
import itertools
import json
import os
import platform
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

TARGET_MPP = 1.0
CASES = {"aligned": 256, "unaligned": 512, "narrow": 512, "resampled": 224}
READERS = (
    "OpenSlide",
    "tiffslide",
    "pyvips",
    "fastslide",
    "cuCIM",
    "TIAToolbox",
    "raw decode",
    "ours, single",
    "ours, blocks",
)
SHIFTED, SHIFT = ("unaligned", "narrow"), (137, 91)
"""Offset of unaligned regions."""
TURN_SECONDS = 0.1
PROCESSES = 5
"""Number of processes in which a case is measured.  Depending on its memory layout, libvips is a quarter faster or
slower for the lifetime of a process."""
BLOCK = 2048
STRIP = 8
"""Block rows in a strip: the order in which this project reads."""
STORES = (
    ("copy of the store", "encoded write", "copy of the slide"),
    ("encoded read",),
    ("decoded write", "decoded read"),
)
"""Groups measured in turns, each in a separate process."""
STORE_TURNS = 9
DOCS = Path(__file__).resolve().parent.parent / "docs"


# -- one case, in its own process ---------------------------------------------------------------------------------


def places(case, side, factor):
    """Return the corners of regions, row by row."""
    size = CASES[case] * (factor if case == "resampled" else 1)
    left, top = SHIFT if case in SHIFTED else (0, 0)
    first = side // 4 // 256 * 256 if case == "narrow" else 0
    across = int((side - 2 * first - left) // size)
    down = int((side - top) // size)
    return [(first + left + column * size, top + row * size) for row in range(down) for column in range(across)]


def single_regions(reader, slide, case, side, factor):
    """Return a function that reads the i-th region, and the number of regions."""
    from benchmarks.readers import PerThread

    opened = PerThread(reader, slide)
    todo, size = places(case, side, factor), CASES[case]

    def read(i):
        x, y = todo[i]
        pixels = opened().scaled(x, y, size, factor) if case == "resampled" else opened().region(int(x), int(y), size)
        if pixels.shape != (size, size, 3):
            raise ValueError(f"{reader} gave {pixels.shape}")
        return 1

    return read, len(todo)


def blocks_of_regions(slide, case, side, mpp):
    """Return a function that reads the i-th block of patches, and the number of blocks."""
    from pathology.settings import GridSettings
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader
    from pathology.tiling.grid import Grid, TissueShare
    from pathology.tiling.order import compact_order
    from pathology.tiling.plan import plan_tiles

    reader = open_reader(slide)
    size = CASES[case]
    if case in SHIFTED:
        inner = np.stack(np.mgrid[:BLOCK:size, :BLOCK:size], axis=-1).reshape(-1, 2)[:, ::-1]
        corners = places(case, side, 1.0)
        left, top = corners[0]
        todo = [(x, y) for x, y in corners if (x - left) % BLOCK == 0 and (y - top) % BLOCK == 0]
        todo = [(x, y) for x, y in todo if x + BLOCK <= side and y + BLOCK <= side]
        todo.sort(key=lambda corner: ((corner[1] - top) // BLOCK // STRIP, corner))
        memory = threading.local()

        def read(i):
            if not hasattr(memory, "patches"):
                memory.patches = np.empty((len(inner), size, size, 3), np.uint8)
            reader.read_windows(0, 1, inner + todo[i], memory.patches)
            return len(inner)

        return read, len(todo), reader
    grid = Grid(
        GridSettings(patch=size, stride=size, mpp=TARGET_MPP if case == "resampled" else mpp, min_tissue=1),
        reader.dimensions,
        mpp,
    )
    plan = plan_tiles(grid, TissueShare(np.ones((1, 1), bool), reader.dimensions))
    order = compact_order(plan, range(len(plan.blocks)))
    blocks, memory = BlockReader(reader, grid), threading.local()

    def read_block(i):
        k = order[i]
        positions = plan.positions[plan.of_block(k)]
        if not hasattr(memory, "patches"):
            memory.patches = np.empty((grid.patches_per_block**2, size, size, 3), np.uint8)
        blocks.read_into(memory.patches[: len(positions)], int(plan.blocks[k]), positions)
        return len(positions)

    return read_block, len(order), reader


class Turns:
    """One reader in a measurement in which all readers take turns.

    A machine is never completely idle, and other work slows memory and caches for seconds at a time.  With turns of a
    tenth of a second, all readers are affected equally.
    """

    def __init__(self, read, count):
        self.read, self.count = read, count
        self.following = itertools.count()
        self.done = self.wall = self.cpu = 0
        read(0)  # triggers lazy opening

    def turn(self, threads, seconds):
        """Read the next regions with this many threads for this long."""
        began, cpu, done = time.perf_counter(), time.process_time(), [0] * threads

        def work(number):
            while time.perf_counter() - began < seconds:
                done[number] += self.read(next(self.following) % self.count)

        others = [threading.Thread(target=work, args=(n,)) for n in range(1, threads)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        self.wall += time.perf_counter() - began
        self.cpu += time.process_time() - cpu
        self.done += sum(done)

    @property
    def metrics(self):
        """Return the measurements."""
        return {
            "n": self.done,
            "wall_s": self.wall,
            "cpu_s": self.cpu,
            "per_s": self.done / self.wall,
            "per_cpu_s": self.done / self.cpu,
        }


def reading_case(arguments):
    """Measure some readers in one case, in turns."""
    from pathology.slide.open import open_reader

    with open_reader(arguments.slide) as reader:
        side, mpp = min(reader.dimensions), reader.mpp
    turns, metrics, opened = {}, {}, None
    for name in arguments.readers:
        try:
            if name == "ours, blocks":
                read, count, opened = blocks_of_regions(arguments.slide, arguments.case, side, mpp)
            else:
                read, count = single_regions(name, arguments.slide, arguments.case, side, TARGET_MPP / mpp)
            turns[name] = Turns(read, count)
        except Exception as error:  # if one program fails, the others are still measured
            metrics[name] = {"missing": f"{type(error).__name__}: {error}"}
    profile = cProfile.Profile() if arguments.profile else None
    if profile is not None:
        profile.enable()
    for _ in range(max(1, round(arguments.seconds / TURN_SECONDS))):
        for turn in turns.values():
            turn.turn(arguments.threads, TURN_SECONDS)
    if profile is not None:
        profile.disable()
    metrics |= {name: turn.metrics for name, turn in turns.items()}
    if profile is not None:
        metrics["profile"] = shares(profile)
    if opened is not None and "ours, blocks" in turns:
        counts = opened.tile_counts
        metrics["ours, blocks"] |= {"decoded_tiles": counts.decoded, "reused_tiles": counts.reused}
    metrics["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return metrics


def shares(profile):
    """Return the most time-consuming functions with their fraction of the time."""
    stats = pstats.Stats(profile)
    total = sum(row[2] for row in stats.stats.values())
    rows = sorted(((row[2] / total, name[2], Path(name[0]).name) for name, row in stats.stats.items()), reverse=True)
    return [{"share": share, "function": name, "file": file} for share, name, file in rows[:8]]


def store_case(arguments):
    """Measure writing and reading a store compared with copying the same bytes, in turns, as medians.

    Written files are kept until the end: for minutes after a deletion, ext4 takes ten times as long to create files,
    which would distort the measurement.
    """
    from pathology.settings import GridSettings
    from pathology.slide.open import open_reader
    from pathology.tiling.blocks import BlockReader
    from pathology.tiling.grid import Grid, TissueShare
    from pathology.tiling.plan import plan_tiles
    from pathology.tiling.store import PatchStore
    from pathology.tiling.stored_tiles import StoredTiles, on_stored_tiles

    slide, mode = Path(arguments.slide), "decoded" if arguments.readers[0].startswith("decoded") else "encoded"
    with open_reader(slide) as reader, tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        tile = reader.tile_size[0]
        settings = GridSettings(patch=tile, stride=tile, mpp=reader.mpp)
        if mode == "decoded":
            settings = GridSettings(patch=224, stride=224, mpp=TARGET_MPP)
        else:
            settings = on_stored_tiles(reader, settings, reader.mpp)
        grid = Grid(settings.model_copy(update={"min_tissue": 0}), reader.dimensions, reader.mpp)
        plan = plan_tiles(grid, TissueShare(np.ones((1, 1), bool), reader.dimensions))
        if mode == "decoded":
            plan = first_blocks(plan, 6)
        tiles = StoredTiles(reader, grid) if mode == "encoded" else None
        positions = [plan.positions[plan.of_block(k)] for k in range(len(plan.blocks))]
        if mode == "decoded":
            blocks = BlockReader(reader, grid)
            ready = [blocks.read(int(plan.blocks[k]), positions[k]) for k in range(len(plan.blocks))]

        def write(store):
            for k in range(len(plan.blocks)):
                if tiles is None:
                    store.write_block(k, ready[k])
                else:
                    store.write_tiles(k, *tiles.read(int(plan.blocks[k]), positions[k]))
            store.finish()

        def read(store):
            for k in range(len(plan.blocks)):
                store.read_block(k)

        def copy(files, target):
            for file in files:
                shutil.copyfile(file, target / file.name)

        attributes = {"slide": slide, "fingerprint": reader.fingerprint, "description": {}, "tiles": tiles}
        write(PatchStore.create(first := Path(folder) / "first.zarr", plan, mode, **attributes))
        shards = sorted((first / "pixels").glob("c.*"))
        copied = {"copy of the store": shards, "copy of the slide": [slide]}
        spent = {kind: [] for kind in arguments.readers}
        for turn, kind in itertools.product(range(STORE_TURNS), arguments.readers):
            path = Path(folder) / f"{kind}-{turn}"
            if kind in copied:
                path.mkdir()
                work = partial(copy, copied[kind], path)
            elif kind.endswith("write"):
                work = partial(write, PatchStore.create(path, plan, mode, **attributes))
            else:
                work = partial(read, PatchStore.open(first))
            began, cpu = time.perf_counter(), time.process_time()
            work()
            spent[kind].append((time.perf_counter() - began, time.process_time() - cpu))
        metrics = {}
        for kind, times in spent.items():
            wall, cpu = np.median(times, axis=0)
            megabytes = sum(file.stat().st_size for file in copied.get(kind, shards)) / 1e6
            metrics[kind] = {
                "per_s": len(plan) / wall,
                "per_cpu_s": len(plan) / cpu,
                "megabytes_per_cpu_s": megabytes / cpu,
                "ratio": len(plan) * settings.patch**2 * 3 / megabytes / 1e6,
            }
    return metrics


def first_blocks(plan, count):
    """Return a plan with only the first blocks."""
    from dataclasses import replace

    end = int(plan.offsets[min(count, len(plan.blocks))])
    return replace(
        plan,
        coords=plan.coords[:end],
        tissue=plan.tissue[:end],
        positions=plan.positions[:end],
        blocks=plan.blocks[:count],
        offsets=plan.offsets[: count + 1],
    )


# -- all cases ----------------------------------------------------------------------------------------------------


def in_own_process(arguments, case, readers, threads=1, *, seconds=None, profile=False):
    """Run one case and return its measurements, or why there are none."""
    command = [sys.executable, "-m", "benchmarks.tiling", "--slide", str(arguments.slide), "--case", case]
    command += ["--readers", *readers, "--threads", str(threads), "--seconds", str(seconds or arguments.seconds)]
    command += ["--scratch", str(arguments.scratch)] + (["--profile"] if profile else [])
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VIPS_CONCURRENCY"), "1")
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **one_thread})
    line = next((text for text in done.stdout.splitlines() if text.startswith("FIGURES ")), None)
    if line is None:
        return {"missing": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(line.removeprefix("FIGURES "))


def in_processes(arguments, case, threads):
    """Run one reading case in several processes and return each reader's combined measurements."""
    seconds = arguments.seconds / PROCESSES
    runs = [in_own_process(arguments, case, arguments.readers, threads, seconds=seconds) for _ in range(PROCESSES)]
    together = {}
    for reader in arguments.readers:
        found = [run.get(reader, run) for run in runs]
        missing = next((metrics for metrics in found if "missing" in metrics), None)
        if missing is not None:
            together[reader] = missing
            continue
        sums = {key: sum(metrics[key] for metrics in found) for key in found[0] if not key.startswith("per_")}
        sums["each_per_cpu_s"] = [metrics["per_cpu_s"] for metrics in found]
        together[reader] = {**sums, "per_s": sums["n"] / sums["wall_s"], "per_cpu_s": sums["n"] / sums["cpu_s"]}
    return together


def make_slide(arguments, folder):
    """Return the slide to read: the given one, a mosaic, or a synthetic one."""
    if arguments.slide is not None:
        return arguments.slide
    slide = Path(folder) / "slide.svs"
    if arguments.mosaic is not None:
        program, small = arguments.mosaic
        subprocess.run([sys.executable, program, small, slide, "--size", str(arguments.size)], check=True)
        return slide
    from pathology.testing.synthetic_slides import TissuePicture, write_svs

    side = min(arguments.size, 8192)
    return write_svs(slide, TissuePicture(side, side, tissue=0.9), mpp=0.499, quality=70)


def machine():
    """Describe the machine and the software versions."""
    names = ("sarcoma-pathology", "imagecodecs", "numpy", "opencv-python-headless", "openslide-python", "openslide-bin")
    names += ("tiffslide", "pyvips", "pyvips-binary", "fastslide", "cucim", "tiatoolbox", "zarr")
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def cell(metrics):
    """Format one case: rate per CPU-second, wall rate, peak memory."""
    if "missing" in metrics:
        return "–"
    return f"{metrics['per_cpu_s']:,.0f} / {metrics['per_s']:,.0f}"


def table(results):
    """Return the Markdown table of reading speed and the key ratios."""
    lines = [
        "| reader | "
        + " | ".join(f"{case} {size} px, {t} thr." for case, size in CASES.items() for t in (1, 2))
        + " | MiB |",
        "|" + "---|" * (2 + 2 * len(CASES)),
    ]
    for reader, cases in results["reading"].items():
        if all("missing" in metrics for metrics in cases.values()):
            continue
        peak = results["peak_mib"].get(reader, 0)
        shown = [cell(cases[f"{case}/{threads}"]) for case in CASES for threads in (1, 2)]
        lines.append(f"| {reader} | {' | '.join(shown)} | {peak:,.0f} |")
    lines += [
        "",
        "Patches per CPU-second / per second of wall time, in turns; peak memory of a process that resamples.",
        "",
    ]
    host = results["machine"]
    lines += [
        f"{host['processor']}, {host['cores']} cores; load before the run {host['load_before']:.1f} (wall rates mean "
        f"something only where it is near 0); {results['seconds']:g} s a case; slide of "
        f"{results['slide']['megabytes']:,.0f} MB.",
        "",
    ]
    for name, value in ratios(results).items():
        lines.append(f"- {name}: **{value:.2f}**")
    lines += ["", f"Every reading case ran in {PROCESSES} processes.  {spread(results)}"]
    lines += ["", "| store | patches/CPU-s | MB/CPU-s | times smaller than pixels |", "|---|---|---|---|"]
    for kind, metrics in results["stores"].items():
        if "missing" not in metrics:
            lines.append(
                f"| {kind} | {metrics['per_cpu_s']:,.0f} | {metrics['megabytes_per_cpu_s']:,.0f} "
                f"| {metrics['ratio']:.1f} |"
            )
    for case, rows in results["profile"].items():
        said = ", ".join(f"`{row['function']}` {row['share']:.0%}" for row in rows[:6])
        lines += ["", f"Where the time goes, ours, blocks, {case}: {said}."]
    return "\n".join(lines)


def ratios(results):
    """Return the ratios that the project tracks."""

    def rate(reader, case):
        return results["reading"].get(reader, {}).get(f"{case}/1", {}).get("per_cpu_s")

    def best(case):
        return max(filter(None, (rate("ours, single", case), rate("ours, blocks", case))), default=None)

    def fastest(case):
        peers = [name for name in READERS if not name.startswith(("ours", "raw"))]
        return max(filter(None, (rate(name, case) for name in peers)), default=None)

    pairs = {
        "aligned, ours over raw decoding": (rate("ours, single", "aligned"), rate("raw decode", "aligned")),
        "aligned, ours over OpenSlide": (rate("ours, single", "aligned"), rate("OpenSlide", "aligned")),
        "unaligned, ours over the fastest other": (best("unaligned"), fastest("unaligned")),
        "unaligned over half the width, ours over the fastest other": (best("narrow"), fastest("narrow")),
        "resampled, ours over TIAToolbox": (best("resampled"), rate("TIAToolbox", "resampled")),
        "resampled, ours over an OpenSlide loop": (best("resampled"), rate("OpenSlide", "resampled")),
    }
    found = {name: a / b for name, (a, b) in pairs.items() if a and b}
    stores = results["stores"]
    if all("missing" not in stores.get(name, {"missing": 1}) for name in STORES[0]):
        writing = stores["encoded write"]["megabytes_per_cpu_s"]
        copies = {"the same bytes into as many files": "copy of the store", "the slide, one file": "copy of the slide"}
        for name, copied in copies.items():
            found[f"encoded, writing over copying {name}"] = writing / stores[copied]["megabytes_per_cpu_s"]
    return found


def spread(results):
    """Describe how much the rates of unaligned reading differ between processes."""
    rates = {name: cases["unaligned/1"].get("each_per_cpu_s") for name, cases in results["reading"].items()}
    said = (f"{name} {min(each):,.0f}–{max(each):,.0f}" for name, each in rates.items() if each)
    return f"From process to process, unaligned regions per CPU-second: {', '.join(said)}."


def chart(results, path):
    """Plot the rates per CPU-second of one thread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CASES), figsize=(12, 3.6), constrained_layout=True)
    for axis, (case, size) in zip(axes, CASES.items(), strict=True):
        rates = {
            reader: cases[f"{case}/1"]["per_cpu_s"]
            for reader, cases in results["reading"].items()
            if "missing" not in cases[f"{case}/1"]
        }
        names = sorted(rates, key=rates.get)
        colours = ["#0072b2" if name.startswith("ours") else "#999999" for name in names]
        bars = axis.barh(names, [rates[name] for name in names], color=colours)
        axis.bar_label(bars, [f"{rates[name]:,.0f}" for name in names], padding=3, fontsize=8)
        axis.set_title(f"{case}, {size} px", fontsize=10)
        axis.set_xlabel("patches per CPU-second")
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    """Run all cases, print the tables, and write them if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a tiled JPEG TIFF or SVS")
    parser.add_argument("--mosaic", nargs=2, metavar=("PROGRAM", "SMALL"), help="create the slide with another program")
    parser.add_argument("--size", type=int, default=24576, help="side of a generated slide, in pixels")
    parser.add_argument("--seconds", type=float, default=3, help="duration of each case")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder for temporary stores")
    parser.add_argument("--readers", nargs="*", default=READERS)
    parser.add_argument(
        "--write", action="store_true", help="write docs/performance.md, docs/tiling-speed.json and .png"
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        metrics = store_case(arguments) if arguments.case == "store" else reading_case(arguments)
        print("FIGURES " + json.dumps(metrics))
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        arguments.slide = make_slide(arguments, folder)
        results = {
            "machine": machine(),
            "seconds": arguments.seconds,
            "slide": {"megabytes": arguments.slide.stat().st_size / 1e6},
        }
        measured = {f"{case}/{threads}": in_processes(arguments, case, threads) for case in CASES for threads in (1, 2)}
        results["reading"] = {
            reader: {case: metrics[reader] for case, metrics in measured.items()} for reader in arguments.readers
        }
        alone = {r: in_own_process(arguments, "resampled", [r], seconds=1) for r in arguments.readers}
        results["peak_mib"] = {reader: metrics.get("peak_mib", 0) for reader, metrics in alone.items()}
        results["stores"] = {}
        for kinds in STORES:
            metrics = in_own_process(arguments, "store", kinds)
            results["stores"] |= {kind: metrics.get(kind, metrics) for kind in kinds}
        results["profile"] = {
            case: in_own_process(arguments, case, ["ours, blocks"], profile=True).get("profile", []) for case in CASES
        }
    for reader, cases in results["reading"].items():
        for case, metrics in cases.items():
            if "missing" in metrics:
                print(f"{reader}, {case}: not measured: {metrics['missing']}", file=sys.stderr)
    print(table(results))
    if arguments.write:
        from benchmarks.report import write_section

        write_section(DOCS / "performance.md", "speed", table(results))
        (DOCS / "tiling-speed.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        chart(results, DOCS / "tiling-speed.png")


if __name__ == "__main__":
    main()
