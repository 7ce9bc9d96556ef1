"""An open results folder: the batch, and each slide's results, maps and images as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology.bundle.card import Card
from pathology.errors import StoreError, UsageError
from pathology.findings.mitotic_count import TissueMap
from pathology.findings.reviewed_count import ReviewedCount, count_reviewed
from pathology.findings.slide_detections import Decision, SlideDetections
from pathology.findings.slide_result import SlideResult
from pathology.formatting import RESEARCH_USE_ONLY, area, scale
from pathology.notebook import PICTURE_SIDE, html_summary, html_table
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.figures.overlay import LONGEST_SIDE, compose_overlay
from pathology.outputs.figures.thumbnail import SlidePicture
from pathology.outputs.results.detection_file import DETECTIONS, read_decisions, read_detections
from pathology.outputs.results.journal import JOURNAL, Journal
from pathology.outputs.results.layout import CARD, OVERVIEW, OVERVIEW_LONGEST_SIDE, PREDICTIONS, RECORD
from pathology.outputs.results.predictions import read_heatmap, read_unread_patches
from pathology.outputs.results.record import check_files, read_slide_record
from pathology.outputs.results.run import read_run

__all__ = ["Results", "SlideFolder", "open_results", "open_slide_folder"]

_LARGEST_OVERVIEW = 4 * OVERVIEW_LONGEST_SIDE
"""Longest side of an overview that is decoded."""
_ROWS_SHOWN = 20
"""Number of slides of a batch shown in a notebook."""


@dataclass(frozen=True)
class SlideFolder:
    """One slide's results.

    Attributes
    ----------
    folder
        The folder with its results.
    record
        The result; if ``record.status`` is ``failed``, the slide has neither maps nor images.
    """

    folder: Path
    record: SlideResult

    def __repr__(self) -> str:
        record = self.record
        return f"SlideFolder({self.slide_id!r}: {record.error if record.status == 'failed' else record.answer})"

    def _repr_html_(self) -> str:
        """Show the slide and its result in a notebook."""
        record = self.record
        facts: dict[str, object] = {"Status": record.status}
        if record.status == "failed":
            facts["Error"] = record.error
        else:
            facts |= {
                "Prediction": record.answer,
                "Model": record.model,
                "Patches": record.patches,
                "Tissue": area(record.tissue_mm2),
                "Scale": scale(record.mpp),
            }
        facts["Note"] = RESEARCH_USE_ONLY
        try:
            picture = Image.fromarray(self.overview.pixels)
        except StoreError:
            return html_summary(self.slide_id, facts)
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        return html_summary(self.slide_id, facts, np.asarray(picture))

    @property
    def slide_id(self) -> str:
        """Id of the slide in the batch."""
        return self.record.slide_id

    @property
    def made(self) -> datetime:
        """Time at which the record was written, in UTC."""
        return datetime.fromtimestamp((self.folder / RECORD).stat().st_mtime, UTC)

    @property
    def dimensions(self) -> tuple[int, int]:
        """``(width, height)`` of the slide in level-0 pixels.

        Raises
        ------
        StoreError
            If the slide failed before its size was known.
        """
        if self.record.width is None or self.record.height is None:
            raise StoreError("the size of the slide is unknown because it was not scored", where=self.folder)
        return self.record.width, self.record.height

    @cached_property
    def card(self) -> Card:
        """The model's card at the time of scoring.

        Raises
        ------
        StoreError
            If it is missing.
        """
        path = self.folder / CARD
        check_files(self.folder, CARD)
        try:
            return Card.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(
                "the model card is missing or damaged", where=path, remedy="Score the slide again"
            ) from error

    @cached_property
    def _maps(self) -> tuple[Heatmap, NDArray[np.bool_]]:
        if self.record.status == "failed":
            raise StoreError(f"the slide was not scored: {self.record.error}", where=self.folder)
        return read_heatmap(self.folder)

    @property
    def heatmaps(self) -> Heatmap:
        """Maps of all classes, with the position of each cell on the slide.

        Raises
        ------
        StoreError
            If the slide was not scored.
        """
        return self._maps[0]

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """``(rows, columns)`` tissue mask over the whole slide.

        Raises
        ------
        StoreError
            If the slide was not scored.
        """
        return self._maps[1]

    def heatmap(self, name: str) -> NDArray[np.float32]:
        """Return one class's map.

        Parameters
        ----------
        name
            A class of the model, such as ``"viable tumour"``.

        Returns
        -------
        numpy.ndarray
            ``(rows, columns)`` float32, 0 to 1; NaN where no tissue was scored.  Cell ``(row, column)`` covers the
            level-0 pixels ``heatmaps.bounds(row, column)``.

        Raises
        ------
        UsageError
            If the model has no such class.
        StoreError
            If the slide was not scored.
        """
        return self.heatmaps.probability(name)

    @cached_property
    def detections(self) -> SlideDetections | None:
        """The detections; ``None`` if the model is not a detector.

        Raises
        ------
        StoreError
            If the file is damaged.
        """
        if (self.folder / RECORD).exists():
            check_files(self.folder, DETECTIONS)
        return read_detections(self.folder)

    def decisions(self) -> dict[int, Decision]:
        """Return the reviewers' decisions about the detections, by row; read from disk on every call.

        Raises
        ------
        StoreError
            If the file is damaged.
        """
        return {} if self.detections is None else read_decisions(self.folder, self.detections)

    def count(self) -> ReviewedCount | None:
        """Return the mitotic count after the review so far; ``None`` if the model is not a detector.

        Raises
        ------
        StoreError
            If a file is damaged.
        """
        return self.count_with(self.decisions())

    def count_with(self, decisions: Mapping[int, Decision]) -> ReviewedCount | None:
        """Return the mitotic count with these decisions of a reviewer; ``None`` if the model is not a detector."""
        if self.detections is None:
            return None
        record, tissue, tissue_mm2 = self.record, None, self.record.tissue_mm2
        if (self.folder / PREDICTIONS).exists():
            tissue, share = TissueMap(self.tissue, self.dimensions).without_unread(*read_unread_patches(self.folder))
            tissue_mm2 = None if tissue_mm2 is None else tissue_mm2 * share
        return count_reviewed(self.detections, decisions, mpp=record.mpp, tissue_mm2=tissue_mm2, tissue=tissue)

    @property
    def overview(self) -> SlidePicture:
        """The whole slide at low resolution.

        Raises
        ------
        StoreError
            If there is no overview image.
        """
        path = self.folder / OVERVIEW
        check_files(self.folder, OVERVIEW)
        try:
            with Image.open(path) as picture:
                if max(picture.size) > _LARGEST_OVERVIEW:
                    raise StoreError(f"the overview image is {picture.width} x {picture.height} pixels", where=path)
                pixels = np.asarray(picture.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise StoreError("the overview image is missing", where=path, remedy="Score the slide again") from error
        width, height = self.dimensions
        return SlidePicture(pixels, (width / pixels.shape[1], height / pixels.shape[0]))

    def overlay(
        self, only: str | None = None, *, longest: int = LONGEST_SIDE, smooth_um: float | None = None
    ) -> NDArray[np.uint8]:
        """Draw the heatmap over the slide, with legend and scale bar.

        Parameters
        ----------
        only
            A single class to show; ``None``: the predicted class at each location.
        longest
            Longer side of the slide in the image, in pixels.
        smooth_um
            Standard deviation in µm of the Gaussian smoothing of the map; ``None``: no smoothing.

        Returns
        -------
        numpy.ndarray
            ``(H, W, 3)`` uint8 RGB.

        Raises
        ------
        UsageError
            If the model has no such class.
        StoreError
            If the slide was not scored.
        """
        heatmap = self.heatmaps
        if smooth_um is not None:
            if self.record.mpp is None:
                raise StoreError("the scale of the slide is unknown", where=self.folder)
            heatmap = heatmap.smoothed(smooth_um / self.record.mpp)
        return compose_overlay(self.record, self.card, self.overview, heatmap, self.tissue, only=only, longest=longest)


class Results:
    """A scored batch on disk.

    Parameters
    ----------
    folder
        Results folder of ``pathology score --out``.
    slides
        Its slides.

    Notes
    -----
    ``results["slide id"]`` gives one slide; iterating gives all in the order of the batch.
    """

    def __init__(self, folder: Path, slides: dict[str, SlideFolder]) -> None:
        self.folder = folder
        self._slides = slides

    def __repr__(self) -> str:
        counts = Counter(slide.record.status for slide in self)
        by_status = "".join(
            f", {counts[status]} {status}" for status in ("scored", "abstained", "failed") if counts[status]
        )
        return f"Results({self.folder.name!r}: {len(self)} slide{'s' if len(self) != 1 else ''}{by_status})"

    def _repr_html_(self) -> str:
        """Show the first slides as a table in a notebook."""
        rows = [
            (slide.slide_id, record.status, record.answer or record.error, record.patches, area(record.tissue_mm2))
            for slide in islice(self, _ROWS_SHOWN)
            for record in (slide.record,)
        ]
        hidden = len(self) - len(rows)
        note = f"and {hidden} more. {RESEARCH_USE_ONLY}" if hidden else RESEARCH_USE_ONLY
        return html_table(self.folder.name, ("Slide", "Status", "Prediction", "Patches", "Tissue"), rows, note)

    def __len__(self) -> int:
        return len(self._slides)

    def __iter__(self) -> Iterator[SlideFolder]:
        return iter(self._slides.values())

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self._slides

    def __getitem__(self, slide_id: str) -> SlideFolder:
        try:
            return self._slides[slide_id]
        except KeyError:
            some = ", ".join(list(self._slides)[:5])
            raise UsageError(
                f"no slide {slide_id!r} in these results", where=self.folder, remedy=f"Available slides: {some}"
            ) from None

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Ids of the slides, in the order of the batch."""
        return tuple(self._slides)


