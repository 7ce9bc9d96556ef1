"""Data for the viewer page: the slides of one or more results folders, with all their results."""

from __future__ import annotations

import io
import struct
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathology._version import __version__
from pathology.errors import PathologyError, StoreError, UsageError
from pathology.findings.slide_detections import Decision, SlideDetections, Verdict
from pathology.formatting import RESEARCH_USE_ONLY, sentence
from pathology.outputs.figures.overlay import OPACITY
from pathology.outputs.figures.palette import colour_map
from pathology.outputs.figures.quality import QUALITY_COLOURS
from pathology.outputs.results.detection_file import DECISIONS, DETECTIONS, read_decisions, write_decisions
from pathology.outputs.results.predictions import read_masks
from pathology.outputs.results.results_folder import Results, SlideFolder, open_results
from pathology.path_text import valid_text
from pathology.viewer.detection_index import DetectionIndex
from pathology.viewer.records import PatientPages
from pathology.viewer.slides import OpenSlides
from pathology.viewer.tiles import ByteCache

__all__ = ["COLOUR_MAPS", "Batch", "SlideView"]

COLOUR_MAPS: Final = ("viridis", "cividis", "magma")
"""Perceptually uniform; the first two are safe for all common forms of colour blindness, magma for most."""

UNKNOWN: Final = 255
"""Byte of a map's cell without a prediction; probabilities are 0 to 254, in steps of 0.4 %."""

_OTHER_LAYER: Final = "#cc79a7"
"""Default colour of a layer."""
_MOST_VIEWS: Final = 8
"""Number of slides whose maps and detections are kept in memory."""
_TILE_CACHE: Final = 64 * 2**20
"""Bytes of encoded tiles kept: a few thousand tiles."""
_FEW_DETECTIONS: Final = 4000
"""Largest number of detections drawn individually; more are shown as a density map."""
_DENSITY_CELLS: Final = 96
"""Cells of a density map along the longer side of the window: about a dozen screen pixels each."""


