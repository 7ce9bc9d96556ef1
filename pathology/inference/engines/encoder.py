"""Several encoders over the same patches as one engine: resized for each, run by torch or OpenVINO, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pathology.encoders.preprocessing import encoder_input
from pathology.errors import UnusableDeviceError, UsageError
from pathology.inference.engines.base import ENGINES, Engine, Precision, available_cores, require_torch

if TYPE_CHECKING:
    from pathology.encoders.installed import Encoder

__all__ = ["EncoderEngine", "make_encoder_engine"]

_CPU_BATCH: Final = 4
"""Patches per batch on a CPU: a ViT-g of 4 patches keeps a core busy, and memory low."""


def make_encoder_engine(
    encoder: Encoder,
    *,
    kind: str = "auto",
    device: str | None = None,
    precision: str = "fast",
    threads: int | None = None,
) -> Engine:
    """Load one encoder into an engine that takes its input size.

    Parameters
    ----------
    encoder
        With its weights.
    kind
        ``torch``, ``openvino``; ``auto``: torch on CUDA, else OpenVINO where it is installed.
    device
        ``cpu``, ``cuda``, ``cuda:N``; ``None``: the best available.
    precision
        ``exact``: fp32; ``fast``: fp16 on CUDA and bf16 on CPUs that compute it.
    threads
        CPU cores to use; ``None``: all that this process may use.

    Raises
    ------
    UsageError
        If an option is unknown; :class:`~pathology.errors.UnusableDeviceError` if the device is not available.
    MissingDependencyError
        If the engine or timm is not installed.
    """
    require_torch(f"encoder {encoder.name}")
    import torch

    from pathology.inference.engines.torch import TorchEngine, has_bf16

    if kind not in ENGINES:
        raise UsageError(f"unknown engine {kind!r}", remedy=f"Choose one of: {', '.join(ENGINES)}")
    if precision not in ("fast", "exact"):
        raise UsageError(f"unknown precision {precision!r}", remedy="Choose fast or exact")
    cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    if kind == "openvino" and device not in (None, "cpu"):
        raise UnusableDeviceError(f"the OpenVINO engine runs on the CPU, not on {device}", remedy="Use --engine torch")
    openvino = kind == "openvino" or (kind == "auto" and not cuda and find_spec("openvino") is not None)
    side, outputs = encoder.specification.input, encoder.specification.vector
    if not openvino:
        low: Precision = "fp32" if precision == "exact" else "fp16" if cuda else "bf16" if has_bf16() else "fp32"
        return TorchEngine.of_network(
            encoder.network,
            patch=side,
            outputs=outputs,
            device=device,
            precision=low,
            batch_size=None if cuda else _CPU_BATCH,
            threads=threads,
        )
    from pathology.inference.engines.openvino import OpenVINOEngine, computes_bf16, converted_network

    name = encoder.name.replace(":", "-")
    return OpenVINOEngine.of_graph(
        converted_network(name, encoder.key(), encoder.network, side),
        patch=side,
        outputs=outputs,
        precision="bf16" if precision == "fast" and computes_bf16() else "fp32",
        threads=threads,
    )


class EncoderEngine(Engine):
    """Runs encoders over the same patches; their vectors follow each other as columns.

    Parameters
    ----------
    encoders
        Encoders, each with the engine that runs it; see :func:`make_encoder_engine`.
    patch
        Side of the patches as read from the slide, in pixels; each encoder gets them in its own input size.
    threads
        Threads that resize; ``None``: one per core.
    """

    name = "encoder"

    def __init__(self, encoders: Sequence[tuple[Encoder, Engine]], *, patch: int, threads: int | None = None) -> None:
        self._encoders = tuple(encoders)
        self._pool = ThreadPoolExecutor(threads or available_cores(), "resize")
        engines = [engine for _, engine in encoders]
        self.device = engines[0].device
        self.precision = engines[0].precision
        self.patch = patch
        self.batch_size = 1  # each encoder's engine pads to its own
        self.preferred_batch = max(engine.preferred_batch for engine in engines)
        self.classes = self.extras = sum(engine.classes for engine in engines)

    @property
    def description(self) -> str:
        """The encoders' engines, without repetition."""
        return ", ".join(dict.fromkeys(engine.description for _, engine in self._encoders))

    def _predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate(
            [
                engine.predict(encoder_input(patches, encoder.specification, self._pool))
                for encoder, engine in self._encoders
            ],
            axis=1,
        )

    def close(self) -> None:
        """Release every encoder's engine."""
        self._pool.shutdown()
        for _, engine in self._encoders:
            engine.close()
