"""Results folders with known ground truth: a slide with a square, and predictions that locate it.

For tests of code that reads results: the square must appear at the same level-0 coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pathology.bundle.card import Abstention, Card, Metric, Normalisation, TrainingData
from pathology.findings.detections import Detections
from pathology.findings.slide_detections import DetectionClass, DetectionHeader, SlideDetections
from pathology.findings.slide_result import SlideResult
from pathology.outputs.results.detection_file import write_detections
from pathology.outputs.results.record import write_slide_record
from pathology.outputs.results.run import write_run
from pathology.outputs.results.tables import write_results
from pathology.outputs.slide_folder import WRITTEN, write_failure, write_slide
from pathology.scoring.aggregate import ClassifierOutputs
from pathology.scoring.decide import SlideFacts, decide_classified
from pathology.settings import GridSettings
from pathology.slide.open import open_reader
from pathology.testing.synthetic_slides import ArrayPicture, Compression, write_tiff
from pathology.tiling.grid import Grid, TissueShare
from pathology.tiling.plan import plan_tiles

__all__ = ["SQUARE_CELLS", "constructed_card", "random_detections", "square_picture", "write_constructed_results"]

SQUARE_CELLS = (4, 3, 9, 7)
"""Left, top, right and bottom of the square in grid cells, from the slide's corner."""

_GLASS, _TISSUE, _SQUARE = (243, 241, 244), (214, 150, 186), (92, 58, 122)


def constructed_card(*, classes: Sequence[str] = ("stroma", "tumour"), patch: int = 64, mpp: float = 1.0) -> Card:
    """Return a card without a real model."""
    return Card(
        name="constructed",
        version="1.0.0",
        title="Constructed predictions",
        architecture="densenet121",
        parameters=1,
        classes=tuple(classes),
        mpp=mpp,
        patch=patch,
        normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        weights_sha256="0" * 64,
        initialisation="none: the predictions are constructed",
        training_data=(TrainingData(name="none", source="none", licence="none", images=1, used_for="nothing"),),
        split="none",
        metrics=(
            Metric(
                metric="accuracy",
                value=None,
                interval=None,
                method="none",
                n=1,
                unit="slide",
                data="none",
                note="no model",
            ),
        ),
        abstention=Abstention(method="by hand", min_probability=0.5),
        intended_use="Tests of the package.",
        limits=("It knows nothing.",),
        licence="Apache-2.0",
    )


