"""Training speed of the published classifiers in full and low precision, and whether the loader keeps up.

Slides of synthetic tissue are tiled once; then each recipe trains as in ``pathology train``, without the frozen stage::

    python -m benchmarks training [--steps 6] [--batch 8] [--loaders 1] [--foersch-patch 256] [--json OUT.json]

``waiting`` is the fraction of training time in which no patch was ready.  The first epoch, in which loader processes
start, is excluded.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

SYSTEMS = ("foersch-2021", "zhang-2022", "frankel-2022")
SIDE = 320


def cohort(folder, slides):
    """Return slides of two classes, one per patient, in the trainer's format."""
    from pathology.evaluation.labels import LabelledSlide, LabelledSlides
    from pathology.testing.constructed_slides import construct_cohort, drawn_tiles

    tiles = drawn_tiles(("first", "second"), slides // 2, tiles_per_patient=1, side=SIDE, seed=1)
    made = construct_cohort(folder, tiles, slides_per_patient=1, rows=4, columns=4, cell=SIDE, margin=96, seed=1)
    return LabelledSlides(
        tiles.classes,
        tuple(LabelledSlide(s.slide_id, s.path, s.patient_id, tiles.classes.index(s.label)) for s in made),
    )


def recipe_of(system, arguments):
    """Return the published recipe with few epochs and the requested patches, batch and preparation."""
    from pathology.systems.slide_classifier import find_classifier
    from pathology.training.classifier.recipe import Stage

    recipe = find_classifier(system).recipe
    stages = (Stage(epochs=2, learning_rate=1e-4),)
    side = arguments.foersch_patch if system == "foersch-2021" else recipe.patch
    changed = {"mpp": 1.0, "patch": side, "batch": arguments.batch, "stages": stages, "patience": None}
    return recipe.model_copy(update=changed)


def speed(recipe, patches, low, arguments):
    """Train and return the second epoch's patches per second and fraction of waiting."""
    from pathology.networks.registry import build_network
    from pathology.training.classifier.fit import fit_slides
    from pathology.training.common.distributed import distributed_training

    torch.manual_seed(0)
    network = build_network(recipe.architecture, 2)
    rows = np.arange(len(patches.labelled))
    with (
        distributed_training("cpu") as ranks,
        patch("pathology.training.classifier.fit.automatic_precision", lambda _: low),
    ):
        fitted = fit_slides(network, patches, rows, rows[:1], recipe, ranks=ranks, loaders=arguments.loaders)
    last = fitted.history[-1]
    return {
        "precision": fitted.precision,
        "steps": last.steps,
        "patches_per_second": last.patches_per_second,
        "waiting": last.waiting,
    }


def main():
    """Measure every system in fp32 and, if the CPU supports it, in bf16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="batches per epoch")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--loaders", type=int, default=1, help="processes that read and augment patches")
    parser.add_argument(
        "--foersch-patch", type=int, default=256, help="patch size of foersch-2021; the publication uses 1024"
    )
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    from pathology.inference.engines.torch import has_bf16
    from pathology.training.classifier.patches import prepare_patches

    found = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "systems": {}}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.loaders} loader processes")
    with tempfile.TemporaryDirectory() as folder:
        slides = 4
        labelled = cohort(Path(folder) / "slides", slides)
        for system in arguments.systems:
            recipe = recipe_of(system, arguments)
            recipe = recipe.model_copy(update={"patches_per_slide": arguments.steps * arguments.batch // slides})
            patches = prepare_patches(labelled, recipe, Path(folder) / system, workers=1)
            runs = [
                speed(recipe, patches, low, arguments) for low in ([None, torch.bfloat16] if has_bf16() else [None])
            ]
            found["systems"][system] = {"patch": recipe.patch, "runs": runs}
            for run in runs:
                print(
                    f"{system:14} {recipe.patch:5} px  {run['precision']}  {run['patches_per_second']:7.2f} patches/s"
                    f"  {run['waiting']:6.1%} waiting  ({run['steps']} steps of {arguments.batch})",
                    flush=True,
                )
            if len(runs) == 2:
                ratio = runs[1]["patches_per_second"] / runs[0]["patches_per_second"]
                print(f"{system:14} bf16 is {ratio:.2f} times as fast as fp32")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
