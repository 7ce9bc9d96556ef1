"""Input of scoring one slide, as plain data that can be pickled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pathology.errors import SlideError
from pathology.path_text import path_text
from pathology.settings import GridSettings, ScoreSettings
from pathology.slide.readers.ome_zarr_metadata import is_zarr
from pathology.slide.remote import local_copy, remote_signature

if TYPE_CHECKING:
    from pathology.bundle.card import Card

__all__ = ["SlideJob", "grid_settings", "source_signature"]

RESULT_SCHEMA = 2
"""Part of the resume key: increased when results of older versions must be recomputed."""


@dataclass(frozen=True)
class SlideJob:
    """One slide to score.

    Attributes
    ----------
    slide_id, patient_id, path
        Identity.
    option_mpp, manifest_mpp
        Micrometres per level-0 pixel given by the caller and in the manifest.
    bundle
        Folder of the model bundle.
    weights_sha256, model
        Hash of the weights; name and version for display.
    settings
        Scoring settings.
    engine, device
        Requested engine and device.
    engine_used
        The engine that was chosen if ``engine`` is ``auto``.
    out
        The slide's results folder.
    url
        URL of a remote slide; ``path`` is then for display only.
    readers
        Number of reader processes; ``None``: chosen for the device, 0: threads of the predicting process.
    attempt
        1 for the first attempt.
    region_key
        What the map of regions to search depends on; empty without one.
    int8_sha256
        Hash of the int8 network; empty if the bundle has none.
    card_digest
        Changes with the model's card, so that a long-lived worker does not keep using an outdated one.
    problem
        See :attr:`pathology.scoring.select.SlideEntry.problem`.
    """

    slide_id: str
    patient_id: str | None
    path: Path
    option_mpp: float | None
    manifest_mpp: float | None
    bundle: Path
    weights_sha256: str
    model: str
    settings: ScoreSettings
    engine: str
    device: str | None
    out: Path
    engine_used: str = ""
    url: str | None = None
    readers: int | None = None
    attempt: int = 1
    region_key: str = ""
    int8_sha256: str = ""
    card_digest: str = ""
    problem: str = ""

    def file(self) -> Path:
        """Return the slide as a local file, downloaded if it is remote.

        Raises
        ------
        SlideError
            If it cannot be downloaded, or its selection already found why it cannot be used.
        """
        if self.problem:
            raise SlideError(self.problem)
        return local_copy(self.url) if self.url is not None else self.path

    def signature(self) -> list[list[str | int]]:
        """Return a string that changes with the slide; see :func:`source_signature`."""
        return remote_signature(self.url) if self.url is not None else source_signature(self.path)

    @property
    def shown(self) -> str:
        """Location of the slide, for display."""
        return self.url or path_text(self.path)

    @property
    def work(self) -> Path:
        """Folder for the intermediate results of an unfinished slide."""
        return self.out / "unfinished"

    def key(self, fingerprint: str) -> str:
        """Hash of everything that can change the result; if it is equal, a finished result is valid."""
        parts = {
            "schema": RESULT_SCHEMA,
            "slide": fingerprint,
            "weights": self.weights_sha256,
            "model": self.model,
            "settings": self.settings.model_dump(mode="json"),
            "engine": self.engine,
            "mpp": [self.option_mpp, self.manifest_mpp],
            **({"region": self.region_key} if self.region_key else {}),
            **({"int8": self.int8_sha256} if self.int8_sha256 else {}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def source_signature(path: Path) -> list[list[str | int]]:
    """Return name, size and modification time of a slide's file or files: if equal, the slide is unchanged.

    Cheap enough for ten thousand slides; a slide whose signature changed is opened and its fingerprint compared.
    """
    if is_zarr(path):  # Chunks are too many to look at each; whoever writes the image anew writes its metadata anew.
        files = sorted(p for p in (path, *path.glob("*"), *path.glob("*/*")) if p.is_dir() or p.parent == path)
    else:
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    return [[path_text(p.name), (s := p.stat()).st_size, s.st_mtime_ns] for p in files]


_MIN_TISSUE = {"classification": 0.5, "detection": 0.01}
"""Default of the smallest tissue fraction of a patch; see :attr:`pathology.settings.ScoreSettings.min_tissue`."""


def grid_settings(settings: ScoreSettings, card: Card) -> GridSettings:
    """Return the model's grid, with the run's overrides."""
    return GridSettings(
        patch=card.patch,
        mpp=card.mpp,
        stride=settings.stride or card.stride or card.patch,
        min_tissue=settings.min_tissue if settings.min_tissue is not None else _MIN_TISSUE[card.task],
        block=settings.block,
    )
