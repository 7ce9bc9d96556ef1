"""Neural survival models: DeepSurv, discrete hazards and DeepHit, in one training loop with early stopping."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.splits import grouped_split
from pathology.survival.models.base import SurvivalModel
from pathology.survival.models.losses import cox_loss, deephit_loss, logistic_hazard_loss
from pathology.survival.nonparametric import StepFunction, breslow, kaplan_meier
from pathology.survival.outcome import Outcome, outcome_strata

__all__ = [
    "DeepHit",
    "DeepHitSettings",
    "DeepSurv",
    "DiscreteHazard",
    "DiscreteSettings",
    "NetworkSettings",
    "TimeGrid",
    "multilayer_perceptron",
    "train_network",
]

Floats = npt.NDArray[np.float64]
Tensor = torch.Tensor


class NetworkSettings(Record):
    """Architecture and training settings of a survival network.

    The defaults suit a few hundred patients: one small layer, strong weight decay, early stopping.
    """

    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout rate."""
    batch_norm: bool = True
    """Batch normalisation after each hidden layer."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.003
    """Learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Weight decay of AdamW (decoupled)."""
    epochs: Annotated[int, Field(ge=1)] = 400
    """Maximum number of epochs; each is one full-batch step."""
    patience: Annotated[int, Field(ge=1)] = 40
    """Early stopping: epochs without a better held-out loss."""
    held_out: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Fraction of the *training* patients held out for early stopping; 0: train all epochs."""


class DiscreteSettings(NetworkSettings):
    """Settings of a discrete-time network."""

    intervals: Annotated[int, Field(ge=2)] = 10
    """Number of intervals between 0 and the last training event, with equal drops of the Kaplan-Meier curve."""


