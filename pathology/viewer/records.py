"""Pages of patient records, written by ``pathology patient build``, by patient id."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote

from pathology.errors import StoreError, UsageError
from pathology.input_files import read_json

__all__ = ["PatientPages"]

_OF_ALL: Final = ("index.html", "build.json")
_OF_ONE: Final = ("patient.html", "summary.html", "record.json")
"""Files that are served; the links between them work unchanged."""

_KINDS: Final = {".html": "text/html; charset=utf-8", ".json": "application/json"}


class PatientPages:
    """The pages of one folder of records.

    Parameters
    ----------
    folder
        The ``--out`` folder of ``pathology patient build``.

    Raises
    ------
    StoreError
        If it is not a folder of patient records.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder).absolute()
        if not (self._folder / "patients").is_dir():
            raise StoreError(
                "not a folder of patient records",
                where=folder,
                remedy="Give the --out folder of pathology patient build",
            )
        self._folders: dict[str, str] = {}
        for record in sorted(self._folder.glob("patients/*/record.json")):
            try:
                patient = read_json(record, StoreError)["patient_id"]
            except (StoreError, KeyError, TypeError) as error:
                raise StoreError("this patient record is damaged", where=record, remedy="Rebuild it") from error
            self._folders[str(patient)] = record.parent.name

    def address(self, patient_id: str | None) -> str | None:
        """Return the relative address of a patient's page; ``None`` if the patient does not exist."""
        folder = None if patient_id is None else self._folders.get(patient_id)
        return None if folder is None else f"patients/{quote(folder, safe='')}/patient.html"

    def file(self, parts: list[str]) -> tuple[bytes, str]:
        """Return a file and its media type.

        Parameters
        ----------
        parts
            Parts of its address.

        Raises
        ------
        UsageError
            If it is not among the files that are served.
        StoreError
            If it is missing.
        """
        of_all = len(parts) == 1 and parts[0] in _OF_ALL
        of_one = (
            len(parts) == 3 and parts[0] == "patients" and parts[1] in self._folders.values() and parts[2] in _OF_ONE
        )
        if not (of_all or of_one):
            raise UsageError("no such patient page")
        path = self._folder.joinpath(*parts)
        try:
            return path.read_bytes(), _KINDS[path.suffix]
        except OSError as error:
            raise StoreError("the page is missing", where=path, remedy="Rebuild the records") from error
