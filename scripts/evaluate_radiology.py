"""Evaluate the radiology systems on public soft-tissue sarcoma patients and on synthetic data.

Usage::

    python scripts/evaluate_radiology.py DATA OUT [--only features,nomograms,...] [--device cuda] [--small]
                                             [--minutes M] [--record FOLDER]

DATA contains ``sts/<patient>/<sequence>_image.nii.gz`` and ``sts_clinical.csv`` (collection Soft-tissue-Sarcoma of The
Cancer Imaging Archive, Vallières et al. 2015, CC BY 3.0).  Each part writes its metrics to ``OUT/<part>.json``; parts
whose file exists are skipped.  The longest (segmentation, deep, permuted, constructed) stop after ``--minutes`` and
resume when called again.  ``--small`` shortens network training to minutes on a CPU; such metrics show that the code
works and are a lower bound of its performance.  ``--record pathology/systems/measured`` writes the metrics, including
those of earlier parts, to the files that ``pathology systems`` shows; controls on shuffled outcomes are not recorded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from pathology.bundle.card import Metric
from pathology.radiology.features.signature import Classifier, SignatureSettings, nested_scores
from pathology.radiology.io.cohort import Cohort, read_cohort
from pathology.radiology.models.adversarial_recipe import AcganSettings
from pathology.radiology.models.deep_features import DeepFeatureSettings, deep_feature_table
from pathology.radiology.models.image_recipe import ImageRecipe
from pathology.radiology.models.network_classifier import cross_validated_probabilities
from pathology.radiology.models.nomogram_plots import draw_nomogram_plots
from pathology.radiology.models.recipe import as_metric
from pathology.radiology.models.segmentation_metrics import dice
from pathology.radiology.models.segmentation_recipe import SegmentationRecipe, SegmentedCase
from pathology.radiology.models.signature_recipe import SignatureRecipe, nested_probabilities
from pathology.radiology.models.stratification import predicted_groups
from pathology.radiology.models.training_loop import OptimiserSettings
from pathology.stats.bootstrap import bootstrap
from pathology.stats.classification import score_by_patient
from pathology.stats.splits import grouped_k_fold
from pathology.stats.within_fold import within_fold_area
from pathology.survival.outcome import Outcome
from pathology.survival.plots import draw_kaplan_meier
from pathology.systems.own_metrics import record_by_system
from pathology.systems.radiology import (
    banerjee_2018,
    gao_2021,
    holbrook_2020,
    jardim_perassi_2021,
    liang_2022,
    liu_2021,
    marin_2022,
    navarro_2021,
    peng_2019,
    yang_2022_grade,
    yang_2022_lipoma,
    ye_2021,
)
from pathology.systems.system import system_modules
from pathology.testing.radiology_constructed import constructed_cohort

SEQUENCES = ("MR_T1", "CT", "PET")


def patients(data: Path, work: Path) -> Cohort:
    """Read the cohort with the columns that the systems need."""
    table = pd.read_csv(data / "sts_clinical.csv")
    table["high_grade"] = table["grade"].map({"Low": 0, "Intermediate": 1, "High": 1})
    table["is_high"] = table["grade"].map({"Low": 0, "Intermediate": 0, "High": 1})
    table["relapse"] = table["outcome"].notna().astype(int)
    table["death"] = (table["status"] == "D").astype(int)
    table["follow_up_days"] = table["days_diagnosis_to_followup"]
    table["relapse_days"] = table["days_diagnosis_to_outcome"].fillna(table["days_diagnosis_to_followup"])
    work.mkdir(parents=True, exist_ok=True)
    table.to_csv(work / "clinical.csv", index=False)
    return read_cohort(data / "sts", work / "clinical.csv")


def show_progress(name: str, done: int, total: int) -> None:
    """Print progress at every tenth of a stage."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"    {name}: {done}/{total}", flush=True)


def features(cohort: Cohort, work: Path) -> pd.DataFrame:
    """Measure tumours in T1, CT and PET, and a 5 mm shell in T1; cached in OUT/features.csv."""
    path = work / "features.csv"
    if path.exists():
        return pd.read_csv(path, dtype={"patient_id": str}).set_index("patient_id")
    tumours = SignatureRecipe(sequences=SEQUENCES, label="none", classes=("0", "1"))
    shell = SignatureRecipe(sequences=("MR_T1",), label="none", classes=("0", "1"), shell_mm=5.0, shape_of="none")
    table = tumours.table(cohort, progress=show_progress)
    around = shell.table(cohort, progress=show_progress)
    table = table.join(around[[c for c in around.columns if "-shell:" in str(c)]])
    table.to_csv(path)
    return table


