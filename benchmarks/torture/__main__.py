"""``make torture``: run until the counts are reached, resume where it stopped, write the table to ``docs/``."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.torture.faults import FAULTS
from benchmarks.torture.inputs import MOST_MIB, MOST_SECONDS, Outcome, torture_inputs
from benchmarks.torture.kills import RUNS, torture_run
from benchmarks.torture.poisons import torture_batch
from benchmarks.torture.table import write_table
from pathology.atomic_files import write_text

WANTED: Final = {"slides": 20_000, "others": 10_000, "kills": 200, "batches": 1, "faults": 300}
_AT_ONCE: Final = 400
_KILLS_AT_ONCE: Final = 4


def main() -> int:
    """Run; return 1 if anything happened that must not."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--work", type=Path, default=Path("torture-work"), help="records and scratch files; resumes")
    options.add_argument("--docs", type=Path, default=Path("docs/reliability.md"), help="where the table goes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--minutes", type=float, default=24 * 60.0, help="stop after so many minutes")
    options.add_argument("--only", choices=sorted(WANTED), nargs="*", help="only these parts")
    options.add_argument("--again", action="store_true", help="first read inputs again that did not end well")
    given = options.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    record = given.work / f"seed-{given.seed}.jsonl"
    done = read_record(record)
    if given.again:
        done = [_again(entry, given.seed) for entry in done]
        write_text(record, "".join(json.dumps(entry) + "\n" for entry in done))
    until = time.monotonic() + 60 * given.minutes
    parts = given.only or list(WANTED)
    with record.open("a", encoding="utf-8") as file:
        # Parts take turns, so that a run that is stopped has done some of each.
        while time.monotonic() < until and (left := [part for part in parts if _count(done, part) < WANTED[part]]):
            for part in left:
                for entry in _some(part, done, given.seed, given.work, until):
                    done.append(entry)
                    file.write(json.dumps(entry) + "\n")
                    file.flush()
    write_table(given.docs, done, WANTED, given.seed)
    print(given.docs.read_text(encoding="utf-8"))
    return 1 if any(entry["bad"] for entry in done) else 0


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return what an earlier run recorded; a last line that was cut off is dropped."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def _count(done: list[dict[str, Any]], part: str) -> int:
    return sum(int(entry["count"]) for entry in done if entry["part"] == part)


def _is_bad(outcome: Outcome) -> bool:
    return outcome.what not in ("read", "refused") or outcome.seconds > MOST_SECONDS or outcome.mib > MOST_MIB


def _again(entry: dict[str, Any], seed: int) -> dict[str, Any]:
    """Read an input again if it did not end well: its reader may be mended, or the machine was busy."""
    if not entry["bad"] or entry["part"] not in ("slides", "others"):
        return entry
    number = int(entry["number"])
    outcome = next(torture_inputs(seed, range(number, number + 1), slides=entry["part"] == "slides"))
    return {**entry, **vars(outcome), "bad": _is_bad(outcome), "before": entry["what"]}


def _some(part: str, done: list[dict[str, Any]], seed: int, work: Path, until: float) -> Iterator[dict[str, Any]]:
    start = _count(done, part)
    if part in ("slides", "others"):
        numbers = range(start, min(WANTED[part], start + _AT_ONCE))
        for outcome in torture_inputs(seed, numbers, slides=part == "slides"):
            if time.monotonic() > until:
                return
            yield {"part": part, "count": 1, "bad": _is_bad(outcome), **vars(outcome)}
    elif part == "kills":
        so_far = Counter(dict.fromkeys(RUNS, 0))
        for entry in done:
            if entry["part"] == part:
                so_far[entry["run"]] += entry["count"]
        name = min(RUNS, key=so_far.__getitem__)
        outcome = torture_run(name, work / name, _KILLS_AT_ONCE, random.Random(f"{seed} {len(done)}"))
        yield {
            "part": part,
            "count": outcome.kills or int(not outcome.identical),
            "bad": not outcome.identical,
            **vars(outcome),
        }
    elif part == "batches":
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            batch = torture_batch(Path(scratch))
        bad = (batch.slides, batch.scored, batch.reasons) != (50, 40, 10)
        yield {"part": part, "count": 1, "bad": bad, **vars(batch)}
    else:
        name, after = list(FAULTS)[start % len(FAULTS)], start // len(FAULTS)
        command = [sys.executable, "-m", "benchmarks.torture.faults", name, str(after)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        what = ended.stdout.strip() or ended.stderr[-300:]
        yield {"part": part, "count": 1, "bad": what not in ("ended well", "refused"), "fault": name, "what": what}


if __name__ == "__main__":
    sys.exit(main())
