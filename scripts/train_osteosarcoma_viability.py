"""Train and measure the bundle ``models/osteosarcoma-viability``.

    python scripts/train_osteosarcoma_viability.py --data DIR --out models/osteosarcoma-viability [--device auto]

DIR contains the folders ``Non-Tumor``, ``Non-Viable-Tumor`` and ``Viable`` with H&E tiles of 1024 x 1024 px, about
1 µm/px, from the TCIA collection Osteosarcoma-Tumor-Assessment (Leavey et al. 2019, CC BY 3.0).  Tile names begin with
case and block.

The recipe, ``RECIPE`` below, was fixed before any held-out tile was inspected: nothing in it was chosen by a result.
It is evaluated in two designs:

* leave one case out: train on all other cases.  In these data, viable tumour comes from one case and non-viable tumour
  from another, so two of the three folds hold out a class that is absent from training;
* hold out slides within cases: whole slides are held out, but from patients who are also in training.  Optimistic.

Each finished fit is saved in the work folder; the same command resumes.  The run takes minutes on one GPU and most of a
day on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

# cuBLAS is deterministic only with this, read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import numpy as np
import numpy.typing as npt
import torch

from pathology.bundle.card import Card, Metric, Normalisation, TrainingData, write_card
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import check_weights, file_sha256, load_weights, read_state_dict, write_state_dict
from pathology.errors import PathologyError
from pathology.networks.registry import build_network
from pathology.stats.bootstrap import bootstrap
from pathology.stats.intervals import Interval, wilson
from pathology.stats.splits import Fold, audit_leakage, content_digest, grouped_k_fold, leave_one_group_out
from pathology.training.tile_classifier.fit import TileFitSettings, fit_network, tile_probabilities
from pathology.training.tile_classifier.labelled_tiles import LabelledTiles
from pathology.training.tile_classifier.osteosarcoma import OSTEOSARCOMA_CLASSES as CLASSES
from pathology.training.tile_classifier.osteosarcoma import read_osteosarcoma

ARCHITECTURE: Final = "densenet121"
NON_TUMOUR, NON_VIABLE, VIABLE = range(3)
RECIPE: Final = TileFitSettings()
SEED: Final = 0
SLIDE_FOLDS: Final = 4
AGREEMENT: Final = 0.003
"""Largest mean difference of tile probabilities between trained and stored (fp16) weights."""


@dataclass(frozen=True)
class Fit:
    """One training run: its training and evaluation tiles."""

    design: Literal["case", "slide", "all"]
    name: str
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]

    @property
    def key(self) -> str:
        """Name of its file in the work folder."""
        return f"{self.design}-{self.name}-seed{SEED}"


def plan(tiles: LabelledTiles) -> list[Fit]:
    """List all fits, audited for leakage."""
    digests = tiles.digests()
    fits: list[Fit] = []

    def add(design: Literal["case", "slide"], folds: tuple[Fold, ...], owners: tuple[str, ...]) -> None:
        for fold in folds:
            audit_leakage({"train": fold.train, "test": fold.test}, patients=owners, contents=digests)
            name = fold.name if design == "case" else f"fold{fold.index}"
            fits.append(Fit(design, name, fold.train, fold.test))

    everything = np.arange(len(tiles))
    fits.append(Fit("all", "tiles", everything, everything))
    add("case", leave_one_group_out(tiles.patients), tiles.patients)
    add("slide", grouped_k_fold(tiles.slides, tiles.labels, k=SLIDE_FOLDS, seed=SEED), tiles.slides)
    return fits


def data_digest(tiles: LabelledTiles) -> str:
    """Return a hash that changes with any pixel, label or owner."""
    content = json.dumps([tiles.digests(), tiles.labels.tolist(), tiles.patients, tiles.slides])
    return content_digest(content.encode())


def run_fit(
    fit: Fit, tiles: LabelledTiles, recipe: TileFitSettings, work: Path, device: torch.device
) -> dict[str, Any]:
    """Train once, or load the result of an earlier run of the same fit."""
    record_path, weights_path = work / f"{fit.key}.json", work / "weights.safetensors"
    if record_path.is_file():
        record: dict[str, Any] = json.loads(record_path.read_text(encoding="utf-8"))
        same_data = record["data"] == data_digest(tiles)
        if same_data and record["recipe"] == recipe.digest() and record["tiles"] == [tiles.names[i] for i in fit.test]:
            if fit.design == "all":
                check_weights(weights_path, record["weights_sha256"])
            return record
    torch.manual_seed(SEED)
    fitted = fit_network(
        build_network(ARCHITECTURE, len(CLASSES)),
        tiles,
        fit.train,
        recipe,
        device=device,
        seed=SEED,
        progress=lambda step, loss: print(f"{fit.key}: step {step} of {recipe.steps}, loss {loss:.3f}", flush=True),
    )
    probabilities = tile_probabilities(fitted.network, tiles, fit.test, recipe, device=device)
    record = {
        "design": fit.design,
        "held_out": fit.name,
        "seed": SEED,
        "recipe": recipe.digest(),
        "data": data_digest(tiles),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "seconds": round(fitted.seconds, 1),
        "patches_per_second": round(recipe.steps * recipe.batch / fitted.seconds, 1),
        "final_loss": round(float(np.mean(fitted.losses[-20:])), 4),
        "tiles": [tiles.names[i] for i in fit.test],
        "probabilities": np.round(probabilities, 5).tolist(),
    }
    if fit.design == "all":
        record["weights_sha256"] = write_state_dict(fitted.network.state_dict(), weights_path)
    record_path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"{fit.key}: {record['seconds']} s, {record['patches_per_second']} patches/s", flush=True)
    return record


def stored_agreement(record: dict[str, Any], tiles: LabelledTiles, recipe: TileFitSettings, work: Path) -> float:
    """Classify the tiles with the stored fp16 weights; return the mean difference from the trained network's."""
    network = build_network(ARCHITECTURE, len(CLASSES))
    load_weights(network, read_state_dict(work / "weights.safetensors"))
    stored = tile_probabilities(network, tiles, np.arange(len(tiles)), recipe, device=torch.device("cpu"))
    trained = np.asarray(record["probabilities"])
    difference = float(np.abs(stored - trained).mean())
    if difference > AGREEMENT or (stored.argmax(1) != trained.argmax(1)).any():
        raise PathologyError(f"the fp16 weights change the predictions: mean difference {difference:.4f}", where=work)
    return difference


