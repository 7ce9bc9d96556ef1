"""RED_SNN, the risk-estimate-distance survival neural network (Han 2018, Tumor Biol 40(10); Ryu 2020, BMC MIDM 20:3).

Published: a basic unit of eight layers, two of them LSTM, with decreasing width; its input
is the covariates and two latent survival features, its output two linear nodes, event and time; all other layers use
ReLU (Ryu 2020, figure 2).  Follow-up is divided into windows of ten months; at window i the target is
``[E_i, t_i]``, the event so far and the last observed time; the unit is trained window by window (here:
one step after each, in every epoch) with cosine distance as loss; alpha is a weight of death (Ryu 2020, table 1).

Not published, and chosen here: the widths (settings); the latent features are the output at
the previous window, initially (0, 0); alpha scales the event component of the target; time is a fraction
of the whole grid; a patient leaves the loss at the window of censoring, and stays in it, with the
time of death, after a death.  Cosine distance sees only the direction of ``(event, time)``, so the *angle* from the
event-free axis is what the unit learns: larger for death, and larger for earlier death.  The mean angle over the
windows is the severity.  It is not a probability: :meth:`RedSnn.predict_survival` uses it in a proportional hazards
model with one covariate, fitted to out-of-fold severities of the training patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from pathology.errors import UsageError
from pathology.settings import Record
from pathology.stats.splits import grouped_k_fold
from pathology.survival.models.base import SurvivalModel
from pathology.survival.models.cox import CoxModel, CoxSettings
from pathology.survival.models.losses import cosine_distance_loss
from pathology.survival.models.neural import NetworkSettings, train_network
from pathology.survival.outcome import Outcome, outcome_strata

__all__ = ["RedSnn", "RedSnnSettings", "RedSnnUnit", "window_targets"]

Floats = npt.NDArray[np.float64]
Tensor = torch.Tensor
DAYS_PER_MONTH = 365.25 / 12
_STARTS = 5


class RedSnnSettings(NetworkSettings):
    """Settings of RED_SNN: windows, widths and training."""

    window: Annotated[float, Field(gt=0)] = 10 * DAYS_PER_MONTH
    """Length of a window in the unit of the outcome (days): ten months, as published."""
    max_windows: Annotated[int, Field(ge=2)] = 30
    """Maximum number of windows; 30 as published for SEER.  Fewer if the training follow-up ends earlier."""
    alpha: Annotated[float, Field(gt=0)] = 1.0
    """Weight of death: the event component of the target after a death."""
    hidden: tuple[int, ...] = (48, 40, 32, 24, 16, 8)
    """Widths of dense, dense, LSTM, LSTM, dense, dense; eight layers including input and output."""
    batch_norm: bool = False
    """Dropout rate; none in the publication."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    learning_rate: Annotated[float, Field(gt=0)] = 0.002
    epochs: Annotated[int, Field(ge=1)] = 120
    """Maximum number of epochs; an epoch covers all windows in order."""
    patience: Annotated[int, Field(ge=1)] = 15
    cross_fits: Annotated[int, Field(ge=2)] = 3
    """Folds for the out-of-fold severities used to calibrate survival probabilities."""

    @model_validator(mode="after")
    def _six_widths(self) -> RedSnnSettings:
        if len(self.hidden) != 6 or list(self.hidden) != sorted(self.hidden, reverse=True):
            raise ValueError(f"hidden: expected six non-increasing widths, got {self.hidden}")
        return self


