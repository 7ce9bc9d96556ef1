"""Settings, each with its unit and the reason for its default.

Settings are frozen: to change one, create a new object (``settings.model_copy(update={...})``).  Their JSON form is
stored with every result, and its hash determines whether a finished slide is still valid.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "GridSettings",
    "QualitySettings",
    "Record",
    "RegionSettings",
    "RunSettings",
    "ScoreConfig",
    "ScoreSettings",
    "TissueSettings",
    "cache_folder",
    "can_keep_a_cache",
    "data_folder",
    "home_folder",
]


class Record(BaseModel):
    """Base of all settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def digest(self) -> str:
        """Return 16 hexadecimal digits that change when any value changes."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class TissueSettings(Record):
    """Settings of tissue detection."""

    mpp: Annotated[float, Field(gt=0)] = 8.0
    """Micrometres per pixel of the mask.  At 8, a nucleus is about one pixel: texture is lost, shape is kept."""
    most_pixels: Annotated[int, Field(gt=0)] = 12_000_000
    """Largest number of pixels of the mask; larger slides get a coarser mask, so that memory does not grow with the
    slide.  12 million are 768 mm² at 8 µm/px; a slide of 50 x 50 mm is masked at 14.4 µm/px."""
    min_area_mm2: Annotated[float, Field(ge=0)] = 0.02
    """Smallest piece of tissue kept, in mm²: a needle core fragment of 0.1 x 0.2 mm; dust is smaller."""
    max_hole_mm2: Annotated[float, Field(ge=0)] = 0.05
    """Largest hole filled, in mm².  Vessels and fat vacuoles are part of the tissue, tears are not."""


class QualitySettings(Record):
    """Artefact limits above which a patch is excluded, as fractions of the patch's area, 0 to 1."""

    max_pen: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest fraction covered by pen marks."""
    max_blur: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest fraction out of focus."""
    max_fold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest fraction covered by tissue folds."""
    max_bubble: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest fraction under an air bubble or its rim."""
    max_dark: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest fraction covered by dark artefacts: dirt, ink clumps, coverslip edges."""
    focus_mpp: Annotated[float, Field(gt=0)] = 2.0
    """Micrometres per pixel at which focus is assessed.  Fine enough to detect a defocus of 2 µm, and as coarse as the
    second level of most scanners' pyramids, so that full resolution need not be decoded."""
    focus_ratio: Annotated[float, Field(gt=0)] = 0.70
    """Ratio of fine to coarse detail below which a region is out of focus.  At 2 µm/px, 98 % of 45 sharp H&E fields
    lie above 0.89; blurred by a Gaussian of 2 µm, their median is 0.56, and of 3 µm, 0.34."""
    fold_density: Annotated[float, Field(gt=1)] = 1.6
    """A fold absorbs at least this many times as much as the surrounding tissue, with the same hue.  Two layers absorb
    twice as much; bone beside marrow, the usual false alarm, up to 1.6 times."""
    dark_density: Annotated[float, Field(gt=0)] = 0.30
    """Least optical density that dirt adds to its surroundings in every colour: half the light."""


class GridSettings(Record):
    """Position, size and scale of patches."""

    patch: Annotated[int, Field(ge=16, le=8192)] = 224
    """Side length of a patch, in pixels at the target scale."""
    mpp: Annotated[float, Field(gt=0)] = 1.0
    """Target scale, in micrometres per pixel."""
    stride: Annotated[int, Field(ge=1)] = 224
    """Distance between neighbouring patches, in pixels at the target scale; below ``patch``, patches overlap."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Smallest tissue fraction of a patch, 0 to 1; 0 keeps patches without tissue."""
    block: Annotated[int, Field(ge=256, le=65536)] = 2048
    """Side length of a block, in pixels at the target scale: the unit of reading, resampling and storage.
    2048 x 2048 RGB at twice the target resolution is 50 MB, which bounds a reading thread's memory."""

    @model_validator(mode="after")
    def _stride_within_patch(self) -> GridSettings:
        if self.stride > self.patch * 4:
            raise ValueError(
                f"stride {self.stride} px leaves more than 3 patches' width of tissue unread "
                f"between patches of {self.patch} px"
            )
        return self


class RegionSettings(Record):
    """Regions of a slide to search, defined by a classifier's results."""

    results: str
    """Results folder of a classifier for the same slides; only regions it classifies as tumour are searched."""
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Class of this classifier that counts as tumour; may be repeated."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Smallest sum of the tumour classes' probabilities at which a region is searched."""


class ScoreSettings(Record):
    """How slides are scored.  Everything here can change a result and is part of the resume key."""

    tissue: TissueSettings = TissueSettings()
    """Tissue detection."""
    quality: QualitySettings | None = None
    """Exclude patches with artefacts (pen marks, blur, folds, bubbles, dirt); ``None``: score all tissue patches."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Distance between patches in pixels at the model's scale; ``None``: the patch size, without overlap."""
    min_tissue: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest tissue fraction of a patch, 0 to 1; ``None``: 0.5 for classifiers, as neighbouring patches look alike,
    and 0.01 for detectors, which would otherwise miss objects at the edge of the tissue."""
    region: RegionSettings | None = None
    """Regions to search; ``None``: all tissue."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Largest fraction of the tissue area that may be unreadable, 0 to 1; above it, the slide fails.  Below it, the
    results say how much is missing."""
    precision: Literal["fast", "exact"] = "fast"
    """``exact`` computes everything in fp32; ``fast`` may use lower precision, within the documented agreement."""
    block: Annotated[int, Field(ge=256, le=65536)] = 2048
    """Side length of a block in pixels at the model's scale: the unit of reading, resampling and storage."""
    aggregator: Literal["mean", "share", "majority", "top", "attention", "transformer"] = "mean"
    """How patch probabilities are aggregated to a slide prediction: by a rule (mean, share, majority, top), or by a
    trained aggregator that the model must include (attention, transformer)."""


