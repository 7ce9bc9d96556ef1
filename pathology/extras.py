"""The optional parts of the program: what each is for, which libraries it brings, and the command that installs it.

The one place that knows; the command line, ``pathology doctor`` and the tests read it.  Tests compare it with
``pyproject.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType

from pathology.errors import MissingDependencyError, UsageError

__all__ = [
    "EXTRAS",
    "Extra",
    "extra_of",
    "install_command",
    "installed",
    "missing_extra",
    "missing_libraries",
    "require_extras",
]


@dataclass(frozen=True)
class Extra:
    """An optional part of the program."""

    purpose: str
    """What it is for, in a few words."""
    libraries: Mapping[str, str]
    """Module to distribution: the name after ``import`` and the name that ``pip`` knows."""
    licence: str = ""
    """Copyleft licence that it brings, if any."""


def _extra(purpose: str, licence: str = "", **libraries: str) -> Extra:
    return Extra(purpose, MappingProxyType(libraries), licence)


_TORCH = {"torch": "torch", "torchvision": "torchvision"}

EXTRAS: Mapping[str, Extra] = MappingProxyType(
    {
        "torch": _extra("GPUs, and models without a network for OpenVINO", **_TORCH),
        "training": _extra(
            "training and evaluation of slide classifiers, detectors and heads",
            **_TORCH,
            albumentations="albumentations",
            skimage="scikit-image",
            sklearn="scikit-learn",
        ),
        "quantise": _extra("quantisation of a model to 8-bit integers", nncf="nncf"),
        "encoders": _extra(
            "patch encoders (foundation models) and HDF5 feature files",
            **_TORCH,
            h5py="h5py",
            huggingface_hub="huggingface_hub",
            timm="timm",
        ),
        "cluster": _extra("SLURM jobs and Dask's dashboard", bokeh="bokeh", dask_jobqueue="dask-jobqueue"),
        "survival": _extra(
            "survival models", **_TORCH, lifelines="lifelines", sklearn="scikit-learn", torchsurv="torchsurv"
        ),
        "omics": _extra("histone marks from DNA methylation", **_TORCH, h5py="h5py"),
        "radiology": _extra(
            "MRI, CT and PET",
            **_TORCH,
            SimpleITK="SimpleITK",
            lifelines="lifelines",
            monai="monai",
            nibabel="nibabel",
            skimage="scikit-image",
            sklearn="scikit-learn",
        ),
        "radiomics": _extra("radiomic features of tumours (IBSI)", mirp="mirp"),
        "interop": _extra(
            "DICOM, PDF and Excel files", highdicom="highdicom", openpyxl="openpyxl", reportlab="reportlab"
        ),
        "cohorts": _extra("the index of public cohorts", idc_index_data="idc-index-data"),
        "tiatoolbox": _extra("patch classifiers of TIAToolbox's model zoo", **_TORCH, tiatoolbox="tiatoolbox"),
        "ultralytics": _extra("detectors of the YOLO family", "AGPL-3.0", **_TORCH, ultralytics="ultralytics"),
    }
)


def install_command(*extras: str) -> str:
    """Return the command that installs extras.

    Examples
    --------
    >>> install_command("radiology", "radiomics")
    "pip install 'sarcoma-pathology[radiology,radiomics]'"
    """
    return f"pip install 'sarcoma-pathology[{','.join(extras)}]'"


def missing_libraries(extra: str) -> tuple[str, ...]:
    """Return the libraries of an extra that are not installed, by the names that ``pip`` knows.

    Raises
    ------
    UsageError
        If there is no such extra.

    Examples
    --------
    >>> missing_libraries("quantise")
    ()
    """
    if extra not in EXTRAS:
        raise UsageError(f"unknown extra '{extra}'", remedy=f"Choose one of {', '.join(EXTRAS)}")
    return tuple(library for module, library in EXTRAS[extra].libraries.items() if not installed(module))


def require_extras(*extras: str, what: str) -> None:
    """Check that the libraries of some extras are installed, without importing them.

    Parameters
    ----------
    extras
        What is needed.
    what
        What needs it, as the beginning of the message: "pathology survival fit".

    Raises
    ------
    MissingDependencyError
        If a library is missing, with the command that installs it.

    Examples
    --------
    >>> require_extras("training", what="pathology train")
    """
    libraries = {extra: missing_libraries(extra) for extra in extras}
    if lacking := [extra for extra, missing in libraries.items() if missing]:
        names = ", ".join(dict.fromkeys(name for extra in lacking for name in libraries[extra]))
        raise missing_extra(f"{what} needs {names}", *lacking)


def missing_extra(what: str, *extras: str) -> MissingDependencyError:
    """Return the error that says what is missing and how to install it.

    Examples
    --------
    >>> print(missing_extra("reading HDF5 files needs h5py", "encoders"))
    reading HDF5 files needs h5py. Install it: pip install 'sarcoma-pathology[encoders]'.
    """
    return MissingDependencyError(what, remedy=f"Install it: {install_command(*extras)}")


def extra_of(module: str) -> str | None:
    """Return the first extra that brings a module; ``None`` if none does.

    Examples
    --------
    >>> extra_of("sklearn.linear_model")
    'training'
    """
    top = module.partition(".")[0]
    return next((extra for extra, about in EXTRAS.items() if top in about.libraries), None)


def installed(module: str) -> bool:
    """Return whether a module can be found, without importing it.

    Examples
    --------
    >>> installed("numpy"), installed("no_such_module")
    (True, False)
    """
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: half imported, without a specification
        return False
