"""A review made in QuPath: what became of every object, as decisions about detections and added mitoses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from pathology.errors import UsageError
from pathology.findings.slide_detections import Decision, SlideDetections, Verdict
from pathology.outputs.export.annotations import CANDIDATE, REJECTED, exported_names
from pathology.outputs.export.geojson import Feature

__all__ = ["ImportedReview", "Missing", "read_review"]

Missing = Literal["rejected", "unchanged"]
"""What detections count as that the file does not contain: deleted, or not exported."""

_MOST_MISSING: Final = 0.5
"""Share of the detections above which their absence looks like a partial export rather than like deletions."""

_LARGEST_UM: Final = 100.0
"""Side above which an area is not one mitosis, in µm; the largest are about 30 across."""

_LARGEST_PX: Final = 400.0
"""The same in level-0 pixels, for a slide of unknown scale."""

_SAME_PLACE: Final = 4.0
"""Distance in level-0 pixels within which two added mitoses are the same, imported twice."""

_MITOSIS: Final = frozenset({"mitosis", "mitoses", "mitotic figure", "mitotic figures", "mitotic cell"})
_DENIED: Final = frozenset({"negative", "rejected", "reject", "false positive", "not mitosis", "no"})


@dataclass
class ImportedReview:
    """A review read from QuPath's objects.

    Attributes
    ----------
    decisions
        Decisions by row, including earlier ones and added mitoses.
    accepted, rejected, added, unchanged
        Numbers of objects; ``added`` are mitoses, of which one object of points may hold several.
    deleted
        Detections and added mitoses that the file does not contain and that are rejected or removed for it.
    absent
        Detections that the file does not contain and that keep their state.
    not_understood
        One line for each object that changed nothing because its meaning is unclear.
    """

    decisions: dict[int, Decision]
    accepted: int = 0
    rejected: int = 0
    added: int = 0
    unchanged: int = 0
    deleted: int = 0
    absent: int = 0
    not_understood: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return one line that says what became of the objects."""
        parts = [
            f"{self.accepted} accepted",
            f"{self.rejected} rejected",
            f"{self.added} added",
            f"{self.unchanged} unchanged",
            f"{len(self.not_understood)} not understood",
        ]
        if self.deleted:
            parts.append(f"{self.deleted} deleted in QuPath and therefore rejected")
        if self.absent:
            parts.append(f"{self.absent} not in the file and left as they were")
        return "; ".join([", ".join(parts[:5]), *parts[5:]])


def read_review(
    features: Iterable[Feature],
    detections: SlideDetections,
    earlier: Mapping[int, Decision] | None = None,
    *,
    mpp: float | None = None,
    dimensions: tuple[int, int] | None = None,
    missing: Missing | None = None,
) -> ImportedReview:
    """Return the review made in QuPath.

    A detection whose class is unchanged keeps its decision, if any.  One that was assigned a counted class, such as
    ``mitosis`` or ``Mitosis: Positive``, is accepted; one with any other class, or deleted, is rejected; one whose
    class was removed is not understood.  Objects are recognised by their UUID, else by their place.  A new object with
    a counted class is a mitosis added by the reviewer, or accepts the detection that it covers.

    Parameters
    ----------
    features
        Objects exported from QuPath; see :func:`pathology.outputs.export.geojson.read_objects`.
    detections
        The detections that were exported to QuPath.
    earlier
        Decisions at the time of the export, by row.
    mpp
        Micrometres per level-0 pixel.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    missing
        What detections are that the file does not contain; ``None``: rejected, but the file is refused if they are
        more than half.

    Raises
    ------
    UsageError
        If the file contains none of these detections or less than half, and ``missing`` does not say why.
    """
    earlier = earlier or {}
    review = ImportedReview(dict(earlier))
    reader = _Reader(detections, earlier, review, mpp, dimensions)
    for number, feature in enumerate(features, 1):
        reader.take(number, feature)
    reader.finish(missing)
    return review


