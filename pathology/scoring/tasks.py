"""The three steps of scoring a slide, run in a worker process.

``prepare_slide`` detects tissue and selects patches, ``score_chunk`` predicts some blocks, ``finish_slide`` computes
and writes the result.  Each saves its output in the slide's folder before it returns.  None raises for a bad slide:
they return a :class:`~pathology.inference.workers.schedule.Failure` with a readable reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pathology.inference.workers.schedule import ChunkDone, Prepared
from pathology.memory import then_gives_back_memory
from pathology.scoring.bookkeeping.unfinished import UnfinishedSlide
from pathology.scoring.guard import guarded
from pathology.scoring.jobs import SlideJob, grid_settings
from pathology.scoring.worker import bundle_of
from pathology.tiling.order import compact_order
from pathology.tiling.tile_work import tiles_under

if TYPE_CHECKING:
    from pathology.findings.slide_result import SlideResult

__all__ = ["finish_slide", "prepare_slide", "score_chunk"]


@guarded
@then_gives_back_memory
def prepare_slide(job: SlideJob) -> Prepared:
    """Open the slide, detect its tissue and select its patches, or resume an earlier run."""
    from pathology.outputs.results.layout import OVERVIEW_LONGEST_SIDE
    from pathology.scoring.prepare import prepare, write_quality_picture
    from pathology.scoring.region import region_mask
    from pathology.slide.open import open_reader
    from pathology.slide.thumbnail import thumbnail

    started = time.time()
    job.work.mkdir(parents=True, exist_ok=True)
    unfinished = UnfinishedSlide(job.work)
    card, region = bundle_of(job).card, job.settings.region
    with open_reader(job.file()) as reader:
        key = job.key(reader.fingerprint)
        about = unfinished.about()
        plan = unfinished.saved_plan(about) if about.get("key") == key else None
        if plan is None:
            unfinished.clear()
            slide = prepare(
                reader,
                option_mpp=job.option_mpp,
                manifest_mpp=job.manifest_mpp,
                tissue=job.settings.tissue,
                quality=job.settings.quality,
                grid=lambda _: grid_settings(job.settings, card),
                stain=card.stain,
                max_unreadable=job.settings.max_unreadable,
                region=partial(region_mask, region, job.slide_id, reader.fingerprint) if region is not None else None,
            )
            plan, mpp = slide.plan, slide.scale.mpp
            write_quality_picture(job.out / "quality.png", slide, job.slide_id)
            # The image that everything is drawn on: for a small slide, finer than that of the mask.
            shrink = max(1.0, max(reader.dimensions) / OVERVIEW_LONGEST_SIDE)
            unfinished.save_plan(
                plan,
                overview=thumbnail(reader, mpp, mpp * shrink).pixels,
                tissue=slide.tissue.mask,
                artefacts=slide.quality.masks if slide.quality else {},
            )
            about = {
                "key": key,
                "fingerprint": reader.fingerprint,
                "signature": job.signature(),
                "reader": reader.backend,
                "dimensions": list(reader.dimensions),
                "mpp": mpp,
                "mpp_source": slide.scale.source,
                "warnings": list(slide.warnings),
                "tissue_mm2": slide.tissue_mm2,
                "unreadable_mm2": slide.tissue.unreadable_tissue_mm2,
                "unreadable_tiles": len(reader.unreadable_tiles),
                "grid": plan.grid.settings.model_dump(mode="json"),
                "stain": slide.stain.record() if slide.stain is not None else None,
                "seconds": 0.0,
            }
        about["seconds"] = float(about["seconds"]) + time.time() - started
        unfinished.note(about)
        patches = np.diff(plan.offsets).tolist()
        todo = compact_order(plan, (k for k, n in enumerate(patches) if not unfinished.has_block(k, n)))
        return Prepared(todo, sum(patches[k] for k in todo), tiles_under(reader, plan, todo))


@guarded
def score_chunk(job: SlideJob, ks: tuple[int, ...], report: Callable[[int], None]) -> ChunkDone:
    """Predict some blocks; see :func:`pathology.scoring.predict.predict_chunk`."""
    from pathology.scoring.predict import predict_chunk

    return ChunkDone(*predict_chunk(job, ks, report))


@guarded
def finish_slide(job: SlideJob, seconds: float) -> SlideResult:
    """Compute and write the slide's result, and remove its intermediate files.

    Parameters
    ----------
    job
        The slide, all blocks predicted.
    seconds
        Wall time from the slide's first step to now.
    """
    from pathology.outputs.slide_folder import write_slide
    from pathology.scoring.aggregate import aggregate_outputs
    from pathology.scoring.decide import SlideFacts, decide_classified, decide_detected
    from pathology.scoring.detections import slide_detections, split_outputs
    from pathology.scoring.predict import check_unchanged
    from pathology.scoring.reader_pool import pooled_reader

    unfinished = UnfinishedSlide(job.work)
    about = unfinished.about()
    plan, overview, masks = unfinished.maps(about)
    outputs = unfinished.outputs(len(plan.blocks))
    bundle = bundle_of(job)
    record = {
        "slide_id": job.slide_id,
        "patient_id": job.patient_id,
        "path": job.shown,
        "model": job.model,
        "model_sha256": job.weights_sha256,
        "tissue_mm2": about["tissue_mm2"],
        "seconds": seconds,
        "reader": about["reader"],
        "mpp": about["mpp"],
        "mpp_source": about["mpp_source"],
        "width": about["dimensions"][0],
        "height": about["dimensions"][1],
        "fingerprint": about["fingerprint"],
        "engine": outputs.engine,
        "key": about["key"],
        "attempts": job.attempt,
        "warnings": tuple(about["warnings"]),
        "unreadable_tiles": max(outputs.unreadable_tiles, about["unreadable_tiles"]),
        "settings": job.settings.model_dump(mode="json"),
        "extra": {"signature": about["signature"], **({"stain": about["stain"]} if about["stain"] else {})},
    }
    facts = SlideFacts(record, plan, overview, masks, about["unreadable_mm2"], job.settings.max_unreadable)
    check_unchanged(job, about)
    with pooled_reader(job.file()) as pooled:
        if bundle.card.task == "detection":
            boxes = split_outputs(bundle.card, outputs.values)
            detections = slide_detections(
                bundle.card,
                plan,
                boxes.boxes,
                slide_id=job.slide_id,
                fingerprint=about["fingerprint"],
                region=masks["tissue"] if job.settings.region is not None else None,
            )
            scored = decide_detected(bundle.card, facts, boxes, detections, pooled.reader)
        else:
            found = aggregate_outputs(bundle, outputs.values, job.settings.aggregator)
            scored = decide_classified(bundle.card, facts, found, pooled.reader)
    check_unchanged(job, about)
    write_slide(job.out, scored)
    unfinished.remove()
    return scored.result