def open_results(folder: str | PathLike[str]) -> Results:
    """Open a results folder.

    Slides that are still being scored are not included.  A slide with a damaged record is included as failed, with the
    reason; other damaged files are detected when they are read.

    Parameters
    ----------
    folder
        The ``--out`` folder of ``pathology score``.

    Raises
    ------
    StoreError
        If it is not a results folder.

    Examples
    --------
    >>> results = open_results(results_path)
    >>> results
    Results('results': 3 slides, 2 scored, 1 failed)
    >>> results["first"]
    SlideFolder('first': stroma)
    >>> results["first"].heatmap("tumour").shape
    (12, 15)
    """
    root = Path(folder).absolute()
    within = root / "slides"
    if not within.is_dir():
        raise StoreError("not a results folder", where=root, remedy="Give the --out folder of pathology score")
    slides: dict[str, SlideFolder] = {}
    journal = Journal(root / JOURNAL)
    for record in sorted(within.glob(f"*/{RECORD}")):
        try:
            found = _of_folder(journal, record.parent)
        except FileNotFoundError:
            continue  # currently being rescored
        except StoreError as error:
            found = _damaged(record.parent.name, error)
        slides[found.slide_id] = SlideFolder(record.parent, found)
    order = {name: place for place, name in enumerate(_batch_order(root))}
    ids = sorted(slides, key=lambda name: (order.get(name, len(order)), name))
    return Results(root, {name: slides[name] for name in ids})


