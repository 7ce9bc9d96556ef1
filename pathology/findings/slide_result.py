"""The findings of one slide: the record behind ``slide.json`` and one row of ``results.csv``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pathology.findings.mitotic_count import SlideMitoses
from pathology.formatting import NOT_KNOWN
from pathology.settings import Record

__all__ = ["ClassFinding", "SlideResult"]


class ClassFinding(Record):
    """Slide-level findings for one class."""

    name: str
    """Class name as on the model card."""
    colour: str
    """Display colour ``#rrggbb``."""
    probability: float
    """Slide-level probability: mean over tissue patches (or the model's own aggregator)."""
    share: float
    """Fraction of the scored tissue area in which this is the predicted class, 0 to 1."""
    area_mm2: float
    """That area in mm²."""


class SlideResult(Record):
    """One scored or failed slide.

    ``None`` means unknown, for example because the slide failed before the value was measured.
    """

    slide_id: str
    patient_id: str | None = None
    path: str
    status: Literal["scored", "abstained", "failed"]
    """``scored``: the slide has a prediction or count; ``abstained``: the model was run and abstained; ``failed``: the
    slide could not be scored."""
    model: str
    """``name version`` of the bundle."""
    model_sha256: str
    """SHA-256 of the weights."""
    prediction: str | None = None
    """Predicted class; ``None`` if the model abstained or is a detector, or the slide failed."""
    most_probable_class: str | None = None
    """Most probable class of a classifier, even if it abstained; in that case it is not a prediction."""
    classes: tuple[ClassFinding, ...] = ()
    abstained_because: str = ""
    """Why the model abstained; empty if it did not."""
    prediction_set: tuple[str, ...] | None = None
    """Classes that cannot be excluded at the model's stated coverage, most probable first; ``None`` if the model has no
    such rule, or the slide is outside its domain."""
    out_of_domain: bool | None = None
    """Whether the slide is outside the model's training domain; ``None`` if the model has no rule for it."""
    domain_score: float | None = None
    """The slide's out-of-distribution score: about 1 for training patches, higher for slides less like them."""
    patches: Annotated[int, Field(ge=0)] = 0
    """Patches scored."""
    patches_total: Annotated[int, Field(ge=0)] = 0
    """Patches to score: all with enough tissue."""
    unreadable_tiles: Annotated[int, Field(ge=0)] = 0
    """Stored tiles that could not be decoded; patches on them are masked."""
    masked_patches: Annotated[int, Field(ge=0)] = 0
    """Tissue patches excluded because a tile under them could not be read, or for artefacts."""
    tissue_mm2: float | None = None
    seconds: float | None = None
    reader: str | None = None
    mpp: float | None = None
    mpp_source: str | None = None
    """Source of the scale: ``option``, ``manifest``, ``file`` or ``objective power``."""
    width: int | None = None
    """Level-0 pixels."""
    height: int | None = None
    """Level-0 pixels."""
    fingerprint: str | None = None
    engine: str | None = None
    """Engine and device, such as ``torch cpu fp32``."""
    key: str = ""
    """Hash of slide, model and settings; if the key is unchanged, this result is still valid."""
    attempts: int = 1
    warnings: tuple[str, ...] = ()
    error: str = ""
    """Why the slide failed, in plain language."""
    settings: dict[str, Any] = Field(default_factory=dict)
    mitoses: SlideMitoses | None = None
    """Count of a detector; ``None`` for a classifier.  A slide with a count has no prediction."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Findings of other kinds (stain, quality shares), by name."""

    @model_validator(mode="after")
    def _an_abstention_is_no_prediction(self) -> SlideResult:
        if self.status != "scored" and self.prediction is not None:
            raise ValueError(
                f"a slide with status {self.status} must not have a prediction, but has {self.prediction!r}"
            )
        return self

    @property
    def abstained(self) -> bool:
        """Whether the model was run and abstained."""
        return self.status == "abstained"

    @property
    def mark(self) -> str:
        """Label shown with all class results of the slide if the model abstained; otherwise empty."""
        return "model abstained" if self.abstained else ""

    def marked(self, text: str) -> str:
        """Return a name or title followed by the slide's mark."""
        return f"{text} ({self.mark})" if self.mark else text

    @property
    def has_maps(self) -> bool:
        """Whether patches were scored, so that maps and images exist."""
        return self.status != "failed"

    @property
    def finding(self) -> str:
        """Short finding of a scored slide: its class or mitotic count."""
        if self.prediction is not None or self.mitoses is None:
            return self.prediction or NOT_KNOWN
        noun = "mitosis" if self.mitoses.total == 1 else "mitoses"
        density = self.mitoses.hotspot_per_mm2
        where = "" if not density else f", {density:.1f} per mm² in the hotspot"
        return f"{self.mitoses.total:,} {noun}{where}"

    @property
    def summary(self) -> str:
        """One-line summary: the finding, or why the model abstained or the slide failed."""
        if self.status == "failed":
            return self.error
        return self.answer if self.abstained else self.finding

    @property
    def answer(self) -> str:
        """Short result: the class, or why there is none; empty for a failed slide."""
        if self.status == "failed":
            return ""
        if self.out_of_domain:
            return "outside this model's training domain"
        if self.abstained and self.prediction_set is not None and len(self.prediction_set) != 1:
            return f"inconclusive: {' or '.join(self.prediction_set) or 'no class is probable enough'}"
        return "no prediction" if self.abstained else self.prediction or ""
