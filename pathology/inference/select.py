"""Which engine runs a model on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pathology.errors import UsageError

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.engine import Engine

__all__ = ["ENGINES", "make_engine"]

ENGINES = ("auto", "torch")
"""What ``--engine`` takes."""


def make_engine(bundle: Bundle, *, kind: str = "auto", device: str | None = None, precision: str = "fast") -> Engine:
    """Load a model into an engine.

    Parameters
    ----------
    bundle
        The model.
    kind
        One of :data:`ENGINES`.
    device
        ``cpu``, ``cuda``, ``cuda:N``; ``None``: the best there is.
    precision
        ``exact``: fp32 throughout; ``fast``: lower precision where the engine has it.

    Raises
    ------
    UsageError
        If the engine is not known or its device is not there.
    """
    if kind not in ENGINES:
        raise UsageError(f"engine {kind!r} does not exist", remedy=f"Choose one of: {', '.join(ENGINES)}")
    del precision  # the torch engine computes in fp32 either way
    from pathology.inference.torch_engine import TorchEngine

    return TorchEngine(bundle, device=device)
