"""Find bundles by name, load them, and check them against their cards."""

from __future__ import annotations

import difflib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathology.bundle.card import CARD_NAME, Card, read_card
from pathology.bundle.domain import read_domain
from pathology.bundle.graph import graph_path
from pathology.bundle.head_card import HeadCard, is_head_bundle, read_head_card
from pathology.bundle.int8 import int8_graph
from pathology.bundle.learned_aggregator import read_aggregator
from pathology.bundle.tiatoolbox_zoo import ZOO_PREFIX, zoo_bundle
from pathology.bundle.weights import check_weights, load_weights, read_state_dict, refuse_unsafe, weights_path
from pathology.errors import BundleError, PathologyError, UnknownArchitectureError, UnknownModelError
from pathology.extras import installed, missing_extra
from pathology.formatting import RESEARCH_USE_ONLY, scale
from pathology.networks.registry import architectures, build_network
from pathology.notebook import html_summary
from pathology.settings import data_folder

if TYPE_CHECKING:
    from torch import nn

    from pathology.stats.out_of_distribution import FeatureDomain

__all__ = ["Bundle", "Listed", "build_card_network", "list_bundles", "load_bundle", "search_path", "user_folder"]


ENVIRONMENT: Final = "PATHOLOGY_MODELS"
"""Environment variable with the user's own model folders, separated as in ``PATH``."""

_APPLICATION: Final = "sarcoma-pathology"


