"""Putting weights trained elsewhere into the body of a network: all of it, or none.

A network that starts half from trained weights and half from chance trains, and looks like one that starts well.  So
the tensors that the body needs are counted, and weights that lack one are refused.  Only what no weights can bring
stays fresh: a head for other classes, a first convolution for other channels, and counters of batches.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from torch import Tensor, nn
from torchvision.models import VGG, AlexNet, DenseNet, GoogLeNet, Inception3, ResNet

from pathology.errors import BundleError
from pathology.networks.densenet import AdaptiveConcatPool

__all__ = ["head_of", "load_body"]

_COUNTER: Final = "num_batches_tracked"
"""Last part of the names of batch counters.  Published files lack them, and no output depends on them."""

_WRAPPERS: Final = ("module.", "model.", "backbone.", "network.", "encoder.")
"""What training programs put in front of every name."""

_NAMES_SHOWN: Final = 3


def head_of(network: nn.Module) -> tuple[str, ...]:
    """Return the beginnings of the names of a network's head: what depends on the classes.

    Parameters
    ----------
    network
        A network of this package, or any other; of one that is not known, the last fully connected layer is its head.

    Examples
    --------
    >>> from pathology.networks.registry import build_network
    >>> head_of(build_network("densenet121", 3))
    ('classifier.',)
    """
    if isinstance(network, DenseNet):
        return ("classifier.",)
    if isinstance(network, Inception3 | GoogLeNet):
        return ("fc.", "AuxLogits.fc.", "aux1.fc2.", "aux2.fc2.")
    if isinstance(network, ResNet):
        return ("fc.",)
    if isinstance(network, AlexNet | VGG):
        return (f"classifier.{len(network.classifier) - 1}.",)
    if isinstance(network, nn.Sequential) and any(isinstance(m, AdaptiveConcatPool) for m in network.modules()):
        return ("1.",)
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return (f"{linear[-1]}.",) if linear else ()


def load_body(network: nn.Module, state: Mapping[str, Tensor], source: str) -> str:
    """Load every tensor that fits, if the whole body is among them.

    Names may be those of this package, of torchvision's published files (``denselayer1.norm.1``) or of torchvision in
    memory (``denselayer1.norm1``), with or without a wrapper in front (``module.``).

    Parameters
    ----------
    network
        Changed in place.
    state
        Tensors by name.
    source
        Where they come from, for the card and for errors.

    Returns
    -------
    str
        For the card: how many tensors were loaded, and what stays fresh.

    Raises
    ------
    BundleError
        If a tensor that the body needs is missing or has another shape.
    """
    own = network.state_dict()
    given = _named_as(own, state)
    fitting = {name: tensor for name, tensor in given.items() if own[name].shape == tensor.shape}
    heads = head_of(network)
    widened = _first_convolution(own, given)
    needed = [n for n in own if not n.startswith(heads) and not n.endswith(_COUNTER) and n != widened]
    missing = [name for name in needed if name not in fitting]
    if missing:
        raise BundleError(
            f"{source} hold {len(needed) - len(missing)} of the {len(needed)} tensors that the body of this network "
            f"needs; without {_some(missing)}",
            remedy="Use weights of the same architecture, or random",
        )
    network.load_state_dict(fitting, strict=False)
    fresh = [name for name in own if name not in fitting]
    parts = []
    if head := [name for name in fresh if name.startswith(heads) and not name.endswith(_COUNTER)]:
        parts.append(f"the head ({len(head)})")
    if widened is not None and widened in fresh:
        parts.append(f"the first convolution, for {own[widened].shape[1]} channels")
    if counters := [name for name in fresh if name.endswith(_COUNTER)]:
        parts.append(f"batch counters ({len(counters)})")
    said = f"{source}: {len(fitting)} of {len(own)} tensors"
    return f"{said}; fresh: {', '.join(parts)}" if parts else said


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    return f"{shown} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else shown


def _bare(name: str) -> str:
    """Return a name without what files write differently: ``norm.1`` and ``norm1`` are one layer."""
    return re.sub(r"[-_.]", "", name).lower()


def _named_as(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the network's own names, by the way of naming that finds most of them."""
    # The body of Foersch's network is torchvision's ``features``, in a sequence of its own.
    renamings = (("", ""), ("features.", "0.0."), ("0.0.", "features."))
    ways = [partial(_renamed, wrapper, *renaming) for wrapper in ("", *_WRAPPERS) for renaming in renamings]
    tables = [{name: name for name in own}]
    if all(count == 1 for count in Counter(map(_bare, own)).values()):
        tables.append({_bare(name): name for name in own})
    best: dict[str, Tensor] = {}
    for table in tables:
        bare = table is not tables[0]
        for way in ways:
            found = _found(table, ((_bare(way(n)) if bare else way(n), t) for n, t in state.items()))
            if len(found) > len(best):
                best = found
    return best


def _renamed(wrapper: str, before: str, after: str, name: str) -> str:
    bare = name.removeprefix(wrapper)
    return after + bare.removeprefix(before) if before and bare.startswith(before) else bare


def _found(table: Mapping[str, str], tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return {table[name]: tensor for name, tensor in tensors if name in table}


def _first_convolution(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Return the name of a first convolution that takes other channels than the weights'; ``None``: it fits."""
    first = next((name for name, tensor in own.items() if tensor.ndim == 4), None)
    if first is None or first not in given:
        return None
    here, there = own[first].shape, given[first].shape
    same = len(there) == 4 and (here[0], here[2], here[3]) == (there[0], there[2], there[3])
    return first if same and here[1] != there[1] else None
