"""Model bundles with random weights, for tests that need a model but not a trained one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from pathology.networks.registry import build_network

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["SMALL_NETWORK", "add_random_trust", "reference_features", "reference_probabilities", "write_random_bundle"]

SMALL_NETWORK: Final[dict[str, Any]] = {
    "architecture": "pooled-backbone",
    "architecture_options": {"backbone": "alexnet"},
}
"""Arguments of :func:`write_random_bundle` for the network that is quickest to convert for OpenVINO and to compute: a
sixth of DenseNet121's time for either.
"""


def write_random_bundle(
    folder: Path,
    *,
    architecture: str = "densenet121",
    architecture_options: dict[str, Any] | None = None,
    patch: int = 64,
    classes: tuple[str, ...] = ("a", "b", "c"),
    seed: int = 0,
    **card: Any,
) -> Path:
    """Write a bundle whose random weights still give different outputs for different patches.

    Parameters
    ----------
    folder
        The bundle's folder; its name becomes the bundle's.
    architecture, architecture_options, patch, classes
        Values on the card.
    seed
        Seed of the weights.
    card
        Additional card fields, overriding the defaults.

    Returns
    -------
    Path
        ``folder``.

    Examples
    --------
    >>> from pathology import load_bundle
    >>> load_bundle(write_random_bundle(folder / "example")).card.classes
    ('a', 'b', 'c')
    """
    torch.manual_seed(seed)
    network = build_network(architecture, len(classes), **(architecture_options or {}))
    with torch.no_grad():
        for module in network.modules():
            if (
                isinstance(module, torch.nn.BatchNorm2d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    folder.mkdir(parents=True)
    weights = folder / "weights.safetensors"
    save_file(network.state_dict(), weights)
    (folder / "card.yaml").write_text(
        yaml.safe_dump(
            {
                "name": folder.name,
                "version": "1.0.0",
                "title": "Random weights for tests",
                "architecture": architecture,
                "architecture_options": architecture_options or {},
                "parameters": sum(p.numel() for p in network.parameters()),
                "classes": list(classes),
                "mpp": 1.0,
                "patch": patch,
                "normalisation": {"mean": [0.7, 0.5, 0.7], "std": [0.2, 0.2, 0.2]},
                "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
                "initialisation": "random",
                "training_data": [
                    {"name": "none", "source": "none", "licence": "none", "images": 1, "used_for": "nothing"}
                ],
                "split": "none",
                "metrics": [
                    {
                        "metric": "accuracy",
                        "value": None,
                        "interval": None,
                        "method": "none",
                        "n": 0,
                        "unit": "patches",
                        "data": "none",
                        "note": "never trained",
                    }
                ],
                "intended_use": "tests",
                "limits": ["knows nothing"],
                "licence": "Apache-2.0",
                **card,
            }
        ),
        encoding="utf-8",
    )
    return folder


def add_random_trust(
    folder: Path,
    *,
    limit: float | None = None,
    threshold: float | None = None,
    layer: Literal["penultimate", "stem"] = "penultimate",
    aggregators: tuple[str, ...] = (),
    seed: int = 0,
) -> None:
    """Add abstention rules and trained aggregators with random weights to a bundle of :func:`write_random_bundle`.

    Parameters
    ----------
    folder
        The bundle's folder.
    limit
        Out-of-distribution limit; ``None``: no such rule.
    layer
        Layer of the out-of-distribution rule.
    threshold
        Largest score of a class in the prediction set (one minus its probability); ``None``: no such rule.
    aggregators
        Names of trained aggregators, with random weights.
    seed
        Seed of patches and weights.
    """
    from pathology.bundle.catalogue import load_bundle
    from pathology.bundle.domain import write_domain
    from pathology.bundle.learned_aggregator import write_aggregator
    from pathology.networks.mil import build_aggregator
    from pathology.stats.out_of_distribution import fit_domain

    bundle = load_bundle(folder)
    random = np.random.default_rng(seed)
    patch = bundle.card.patch
    patches = np.clip(
        random.integers(60, 240, (64, 1, 1, 3)) + random.normal(0, 25, (64, patch, patch, 3)), 0, 255
    ).astype(np.uint8)
    features = reference_features(bundle, patches)
    trust: dict[str, Any] = {"note": "random, for tests"}
    if limit is not None:
        seen = features if layer == "penultimate" else reference_features(bundle, patches, stem=True)
        sha256 = write_domain(fit_domain(seen, np.arange(64) % len(bundle.card.classes)), folder)
        trust["out_of_domain"] = {
            "limit": limit,
            "false_alarm": 0.05,
            "n": 64,
            "unit": "slides",
            "features": seen.shape[1],
            "layer": layer,
            "sha256": sha256,
        }
    if threshold is not None:
        trust["conformal"] = {"method": "lac", "coverage": 0.9, "threshold": threshold, "n": 64, "unit": "slides"}
    torch.manual_seed(seed)
    entries = [
        write_aggregator(
            build_aggregator(name, features.shape[1], len(bundle.card.classes)), folder, name, training="none"
        ).model_dump(mode="json")
        for name in aggregators
    ]
    card = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
    card |= {"trust": trust, "aggregators": entries}
    (folder / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")


def reference_features(bundle: Bundle, patches: NDArray[np.uint8], *, stem: bool = False) -> NDArray[np.float32]:
    """Return ``(B, F)`` penultimate features of ``(B, P, P, 3)`` uint8 patches with plain fp32 torch: the input of the
    last fully connected layer, captured by a hook; or, for a DenseNet, mean and deviation after its first pooling.
    """
    network = bundle.network().float().eval()
    if stem:
        first: list[torch.Tensor] = []
        module = dict(network.named_modules())["features.pool0"]
        handle = module.register_forward_hook(lambda _, __, output: first.append(output))
        _logits(network, bundle, patches)
        handle.remove()
        maps = first[0].numpy()
        return np.concatenate([maps.mean(axis=(2, 3)), maps.std(axis=(2, 3))], axis=1)
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    caught: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    _logits(network, bundle, patches)
    hook.remove()
    result: NDArray[np.float32] = caught[0].numpy()
    return result


def reference_probabilities(bundle: Bundle, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict ``(B, P, P, 3)`` uint8 patches with plain fp32 torch, following the card step by step."""
    network = bundle.network().float().eval()
    result: NDArray[np.float32] = torch.softmax(_logits(network, bundle, patches), dim=1).numpy()
    return result


def _logits(network: torch.nn.Module, bundle: Bundle, patches: NDArray[np.uint8]) -> torch.Tensor:
    mean = np.array(bundle.card.normalisation.mean)
    std = np.array(bundle.card.normalisation.std)
    pixels = ((patches / 255.0 - mean) / std).astype(np.float32)
    with torch.inference_mode():
        logits: torch.Tensor = network(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))
    return logits