def _of_folder(journal: Journal, folder: Path) -> SlideResult:
    """Read a slide's result; a folder from elsewhere may name another one, or lead elsewhere."""
    if folder.is_symlink():
        raise StoreError("this is a link, and links in results are not followed", where=folder)
    found = journal.record(folder).result
    if found.slide_id != folder.name:
        # Files are named after the id: it must be a name that a folder can have.
        raise StoreError("this record belongs to another slide", where=folder, remedy="Score the slide again")
    return found


def open_slide_folder(folder: str | PathLike[str]) -> SlideFolder:
    """Open the results of one slide.

    Parameters
    ----------
    folder
        Its folder in a results folder: ``OUT/slides/ID``.

    Raises
    ------
    StoreError
        If it holds no finished slide, or its record is damaged.
    """
    path = Path(folder)
    try:
        return SlideFolder(path, read_slide_record(path).result)
    except FileNotFoundError as error:
        raise StoreError(
            "not the results of a slide", where=path, remedy="Give a folder such as RESULTS/slides/NAME"
        ) from error


def _damaged(slide_id: str, error: StoreError) -> SlideResult:
    """Return a failed result for a slide whose record cannot be read."""
    said = ". ".join(filter(None, (error.what, error.remedy)))
    return SlideResult(slide_id=slide_id, path="", status="failed", model="", model_sha256="", error=said)


def _batch_order(root: Path) -> list[str]:
    """Return the slide ids in the order of the last finished run, as far as known."""
    return [slide["slide_id"] for slide in read_run(root).get("slides", ())]
