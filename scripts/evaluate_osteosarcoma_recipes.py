"""Train published classifier recipes on real osteosarcoma tiles, leaving one case out, with a colour baseline.

    python scripts/evaluate_osteosarcoma_recipes.py --data DIR --work DIR --out FILE.json [--epochs 4] [--patches 6]
                                                    [--record pathology/systems/measured]

DIR contains the folders ``Non-Tumor``, ``Non-Viable-Tumor`` and ``Viable`` with H&E tiles of 1024 x 1024 px, about
1 µm/px, from the TCIA collection Osteosarcoma-Tumor-Assessment (Leavey et al. 2019, CC BY 3.0).

This shows that each recipe's preparation, network, schedule and losses work on real tissue, not how good they are.
There are three cases, two classes occur in one case each, and the budget is small: patches of 256 px (Foersch; 1024 in
the publication) or 299 px, few per tile, few epochs, random initial weights.
With two training cases, none is left to choose the epoch on: the trainer's validation rows are the training rows
themselves, and no held-out row is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pathology.errors import PathologyError
from pathology.evaluation.history import EpochRecord
from pathology.evaluation.labels import LabelledSlide, LabelledSlides
from pathology.networks.registry import build_network
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval, wilson
from pathology.stats.splits import Fold, audit_leakage, leave_one_group_out
from pathology.systems.own_metrics import OwnMetric, record_own_metrics
from pathology.systems.slide_classifier import find_classifier
from pathology.training.classifier.fit import fit_slides
from pathology.training.classifier.patches import prepare_patches
from pathology.training.classifier.predict import predict_slides
from pathology.training.classifier.recipe import SlideRecipe, Stage
from pathology.training.common.checkpoint import Checkpoint
from pathology.training.common.distributed import distributed_training
from pathology.training.tile_classifier.colour_baseline import colour_features, colour_probabilities
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles
from pathology.training.tile_classifier.osteosarcoma import OSTEOSARCOMA_FOLDERS, OSTEOSARCOMA_MPP, read_osteosarcoma

SYSTEMS: Final = ("foersch-2021", "zhang-2022", "frankel-2022")
NON_TUMOUR: Final = 0


def small(recipe: SlideRecipe, epochs: int, patches: int) -> SlideRecipe:
    """Return a recipe with a small budget; everything else is as published."""
    foersch = recipe.architecture == "densenet121-foersch"
    # A frozen body with random weights is useless: one epoch exercises the stage, the others train.
    stages = (
        (Stage(epochs=1, frozen=True, learning_rate=1e-3), Stage(epochs=epochs, learning_rate=1e-3, lowest_rate=3e-4))
        if len(recipe.stages) == 2
        else (Stage(epochs=epochs + 1, learning_rate=1e-2),)
    )
    return recipe.model_copy(
        update={
            "mpp": OSTEOSARCOMA_MPP,
            "patch": 256 if foersch else 299,
            "batch": 16,
            "min_tissue": 0.25,
            "patches_per_slide": patches,
            "stages": stages,
            "patience": None,
            "choose": "patch loss",
        }
    )


class Lines:
    """Prints one line per epoch."""

    def __init__(self, name: str) -> None:
        self._name = name

    def say(self, line: str) -> None:
        """Print what starts."""
        print(f"{self._name}: {line}", flush=True)

    def step(self, stage: int, epoch: int, step: int, steps: int, loss: float) -> None:
        """Print nothing: epochs are short."""

    def epoch(self, record: EpochRecord) -> None:
        """Print the epoch's result."""
        print(
            f"{self._name}: stage {record.stage}, epoch {record.epoch}, loss {record.loss:.3f}, "
            f"{record.patches_per_second:.1f} patches/s, {record.waiting:.0%} waiting",
            flush=True,
        )


def folds_of(tiles: LabelledTiles) -> tuple[Fold, ...]:
    """Leave each case out once; audited for cases and pixels in both parts."""
    folds = leave_one_group_out(tiles.patients)
    for fold in folds:
        audit_leakage({"train": fold.train, "test": fold.test}, patients=tiles.patients, contents=tiles.digests())
    return tuple(folds)


def as_slides(tiles: LabelledTiles, folder: Path) -> LabelledSlides:
    """Return the tiles as slides of one class each, for the tiling engine."""
    return LabelledSlides(
        tiles.classes,
        tuple(
            LabelledSlide(
                Path(name).stem, folder / OSTEOSARCOMA_FOLDERS[label] / name, patient, int(label), mpp=OSTEOSARCOMA_MPP
            )
            for name, label, patient in zip(tiles.names, tiles.labels, tiles.patients, strict=True)
        ),
    )