def measured(cohort: Cohort, work: Path) -> dict[str, list[Metric]]:
    """Only measure features, for the parts that use them; returns no metrics."""
    features(cohort, work)
    return {}


def nomograms(cohort: Cohort, work: Path, seed: int) -> dict[str, list[Metric]]:
    """B3, B4 and B10: clinical data, radiomics and both, by nested cross-validation."""
    table = features(cohort, work)
    t1 = [c for c in table.columns if str(c).startswith("MR_T1:")]
    shell = [c for c in table.columns if str(c).startswith("MR_T1-shell:")]
    every = [c for c in table.columns if "-shell:" not in str(c)]
    found: dict[str, list[Metric]] = {}
    metastasis = liang_2022.recipe()
    grade = yang_2022_grade.recipe()
    assert isinstance(metastasis, SignatureRecipe)
    assert isinstance(grade, SignatureRecipe)
    parts = {"T1": t1, "T1 and shell": t1 + shell, "T1, CT and PET": every}
    for name, columns in parts.items():
        for system, recipe in (("liang-2022", metastasis), ("yang-2022-grade", grade)):
            chosen = cohort.having(("MR_T1",), recipe.label)
            metrics = recipe.evaluate_table(table[columns], chosen, seed=seed)
            found[f"{system}, {name}"] = list(metrics)
    found["liang-2022, T1, classifier chosen inside"] = [chosen_inside(metastasis, table[t1], cohort, seed)]
    relapse = liu_2021.recipe()
    chosen = relapse.patients(cohort)  # type: ignore[attr-defined]  # a SurvivalRecipe
    found["liu-2021, T1"] = list(relapse.evaluate_table(table[t1], chosen, seed=seed))  # type: ignore[attr-defined]
    draw_nomogram_plots(metastasis, table[t1], cohort.having(("MR_T1",), metastasis.label), work, seed=seed)
    return found


def remembered(work: Path, part: str, name: str, until: float, make: Callable[[], Sequence[Metric]]) -> list[Metric]:
    """Return the metrics of a step, cached in OUT as soon as they are computed."""
    path = work / part / f"{name.replace(', ', '-').replace(' ', '-')}.json"
    if not path.exists():
        if time.monotonic() > until:
            raise OutOfTimeError
        started = time.monotonic()
        metrics = [f.model_dump(mode="json") for f in make()]
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = round(time.monotonic() - started)
        print(f"  {name}: {seconds} s", flush=True)
        path.write_text(json.dumps({"seconds": seconds, "figures": metrics}))
    return [Metric.model_validate(f) for f in json.loads(path.read_text())["figures"]]


def deep(cohort: Cohort, work: Path, seed: int, device: str, until: float) -> dict[str, list[Metric]]:
    """B4 and B10 with features of untrained networks in addition to radiomics: ImageNet weights are not available."""
    table = features(cohort, work)
    found: dict[str, list[Metric]] = {}
    for backbone, sequences in (("resnet34", ("MR_T1",)), ("resnet34", SEQUENCES), ("densenet161", ("MR_T1",))):
        radiomic = [c for c in table.columns if str(c).split(":")[0] in sequences]
        joined = table[radiomic]
        for sequence in sequences:
            joined = joined.join(deep_features(cohort, work, backbone, sequence, device))
        for system, recipe in (("liang-2022", liang_2022.recipe()), ("yang-2022-grade", yang_2022_grade.recipe())):
            assert isinstance(recipe, SignatureRecipe)
            chosen = cohort.having(("MR_T1",), recipe.label)
            name = f"{system}, {' + '.join(sequences)}, {backbone} with random weights"
            measure = partial(recipe.evaluate_table, joined, chosen, seed=seed, progress=show_progress)
            found[name] = remembered(work, "deep", name, until, measure)
    return found


def deep_features(cohort: Cohort, work: Path, backbone: Any, sequence: str, device: str) -> pd.DataFrame:  # noqa: ANN401
    """Compute deep features; cached in OUT."""
    path = work / f"deep-{backbone}-{sequence}.csv"
    if not path.exists():
        settings = DeepFeatureSettings(sequence=sequence, backbone=backbone, slices=4)
        deep_feature_table(cohort, settings, device=device, progress=show_progress).to_csv(path)
    return pd.read_csv(path, dtype={"patient_id": str}).set_index("patient_id")


