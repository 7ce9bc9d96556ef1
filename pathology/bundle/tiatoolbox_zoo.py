"""The patch classifiers of TIAToolbox's pretrained zoo as bundles: ``tiatoolbox:NAME``.

TIAToolbox publishes PyTorch checkpoints, which are pickles.  On first use a checkpoint is read once,
tensors only, and stored in the cache folder as an ordinary bundle of card and safetensors; after that neither the
library nor its hub is needed.  Patch size, scale, number of classes and network are read from the library's registry.

This is the one file that imports tiatoolbox.
"""

from __future__ import annotations

import difflib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pathology.bundle.card import CARD_NAME, WEIGHTS_NAME, Card, TrainingData, write_card
from pathology.bundle.checkpoint import read_checkpoint
from pathology.bundle.weights import file_sha256, load_weights, write_state_dict
from pathology.errors import BundleError, OutputError, UnknownModelError
from pathology.extras import missing_extra
from pathology.networks.registry import build_network
from pathology.settings import cache_folder

__all__ = ["ZOO_PREFIX", "zoo_bundle", "zoo_models"]

ZOO_PREFIX: Final = "tiatoolbox:"
"""Prefix of the zoo's model names."""

_ARCHITECTURE: Final = "pooled-backbone"


@dataclass(frozen=True)
class _Task:
    """What the registry does not say about the models trained for one task."""

    classes: tuple[str, ...]
    mean: float
    std: float
    data: TrainingData
    about: str


_PCAM: Final = TrainingData(
    name="PatchCamelyon (PCam), training part",
    source="Veeling et al. 2018, MICCAI; patches of Camelyon16",
    licence="CC0 1.0",
    images=262_144,
    used_for="training",
)
_KATHER: Final = TrainingData(
    name="Kather 100K (NCT-CRC-HE-100K)",
    source="Kather et al. 2019, PLOS Medicine 16:e1002730",
    licence="CC BY 4.0",
    images=100_000,
    used_for="training",
)
_IDARS: Final = TrainingData(
    name="slides of colorectal cancer of The Cancer Genome Atlas",
    source="Bilal et al. 2021, Lancet Digital Health 3:e763",
    licence="as the publication and the data's publishers state it",
    used_for="training",
)

# Classes in the order of the outputs: KatherPatchDataset of tiatoolbox.models.dataset.info; PCam's labels 0 and 1; of
# IDaRS, feature absent (0) and present (1).  Input: predefined_preproc_func of tiatoolbox.models.dataset.classification
# (values 0 to 1 as they are) and TRANSFORM of tiatoolbox.models.architecture.idars.
_TASKS: Final = {
    "kather100k": _Task(
        (
            "background",
            "normal mucosa",
            "debris",
            "tumour epithelium",
            "adipose",
            "mucus",
            "smooth muscle",
            "stroma",
            "lymphocytes",
        ),
        0.0,
        1.0,
        _KATHER,
        "tissue classes of colorectal cancer",
    ),
    "pcam": _Task(("no metastasis", "metastasis"), 0.0, 1.0, _PCAM, "metastases of breast cancer in lymph nodes"),
    **{
        f"idars-{feature}": _Task(classes, 0.5, 0.1, _IDARS, f"{words} in colorectal cancer")
        for feature, classes, words in (
            ("tumour", ("no tumour", "tumour"), "tumour"),
            ("msi", ("microsatellite stable", "microsatellite instable"), "microsatellite instability"),
            ("braf", ("BRAF wild type", "BRAF mutated"), "BRAF mutation"),
            ("cimp", ("CIMP low", "CIMP high"), "CpG island methylator phenotype"),
            ("cin", ("chromosomally stable", "chromosomally instable"), "chromosomal instability"),
            ("tp53", ("TP53 wild type", "TP53 mutated"), "TP53 mutation"),
            ("hm", ("not hypermutated", "hypermutated"), "hypermutation"),
        )
    },
}


def zoo_bundle(name: str) -> Path:
    """Return the folder of a zoo model's bundle, created on first use.

    The checkpoint is read from TIAToolbox's own cache, ``~/.tiatoolbox/models/NAME.pth``, or downloaded from its hub.

    Parameters
    ----------
    name
        As TIAToolbox calls the model, such as ``resnet18-kather100k``.

    Returns
    -------
    Path
        ``tiatoolbox/tiatoolbox-NAME`` in the cache folder, with card and weights.

    Raises
    ------
    UnknownModelError
        If the zoo has no patch classifier of this name.
    MissingDependencyError
        If the bundle does not exist yet and tiatoolbox is not installed.
    BundleError
        If the weights cannot be downloaded, or do not match the network.
    UnsafeWeightsError
        If the checkpoint holds anything but tensors.
    OutputError
        If the cache folder cannot be written.
    """
    parent = cache_folder() / "tiatoolbox"
    folder = parent / _bundle_name(name)
    # A name with a separator is no name of the zoo, and must not lead out of the folder.
    if folder.parent == parent and (folder / CARD_NAME).is_file() and (folder / WEIGHTS_NAME).is_file():
        return folder
    models = zoo_models()
    if name not in models:
        raise _unknown(name, models)
    checkpoint = _checkpoint(name, models[name])
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as scratch:
            aside = Path(scratch) / folder.name
            _convert(name, models[name], checkpoint, aside)
            try:
                aside.replace(folder)
            except OSError:  # Another process may have been faster; its result is the same.
                if not (folder / CARD_NAME).is_file():
                    shutil.rmtree(folder, ignore_errors=True)
                    aside.replace(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"the converted model cannot be stored ({error.strerror or error})",
            where=parent,
            remedy="Set PATHOLOGY_CACHE to a writable folder",
        ) from error
    return folder


