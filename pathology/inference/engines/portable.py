"""A bundle's network for OpenVINO: made from torch once, so that the bundle runs without torch ever after."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from pathology.bundle.card import CARD_NAME, write_card
from pathology.bundle.catalogue import Bundle, load_bundle
from pathology.bundle.graph import check_patches, converted_trace, write_graph
from pathology.errors import BundleError
from pathology.inference.engines.base import require_torch

__all__ = ["add_graph"]


def add_graph(model: str | Path) -> Bundle:
    """Write a bundle's network for OpenVINO into its folder, and its hashes on the card.

    It is compared with torch on the patches of :func:`pathology.bundle.graph.check_patches`, in fp32.

    Parameters
    ----------
    model
        As for :func:`pathology.bundle.catalogue.load_bundle`.

    Returns
    -------
    Bundle
        The bundle with its new card.

    Raises
    ------
    BundleError
        If OpenVINO cannot convert the network, or does not agree with torch; nothing is written.
    MissingDependencyError
        If torch is not installed.
    OutputError
        If a file cannot be written.
    """
    bundle = load_bundle(model)
    require_torch(f"converting {bundle.name}")
    import torch

    from pathology.inference.engines.torch import patch_classifier

    network, patch = patch_classifier(bundle).eval(), bundle.card.patch
    patches = torch.from_numpy(check_patches(patch))
    example = torch.zeros_like(patches)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about what a trace keeps
        expected = np.concatenate([network(patches[i : i + 1]).numpy() for i in range(len(patches))])
        try:
            network(example)  # some detectors cache what their first call computes
            converted = converted_trace(torch.jit.trace(network, example, check_trace=False), example)
        except RuntimeError as error:
            raise BundleError(
                f"OpenVINO cannot convert {bundle.name} ({str(error).strip().splitlines()[0]})", where=bundle.directory
            ) from error
    graph = write_graph(converted, expected, bundle.directory, bundle.card)
    write_card(bundle.card.model_copy(update={"graph": graph}), bundle.directory / CARD_NAME)
    return load_bundle(bundle.directory)