@dataclass(frozen=True)
class Bundle:
    """A model with a valid card and matching weights.

    Attributes
    ----------
    card : Card
        The validated card.
    directory : Path
        The bundle's folder.
    """

    card: Card
    directory: Path

    def __repr__(self) -> str:
        card = self.card
        classes = "1 class" if len(card.classes) == 1 else f"{len(card.classes)} classes"
        return (
            f"Bundle({card.name!r}: {card.task}, {card.architecture}, {classes}, "
            f"patches of {card.patch} px at {scale(card.mpp)})"
        )

    def _repr_html_(self) -> str:
        """Show the essentials of the card in a notebook."""
        card = self.card
        facts = {
            "Model": f"{card.name} {card.version}",
            "Network": f"{card.architecture}, {card.parameters:,} parameters",
            "Classes": ", ".join(card.classes),
            "Patches": f"{card.patch} px at {scale(card.mpp)}",
            "Metrics": f"{len(card.metrics)} on the card",
            "Intended use": card.intended_use,
            "Licence": card.licence,
            "Note": RESEARCH_USE_ONLY,
        }
        return html_summary(card.title, facts)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card.name

    @property
    def weights(self) -> Path:
        """The weights file."""
        return weights_path(self.directory)

    def domain(self) -> FeatureDomain | None:
        """Read the feature distribution of the training data; ``None`` if the card has no out-of-distribution rule.

        Raises
        ------
        WeightsHashError, BundleError
            If the file is missing or its hash differs from the card's.
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
            If the file's hash differs from the card's.
        """
        return read_aggregator(self.directory, self.card, name)

    def int8(self) -> Path | None:
        """Return the verified file of the 8-bit network; ``None`` if the card has none.

        Raises
        ------
        WeightsHashError, BundleError
            If a file is missing or its hash differs from the card's.
        """
        return None if self.card.int8 is None else int8_graph(self.directory, self.card.int8)

    def graph(self) -> Path | None:
        """Return the verified file of the network for OpenVINO; ``None`` if the card has none.

        Raises
        ------
        WeightsHashError, BundleError
            If a file is missing or its hash differs from the card's.
        """
        return None if self.card.graph is None else graph_path(self.directory, self.card.graph)

    def network(self) -> nn.Module:
        """Build the network with its weights.

        Returns
        -------
        torch.nn.Module
            In evaluation mode, fp32, on the CPU; maps normalised ``(B, 3, H, W)`` to ``(B, C)`` logits.

        Raises
        ------
        UnknownArchitectureError
            If this version has no such network.
        WeightsHashError
            If the weights have changed since the bundle was loaded.
        BundleError
            If the weights do not match the network.
        MissingDependencyError
            If torch is not installed.
        """
        if not installed("torch"):
            raise missing_extra(f"building the network of {self.name} needs torch", "torch")
        import torch

        path = self.weights
        check_weights(path, self.card.weights_sha256)
        state = read_state_dict(path)
        # Without memory: the weights replace random ones that need not be drawn.
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
        ``None`` if the bundle is broken, or a head.
    head : HeadCard or None
        The card of a slide-level head.
    error : PathologyError or None
        Why it is broken.
    hidden_by : Path or None
        Folder of a bundle of the same name earlier on the search path.
    """

    name: str
    directory: Path
    card: Card | None = None
    head: HeadCard | None = None
    error: PathologyError | None = None
    hidden_by: Path | None = None


def user_folder() -> Path:
    """Return the user folder: the first of ``PATHOLOGY_MODELS``, otherwise ``models`` in the platform's data folder;
    see :func:`pathology.settings.data_folder`.
    """
    given = _environment_folders()
    if given:
        return given[0]
    return data_folder() / "models"


def search_path() -> tuple[Path, ...]:
    """Return the folders searched for bundles, in order.

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
        If there is no such bundle; the message lists the available ones.
    UnsafeWeightsError
        If ``model`` is, or the bundle holds, a file that can run code when loaded.
    UnknownArchitectureError
        If this version does not have the card's network.
    WeightsHashError
        If the weights' hash, or that of the network for OpenVINO, differs from the card's.
    BundleError
        If the card is not valid or the bundle is incomplete, or the weights of a model of TIAToolbox's zoo cannot be
        fetched.
    MissingDependencyError
        If a model of TIAToolbox's zoo is used for the first time and that library is not installed.

    Examples
    --------
    >>> load_bundle(bundle_path)
    Bundle('example': classification, densenet121, 3 classes, patches of 64 px at 1 µm/px)
    """
    return open_bundle(find_bundle_folder(model))


def find_bundle_folder(model: str | Path) -> Path:
    if isinstance(model, str) and model.startswith(ZOO_PREFIX):
        return zoo_bundle(model.removeprefix(ZOO_PREFIX))
    path = Path(model).expanduser()
    bare = isinstance(model, str) and len(path.parts) == 1 and not model.startswith(("~", "."))
    if bare:
        for folder in search_path():
            if (folder / path / CARD_NAME).is_file() or is_head_bundle(folder / path):
                return folder / path
    if path.is_dir():
        return path.absolute()
    if path.is_file():
        refuse_unsafe(path)
        if path.name == CARD_NAME:
            return path.absolute().parent
        raise BundleError(
            "a model is a folder with a card and weights, not a file",
            where=path,
            remedy="Give the folder, or import the file: pathology models import",
        )
    # A name such as `densenet.pt` that is not there is still best answered with why it would not be taken.
    refuse_unsafe(path)
    raise _unknown(str(model))


def _unknown(name: str) -> UnknownModelError:
    known = sorted({listed.name for listed in list_bundles() if listed.error is None})
    if not known:
        places = ", ".join(str(folder) for folder in search_path())
        return UnknownModelError(f"no model is called {name!r}; no models were found in {places}")
    close = difflib.get_close_matches(name, known, n=1)
    return UnknownModelError(
        f"no model is called {name!r}; available: {', '.join(known)}"
        if len(known) > 1
        else f"no model is called {name!r}; available: {known[0]}",
        remedy=f"The closest name is {close[0]}" if close else "See: pathology models list",
    )


def open_bundle(directory: Path) -> Bundle:
    card = read_card(directory / CARD_NAME)
    if card.architecture not in architectures():
        raise _unknown_architecture(card, directory / CARD_NAME)
    check_weights(weights_path(directory), card.weights_sha256)
    if card.graph is not None:
        graph_path(directory, card.graph)
    return Bundle(card, directory)


def _unknown_architecture(card: Card, where: Path | None) -> UnknownArchitectureError:
    return UnknownArchitectureError(
        f"architecture: no network is called {card.architecture!r}; available: {', '.join(architectures())}",
        where=where,
        remedy="Correct the card, or update the program if the model is newer",
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
            f"architecture_options: {card.architecture} cannot be built with these options ({error})",
            where=where,
            remedy="Correct the card",
        ) from error


def list_bundles() -> list[Listed]:
    """Return every bundle on the search path, by name; a broken one with its error.

    Cards are validated; weights must exist but are not read (see :func:`verify_bundle`).

    Examples
    --------
    >>> [(bundle.name, bundle.error) for bundle in list_bundles()][:1]
    [('mitosis-yolov4', None)]
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
            if (directory / CARD_NAME).is_file() or is_head_bundle(directory):
                first.setdefault(name, directory)
            try:
                if is_head_bundle(directory):
                    head = read_head_card(directory)
                    listed.append(Listed(name, directory, head=head, hidden_by=hidden_by))
                    continue
                card = read_card(directory / CARD_NAME)
                if card.architecture not in architectures():
                    raise _unknown_architecture(card, directory / CARD_NAME)
                weights_path(directory)
            except PathologyError as error:
                listed.append(Listed(name, directory, error=error, hidden_by=hidden_by))
            else:
                listed.append(Listed(name, directory, card=card, hidden_by=hidden_by))
    return sorted(listed, key=lambda entry: (entry.name, entry.hidden_by is not None))
