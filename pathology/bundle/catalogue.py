"""Finding bundles by name, loading them, and checking that they are what their cards say."""

from __future__ import annotations

import difflib
import os
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pathology.bundle.card import CARD_NAME, Card, read_card
from pathology.bundle.domain import read_domain
from pathology.bundle.int8 import int8_graph
from pathology.bundle.learned_aggregator import read_aggregator
from pathology.bundle.tiatoolbox_zoo import ZOO_PREFIX, zoo_bundle
from pathology.bundle.weights import check_weights, load_weights, read_state_dict, refuse_unsafe, weights_path
from pathology.errors import BundleError, PathologyError, UnknownArchitectureError, UnknownModelError
from pathology.networks.registry import architectures, build_network

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pathology.training.out_of_domain import FeatureDomain

__all__ = [
    "Bundle",
    "Check",
    "Listed",
    "build_card_network",
    "list_bundles",
    "load_bundle",
    "search_path",
    "user_folder",
    "verify_bundle",
]

_GLASS: Final = (240, 255)
"""Grey values of empty glass, of 255: as scanners give it, and white."""

ENVIRONMENT: Final = "PATHOLOGY_MODELS"
"""Environment variable with the user's own model folders, separated as in ``PATH``."""

_APPLICATION: Final = "sarcoma-pathology"


@dataclass(frozen=True)
class Bundle:
    """A model whose card is valid and whose weights are the card's.

    Attributes
    ----------
    card : Card
        The validated card.
    directory : Path
        The bundle's folder.
    """

    card: Card
    directory: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def weights(self) -> Path:
        """The weights file."""
        return weights_path(self.directory)

    def domain(self) -> FeatureDomain | None:
        """Read where the network's features lie for its training data; ``None`` where the card has no such rule.

        Raises
        ------
        WeightsHashError, BundleError
            If the file is not the card's or missing.
        """
        rule = self.card.trust.out_of_domain if self.card.trust is not None else None
        return None if rule is None else read_domain(self.directory, rule)

    def aggregator(self, name: str) -> nn.Module:
        """Build a learned aggregator with its weights, in evaluation mode on the CPU; see
        :mod:`pathology.networks.mil`.

        Raises
        ------
        BundleError
            If the bundle has none of this name, or its file does not fit the card.
        WeightsHashError
            If the file is not the card's.
        """
        return read_aggregator(self.directory, self.card, name)

    def int8(self) -> Path | None:
        """Return the file of the network in 8-bit integers, checked; ``None`` where the card has none.

        Raises
        ------
        WeightsHashError, BundleError
            If a file is not the card's or missing.
        """
        return None if self.card.int8 is None else int8_graph(self.directory, self.card.int8)

    def network(self) -> nn.Module:
        """Build the network with its weights.

        Returns
        -------
        torch.nn.Module
            In evaluation mode, fp32, on the CPU; takes normalised ``(B, 3, H, W)`` and gives ``(B, C)`` logits.

        Raises
        ------
        UnknownArchitectureError
            If this version has no such network.
        WeightsHashError
            If the weights have changed since the bundle was loaded.
        BundleError
            If the weights do not fit the network.
        """
        import torch

        path = self.weights
        check_weights(path, self.card.weights_sha256)
        state = read_state_dict(path)
        # Without memory: the weights are put in place of random ones that nobody needs to draw.
        with torch.device("meta"):
            network = build_card_network(self.card, where=self.directory / CARD_NAME)
        load_weights(network, state, where=path)
        return network.eval()


@dataclass(frozen=True)
class Listed:
    """One folder of the catalogue.

    Attributes
    ----------
    name : str
        The folder's name, which is the bundle's name.
    directory : Path
        The folder.
    card : Card or None
        ``None`` if the bundle is broken.
    error : PathologyError or None
        Why it is broken.
    hidden_by : Path or None
        Folder of a bundle of the same name that is found first.
    """

    name: str
    directory: Path
    card: Card | None = None
    error: PathologyError | None = None
    hidden_by: Path | None = None


@dataclass(frozen=True)
class Check:
    """One thing that was verified.

    Attributes
    ----------
    what : str
        What was looked at.
    error : PathologyError or None
        ``None`` if it holds.
    found : str
        What was seen, such as the hash.
    """

    what: str
    error: PathologyError | None = None
    found: str = ""


def user_folder() -> Path:
    """Return the folder of the user's own bundles: the first of ``PATHOLOGY_MODELS``, else the platform's place.

    ``%LOCALAPPDATA%`` on Windows, ``~/Library/Application Support`` on macOS, ``$XDG_DATA_HOME`` or
    ``~/.local/share`` elsewhere (XDG Base Directory Specification 0.8), there ``sarcoma-pathology/models``.
    """
    given = _environment_folders()
    if given:
        return given[0]
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / _APPLICATION / "models"


def search_path() -> tuple[Path, ...]:
    """Return the folders in which bundles are looked for, first to last.

    The user's folders (``PATHOLOGY_MODELS``, then the platform's) stand before the shipped ones: ``models/`` beside
    the package in a checkout, ``share/sarcoma-pathology/models`` of an installation.
    """
    shipped = Path(__file__).resolve().parents[2] / "models"
    installed = Path(sysconfig.get_path("data")) / "share" / _APPLICATION / "models"
    return tuple(dict.fromkeys([*_environment_folders(), user_folder(), shipped, installed]))


