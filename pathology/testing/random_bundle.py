"""Model bundles with random weights: for tests that need a model and not its knowledge."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from pathology.networks.registry import build_network

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle

__all__ = ["reference_probabilities", "write_random_bundle"]


def write_random_bundle(
    folder: Path,
    *,
    architecture: str = "densenet121",
    patch: int = 64,
    classes: tuple[str, ...] = ("a", "b", "c"),
    seed: int = 0,
    **card: Any,
) -> Path:
    """Write a bundle whose random weights still tell patches apart.

    Parameters
    ----------
    folder
        The bundle's folder; its name becomes the bundle's.
    architecture, patch, classes
        What the card says.
    seed
        Of the weights.
    card
        Further fields of the card, overriding the defaults.

    Returns
    -------
    Path
        ``folder``.
    """
    torch.manual_seed(seed)
    network = build_network(architecture, len(classes))
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
                "figures": [
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


def reference_probabilities(bundle: Bundle, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Predict ``(B, P, P, 3)`` uint8 patches with plain fp32 torch, step by step as the card says."""
    network = bundle.network().float().eval()
    mean = np.array(bundle.card.normalisation.mean)
    std = np.array(bundle.card.normalisation.std)
    pixels = ((patches / 255.0 - mean) / std).astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))))
        result: NDArray[np.float32] = torch.softmax(logits, dim=1).numpy()
    return result