class SlideView:
    """One slide's maps and detections, loaded once.

    Parameters
    ----------
    slide
        Its results.
    """

    def __init__(self, slide: SlideFolder) -> None:
        self.slide = slide
        self._deciding = threading.Lock()
        self._decisions: dict[int, Decision] | None = None
        self._counted: NDArray[np.bool_] | None = None
        self._index: DetectionIndex | None = None

    def heatmap(self, name: str | None) -> bytes:
        """Return a map as bytes, row by row.

        Parameters
        ----------
        name
            A class: one byte per cell, 0 to 254 for probability 0 to 1, 255 unknown.  ``None``: the predicted class,
            two planes: index of the class (255 unknown), then its probability as above.

        Raises
        ------
        UsageError, StoreError
            If the class does not exist, or the slide has no maps.
        """
        heatmap = self.slide.heatmaps
        if name is not None:
            return _quantised(heatmap.probability(name)).tobytes()
        predicted = heatmap.predicted()
        index = np.where(predicted < 0, UNKNOWN, np.minimum(predicted, UNKNOWN - 1)).astype(np.uint8)
        return index.tobytes() + _quantised(heatmap.confidence()).tobytes()

    def mask(self, name: str) -> bytes:
        """Return a layer as a PNG over the whole slide: white inside, transparent outside.

        Raises
        ------
        UsageError
            If the layer does not exist.
        """
        masks = read_masks(self.slide.folder)
        if name not in masks:
            raise UsageError(f"unknown layer {name!r}", remedy=f"Available layers: {', '.join(masks)}")
        picture = Image.fromarray(masks[name].astype(np.uint8), "P")
        picture.putpalette([255, 255, 255] * 2)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", transparency=bytes([0, 255]), compress_level=3)
        return buffer.getvalue()

    # -- detections ---------------------------------------------------------------------------------------------

    @property
    def detections(self) -> SlideDetections:
        """The slide's detections.

        Raises
        ------
        UsageError
            If the slide has no detections.
        """
        found = self.slide.detections
        if found is None:
            raise UsageError("this slide has no detections: the model is not a detector", where=self.slide.folder)
        return found

    def _state(self) -> tuple[dict[int, Decision], NDArray[np.bool_], DetectionIndex]:
        with self._deciding:
            if self._decisions is None or self._counted is None or self._index is None:
                self._index = DetectionIndex(self.detections.found, self.slide.dimensions)
                self._decisions = read_decisions(self.slide.folder, self.detections)
                self._counted = self.detections.counted(self._decisions)
            return self._decisions, self._counted, self._index

    def _states_of(self, rows: NDArray[np.uint32], decisions: dict[int, Decision]) -> NDArray[np.uint8]:
        """Return 0 (not reviewed), 1 (accepted) or 2 (rejected) for each row."""
        states = np.zeros(len(rows), np.uint8)
        for place, row in enumerate(rows.tolist() if decisions else ()):
            decision = decisions.get(row)
            if decision is not None:
                states[place] = 1 if decision.verdict == "accepted" else 2
        return states

    def detections_within(self, window: tuple[float, float, float, float], least: float) -> bytes:
        """Return the detections in a window, individually or as counts per cell, as bytes (little endian).

        Parameters
        ----------
        window
            ``(left, top, right, bottom)`` in level-0 pixels.
        least
            Lowest score shown.

        Returns
        -------
        bytes
            ``uint32 0, uint32 n``, then n of each: uint32 row, 4 float32 box, float32 score, uint8 class, uint8
            state (0 not reviewed, 1 accepted, 2 rejected), uint8 whether it counts.  Or ``uint32 1, uint32 rows,
            uint32 columns``, float32 left, top and cell, then ``rows * columns`` uint32 counts of the detections
            that count.

        Raises
        ------
        UsageError
            If the window is empty or the slide has no detections.
        """
        left, top, right, bottom = window
        if not (left < right and top < bottom):
            raise UsageError(f"the window {window} is empty")
        decisions, counted, index = self._state()
        rows = index.within(*window)
        found = self.detections.found
        rows = rows[found.scores[rows] >= least]
        if len(rows) <= _FEW_DETECTIONS:
            added = [
                (decision.row, self.detections.added_box(decision))
                for decision in decisions.values()
                if decision.verdict == "added" and left <= decision.x < right and top <= decision.y < bottom
            ]
            more = len(added)
            boxes = np.array([box for _, box in added], np.float32).reshape(-1, 4)
            parts = (
                np.concatenate([rows, np.array([row for row, _ in added], rows.dtype)]).astype("<u4"),
                np.concatenate([found.boxes[rows], boxes]).astype("<f4"),
                np.concatenate([found.scores[rows], np.ones(more, np.float32)]).astype("<f4"),
                np.concatenate([self.detections.kinds[rows], np.full(more, self.detections.counted_class, np.uint8)]),
                np.concatenate([self._states_of(rows, decisions), np.ones(more, np.uint8)]),
                np.concatenate([counted[rows], np.ones(more, np.bool_)]).astype(np.uint8),
            )
            return struct.pack("<II", 0, len(rows) + more) + b"".join(part.tobytes() for part in parts)
        density = index.density(rows[counted[rows]], window, _DENSITY_CELLS)
        head = struct.pack("<IIIfff", 1, *density.counts.shape, density.left, density.top, density.cell)
        return head + density.counts.astype("<u4").tobytes()

    def next_detection(self, after: int, *, step: int, least: float, undecided: bool) -> dict[str, Any] | None:
        """Return the next detection by decreasing score, ``None`` if there is none.

        Parameters
        ----------
        after
            A row; -1 starts at the first, and the number of detections at the last when going back.
        step
            1 forwards, -1 backwards.
        least
            Lowest score.
        undecided
            Skip reviewed detections.
        """
        decisions, _, _ = self._state()
        scores = self.detections.found.scores
        row = after + step
        while 0 <= row < len(scores):
            if scores[row] >= least and not (undecided and row in decisions):
                return self.one_detection(row)
            row += step
        return None

    def one_detection(self, row: int) -> dict[str, Any]:
        """Return everything about one detection.

        Raises
        ------
        UsageError
            If the detection does not exist.
        """
        decisions, counted, _ = self._state()
        detections = self.detections
        decision = decisions.get(row)
        if decision is not None and decision.verdict == "added":
            return {
                "row": row,
                "box": list(detections.added_box(decision)),
                "score": 1.0,
                "kind": detections.counted_class,
                "verdict": "accepted",
                "counted": True,
            }
        if not 0 <= row < len(detections):
            raise UsageError(f"there is no detection {row}; there are {len(detections)}")
        return {
            "row": row,
            "box": detections.found.boxes[row].tolist(),
            "score": float(detections.found.scores[row]),
            "kind": int(detections.kinds[row]),
            "verdict": None if decision is None else decision.verdict,
            "counted": bool(counted[row]),
        }

    def decide(self, row: int, verdict: Verdict | None) -> dict[str, Any]:
        """Accept or reject a detection, or undo a decision, and save it.

        Returns
        -------
        dict
            The detection and the slide's count after the decision.

        Raises
        ------
        UsageError
            If the detection does not exist.
        StoreError, OutputError
            If the decision cannot be saved; nothing changes in that case.
        """
        self._state()
        with self._deciding:
            # Read again: another viewer, or a person, may have changed the file.
            decisions = read_decisions(self.slide.folder, self.detections)
            if row in decisions and decisions[row].verdict == "added":
                raise UsageError(
                    "a reviewer added this mitosis in QuPath", remedy="Delete it there and import the review again"
                )
            if verdict is None:
                decisions.pop(row, None)
            else:
                decisions[row] = Decision.on(self.detections, row, verdict)
            write_decisions(self.slide.folder, self.detections, decisions.values())
            self._decisions, self._counted = decisions, self.detections.counted(decisions)
        return {"detection": self.one_detection(row), "count": self.count()}

    def count(self) -> dict[str, Any]:
        """Return the slide's count with the current decisions."""
        decisions, _, _ = self._state()
        count = self.slide.count_with(decisions)
        assert count is not None
        return count.model_dump(mode="json", exclude={"hotspot": {"members"}})