class _Reader:
    def __init__(
        self,
        detections: SlideDetections,
        earlier: Mapping[int, Decision],
        review: ImportedReview,
        mpp: float | None,
        dimensions: tuple[int, int] | None,
    ) -> None:
        self._dimensions = dimensions
        self._detections = detections
        self._earlier = earlier
        self._review = review
        self._largest = _LARGEST_PX if mpp is None else _LARGEST_UM / mpp
        self._then = list(exported_names(detections, earlier))
        self._counts = detections.counted(earlier)
        self._added_rows = {detections.uuid(r): r for r, d in earlier.items() if d.verdict == "added"}
        self._classes = {kind.name.strip().casefold() for kind in detections.header.classes if kind.counted}
        if self._classes & _MITOSIS:
            self._classes |= _MITOSIS
        self._seen: set[int] = set()
        self._covered: set[int] = set()  # by new objects
        self._next = max((len(detections), *(row + 1 for row in earlier)))

    def take(self, number: int, feature: Feature) -> None:
        """Take in one object."""
        identity = feature.identity or ""
        row = self._detections.row_of(identity)
        if row is None:
            row = self._added_rows.get(identity.lower())
        if row is None and feature.identity is None and feature.kind == "detection":
            row = self._same_box(feature)
        if row is not None:
            self._known(number, feature, row)
        else:
            self._new(number, feature)

    def finish(self, missing: Missing | None) -> None:
        """Decide about what the file does not contain."""
        detections, review = self._detections, self._review
        there = self._seen | self._covered
        absent = [row for row in range(len(detections)) if row not in there]
        if missing is None and len(detections):
            if len(absent) == len(detections):
                raise UsageError(
                    "the file contains none of this slide's detections",
                    remedy="Export all objects of the same slide from QuPath, as GeoJSON; "
                    "or use --missing unchanged if it contains added mitoses only",
                )
            if len(absent) > _MOST_MISSING * len(detections):
                raise UsageError(
                    f"{len(absent)} of this slide's {len(detections)} detections are not in the file",
                    remedy="Export all objects, not only selected ones; or use --missing rejected if they were "
                    "deleted, --missing unchanged if they were not exported",
                )
        if missing == "unchanged":
            review.absent = len(absent)
            return
        for row in absent:
            if self._then[row] == REJECTED:
                continue
            review.decisions[row] = Decision.on(detections, row, "rejected")
            review.deleted += 1
        for row in self._added_rows.values():
            if row not in there:
                del review.decisions[row]
                review.deleted += 1

    def _known(self, number: int, feature: Feature, row: int) -> None:
        review = self._review
        if row in self._seen:
            review.not_understood.append(f"object {number}: the same detection as an earlier object")
            return
        self._seen.add(row)
        now = feature.classification
        added = row >= len(self._detections)
        then = None if added else self._then[row]
        if now is None:
            review.not_understood.append(f"object {number}: it has no class, so detection {row + 1} stays as it was")
        elif (added and self._is_mitosis(now)) or now == then or (self._is_mitosis(now) and self._is_mitosis(then)):
            review.unchanged += 1
        elif added:
            del review.decisions[row]
            review.rejected += 1
        elif self._is_mitosis(now):
            self._decide(row, "accepted")
        elif now.strip().casefold() == CANDIDATE and then == REJECTED:
            review.decisions.pop(row, None)
            review.unchanged += 1
        else:
            self._decide(row, "rejected")

    def _new(self, number: int, feature: Feature) -> None:
        review, place = self._review, feature.place()
        if feature.classification is None or not self._is_mitosis(feature.classification):
            shown = f"class {feature.classification!r}" if feature.classification else "no class"
            review.not_understood.append(f"object {number}: neither a detection of this slide nor a mitosis ({shown})")
            return
        if place is None:
            review.not_understood.append(f"object {number}: a {feature.classification} without a place")
            return
        if not feature.points and max(place[2] - place[0], place[3] - place[1]) > self._largest:
            review.not_understood.append(f"object {number}: this area is too large for one mitosis")
            return
        if feature.points:
            centres = list(feature.points)
        elif len(feature.polygons) == 1:
            centres = [((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)]
        else:
            review.not_understood.append(f"object {number}: an area in several parts is not one mitosis")
            return
        for x, y in centres:
            if self._on_slide(x, y):
                self._mitosis_at(x, y)
            else:
                review.not_understood.append(f"object {number}: ({x:g}, {y:g}) is not on the slide")

    def _on_slide(self, x: float, y: float) -> bool:
        width, height = self._dimensions or (math.inf, math.inf)
        return 0 <= x < width and 0 <= y < height

    def _mitosis_at(self, x: float, y: float) -> None:
        """Add a mitosis, unless it is one of the detections or already added."""
        review, boxes = self._review, self._detections.found.boxes
        inside = (boxes[:, 0] <= x) & (x <= boxes[:, 2]) & (boxes[:, 1] <= y) & (y <= boxes[:, 3])
        rows = np.flatnonzero(inside)
        if len(rows):
            away = np.hypot(*(self._detections.found.centres[rows] - (x, y)).T)
            row = int(rows[np.argmin(away)])
            self._covered.add(row)
            decision = review.decisions.get(row)
            if self._counts[row] if decision is None else decision.verdict == "accepted":
                review.unchanged += 1
            else:
                self._decide(row, "accepted")
            return
        for row, decision in review.decisions.items():
            if decision.verdict == "added" and np.hypot(decision.x - x, decision.y - y) <= _SAME_PLACE:
                self._covered.add(row)
                review.unchanged += 1
                return
        review.decisions[self._next] = Decision.adding(self._next, x, y)
        self._covered.add(self._next)
        self._next += 1
        review.added += 1

    def _decide(self, row: int, verdict: Verdict) -> None:
        self._review.decisions[row] = Decision.on(self._detections, row, verdict)
        if verdict == "accepted":
            self._review.accepted += 1
        else:
            self._review.rejected += 1

    def _same_box(self, feature: Feature) -> int | None:
        """Return the detection with the box of an object that lost its UUID; QuPath before 0.4 writes none."""
        place = feature.place()
        if place is None or not len(self._detections):
            return None
        away = np.abs(self._detections.found.boxes - np.array(place, np.float32)).max(axis=1)
        row = int(np.argmin(away))
        return row if away[row] <= 1 else None

    def _is_mitosis(self, name: str | None) -> bool:
        """Whether a class is counted, whatever its capitals and the classes that QuPath derived from it."""
        first, *derived = [re.sub(r"[\s_*]+", " ", part).strip().casefold() for part in (name or "").split(":")]
        return first in self._classes and not _DENIED.intersection(derived)
