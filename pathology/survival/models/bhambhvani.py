"""The network of Bhambhvani 2021 for genitourinary rhabdomyosarcoma, with unbiased and with published model selection.

Architecture and loss follow the authors' public code.  The evaluation does not: in that code, the epoch is
selected by the AUC on the *test* fold, a fold is restarted until that AUC reaches 0.85, and patients followed
for less than 60 months without dying are excluded.  :class:`Bhambhvani` replaces the first by held-out *training*
patients and the second by inverse-probability-of-censoring weights; :func:`published_rule` repeats the published
selection, so that its optimism can be measured, on random labels for instance.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.splits import grouped_k_fold
from pathology.survival.metrics import inverse_probability_weights
from pathology.survival.models.base import SurvivalModel
from pathology.survival.nonparametric import StepFunction, nelson_aalen
from pathology.survival.outcome import Outcome, outcome_strata

__all__ = ["Bhambhvani", "BhambhvaniNetwork", "BhambhvaniSettings", "PublishedRuleResult", "published_rule"]

Floats = npt.NDArray[np.float64]
Tensor = torch.Tensor
DAYS_PER_MONTH = 365.25 / 12


class BhambhvaniSettings(Record):
    """Training settings; defaults are the published values unless stated otherwise."""

    horizon: Annotated[float, Field(gt=0)] = 60 * DAYS_PER_MONTH
    """Prediction horizon in the unit of the outcome (days): 60 months."""
    unit: Annotated[float, Field(gt=0)] = DAYS_PER_MONTH
    """Length of a month, the time unit of the loss, in the unit of the outcome."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Learning rate of Adam."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Weight decay of Adam (coupled)."""
    l1: Annotated[float, Field(ge=0)] = 1e-4
    """Weight of the L1 penalty."""
    epochs: Annotated[int, Field(ge=1)] = 5000
    """Maximum number of full-batch epochs."""
    patience: Annotated[int, Field(ge=1)] = 100
    """Early stopping: epochs without a better held-out loss.  Ours; the published code has no early stopping."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of networks in the ensemble, each stopped on its own fold of the training patients."""


