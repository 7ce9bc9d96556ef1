"""Plot stitched Grad-CAM maps of a classifier on a scored slide, with a sanity check.

    python scripts/explain_slide.py RESULTS SLIDE_ID --model MODEL [--class NAME] [--out explained.png]

Grad-CAM (Selvaraju et al. 2017) of one class over the patches where it is most probable, stitched at their positions.
With it, the sanity check of Adebayo et al. 2018: the rank correlation of the maps with those of the same network with
random weights in its last layers.  A map that random weights do not change explains nothing.  Research use only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

from pathology.bundle.catalogue import load_bundle
from pathology.errors import PathologyError, UsageError
from pathology.networks.torchvision_classifiers import last_feature_map
from pathology.outputs.results.results_folder import open_results
from pathology.slide.open import open_reader
from pathology.slide.stain.normalise import StainNormaliser
from pathology.training.common.grad_cam import grad_cam


def maps_of(network: nn.Module, images: torch.Tensor, name: int) -> NDArray[np.float32]:
    """Return Grad-CAM maps ``(N, H, W)`` of one class."""
    layer = last_feature_map(network)
    return np.concatenate([grad_cam(network, layer, part, [name] * len(part)) for part in images.split(4)])


LAST_LAYERS: Final = {
    "densenet121": ("features.denseblock4", "classifier"),
    "densenet121-foersch": ("0.0.denseblock4", "1"),
    "inception-v3": ("Mixed_7c", "fc"),
}
"""Module names of the last block and the head of each architecture."""


def randomised(network: nn.Module, architecture: str) -> nn.Module:
    """Randomise the weights of the head and the last block, in place."""
    torch.manual_seed(0)
    for last in LAST_LAYERS[architecture]:
        for module in network.get_submodule(last).modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
    return network


def run(arguments: argparse.Namespace) -> None:
    """Compute, check and plot."""
    bundle = load_bundle(arguments.model)
    card = bundle.card
    if card.architecture not in LAST_LAYERS:
        raise UsageError(
            f"{card.name} is a {card.architecture}", remedy=f"Supported architectures: {', '.join(sorted(LAST_LAYERS))}"
        )
    slide = open_results(arguments.results)[arguments.slide]
    name = arguments.name or slide.record.most_probable_class
    if name not in card.classes:
        raise UsageError(f"unknown class {name!r}", remedy=f"Choose from: {', '.join(card.classes)}")
    group: Any = zarr.open_group(slide.folder / "predictions.zarr", mode="r")
    probabilities, coords = np.asarray(group["probabilities"][...]), np.asarray(group["coords"][...])
    extent = float(group.attrs["patch_extent"])
    wanted = card.classes.index(name)
    rows = np.argsort(-np.nan_to_num(probabilities[:, wanted], nan=-1), kind="stable")[: arguments.patches]
    with open_reader(slide.record.path) as reader:
        side = round(extent)
        pixels = [reader.read_masked(0, int(x), int(y), side, side).pixels for x, y in coords[rows]]
        small = reader.read_masked(len(reader.levels) - 1, 0, 0, *reader.levels[-1].dimensions).pixels
        factor = reader.levels[-1].downsample
    resized = [np.asarray(Image.fromarray(one).resize((card.patch, card.patch))) for one in pixels]
    if "stain" in slide.record.extra:
        normaliser = StainNormaliser.from_record(slide.record.extra["stain"])
        resized = [normaliser.apply(one) for one in resized]
    values = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (card.normalisation.mean, card.normalisation.std))
    images = (values - mean) / std
    maps = maps_of(bundle.network(), images, wanted)
    other = maps_of(randomised(bundle.network(), card.architecture), images, wanted)
    thinned = [(a.ravel()[::7], b.ravel()[::7]) for a, b in zip(maps, other, strict=True)]
    # A map upsampled from a single cell is flat except for rounding.
    varying = [pair for pair in thinned if all(np.ptp(one) > 1e-4 * one.max() for one in pair)]
    likeness = [float(spearmanr(a, b).statistic) for a, b in varying]
    print(
        f"{name}: {len(maps)} patches; rank correlation with the maps of random last layers: median"
        f" {np.median(likeness):.2f} (n = {len(likeness)}; 1 would mean no dependence on the learned weights)"
        if likeness
        else f"{name}: {len(maps)} patches; the maps are flat with or without random last layers; nothing to compare"
    )
    heat = np.zeros(small.shape[:2], np.float32)
    for (x, y), one in zip(coords[rows].tolist(), maps / max(float(maps.max()), 1e-12), strict=True):
        size = max(1, round(extent / factor))
        part = heat[round(y / factor) : round(y / factor) + size, round(x / factor) : round(x / factor) + size]
        drawn = np.asarray(Image.fromarray(one).resize((size, size)))
        np.maximum(part, drawn[: part.shape[0], : part.shape[1]], out=part)
    grey = small.mean(axis=2, keepdims=True)
    strength = 0.75 * heat[..., None]
    Image.fromarray(np.asarray(grey * (1 - strength) + np.array([200, 20, 30]) * strength, np.uint8)).save(
        arguments.out
    )
    print(f"{arguments.out}  Shows what the network attended to, not whether it is correct. Research use only.")


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of pathology score")
    parser.add_argument("slide", help="slide_id")
    parser.add_argument("--model", required=True, help="the model used for scoring")
    parser.add_argument(
        "--class", dest="name", help="class to explain; by default the most probable class of the slide"
    )
    parser.add_argument("--patches", type=int, default=12, help="number of most probable patches to explain")
    parser.add_argument("--out", type=Path, default=Path("explained.png"), help="output image")
    try:
        run(parser.parse_args())
    except PathologyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