def _quantised(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    known = ~np.isnan(probability)
    values = np.full(probability.shape, UNKNOWN, np.uint8)
    values[known] = np.rint(np.clip(probability[known], 0, 1) * (UNKNOWN - 1)).astype(np.uint8)
    return values


@dataclass(frozen=True)
class _Count:
    """Mitoses of a slide, and their density per mm² in its hotspot."""

    total: int | None
    per_mm2: float | None


@dataclass(frozen=True)
class _Run:
    results: Results
    name: str


class Batch:
    """Results folders opened for viewing.

    Parameters
    ----------
    folders
        One, or several to compare different models on the same slides.
    slides
        Folders to search for slides that were moved.
    patients
        Folder of patient records, linked to slides by patient id.

    Raises
    ------
    StoreError
        If one is not a results folder, or ``patients`` is not a folder of patient records.
    """

    def __init__(self, folders: Sequence[Path], slides: Sequence[Path] = (), *, patients: Path | None = None) -> None:
        if not folders:
            raise UsageError("no results folder given")
        self._runs = [_Run(open_results(folder), Path(folder).absolute().name) for folder in folders]
        self.patients = None if patients is None else PatientPages(patients)
        self.slides = OpenSlides(tuple(slides))
        self.tiles = ByteCache(_TILE_CACHE)
        self._views: OrderedDict[tuple[int, str], SlideView] = OrderedDict()
        self._counts: dict[tuple[int, str], tuple[int, _Count]] = {}
        self._lock = threading.Lock()

    def slide(self, run: int, slide_id: str) -> SlideFolder:
        """Return one slide.

        Raises
        ------
        UsageError
            If the run or slide does not exist.
        """
        if not 0 <= run < len(self._runs):
            raise UsageError(f"there is no run {run}; there are {len(self._runs)}")
        return self._runs[run].results[slide_id]

    def view(self, run: int, slide_id: str) -> SlideView:
        """Return a slide's maps and detections; the least recently used ones are discarded.

        Raises
        ------
        UsageError
            If the run or slide does not exist.
        """
        slide = self.slide(run, slide_id)
        with self._lock:
            view = self._views.get((run, slide_id))
            if view is None:
                view = self._views[run, slide_id] = SlideView(slide)
            self._views.move_to_end((run, slide_id))
            while len(self._views) > _MOST_VIEWS:
                self._views.popitem(last=False)
            return view

    def tile(self, run: int, slide_id: str, z: int, column: int, row: int) -> bytes:
        """Return one tile of a slide as JPEG.

        Raises
        ------
        UsageError
            If the slide or tile does not exist.
        SlideError
            If the slide is missing or unreadable.
        """
        key = (run, slide_id, z, column, row)
        found = self.tiles.get(key)
        if found is None:
            with self.slides.pyramid((run, slide_id), self.slide(run, slide_id)) as pyramid:
                found = pyramid.tile(z, column, row)
            self.tiles.put(key, found)
        return found

    def overview(self) -> dict[str, Any]:
        """Return the table of slides and their common data."""
        rows = [self._row(run, slide) for run, entry in enumerate(self._runs) for slide in entry.results]
        return {
            "version": __version__,
            "notice": RESEARCH_USE_ONLY,
            "runs": [{"name": run.name, "slides": len(run.results)} for run in self._runs],
            "slides": rows,
            "colour_maps": {
                name: colour_map(name, np.linspace(0, 1, 256, dtype=np.float32)).reshape(-1).tolist()
                for name in COLOUR_MAPS
            },
            "opacity": list(OPACITY),
        }

    def _row(self, run: int, slide: SlideFolder) -> dict[str, Any]:
        record = slide.record
        count = self._count(run, slide)
        predicted = next((c for c in record.classes if c.name == record.prediction), None)
        return {
            "run": run,
            "id": valid_text(record.slide_id),
            "key": quote(record.slide_id.encode("utf-8", "surrogateescape"), safe=""),
            "patient": None if record.patient_id is None else valid_text(record.patient_id),
            "patient_record": None if self.patients is None else self.patients.address(record.patient_id),
            "status": record.status,
            "model": record.model,
            "prediction": record.prediction,
            "answer": sentence(record.answer) if record.abstained else "",
            "prediction_set": None if record.prediction_set is None else list(record.prediction_set),
            "out_of_domain": record.out_of_domain,
            "colour": None if predicted is None else predicted.colour,
            "confidence": None if predicted is None else predicted.probability,
            "reason": sentence(record.error or record.abstained_because) if record.status != "scored" else "",
            "mitoses": count.total,
            "mitoses_per_mm2": count.per_mm2,
            "tissue_mm2": record.tissue_mm2,
            "patches": record.patches,
            "seconds": record.seconds,
        }

    def _count(self, run: int, slide: SlideFolder) -> _Count:
        """Return a slide's mitotic count, with the reviewers' decisions."""
        try:
            decided = (slide.folder / DECISIONS).stat()
        except OSError:
            return _as_scored(slide)
        key = (run, slide.slide_id)
        known = self._counts.get(key)
        if known is None or known[0] != decided.st_mtime_ns:
            try:
                count = SlideView(slide).count()
            except PathologyError:  # damaged: reported on the slide's page
                return _as_scored(slide)
            hotspot = count["hotspot"]
            density = hotspot["per_mm2"] if hotspot is not None else 0.0 if count["total"] == 0 else None
            known = self._counts[key] = (decided.st_mtime_ns, _Count(count["total"], density))
        return known[1]

    def about(self, run: int, slide_id: str) -> dict[str, Any]:
        """Return everything the viewer needs to know about a slide except its pixels and maps.

        Raises
        ------
        UsageError
            If the run or slide does not exist.
        """
        slide = self.slide(run, slide_id)
        record = slide.record
        about: dict[str, Any] = {
            **self._row(run, slide),
            "path": valid_text(record.path),
            "classes": [finding.model_dump() for finding in record.classes],
            "maps": [],
            "warnings": [sentence(warning) for warning in record.warnings],
            "mpp": record.mpp,
            "width": record.width,
            "height": record.height,
            "report": (slide.folder / "report.html").exists(),
            "others": self._others(run, slide),
            "image": None,
            "image_error": None,
            "heatmap": None,
            "layers": [],
            "detections": None,
        }
        if record.status == "failed":
            about["image_error"] = sentence(record.error)
            return about
        try:
            with self.slides.pyramid((run, slide_id), slide) as pyramid:
                about["image"] = {
                    "width": pyramid.width,
                    "height": pyramid.height,
                    "tile": pyramid.tile_size,
                    "coarsest": pyramid.coarsest,
                }
            if not self.slides.is_unchanged((run, slide_id), slide):
                about["warnings"].append("The slide file is not the one that was scored; maps may not match it.")
        except PathologyError as error:
            about["image_error"] = sentence(str(error))
        try:
            heatmap = slide.heatmaps
            about["heatmap"] = {
                "rows": heatmap.shape[0],
                "columns": heatmap.shape[1],
                "left": heatmap.origin[0],
                "top": heatmap.origin[1],
                "stride": heatmap.stride,
                "covered": min(heatmap.extent, heatmap.stride),
            }
            colours = {finding.name: finding.colour for finding in record.classes}
            about["maps"] = [{"name": name, "colour": colours.get(name, _OTHER_LAYER)} for name in heatmap.classes]
            about["layers"] = [
                {"name": name, "colour": QUALITY_COLOURS.get(name, _OTHER_LAYER)} for name in read_masks(slide.folder)
            ]
        except StoreError as error:
            about["warnings"].append(sentence(str(error)))
        if (slide.folder / DETECTIONS).exists():
            try:
                view = self.view(run, slide_id)
                header = view.detections.header
                about["detections"] = {
                    "total": len(view.detections),
                    "threshold": header.threshold,
                    "model": header.model,
                    "classes": [kind.model_dump() for kind in header.classes],
                    "count": view.count(),
                }
            except StoreError as error:
                about["warnings"].append(sentence(str(error)))
        return about

    def _others(self, run: int, slide: SlideFolder) -> list[dict[str, Any]]:
        """Return the same slide in the other runs."""
        found = []
        for number, other in enumerate(self._runs):
            if number == run:
                continue
            for candidate in other.results:
                same = (
                    candidate.record.fingerprint == slide.record.fingerprint
                    if candidate.record.fingerprint and slide.record.fingerprint
                    else candidate.slide_id == slide.slide_id
                )
                if same and candidate.record.has_maps:
                    found.append(
                        {
                            "run": number,
                            "key": self._row(number, candidate)["key"],
                            "name": other.name,
                            "model": candidate.record.model,
                        }
                    )
        return found

    def close(self) -> None:
        """Close every slide."""
        self.slides.close()


def _as_scored(slide: SlideFolder) -> _Count:
    count = slide.record.mitoses
    return _Count(None, None) if count is None else _Count(count.total, count.hotspot_per_mm2)
