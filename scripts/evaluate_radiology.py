"""Measure the radiology systems on the public soft-tissue-sarcoma patients and on constructed data.

Usage::

    python scripts/evaluate_radiology.py DATA OUT [--only features,nomograms,...] [--device cuda] [--small]

DATA holds ``sts/<patient>/<sequence>_image.nii.gz`` and ``sts_clinical.csv`` (collection Soft-tissue-Sarcoma of The
Cancer Imaging Archive, Vallières et al. 2015, CC BY 3.0).  Every part writes its figures to ``OUT/<part>.json``; a part
whose file is there is not run again.  ``--small`` shortens the training of networks to what a CPU does in minutes; such
figures say that the machinery works and are a lower bound of what it can do.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pathology.bundle.card import Figure
from pathology.radiology.cohort import Cohort, read_cohort
from pathology.radiology.fit import OptimiserSettings
from pathology.radiology.nested import within_fold_area
from pathology.radiology.nested_plots import draw_nested_plots
from pathology.radiology.recipe import as_figure
from pathology.radiology.signature import Classifier, nested_scores
from pathology.radiology.signature_recipe import SignatureRecipe, nested_probabilities
from pathology.systems import (
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

SEQUENCES = ("MR_T1", "CT", "PET")


def patients(data: Path, work: Path) -> Cohort:
    """Read the cohort with the columns that the systems ask for."""
    table = pd.read_csv(data / "sts_clinical.csv")
    table["high_grade"] = table["grade"].map({"Low": 0, "Intermediate": 1, "High": 1})
    table["is_high"] = table["grade"].map({"Low": 0, "Intermediate": 0, "High": 1})
    table["relapse"] = table["outcome"].notna().astype(int)
    table["relapse_days"] = table["days_diagnosis_to_outcome"].fillna(table["days_diagnosis_to_followup"])
    work.mkdir(parents=True, exist_ok=True)
    table.to_csv(work / "clinical.csv", index=False)
    return read_cohort(data / "sts", work / "clinical.csv")


def told(name: str, done: int, total: int) -> None:
    """Print every tenth of a stage."""
    if done == total or done % max(1, total // 10) == 0:
        print(f"    {name}: {done}/{total}", flush=True)


def features(cohort: Cohort, work: Path) -> pd.DataFrame:
    """Measure tumours in T1, CT and PET, and a 5 mm shell in T1; kept in OUT/features.csv."""
    path = work / "features.csv"
    if path.exists():
        return pd.read_csv(path, dtype={"patient_id": str}).set_index("patient_id")
    tumours = SignatureRecipe(sequences=SEQUENCES, label="none", classes=("0", "1"))
    shell = SignatureRecipe(sequences=("MR_T1",), label="none", classes=("0", "1"), shell_mm=5.0, shape_of="none")
    table = tumours.table(cohort, progress=told)
    around = shell.table(cohort, progress=told)
    table = table.join(around[[c for c in around.columns if "-shell:" in str(c)]])
    table.to_csv(path)
    return table


def measured(cohort: Cohort, work: Path) -> dict[str, list[Figure]]:
    """Measure features only, for the parts that use them; gives no figure."""
    features(cohort, work)
    return {}


def nomograms(cohort: Cohort, work: Path, seed: int) -> dict[str, list[Figure]]:
    """B3, B4 and B10: clinical data, radiomics and both, by nested cross-validation."""
    table = features(cohort, work)
    t1 = [c for c in table.columns if str(c).startswith("MR_T1:")]
    shell = [c for c in table.columns if str(c).startswith("MR_T1-shell:")]
    every = [c for c in table.columns if "-shell:" not in str(c)]
    found: dict[str, list[Figure]] = {}
    metastasis = liang_2022.recipe()
    grade = yang_2022_grade.recipe()
    assert isinstance(metastasis, SignatureRecipe)
    assert isinstance(grade, SignatureRecipe)
    parts = {"T1": t1, "T1 and shell": t1 + shell, "T1, CT and PET": every}
    for name, columns in parts.items():
        for system, recipe in (("liang-2022", metastasis), ("yang-2022-grade", grade)):
            chosen = cohort.having(("MR_T1",), recipe.label)
            figures = recipe.evaluate_table(table[columns], chosen, seed=seed)
            found[f"{system}, {name}"] = list(figures)
    found["liang-2022, T1, classifier chosen inside"] = [chosen_inside(metastasis, table[t1], cohort, seed)]
    relapse = liu_2021.recipe()
    chosen = relapse.patients(cohort)  # type: ignore[attr-defined]  # a SurvivalRecipe
    found["liu-2021, T1"] = list(relapse.evaluate_table(table[t1], chosen, seed=seed))  # type: ignore[attr-defined]
    draw_nested_plots(metastasis, table[t1], cohort.having(("MR_T1",), metastasis.label), work, seed=seed)
    return found


def chosen_inside(recipe: SignatureRecipe, table: pd.DataFrame, cohort: Cohort, seed: int) -> Figure:
    """Let inner folds choose among the classifiers that Liang et al. compared."""
    chosen = cohort.having(("MR_T1",), recipe.label)
    labels = recipe.labels(chosen)
    kinds: tuple[Classifier, ...] = ("logistic", "tree", "forest", "svm", "adaboost")
    candidates = {k: recipe.signature.model_copy(update={"classifier": k}) for k in kinds}
    scores = nested_scores(
        table.loc[list(chosen.patients)], labels, chosen.patients, candidates, repeats=3, seed=seed, progress=folds
    )
    return as_figure(
        "area under the ROC curve, radiomics",
        within_fold_area(labels, scores.predictions, chosen.patients, seed=seed),
        unit="patients",
        data=f"{len(labels)} patients, nested 5-fold cross-validation by patient",
        note=f"chosen by inner folds: {', '.join(scores.chosen)}",
    )


def folds(done: int, total: int) -> None:
    """Print every fold."""
    told("outer folds", done, total)


def permuted(cohort: Cohort, work: Path, seed: int, repeats: int) -> dict[str, list[Figure]]:
    """The whole of B4 on shuffled outcomes: the mean must be 0.5."""
    table = features(cohort, work)
    recipe = liang_2022.recipe()
    assert isinstance(recipe, SignatureRecipe)
    chosen = cohort.having(("MR_T1",), recipe.label)
    labels, clinical = recipe.labels(chosen), recipe.clinical(chosen)
    part = table.loc[list(chosen.patients), [c for c in table.columns if str(c).startswith("MR_T1:")]]
    areas = []
    for repeat in range(repeats):
        shuffled = np.random.default_rng([seed, repeat]).permutation(labels)
        p = nested_probabilities(
            part, clinical, shuffled, chosen.patients, recipe.signature, outcome="shuffled", seed=repeat
        )
        areas.append(within_fold_area(shuffled, p, chosen.patients, resamples=100).value)
        told("permutations", repeat + 1, repeats)
    error = float(np.std(areas, ddof=1) / np.sqrt(len(areas)))
    mean = float(np.mean(areas))
    figure = Figure(
        metric="area under the ROC curve on shuffled outcomes",
        value=mean,
        interval=(mean - 1.96 * error, mean + 1.96 * error),
        method="normal, over permutations",
        n=repeats,
        unit="permutations",
        data=f"{len(labels)} patients, all steps of B4 with clinical data, nested 5-fold cross-validation",
    )
    return {"liang-2022, shuffled": [figure]}


def segmentation(cohort: Cohort, seed: int, device: str, small: bool) -> dict[str, list[Figure]]:
    """B8 on CT, B11 on T1 and on PET-CT."""
    steps = {"optimiser": OptimiserSettings(steps=250, batch=8, learning_rate=5e-3)} if small else {}
    planar = {"window": (1, 64, 64), "widths": (8, 16, 32), "spacing_mm": (4.0, 4.0, 3.27)} if small else {}
    block = {"window": (8, 32, 32), "widths": (8, 16, 32), "spacing_mm": (4.0, 4.0, 4.0)} if small else {}
    block |= {"optimiser": OptimiserSettings(steps=250, batch=4, learning_rate=5e-3)} if small else {}
    recipes = {
        "holbrook-2020, 3D on T1": holbrook_2020.recipe(("MR_T1",)).model_copy(update=block),
        "marin-2022, 2.5D on CT": marin_2022.recipe(("CT",)).model_copy(update=steps | planar),
        "marin-2022, 2.5D on T1": marin_2022.recipe(("MR_T1",)).model_copy(update=steps | planar),
        "holbrook-2020, 3D on PET and CT": holbrook_2020.recipe(("CT", "PET")).model_copy(update=block),
    }
    found = {}
    for name, recipe in recipes.items():
        started = time.monotonic()
        found[name] = list(recipe.evaluate(cohort, folds=2 if small else 5, seed=seed, device=device, progress=told))
        print(f"  {name}: {time.monotonic() - started:.0f} s", flush=True)
    return found


def images(cohort: Cohort, seed: int, device: str, small: bool) -> dict[str, list[Figure]]:
    """B2 on T1 and B5 on PET-CT."""
    few = {"optimiser": OptimiserSettings(steps=60, batch=8, learning_rate=1e-3)} if small else {}
    petct = peng_2019.recipe()
    petct = petct.model_copy(update={"classifier": petct.classifier.model_copy(update=few)})  # type: ignore[attr-defined]
    if small:
        petct = petct.model_copy(update={"size": 24})
    found = {"peng-2019": list(petct.evaluate(cohort, seed=seed, device=device, progress=told))}
    if not small:  # DenseNet-161 is beyond a CPU's minutes
        found["navarro-2021"] = list(
            navarro_2021.recipe().evaluate(cohort, folds=3, seed=seed, device=device, progress=told)
        )
    return found


def constructed(seed: int, device: str, small: bool) -> dict[str, list[Figure]]:
    """B1, B5, B6, B7, B8, B9 and B12 where the answer is known.  Nothing here says anything about patients."""
    found: dict[str, list[Figure]] = {}

    def run(name: str, module: Any, recipe: Any, count: int, folds: int) -> None:  # noqa: ANN401
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            cohort = module.constructed(Path(folder), patients=count, seed=seed)
            found[name] = list(recipe.evaluate(cohort, folds=folds, seed=seed, device=device, progress=told))
            print(f"  {name}: {time.monotonic() - started:.0f} s", flush=True)

    known = {"label": "class", "classes": ("different", "same")}

    def shortened(recipe: Any, size: int, steps: int, rate: float, batch: int = 16) -> Any:  # noqa: ANN401
        if not small:
            return recipe
        optimiser = OptimiserSettings(steps=steps, batch=batch, learning_rate=rate)
        classifier = recipe.classifier.model_copy(update={"optimiser": optimiser})
        return recipe.model_copy(update={"classifier": classifier, "size": size})

    petct = peng_2019.recipe().model_copy(update=known)
    run("peng-2019, both streams", peng_2019, shortened(petct, 16, 150, 5e-3), 48, 3)
    for alone in ("PET", "CT"):  # the other stream sees the same image twice
        run(
            f"peng-2019, {alone} alone",
            peng_2019,
            shortened(petct, 16, 150, 5e-3).model_copy(update={"sequences": (alone, alone)}),
            48,
            3,
        )
    run("yang-2022-lipoma", yang_2022_lipoma, yang_2022_lipoma.recipe(), 16 if small else 40, 4)
    habitat = jardim_perassi_2021.recipe()
    if small:
        classifier = habitat.classifier.model_copy(  # type: ignore[attr-defined]
            update={"optimiser": OptimiserSettings(steps=40, batch=32, learning_rate=2e-3)}
        )
        habitat = habitat.model_copy(update={"classifier": classifier, "patch": 9, "per_case": 150})
    run("jardim-perassi-2021", jardim_perassi_2021, habitat, 6 if small else 16, 2 if small else 4)
    if not small:  # AlexNet, ResNet-50 and VGG-19 need an accelerator
        fused = banerjee_2018.recipe().model_copy(update=known | {"registration": None})
        run("banerjee-2018, fused", banerjee_2018, fused, 48, 4)
        for alone in ("T1GD", "DWI"):
            run(f"banerjee-2018, {alone} alone", banerjee_2018, fused.model_copy(update={"sequences": (alone,)}), 48, 4)
        run("ye-2021", ye_2021, ye_2021.recipe(), 32, 4)
        run("gao-2021", gao_2021, gao_2021.recipe(), 30, 5)
        run("marin-2022, four readers", marin_2022, marin_2022.recipe(), 24, 4)
    return found


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="nomograms,permuted,segmentation,images,constructed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    cohort = patients(options.data, options.out)
    small, device, seed = options.small, options.device, options.seed
    parts: dict[str, Callable[[], dict[str, list[Figure]]]] = {
        "nomograms": lambda: nomograms(cohort, options.out, seed),
        "permuted": lambda: permuted(cohort, options.out, seed, 10 if small else 100),
        "segmentation": lambda: segmentation(cohort, seed, device, small),
        "images": lambda: images(cohort, seed, device, small),
        "constructed": lambda: constructed(seed, device, small),
        "features": lambda: measured(cohort, options.out),
    }
    for name in options.only.split(","):
        path = options.out / f"{name}.json"
        if path.exists():
            continue
        started = time.monotonic()
        print(f"{name}:", flush=True)
        found = parts[name]()
        record = {
            "part": name,
            "small": small,
            "device": device,
            "seed": seed,
            "seconds": round(time.monotonic() - started),
            "figures": {k: [f.model_dump(mode="json") for f in v] for k, v in found.items()},
        }
        path.write_text(json.dumps(record, indent=1) + "\n")
        for key, figures in found.items():
            for f in figures:
                where = "" if f.interval is None else f" ({f.interval[0]:.3f}-{f.interval[1]:.3f})"
                value = "not known" if f.value is None else f"{f.value:.3f}"
                print(f"  {key}: {f.metric} {value}{where}, n = {f.n} {f.unit} {f.note}", flush=True)


if __name__ == "__main__":
    main()