def gather(design: str, records: dict[str, dict[str, Any]], tiles: LabelledTiles) -> npt.NDArray[np.float64]:
    """Collect the held-out predictions of one design in tile order, ``(N, C)``."""
    result = np.full((len(tiles), len(CLASSES)), np.nan)
    place = {name: row for row, name in enumerate(tiles.names)}
    for record in records.values():
        if record["design"] == design:
            result[[place[name] for name in record["tiles"]]] = record["probabilities"]
    assert np.isfinite(result).all()
    return result


class Measure:
    """Metrics of one design, computed identically for network and baseline."""

    def __init__(self, tiles: LabelledTiles) -> None:
        self.labels = tiles.labels
        self.cases = np.asarray(tiles.patients)
        self.slides = np.asarray(tiles.slides)
        self.rows = np.arange(len(tiles))

    def recall(self, p: npt.NDArray[np.float64], label: int, case: str | None = None) -> Interval:
        """Fraction of a class's tiles that are predicted as such."""
        chosen = (self.labels == label) & ((self.cases == case) if case else True)
        return wilson(int((p.argmax(1) == label)[chosen].sum()), int(chosen.sum()))

    def accuracy(self, p: npt.NDArray[np.float64]) -> Interval:
        """Fraction of all tiles classified correctly."""
        return wilson(int((p.argmax(1) == self.labels).sum()), len(self.rows))

    def balanced_accuracy(self, p: npt.NDArray[np.float64], *, by: Literal["tile", "slide"]) -> Interval:
        """Mean recall over classes; tiles or slides are resampled within their case."""
        right = p.argmax(1) == self.labels

        def figure(rows: npt.NDArray[np.int64]) -> float:
            present = np.unique(self.labels[rows])
            if len(present) < len(CLASSES):
                return float("nan")
            return float(np.mean([right[rows][self.labels[rows] == label].mean() for label in present]))

        return bootstrap(figure, self.rows if by == "tile" else self.slides, strata=self.cases, unit=by)

    def tumour_auc(self, p: npt.NDArray[np.float64], case: str) -> Interval:
        """Area under the ROC curve for tumour of either kind, scored by 1 - p(non-tumour), within one case, by tile."""
        from sklearn.metrics import roc_auc_score

        chosen = np.flatnonzero(self.cases == case)
        truth = self.labels[chosen] != NON_TUMOUR
        score = -p[chosen, NON_TUMOUR]
        return bootstrap(lambda rows: float(roc_auc_score(truth[rows], score[rows])), chosen, strata=truth, unit="tile")

    def brier(self, p: npt.NDArray[np.float64]) -> Interval:
        """Sum of squared differences between probabilities and truth, mean over tiles; 0 is best, 2 worst."""
        squared = ((p - np.eye(len(CLASSES))[self.labels]) ** 2).sum(axis=1)
        return bootstrap(lambda rows: float(squared[rows].mean()), self.slides, strata=self.cases, unit="slide")