def tile_auc(truth: npt.NDArray[np.bool_], score: npt.NDArray[np.float64]) -> Interval:
    """Area under the ROC curve with an interval over tiles of one case."""
    from sklearn.metrics import roc_auc_score

    return bootstrap(
        lambda rows: float(roc_auc_score(truth[rows], score[rows])), np.arange(len(truth)), strata=truth, unit="tile"
    )


def metrics(tiles: LabelledTiles, p: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Recall of the only class all folds have seen, accuracy, and tumour against the rest within each case."""
    called, cases = p.argmax(axis=1), np.array(tiles.patients)
    normal = tiles.labels == NON_TUMOUR
    result: dict[str, Any] = {
        "recall of non-tumour": wilson(int((called == tiles.labels)[normal].sum()), int(normal.sum())),
        "accuracy over the three classes": wilson(int((called == tiles.labels).sum()), len(tiles)),
    }
    for case in sorted(set(cases)):
        rows = np.flatnonzero(cases == case)
        tumour = ~normal[rows]
        if tumour.any() and not tumour.all():
            score = -p[rows, NON_TUMOUR]
            result[f"area under the ROC curve, tumour against non-tumour, {case} held out"] = tile_auc(tumour, score)
    return {name: interval.model_dump(mode="json") for name, interval in result.items()}


def record_recalls(record: Mapping[str, Any], systems: Sequence[str], epochs: int, folder: Path) -> list[Path]:
    """Write the recall of the only class that all folds have seen to the systems' files; return them."""
    name = "recall of non-tumour"
    baseline = record["colour baseline"][name]["value"]
    written = []
    for system in systems:
        found = record[system][name]
        own = OwnMetric(
            metric=f"{name} tiles (colour-only baseline: {baseline:.3f})",
            value=round(found["value"], 3),
            interval=(round(found["low"], 3), round(found["high"], 3)),
            n=found["n"],
            unit="tiles",
            data=f"{record['data']}, {epochs + 1} epochs from random weights",
        )
        written.append(record_own_metrics(system, "scripts/evaluate_osteosarcoma_recipes.py", [own], folder))
    return written


def main() -> int:
    """Run everything that earlier runs have not finished, and write the metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--patches", type=int, default=6)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="also update the systems' files here: pathology/systems/measured",
    )
    given = parser.parse_args()
    tiles = read_osteosarcoma(given.data)
    labelled, folds = as_slides(tiles, given.data), folds_of(tiles)
    colours = np.stack([colour_features(tile) for tile in tiles.pixels])
    baseline = np.full((len(tiles), len(tiles.classes)), np.nan)
    for fold in folds:
        baseline[fold.test] = colour_probabilities(colours, tiles, fold.train, fold.test)
    record: dict[str, Any] = {
        "data": f"{len(tiles)} osteosarcoma tiles, {len(folds)} cases, leave one case out",
        "torch": torch.__version__,
        "colour baseline": metrics(tiles, baseline),
    }
    for system in given.systems:
        recipe = small(find_classifier(system).recipe, given.epochs, given.patches)
        patches = prepare_patches(labelled, recipe, given.work / system / "patches", workers=1)
        p = np.full((len(tiles), len(tiles.classes)), np.nan)
        histories = []
        with distributed_training("cpu") as ranks:
            for fold in folds:
                torch.manual_seed(0)
                network = build_network(recipe.architecture, len(tiles.classes))
                identity = f"{recipe.digest()} {fold.name}"
                fitted = fit_slides(
                    network,
                    patches,
                    fold.train,
                    fold.train,
                    recipe,
                    ranks=ranks,
                    checkpoint=Checkpoint(given.work / system / fold.name, identity),
                    progress=Lines(f"{system}, {fold.name} held out"),
                )
                histories.append(fitted.history)
                found = predict_slides(fitted.network, patches, fold.test, recipe, device=ranks.device)
                p[fold.test] = [slide.probabilities().mean(axis=0) for slide in found]
        record[system] = {
            **metrics(tiles, p),
            "first training losses": [history[0].loss for history in histories],
            "last training losses": [history[-1].loss for history in histories],
            "recipe": recipe.model_dump(mode="json"),
        }
        given.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    given.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    if given.record is not None:
        record_recalls(record, given.systems, given.epochs, given.record)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PathologyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
