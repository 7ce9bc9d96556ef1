"""Choice of the engine that runs a model on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from pathology.errors import UnusableDeviceError, UsageError
from pathology.extras import installed
from pathology.inference.engines.base import ENGINES, require_torch

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.engines.base import Engine, Precision

__all__ = ["choose_engine", "make_engine"]

_NEAR_TIES_ON_GPU = 32
"""Batch size of the engine that recomputes near ties: of 1,024 patches there are a few to a few dozen."""


def choose_engine(bundle: Bundle, *, device: str | None = None, precision: str = "fast", seconds: float = 1.0) -> str:
    """Time the available engines and return the name of the fastest.

    On a CUDA device it is always torch.  On a CPU, each engine predicts the same patches for a while; the outcome is
    cached for this model, machine and these versions.

    Parameters
    ----------
    bundle
        The model.
    device, precision
        As for :func:`make_engine`.
    seconds
        How long to run each engine; at least one round.
    """
    if not installed("torch"):
        return "openvino"
    import torch

    if (device or "cuda").startswith("cuda") and torch.cuda.is_available():
        return "torch"
    if find_spec("openvino") is None:
        return "torch"
    from pathology.settings import cache_folder

    machine = (platform.node(), platform.machine(), os.cpu_count(), version("torch"), version("openvino"))
    int8 = bundle.card.int8.constants_sha256 if bundle.card.int8 is not None else ""
    parts = (bundle.card.weights_sha256, int8, precision, machine)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    known = cache_folder() / "engines" / key
    with contextlib.suppress(OSError):
        if (kept := known.read_text(encoding="utf-8")) in ENGINES:
            return kept
    rates = {kind: _rate(bundle, kind, device, precision, seconds) for kind in ("torch", "openvino")}
    fastest = max(rates, key=lambda kind: rates[kind])
    with contextlib.suppress(OSError):  # without a cache folder the engines are timed again next time
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(fastest, encoding="utf-8")
    return fastest


def _rate(bundle: Bundle, kind: str, device: str | None, precision: str, seconds: float) -> float:
    engine = make_engine(bundle, kind=kind, device=device, precision=precision)
    patches = np.full((engine.preferred_batch, engine.patch, engine.patch, 3), 200, np.uint8)
    engine.predict(patches)  # the first round allocates memory
    began, rounds = time.perf_counter(), 0
    while not rounds or time.perf_counter() - began < seconds:
        engine.predict(patches)
        rounds += 1
    engine.close()
    return rounds * len(patches) / (time.perf_counter() - began)


def make_engine(
    bundle: Bundle,
    *,
    kind: str = "auto",
    device: str | None = None,
    precision: str = "fast",
    threads: int | None = None,
    features: bool = False,
) -> Engine:
    """Load a model into an engine.

    Parameters
    ----------
    bundle
        The model.
    kind
        One of :data:`pathology.inference.engines.base.ENGINES`.
    device
        ``cpu``, ``cuda``, ``cuda:N``; ``None``: the best available.
    precision
        ``exact``: fp32 throughout; ``fast``: bf16 if the device supports it, or int8 if the bundle includes an int8
        network and OpenVINO runs it without features, with near ties recomputed in fp32; for detectors fp16 on a GPU,
        with patches that contain candidates recomputed in fp32.
    threads
        CPU cores to use; ``None``: all that this process may use.
    features
        Whether to append a classifier's penultimate features to its other outputs.

    Raises
    ------
    UsageError
        If the engine is unknown; :class:`~pathology.errors.UnusableDeviceError` if its device is not available.
    MissingDependencyError
        If the engine is not installed.

    Examples
    --------
    >>> from pathology import load_bundle
    >>> engine = make_engine(load_bundle(bundle_path), kind="torch", device="cpu")
    >>> engine.predict(np.zeros((2, 64, 64, 3), np.uint8)).shape
    (2, 3)
    >>> engine.close()
    """
    if kind not in ENGINES:
        raise UsageError(f"unknown engine {kind!r}", remedy=f"Choose one of: {', '.join(ENGINES)}")
    if precision not in ("fast", "exact"):
        raise UsageError(f"unknown precision {precision!r}", remedy="Choose fast or exact")
    if kind == "auto":
        kind = choose_engine(bundle, device=device, precision=precision)
    if kind == "openvino":
        if device not in (None, "cpu"):
            raise UnusableDeviceError(
                f"the OpenVINO engine runs on the CPU, not on {device}", remedy="Use --engine torch"
            )
        return _openvino(bundle, precision, threads, features)
    return _torch(bundle, device, precision, threads, features)


def _torch(bundle: Bundle, device: str | None, precision: str, threads: int | None, features: bool) -> Engine:
    require_torch("the torch engine")
    import torch

    from pathology.inference.engines.recheck import RecheckCandidates, RecheckTies, with_lower_floor
    from pathology.inference.engines.torch import TorchEngine, has_bf16

    cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    # On a CPU, rechecking windows with candidates, often most of them, costs more than bf16 saves.
    if precision == "exact" or not (cuda or (has_bf16() and bundle.card.task != "detection")):
        return TorchEngine(bundle, device=device, threads=threads, features=features)
    # Near ties are few: a full GPU batch would be mostly padding.
    size = _NEAR_TIES_ON_GPU if cuda else None
    exact = TorchEngine(bundle, device=device, batch_size=size, threads=threads, features=features)
    low: Precision = "fp16" if cuda else "bf16"
    if bundle.card.task == "detection":
        looking = TorchEngine(
            with_lower_floor(bundle), device=device, precision=low, threads=threads, features=features
        )
        return RecheckCandidates(looking, exact)
    return RecheckTies(TorchEngine(bundle, device=device, precision=low, threads=threads, features=features), exact)


def _openvino(bundle: Bundle, precision: str, threads: int | None, features: bool) -> Engine:
    from pathology.inference.engines.openvino import OpenVINOEngine, computes_bf16
    from pathology.inference.engines.recheck import RecheckTies

    int8 = bundle.card.int8 if not features else None
    if bundle.card.task == "detection" or precision == "exact" or not (int8 or computes_bf16()):
        return OpenVINOEngine(bundle, threads=threads, features=features)
    # Near ties are few: a batch of them would be mostly padding, and one core would wait for the other.
    exact = OpenVINOEngine(bundle, threads=threads, features=features, batch_size=1)
    if int8 is not None:
        return RecheckTies(OpenVINOEngine(bundle, precision="int8", threads=threads), exact, margin=int8.margin)
    return RecheckTies(OpenVINOEngine(bundle, precision="bf16", threads=threads, features=features), exact)
