"""One slide's results folder: ``predictions.zarr``, pictures, report, and ``slide.json`` last.

=======================  ======================================================================================
``predictions.zarr``     ``coords (N, 2)`` int32 level-0 corners, ``probabilities (N, C)`` float32 (NaN where a patch
                         could not be read), ``tissue (N,)`` float32, ``tissue_mask (rows, columns)`` bool over the
                         whole slide, and such a mask for each thing that spoils it (``pen_mask``, ...), at its own
                         scale; ``domain_score (N,)`` and ``attention (N,)`` float32 where the model gives them;
                         attributes: classes, patch extent and stride in level-0 pixels, grid, slide
``detections.parquet``   of a detector: every candidate; see :mod:`pathology.outputs.results.detection_file`
``heatmap.ome.zarr``     the class probabilities as an image with physical coordinates
``annotations.geojson``  where each class leads and where tissue is, for QuPath
``overlay.png``          the slide under its heatmap, with legend and scale bar
``overview.jpg``         the slide as it is
``preview.jpg``          a small overlay, for tables of slides
``report.html``          everything about the slide on one page
``card.json``            the card of the model
``slide.json``           the record; written last, so a folder that has it is whole
=======================  ======================================================================================
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image

from pathology.atomic_files import output_error, write_bytes, write_text
from pathology.errors import StoreError
from pathology.findings.abstention import judge
from pathology.findings.aggregation import aggregate
from pathology.findings.mitotic_count import HotspotCount, count_mitoses, tissue_share
from pathology.findings.reviewed_count import HOTSPOT_LIMIT
from pathology.findings.slide_answer import SlideAnswer
from pathology.findings.slide_detections import SlideDetections
from pathology.findings.slide_result import ClassFinding, SlideResult
from pathology.outputs.export.annotations import class_features, detection_features, hotspot_feature, tissue_features
from pathology.outputs.export.geojson import write_geojson
from pathology.outputs.export.ome_zarr import write_ome_zarr
from pathology.outputs.figures.heatmap import Heatmap, build_heatmap
from pathology.outputs.figures.overlay import LONGEST_SIDE, write_overlay
from pathology.outputs.figures.palette import class_colours
from pathology.outputs.figures.patch_gallery import RepresentativePatch, attention_picture, representative_rows
from pathology.outputs.figures.thumbnail import SlidePicture, jpeg
from pathology.outputs.reports.batch import preview
from pathology.outputs.reports.mitoses import Candidate
from pathology.outputs.reports.slide import report_pictures, write_slide_report
from pathology.outputs.results.detection_file import DETECTIONS, write_detections

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.tiling.plan import TilePlan

__all__ = [
    "ANNOTATIONS",
    "CARD",
    "HEATMAP",
    "OVERVIEW_LONGEST_SIDE",
    "read_heatmap",
    "read_masks",
    "redraw_overlay",
    "write_failure",
    "write_slide_folder",
]

OVERVIEW_LONGEST_SIDE = LONGEST_SIDE
"""Longer side of the picture of the slide that everything is drawn on, in pixels."""

PREDICTIONS = "predictions.zarr"
HEATMAP = "heatmap.ome.zarr"
ANNOTATIONS = "annotations.geojson"
CARD = "card.json"
"""Names in the slide's folder."""

_MASK = "_mask"
"""What the names of masks in ``predictions.zarr`` end in."""


