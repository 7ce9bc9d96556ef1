"""The state of a training on disk: tensors as safetensors, everything else as JSON, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from pathology.atomic_files import write_bytes, write_text
from pathology.errors import StoreError, UsageError

__all__ = ["Checkpoint", "copied", "optimiser_state", "restore_optimiser"]

_STATE: Final = "checkpoint.json"


class Checkpoint:
    """A folder that holds the last state of one training.

    The tensors are written under a new name first, then the small file that names them is replaced, then the old
    tensors are removed: a run that is killed at any moment leaves a whole state.

    Parameters
    ----------
    folder
        Its place; made when the first state is written.
    identity
        Hash of all that decides the training.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity

    def read(self) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Return values and tensors of the last state, or ``None`` where there is none.

        Raises
        ------
        UsageError
            If another training left it.
        StoreError
            If its tensors are gone or damaged.
        """
        try:
            values: dict[str, Any] = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreError("the state of the training is damaged", where=self.folder, remedy="Delete it") from error
        if values["identity"] != self.identity:
            raise UsageError(
                "another training (other slides, labels, settings or start) was begun here",
                where=self.folder,
                remedy="Give the same settings to go on with it, choose another --out, or delete the folder",
            )
        try:
            tensors = load((self.folder / values["tensors"]).read_bytes())
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError("the state of the training is damaged", where=self.folder, remedy="Delete it") from error
        return values, tensors

    def write(self, values: dict[str, Any], tensors: dict[str, Tensor], *, number: int) -> None:
        """Write a state.

        Parameters
        ----------
        values
            JSON types.
        tensors
            On any device.
        number
            Of the state; another than the last one's.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"checkpoint-{number:06d}.safetensors"
        write_bytes(self.folder / name, save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}))
        record = {**values, "identity": self.identity, "tensors": name}
        write_text(self.folder / _STATE, json.dumps(record, indent=1))
        for old in self.folder.glob("checkpoint-*.safetensors"):
            if old.name != name:
                old.unlink()


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors an optimiser keeps, by the number of the parameter and their name."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser back what :func:`optimiser_state` returned; its groups stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def copied(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's state on the processor."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}