def square_picture(grid: Grid, square: tuple[int, int, int, int] = SQUARE_CELLS) -> NDArray[np.uint8]:
    """Draw a slide: glass, an ellipse of tissue, and the square to the nearest pixel.

    Parameters
    ----------
    grid
        The slide's grid.
    square
        The square, in grid cells.

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)`` uint8 RGB.
    """
    width, height = grid.dimensions
    pixels = np.full((height, width, 3), _GLASS, np.uint8)
    cv2.ellipse(pixels, (width // 2, height // 2), (width * 46 // 100, height * 46 // 100), 0, 0, 360, _TISSUE, -1)
    # A texture, so that images of different places can be told apart.
    shade = np.random.default_rng(0).integers(-6, 7, (height // 8 + 1, width // 8 + 1, 1))
    texture = shade.repeat(8, 0).repeat(8, 1)[:height, :width]
    pixels = np.clip(pixels.astype(np.int16) + texture, 0, 255).astype(np.uint8)
    left, top, right, bottom = (round(side * grid.settings.stride * grid.scale) for side in square)
    pixels[top:bottom, left:right] = _SQUARE
    return np.ascontiguousarray(pixels, np.uint8)


def write_constructed_results(
    out: Path,
    *,
    slide_ids: Sequence[str] = ("square",),
    dimensions: tuple[int, int] = (2000, 1600),
    mpp: float = 0.499,
    patch: int = 64,
    stride: int = 64,
    classes: Sequence[str] = ("stroma", "tumour"),
    compression: Compression = "jpeg",
    abstained: Sequence[str] = (),
    failed: Sequence[str] = (),
    warnings: Sequence[str] = (),
    detections: int = 0,
    square: tuple[int, int, int, int] = SQUARE_CELLS,
) -> Path:
    """Write slides and a results folder about them.

    Inside the square the last class has probability 0.9, elsewhere on tissue the first class does.

    Parameters
    ----------
    out
        The results folder; the slides are written to ``out.parent / "slides"``.
    slide_ids
        Names of the scored slides, all identical.
    dimensions
        ``(width, height)`` in level-0 pixels.
    mpp
        Micrometres per level-0 pixel.  At 0.499 a patch is not an integer number of pixels, as on real slides.
    patch, stride
        Grid settings, in pixels at 1 µm.
    classes
        Class names.
    compression
        Compression of the slides' tiles.
    abstained
        Names of further, identical slides on which the model abstains.
    failed
        Names of slides that could not be scored.
    warnings
        About every slide that is not failed.
    detections
        Number of random detections per slide.
    square
        The square, in grid cells.

    Returns
    -------
    Path
        ``out``.

    Examples
    --------
    >>> from pathology import open_results
    >>> open_results(write_constructed_results(folder / "results", slide_ids=("one", "two"))).slide_ids
    ('one', 'two')
    """
    card = constructed_card(classes=classes, patch=patch)
    grid = Grid(GridSettings(patch=patch, mpp=1.0, stride=stride, min_tissue=0.3, block=512), dimensions, mpp)
    pixels = square_picture(grid, square)
    small = (max(1, round(dimensions[0] * mpp / 8)), max(1, round(dimensions[1] * mpp / 8)))
    mask = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)[..., 1] < 200
    overview = cv2.resize(pixels, (dimensions[0] // 2, dimensions[1] // 2), interpolation=cv2.INTER_AREA)
    plan = plan_tiles(grid, TissueShare(mask, dimensions))
    cell = np.rint(plan.coords / (grid.settings.stride * grid.scale)).astype(int)
    inside = (cell >= square[:2]).all(axis=1) & (cell < square[2:]).all(axis=1)
    probabilities = np.full((len(plan), len(classes)), 0.1 / (len(classes) - 1), np.float32)
    probabilities[inside, -1] = 0.9
    probabilities[~inside, 0] = 0.9
    slides = out.parent / "slides"
    slides.mkdir(parents=True, exist_ok=True)
    shared = {
        "patient_id": "patient 1",
        "model": f"{card.name} {card.version}",
        "model_sha256": card.weights_sha256,
        "seconds": 1.0,
    }
    results: list[SlideResult] = []
    for name in (*slide_ids, *abstained):
        path = slides / f"{name}.tiff"
        write_tiff(path, ArrayPicture(pixels), compression=compression, factors=(1, 4), mpp=mpp, quality=90)
        with open_reader(path) as reader:
            fingerprint = reader.fingerprint
        record = {
            **shared,
            "slide_id": name,
            "path": str(path),
            "reader": "tiff",
            "mpp": mpp,
            "mpp_source": "file",
            "width": dimensions[0],
            "height": dimensions[1],
            "fingerprint": fingerprint,
            "warnings": tuple(warnings),
            "tissue_mm2": float(mask.mean()) * dimensions[0] * dimensions[1] * (mpp / 1000) ** 2,
        }
        masks = {"tissue": mask, "pen": _corner(mask, 0), "blur": _corner(mask, -1)}
        facts = SlideFacts(record, plan, np.asarray(overview, np.uint8), masks)
        strict = Abstention(method="by hand", min_probability=1.0)
        judge = card.model_copy(update={"abstention": strict}) if name in abstained else card
        scored = decide_classified(judge, facts, ClassifierOutputs(probabilities))
        write_slide(out / "slides" / name, scored)
        if detections:
            folder = out / "slides" / name
            write_detections(folder, random_detections(name, dimensions, detections))
            write_slide_record(folder, scored.result, [folder / written for written in WRITTEN])
        results.append(scored.result)
    for name in failed:
        result = SlideResult(
            slide_id=name,
            path=str(slides / f"{name}.svs"),
            status="failed",
            error="the file is truncated: 3 of its 12 stored tiles lie beyond its end at 1,000 bytes",
            **shared,
        )
        write_failure(out / "slides" / name, result, card, made=datetime(2026, 1, 1, tzinfo=UTC))
        results.append(result)
    write_results(out, results, card.classes)
    write_run(out, {"slides": [{"slide_id": r.slide_id} for r in results]})
    return out


def _corner(mask: NDArray[np.bool_], which: int) -> NDArray[np.bool_]:
    """Mark the ninth of a mask's area in its first or last corner."""
    part = np.zeros_like(mask)
    height, width = mask.shape[0] // 3, mask.shape[1] // 3
    part[(slice(height), slice(width)) if which == 0 else (slice(-height, None), slice(-width, None))] = True
    return part


def random_detections(slide_id: str, dimensions: tuple[int, int], count: int, *, seed: int = 0) -> SlideDetections:
    """Return detections at random positions: a third clustered at the slide's centre, with evenly spaced scores.

    Parameters
    ----------
    slide_id
        The slide's id.
    dimensions
        ``(width, height)`` in level-0 pixels.
    count
        Number of detections.
    seed
        The same seed gives the same detections.
    """
    random = np.random.default_rng(seed)
    size = np.array(dimensions, np.float64)
    centres = random.random((count, 2)) * (size - 60) + 30
    clustered = random.random(count) < 1 / 3
    centres[clustered] = np.clip(size * random.normal(0.5, 0.05, (int(clustered.sum()), 2)), 30, size - 30)
    scores = np.sort(random.random(count))[::-1].astype(np.float32)
    header = DetectionHeader(
        slide_id=slide_id,
        model="constructed detector 1.0.0",
        model_sha256="0" * 64,
        classes=(
            DetectionClass(name="mitosis", colour="#d55e00"),
            DetectionClass(name="look-alike", colour="#56b4e9", counted=False),
        ),
        threshold=0.5,
    )
    boxes = np.concatenate([centres - 25, centres + 25], axis=1).astype(np.float32)
    return SlideDetections(header, Detections(boxes, scores), (random.random(count) < 0.25).astype(np.uint8))
