"""What was found in one slide: the record behind ``slide.json`` and one row of ``results.csv``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathology.findings.mitotic_count import SlideMitoses
from pathology.formatting import NOT_KNOWN
from pathology.settings import Record

__all__ = ["ClassFinding", "SlideResult"]


class ClassFinding(Record):
    """One class over the whole slide."""

    name: str
    """Class name as on the model card."""
    colour: str
    """Display colour ``#rrggbb``."""
    probability: float
    """Slide-level probability: mean over tissue patches (or the model's own aggregator)."""
    share: float
    """Share of the scored tissue area whose leading class this is, 0 to 1."""
    area_mm2: float
    """That area in mm²."""


class SlideResult(Record):
    """One scored or failed slide.

    ``None`` means not known, for instance because the slide failed before it was measured.
    """

    slide_id: str
    patient_id: str | None = None
    path: str
    status: Literal["scored", "abstained", "failed"]
    """``scored``: there is an answer; ``abstained``: the model was run and declines to answer; ``failed``: the slide
    could not be scored."""
    model: str
    """``name version`` of the bundle."""
    model_sha256: str
    """SHA-256 of the weights."""
    prediction: str | None = None
    """Predicted class; ``None`` where the model abstained, is a detector, or the slide failed."""
    most_probable_class: str | None = None
    """Most probable class of a classifier, whether or not it abstained.  Where it did, this is no prediction."""
    classes: tuple[ClassFinding, ...] = ()
    abstained_because: str = ""
    """Why the model declines to answer; empty where it does not."""
    prediction_set: tuple[str, ...] | None = None
    """Classes that cannot be excluded at the model's stated coverage, the most probable first; ``None`` where the model
    has no such rule, or the slide is outside its domain."""
    out_of_domain: bool | None = None
    """Whether the slide is outside what the model was trained on; ``None`` where the model cannot tell."""
    domain_score: float | None = None
    """The slide's out-of-domain score: about 1 for training patches, higher the stranger."""
    patches: Annotated[int, Field(ge=0)] = 0
    """Patches scored."""
    patches_total: Annotated[int, Field(ge=0)] = 0
    """Patches to be scored: all that hold enough tissue."""
    unreadable_tiles: Annotated[int, Field(ge=0)] = 0
    """Stored tiles that could not be decoded; patches on them are masked."""
    masked_patches: Annotated[int, Field(ge=0)] = 0
    """Tissue patches left out because a tile under them could not be read, or for quality."""
    tissue_mm2: float | None = None
    seconds: float | None = None
    reader: str | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    """Where the scale came from: ``option``, ``manifest``, ``file`` or ``objective power``."""
    width: int | None = None
    """Level-0 pixels."""
    height: int | None = None
    """Level-0 pixels."""
    fingerprint: str | None = None
    engine: str | None = None
    """Engine and device, such as ``torch cpu fp32``."""
    key: str = ""
    """Hash of slide, model and settings; an equal key means this result is still valid."""
    attempts: int = 1
    warnings: tuple[str, ...] = ()
    error: str = ""
    """Why the slide failed, in words for a pathologist."""
    settings: dict[str, Any] = Field(default_factory=dict)
    mitoses: SlideMitoses | None = None
    """What a detector counted; ``None`` where the model is a classifier.  Such a slide has no prediction."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Findings of other kinds (stain, quality shares), by name."""

    @model_validator(mode="after")
    def _an_abstention_is_no_prediction(self) -> SlideResult:
        if self.status != "scored" and self.prediction is not None:
            raise ValueError(f"a slide that is {self.status} has a prediction, {self.prediction!r}")
        return self

    @property
    def abstained(self) -> bool:
        """Whether the model was run and declines to answer."""
        return self.status == "abstained"

    @property
    def mark(self) -> str:
        """What stands beside everything that is written about the slide's classes; empty where there is an answer."""
        return "model abstained" if self.abstained else ""

    def marked(self, text: str) -> str:
        """Return a name or title with the slide's mark behind it."""
        return f"{text} ({self.mark})" if self.mark else text

    @property
    def has_maps(self) -> bool:
        """Whether patches were scored, so that there are maps and pictures."""
        return self.status != "failed"

    @property
    def finding(self) -> str:
        """What was found in a scored slide, in few words: its class, or how many mitoses."""
        if self.prediction is not None or self.mitoses is None:
            return self.prediction or NOT_KNOWN
        noun = "mitosis" if self.mitoses.total == 1 else "mitoses"
        density = self.mitoses.hotspot_per_mm2
        where = "" if not density else f", {density:.1f} per mm² in the hotspot"
        return f"{self.mitoses.total:,} {noun}{where}"

    @property
    def summary(self) -> str:
        """The slide in one line: what was found, why there is no answer, or why it failed."""
        if self.status == "failed":
            return self.error
        return self.answer if self.abstained else self.finding

    @property
    def answer(self) -> str:
        """What is said of the slide in few words: the class, or why there is none; empty for a failed slide."""
        if self.status == "failed":
            return ""
        if self.out_of_domain:
            return "outside what this model was trained on"
        if self.abstained and self.prediction_set is not None and len(self.prediction_set) != 1:
            return f"not sure: {' or '.join(self.prediction_set) or 'no class is probable enough'}"
        return "no prediction" if self.abstained else self.prediction or ""
