"""Pages of patient records, as ``pathology patient build`` wrote them, found by the patient's id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pathology.errors import StoreError, UsageError

__all__ = ["PatientPages"]

_OF_ALL: Final = ("index.html", "build.json")
_OF_ONE: Final = ("patient.html", "summary.html", "record.json")
"""Files that are served; their links to each other hold as they are."""

_KINDS: Final = {".html": "text/html; charset=utf-8", ".json": "application/json"}


class PatientPages:
    """The pages of one folder of records.

    Parameters
    ----------
    folder
        As given to ``pathology patient build --out``.

    Raises
    ------
    StoreError
        If it is no folder of records.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder).absolute()
        if not (self._folder / "patients").is_dir():
            raise StoreError(
                "this is no folder of patient records",
                where=folder,
                remedy="Give the folder that pathology patient build --out wrote",
            )
        self._folders: dict[str, str] = {}
        for record in sorted(self._folder.glob("patients/*/record.json")):
            try:
                patient = json.loads(record.read_text(encoding="utf-8"))["patient_id"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError("this patient record is damaged", where=record, remedy="Build it again") from error
            self._folders[str(patient)] = record.parent.name

    def address(self, patient_id: str | None) -> str | None:
        """Return where a patient's page is, below the address of all pages; ``None`` if there is no such patient."""
        folder = None if patient_id is None else self._folders.get(patient_id)
        return None if folder is None else f"patients/{quote(folder, safe='')}/patient.html"

    def file(self, parts: list[str]) -> tuple[bytes, str]:
        """Return a file and its media type.

        Parameters
        ----------
        parts
            Of its address.

        Raises
        ------
        UsageError
            If it is none of those that are served.
        StoreError
            If it is missing.
        """
        of_all = len(parts) == 1 and parts[0] in _OF_ALL
        of_one = (
            len(parts) == 3 and parts[0] == "patients" and parts[1] in self._folders.values() and parts[2] in _OF_ONE
        )
        if not (of_all or of_one):
            raise UsageError("there is no such page of a patient")
        path = self._folder.joinpath(*parts)
        try:
            return path.read_bytes(), _KINDS[path.suffix]
        except OSError as error:
            raise StoreError("the page is missing", where=path, remedy="Build the records again") from error