def metrics(
    tiles: LabelledTiles, records: dict[str, dict[str, Any]], baseline: dict[str, npt.NDArray[np.float64]]
) -> list[Metric]:
    """Compute all metrics of the card."""
    measure = Measure(tiles)
    cases = sorted(set(tiles.patients))
    network, within = gather("case", records, tiles), gather("slide", records, tiles)
    case_data = "45 osteosarcoma tiles, leave one case out (3 cases)"
    slide_data = f"45 osteosarcoma tiles, slides held out within the 3 cases ({SLIDE_FOLDS} folds)"
    confounded = (
        "3 cases. Viable tumour comes from Case-48 only and non-viable tumour from Case-3 only, so the fold that holds"
        " out either case has never seen that class and cannot predict it."
    )
    optimistic = "Optimistic: the same patients are in training. Says nothing about a new patient."
    result: list[Metric] = []

    def add(metric: str, interval: Interval, unit: str, data: str, note: str = "") -> None:
        assert np.isfinite([interval.low, interval.high]).all()
        if interval.low == interval.high:
            zero_width = "The interval has zero width because all resamples agree; that does not imply certainty."
            note = f"{note} {zero_width}".strip()
        result.append(
            Metric(
                metric=metric,
                value=round(interval.value, 3),
                interval=(round(interval.low, 3), round(interval.high, 3)),
                method=interval.method,
                n=interval.n,
                unit=unit,
                data=data,
                note=note,
            )
        )

    result.append(
        Metric(
            metric="accuracy over the three classes in a new patient",
            value=None,
            interval=None,
            method="none",
            n=len(cases),
            unit="cases",
            data=case_data,
            note="Not estimable: no case contains all three classes, and no tumour class occurs in two cases. Three"
            " cases are also too few for an interval over patients; the intervals below are over tiles.",
        )
    )
    for who, p in (("network", network), ("colour baseline", baseline["case"])):
        for case in [None, *cases]:
            add(
                f"recall of non-tumour, {f'{case} held out' if case else 'all cases'} ({who})",
                measure.recall(p, NON_TUMOUR, case),
                "tiles",
                case_data,
                "The only class that every fold has seen in training.",
            )
        for case, seen in (("Case-3", "viable"), ("Case-48", "non-viable")):
            add(
                f"area under the ROC curve, tumour of either kind against non-tumour, {case} held out ({who})",
                measure.tumour_auc(p, case),
                "tiles",
                case_data,
                "Within one patient, so distinguishing patients by stain does not help. The tumour seen in"
                f" training by this fold is {seen}; the tumour here is not.",
            )
        for label, case in ((NON_VIABLE, "Case-3"), (VIABLE, "Case-48")):
            add(
                f"recall of {CLASSES[label]}, {case} held out ({who})",
                measure.recall(p, label),
                "tiles",
                case_data,
                "The class is absent from this fold's training: the design allows only 0.",
            )
        add(f"accuracy over the three classes ({who})", measure.accuracy(p), "tiles", case_data, confounded)
        add(
            f"balanced accuracy over the three classes ({who})",
            measure.balanced_accuracy(p, by="tile"),
            "tiles",
            case_data,
            confounded,
        )
    for who, p in (("network", within), ("colour baseline", baseline["slide"])):
        add(
            f"accuracy over the three classes, within patients ({who})",
            measure.accuracy(p),
            "tiles",
            slide_data,
            optimistic,
        )
        add(
            f"balanced accuracy over the three classes, within patients ({who})",
            measure.balanced_accuracy(p, by="slide"),
            "slides",
            slide_data,
            optimistic,
        )
        for label in (NON_TUMOUR, NON_VIABLE, VIABLE):
            add(
                f"recall of {CLASSES[label]}, within patients ({who})",
                measure.recall(p, label),
                "tiles",
                slide_data,
                optimistic,
            )
        for case, kind in (("Case-3", "non-viable"), ("Case-48", "viable")):
            add(
                f"area under the ROC curve, {kind} tumour against non-tumour within {case} ({who})",
                measure.tumour_auc(p, case),
                "tiles",
                slide_data,
                f"{optimistic} Within one patient, so distinguishing patients by stain does not help.",
            )
        add(f"Brier score, within patients ({who})", measure.brier(p), "slides", slide_data, f"{optimistic} 0 is best.")
    return result


