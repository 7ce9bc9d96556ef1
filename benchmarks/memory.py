"""Measure the memory of tiling, and whether it grows with the slide.

    python -m benchmarks memory --slide SMALL.svs --slide LARGE.svs [--pixels decoded] [--workers 2]

Each slide is tiled with the command line in a separate process.  The result is the peak, sampled 20 times per second,
of the proportional set size summed over the command and all its workers.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def total_mib(process):
    """Return the memory of a process and its descendants in MiB; shared pages count once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def peak_of(command):
    """Run a command; return its peak memory in MiB, its time in seconds and its output."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as printed:
        process = psutil.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        peak = 0.0
        while process.poll() is None:
            try:
                peak = max(peak, total_mib(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        printed.seek(0)
        said = printed.read()
    if process.wait():
        raise SystemExit(said)
    return peak, time.perf_counter() - began, said


def main():
    """Tile each slide and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, action="append", required=True)
    parser.add_argument("--pixels", default="decoded")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--scratch", type=Path, help="folder for temporary stores")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="additional options of pathology tile")
    arguments = parser.parse_args()
    print("| slide | MiB at the peak | seconds | |\n|---|---|---|---|")
    for slide in arguments.slide:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            command = [sys.executable, "-m", "pathology", "tile", str(slide), "--out", folder, "--verbose"]
            command += ["--pixels", arguments.pixels, "--workers", arguments.workers, *arguments.options]
            peak, seconds, said = peak_of(command)
        last = said.strip().splitlines()[-2:]
        print(f"| {slide.name} | {peak:,.0f} | {seconds:.1f} | {'; '.join(line.strip() for line in last)} |")


if __name__ == "__main__":
    main()
