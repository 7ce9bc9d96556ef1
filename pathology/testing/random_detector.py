"""Detector bundles with random weights, for tests that need a detector but not a trained one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from pathology.bundle.domain import write_domain
from pathology.networks.registry import build_network
from pathology.networks.stem import StemFeatures
from pathology.stats.out_of_distribution import fit_domain
from pathology.testing.random_bundle import write_random_bundle

__all__ = ["write_random_detector"]

_CELL = 64


def write_random_detector(
    folder: Path,
    *,
    patch: int = 128,
    stride: int = 96,
    seed: int = 1,
    domain_limit: float | None = None,
    **card: Any,
) -> Path:
    """Write a detector whose random weights yield scattered boxes of about 25 pixels.

    Parameters
    ----------
    folder
        The bundle's folder; its name becomes the bundle's.
    patch, stride
        Values on the card, in pixels.
    seed
        Seed of the weights.
    domain_limit
        Out-of-distribution limit, with a domain fitted on coloured noise in squares of 64 pixels; ``None``: no rule.
    card
        Additional card fields, overriding the defaults.

    Returns
    -------
    Path
        ``folder``.
    """
    write_random_bundle(folder)
    options = {"width": 0.125, "anchors": [[20, 20], [25, 25], [30, 30]] * 3}
    torch.manual_seed(seed)
    network = build_network("yolov4-csp", 1, **options).eval()
    with torch.no_grad():
        # An untrained network's activations are huge; the last convolutions are scaled so that sizes stay finite.
        maps = network(torch.rand(1, 3, 128, 128))
        linear = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
        for convolution, raw in zip(linear, maps, strict=True):
            convolution.weight /= raw.std()
    weights = folder / "weights.safetensors"
    save_file(network.state_dict(), weights)
    content = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    content |= {
        "task": "detection",
        "architecture": "yolov4-csp",
        "architecture_options": options,
        "parameters": sum(p.numel() for p in network.parameters()),
        "classes": ["mitosis"],
        "colours": [],
        "patch": patch,
        "stride": stride,
        "mpp": 0.25,
        "detection": {"threshold": 0.5, "floor": 0.3},
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    if domain_limit is not None:
        content["trust"] = {"out_of_domain": _random_domain(network, folder, domain_limit, seed)}
    (folder / "card.yaml").write_text(yaml.safe_dump(content | card), encoding="utf-8")
    return folder


def _random_domain(network: torch.nn.Module, folder: Path, limit: float, seed: int) -> dict[str, Any]:
    """Fit a domain on coloured noise, write it and return its rule."""
    random = np.random.default_rng(seed)
    crops = random.integers(60, 240, (64, 3, 1, 1)) + random.normal(0, 25, (64, 3, _CELL, _CELL))
    with torch.inference_mode():
        features = StemFeatures(network)(torch.from_numpy(crops.clip(0, 255) / 255).float()).numpy()
    return {
        "limit": limit,
        "false_alarm": 0.05,
        "n": 64,
        "unit": "slides",
        "features": features.shape[1],
        "layer": "stem",
        "cell": _CELL,
        "sha256": write_domain(fit_domain(features, np.zeros(64, int)), folder),
    }
