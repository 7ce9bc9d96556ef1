"""The table of ``docs/reliability.md``, from what was recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["write_table"]

_HEAD: Final = """# Reliability

`make torture` attacks the program for hours: every kind of input is mutated (with what broke readers before among the
mutations), runs are killed at random moments and repeated until they finish, system calls fail, and bad slides lie
among good ones. It is seeded and resumes where it stopped; a small share of it runs with the tests. Research use only.

An input ends well if it is read, or refused with one of the program's own errors, in under 20 s and with under 2 GiB in
the process that reads such inputs one after the other. A killed run ends well if its result is bit for bit that of a
run left alone. The table below is what was measured, with the counts that were reached; where *done* is below *wanted*,
the run was stopped before.
"""


def write_table(path: Path, done: Sequence[Mapping[str, Any]], wanted: Mapping[str, int], seed: int) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The page.
    done
        Records, each with ``part``, ``count`` and ``bad``.
    wanted
        Count that each part should reach.
    seed
        Of the run.
    """
    rows = [
        "| attack | done | wanted | ended well | did not | longest, s | most memory, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
        _inputs("mutated slides", "slides", done, wanted),
        _inputs("other mutated inputs", "others", done, wanted),
        *_kills(done, wanted),
        _plain("system calls that fail", "faults", done, wanted),
        _plain("batches of 40 sound slides and 10 poisons", "batches", done, wanted),
    ]
    batches = [entry for entry in done if entry["part"] == "batches"]
    said = [f"- batch of {e['slides']}: {e['scored']} scored, {e['reasons']} failed with a reason" for e in batches]
    again = Counter(f"{entry['target']}: {entry['before']}" for entry in done if "before" in entry and not entry["bad"])
    said += [f"- did not end well at first, but did when read again: {what} ({n} times)" for what, n in again.items()]
    bad = Counter(_described(entry) for entry in done if entry["bad"])
    said += [f"- did not end well: {what} ({count} times)" for what, count in bad.most_common(20)]
    path.write_text("\n".join([_HEAD, f"Seed {seed}.\n", *rows, "", *said, ""]), encoding="utf-8")


def _described(entry: Mapping[str, Any]) -> str:
    names = (entry.get(name) for name in ("target", "run", "fault"))
    what = entry.get("what") or ("another result, or none" if entry["part"] == "kills" else "other counts")
    return f"{next((name for name in names if name), entry['part'])}: {what}"


def _row(what: str, done: int, wanted: str, bad: int, seconds: str = "", mib: str = "") -> str:
    return f"| {what} | {done:,} | {wanted} | {done - bad:,} | {bad:,} | {seconds} | {mib} |"


def _inputs(what: str, part: str, done: Sequence[Mapping[str, Any]], wanted: Mapping[str, int]) -> str:
    own = [entry for entry in done if entry["part"] == part]
    seconds = f"{max((entry['seconds'] for entry in own), default=0):.1f}"
    mib = f"{max((entry['mib'] for entry in own), default=0):,}"
    return _row(what, len(own), f"{wanted[part]:,}", sum(entry["bad"] for entry in own), seconds, mib)


def _kills(done: Sequence[Mapping[str, Any]], wanted: Mapping[str, int]) -> list[str]:
    own = [entry for entry in done if entry["part"] == "kills"]
    total = sum(entry["kills"] for entry in own)
    rows = [_row("kills, all runs", total, f"{wanted['kills']:,}", sum(e["kills"] for e in own if e["bad"]))]
    for name in dict.fromkeys(entry["run"] for entry in own):
        runs = [entry for entry in own if entry["run"] == name]
        kills, bad = sum(e["kills"] for e in runs), sum(e["kills"] for e in runs if e["bad"])
        rows.append(_row(f"kills of {name}, in {len(runs)} runs", kills, "", bad))
    return rows


def _plain(what: str, part: str, done: Sequence[Mapping[str, Any]], wanted: Mapping[str, int]) -> str:
    own = [entry for entry in done if entry["part"] == part]
    return _row(what, len(own), f"{wanted[part]:,}", sum(entry["bad"] for entry in own))
