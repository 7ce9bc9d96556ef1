"""Checks of options, libraries and devices before a run, so that no slide is blamed for what the machine lacks."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pathology.errors import MissingDependencyError, UnusableDeviceError, UsageError
from pathology.inference.engines.base import ENGINES, require_torch
from pathology.scoring.jobs import SlideJob, grid_settings
from pathology.slide.scale import COARSEST_MPP, FINEST_MPP

if TYPE_CHECKING:
    from pathology.bundle.card import Card
    from pathology.settings import RunSettings, ScoreSettings

__all__ = ["check_options", "try_engine"]


def check_options(card: Card, settings: ScoreSettings, run: RunSettings) -> None:
    """Refuse options that no slide can be scored with, and engines and devices that this machine does not have.

    Parameters
    ----------
    card
        The model's.
    settings, run
        Of the run.  With workers on other machines, their devices are left to :func:`try_engine`.

    Raises
    ------
    UsageError
        If an option is unknown or impossible.
    UnusableDeviceError
        If the device does not exist.
    MissingDependencyError
        If the engine is not installed.
    """
    if run.mpp is not None and not FINEST_MPP <= run.mpp <= COARSEST_MPP:
        raise UsageError(
            f"--mpp is {run.mpp:g} µm per pixel; slides have between {FINEST_MPP:g} and {COARSEST_MPP:g}",
            remedy="Give the scale of level 0, such as 0.25 at 40x, or omit it",
        )
    try:
        grid_settings(settings, card)
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    if run.engine not in ENGINES:
        raise UsageError(f"unknown engine {run.engine!r}", remedy=f"Choose one of: {', '.join(ENGINES)}")
    device = run.device
    if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UnusableDeviceError(f"device {device!r} does not exist", remedy="Choose cpu, cuda or cuda:N")
    if run.engine == "openvino" and device not in (None, "cpu"):
        raise UnusableDeviceError(
            f"the OpenVINO engine runs on the CPU, not on {device}", remedy="Use --engine torch, or omit --device"
        )
    if run.scheduler is not None or run.slurm is not None:
        return
    if run.engine == "openvino" and find_spec("openvino") is None:
        raise MissingDependencyError(
            "the OpenVINO engine is not installed",
            remedy="Reinstall with: pip install sarcoma-pathology, or use --engine torch",
        )
    if run.engine == "torch":
        require_torch("the torch engine")
    if device is not None and device.startswith("cuda"):
        require_torch(f"device {device}")
        from pathology.inference.engines.torch import torch_device

        torch_device(device)


def try_engine(job: SlideJob) -> str:
    """Load the job's model into its engine on this worker, which keeps it, and return the engine's name.

    Raises
    ------
    PathologyError
        If the engine, the device or a library is missing here; none of it is any slide's fault.
    """
    from pathology.inference.engines.select import choose_engine
    from pathology.scoring.guard import missing_library
    from pathology.scoring.worker import bundle_of, engine_of

    try:
        name = job.engine_used or job.engine
        if name == "auto":
            name = choose_engine(bundle_of(job), device=job.device, precision=job.settings.precision)
        engine_of(replace(job, engine_used=name))
    except MissingDependencyError:
        raise
    except ImportError as error:
        raise missing_library(error) from error
    return name
