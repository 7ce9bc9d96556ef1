"""Mutated inputs, read one after the other in a process that is watched for time, memory and its end."""

from __future__ import annotations

import json
import random
import re
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.torture.mutate import mutated
from benchmarks.torture.targets import TARGETS

__all__ = ["MOST_MIB", "MOST_SECONDS", "Outcome", "torture_inputs"]

MOST_SECONDS: Final = 20.0
"""Time for one input."""
MOST_MIB: Final = 2048
"""Peak memory of the process that reads the inputs one after the other."""
_PER_PROCESS: Final = 400
_PREPARING_SECONDS: Final = 300.0
"""Time to import libraries and to write sound files."""


@dataclass(frozen=True)
class Outcome:
    """What became of one input: ``read``, ``refused`` (one of the package's errors), or what must not happen."""

    target: str
    number: int
    what: str
    seconds: float = 0.0
    mib: int = 0
    said: str = ""


def torture_inputs(seed: int, numbers: range, *, slides: bool) -> Iterator[Outcome]:
    """Read mutated inputs; the same seed and number give the same input.

    Parameters
    ----------
    seed
        Of all mutations.
    numbers
        Which inputs; kinds take turns.
    slides
        Slides, or every other kind.

    Yields
    ------
    Outcome
        One for each input, in order.
    """
    start = numbers.start
    while start < numbers.stop:
        stop = min(numbers.stop, start + _PER_PROCESS)
        for outcome in _one_process(seed, start, stop, slides):
            start = outcome.number + 1
            yield outcome


def _one_process(seed: int, start: int, stop: int, slides: bool) -> Iterator[Outcome]:
    """Read inputs in one process until it is done, dies or must be killed: the input it was at gets that outcome."""
    command = [sys.executable, "-m", "benchmarks.torture.inputs", *map(str, (seed, start, stop, int(slides)))]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process,
        selectors.DefaultSelector() as selector,
    ):
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        current, began, buffer = ("", start), time.monotonic(), b""
        allowed = _PREPARING_SECONDS
        while True:
            if not selector.select(max(0.0, began + allowed - time.monotonic())):
                process.kill()
                yield Outcome(*current, "took too long", time.monotonic() - began)
                return
            chunk = process.stdout.read1(65_536)
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                told = json.loads(line)
                if "what" in told:
                    yield Outcome(**told)
                    current, allowed = ("", told["number"] + 1), _PREPARING_SECONDS
                else:
                    current, allowed = (told["target"], told["number"]), MOST_SECONDS
                began = time.monotonic()
        if process.wait() != 0:
            errors.seek(0)
            said = errors.read()[-300:].decode(errors="replace")
            yield Outcome(*current, f"ended the process ({process.returncode})", said=said)


def _peak_mib() -> int:
    """Return this program's peak resident memory; ``ru_maxrss`` would count the process that started it too."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def read_inputs(seed: int, start: int, stop: int, *, slides: bool) -> None:
    """Read the inputs of one process and tell of each on standard output."""
    from pathology.errors import PathologyError

    chosen = [target for target in TARGETS if target.slide == slides]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sound: dict[str, bytes] = {}
        for number in range(start, stop):
            target = chosen[number % len(chosen)]
            if target.name not in sound:
                target.write(folder / target.name)
                sound[target.name] = (folder / target.name).read_bytes()
                target.read(folder / target.name)  # imports what it needs, which is not the inputs' time
            told = {"target": target.name, "number": number}
            print(json.dumps(told), flush=True)
            # Alone in its folder: neighbours of a DICOM file are looked at too.
            path = folder / "input" / target.name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(mutated(sound[target.name], random.Random(f"{seed} {target.name} {number}")))
            began, said = time.monotonic(), ""
            try:
                target.read(path)
                what = "read"
            except PathologyError:
                what = "refused"
            except Exception as error:
                what, said = f"raised {type(error).__name__}", str(error)[:300]
            told |= {"what": what, "seconds": time.monotonic() - began, "mib": _peak_mib(), "said": said}
            print(json.dumps(told), flush=True)
            path.unlink()


if __name__ == "__main__":
    read_inputs(*map(int, sys.argv[1:4]), slides=sys.argv[4] == "1")