def chosen_inside(recipe: SignatureRecipe, table: pd.DataFrame, cohort: Cohort, seed: int) -> Metric:
    """Let inner folds choose among the classifiers that Liang et al. compared."""
    chosen = cohort.having(("MR_T1",), recipe.label)
    labels = recipe.labels(chosen)
    kinds: tuple[Classifier, ...] = ("logistic", "tree", "forest", "svm", "adaboost")
    candidates: dict[str, SignatureSettings] = {}
    for kind in kinds:
        candidates[kind] = recipe.signature.model_copy(update={"classifier": kind})
    scores = nested_scores(
        table.loc[list(chosen.patients)], labels, chosen.patients, candidates, repeats=3, seed=seed, progress=folds
    )
    return as_metric(
        "area under the ROC curve, radiomics",
        within_fold_area(labels, scores.predictions, chosen.patients, seed=seed),
        unit="patients",
        data=f"{len(labels)} patients, nested 5-fold cross-validation by patient",
        note=f"chosen by inner folds: {', '.join(scores.chosen)}",
    )


def folds(done: int, total: int) -> None:
    """Print progress at every fold."""
    show_progress("outer folds", done, total)


PERMUTATIONS, PERMUTATIONS_OF_SIGNATURES = 60, 500
"""Number of permutations; nomograms take six times as long.  Ten are too few: they once gave a mean of 0.39."""


def permuted(cohort: Cohort, work: Path, seed: int, device: str, until: float) -> dict[str, list[Metric]]:
    """B4 and B10 on shuffled outcomes: the means must be 0.5."""
    table = features(cohort, work)
    t1 = table[[c for c in table.columns if str(c).startswith("MR_T1:")]]
    joined = t1.join(deep_features(cohort, work, "resnet34", "MR_T1", device))
    found: dict[str, list[Metric]] = {}
    for system, recipe in (("liang-2022", liang_2022.recipe()), ("yang-2022-grade", yang_2022_grade.recipe())):
        assert isinstance(recipe, SignatureRecipe)
        chosen = cohort.having(("MR_T1",), recipe.label)
        clinical = recipe.clinical(chosen)
        models = {
            "T1": (t1, clinical.iloc[:, :0], PERMUTATIONS_OF_SIGNATURES),
            "T1 and clinical data": (t1, clinical, PERMUTATIONS),
            "T1, resnet34 and clinical data": (joined, clinical, PERMUTATIONS),
        }
        for model, (columns, covariates, repeats) in models.items():
            name = f"{system}, {model}, shuffled"
            measure = partial(on_shuffled, recipe, columns, covariates, chosen, model, seed, repeats)
            found[name] = remembered(work, "permuted", name, until, measure)
    return found


def on_shuffled(
    recipe: SignatureRecipe,
    table: pd.DataFrame,
    clinical: pd.DataFrame,
    chosen: Cohort,
    model: str,
    seed: int,
    repeats: int,
) -> list[Metric]:
    """Average the area under the ROC curve over permutations of the outcome."""
    labels = recipe.labels(chosen)
    areas = []
    for repeat in range(repeats):
        shuffled = np.random.default_rng([seed, repeat]).permutation(labels)
        p = nested_probabilities(
            table.loc[list(chosen.patients)],
            clinical,
            shuffled,
            chosen.patients,
            recipe.signature,
            outcome="shuffled",
            seed=repeat,
        )
        areas.append(within_fold_area(shuffled, p, chosen.patients, resamples=100).value)
        show_progress("permutations", repeat + 1, repeats)
    error = float(np.std(areas, ddof=1) / np.sqrt(len(areas)))
    mean = float(np.mean(areas))
    figure = Metric(
        metric="area under the ROC curve on shuffled outcomes",
        value=mean,
        interval=(mean - 1.96 * error, mean + 1.96 * error),
        method="normal, over permutations",
        n=repeats,
        unit="permutations",
        data=f"{len(labels)} patients, '{recipe.label}' shuffled, {model}, nested 5-fold cross-validation",
    )
    return [figure]