def build_card(
    tiles: LabelledTiles, recipe: TileFitSettings, record: dict[str, Any], measured: list[Metric], difference: float
) -> Card:
    """Build the card with all fields of the schema."""
    network = build_network(ARCHITECTURE, len(CLASSES))
    slides = len(set(tiles.slides))
    counts = ", ".join(
        f"{case}: "
        + ", ".join(
            f"{n} {name}"
            for label, name in enumerate(CLASSES)
            if (n := int(((tiles.labels == label) & (np.asarray(tiles.patients) == case)).sum()))
        )
        for case in sorted(set(tiles.patients))
    )
    return Card(
        name="osteosarcoma-viability",
        version="1.0.0",
        title="Osteosarcoma: non-tumour, non-viable tumour, viable tumour (three cases; research use only)",
        architecture=ARCHITECTURE,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        classes=CLASSES,
        mpp=1.0,
        patch=recipe.patch,
        normalisation=Normalisation(mean=recipe.mean, std=recipe.std),
        weights_sha256=record["weights_sha256"],
        initialisation="Random (seed 0). No pre-training and no weights from elsewhere.",
        training_data=(
            TrainingData(
                name="Osteosarcoma-Tumor-Assessment (UT Southwestern / UT Dallas), 45 tiles of it",
                source="Leavey P, Sengupta A, Rakheja D, Daescu O, Arunachalam HB, Mishra R. Osteosarcoma data from UT"
                " Southwestern/UT Dallas for Viable and Necrotic Tumor Assessment. The Cancer Imaging Archive, 2019."
                " doi:10.7937/tcia.2019.bvhjhdas",
                licence="CC BY 3.0",
                patients=len(set(tiles.patients)),
                images=len(tiles),
                used_for=f"training; 1024 x 1024 px H&E tiles, about 1 µm/px, of {slides} slides ({counts})",
            ),
        ),
        split=f"Evaluated by leaving each case out in turn, and by holding out whole slides within cases"
        f" ({SLIDE_FOLDS} folds); audited for shared rows, owners and pixels. The weights shipped were trained on all"
        " 45 tiles by the same recipe, so no tile remains to evaluate them on. The recipe was fixed in advance; no"
        " held-out tile influenced model selection or stopping.",
        metrics=tuple(measured),
        intended_use="Evaluating and testing this software; teaching. Research use only: not for diagnosis or"
        " treatment.",
        limits=(
            "Case and class are confounded: viable tumour was seen in one patient only (Case-48), non-viable tumour in"
            " one other only (Case-3). The model may in part have learnt these two patients' stain and preparation.",
            "Three patients: nothing is known about a fourth. One seed: how much the results depend on it is unknown.",
            "Osteosarcoma only. Other tumours, soft tissue sarcomas among them, and other organs were never seen; they"
            " get one of the three labels all the same.",
            "Labels are per tile: a tile labelled viable tumour also contains bone and stroma, and all its patches"
            " were trained as viable tumour. Labels are coarser than patches.",
            "The scale of the tiles is known only as about 1 µm/px (10x).",
            "Not calibrated: probabilities are softmax outputs. No data were left to fit a temperature.",
            "It always gives a prediction; there is no threshold below which it abstains.",
        ),
        licence="CC BY 3.0, as the data the weights were trained on; name Leavey et al. 2019 (training data, above).",
        reference="Network: Huang et al. 2017, CVPR. Task and data: Arunachalam et al. 2019, PLoS ONE 14:e0210706;"
        " this is a different network, trained on a small part of their tiles, not a reproduction.",
        made_by="python scripts/train_osteosarcoma_viability.py --data DIR --out models/osteosarcoma-viability"
        f" (recipe {recipe.digest()}: {recipe.steps} steps of {recipe.batch} patches, {record['device']},"
        f" torch {record['torch']}; stored in fp16, mean difference of tile probabilities {difference:.5f})",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, evaluate, and write the bundle."""
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.allow_tf32 = False
    recipe = RECIPE
    if arguments.quick:
        # Six steps with small patches: a smoke test; the result is meaningless.
        recipe = RECIPE.model_copy(update={"steps": 6, "batch": 4, "patch": 64, "stride": 480})
    arguments.work.mkdir(parents=True, exist_ok=True)
    tiles = read_osteosarcoma(arguments.data)
    print(
        f"{len(tiles)} tiles, {len(set(tiles.slides))} slides, {len(set(tiles.patients))} cases; {device}", flush=True
    )
    fits = plan(tiles)
    records = {fit.key: run_fit(fit, tiles, recipe, arguments.work, device) for fit in fits}
    if arguments.fits_only:
        return

    from pathology.training.tile_classifier.colour_baseline import colour_features, colour_probabilities

    features = np.stack([colour_features(tile) for tile in tiles.pixels])
    baseline = {design: np.zeros((len(tiles), len(CLASSES))) for design in ("case", "slide")}
    for fit in fits:
        if fit.design != "all":
            baseline[fit.design][fit.test] = colour_probabilities(features, tiles, fit.train, fit.test)
    final = records[fits[0].key]
    difference = stored_agreement(final, tiles, recipe, arguments.work)
    card = build_card(tiles, recipe, final, metrics(tiles, records, baseline), difference)

    arguments.out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(arguments.work / "weights.safetensors", arguments.out / "weights.safetensors")
    assert file_sha256(arguments.out / "weights.safetensors") == card.weights_sha256
    evaluation = {
        "classes": CLASSES,
        "recipe": recipe.model_dump(mode="json"),
        "tiles": {
            name: {"class": CLASSES[label], "case": case, "slide": slide}
            for name, label, case, slide in zip(tiles.names, tiles.labels, tiles.patients, tiles.slides, strict=True)
        },
        "fits": [
            {k: v for k, v in record.items() if k not in {"weights_sha256", "recipe", "data"}}
            for record in records.values()
        ],
        "colour_baseline": {
            design: {name: p.tolist() for name, p in zip(tiles.names, rows, strict=True)}
            for design, rows in baseline.items()
        },
    }
    (arguments.out / "evaluation.json").write_text(json.dumps(evaluation, indent=1) + "\n", encoding="utf-8")
    write_card(card, arguments.out / "card.yaml")
    for check in verify_bundle(arguments.out):
        if check.error is not None:
            raise check.error
    for figure in card.metrics:
        value = "not estimable" if figure.value is None else f"{figure.value:.3f} {figure.interval}"
        print(f"{figure.metric}: {value}, n = {figure.n} {figure.unit}")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with Non-Tumor, Non-Viable-Tumor and Viable")
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument(
        "--work", type=Path, default=Path("build/osteosarcoma-viability"), help="folder of finished fits"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--fits-only", action="store_true", help="train only; compute metrics and card in a later run")
    parser.add_argument("--quick", action="store_true", help="smoke test of a few seconds")
    try:
        run(parser.parse_args())
    except PathologyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