class DeepHitSettings(DiscreteSettings):
    """Settings of DeepHit; see :func:`pathology.survival.models.losses.deephit_loss`."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    sigma: Annotated[float, Field(gt=0)] = 0.1


class TimeGrid:
    """Time intervals of discrete models.

    Parameters
    ----------
    edges
        K + 1 ascending times, the first one 0.
    """

    def __init__(self, edges: npt.ArrayLike) -> None:
        self.edges: Floats = np.asarray(edges, dtype=float)

    @classmethod
    def fit(cls, outcome: Outcome, intervals: int) -> TimeGrid:
        """Choose intervals with equal drops of the Kaplan-Meier curve (Kvamme and Borgan 2021, LIDA 27:710)."""
        curve = kaplan_meier(outcome)
        last = outcome.time[outcome.event].max()
        levels = np.linspace(1, float(curve.at(last)), intervals + 1)[1:-1]
        inner = [float(curve.times[np.argmax(curve.survival <= level + 1e-12)]) for level in levels]
        return cls(np.unique([0.0, *inner, last]))

    def interval(self, outcome: Outcome) -> npt.NDArray[np.int64]:
        """Return the interval of each event, or the last interval that a censored patient completed.

        Returns
        -------
        ndarray, shape (N,)
            -1 for patients censored in the first interval, who carry no information on this grid.
        """
        k = len(self.edges) - 1
        inside = np.searchsorted(self.edges[1:], outcome.time, side="left")
        passed = np.searchsorted(self.edges[1:], outcome.time, side="right") - 1
        return np.where(outcome.event, np.minimum(inside, k - 1), passed).astype(np.int64)

    def interpolate(self, at_edges: Floats, times: npt.ArrayLike) -> Floats:
        """Interpolate survival linearly between the interval edges; constant after the last edge.

        Parameters
        ----------
        at_edges
            Shape (N, K + 1), the first column 1.
        times
            T times.
        """
        at = np.atleast_1d(np.asarray(times, dtype=float))
        return np.stack([np.interp(at, self.edges, row) for row in at_edges])


def multilayer_perceptron(inputs: int, outputs: int, settings: NetworkSettings) -> nn.Sequential:
    """Return linear, ReLU, batch normalisation and dropout for each hidden layer, and a linear output layer."""
    layers: list[nn.Module] = []
    widths = (inputs, *settings.hidden)
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
        if settings.batch_norm:
            layers.append(nn.BatchNorm1d(b))
        layers.append(nn.Dropout(settings.dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def train_network(
    build: Callable[[], nn.Module],
    losses: Callable[[nn.Module, Tensor], Iterable[Tensor]],
    outcome: Outcome,
    settings: NetworkSettings,
    *,
    seed: int,
) -> nn.Module:
    """Train by full-batch AdamW and return the network of the epoch with the best held-out loss.

    Parameters
    ----------
    build
        Builds the untrained network; called once, with the seed set.
    losses
        Losses of the network on the given rows (int64 tensor).  If there are several, a
        step is taken after each, before the next is computed; their mean is the held-out loss.
    outcome
        Follow-up of the training patients, for stratifying the held-out patients.
    settings
        Training.
    seed
        Random seed for weights, dropout and held-out patients; the caller's random state is unchanged.

    Raises
    ------
    UsageError
        Fewer than two events or fewer than ten patients.
    """
    if outcome.events < 2 or len(outcome) < 10:
        raise UsageError(
            f"a network cannot be trained on {len(outcome)} patients with {outcome.events} events",
            remedy="Use a Cox model, or more patients",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        rows, held_out = _held_out(outcome, settings.held_out, seed)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        best, best_state, since = float("inf"), None, 0
        for _ in range(settings.epochs):
            network.train()
            for value in losses(network, rows):
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
            if held_out is None:
                continue
            network.eval()
            with torch.no_grad():
                found = float(torch.stack(list(losses(network, held_out))).mean())
            if found < best - 1e-6:
                best, since = found, 0
                best_state = {k: v.clone() for k, v in network.state_dict().items()}
            else:
                since += 1
                if since >= settings.patience:
                    break
        if best_state is not None:
            network.load_state_dict(best_state)
    network.eval()
    return network


def _held_out(outcome: Outcome, share: float, seed: int) -> tuple[Tensor, Tensor | None]:
    everybody = torch.arange(len(outcome))
    if share == 0 or outcome.events < 5:
        return everybody, None
    parts = grouped_split(
        range(len(outcome)), outcome_strata(outcome, parts=2), shares={"rows": 1 - share, "held_out": share}, seed=seed
    )
    if outcome.event[parts["held_out"]].sum() == 0:
        return everybody, None
    return torch.from_numpy(parts["rows"]), torch.from_numpy(parts["held_out"])


class _NetworkModel(SurvivalModel):
    """A survival model with one network on the covariates."""

    settings: NetworkSettings

    def __init__(self, settings: NetworkSettings | None = None) -> None:
        super().__init__(settings if settings is not None else self.settings_type())
        self.network: nn.Module = nn.Identity()
        self._inputs = 0

    @abstractmethod
    def _build(self) -> nn.Module: ...

    def _output(self, x: Floats) -> Floats:
        with torch.no_grad():
            out: Floats = self.network(torch.from_numpy(np.asarray(x, dtype=np.float32))).numpy().astype(np.float64)
        return out

    def _weights(self) -> dict[str, npt.NDArray[Any]]:
        return {f"network.{k}": v.numpy() for k, v in self.network.state_dict().items()}

    def _restore_weights(self, inputs: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
        self._inputs = inputs
        self.network = self._build()
        part = {k.removeprefix("network."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("network.")}
        self.network.load_state_dict(part)
        self.network.eval()


class DeepSurv(_NetworkModel):
    """Network for the log hazard ratio (Katzman 2018, BMC Med Res Methodol 18:24), Cox loss with Efron ties.

    The baseline hazard is the Breslow estimate on all training patients.
    """

    kind: ClassVar[str] = "deepsurv"
    settings_type: ClassVar[type[Record]] = NetworkSettings

    def _build(self) -> nn.Module:
        return multilayer_perceptron(self._inputs, 1, self.settings)

    def fit(self, x: Floats, outcome: Outcome, *, seed: int = 0) -> DeepSurv:
        """Train the network and estimate the baseline; see :meth:`SurvivalModel.fit`."""
        self._inputs = x.shape[1]
        data = torch.from_numpy(x.astype(np.float32))
        time, event = torch.from_numpy(outcome.time), torch.from_numpy(outcome.event)

        def loss(network: nn.Module, rows: Tensor) -> list[Tensor]:
            return [cox_loss(network(data[rows])[:, 0], time[rows], event[rows])]

        self.network = train_network(self._build, loss, outcome, self.settings, seed=seed)
        self._baseline = breslow(outcome, self.predict_risk(x))
        return self

    def predict_risk(self, x: Floats) -> Floats:
        """Return the log hazard ratio, shape (N,)."""
        return self._output(x)[:, 0]

    def predict_survival(self, x: Floats, times: npt.ArrayLike) -> Floats:
        """Return survival probabilities, shape (N, T); see :meth:`SurvivalModel.predict_survival`."""
        ratio = np.exp(np.clip(self.predict_risk(x), -500, 500))
        hazard: Floats = np.outer(ratio, np.atleast_1d(self._baseline(times)))
        return np.exp(-hazard)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return weights and baseline."""
        baseline = {"baseline_times": self._baseline.times, "baseline_hazard": self._baseline.heights}
        return {"inputs": self._inputs}, self._weights() | baseline

    def restore(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Restore the state from :meth:`state`."""
        self._restore_weights(int(values["inputs"]), arrays)
        self._baseline = StepFunction(arrays["baseline_times"], arrays["baseline_hazard"], 0.0)


class _DiscreteModel(_NetworkModel):
    settings: DiscreteSettings
    grid: TimeGrid
    _start: Floats | None = None

    @abstractmethod
    def _loss(self, logits: Tensor, interval: Tensor, event: Tensor) -> Tensor: ...

    @abstractmethod
    def _survival_at_edges(self, logits: Floats) -> Floats: ...

    @abstractmethod
    def _logits_of(self, survival_at_edges: Floats) -> Floats:
        """Scores, shape (K,), with which the network predicts the given survival, shape (K + 1,), for every patient."""

    def _build(self) -> nn.Module:
        network = multilayer_perceptron(self._inputs, len(self.grid.edges) - 1, self.settings)
        if self._start is not None:
            # Initialise to the Kaplan-Meier curve: with few patients, early stopping would otherwise leave
            # the average survival far from the truth.
            end = network[-1]
            assert isinstance(end, nn.Linear)
            with torch.no_grad():
                end.bias.copy_(torch.from_numpy(self._start))
                end.weight.mul_(0.1)
        return network

    def fit(self, x: Floats, outcome: Outcome, *, seed: int = 0) -> _DiscreteModel:
        """Discretise time and train; see :meth:`SurvivalModel.fit`."""
        if outcome.events < 2:
            raise UsageError(f"{outcome.events} events are too few to discretise time")
        self._inputs = x.shape[1]
        self.grid = TimeGrid.fit(outcome, self.settings.intervals)
        at_edges = np.clip(kaplan_meier(outcome).at(self.grid.edges), 0.01, 1.0)
        self._start = self._logits_of(at_edges)
        interval = self.grid.interval(outcome)
        kept = np.flatnonzero(interval >= 0)
        data = torch.from_numpy(x[kept].astype(np.float32))
        where, event = torch.from_numpy(interval[kept]), torch.from_numpy(outcome.event[kept])

        def loss(network: nn.Module, rows: Tensor) -> list[Tensor]:
            return [self._loss(network(data[rows]), where[rows], event[rows])]

        self.network = train_network(self._build, loss, outcome.take(kept), self.settings, seed=seed)
        return self

    def predict_survival(self, x: Floats, times: npt.ArrayLike) -> Floats:
        """Return survival probabilities, shape (N, T); see :meth:`SurvivalModel.predict_survival`."""
        return self.grid.interpolate(self._survival_at_edges(self._output(x)), times)

    def predict_risk(self, x: Floats) -> Floats:
        """Return the negative restricted mean survival time, as a fraction of the time grid; shape (N,)."""
        curve = self._survival_at_edges(self._output(x))
        return np.asarray(-np.trapezoid(curve, self.grid.edges, axis=1) / self.grid.edges[-1], dtype=float)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return weights and grid."""
        return {"inputs": self._inputs}, self._weights() | {"edges": self.grid.edges}

    def restore(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Restore the state from :meth:`state`."""
        self.grid = TimeGrid(arrays["edges"])
        self._restore_weights(int(values["inputs"]), arrays)


class DiscreteHazard(_DiscreteModel):
    """A network for discrete-time hazards (Gensheimer and Narasimhan 2019, PeerJ 7:e6257)."""

    kind: ClassVar[str] = "discrete"
    settings_type: ClassVar[type[Record]] = DiscreteSettings

    def _loss(self, logits: Tensor, interval: Tensor, event: Tensor) -> Tensor:
        return logistic_hazard_loss(logits, interval, event)

    def _logits_of(self, survival_at_edges: Floats) -> Floats:
        hazard = np.clip(1 - survival_at_edges[1:] / survival_at_edges[:-1], 1e-3, 1 - 1e-3)
        return np.asarray(np.log(hazard / (1 - hazard)))

    def _survival_at_edges(self, logits: Floats) -> Floats:
        passed = np.cumprod(1 / (1 + np.exp(np.clip(logits, -60, 60))), axis=1)
        return np.concatenate([np.ones((len(logits), 1)), passed], axis=1)


class DeepHit(_DiscreteModel):
    """DeepHit: a network for the probability mass of time intervals (Lee 2018, AAAI), single event type."""

    kind: ClassVar[str] = "deephit"
    settings_type: ClassVar[type[Record]] = DeepHitSettings
    settings: DeepHitSettings

    def _loss(self, logits: Tensor, interval: Tensor, event: Tensor) -> Tensor:
        return deephit_loss(logits, interval, event, alpha=self.settings.alpha, sigma=self.settings.sigma)

    def _logits_of(self, survival_at_edges: Floats) -> Floats:
        mass = np.clip(-np.diff(survival_at_edges), 1e-3, None)
        # The class "beyond the last interval" has score 0.
        return np.asarray(np.log(mass / survival_at_edges[-1]))

    def _survival_at_edges(self, logits: Floats) -> Floats:
        padded = np.concatenate([logits, np.zeros((len(logits), 1))], axis=1)
        mass = np.exp(padded - padded.max(axis=1, keepdims=True))
        mass /= mass.sum(axis=1, keepdims=True)
        left = 1 - np.cumsum(mass[:, :-1], axis=1)
        return np.concatenate([np.ones((len(logits), 1)), np.clip(left, 0, 1)], axis=1)
