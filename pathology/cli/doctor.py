"""``pathology doctor``: check the installation and explain how to fix problems."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

__all__ = ["run"]

_EXTRAS = {
    "openvino": ("openvino", "nncf"),
    "training": ("albumentations", "sklearn"),
    "cluster": ("dask_jobqueue", "bokeh"),
    "survival": ("lifelines", "torchsurv"),
    "radiology": ("SimpleITK", "nibabel", "monai", "mirp"),
    "interop": ("highdicom", "openpyxl", "reportlab"),
    "cohorts": ("idc_index_data",),
    "tiatoolbox": ("tiatoolbox",),
    "ultralytics": ("ultralytics",),
}


def run() -> int:
    """Print one line per check; return 0 if scoring works, 1 if not."""
    from pathology._version import __version__

    print(f"pathology {__version__}, Python {platform.python_version()}, {platform.platform()}")
    problems = 0
    for what, check in _CHECKS:
        try:
            print(f"ok    {what}: {check()}")
        except Exception as error:  # every problem is reported
            problems += 1
            print(f"FAIL  {what}: {type(error).__name__}: {error}")
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if not _found(name)]
        if missing:
            remedy = f"pip install 'sarcoma-pathology[{extra}]'"
            print(f"-     extra '{extra}' is not installed (missing {', '.join(missing)}): {remedy}")
        else:
            print(f"ok    extra '{extra}'")
    print(
        "Ready to score."
        if not problems
        else f"{problems} problem{'' if problems == 1 else 's'} found. Fix and run pathology doctor again."
    )
    return 1 if problems else 0


def _found(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _libraries() -> str:
    names = ("torch", "numpy", "zarr", "dask", "imagecodecs", "tifffile", "openslide-python", "pydicom")
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError as error:
            raise ModuleNotFoundError(f"{name} is missing; reinstall with pip") from error
    return ", ".join(found)


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
    torch = import_module("torch")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
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
    ("codecs", _codecs),
    ("devices", _devices),
    ("memory", _memory),
    ("disk", _space),
    ("user", _user),
    ("temporary folder", _temporary),
    ("models", _models),
    ("workers", _workers),
)
