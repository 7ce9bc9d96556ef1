"""``pathology doctor``: check the installation and explain how to fix problems."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from pathology.extras import EXTRAS, install_command, installed, missing_libraries

__all__ = ["run"]


def run(asked: Sequence[str] = ()) -> int:
    """Print one line per check and per extra.

    Parameters
    ----------
    asked
        Extras that must work: their libraries are imported, not only looked for.

    Returns
    -------
    int
        0 if scoring and everything asked for works, 1 if not.

    Raises
    ------
    UsageError
        If there is no such extra.
    """
    from pathology._version import __version__

    for extra in asked:
        missing_libraries(extra)
    print(f"pathology {__version__}, Python {platform.python_version()}, {platform.platform()}")
    problems = 0
    for what, check in _CHECKS:
        try:
            print(f"ok    {what}: {check()}")
        except Exception as error:  # every problem is reported
            problems += 1
            print(f"FAIL  {what}: {type(error).__name__}: {error}")
    for extra in EXTRAS:
        problems += _extra(extra, asked=extra in asked)
    print(
        "Ready to score."
        if not problems
        else f"{problems} problem{'' if problems == 1 else 's'} found. Fix and run pathology doctor again."
    )
    return 1 if problems else 0


def _extra(name: str, *, asked: bool) -> int:
    """Print the line of an extra; return 1 if it was asked for and does not work."""
    extra = EXTRAS[name]
    about = f"extra '{name}' ({', '.join(extra.libraries.values())}{extra.licence and f'; {extra.licence}'})"
    if missing := missing_libraries(name):
        said = f"{about}: {extra.purpose}; missing {', '.join(missing)}: {install_command(name)}"
        print(f"{'FAIL ' if asked else '-    '} {said}")
        return int(asked)
    if asked:
        for module, library in extra.libraries.items():
            # In a process of its own: libraries change global state on import, and a broken one may crash.
            command = [sys.executable, "-c", f"import {module}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own names
            if done.returncode:
                why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                print(f"FAIL  {about}: {library} cannot be imported ({why}): {install_command(name)} --force-reinstall")
                return 1
    print(f"ok    {about}: {extra.purpose}")
    return 0


def _libraries() -> str:
    names = ("openvino", "numpy", "zarr", "dask", "imagecodecs", "tifffile", "openslide-python", "pydicom")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError as error:
            raise ModuleNotFoundError(f"{name} is missing; reinstall with pip") from error
    return ", ".join(found)


def _readers() -> str:
    from pathology.slide.readers.outside import outside_readers

    broken = [f"{reader.name} of {reader.package}: {reader.problem}" for reader in outside_readers() if reader.problem]
    if broken:
        raise ValueError("; ".join(broken))
    return ", ".join(f"{reader.name} ({reader.package})" for reader in outside_readers()) or "none"


def _openslide() -> str:
    return f"OpenSlide {import_module('openslide').__library_version__}"


def _codecs() -> str:
    import numpy as np

    codecs = import_module("imagecodecs")
    picture = np.full((32, 32, 3), 120, np.uint8)
    for name in ("jpeg8", "jpeg2k", "webp", "lzw", "zlib"):
        encoded = getattr(codecs, f"{name}_encode")(picture if name not in ("lzw", "zlib") else picture.tobytes())
        getattr(codecs, f"{name}_decode")(encoded)
    return "JPEG, JPEG 2000, WebP, LZW, deflate encode and decode"


def _devices() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if not installed("torch"):
        return f"{cores} CPU cores; GPUs need torch"
    torch = import_module("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{cores} CPU cores ({torch.backends.cpu.get_cpu_capability()}), " + (
        ", ".join(gpus) if gpus else "no CUDA device"
    )


def _models() -> str:
    from pathology.bundle.catalogue import list_bundles

    bundles = list_bundles()
    broken = [f"{b.name}: {b.error}" for b in bundles if b.error]
    if broken:
        raise ValueError("; ".join(broken))
    return ", ".join(b.name for b in bundles) or "none found; place bundles in models/"


def _space() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 1:
        raise OSError(f"only {free:.1f} GiB free in this folder")
    return f"{free:.0f} GiB free in this folder"


def _memory() -> str:
    memory = import_module("psutil").virtual_memory()
    return f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"


def _user() -> str:
    """Say who runs this, and where nothing can be kept: in a container often a user without name or home."""
    from getpass import getuser

    from pathology.atomic_files import require_writable
    from pathology.settings import cache_folder, can_keep_a_cache

    name = getuser()  # the libraries ask for it too: what fails here would fail there
    folder = cache_folder()
    require_writable(folder)
    if not can_keep_a_cache():
        return f"{name}; the home folder is missing or not writable: works, without a cache"
    return f"{name}; cache in {folder}"


def _temporary() -> str:
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    return tempfile.gettempdir()


def _workers() -> str:
    from pathology.inference.workers.cluster import connect

    with connect(workers=1) as pool:
        found: str = pool.client.submit(_interpreter).result(timeout=60)
    return f"a worker process starts and responds (Python {found})"


def _interpreter() -> str:
    return sys.version.split()[0]


_CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("libraries", _libraries),
    ("OpenSlide", _openslide),
    ("slide readers of other packages", _readers),
    ("codecs", _codecs),
    ("devices", _devices),
    ("memory", _memory),
    ("disk", _space),
    ("user", _user),
    ("temporary folder", _temporary),
    ("models", _models),
    ("workers", _workers),
)