class BhambhvaniNetwork(nn.Module):
    """A trunk of eight layers of width 256 and two heads; 683,010 parameters with 9 inputs.

    Parameters
    ----------
    inputs
        Number of covariates, 9 as published.
    """

    def __init__(self, inputs: int = 9) -> None:
        super().__init__()
        width, depth = 256, 8
        trunk = [_block(inputs if i == 0 else width, width) for i in range(depth)]
        self.trunk = nn.Sequential(*trunk)
        self.pred = _head(width)
        self.prob = _head(width)

    def forward(self, x: Tensor, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Return the probability of surviving the horizon and the survival time.

        Parameters
        ----------
        x
            Covariates, shape (N, P).
        epoch
            Epoch: the slope of the leaky ReLU of the time head decreases as 1 / (epoch / 10 + 1).

        Returns
        -------
        tuple of Tensor
            Probability 0 to 1 and months, each of shape (N,).
        """
        features = self.trunk(x)
        probability = torch.sigmoid(self.prob(features))[:, 0]
        months = functional.leaky_relu(self.pred(features), 1 / (epoch / 10 + 1))[:, 0]
        return probability, months

    def l1(self) -> Tensor:
        """Return the sum of the absolute values of all parameters."""
        return torch.stack([p.abs().sum() for p in self.parameters()]).sum()


class PublishedRuleResult(Record):
    """AUC reported by the published selection rule, and unbiased AUC of the same networks."""

    reported: tuple[float, ...]
    """AUC of each fold by the published rule: the best test AUC over all epochs and restarts."""
    honest: tuple[float, ...]
    """AUC of each fold of the same training, stopped without using the test fold."""
    restarts: tuple[int, ...]
    """Number of restarts of each fold because its test AUC was below the target."""


class Bhambhvani(SurvivalModel):
    """The network with unbiased selection: early stopping on training patients, censoring weights, ensemble.

    Both terms of the loss require the status at the horizon; patients censored earlier get weight 0, and patients
    with known status are upweighted (:func:`~pathology.survival.metrics.inverse_probability_weights`).  The time
    head learns the survival time up to the horizon.
    """

    kind: ClassVar[str] = "bhambhvani"
    settings_type: ClassVar[type[Record]] = BhambhvaniSettings
    settings: BhambhvaniSettings

    def __init__(self, settings: BhambhvaniSettings | None = None) -> None:
        super().__init__(settings or BhambhvaniSettings())
        self.networks: list[BhambhvaniNetwork] = []
        self._shape = StepFunction(np.zeros(0), np.zeros(0), 0.0)
        self._inputs = 0

    def fit(self, x: Floats, outcome: Outcome, *, seed: int = 0) -> Self:
        """Train one network per fold; see :meth:`SurvivalModel.fit`."""
        weights = inverse_probability_weights(outcome, outcome, self.settings.horizon)
        survived = outcome.time >= self.settings.horizon
        if not (weights[survived] > 0).any() or not (weights[~survived] > 0).any():
            raise UsageError(
                f"no survivors or no events at the horizon {self.settings.horizon:g}",
                remedy="Choose a horizon that some patients survive and some do not",
            )
        self._inputs = x.shape[1]
        data = _Data(x, np.minimum(outcome.time, self.settings.horizon) / self.settings.unit, survived, weights)
        folds = grouped_k_fold(range(len(outcome)), outcome_strata(outcome, parts=2), k=self.settings.folds, seed=seed)
        self.networks = []
        with torch.random.fork_rng(devices=[]):
            for i, fold in enumerate(folds):
                torch.manual_seed(seed * 1000 + i)
                self.networks.append(self._train(data, torch.from_numpy(fold.train), torch.from_numpy(fold.test)))
        self._shape = nelson_aalen(outcome)
        return self

    def predict_risk(self, x: Floats) -> Floats:
        """Return the probability of the event by the horizon, shape (N,)."""
        return 1 - self._probability(x)

    def predict_survival(self, x: Floats, times: npt.ArrayLike) -> Floats:
        """Return survival probabilities, shape (N, T).

        The network predicts the horizon only; in between, its probability is raised to the fraction of the training
        patients' cumulative hazard reached at that time (our choice).
        """
        whole = float(self._shape(self.settings.horizon))
        share = np.atleast_1d(self._shape(times)) / whole
        probability = np.clip(self._probability(x), 1e-6, 1 - 1e-6)
        return np.asarray(probability[:, None] ** share[None, :], dtype=float)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return the networks' weights and the shape of the hazard."""
        arrays: dict[str, npt.NDArray[Any]] = {"shape_times": self._shape.times, "shape_hazard": self._shape.heights}
        for i, network in enumerate(self.networks):
            arrays |= {f"{i}.{k}": v.numpy() for k, v in network.state_dict().items()}
        return {"inputs": self._inputs, "networks": len(self.networks)}, arrays

    def restore(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Restore the state from :meth:`state`."""
        self._inputs = int(values["inputs"])
        self._shape = StepFunction(arrays["shape_times"], arrays["shape_hazard"], 0.0)
        self.networks = []
        for i in range(int(values["networks"])):
            network = BhambhvaniNetwork(self._inputs)
            part = {k.partition(".")[2]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith(f"{i}.")}
            network.load_state_dict(part)
            self.networks.append(network.eval())

    def _probability(self, x: Floats) -> Floats:
        if not self.networks:
            raise UsageError("the model has not been fitted")
        data = torch.from_numpy(np.asarray(x, dtype=np.float32))
        with torch.no_grad():
            each = torch.stack([network(data)[0] for network in self.networks])
        return np.asarray(each.mean(dim=0).numpy(), dtype=np.float64)

    def _train(self, data: _Data, rows: Tensor, held_out: Tensor) -> BhambhvaniNetwork:
        network = BhambhvaniNetwork(self._inputs)
        optimiser = torch.optim.Adam(
            network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        best, best_state, since = float("inf"), {k: v.clone() for k, v in network.state_dict().items()}, 0
        for epoch in range(self.settings.epochs):
            network.train()
            _step(network, optimiser, data, rows, epoch, self.settings.l1)
            network.eval()
            with torch.no_grad():
                # The epoch is selected by the predicted probability; months and L1 are used only in training.
                probability, _ = network(data.x[held_out], epoch)
                found = float(
                    functional.binary_cross_entropy(
                        probability, data.survived[held_out], weight=data.weight[held_out], reduction="sum"
                    )
                )
            if found < best - 1e-6:
                best, since = found, 0
                best_state = {k: v.clone() for k, v in network.state_dict().items()}
            else:
                since += 1
                if since >= self.settings.patience:
                    break
        network.load_state_dict(best_state)
        return network.eval()


def published_rule(
    x: Floats,
    months: Floats,
    survived: npt.NDArray[np.bool_],
    *,
    settings: BhambhvaniSettings | None = None,
    wanted_auc: float = 0.85,
    max_restarts: int = 3,
    seed: int = 0,
) -> PublishedRuleResult:
    """Repeat the published evaluation, and compute the unbiased AUC for comparison.

    Published: among epochs whose training AUC is not below the test AUC, the one with the best *test* AUC is kept,
    and a fold is restarted until it reaches ``wanted_auc`` (here at most ``max_restarts`` times; on random
    labels the published loop may not end).  Unbiased: the network of the first run after the last epoch.

    Parameters
    ----------
    x
        Covariates, shape (N, P).
    months
        Survival in months, shape (N,).
    survived
        Whether each patient survived the horizon, shape (N,), without censored patients.
    settings
        Training settings; patience is not used.
    wanted_auc
        Published: 0.85.
    max_restarts
        Maximum number of restarts per fold.
    seed
        Random seed for folds and weights.
    """
    chosen = settings or BhambhvaniSettings()
    data = _Data(x, months, survived, np.ones(len(x)))
    folds = grouped_k_fold(range(len(x)), survived.astype(int), k=chosen.folds, seed=seed)
    reported, honest, restarts = [], [], []
    with torch.random.fork_rng(devices=[]):
        for i, fold in enumerate(folds):
            train, test = torch.from_numpy(fold.train), torch.from_numpy(fold.test)
            best, first, tries = 0.0, float("nan"), 0
            for tries in range(max_restarts + 1):
                torch.manual_seed(seed * 10_000 + i * 100 + tries)
                found, last = _leaky_run(data, train, test, chosen)
                best = max(best, found)
                first = last if tries == 0 else first
                if best >= wanted_auc:
                    break
            reported.append(best)
            honest.append(first)
            restarts.append(tries)
    return PublishedRuleResult(reported=tuple(reported), honest=tuple(honest), restarts=tuple(restarts))


class _Data:
    def __init__(self, x: Floats, months: Floats, survived: npt.NDArray[np.bool_], weight: Floats) -> None:
        self.x = torch.from_numpy(np.asarray(x, dtype=np.float32))
        self.months = torch.from_numpy(np.asarray(months, dtype=np.float32))
        self.survived = torch.from_numpy(np.asarray(survived, dtype=np.float32))
        self.weight = torch.from_numpy(np.asarray(weight, dtype=np.float32))


def _step(
    network: BhambhvaniNetwork, optimiser: torch.optim.Optimizer, data: _Data, rows: Tensor, epoch: int, l1: float
) -> Tensor:
    """Take one step and return the training probabilities before it."""
    probability: Tensor
    probability, months = network(data.x[rows], epoch)
    optimiser.zero_grad()
    loss = _objective(probability, months, data, rows) + l1 * network.l1()
    loss.backward()
    optimiser.step()
    return probability.detach()


def _objective(probability: Tensor, months: Tensor, data: _Data, rows: Tensor) -> Tensor:
    """Return 10 x MSE(months) + BCE / 10, each patient with its weight, weights of mean 1."""
    weight = data.weight[rows] / data.weight[rows].mean()
    squared = (weight * (months - data.months[rows]) ** 2).mean()
    cross = functional.binary_cross_entropy(probability, data.survived[rows], weight=weight)
    return 10 * squared + cross / 10


def _leaky_run(data: _Data, train: Tensor, test: Tensor, settings: BhambhvaniSettings) -> tuple[float, float]:
    """Return the best eligible test AUC over the epochs and the test AUC after the last one."""
    network = BhambhvaniNetwork(data.x.shape[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    best, last = 0.0, 0.5
    for epoch in range(settings.epochs):
        network.eval()
        with torch.no_grad():
            tested = network(data.x[test], epoch)[0]
        network.train()
        trained = _step(network, optimiser, data, train, epoch, settings.l1)
        last = float(roc_auc_score(data.survived[test].numpy(), tested.numpy()))
        if last > best and float(roc_auc_score(data.survived[train].numpy(), trained.numpy())) >= last:
            best = last
    return best, last


def _block(inputs: int, outputs: int, *, dropout: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs)]
    return nn.Sequential(*layers, nn.Dropout(0.05)) if dropout else nn.Sequential(*layers)


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        _block(width, width),
        _block(width, width // 2),
        _block(width // 2, width // 4, dropout=False),
        nn.Linear(width // 4, 1),
    )
