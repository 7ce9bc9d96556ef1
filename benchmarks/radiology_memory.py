"""Measure the memory of the radiology systems with their shipped settings.

    python -m benchmarks.radiology_memory --data RADIOLOGY [--system CODE ...]

RADIOLOGY contains ``sts/<patient>/`` and ``sts_clinical.csv`` as in ``scripts/evaluate_radiology.py``.  Each system
trains two steps with its full batch, or fits its nomogram, and predicts one patient, in a separate process; the result
is the peak resident memory of that process (``VmHWM``), including libraries.  Systems whose modality is not in that
collection run on synthetic images of full size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

CODES = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12")
LIMIT_GIB = 6.0


def peak_gib():
    """Return the peak resident memory of this process so far, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("this operating system does not report peak memory")


def two_steps(settings):
    """Limit an optimiser's run to two steps with its full batch."""
    return settings.model_copy(update={"optimiser": settings.optimiser.model_copy(update={"steps": 2})})


def prepared(code, data, work):
    """Return a system's recipe, limited to two steps, and a cohort."""
    import pandas as pd

    from pathology.radiology.io.cohort import read_cohort
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
    from pathology.testing.radiology_constructed import constructed_cohort, fat_cohort

    table = pd.read_csv(data / "sts_clinical.csv")
    table["high_grade"] = table["grade"].map({"Low": 0, "Intermediate": 1, "High": 1})
    table.to_csv(work / "real.csv", index=False)
    real = read_cohort(data / "sts", work / "real.csv")
    if code in ("B8", "B11"):
        recipe = marin_2022.recipe(("CT",)) if code == "B8" else holbrook_2020.recipe(("CT", "PET"))
        return two_steps(recipe), real
    if code in ("B2", "B5"):
        recipe = navarro_2021.recipe() if code == "B2" else peng_2019.recipe()
        return recipe.model_copy(update={"classifier": two_steps(recipe.classifier)}), real.having(
            ("CT",), recipe.label
        )
    if code in ("B3", "B4", "B10", "B9"):
        # The Cox model of every inner fold needs enough events.
        cohort = fat_cohort(work / "made", patients=48 if code == "B3" else 16, size=24)
        made = pd.read_csv(work / "made" / "clinical.csv")
        for name in ("lung_metastasis", "is_high"):
            made[name] = (made["diagnosis"] == "liposarcoma").astype(int)
        made["grade"], made["relapse"], made["relapse_days"] = "High", 1, range(100, 100 + len(made))
        made.to_csv(work / "made" / "clinical.csv", index=False)
        cohort = read_cohort(work / "made" / "images", work / "made" / "clinical.csv")
        module = {"B3": liu_2021, "B4": liang_2022, "B10": yang_2022_grade, "B9": yang_2022_lipoma}[code]
        return module.recipe(deep_start="random"), cohort
    module = {"B1": banerjee_2018, "B6": gao_2021, "B7": ye_2021, "B12": jardim_perassi_2021}[code]
    cohort = constructed_cohort(module.SYSTEM.id, work / "made", patients=6)
    recipe = module.recipe()
    recipe = recipe.model_copy(update={"classifier": two_steps(recipe.classifier)})
    if code == "B1":
        recipe = recipe.model_copy(update={"classes": ("same", "different")})
    if code == "B6":
        recipe = recipe.model_copy(update={"acgan": recipe.acgan.model_copy(update={"steps": 2})})
    return recipe, cohort


def measure(code, data):
    """Train and predict in this process; return the measurements."""
    import torch

    from pathology.radiology.models.bundle import CardText
    from pathology.radiology.models.registry import predict_case

    torch.set_num_threads(1)
    source = {"name": "any", "source": "any", "licence": "any", "images": 1, "used_for": "training"}
    text = CardText(
        name="memory",
        title="Memory",
        training_data=(source,),
        limits=("Constructed.",),
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "made").mkdir()
        recipe, cohort = prepared(code, data, work)
        card = recipe.train(cohort, work / "model", text, system="memory", constructed=True)
        trained = peak_gib()
        # The largest images of the cohort.
        case = max(cohort.cases, key=lambda c: sum(p.stat().st_size for p in c.images.values()))
        predict_case(work / "model", case, work / "out")
    return {"code": code, "parameters": card.parameters, "train": trained, "train_and_predict": peak_gib()}


def main():
    """Measure the requested systems, each in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--system", action="append", choices=CODES)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.system[0], options.data)))
        return
    over = []
    for code in options.system or CODES:
        command = [sys.executable, "-m", "benchmarks.radiology_memory", "--data", str(options.data)]
        done = subprocess.run([*command, "--system", code, "--here"], capture_output=True, text=True)
        if done.returncode:
            print(f"{code}: failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
            over.append(code)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{code}: training {found['train']:.2f} GiB, with prediction {found['train_and_predict']:.2f} GiB, "
            f"{found['parameters']:,} parameters",
            flush=True,
        )
        if found["train_and_predict"] > LIMIT_GIB:
            over.append(code)
    raise SystemExit(f"over {LIMIT_GIB:g} GiB or failed: {', '.join(over)}" if over else 0)


if __name__ == "__main__":
    main()