def segmentation_recipes(small: bool) -> dict[str, SegmentationRecipe]:
    """B8 and B11 on T1 and on PET-CT."""
    planar: dict[str, Any] = {}
    block: dict[str, Any] = {}
    if small:
        rate = 3e-3
        planar = {
            "window": (1, 64, 64),
            "spacing_mm": (3.0, 3.0, 3.27),
            "optimiser": OptimiserSettings(steps=600, batch=8, learning_rate=rate),
        }
        block = {
            "window": (16, 48, 48),
            "widths": (8, 16, 32, 64),
            "spacing_mm": (4.0, 4.0, 4.0),
            "optimiser": OptimiserSettings(steps=600, batch=2, learning_rate=rate),
        }
    named = {
        "marin-2022, 2.5D on T1": marin_2022.recipe(("MR_T1",)).model_copy(update=planar),
        "holbrook-2020, 3D on T1": holbrook_2020.recipe(("MR_T1",)).model_copy(update=block),
        "marin-2022, 2.5D on CT and PET": marin_2022.recipe(("CT", "PET")).model_copy(update=planar),
        "holbrook-2020, 3D on CT and PET": holbrook_2020.recipe(("CT", "PET")).model_copy(update=block),
    }
    return {name: recipe for name, recipe in named.items() if isinstance(recipe, SegmentationRecipe)}


def segmentation(
    cohort: Cohort, work: Path, seed: int, device: str, small: bool, until: float
) -> dict[str, list[Metric]]:
    """Segment every patient with networks trained on others; finished folds are cached in OUT."""
    k = 5
    found = {}
    for name, recipe in segmentation_recipes(small).items():
        settings = {"recipe": recipe.model_dump(mode="json"), "seed": seed, "folds": k}
        folder = work / "segmentation" / name.replace(", ", "-").replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        kept: dict[int, list[SegmentedCase]] = {}
        for path in sorted(folder.glob("fold-*.json")):
            record = json.loads(path.read_text())
            if record["settings"] == settings:
                kept[int(path.stem.removeprefix("fold-"))] = [SegmentedCase(**c) for c in record["cases"]]
        started = time.monotonic()
        steps = recipe.by_fold(cohort, folds=k, seed=seed, device=device, skip=kept, progress=show_progress)
        for index, cases in steps:
            kept[index] = list(cases)
            seconds, started = round(time.monotonic() - started), time.monotonic()
            record = {"settings": settings, "seconds": seconds, "cases": [c.model_dump() for c in cases]}
            (folder / f"fold-{index}.json").write_text(json.dumps(record))
            dice = [c.segmentation_agreement.dice for c in cases]
            print(f"  {name}, fold {index + 1}: Dice {np.mean(dice):.3f}, {seconds} s", flush=True)
            if time.monotonic() > until:
                raise OutOfTimeError
        found[name] = list(recipe.metrics([c for i in sorted(kept) for c in kept[i]], folds=k, seed=seed))
    found["no picture, T1"] = [without_picture(cohort, "MR_T1", k, seed)]
    found["no picture, CT"] = [without_picture(cohort, "CT", k, seed)]
    found["PET above 41 % of its greatest value"] = [fixed_threshold(cohort, seed)]
    return found


class OutOfTimeError(Exception):
    """The time limit is reached; finished steps are kept."""


def dice_figure(values: Mapping[str, float], data: str, seed: int) -> Metric:
    """Average Dice coefficients over patients."""
    array = np.asarray(list(values.values()))
    interval = bootstrap(lambda rows: float(array[rows].mean()), list(values), seed=seed)
    return as_metric("Dice coefficient", interval, unit="patients", data=data, note="mean over patients")


def without_picture(cohort: Cohort, sequence: str, k: int, seed: int) -> Metric:
    """Return the score of an image-free baseline: the training patients' tumours, averaged.

    The images are cropped around the tumour, so the frame alone is informative.
    """
    chosen = cohort.having((sequence,))
    masks = {c.patient_id: c.contours(sequence, c.open(sequence))[0].array for c in chosen.cases}
    side = 32
    boxes = {p: scaled_to(m.astype(np.float32), (side,) * 3) for p, m in masks.items()}
    patients = list(chosen.patients)
    scores = {}
    for fold in grouped_k_fold(patients, k=k, seed=seed):
        train = [boxes[patients[i]] for i in fold.train]
        mean = np.mean(train, axis=0)
        levels = np.linspace(0.1, 0.9, 17)
        best = max(levels, key=lambda level: np.mean([dice(t >= 0.5, mean >= level) for t in train]))
        for i in fold.test:
            truth = masks[patients[i]]
            scores[patients[i]] = dice(truth, scaled_to(mean, truth.shape) >= best)
    return dice_figure(scores, f"{len(scores)} patients, {k}-fold by patient, mean training tumour in the frame", seed)