def write_slide_folder(
    folder: Path,
    *,
    card: Card,
    plan: TilePlan,
    probabilities: NDArray[np.float32],
    overview: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    about: dict[str, Any],
    spoilt: Mapping[str, NDArray[np.bool_]] | None = None,
    detections: SlideDetections | None = None,
    gallery: Callable[[Sequence[int]], Sequence[Candidate]] = lambda _: (),
    answer: SlideAnswer | None = None,
    representative: Callable[[Sequence[Sequence[int]]], Sequence[RepresentativePatch]] = lambda _: (),
) -> SlideResult:
    """Aggregate a model's predictions and write everything about the slide.

    Parameters
    ----------
    folder
        The slide's folder; made if it is missing, older results in it are replaced.
    card
        The model.
    plan, probabilities
        The patches and their ``(N, C)`` float32 class probabilities (for a detector: the score of the surest box of
        each); rows of NaN could not be read.
    overview
        ``(H, W, 3)`` uint8 picture of the whole slide.
    mask
        ``(rows, columns)`` bool tissue mask over the whole slide.
    about
        Further fields of :class:`SlideResult`: identity, scale, reader, timing.
    spoilt
        Masks over the whole slide, each ``(rows, columns)`` bool at its own scale, of what spoils it (see
        :attr:`pathology.slide.tissue.quality.SlideQuality.masks`).
    detections
        What a detector found.  The slide then has no leading class, and its count goes into
        ``SlideResult.extra["mitoses"]``.
    gallery
        Cuts pictures of the detections in these rows out of the slide.
    answer
        What is known of the slide beside its patches' probabilities.
    telling
        Cuts pictures of these patches, by class, out of the slide.

    Returns
    -------
    SlideResult
        As written to ``slide.json``.

    Raises
    ------
    NoTissueError
        If no patch has probabilities.
    OutputError
        If the folder cannot be written.
    """
    answer = answer or SlideAnswer()
    found = aggregate(probabilities, plan.tissue, plan.grid.settings, answer.probabilities)
    colours = class_colours(card)
    verdict = judge(card, found.probabilities, answer.domain_scores, aggregator=answer.aggregator)
    result = SlideResult(
        status="scored",
        prediction=card.classes[found.leading],
        classes=tuple(
            ClassFinding(name=name, colour=colour, probability=float(p), share=float(s), area_mm2=float(a))
            for name, colour, p, s, a in zip(
                card.classes, colours, found.probabilities, found.shares, found.areas_mm2, strict=True
            )
        ),
        abstained=bool(verdict.because),
        abstained_because=verdict.because,
        prediction_set=verdict.prediction_set,
        out_of_domain=verdict.out_of_domain,
        domain_score=verdict.domain_score,
        patches=found.scored,
        masked_patches=found.masked,
        **about,
    )
    if detections is not None:
        result = _with_count(result, detections, plan.grid.slide_mpp, mask, plan.grid.dimensions)
    grid = plan.grid
    heatmap = build_heatmap(
        plan.coords,
        probabilities,
        plan.tissue,
        classes=card.classes,
        extent=grid.patch_extent,
        stride=grid.settings.stride * grid.scale,
    )
    picture = SlidePicture(overview, (grid.dimensions[0] / overview.shape[1], grid.dimensions[1] / overview.shape[0]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slide.json").unlink(missing_ok=True)  # until everything is new, the folder is not whole
    (folder / "traceback.txt").unlink(missing_ok=True)
    _write_predictions(
        folder / PREDICTIONS, card, plan, probabilities, {"tissue": mask, **(spoilt or {})}, result, answer
    )
    if all(heatmap.shape):
        write_ome_zarr(
            folder / HEATMAP, heatmap, mpp=grid.slide_mpp, name=f"{result.slide_id}: {card.name}", colours=colours
        )
    features = [*tissue_features(mask, grid.dimensions, grid.slide_mpp)]
    if detections is None:
        features = [*class_features(result, heatmap), *features]
        (folder / DETECTIONS).unlink(missing_ok=True)
    else:
        hotspot = result.extra["mitoses"]["hotspot"]
        if hotspot is not None:
            features.append(hotspot_feature(HotspotCount.model_validate(hotspot)))
        features.extend(detection_features(detections))
        write_detections(folder, detections)
    write_geojson(folder / ANNOTATIONS, features)
    write_text(folder / CARD, card.model_dump_json(indent=1))
    write_bytes(folder / "overview.jpg", jpeg(overview, quality=90))
    write_overlay(folder / "overlay.png", result, card, picture, heatmap, mask)
    pictures = report_pictures(result, card, picture, heatmap, mask)
    write_bytes(folder / "preview.jpg", preview(pictures.painted))
    hotspot = (result.extra.get("mitoses") or {}).get("hotspot")
    shown = gallery(hotspot["members"]) if hotspot is not None else ()
    patches = (
        representative(representative_rows(probabilities, plan.coords, grid.patch_extent)) if detections is None else ()
    )
    write_slide_report(
        folder / "report.html",
        result,
        card,
        pictures,
        made=datetime.now(UTC),
        gallery=shown,
        patches=patches,
        attention=attention_picture(answer.attention, plan.coords, grid.patch_extent, picture),
    )
    write_text(folder / "slide.json", result.model_dump_json(indent=1))
    return result


def _with_count(
    result: SlideResult,
    detections: SlideDetections,
    mpp: float,
    mask: NDArray[np.bool_],
    dimensions: tuple[int, int],
) -> SlideResult:
    """Return a detector's result: no leading class, but a count."""
    rows = np.flatnonzero(detections.counted())
    if len(rows) > HOTSPOT_LIMIT:
        rows = rows[:0]
    centres = detections.found.centres[rows]
    count = count_mitoses(centres, mpp, window=detections.header.window, tissue_mm2=result.tissue_mm2 or None)
    if count.hotspot is not None:
        members = tuple(int(rows[member]) for member in count.hotspot.members)
        known = {"members": members, "tissue_share": tissue_share(count.hotspot, mask, dimensions)}
        count = count.model_copy(update={"hotspot": count.hotspot.model_copy(update=known)})
    candidates = {"threshold": detections.header.threshold, "candidates": len(detections)}
    return result.model_copy(
        update={
            "prediction": None,
            "classes": (),
            "abstained": False,
            "abstained_because": "",
            "prediction_set": None,
            "extra": {**result.extra, "mitoses": {**candidates, **count.model_dump(mode="json")}},
        }
    )


def write_failure(folder: Path, result: SlideResult, card: Card, *, traceback: str = "") -> None:
    """Write the folder of a slide that could not be scored: its report, the traceback if any, and the record."""
    if traceback:
        write_text(folder / "traceback.txt", traceback)
    write_text(folder / CARD, card.model_dump_json(indent=1))
    write_slide_report(folder / "report.html", result, card, made=datetime.now(UTC))
    write_text(folder / "slide.json", result.model_dump_json(indent=1))


def read_heatmap(folder: Path) -> tuple[Heatmap, NDArray[np.bool_]]:
    """Return the heatmap and the tissue mask of a scored slide.

    Raises
    ------
    StoreError
        If the folder holds no predictions.
    """
    group = _predictions(folder)

    def array(name: str) -> NDArray[Any]:
        return np.asarray(group[name][...])

    attributes: dict[str, Any] = dict(group.attrs)
    heatmap = build_heatmap(
        array("coords"),
        array("probabilities"),
        array("tissue"),
        classes=attributes["classes"],
        extent=attributes["patch_extent"],
        stride=attributes["stride"],
    )
    return heatmap, array("tissue_mask")


def read_masks(folder: Path) -> dict[str, NDArray[np.bool_]]:
    """Return the masks over the whole slide by name: ``tissue`` first, then what spoils it.

    Raises
    ------
    StoreError
        If the folder holds no predictions.
    """
    group = _predictions(folder)
    names = sorted(name.removesuffix(_MASK) for name in group.array_keys() if name.endswith(_MASK))
    names.sort(key=lambda name: name != "tissue")
    return {name: np.asarray(group[f"{name}{_MASK}"][...], bool) for name in names}


def redraw_overlay(
    folder: Path, path: Path, card: Card, *, only: str | None = None, longest: int = LONGEST_SIDE
) -> None:
    """Draw a scored slide's overlay again, of one class or at another size.

    Parameters
    ----------
    folder
        The slide's results folder.
    path
        The PNG to write.
    card
        The model it was scored with.
    only
        A class to show alone; ``None``: the leading class.
    longest
        Longer side of the slide in the picture, in pixels; at most that of the stored overview.

    Raises
    ------
    StoreError
        If the folder holds no predictions.
    OutputError
        If the picture cannot be written.
    """
    result = SlideResult.model_validate_json((folder / "slide.json").read_text(encoding="utf-8"))
    heatmap, mask = read_heatmap(folder)
    with Image.open(folder / "overview.jpg") as image:
        pixels = np.asarray(image)
    assert result.width is not None
    assert result.height is not None
    picture = SlidePicture(pixels, (result.width / pixels.shape[1], result.height / pixels.shape[0]))
    write_overlay(path, result, card, picture, heatmap, mask, only=only, longest=longest)


def _predictions(folder: Path) -> Any:  # noqa: ANN401 - zarr's groups hold arrays and groups alike
    try:
        return zarr.open_group(folder / PREDICTIONS, mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise StoreError("there are no predictions here", where=folder, remedy="Score the slide first") from error


def _write_predictions(
    path: Path,
    card: Card,
    plan: TilePlan,
    probabilities: NDArray[np.float32],
    masks: Mapping[str, NDArray[np.bool_]],
    result: SlideResult,
    answer: SlideAnswer,
) -> None:
    aside = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        arrays: dict[str, NDArray[Any]] = {"coords": plan.coords, "probabilities": probabilities, "tissue": plan.tissue}
        if answer.domain_scores is not None:
            arrays["domain_score"] = np.asarray(answer.domain_scores, np.float32)
        if answer.attention is not None:
            arrays["attention"] = np.asarray(answer.attention, np.float32)
        arrays |= {f"{name}{_MASK}": mask for name, mask in masks.items()}
        for name, values in arrays.items():
            # Some 8 MB a chunk: one file for most slides, and no chunk too large to read at once.
            rows = max(1, min(len(values), 2**23 // max(1, values[:1].nbytes)))
            chunks = (rows, *(max(1, n) for n in values.shape[1:]))
            group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks)[...] = values
        group.attrs.update(
            {
                "classes": list(card.classes),
                "model": result.model,
                "model_sha256": result.model_sha256,
                "slide_id": result.slide_id,
                "fingerprint": result.fingerprint,
                "dimensions": list(plan.grid.dimensions),
                "mpp": plan.grid.slide_mpp,
                "patch_extent": plan.grid.patch_extent,
                "stride": plan.grid.settings.stride * plan.grid.scale,
                "grid": plan.grid.settings.model_dump(mode="json"),
                "research_use_only": True,
            }
        )
        shutil.rmtree(path, ignore_errors=True)
        aside.replace(path)
    except OSError as error:
        raise output_error(error, path) from error
