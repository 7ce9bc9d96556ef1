"""Runs killed at random moments and repeated until they finish: the results are those of a run left alone."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

__all__ = ["RUNS", "KillOutcome", "torture_run"]


@dataclass(frozen=True)
class Run:
    """A command that resumes.

    Attributes
    ----------
    prepare
        Writes its inputs into a folder and returns the command's arguments, without ``--out``.
    result
        What of its output folder must not depend on kills, as a hash.
    """

    prepare: Callable[[Path], list[str]]
    result: Callable[[Path], str]


@dataclass(frozen=True)
class KillOutcome:
    """What became of one run: how many times it was killed, and whether its result is that of the run left alone."""

    run: str
    kills: int
    identical: bool
    said: str = ""


def torture_run(name: str, folder: Path, kills: int, random_numbers: random.Random) -> KillOutcome:
    """Kill a run with its workers at random moments, then let it finish, and compare.

    Parameters
    ----------
    name
        A key of :data:`RUNS`.
    folder
        For inputs and results; its inputs and the result of the run left alone are kept for the next call.
    kills
        How often to kill it, at most, before it may finish.
    random_numbers
        Chooses the moments.
    """
    run = RUNS[name]
    alone = folder / "alone.json"
    arguments = run.prepare(folder)
    if not alone.exists():
        began = time.monotonic()
        ended = _finish(arguments, folder / "alone")
        if ended.returncode != 0:
            return KillOutcome(name, 0, identical=False, said=ended.stderr[-300:])
        alone.write_text(json.dumps({"result": run.result(folder / "alone"), "seconds": time.monotonic() - began}))
    stated = json.loads(alone.read_text())
    out = folder / f"killed-{random_numbers.getrandbits(32):08x}"
    killed = 0
    while killed < kills:
        began = time.monotonic()
        if not _killed(arguments, out, random_numbers.uniform(0, stated["seconds"])):
            if not killed:
                # Whole before the moment came: the machine is less busy than when the run was left alone.
                stated["seconds"] = time.monotonic() - began
                alone.write_text(json.dumps(stated))
            break
        killed += 1
    ended = _finish(arguments, out)
    if ended.returncode != 0:
        return KillOutcome(name, killed, identical=False, said=ended.stderr[-300:])
    identical = run.result(out) == stated["result"]
    if identical:
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    return KillOutcome(name, killed, identical=identical)


def _command(arguments: list[str], out: Path) -> list[str]:
    return [sys.executable, "-m", "pathology", *arguments, "--out", str(out)]


def _finish(arguments: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(arguments, out), capture_output=True, text=True, check=False)


def _killed(arguments: list[str], out: Path, seconds: float) -> bool:
    """Start the command, kill it and all it started after some seconds; whether it was still running."""
    process = subprocess.Popen(
        _command(arguments, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def _slides(folder: Path) -> tuple[Path, Path]:
    from pathology.testing import synthetic_slides
    from pathology.testing.random_bundle import write_random_bundle
    from pathology.testing.synthetic_tissue import TissuePicture

    slides = folder / "slides"
    if not slides.exists():
        slides.mkdir(parents=True)
        for number in range(3):
            picture = TissuePicture(1500, 1200, seed=number, tissue=0.7)
            path = slides / f"{number}.svs"
            synthetic_slides.write_svs(path, picture, factors=(1,), mpp=0.5, objective_power=20)
        write_random_bundle(folder / "example")
    return slides, folder / "example"


def _score(folder: Path) -> list[str]:
    slides, bundle = _slides(folder)
    return ["score", str(slides), "--model", str(bundle), "--engine", "torch", "--workers", "1"]


def _tile(folder: Path) -> list[str]:
    slides, _ = _slides(folder)
    return ["tile", str(slides), "--pixels", "decoded", "--workers", "1"]


def _train(folder: Path) -> list[str]:
    from pathology.testing.constructed_slides import construct_cohort, drawn_tiles

    slides = folder / "slides"
    if not slides.exists():
        slides.mkdir(parents=True)
        tiles = drawn_tiles(("ARMS", "ERMS"), 4, tiles_per_patient=1, side=192, seed=3)
        construct_cohort(slides, tiles, slides_per_patient=1, rows=2, columns=2, cell=192, margin=48, seed=3)
    small = ("patch=96", "epochs=2", "batch=4", "patches-per-slide=8", "stain=none")
    return [
        *("train", "foersch-2021", "--slides", str(slides), "--labels", str(slides / "labels.csv"), "--device", "cpu"),
        *("--init", "random", "--classes", "ARMS,ERMS", "--target-mpp", "1", "--loaders", "0", "--workers", "1"),
        *("--data-name", "drawn slides", *(word for change in small for word in ("--set", change))),
    ]


def _radiology(folder: Path) -> list[str]:
    from pathology.testing.radiology_constructed import two_sequence_cohort

    cohort = folder / "cohort"
    if not cohort.exists():
        two_sequence_cohort(cohort, patients=12)
    sequences = ",".join(sorted({p.name.split("_image")[0] for p in cohort.glob("images/*/*_image*")}))
    return ["radiology", "features", str(cohort / "images"), "--sequences", sequences]


def _train_radiology(folder: Path) -> list[str]:
    from pathology.testing.radiology_constructed import readers_cohort

    cohort = folder / "cohort"
    if not cohort.exists():
        readers_cohort(cohort, patients=4, readers=2, size=32)
    small = ("optimiser.steps=40", "optimiser.batch=2", "widths=[4, 8, 16]", "window=[1, 32, 32]")
    small = (*small, "spacing_mm=[4, 4, 4]", "overlap=0")
    return [
        *("radiology", "train", "marin-2022", str(cohort / "images"), "--folds", "2", "--constructed"),
        *("--data-name", "phantoms", "--data-source", "made here", "--data-licence", "CC0"),
        *(word for change in small for word in ("--set", change)),
    ]


def _arrays_of(names: tuple[str, ...]) -> Callable[[Path], str]:
    """Hash the values of all arrays of zarr groups with such names below a folder, in order."""

    def result(out: Path) -> str:
        import zarr

        digest = hashlib.sha256()
        for path in sorted(p for p in out.rglob("*.zarr") if p.name in names or "*" in names):
            group: Any = zarr.open_group(path, mode="r")
            for name in sorted(group.array_keys()):
                array = group[name]
                digest.update(f"{path.relative_to(out)} {name} {array.shape} {array.dtype}".encode())
                digest.update(np.ascontiguousarray(array[...]).tobytes())
        return digest.hexdigest()

    return result


def _file(name: str) -> Callable[[Path], str]:
    return lambda out: hashlib.sha256(((out / name) if name else out).read_bytes()).hexdigest()


RUNS: Final = {
    "score": Run(_score, _arrays_of(("predictions.zarr",))),
    "tile": Run(_tile, _arrays_of(("*",))),
    "train": Run(_train, _file("weights.safetensors")),
    "radiology features": Run(_radiology, _file("")),
    "radiology train": Run(_train_radiology, _file("weights.safetensors")),
}
"""What is killed, by name."""