def scaled_to(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate an array onto a shape."""
    factors = [b / a for a, b in zip(array.shape, shape, strict=True)]
    return np.asarray(ndimage.zoom(array, factors, order=1, grid_mode=True, mode="nearest"), np.float32)


def fixed_threshold(cohort: Cohort, seed: int) -> Metric:
    """Voxels above 41 % of the maximum SUV, the fixed threshold of Boellaard et al. 2015 (EANM guideline)."""
    scores = {}
    for case in cohort.having(("PET",)).cases:
        opened = case.open("PET")
        truth = case.contours("PET", opened)[0].array
        scores[case.patient_id] = dice(truth, opened.volume.array >= 0.41 * opened.volume.array.max())
    return dice_figure(scores, f"{len(scores)} patients, nothing trained, on the PET grid", seed)


def images(cohort: Cohort, seed: int, device: str, small: bool) -> dict[str, list[Metric]]:
    """B5 on PET-CT."""
    few = {"optimiser": OptimiserSettings(steps=60, batch=8, learning_rate=1e-3)} if small else {}
    petct = peng_2019.recipe()
    petct = petct.model_copy(update={"classifier": petct.classifier.model_copy(update=few)})  # type: ignore[attr-defined]
    if small:
        petct = petct.model_copy(update={"size": 24})
    return {"peng-2019": list(petct.evaluate(cohort, seed=seed, device=device, progress=show_progress))}


def grading(cohort: Cohort, work: Path, seed: int, device: str, small: bool) -> dict[str, list[Metric]]:
    """B2 on T1, with survival by predicted grade; plots the curves and a saliency map of one patient."""
    recipe = navarro_2021.recipe()
    assert isinstance(recipe, ImageRecipe)
    if small:
        optimiser = OptimiserSettings(steps=60, batch=8, learning_rate=3e-4)
        classifier = recipe.classifier.model_copy(update={"optimiser": optimiser})
        recipe = recipe.model_copy(update={"classifier": classifier, "size": 64, "slices": 4})
    read = recipe.images(cohort, show_progress)
    scores = cross_validated_probabilities(read, 2, recipe.classifier, seed=seed, device=device, progress=show_progress)
    data = f"{len(set(read.patients))} patients, 5-fold cross-validation by patient, densenet161 on MR_T1, 'high_grade'"
    found = list(recipe.metrics(read, scores, cohort, data=data, seed=seed))
    names, means = score_by_patient(scores, read.patients)
    known = recipe.followed(cohort) or {}
    kept = [i for i, name in enumerate(names) if name in known]
    outcome = Outcome(np.asarray([known[names[i]][0] for i in kept]), np.asarray([known[names[i]][1] for i in kept]))
    groups = predicted_groups(means[kept, 1], ("low grade", "high grade"))
    title = "Predicted by networks that did not see the patient"
    draw_kaplan_meier(outcome, groups, what="Overall survival", title=title).savefig(work / "grading.png", dpi=110)
    return {"navarro-2021": found}


def constructed(work: Path, seed: int, device: str, small: bool, until: float) -> dict[str, list[Metric]]:
    """B1, B5, B6, B7, B8, B9 and B12 where the answer is known.  Nothing here says anything about patients."""
    found: dict[str, list[Metric]] = {}

    def run(name: str, module: Any, recipe: Any, count: int, folds: int) -> None:  # noqa: ANN401
        def measure() -> Sequence[Metric]:
            with tempfile.TemporaryDirectory() as place:
                cohort = constructed_cohort(module.SYSTEM.id, Path(place), patients=count, seed=seed)
                metrics: Sequence[Metric] = recipe.evaluate(
                    cohort, folds=folds, seed=seed, device=device, progress=show_progress
                )
                return metrics

        found[name] = remembered(work, "constructed", name, until, measure)

    known = {"label": "class", "classes": ("different", "same")}

    def shortened(recipe: Any, steps: int, rate: float, *, batch: int = 16, **changes: Any) -> Any:  # noqa: ANN401
        if not small:
            return recipe
        optimiser = OptimiserSettings(steps=steps, batch=batch, learning_rate=rate)
        classifier = recipe.classifier.model_copy(update={"optimiser": optimiser, "shift": 2})
        return recipe.model_copy(update={"classifier": classifier} | changes)

    k = 2 if small else 4
    fused = banerjee_2018.recipe().model_copy(update=known | {"registration": None})
    fused = shortened(fused, 100, 3e-4, size=64, slices=2)
    run("banerjee-2018, fused", banerjee_2018, fused, 48, k)
    for alone in ("T1GD", "DWI"):
        run(f"banerjee-2018, {alone} alone", banerjee_2018, fused.model_copy(update={"sequences": (alone,)}), 48, k)
    adversarial = gao_2021.recipe()
    if small:
        gan = AcganSettings(width=16, steps=500, batch=16)
        adversarial = shortened(adversarial, 100, 2e-4, size=32, slices=4, acgan=gan, synthetic=300)
    run("gao-2021", gao_2021, adversarial, 24 if small else 30, 2 if small else 5)
    run("jardim-perassi-2021", jardim_perassi_2021, jardim_perassi_2021.recipe(), 16, 4)
    readers = marin_2022.recipe()
    if small:
        optimiser = OptimiserSettings(steps=1500, batch=8, learning_rate=3e-3)
        readers = readers.model_copy(update={"optimiser": optimiser, "window": (1, 48, 48)})
    run("marin-2022, four readers", marin_2022, readers, 12 if small else 24, k)
    margins = shortened(ye_2021.recipe(), 40, 1e-3, size=64, slices=6)
    run("ye-2021", ye_2021, margins, 16 if small else 32, k)
    petct = shortened(peng_2019.recipe().model_copy(update=known), 150, 5e-3, size=16)
    run("peng-2019, both streams", peng_2019, petct, 48, k)
    for alone in ("PET", "CT"):  # the other stream sees the same image twice
        run(f"peng-2019, {alone} alone", peng_2019, petct.model_copy(update={"sequences": (alone, alone)}), 48, k)
    run("yang-2022-lipoma", yang_2022_lipoma, yang_2022_lipoma.recipe(), 16 if small else 40, 4)
    return found


def record_part(path: Path, folder: Path | None) -> list[Path]:
    """Write the metrics of a finished part to the systems' files; return them."""
    part = json.loads(path.read_text())
    if folder is None or part["part"] == "permuted":
        return []
    shortened = "; shortened training" if part["small"] and part["part"] != "nomograms" else ""
    found = {
        name: [Metric.model_validate(metric | {"data": metric["data"] + shortened}) for metric in metrics]
        for name, metrics in part["figures"].items()
    }
    return record_by_system(found, f"scripts/evaluate_radiology.py {part['part']}", tuple(system_modules()), folder)


def main() -> None:
    """Run the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="nomograms,deep,permuted,segmentation,images,grading,constructed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FOLDER",
        help="also update the systems' files here: pathology/systems/measured",
    )
    options = parser.parse_args()
    cohort = patients(options.data, options.out)
    until = time.monotonic() + 60 * options.minutes
    small, device, seed = options.small, options.device, options.seed
    parts: dict[str, Callable[[], dict[str, list[Metric]]]] = {
        "nomograms": lambda: nomograms(cohort, options.out, seed),
        "permuted": lambda: permuted(cohort, options.out, seed, device, until),
        "segmentation": lambda: segmentation(cohort, options.out, seed, device, small, until),
        "images": lambda: images(cohort, seed, device, small),
        "deep": lambda: deep(cohort, options.out, seed, device, until),
        "grading": lambda: grading(cohort, options.out, seed, device, small),
        "constructed": lambda: constructed(options.out, seed, device, small, until),
        "features": lambda: measured(cohort, options.out),
    }
    for name in options.only.split(","):
        path = options.out / f"{name}.json"
        if path.exists():
            record_part(path, options.record)
            continue
        started = time.monotonic()
        print(f"{name}:", flush=True)
        try:
            found = parts[name]()
        except OutOfTimeError:
            print("time limit reached; run the same command to resume", flush=True)
            raise SystemExit(75) from None
        record = {
            "part": name,
            "small": small,
            "device": device,
            "seed": seed,
            "seconds": round(time.monotonic() - started),
            "figures": {k: [f.model_dump(mode="json") for f in v] for k, v in found.items()},
        }
        path.write_text(json.dumps(record, indent=1) + "\n")
        record_part(path, options.record)
        for key, metrics in found.items():
            for f in metrics:
                where = "" if f.interval is None else f" ({f.interval[0]:.3f}-{f.interval[1]:.3f})"
                value = "not known" if f.value is None else f"{f.value:.3f}"
                print(f"  {key}: {f.metric} {value}{where}, n = {f.n} {f.unit} {f.note}", flush=True)


if __name__ == "__main__":
    main()
