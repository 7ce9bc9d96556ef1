"""MethylationToActivity: histone marks at promoters predicted from methylation (Williams 2021, Genome Biol 22:24).

The published weights are Keras files; h5py, imported only in this module, reads them as plain arrays, and the network
is rebuilt in torch.  Nothing in such a file is executed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from pathology.errors import BundleError, OutputError, UsageError
from pathology.extras import missing_extra
from pathology.omics.methylation import CHANNELS, WINDOW_SIZES, WINDOWS
from pathology.settings import Record

__all__ = [
    "PUBLISHED_WEIGHTS",
    "ActivityNetwork",
    "TransferResult",
    "TransferSettings",
    "load_activity_weights",
    "load_keras_weights",
    "predict_activity",
    "published_mark",
    "save_activity_weights",
    "transfer",
]

Floats = npt.NDArray[np.float64]
USED_CHANNELS = (0, 1, 3)
"""Input features of the network: mean, fraction of SSD, variance."""
PUBLISHED_WEIGHTS = {
    "H3K27ac": "be04112ac0d8d9cf3c37c7dc1601f08e0f0a41fd1ebb401e2524dd8b5e2bf6c1",
    "H3K4me3": "3bd96f3ae4afa7c8461825018d78c20ebcd960fb8c88191dc8e11fc801e08cfb",
}
"""SHA-256 of the two weight files of the authors' repository (version 2)."""


class ActivityNetwork(nn.Module):
    """Three convolutions along the windows, two dense layers; 21,089 parameters.

    Input is (N, 2, 20, 3): window sizes, windows, features; output is (N,), log2 enrichment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, (1, 3), padding=(0, 1))
        self.conv2 = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.conv3 = nn.Conv2d(8, 8, (1, 3), padding=(0, 1))
        self.dense1 = nn.Linear(len(WINDOW_SIZES) * WINDOWS * 8, 64)
        self.dense2 = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log2 enrichment of N promoters, shape (N,)."""
        x = x.permute(0, 3, 1, 2)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = functional.leaky_relu(conv(x), 0.1)
        # Keras flattens in channels-last order.
        x = x.permute(0, 2, 3, 1).flatten(1)
        result: torch.Tensor = self.dense2(functional.leaky_relu(self.dense1(x), 0.1))[:, 0]
        return result


class TransferSettings(Record):
    """Fine-tuning of the last layers on your own sample; defaults as published unless stated otherwise."""

    epochs: Annotated[int, Field(ge=1)] = 80
    """Maximum number of epochs."""
    batch: Annotated[int, Field(ge=1)] = 128
    """Promoters per batch."""
    patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without improvement of the held-out loss before training stops."""
    min_gain: Annotated[float, Field(ge=0)] = 1e-4
    """Minimum decrease of the loss that counts as improvement."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of the promoters held out to choose the epoch."""
    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    """Learning rate of Adadelta, with decay 0.95 and epsilon 1e-7 (the optimiser stored in the weight files)."""
    max_norm: Annotated[float, Field(gt=0)] = 3.0
    """Maximum norm of the weights into one node of the first dense layer."""


class TransferResult(Record):
    """Result of fine-tuning the last layers."""

    epochs: int
    """Epochs run."""
    before: float
    """Held-out mean squared error of the initial weights."""
    after: float
    """Held-out mean squared error of the selected epoch; optimistic, since it was used to select the epoch."""
    promoters: int
    held_out: int


def load_keras_weights(path: Path) -> ActivityNetwork:
    """Read a Keras weight file of this network.

    Parameters
    ----------
    path
        HDF5 file with groups ``conv2d_1`` to ``conv2d_3``, ``dense_1`` and ``dense_2`` under ``model_weights``.

    Returns
    -------
    ActivityNetwork
        Ready for prediction.

    Raises
    ------
    BundleError
        The file cannot be read or contains a different network.
    MissingDependencyError
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:  # pragma: no cover - h5py is installed where the tests run
        raise missing_extra("reading Keras weight files needs h5py", "omics") from error
    network = ActivityNetwork()
    layers = {"conv2d_1": "conv1", "conv2d_2": "conv2", "conv2d_3": "conv3", "dense_1": "dense1", "dense_2": "dense2"}
    state: dict[str, torch.Tensor] = {}
    try:
        with h5py.File(path, "r") as file:
            weights = file["model_weights"]
            for theirs, ours in layers.items():
                kernel = np.asarray(weights[theirs][theirs]["kernel:0"], dtype=np.float32)
                # Keras: (height, width, in, out) and (in, out); torch: (out, in, height, width) and (out, in).
                turned = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
                state[f"{ours}.weight"] = torch.from_numpy(np.ascontiguousarray(turned))
                bias = np.asarray(weights[theirs][theirs]["bias:0"], dtype=np.float32)
                state[f"{ours}.bias"] = torch.from_numpy(bias)
        network.load_state_dict(state)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"not a weight file of MethylationToActivity ({str(error).splitlines()[0]})",
            where=path,
            remedy="Give one of the authors' .h5 files (M2A_H3K27ac_Model_V2.h5, M2A_H3K4me3_Model_V2.h5)",
        ) from error
    return network.eval()


def save_activity_weights(network: ActivityNetwork, path: Path) -> None:
    """Write weights as ``.safetensors``.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"the weights cannot be written ({error})", where=path) from error