class RedSnnUnit(nn.Module):
    """The basic unit, applied to all windows.

    Parameters
    ----------
    inputs
        Number of covariates.
    windows
        Number of windows.
    settings
        Widths and dropout.
    """

    def __init__(self, inputs: int, windows: int, settings: RedSnnSettings) -> None:
        super().__init__()
        a, b, c, d, e, f = settings.hidden
        self.windows = windows
        self.first = nn.Sequential(nn.Linear(inputs + 2, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU())
        self.memory_one = nn.LSTMCell(b, c)
        self.memory_two = nn.LSTMCell(c, d)
        self.dropout = nn.Dropout(settings.dropout)
        self.last = nn.Sequential(nn.Linear(d, e), nn.ReLU(), nn.Linear(e, f), nn.ReLU(), nn.Linear(f, 2))

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield ``(event, time)``, shape (N, 2), window by window.

        Parameters
        ----------
        x
            Covariates, float32, shape (N, P).

        Yields
        ------
        Tensor
            The recurrent state of earlier windows is detached: gradients stay within a window.
        """
        latent = x.new_zeros(len(x), 2)
        one: tuple[Tensor, Tensor] | None = None
        two: tuple[Tensor, Tensor] | None = None
        for _ in range(self.windows):
            one = self.memory_one(self.first(torch.cat([x, latent], dim=1)), one)
            two = self.memory_two(one[0], two)
            output = self.last(self.dropout(two[0]))
            yield output
            latent = output.detach()
            one = (one[0].detach(), one[1].detach())
            two = (two[0].detach(), two[1].detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(event, time)`` at every window, shape (N, W, 2), for covariates of shape (N, P)."""
        return torch.stack(list(self.outputs(x)), dim=1)


def window_targets(outcome: Outcome, *, window: float, windows: int, alpha: float = 1.0) -> tuple[Floats, Floats]:
    """Return the target ``[alpha * E_i, t_i]`` of each window and its weight.

    Parameters
    ----------
    outcome
        Follow-up of N patients.
    window
        Length of a window, in the unit of the outcome.
    windows
        Number of windows W.
    alpha
        Weight of death.

    Returns
    -------
    tuple of ndarray
        Targets of shape (N, W, 2), time as a fraction of ``window * windows``; weights of shape (N, W), 1 where status
        at the window's end is known (alive and observed to its end, or dead by then), 0 from the window of censoring
        onwards.
    """
    ends = window * np.arange(1, windows + 1)
    time, event = outcome.time[:, None], outcome.event[:, None]
    dead = event & (time <= ends)
    observed = np.minimum(time, ends) / (window * windows)
    # A patient who died on day 0 has time 0; the event component alpha gives the target a direction.
    return np.stack([alpha * dead, observed], axis=2), (dead | (time >= ends)).astype(float)


class RedSnn(SurvivalModel):
    """RED_SNN as a survival model; ``severity`` is the published output, the rest is added here."""

    kind: ClassVar[str] = "red_snn"
    settings_type: ClassVar[type[Record]] = RedSnnSettings
    settings: RedSnnSettings

    def __init__(self, settings: RedSnnSettings | None = None) -> None:
        super().__init__(settings or RedSnnSettings())
        self.unit: RedSnnUnit | None = None
        self._inputs = 0
        # A small ridge penalty keeps the coefficient finite if severities order the events perfectly.
        self._calibration = CoxModel(CoxSettings(penalty=0.001))
        self._scale = 1.0

    def fit(self, x: Floats, outcome: Outcome, *, seed: int = 0) -> Self:
        """Train the unit and calibrate its severity; see :meth:`SurvivalModel.fit`."""
        self._inputs = x.shape[1]
        last = outcome.time[outcome.event].max() if outcome.events else 0.0
        windows = int(min(self.settings.max_windows, max(2, np.ceil(last / self.settings.window))))
        folds = grouped_k_fold(
            range(len(outcome)), outcome_strata(outcome, parts=2), k=self.settings.cross_fits, seed=seed
        )
        severity = np.zeros(len(outcome))
        for fold in folds:
            unit = self._train(x[fold.train], outcome.take(fold.train), windows, seed)
            severity[fold.test] = _severity(unit, x[fold.test])
        self._scale = float(severity.std()) or 1.0
        self._calibration.fit((severity / self._scale)[:, None], outcome)
        self.unit = self._train(x, outcome, windows, seed)
        return self

    def severity(self, x: Floats) -> Floats:
        """Return the angle from the event-free axis at each window, in radians, shape (N, W)."""
        return _angles(self._fitted(), x)

    def predict_risk(self, x: Floats) -> Floats:
        """Return the mean angle over the windows, in radians, shape (N,)."""
        return _severity(self._fitted(), x)

    def predict_survival(self, x: Floats, times: npt.ArrayLike) -> Floats:
        """Return calibrated survival probabilities, shape (N, T); see :meth:`SurvivalModel.predict_survival`."""
        return self._calibration.predict_survival((self.predict_risk(x) / self._scale)[:, None], times)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Return the unit's weights and the calibration."""
        unit = self._fitted()
        values, arrays = self._calibration.state()
        return (
            {"inputs": self._inputs, "windows": unit.windows, "scale": self._scale, "calibration": values},
            {f"unit.{k}": v.numpy() for k, v in unit.state_dict().items()}
            | {f"calibration.{k}": v for k, v in arrays.items()},
        )

    def restore(self, values: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Restore the state from :meth:`state`."""
        self._inputs, self._scale = int(values["inputs"]), float(values["scale"])
        self.unit = RedSnnUnit(self._inputs, int(values["windows"]), self.settings)
        weights = {k.removeprefix("unit."): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("unit.")}
        self.unit.load_state_dict(weights)
        self.unit.eval()
        calibration = {k.removeprefix("calibration."): v for k, v in arrays.items() if k.startswith("calibration.")}
        self._calibration.restore(values["calibration"], calibration)

    def _train(self, x: Floats, outcome: Outcome, windows: int, seed: int) -> RedSnnUnit:
        target, weight = window_targets(
            outcome, window=self.settings.window, windows=windows, alpha=self.settings.alpha
        )
        data = torch.from_numpy(x.astype(np.float32))
        wanted, known = torch.from_numpy(target.astype(np.float32)), torch.from_numpy(weight.astype(np.float32))

        def loss(network: nn.Module, rows: Tensor) -> Iterator[Tensor]:
            assert isinstance(network, RedSnnUnit)
            for i, output in enumerate(network.outputs(data[rows])):
                yield cosine_distance_loss(output, wanted[rows, i], known[rows, i])

        def build() -> RedSnnUnit:
            return RedSnnUnit(x.shape[1], windows, self.settings)

        unit: RedSnnUnit | None = None
        for start in range(_STARTS):
            trained = train_network(build, loss, outcome, self.settings, seed=seed + 7919 * start)
            assert isinstance(trained, RedSnnUnit)
            unit = trained
            # Narrow ReLU layers can die, which gives a constant output: restart with other initial weights.
            if np.ptp(_severity(unit, x)) > 1e-6:
                break
        assert unit is not None
        return unit

    def _fitted(self) -> RedSnnUnit:
        if self.unit is None:
            raise UsageError("the model has not been fitted")
        return self.unit


def _angles(unit: RedSnnUnit, x: Floats) -> Floats:
    with torch.no_grad():
        output = unit(torch.from_numpy(np.asarray(x, dtype=np.float32)))
        return np.asarray(torch.atan2(output[..., 0], output[..., 1]).numpy(), dtype=np.float64)


def _severity(unit: RedSnnUnit, x: Floats) -> Floats:
    return np.asarray(_angles(unit, x).mean(axis=1))
