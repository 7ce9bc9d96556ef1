"""``pathology score`` with a head: features of the slides, found or computed, and the head in one pass."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathology.cli.display import shown_progress

if TYPE_CHECKING:
    from pathology.bundle.head_card import HeadCard
    from pathology.scoring.heads import HeadScore
    from pathology.settings import ScoreConfig

__all__ = ["is_head", "run_head"]

_UNDERSTOOD = frozenset({"slides", "model", "engine", "device", "workers"})
_FEATURES = (".zarr", ".h5", ".hdf5", ".pt")


def is_head(model: str) -> bool:
    """Return whether a model is the bundle of a slide-level head."""
    from pathology.bundle.catalogue import find_bundle_folder
    from pathology.bundle.head_card import is_head_bundle
    from pathology.errors import PathologyError

    try:
        return is_head_bundle(find_bundle_folder(model))
    except PathologyError:
        return False  # scoring says what is wrong with it


def run_head(requested: ScoreConfig, out: Path, given: Mapping[str, Any]) -> int:
    """Score slides, or folders of feature files, and return the exit status: 0 all scored, 1 some failed."""
    from pathology.atomic_files import write_text
    from pathology.bundle.catalogue import find_bundle_folder
    from pathology.errors import UsageError
    from pathology.features.folder import find_features
    from pathology.scoring.features import encode_slides
    from pathology.scoring.heads import HeadScore, HeadScorer

    unknown = sorted(set(given) - _UNDERSTOOD)
    if unknown:
        raise UsageError(f"--{unknown[0].replace('_', '-')} has no meaning for a head", remedy="Leave it out")
    scorer = HeadScorer(find_bundle_folder(requested.model))
    found = [Path(source) for source in requested.slides if _holds_features(Path(source))]
    slides = [source for source in requested.slides if Path(source) not in found]
    scores = [scorer.score(features) for folder in found for features in find_features(folder)]
    origin = {score.slide_id: "found" for score in scores}
    if slides:
        if not scorer.card.encoder.name:
            raise UsageError("the head's card does not name its encoder", remedy="Give a folder of features")
        with shown_progress() as display:
            encoded = encode_slides(
                slides,
                [scorer.card.encoder.name],
                out / "features",
                engine=requested.engine,
                device=requested.device,
                workers=requested.workers,
                progress=display,
            )
        for slide in encoded:
            if slide.error:
                scores.append(HeadScore(slide.slide_id, error=slide.error))
            else:
                scores += [scorer.score(features) for features in _opened(slide.files)]
            origin[slide.slide_id] = "found" if slide.unchanged else "computed"
    write_text(out / "slides.csv", _table(scorer.card, scores, origin))
    failed = [score for score in scores if score.error]
    print(
        f"{len(scores) - len(failed)} scored, {len(failed)} failed; features of "
        f"{sum(where == 'found' for where in origin.values())} slides were already there."
    )
    for score in failed:
        print(f"  failed: {score.slide_id}: {score.error}")
    print(f"Table: {out / 'slides.csv'}\nResearch use only.")
    return 1 if failed else 0


def _holds_features(source: Path) -> bool:
    return source.is_dir() and any(path.suffix in _FEATURES for path in source.iterdir())


def _opened(files: tuple[Path, ...]) -> list[Any]:
    from pathology.features.folder import open_features

    return [open_features(path) for path in files]


def _table(card: HeadCard, scores: list[HeadScore], origin: Mapping[str, str]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            *("slide_id", "predicted"),
            *(f"probability_{name}" for name in card.classes),
            *("prediction_set", "out_of_distribution", "patches", "features", "encoder", "error", "research_use_only"),
        ]
    )
    for score in sorted(scores, key=lambda score: score.slide_id):
        p = score.probabilities
        table.writerow(
            [
                score.slide_id,
                score.predicted,
                *("" if p is None else f"{p[name]:.4f}" for name in card.classes),
                " ".join(score.prediction_set),
                "" if score.out_of_distribution is None else f"{score.out_of_distribution:.3f}",
                score.patches or "",
                origin.get(score.slide_id, ""),
                card.encoder.name,
                score.error,
                "yes",
            ]
        )
    return text.getvalue()
