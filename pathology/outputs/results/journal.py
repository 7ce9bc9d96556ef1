"""``journal.jsonl``: one line per finished slide, appended as soon as it is finished.

A line holds the slide's record and says which ``slide.json`` it was made from, by size and time of modification.
A resumed run reads this one file instead of ten thousand.  A line that is damaged, cut off or outdated is ignored: the
slide's own record is then read.
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from pathology.atomic_files import output_error
from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.layout import RECORD
from pathology.outputs.results.record import StoredRecord, read_slide_record

__all__ = ["JOURNAL", "Journal"]

JOURNAL: Final = "journal.jsonl"
_LONGEST_LINE: Final = 4 * 2**20


class Journal:
    """The journal of a results folder.

    Parameters
    ----------
    path
        The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = dict(_lines(path))

    def record(self, folder: Path) -> StoredRecord:
        """Return a slide's record, from the journal if it is current, else from ``slide.json``.

        Parameters
        ----------
        folder
            The slide's folder.

        Raises
        ------
        FileNotFoundError
            If the slide is not finished.
        StoreError
            If its record is damaged.
        """
        line = self._lines.get(folder.name)
        if line is not None:
            state = (folder / RECORD).stat()
            size, changed, text = line
            if (size, changed) == (state.st_size, state.st_mtime_ns):
                with suppress(
                    ValueError, KeyError, TypeError, RecursionError
                ):  # its checksum is right, its content not
                    entry = json.loads(text)
                    return StoredRecord(SlideResult.model_validate(entry["result"]), dict(entry["files"]))
        return read_slide_record(folder)

    def release(self) -> None:
        """Free the memory of the lines read, once every slide's record is known."""
        self._lines.clear()

    def append(self, folder: Path) -> None:
        """Add a finished slide.

        Parameters
        ----------
        folder
            The slide's folder, with its record.

        Raises
        ------
        OutputError
            If the journal cannot be written.
        """
        stored = read_slide_record(folder)
        state = (folder / RECORD).stat()
        entry = {"result": stored.result.model_dump(mode="json"), "files": dict(stored.files)}
        text = json.dumps(entry, separators=(",", ":"))
        head = f"{state.st_size} {state.st_mtime_ns} {json.dumps(folder.name)}"
        body = f"{head}\t{text}".encode()
        # It begins with a line break, so that a line cut off by a power cut spoils no other.
        line = b"\n%08x " % zlib.crc32(body) + body
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            # In one write: lines of several parts do not mix.
            with os.fdopen(os.open(self._path, flags, 0o666), "wb", buffering=0) as file:
                file.write(line)
        except OSError as error:
            raise output_error(error, self._path) from error


def _lines(path: Path) -> list[tuple[str, tuple[int, int, bytes]]]:
    """Return name, and size, time and content, of every whole line; a later line replaces an earlier one."""
    found = []
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                body = line[9:].rstrip(b"\n")
                try:
                    if int(line[:8], 16) != zlib.crc32(body):
                        continue
                    head, text = body.split(b"\t", 1)
                    size, changed, name = head.split(b" ", 2)
                    found.append((str(json.loads(name)), (int(size), int(changed), text)))
                except ValueError:
                    continue
    except OSError:
        return []
    return found
