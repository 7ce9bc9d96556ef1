"""Training checkpoints: tensors as safetensors, everything else as JSON, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pathology.atomic_files import write_bytes, write_text
from pathology.errors import StoreError, UsageError

__all__ = [
    "Checkpoint",
    "copied",
    "optimiser_state",
    "part_of",
    "random_states",
    "restore_optimiser",
    "restore_random_states",
]

_STATE: Final = "checkpoint.json"


class Checkpoint:
    """A folder with the latest state of one training.

    Tensors are written under a new name, then the small file that refers to them is replaced, then the old tensors
    are removed: a run killed at any moment leaves a complete state.

    Parameters
    ----------
    folder
        Checkpoint folder; created with the first state.
    identity
        Hash of all inputs that determine the training.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return values and tensors of the latest state, or ``None`` if there is none.

        Raises
        ------
        UsageError
            If it belongs to another training.
        StoreError
            If tensors are missing or corrupt.
        """
        try:
            values: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError("the training checkpoint is corrupt", where=self.folder, remedy="Delete it") from error
        if values["identity"] != self.identity:
            raise UsageError(
                "the folder holds a checkpoint of another training (other slides, labels, settings or initial weights)",
                where=self.folder,
                remedy="Use the same settings to resume it, choose another --out, or delete the folder",
            )
        try:
            tensors = load((self.folder / values["tensors"]).read_bytes())
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError("the training checkpoint is corrupt", where=self.folder, remedy="Delete it") from error
        return values, tensors

    def write(self, values: dict[str, Any], tensors: dict[str, Tensor], *, number: int) -> None:
        """Save a state.

        Parameters
        ----------
        values
            JSON-serialisable values.
        tensors
            Tensors on any device.
        number
            Number of the state; must differ from the latest.

        Raises
        ------
        OutputError
            If the files cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"checkpoint-{number:06d}.safetensors"
        write_bytes(self.folder / name, save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}))
        record = {**values, "identity": self.identity, "tensors": name}
        write_text(self.folder / _STATE, json.dumps(record, indent=1))
        for old in self.folder.glob("checkpoint-*.safetensors"):
            if old.name != name:
                old.unlink()
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a run that was killed while writing left; nobody else writes here."""
        for aside in self.folder.glob(".*.partial"):
            aside.unlink(missing_ok=True)


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state tensors of an optimiser, keyed by parameter number and name."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the state from :func:`optimiser_state`; parameter groups are unchanged."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            # In the parameter's order in memory (channels last): another order is added up with other roundings.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def random_states() -> dict[str, Tensor]:
    """Return the states of torch's random generators: of the CPU and of every CUDA device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore the states from :func:`random_states`; devices that are not there now are left out."""
    torch.set_rng_state(states["cpu"])
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(devices):
        if f"cuda.{number}" in states:
            torch.cuda.set_rng_state(states[f"cuda.{number}"], number)


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def copied(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the network state on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