def _environment_folders() -> list[Path]:
    parts = os.environ.get(ENVIRONMENT, "").split(os.pathsep)
    return [Path(part).expanduser().absolute() for part in parts if part.strip()]


def load_bundle(model: str | Path) -> Bundle:
    """Find a bundle, validate its card and compare its weights with the card's hash.

    Does not import torch; :meth:`Bundle.network` does.

    Parameters
    ----------
    model
        The name of a bundle on the search path, or the path of a bundle's folder.  A bare name is looked up on the
        search path first.  ``tiatoolbox:NAME`` is a patch classifier of TIAToolbox's zoo
        (:mod:`pathology.bundle.tiatoolbox_zoo`), made a bundle in the cache folder at its first use.

    Raises
    ------
    UnknownModelError
        If there is no such bundle; the message lists those there are.
    UnsafeWeightsError
        If ``model`` is, or the bundle holds, a file that can run code when loaded.
    UnknownArchitectureError
        If this version does not have the card's network.
    WeightsHashError
        If the weights are not the card's.
    BundleError
        If the card is not valid or the bundle is incomplete, or the weights of a model of TIAToolbox's zoo cannot be
        fetched.
    MissingDependencyError
        If a model of TIAToolbox's zoo is used for the first time and that library is not installed.
    """
    return _open(_find(model))


def _find(model: str | Path) -> Path:
    if isinstance(model, str) and model.startswith(ZOO_PREFIX):
        return zoo_bundle(model.removeprefix(ZOO_PREFIX))
    path = Path(model).expanduser()
    bare = isinstance(model, str) and len(path.parts) == 1 and not model.startswith(("~", "."))
    if bare:
        for folder in search_path():
            if (folder / path / CARD_NAME).is_file():
                return folder / path
    if path.is_dir():
        return path.absolute()
    if path.is_file():
        refuse_unsafe(path)
        if path.name == CARD_NAME:
            return path.absolute().parent
        raise BundleError(
            "a model is a folder with a card and weights, and this is a file",
            where=path,
            remedy="Give the folder, or make one of it: pathology models import",
        )
    # A name such as `densenet.pt` that is not there is still best answered with why it would not be taken.
    refuse_unsafe(path)
    raise _unknown(str(model))


def _unknown(name: str) -> UnknownModelError:
    known = sorted({listed.name for listed in list_bundles() if listed.error is None})
    if not known:
        places = ", ".join(str(folder) for folder in search_path())
        return UnknownModelError(f"no model is called {name!r}, and there is none in {places}")
    close = difflib.get_close_matches(name, known, n=1)
    return UnknownModelError(
        f"no model is called {name!r}; there are {', '.join(known)}"
        if len(known) > 1
        else f"no model is called {name!r}; there is {known[0]}",
        remedy=f"You may have meant {close[0]}" if close else "See: pathology models list",
    )


def _open(directory: Path) -> Bundle:
    card = read_card(directory / CARD_NAME)
    if card.architecture not in architectures():
        raise _unknown_architecture(card, directory / CARD_NAME)
    check_weights(weights_path(directory), card.weights_sha256)
    return Bundle(card, directory)


def _unknown_architecture(card: Card, where: Path | None) -> UnknownArchitectureError:
    return UnknownArchitectureError(
        f"architecture: no network is called {card.architecture!r}; there are {', '.join(architectures())}",
        where=where,
        remedy="Correct the card, or update the program if the model is newer than it",
    )


def build_card_network(card: Card, *, where: Path | None = None) -> nn.Module:
    """Build the network a card names, with random weights.

    Parameters
    ----------
    card
        The card.
    where
        The card's file, for the error message.

    Raises
    ------
    UnknownArchitectureError
        If this version has no such network.
    BundleError
        If the network does not take the card's ``architecture_options``.
    """
    if card.architecture not in architectures():
        raise _unknown_architecture(card, where)
    try:
        return build_network(card.architecture, len(card.classes), **card.architecture_options)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"architecture_options: {card.architecture} cannot be built with them ({error})",
            where=where,
            remedy="Correct the card",
        ) from error


def list_bundles() -> list[Listed]:
    """Return every bundle on the search path, by name; a broken one with its error.

    Cards are validated, weights are only looked for: :func:`verify_bundle` reads them.
    """
    listed: list[Listed] = []
    first: dict[str, Path] = {}
    for folder in search_path():
        try:
            directories = sorted(child for child in folder.iterdir() if child.is_dir() and child.name[0] not in "._")
        except OSError:
            continue  # A folder of the search path need not exist.
        for directory in directories:
            name = directory.name
            hidden_by = first.get(name)
            if (directory / CARD_NAME).is_file():
                first.setdefault(name, directory)
            try:
                card = read_card(directory / CARD_NAME)
                if card.architecture not in architectures():
                    raise _unknown_architecture(card, directory / CARD_NAME)
                weights_path(directory)
            except PathologyError as error:
                listed.append(Listed(name, directory, error=error, hidden_by=hidden_by))
            else:
                listed.append(Listed(name, directory, card=card, hidden_by=hidden_by))
    return sorted(listed, key=lambda entry: (entry.name, entry.hidden_by is not None))


