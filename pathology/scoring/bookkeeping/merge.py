"""Parts of a batch, scored by separate commands (``--part 3/16``), and their merging into one."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any, Final

from pathology.errors import OutputError, PathologyError, StoreError, UsageError
from pathology.folder_lock import LOCK, locked_folder
from pathology.outputs.results.run import RUN, read_run

__all__ = ["PARTS", "lock_name", "merge_parts", "part_folder", "part_numbers", "refuse_mixture"]

PARTS: Final = "parts"
"""Folder of the records of parts, in the results folder."""

_SHARED: Final = ("model", "settings")


def part_numbers(part: str) -> tuple[int, int]:
    """Return number and count of a part such as ``3/16``.

    Raises
    ------
    UsageError
        If it is not a part.

    Examples
    --------
    >>> part_numbers("3/16")
    (3, 16)
    """
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", part)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"--part {part}: not a part of a batch", remedy="Give for example 3/16: the third of 16 parts")
    return number, count


def part_folder(out: Path, part: str) -> Path:
    """Return the folder of a part's record."""
    number, count = part_numbers(part)
    return out / PARTS / f"{number}-of-{count}"


def lock_name(part: str | None) -> str:
    """Return the name of the lock of a part, or of the whole folder."""
    return LOCK if part is None else "{}-{}-of-{}".format(LOCK, *part_numbers(part))


def refuse_mixture(out: Path, part: str | None) -> None:
    """Refuse to score a whole batch into a folder of parts, or parts into that of a whole batch.

    Raises
    ------
    OutputError
        If the folder holds the other kind, or other parts.
    """
    found = _counts(out)
    if part is None and found:
        raise OutputError(
            "this folder holds a batch scored in parts",
            where=out,
            remedy="Score with --part, then run: pathology merge FOLDER; or choose another --out folder",
        )
    if part is not None and not found and (out / RUN).exists():
        raise OutputError("this folder holds a batch that was scored whole", where=out, remedy="Omit --part")
    if part is not None and found - {part_numbers(part)[1]}:
        raise OutputError(
            f"this folder holds a batch of {next(iter(found))} parts", where=out, remedy="Choose another --out folder"
        )


def _counts(out: Path) -> set[int]:
    """Return into how many parts the batch in a folder is split; more than one number if it is mixed."""
    named = (re.fullmatch(r"\d+-of-(\d+)", path.name) for path in (out / PARTS).glob("*-of-*"))
    return {int(found[1]) for found in named if found}


def merge_parts(out: str | PathLike[str]) -> tuple[int, int]:
    """Write tables, index page and run record of a batch whose parts are all finished.

    Parameters
    ----------
    out
        The results folder of all parts.

    Returns
    -------
    tuple of int
        Number of slides, and how many of them failed.

    Raises
    ------
    StoreError
        If a part is missing, unfinished or damaged, or the parts do not belong together.
    OutputError
        If the files cannot be written, or another run holds the folder.

    Examples
    --------
    >>> from pathology import score
    >>> part = score(slide_path, bundle_path, folder / "results", part="1/1", engine="torch")
    >>> merge_parts(part.out)
    (1, 0)
    """
    from pathology.bundle.catalogue import load_bundle
    from pathology.scoring.bookkeeping.batch_files import BatchFiles

    root = Path(out).absolute()
    counts = _counts(root)
    if len(counts) != 1:
        raise StoreError(
            "not the results of one batch in parts", where=root, remedy="Give the --out folder of score --part"
        )
    (count,) = counts
    with locked_folder(root):
        runs = [_finished(root, number, count) for number in range(1, count + 1)]
        for number, run in enumerate(runs, 1):
            if any(run.get(name) != runs[0].get(name) for name in _SHARED):
                raise StoreError(
                    f"part {number} was scored with another model or other settings than part 1",
                    where=root,
                    remedy="Score it again with the same options",
                )
        # Part k holds the slides k, k + n, k + 2n, ... of the selection.
        longest = max(len(run["slides"]) for run in runs)
        order = [run["slides"][i]["slide_id"] for i in range(longest) for run in runs if i < len(run["slides"])]
        if len(set(order)) != len(order):
            raise StoreError(
                "a slide is in two parts", where=root, remedy="Score all parts of the same selection of slides"
            )
        files = BatchFiles(root, order, load_bundle(runs[0]["bundle"]).card)
        for name in order:
            try:
                files.hold(files.journal.record(root / "slides" / name).result)
            except (FileNotFoundError, PathologyError) as error:
                raise StoreError(
                    f"the results of {name} are missing or damaged", where=root, remedy="Score its part again"
                ) from error
        whole = {name: value for name, value in runs[0].items() if name not in ("slides", "files", "bundle")}
        files.finish({**whole, "began": min(r["began"] for r in runs), "ended": max(r["ended"] for r in runs)})
    return len(order), sum(result.status == "failed" for result in files.results.values())


def _finished(root: Path, number: int, count: int) -> dict[str, Any]:
    folder = root / PARTS / f"{number}-of-{count}"
    run = read_run(folder)
    if run.get("state") != "finished" or not run.get("slides"):
        raise StoreError(
            f"part {number} of {count} is not finished", where=root, remedy=f"Score it with --part {number}/{count}"
        )
    return run