def zoo_models() -> dict[str, dict[str, Any]]:
    """Return what TIAToolbox's registry says about each patch classifier that can be used here, by name.

    Raises
    ------
    MissingDependencyError
        If tiatoolbox is not installed.
    """
    registry: dict[str, dict[str, Any]] = _library().rcParam["pretrained_model_info"]
    return {name: entry for name, entry in registry.items() if _task(name, entry) is not None}


def _task(name: str, entry: dict[str, Any]) -> _Task | None:
    """What a model was trained for; ``None`` if it is no patch classifier of a known input."""
    if entry["architecture"]["class"] not in ("vanilla.CNNModel", "idars.IDaRS"):
        return None
    return _TASKS.get(entry.get("dataset") or name.partition("-")[2])


def _bundle_name(name: str) -> str:
    return "tiatoolbox-" + name.lower().replace("_", "-")


def _unknown(name: str, models: dict[str, dict[str, Any]]) -> UnknownModelError:
    if name in _library().rcParam["pretrained_model_info"]:
        return UnknownModelError(
            f"TIAToolbox's {name} is not a patch classifier; only patch classifiers are supported",
            remedy=f"Choose a patch classifier such as {ZOO_PREFIX}resnet18-kather100k; docs/bundles.md lists them",
        )
    close = difflib.get_close_matches(name, models, n=1)
    return UnknownModelError(
        f"TIAToolbox's zoo has no patch classifier called {name!r}; available: {', '.join(models)}",
        remedy=f"The closest name is {ZOO_PREFIX}{close[0]}" if close else None,
    )


@contextmanager
def _without_side_effects() -> Iterator[None]:
    """Undo the library's changes to logging and warnings, and suppress warnings of its own imports."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    captured = warnings.showwarning.__module__ == "logging"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            if not captured:
                logging.captureWarnings(False)
            root.handlers[:] = handlers
            root.setLevel(level)


def _library() -> Any:  # noqa: ANN401 - an untyped module
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        with _without_side_effects():
            import tiatoolbox
    except ImportError as error:
        raise missing_extra("models of TIAToolbox's zoo need TIAToolbox on first use", "tiatoolbox") from error
    return tiatoolbox


def _checkpoint(name: str, entry: dict[str, Any]) -> Path:
    """The checkpoint in TIAToolbox's own cache, fetched by TIAToolbox where it is not there."""
    path = Path(_library().rcParam["TIATOOLBOX_HOME"]) / "models" / f"{name}.pth"
    if path.is_file():
        return path
    try:
        with _without_side_effects():
            from tiatoolbox.models.architecture import fetch_pretrained_weights

            fetched = Path(fetch_pretrained_weights(name))
    except Exception as error:  # the hub's client raises errors of many libraries, and not always its own
        raise BundleError(
            f"the weights of TIAToolbox's {name} are not cached and its hub cannot provide them"
            f" ({type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'})",
            where=path,
            remedy=f"Download {name}.pth from the hub's repository {entry['hf_repo_id']} on a machine with access"
            " and copy it to this path",
        ) from error
    return fetched


def _convert(name: str, entry: dict[str, Any], checkpoint: Path, folder: Path) -> None:
    """Write a bundle of a checkpoint."""
    task = _task(name, entry)
    assert task is not None
    options = entry["architecture"]["kwargs"]
    settings = entry["ioconfig"]["kwargs"]
    sides = {*settings["patch_input_shape"]}
    scale = settings["input_resolutions"][0]
    if len(sides) != 1 or scale["units"] != "mpp" or options["num_classes"] != len(task.classes):
        raise BundleError(
            f"this version of TIAToolbox describes {name} in an unsupported way",
            remedy="Use the tested version of TIAToolbox; see docs/bundles.md",
        )
    patch = sides.pop()
    stride = settings["stride_shape"][0]
    network = build_network(_ARCHITECTURE, len(task.classes), backbone=options["backbone"])
    remedy = "Delete it and download it again from TIAToolbox's hub"
    load_weights(network, read_checkpoint(checkpoint, remedy=remedy), where=checkpoint)
    sha256 = write_state_dict(network.state_dict(), folder / WEIGHTS_NAME, half=False)
    write_card(
        Card.model_validate(
            {
                "name": _bundle_name(name),
                "version": "1.0.0",
                "title": f"TIAToolbox's {name}: {task.about}",
                "architecture": _ARCHITECTURE,
                "architecture_options": {"backbone": options["backbone"]},
                "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
                "classes": task.classes,
                "mpp": scale["resolution"],
                "patch": patch,
                "stride": None if stride == patch else stride,
                "normalisation": {"mean": (task.mean,) * 3, "std": (task.std,) * 3},
                "weights_sha256": sha256,
                "initialisation": "not stated by TIAToolbox",
                "training_data": (task.data,),
                "split": "by the authors of TIAToolbox; not known here",
                "metrics": (
                    {
                        "metric": "accuracy",
                        "value": None,
                        "interval": None,
                        "method": "none",
                        "n": 0,
                        "unit": "patches",
                        "data": "none",
                        "note": "Not measured by this program; see TIAToolbox's documentation.",
                    },
                ),
                "intended_use": f"Research on {task.about}. Not for sarcomas, and not for diagnosis.",
                "limits": (
                    "Not trained on sarcomas.",
                    "Probabilities are not calibrated.",
                    "Never abstains: it has no out-of-distribution score.",
                ),
                "licence": f"as stated with {entry['hf_repo_id']} on TIAToolbox's hub; read it before use",
                "reference": "Pocock et al. 2022, Communications Medicine 2:120",
                "made_by": f"converted from {name}.pth (SHA-256 {file_sha256(checkpoint)}),"
                f" TIAToolbox {_library().__version__}",
            }
        ),
        folder / CARD_NAME,
    )
