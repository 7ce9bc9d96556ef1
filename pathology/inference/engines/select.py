"""Which engine runs a model on this machine."""

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

from pathology.errors import UsageError
from pathology.inference.engines.base import ENGINES

if TYPE_CHECKING:
    from pathology.bundle.catalogue import Bundle
    from pathology.inference.engines.base import Engine, Precision

__all__ = ["choose_engine", "make_engine"]

_NEAR_TIES_ON_GPU = 32
"""Batch of the engine that computes near ties again: of 1,024 patches there are a few to a few dozen."""


def choose_engine(bundle: Bundle, *, device: str | None = None, precision: str = "fast", seconds: float = 1.0) -> str:
    """Try the engines that run here and return the fastest one's name.

    On a CUDA device it is torch, untried.  On a processor each engine predicts the same patches for a while; the
    outcome is kept in the cache folder, for this model, machine and these versions.

    Parameters
    ----------
    bundle
        The model.
    device, precision
        As for :func:`make_engine`.
    seconds
        How long each is tried, at least one round.
    """
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
    with contextlib.suppress(OSError):  # without a cache folder it is tried again next time
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(fastest, encoding="utf-8")
    return fastest


def _rate(bundle: Bundle, kind: str, device: str | None, precision: str, seconds: float) -> float:
    engine = make_engine(bundle, kind=kind, device=device, precision=precision)
    patches = np.full((engine.preferred_batch, engine.patch, engine.patch, 3), 200, np.uint8)
    engine.predict(patches)  # the first round allocates
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
        ``cpu``, ``cuda``, ``cuda:N``; ``None``: the best there is.
    precision
        ``exact``: fp32 throughout; ``fast``: bf16 where the device has it, or int8 where the bundle holds such a
        network and OpenVINO runs it without features, with near ties computed again in fp32; for detectors fp16 on a
        GPU, with patches that hold candidates computed again in fp32.
    threads
        Cores to use on a processor; ``None``: all this process may use.
    features
        Whether a classifier's penultimate features follow its other outputs.

    Raises
    ------
    UsageError
        If the engine is not known or its device is not there.
    MissingDependencyError
        If the engine is not installed.
    """
    if kind not in ENGINES:
        raise UsageError(f"engine {kind!r} does not exist", remedy=f"Choose one of: {', '.join(ENGINES)}")
    if precision not in ("fast", "exact"):
        raise UsageError(f"precision {precision!r} does not exist", remedy="Choose fast or exact")
    if kind == "auto":
        kind = choose_engine(bundle, device=device, precision=precision)
    if kind == "openvino":
        if device not in (None, "cpu"):
            raise UsageError(f"the OpenVINO engine runs on the processor, not on {device}", remedy="Use --engine torch")
        return _openvino(bundle, precision, threads, features)
    return _torch(bundle, device, precision, threads, features)


def _torch(bundle: Bundle, device: str | None, precision: str, threads: int | None, features: bool) -> Engine:
    import torch

    from pathology.inference.engines.recheck import RecheckCandidates, RecheckTies, with_lower_floor
    from pathology.inference.engines.torch import TorchEngine, has_bf16

    cuda = torch.cuda.is_available() if device is None else device.startswith("cuda")
    # On a processor a second look at windows with candidates, often most of them, costs more than bf16 gains.
    if precision == "exact" or not (cuda or (has_bf16() and bundle.card.task != "detection")):
        return TorchEngine(bundle, device=device, threads=threads, features=features)
    # Near ties are few: a GPU's full batch would mostly compute padding.
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
    # Near ties are few: a batch of them would mostly be padding, and one core would wait for the other.
    exact = OpenVINOEngine(bundle, threads=threads, features=features, batch_size=1)
    if int8 is not None:
        return RecheckTies(OpenVINOEngine(bundle, precision="int8", threads=threads), exact, margin=int8.margin)
    return RecheckTies(OpenVINOEngine(bundle, precision="bf16", threads=threads, features=features), exact)
