"""PyTorch checkpoints of others, read once and restricted: tensors and plain containers, never code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pathology.errors import UnsafeWeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["read_checkpoint"]

_CONTAINERS: Final = ("state_dict", "model", "teacher", "model_state_dict")
"""Where training programs put the weights among other things."""


def read_checkpoint(path: Path, *, remedy: str) -> dict[str, Tensor]:
    """Read a checkpoint with PyTorch's restricted reader, which makes tensors and calls nothing else.

    Parameters
    ----------
    path
        The file: a mapping of named tensors, alone or under a usual name such as ``state_dict``.
    remedy
        What to do if it is refused.

    Returns
    -------
    dict of str to torch.Tensor
        On the CPU; mapped from the file where its format allows, so that large files need not fit into memory twice.

    Raises
    ------
    UnsafeWeightsError
        If the file is damaged or holds anything but tensors.
    """
    import torch

    try:
        state = _load(path)
    except Exception as error:  # damage raises one of many error types
        raise UnsafeWeightsError(
            "the checkpoint is damaged or contains more than tensors, and is not loaded", where=path, remedy=remedy
        ) from error
    if isinstance(state, dict):
        state = next((state[name] for name in _CONTAINERS if isinstance(state.get(name), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UnsafeWeightsError("the checkpoint is not a mapping of named tensors", where=path, remedy=remedy)
    return {str(key): value for key, value in state.items()}


def _load(path: Path) -> object:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the old format cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)