def verify_bundle(model: str | Path) -> list[Check]:
    """Check a bundle from card to output; everything after the first failure is left out.

    In this order: the card's schema; that the folder bears the bundle's name; the weights' hash; that the network
    can be built and the weights fit it by name and shape; the number of learnable parameters; the files that trust
    and learned aggregators rest on; the files of the network in 8-bit integers, if it has one; that one blank patch
    gives one finite number per class, or of a detector boxes with confidences, none of which counts on empty glass, and
    others where there is something to see.

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
    """
    directory = _find(model)
    bundle: Bundle | None = None
    network: nn.Module | None = None

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
        bundle = _open(directory)
        return f"SHA-256 {bundle.card.weights_sha256[:12]}…"

    def weights_fit() -> str:
        nonlocal network
        assert bundle is not None
        network = bundle.network()
        return bundle.card.architecture

    def parameters_agree() -> str:
        assert bundle is not None
        assert network is not None
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
        for aggregator in bundle.card.aggregators:
            bundle.aggregator(aggregator.name)
        return "none" if domain is None else f"{domain.centres.shape[1]} features"

    def int8_is_the_cards() -> str:
        assert bundle is not None
        int8 = bundle.card.int8
        bundle.int8()
        return "none" if int8 is None else f"SHA-256 {int8.constants_sha256[:12]}…"

    def boxes_are_boxes(detector: nn.Module, blank: Tensor) -> str:
        import torch

        network: Any = detector
        if not hasattr(network, "candidates"):
            raise BundleError(
                "task: this network gives no boxes", where=directory / CARD_NAME, remedy="Correct the card"
            )
        with torch.inference_mode():
            rows = network.candidates(blank)
            classes = network.decode(network(blank), blank.shape[-1]).shape[-1] - 4
        assert bundle is not None
        if classes != len(bundle.card.classes):
            raise BundleError(
                f"classes: the card names {len(bundle.card.classes)}, the network tells {classes} apart",
                where=directory / CARD_NAME,
            )
        if not bool(torch.isfinite(rows).all()) or not bool(((rows[..., 4] >= 0) & (rows[..., 4] <= 1)).all()):
            raise BundleError("the weights give boxes that are none for a blank patch", where=directory)
        nothing_on_glass(network)
        return f"{rows.shape[1]} places, {bundle.card.patch} px at {bundle.card.mpp:g} µm/px"

    def nothing_on_glass(detector: Any) -> None:  # noqa: ANN401 - one of several networks with candidates
        """Refuse weights that do not look at the picture, and a threshold that glass exceeds."""
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
                "the weights give the same boxes for noise as for glass: they look at nothing",
                where=directory,
                remedy="Copy the bundle again, whole, or train again",
            )
        surest = rows[: len(_GLASS), :, 4].max()
        # As the engines do, by the card's calibration of the confidence (Platt 1999).
        slope, intercept = (float(card.calibration.get(n, d)) for n, d in (("slope", 1.0), ("intercept", 0.0)))
        score = float(torch.sigmoid(slope * torch.logit(surest, eps=1e-6) + intercept))
        if score >= card.detection.threshold:
            raise BundleError(
                f"on empty glass it finds what counts: score {score:.2f}, threshold {card.detection.threshold:g}",
                where=directory,
                remedy="Train longer, or correct detection.threshold in the card",
            )

    def outputs_agree() -> str:
        import torch

        assert bundle is not None
        assert network is not None
        card = bundle.card
        blank = torch.zeros(1, 3, card.patch, card.patch)
        if card.task == "detection":
            return boxes_are_boxes(network, blank)
        with torch.inference_mode():
            logits = network(blank)
        if tuple(logits.shape) != (1, len(card.classes)):
            raise BundleError(
                f"classes: the card names {len(card.classes)}, the network gives {tuple(logits.shape)[1:]} per patch",
                where=directory / CARD_NAME,
            )
        if not bool(torch.isfinite(logits).all()):
            raise BundleError("the weights give no finite number for a blank patch", where=directory)
        return f"{len(card.classes)} classes, {card.patch} px at {card.mpp:g} µm/px"

    steps: list[tuple[str, Callable[[], str]]] = [
        ("the card is valid", card_is_valid),
        ("the folder bears the model's name", folder_is_named),
        ("the weights are the card's", weights_are_the_cards),
        ("the weights fit the network", weights_fit),
        ("the number of parameters is the card's", parameters_agree),
        ("what trust rests on is the card's", trust_is_the_cards),
        ("the network in 8-bit integers is the card's", int8_is_the_cards),
        ("a blank patch gives what the card says", outputs_agree),
    ]
    checks: list[Check] = []
    for what, step in steps:
        try:
            checks.append(Check(what, found=step()))
        except PathologyError as error:
            checks.append(Check(what, error=error))
            break
    return checks
