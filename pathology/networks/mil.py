"""Networks that aggregate patches to one slide prediction: multiple-instance learning on frozen features.

=============== =================================================================== ======================
name            publication                                                         at 1024 features and
                                                                                    2 classes
=============== =================================================================== ======================
``attention``   CLAM-SB, "small": Lu et al. 2021, Nature Biomedical Engineering     790,791 parameters
                5:555; gated attention of Ilse, Tomczak and Welling 2018, ICML
``transformer`` Set Transformer: Lee et al. 2019, ICML: two induced set attention   1,592,322 parameters
                blocks (16 points, 256 wide, 4 heads) and pooling by attention
=============== =================================================================== ======================

Both take a slide's patches in any order and number; neither uses their positions.  The attention of ``attention`` shows
which patches drove the prediction; that of the transformer does not, since it mixes all patches before pooling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AGGREGATORS", "ClamSingleBranch", "MilOutput", "SetTransformer", "build_aggregator"]


class MilOutput(NamedTuple):
    """Output of an aggregator for one slide.

    Attributes
    ----------
    logits
        ``(C,)``.
    attention
        ``(N,)`` weight of each patch; they sum to 1.
    """

    logits: Tensor
    attention: Tensor


class ClamSingleBranch(nn.Module):
    """CLAM with a single attention branch, size "small".

    Parameters
    ----------
    features
        ``F``, number of features per patch.
    classes
        ``C``, number of classes.
    dropout
        Dropout rate after each hidden layer in training; the publication's code uses 0.25.
    """

    hidden: Final = 512
    gate: Final = 256

    def __init__(self, features: int, classes: int, *, dropout: float = 0.25) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(features, self.hidden), nn.ReLU(), nn.Dropout(dropout))
        self.signal = nn.Sequential(nn.Linear(self.hidden, self.gate), nn.Tanh(), nn.Dropout(dropout))
        self.openness = nn.Sequential(nn.Linear(self.hidden, self.gate), nn.Sigmoid(), nn.Dropout(dropout))
        self.weight = nn.Linear(self.gate, 1)
        self.classifier = nn.Linear(self.hidden, classes)
        self.instances = nn.ModuleList(nn.Linear(self.hidden, 2) for _ in range(classes))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def _attended(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embedded = self.embed(features)
        return embedded, self.weight(self.signal(embedded) * self.openness(embedded))[:, 0]

    def forward(self, features: Tensor) -> MilOutput:
        """Classify one slide from its ``(N, F)`` patches."""
        embedded, scores = self._attended(features)
        attention = functional.softmax(scores, dim=0)
        return MilOutput(self.classifier(attention @ embedded), attention)

    def with_instance_loss(self, features: Tensor, label: int, *, k: int = 8) -> tuple[MilOutput, Tensor]:
        """Classify one slide and return the clustering loss of its patches (Lu et al. 2021, Methods).

        The instance classifier of the slide's own class learns to separate its ``k`` most attended patches (positive)
        from its ``k`` least attended (negative); those of the other classes learn that the most attended patches are
        negative.  The loss is cross-entropy, where the publication uses a smooth SVM loss.

        Parameters
        ----------
        features
            ``(N, F)``.
        label
            The slide's class.
        k
            Patches of each kind, at most half of all patches.
        """
        embedded, scores = self._attended(features)
        attention = functional.softmax(scores, dim=0)
        output = MilOutput(self.classifier(attention @ embedded), attention)
        number = max(1, min(k, len(features) // 2))
        most = embedded[scores.topk(number).indices]
        losses = []
        for index, classifier in enumerate(self.instances):
            if index == label:
                chosen = torch.cat([most, embedded[scores.topk(number, largest=False).indices]])
                truth = torch.arange(2, device=features.device).flip(0).repeat_interleave(number)
            else:
                chosen, truth = most, torch.zeros(number, dtype=torch.long, device=features.device)
            losses.append(functional.cross_entropy(classifier(chosen), truth))
        return output, torch.stack(losses).mean()


class _AttentionBlock(nn.Module):
    """Multihead attention block ``MAB(X, Y)`` of the Set Transformer, with layer normalisation (equation 6)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.feed = nn.Linear(width, width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(M, W)`` and the attention ``(heads, M, N)``."""
        query, key, value = self.query(asking), self.key(asked), self.value(asked)

        def split(x: Tensor) -> Tensor:
            return x.view(len(x), self.heads, -1).transpose(0, 1)

        width = query.shape[1]
        attention = functional.softmax(split(query) @ split(key).transpose(1, 2) / width**0.5, dim=2)
        hidden = self.first(query + (attention @ split(value)).transpose(0, 1).reshape(len(query), width))
        return self.second(hidden + functional.relu(self.feed(hidden))), attention


class _InducedBlock(nn.Module):
    """Induced set attention block (equations 9 and 10): cost is linear in the number of patches, not quadratic."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.empty(points, width))
        nn.init.xavier_uniform_(self.points)
        self.inwards, self.outwards = _AttentionBlock(width, heads), _AttentionBlock(width, heads)

    def forward(self, patches: Tensor) -> Tensor:
        """Map ``(N, W)`` to ``(N, W)``."""
        summary, _ = self.inwards(self.points, patches)
        result: Tensor = self.outwards(patches, summary)[0]
        return result


class SetTransformer(nn.Module):
    """The Set Transformer as a classifier of slides.

    Parameters
    ----------
    features
        ``F``, number of features per patch.
    classes
        ``C``, number of classes.
    width, heads, points
        Size of the attention blocks.
    """

    def __init__(self, features: int, classes: int, *, width: int = 256, heads: int = 4, points: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.encoder = nn.Sequential(*(_InducedBlock(width, heads, points) for _ in range(2)))
        self.seed = nn.Parameter(torch.empty(1, width))
        nn.init.xavier_uniform_(self.seed)
        self.pool = _AttentionBlock(width, heads)
        self.classifier = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> MilOutput:
        """Classify one slide from its ``(N, F)`` patches; returns the pooling attention, averaged over heads."""
        pooled, attention = self.pool(self.seed, self.encoder(self.embed(features)))
        return MilOutput(self.classifier(pooled)[0], attention[:, 0].mean(dim=0))


AGGREGATORS: Final[dict[str, Callable[..., nn.Module]]] = {"attention": ClamSingleBranch, "transformer": SetTransformer}
"""Builders by name; each takes features and classes, and options by keyword."""


def build_aggregator(name: str, features: int, classes: int, **options: float) -> nn.Module:
    """Build an aggregator with random weights.

    Parameters
    ----------
    name
        One of :data:`AGGREGATORS`.
    features
        ``F``, number of features per patch.
    classes
        ``C``, number of classes.
    options
        Keyword arguments of that network.

    Raises
    ------
    LookupError
        If the name is unknown.
    """
    try:
        build = AGGREGATORS[name]
    except KeyError:
        raise LookupError(f"unknown aggregator {name!r}; choose from {', '.join(AGGREGATORS)}") from None
    return build(features, classes, **options)