def load_activity_weights(path: Path) -> ActivityNetwork:
    """Read weights: your own (``.safetensors``) or the authors' (Keras, any other suffix).

    Parameters
    ----------
    path
        File written by :func:`save_activity_weights`, or a file of the authors.

    Returns
    -------
    ActivityNetwork
        Ready for prediction.

    Raises
    ------
    BundleError
        The file cannot be read or contains a different network.
    MissingDependencyError
        It is a Keras file and h5py is not installed.
    """
    if path.suffix != ".safetensors":
        return load_keras_weights(path)
    network = ActivityNetwork()
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(f"not weights of MethylationToActivity ({str(error).splitlines()[0]})", where=path) from error
    return network.eval()


def published_mark(path: Path) -> str | None:
    """Return the histone mark of a published weight file, ``None`` for any other file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return next((mark for mark, known in PUBLISHED_WEIGHTS.items() if known == digest), None)


def predict_activity(network: ActivityNetwork, features: npt.NDArray[np.floating], *, batch: int = 4096) -> Floats:
    """Predict log2 enrichment of a histone mark.

    Parameters
    ----------
    network
        From :func:`load_keras_weights` or :func:`transfer`.
    features
        From :func:`~pathology.omics.methylation.scale_features`, shape (N, 2, 20, 4).
    batch
        Promoters per batch.

    Returns
    -------
    ndarray, shape (N,)

    Raises
    ------
    UsageError
        Features of a different shape, or missing values.

    Examples
    --------
    >>> predict_activity(ActivityNetwork(), np.zeros((5, 2, 20, 4))).shape
    (5,)
    """
    x = _input(features)
    network.eval()
    with torch.no_grad():
        parts = [network(x[i : i + batch]) for i in range(0, len(x), batch)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)


def transfer(
    network: ActivityNetwork,
    features: npt.NDArray[np.floating],
    target: npt.ArrayLike,
    settings: TransferSettings | None = None,
    *,
    seed: int = 0,
) -> tuple[ActivityNetwork, TransferResult]:
    """Fine-tune the two dense layers on your own sample; the convolutions are frozen.

    Parameters
    ----------
    network
        Initial weights; not modified.
    features
        Scaled, shape (N, 2, 20, 4).
    target
        From :func:`~pathology.omics.methylation.histone_enrichment`, shape (N,).
    settings
        Training.
    seed
        Determines the order of the promoters and which are held out (the authors hold out at random, so promoters of
        one gene may be in both parts: evaluate the result on another sample).

    Returns
    -------
    tuple
        The trained network and its :class:`TransferResult`.

    Raises
    ------
    UsageError
        Shapes do not match or there are fewer than ten promoters.
    """
    how = settings or TransferSettings()
    x, y = _input(features), torch.from_numpy(np.asarray(target, dtype=np.float32))
    if y.shape != (len(x),) or len(x) < 10 or not bool(torch.isfinite(y).all()):
        raise UsageError(
            f"targets have shape {tuple(y.shape)} for {len(x)} promoters; at least ten with known targets are needed"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    cut = len(x) - max(1, int(len(x) * how.held_out))
    rows, held_out = order[:cut], order[cut:]
    trained = ActivityNetwork()
    trained.load_state_dict(network.state_dict())
    for layer in (trained.conv1, trained.conv2, trained.conv3):
        layer.requires_grad_(False)
    free = [p for p in trained.parameters() if p.requires_grad]
    optimiser = torch.optim.Adadelta(free, lr=how.learning_rate, rho=0.95, eps=1e-7)

    def error() -> float:
        trained.eval()
        with torch.no_grad():
            return float(functional.mse_loss(trained(x[held_out]), y[held_out]))

    before = best = error()
    best_state = {k: v.clone() for k, v in trained.state_dict().items()}
    since = epochs = 0
    while epochs < how.epochs and since < how.patience:
        epochs += 1
        trained.train()
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(how.batch):
            optimiser.zero_grad()
            functional.mse_loss(trained(x[batch]), y[batch]).backward()
            optimiser.step()
            with torch.no_grad():
                norm = trained.dense1.weight.norm(dim=1, keepdim=True)
                trained.dense1.weight.mul_(norm.clamp(max=how.max_norm) / norm.clamp(min=1e-7))
        found = error()
        since = 0 if found < best - how.min_gain else since + 1
        if found < best:
            best, best_state = found, {k: v.clone() for k, v in trained.state_dict().items()}
    trained.load_state_dict(best_state)
    trained.requires_grad_(True)
    return trained.eval(), TransferResult(
        epochs=epochs, before=before, after=best, promoters=len(rows), held_out=len(held_out)
    )


def _input(features: npt.NDArray[np.floating]) -> torch.Tensor:
    x = np.asarray(features)
    if x.ndim != 4 or x.shape[1:] != (len(WINDOW_SIZES), WINDOWS, len(CHANNELS)) or not np.isfinite(x).all():
        raise UsageError(
            f"features have shape {x.shape}, expected (N, 2, 20, 4) without missing values",
            remedy="Use the output of scale_features",
        )
    return torch.from_numpy(np.ascontiguousarray(x[..., USED_CHANNELS], dtype=np.float32))
