"""Checks of a bundle, from its card to the output of its network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pathology.bundle.card import CARD_NAME, read_card
from pathology.bundle.catalogue import Bundle, find_bundle_folder, open_bundle
from pathology.bundle.check import Check, checked
from pathology.bundle.graph import check_graph, read_network
from pathology.bundle.head_card import is_head_bundle
from pathology.bundle.head_verify import verify_head
from pathology.errors import BundleError
from pathology.extras import installed

if TYPE_CHECKING:
    from torch import Tensor, nn


__all__ = ["Check", "verify_bundle"]


_GLASS: Final = (240, 255)
"""Grey values of empty glass, of 255: as scanners give it, and white."""
_WITHOUT_TORCH: Final = "left to the network for OpenVINO: torch is not installed"


def verify_bundle(model: str | Path) -> list[Check]:
    """Check a bundle from card to output; stop at the first failure.

    In this order: the card's schema; that the folder has the bundle's name; the weights' hash; that the network can be
    built and the weights match it by name and shape; the number of learnable parameters; the files behind ``trust`` and
    the learned aggregators; the files of the 8-bit network, if there is one; that one blank patch gives one finite
    number per class; and that the network for OpenVINO, if there is one, agrees with torch.  A detector must give boxes
    with confidences, none of which counts on empty glass, and different ones for an image with content.  Without torch,
    the network for OpenVINO answers alone.  For a slide-level head see
    :func:`pathology.bundle.head_verify.verify_head`.

    Parameters
    ----------
    model
        As for :func:`load_bundle`.

    Returns
    -------
    list of Check
        The last one carries the error, if there is one.

    Raises
    ------
    UnknownModelError
        If there is no such bundle.

    Examples
    --------
    >>> all(check.error is None for check in verify_bundle(bundle_path))
    True
    """
    directory = find_bundle_folder(model)
    if is_head_bundle(directory):
        return verify_head(directory)
    bundle: Bundle | None = None
    network: nn.Module | None = None
    with_torch = installed("torch")

    def card_is_valid() -> str:
        return f"{read_card(directory / CARD_NAME).name}"

    def folder_is_named() -> str:
        name = read_card(directory / CARD_NAME).name
        if directory.name != name:
            raise BundleError(
                f"name: the card says {name!r}, the folder is called {directory.name!r}",
                where=directory,
                remedy=f"Rename the folder to {name}",
            )
        return name

    def weights_are_the_cards() -> str:
        nonlocal bundle
        bundle = open_bundle(directory)
        return f"SHA-256 {bundle.card.weights_sha256[:12]}…"

    def weights_fit() -> str:
        nonlocal network
        assert bundle is not None
        if not with_torch and bundle.card.graph is not None:
            read_network(directory, bundle.card)
            return "OpenVINO's graph"
        network = bundle.network()
        return bundle.card.architecture

    def parameters_agree() -> str:
        assert bundle is not None
        if network is None:
            return _WITHOUT_TORCH
        found = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        if found != bundle.card.parameters:
            raise BundleError(
                f"parameters: the card says {bundle.card.parameters:,}, the network has {found:,}",
                where=directory / CARD_NAME,
                remedy="Correct the card",
            )
        return f"{found:,}"

    def trust_is_the_cards() -> str:
        assert bundle is not None
        domain = bundle.domain()
        for aggregator in bundle.card.aggregators if with_torch else ():
            bundle.aggregator(aggregator.name)
        return "none" if domain is None else f"{domain.centres.shape[1]} features"

    def int8_is_the_cards() -> str:
        assert bundle is not None
        int8 = bundle.card.int8
        bundle.int8()
        return "none" if int8 is None else f"SHA-256 {int8.constants_sha256[:12]}…"

    def graph_agrees() -> str:
        assert bundle is not None
        return "none" if bundle.card.graph is None else str(check_graph(directory, bundle.card))

    def boxes_are_boxes(detector: nn.Module, blank: Tensor) -> str:
        import torch

        network: Any = detector
        if not hasattr(network, "candidates"):
            raise BundleError(
                "task: this network does not output boxes", where=directory / CARD_NAME, remedy="Correct the card"
            )
        with torch.inference_mode():
            rows = network.candidates(blank)
            classes = network.decode(network(blank), blank.shape[-1]).shape[-1] - 4
        assert bundle is not None
        if classes != len(bundle.card.classes):
            raise BundleError(
                f"classes: the card names {len(bundle.card.classes)}, the network has {classes}",
                where=directory / CARD_NAME,
            )
        if not bool(torch.isfinite(rows).all()) or not bool(((rows[..., 4] >= 0) & (rows[..., 4] <= 1)).all()):
            raise BundleError("the weights give invalid boxes for a blank patch", where=directory)
        nothing_on_glass(network)
        return f"{rows.shape[1]} candidates, {bundle.card.patch} px at {bundle.card.mpp:g} µm/px"

    def nothing_on_glass(detector: Any) -> None:  # noqa: ANN401 - one of several networks with candidates
        """Refuse weights that ignore the image, and a threshold that glass exceeds."""
        import torch

        assert bundle is not None
        card = bundle.card
        assert card.detection is not None
        side = (3, card.patch, card.patch)
        noise = torch.rand(side, generator=torch.Generator().manual_seed(0))
        pictures = torch.stack([torch.full(side, shade / 255) for shade in _GLASS] + [noise])
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in card.normalisation.model_dump().values())
        with torch.inference_mode():
            rows = detector.candidates((pictures - mean) / std)
        if torch.equal(rows[0], rows[-1]):
            raise BundleError(
                "the weights give the same boxes for noise as for glass: they ignore the image",
                where=directory,
                remedy="Copy the complete bundle again, or retrain",
            )
        surest = rows[: len(_GLASS), :, 4].max()
        # As the engines do, by the card's calibration of the confidence (Platt 1999).
        slope, intercept = (float(card.calibration.get(n, d)) for n, d in (("slope", 1.0), ("intercept", 0.0)))
        score = float(torch.sigmoid(slope * torch.logit(surest, eps=1e-6) + intercept))
        if score >= card.detection.threshold:
            raise BundleError(
                f"on empty glass it has a counted detection: score {score:.2f}, threshold {card.detection.threshold:g}",
                where=directory,
                remedy="Train longer, or correct detection.threshold in the card",
            )

    def outputs_agree() -> str:
        assert bundle is not None
        if network is None:
            return _WITHOUT_TORCH
        import torch

        card = bundle.card
        blank = torch.zeros(1, 3, card.patch, card.patch)
        if card.task == "detection":
            return boxes_are_boxes(network, blank)
        with torch.inference_mode():
            logits = network(blank)
        if tuple(logits.shape) != (1, len(card.classes)):
            raise BundleError(
                f"classes: the card names {len(card.classes)}, the network outputs {tuple(logits.shape)[1:]} per patch",
                where=directory / CARD_NAME,
            )
        if not bool(torch.isfinite(logits).all()):
            raise BundleError("the weights give a non-finite output for a blank patch", where=directory)
        return f"{len(card.classes)} classes, {card.patch} px at {card.mpp:g} µm/px"

    steps: list[tuple[str, Callable[[], str]]] = [
        ("the card is valid", card_is_valid),
        ("the folder has the model's name", folder_is_named),
        ("the weights match the card", weights_are_the_cards),
        ("the weights match the network", weights_fit),
        ("the number of parameters matches the card", parameters_agree),
        ("the files behind trust match the card", trust_is_the_cards),
        ("the 8-bit network matches the card", int8_is_the_cards),
        ("a blank patch gives the output that the card declares", outputs_agree),
        ("the network for OpenVINO agrees with torch", graph_agrees),
    ]
    return checked(steps)
