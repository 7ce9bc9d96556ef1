"""Compare annotations with the slides before any work: one list of everything that is broken."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal

import numpy as np
from matplotlib.path import Path as Outline
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pathology.annotations.marks import BoxFile, Mark
from pathology.annotations.slide_files import REGION
from pathology.errors import InputTableError, SlideError, UsageError
from pathology.scoring.select import SlideEntry
from pathology.slide.open import open_reader
from pathology.slide.scale import resolve_mpp

__all__ = ["LARGEST_UM", "SMALLEST_UM", "AnnotatedSlide", "BrokenBoxesError", "Meaning", "check_boxes"]

Meaning = Literal["mitosis", "look-alike", "region", "ignore"]

SMALLEST_UM: Final = 4.0
"""Smallest longer side of a mitosis in µm; an edge-on metaphase plate is about 8 long (ours)."""
LARGEST_UM: Final = 60.0
"""Largest longer side in µm; the largest mitoses are about 30 across (ours)."""

_SAME_PX: Final = 1.0
"""Boxes whose corners all lie within this distance are the same box, in level-0 pixels."""

_LISTED: Final = 40
"""Lines of the list that are shown."""

_MEANINGS: Final[dict[str, Meaning]] = {
    **dict.fromkeys(("mitosis", "mitoses", "mitotic figure", "mitotic figures", "mitotic cell"), "mitosis"),
    **dict.fromkeys(("atypical mitosis", "normal mitosis", "atypical mitotic figure", "mf", "amf", "nmf"), "mitosis"),
    **dict.fromkeys(("look alike", "hard negative", "not mitotic figure", "non mitotic figure", "mimic"), "look-alike"),
    **dict.fromkeys(("not mitosis", "non mitosis", "imposter", "impostor", "rejected", "negative"), "look-alike"),
    **dict.fromkeys(("hard negative look alike", "non mitotic", "nonmitosis", "nonmitotic"), "look-alike"),
    **dict.fromkeys((REGION, "region", "roi", "field", "region of interest", "annotated area"), "region"),
    **dict.fromkeys(("tissue", "hotspot", "candidate", "ignore"), "ignore"),
}


class BrokenBoxesError(InputTableError):
    """Annotations that do not fit the slides, all listed.

    Parameters
    ----------
    problems
        ``(kind, place and detail)`` of each.

    Attributes
    ----------
    problems : tuple
        The same.
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        kinds = Counter(kind for kind, _ in self.problems)
        lines = [f"  {kind}: {detail}" for kind, detail in self.problems[:_LISTED]]
        if len(self.problems) > _LISTED:
            lines.append(f"  and {len(self.problems) - _LISTED} more")
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        super().__init__(f"the annotations cannot be used: {counts}\n" + "\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        # The base class is rebuilt from its text; this one from its list.
        return BrokenBoxesError, (self.problems,)


@dataclass(frozen=True, eq=False)
class AnnotatedSlide:
    """A slide with what was seen on it, in level-0 pixels.

    Attributes
    ----------
    entry
        The slide.
    mpp
        Micrometres per level-0 pixel.
    dimensions
        ``(width, height)``.
    mitoses, look_alikes
        ``(N, 4)`` float64 boxes ``(left, top, right, bottom)``.
    regions
        Outlines ``(K, 2)`` of what was looked at; what lies elsewhere is unknown.
    whole
        Whether the whole slide was looked at.
    """

    entry: SlideEntry
    mpp: float
    dimensions: tuple[int, int]
    mitoses: NDArray[np.float64]
    look_alikes: NDArray[np.float64]
    regions: tuple[NDArray[np.float64], ...]
    whole: bool

    def looked_at(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Return which points ``(N, 2)`` lie where the slide was looked at; a region includes its border."""
        points = np.asarray(points, np.float64).reshape(-1, 2)
        inside = np.full(len(points), self.whole)
        for region in self.regions:
            inside |= _inside(points, region)
        return inside


def check_boxes(
    files: Iterable[BoxFile],
    slides: Sequence[SlideEntry],
    *,
    classes: Mapping[str, Meaning] | None = None,
    mpp: float | None = None,
    box_um: float | None = None,
    whole: bool = False,
    skip_missing: bool = False,
) -> tuple[AnnotatedSlide, ...]:
    r"""Return the slides with their annotations, or one list of everything that is broken.

    Parameters
    ----------
    files
        From :func:`pathology.annotations.read.read_boxes`.
    slides
        Slides and fields; those without annotations are left out.
    classes
        What further class names mean.
    mpp
        Micrometres per level-0 pixel, for all slides.
    box_um
        Side of the box around a point that states none, in µm.
    whole
        Whether slides without a region were looked at as a whole, where their file does not say so.
    skip_missing
        Whether to leave out annotations of images that are not among the slides, instead of refusing them.

    Raises
    ------
    BrokenBoxesError
        If a slide is missing, ambiguous, unreadable or without a scale; if a box is empty, outside, of an unknown
        class, implausibly small or large, doubled, or outside the regions; or if nothing says what was looked at.

    Examples
    --------
    >>> from pathology.annotations import read_boxes
    >>> from pathology.scoring.select import select_slides
    >>> _ = (folder / "boxes.csv").write_text("slide,x,y,label,size_um\nslide,100,200,mitosis,12.5\n")
    >>> (slide,) = check_boxes(read_boxes([folder / "boxes.csv"]), select_slides([slide_path]), whole=True)
    >>> slide.mitoses.tolist()
    [[87.5, 187.5, 112.5, 212.5]]
    """
    files = tuple(files)
    checker = _Checker(slides, classes or {}, mpp, box_um, skip_missing)
    grouped: dict[str, list[tuple[BoxFile, Mark]]] = defaultdict(list)
    sources: dict[str, list[BoxFile]] = defaultdict(list)
    for file in files:
        places = {image: checker.entry_of(image, file) for image in file.images}
        for image, entry in places.items():
            if entry is not None:
                sources[entry.slide_id].append(file)
                checker.check_size(entry, image, file)
        for mark in file.marks:
            entry = places.get(mark.image)
            if entry is not None:
                grouped[entry.slide_id].append((file, mark))
    found = [
        checker.annotated(entry, [mark for _, mark in grouped[entry.slide_id]], sources[entry.slide_id], whole)
        for entry in slides
        if entry.slide_id in sources
    ]
    if checker.problems:
        raise BrokenBoxesError(checker.problems)
    result = tuple(slide for slide in found if slide is not None)
    if not result:
        raise UsageError("the annotations name none of the slides", remedy="Check --boxes and --slides")
    return result


class _Checker:
    """Collects problems while annotations are turned into boxes on slides."""

    def __init__(
        self,
        slides: Sequence[SlideEntry],
        classes: Mapping[str, Meaning],
        mpp: float | None,
        box_um: float | None,
        skip_missing: bool,
    ) -> None:
        self._skip_missing = skip_missing
        self.problems: list[tuple[str, str]] = []
        self._mpp, self._box_um = mpp, box_um
        self._meanings = _MEANINGS | {_plain(name): meaning for name, meaning in classes.items()}
        self._named: dict[str, list[SlideEntry]] = defaultdict(list)
        for entry in slides:
            for name in dict.fromkeys((entry.slide_id, entry.path.name, entry.path.stem)):
                self._named[name.casefold()].append(entry)
        self._opened: dict[str, tuple[tuple[int, int], float] | None] = {}

    def entry_of(self, image: str, file: BoxFile) -> SlideEntry | None:
        """Return the slide of an image's name, by full name, else without its ending."""
        name = PurePosixPath(image.replace("\\", "/")).name.casefold()
        for candidate in (name, PurePosixPath(name).stem):
            found = {entry.slide_id: entry for entry in self._named.get(candidate, ())}
            if len(found) == 1:
                return next(iter(found.values()))
            if found:
                self._add("ambiguous slide", f"{image!r} in {file.source} may be {' or '.join(sorted(found))}")
                return None
        if not self._skip_missing:
            self._add("slide not given", f"{image!r} in {file.source}: add it to --slides, or use --skip-missing")
        return None

    def check_size(self, entry: SlideEntry, image: str, file: BoxFile) -> None:
        """Compare the size that the annotation states with the slide's."""
        stated, opened = file.images[image], self._open(entry)
        if stated is not None and opened is not None and stated != opened[0]:
            shown = " x ".join(map(str, stated)), " x ".join(map(str, opened[0]))
            self._add("image of another size", f"{image!r} in {file.source}: annotated at {shown[0]}, is {shown[1]} px")

    def annotated(
        self, entry: SlideEntry, marks: Sequence[Mark], files: Sequence[BoxFile], whole: bool
    ) -> AnnotatedSlide | None:
        """Return one slide with its boxes; ``None`` if it cannot be opened."""
        opened = self._open(entry)
        if opened is None:
            return None
        dimensions, mpp = opened
        boxes: dict[Meaning, list[tuple[float, ...]]] = {"mitosis": [], "look-alike": []}
        regions: list[NDArray[np.float64]] = []
        placed: list[tuple[Mark, Meaning, tuple[float, ...]]] = []
        for mark in marks:
            meaning = self._meaning(mark)
            if meaning is None or meaning == "ignore":
                continue
            box = self._box(mark, dimensions, mpp, meaning == "region")
            if box is None:
                continue
            if meaning == "region":
                regions.append(_outline(mark, box))
            else:
                placed.append((mark, meaning, box))
                boxes[meaning].append(box)
        self._check_doubled(entry.slide_id, placed)
        is_whole = any(file.looked == "images" for file in files) or (whole and not regions)
        # A table that lists a slide without any object says that it was looked at.
        is_whole |= not marks and any(file.form == "CSV" for file in files)
        found = AnnotatedSlide(
            entry, mpp, dimensions, _array(boxes["mitosis"]), _array(boxes["look-alike"]), tuple(regions), is_whole
        )
        self._check_regions(found)
        return found

    def _check_regions(self, slide: AnnotatedSlide) -> None:
        if not slide.whole and not slide.regions:
            self._add(
                "looked-at tissue unknown",
                f"{slide.entry.slide_id}: draw regions of class {REGION!r} around what was looked at, or say with "
                "--whole that all of it was",
            )
            return
        for boxes in (slide.mitoses, slide.look_alikes):
            outside = ~slide.looked_at((boxes[:, :2] + boxes[:, 2:]) / 2)
            for left, top, *_ in boxes[outside].tolist():
                self._add("outside the regions", f"{slide.entry.slide_id}: box at ({left:g}, {top:g})")

    def _meaning(self, mark: Mark) -> Meaning | None:
        meaning = self._meanings.get(_plain(mark.label)) or self._meanings.get(_plain(mark.label.partition(":")[0]))
        # QuPath derives classes such as "Mitosis: Negative".
        derived = _plain(mark.label.partition(":")[2])
        if meaning == "mitosis" and self._meanings.get(derived) == "look-alike":
            return "look-alike"
        if meaning is None:
            shown = f"class {mark.label!r}" if mark.label else "no class"
            self._add(
                "unknown class", f"{mark.where}: {shown}; say --class '{mark.label}=mitosis', look-alike or ignore"
            )
        return meaning

    def _box(
        self, mark: Mark, dimensions: tuple[int, int], mpp: float, region: bool
    ) -> tuple[float, float, float, float] | None:
        if not mark.finite:
            self._add("no numbers", f"{mark.where}: a coordinate is missing or not a number")
            return None
        scale = dimensions if mark.unit == "fraction" else (1, 1)
        left, top, right, bottom = (
            v * s for v, s in zip((mark.left, mark.top, mark.right, mark.bottom), scale * 2, strict=True)
        )
        if mark.point:
            side = mark.size_um or self._box_um
            if region or side is None:
                self._add("point without a size", f"{mark.where}: give its size in µm with --box-size, such as 12.5")
                return None
            half = side / mpp / 2
            left, top, right, bottom = left - half, top - half, right + half, bottom + half
        if right <= left or bottom <= top:
            self._add("empty box", f"{mark.where}: {right - left:g} x {bottom - top:g} pixels")
            return None
        if not (0 <= (left + right) / 2 <= dimensions[0] and 0 <= (top + bottom) / 2 <= dimensions[1]):
            self._add("outside the image", f"{mark.where}: ({left:g}, {top:g}) on {dimensions[0]} x {dimensions[1]}")
            return None
        longer = max(right - left, bottom - top) * mpp
        if not region and not SMALLEST_UM <= longer <= LARGEST_UM:
            self._add("wrong size", f"{mark.where}: {longer:.1f} µm at {mpp:g} µm per pixel; is the scale right?")
            return None
        return left, top, right, bottom

    def _check_doubled(self, slide_id: str, placed: Sequence[tuple[Mark, Meaning, tuple[float, ...]]]) -> None:
        if not placed:
            return
        for first, second in sorted(cKDTree(_array([box for *_, box in placed])).query_pairs(_SAME_PX, p=np.inf)):
            mark, meaning, box = placed[second]
            said = "twice" if placed[first][1] == meaning else f"as {placed[first][1]} and as {meaning}"
            self._add("doubled box", f"{mark.where}: ({box[0]:g}, {box[1]:g}) on {slide_id} is marked {said}")

    def _open(self, entry: SlideEntry) -> tuple[tuple[int, int], float] | None:
        """Return size and scale of a slide, once; problems are noted."""
        if entry.slide_id not in self._opened:
            self._opened[entry.slide_id] = None
            try:
                with open_reader(entry.path) as reader:
                    scale = resolve_mpp(reader, option=self._mpp, manifest=entry.mpp)
                    self._opened[entry.slide_id] = reader.dimensions, scale.mpp
            except SlideError as error:
                self._add("unusable slide", str(error))
        return self._opened[entry.slide_id]

    def _add(self, kind: str, detail: str) -> None:
        self.problems.append((kind, detail))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()


def _array(boxes: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    return np.array(boxes, np.float64).reshape(-1, 4)


def _outline(mark: Mark, box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    if mark.outline:
        return np.array(mark.outline, np.float64)
    left, top, right, bottom = box
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def _inside(points: NDArray[np.float64], outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points lie in a polygon, or within a pixel of its border."""
    grown = Outline(outline, closed=False).contains_points(points, radius=1.0)
    return np.asarray(grown | Outline(outline, closed=False).contains_points(points, radius=-1.0), bool)