class RunSettings(Record):
    """Execution settings of a scoring run.

    Devices and numbers of processes do not change results.  Two settings do, :attr:`mpp` and :attr:`engine`: they are
    part of the resume key, together with :class:`ScoreSettings`.
    """

    mpp: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Micrometres per pixel of every slide at level 0; ``None``: from the manifest or the slide file."""
    engine: str = "auto"
    """Inference engine: auto, torch or openvino."""
    device: str | None = None
    """cpu, cuda or cuda:N; ``None``: CUDA if available."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Number of local worker processes; ``None``: one per GPU, or one without a GPU."""
    scheduler: str | None = None
    """Use a running Dask scheduler instead of local workers: its address, such as tcp://host:8786, or its scheduler
    file."""
    tls: tuple[Path, Path, Path] | None = None
    """For a scheduler that uses TLS: PEM files of the certificate authority, the client's certificate and its key."""
    dashboard: bool = False
    """Serve Dask's dashboard on 127.0.0.1; it has no password, so every user of this machine can see it."""
    slurm: Path | None = None
    """YAML file describing the SLURM jobs to start as workers."""
    readers: Annotated[int, Field(ge=0)] | None = None
    """Reader processes per worker; ``None``: all cores but two with a GPU, else 0 (the worker reads in threads)."""
    part: str | None = None
    """Score one part of the slides, such as 3/16; pathology merge puts the parts of a batch together."""
    retry_failed: bool = False
    """Retry unchanged slides that failed in an earlier run."""
    verify: bool = False
    """Read every file of finished slides and compare its checksum, instead of only those that were modified."""

    @model_validator(mode="after")
    def _one_source_of_workers(self) -> RunSettings:
        if self.scheduler is not None and self.slurm is not None:
            raise ValueError("scheduler and slurm cannot be combined; give one of them")
        return self


class _ScoreInputs(Record):
    """Slides and model of a scoring run."""

    slides: Annotated[tuple[str, ...], Field(min_length=1)]
    """Slide files, folders of slides, CSV manifests, or addresses such as s3://bucket/folder."""
    model: str
    """Name or folder of a model bundle, or tiatoolbox:NAME for a patch classifier of the TIAToolbox model zoo."""

    @field_validator("slides", mode="before")
    @classmethod
    def _one_slide_or_several(cls, value: object) -> object:
        """Accept a single string as a list of one."""
        return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


class ScoreConfig(RunSettings, ScoreSettings, _ScoreInputs):
    """All settings of a scoring run except the output folder, filled from the command line and a YAML file."""

    @field_validator("quality", mode="before")
    @classmethod
    def _quality_by_yes_or_no(cls, value: object) -> object:
        """Accept true for the default limits and false for none."""
        return {True: {}, False: None}[value] if isinstance(value, bool) else value

    @property
    def scoring(self) -> ScoreSettings:
        """Settings that determine the results."""
        return ScoreSettings.model_validate({name: getattr(self, name) for name in ScoreSettings.model_fields})

    @property
    def run(self) -> RunSettings:
        """Execution settings of the run."""
        return RunSettings.model_validate({name: getattr(self, name) for name in RunSettings.model_fields})


def cache_folder() -> Path:
    """Return the cache folder, for reproducible files such as converted models and copies of remote slides.

    ``PATHOLOGY_CACHE`` if set, else the platform's cache folder.  Where there is none, as for a container whose user
    has no home, a temporary folder of this process, removed at its end: everything works, and nothing is kept.
    """
    return _lasting_cache() or _folder_of_this_process()


def can_keep_a_cache() -> bool:
    """Whether :func:`cache_folder` outlives this process."""
    return _lasting_cache() is not None


def _lasting_cache() -> Path | None:
    if given := os.environ.get("PATHOLOGY_CACHE"):
        return Path(given)
    places = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Caches")}
    base = _base_folder(*places.get(sys.platform, ("XDG_CACHE_HOME", ".cache")))
    return base / "sarcoma-pathology" if base is not None and _can_be_written(base) else None


def data_folder() -> Path:
    """Return the folder for what the user adds, such as models and encoders: the platform's data folder.

    ``%LOCALAPPDATA%`` on Windows, ``~/Library/Application Support`` on macOS, ``$XDG_DATA_HOME`` or
    ``~/.local/share`` elsewhere (XDG Base Directory Specification 0.8), there ``sarcoma-pathology``.  Without a home,
    below the cache folder.
    """
    places = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Application Support")}
    base = _base_folder(*places.get(sys.platform, ("XDG_DATA_HOME", ".local/share")))
    return base / "sarcoma-pathology" if base is not None else cache_folder() / "data"


def _base_folder(variable: str, below_home: str) -> Path | None:
    stated, home = os.environ.get(variable), home_folder()
    return Path(stated) if stated else home / below_home if home is not None else None


def home_folder() -> Path | None:
    """Return the user's home; ``None`` where there is none: ``HOME`` is not set and the user id has no name."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def _can_be_written(folder: Path) -> bool:
    """Whether a folder exists and may be written to, or can be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


@cache
def _folder_of_this_process() -> Path:
    made = Path(tempfile.mkdtemp(prefix="sarcoma-pathology-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
