"""Weights on disk: safetensors only, checked against the card, fp32 in memory."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from numpy.typing import NDArray

from pathology.bundle.card import WEIGHTS_NAME
from pathology.errors import BundleError, OutputError, UnsafeWeightsError, WeightsHashError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = [
    "check_weights",
    "file_sha256",
    "load_weights",
    "read_state_dict",
    "read_tensors",
    "refuse_unsafe",
    "weights_path",
    "write_state_dict",
]

UNSAFE_SUFFIXES: Final = frozenset(
    {".bin", ".ckpt", ".h5", ".hdf5", ".joblib", ".keras", ".pickle", ".pkl", ".pt", ".pth"}
)
"""Formats that are, or may hold, a pickle or other code run on loading."""

_CHUNK: Final = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading 1 MiB at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_unsafe(path: Path) -> None:
    """Refuse a weights file of a kind that can run code when it is loaded.

    Raises
    ------
    UnsafeWeightsError
        If the suffix is that of a pickle, a PyTorch checkpoint or a Keras file; the message says how to convert it.
    """
    suffix = path.suffix.lower()
    if suffix not in UNSAFE_SUFFIXES:
        return
    if _is_torchscript(path):
        raise UnsafeWeightsError(
            "a TorchScript program is code, not weights, and is not loaded",
            where=path,
            remedy="Build the network it came from, load its state dict there, save it with"
            " safetensors.torch.save_file, and import that with a card: pathology models import",
        )
    if suffix in {".h5", ".hdf5", ".keras"}:
        raise UnsafeWeightsError(
            "Keras files can run code when loaded; only safetensors weights are loaded",
            where=path,
            remedy="Save its arrays as safetensors (safetensors.numpy.save_file) and import them with a card:"
            " pathology models import",
        )
    raise UnsafeWeightsError(
        f"a {suffix} file is a pickle, which can run code when loaded; only safetensors weights are loaded",
        where=path,
        remedy="If you trust its origin, convert it once: safetensors.torch.save_file(torch.load(FILE,"
        " weights_only=True), 'weights.safetensors'), then pathology models import",
    )


def _is_torchscript(path: Path) -> bool:
    # A TorchScript archive is a zip whose folder `code/` holds the program; a plain checkpoint has none.
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def weights_path(directory: Path) -> Path:
    """Return the weights file of a bundle's folder.

    Raises
    ------
    UnsafeWeightsError
        If there is none, but one of a format that can run code.
    BundleError
        If there is none at all.
    """
    path = directory / WEIGHTS_NAME
    if path.is_file():
        return path
    for other in sorted(directory.iterdir()):
        refuse_unsafe(other)
    raise BundleError(f"the bundle has no {WEIGHTS_NAME}", where=directory, remedy="Copy the complete bundle again")


_checked: dict[Path, tuple[tuple[int, ...], str]] = {}
"""Hashes of files that this process has read, with what tells that a file was replaced or written to since."""


def check_weights(path: Path, sha256: str) -> None:
    """Compare a weights file with the hash on its card.  Does not import torch.

    A process reads an unchanged file once, however often it asks: engines of two precisions, and slide after slide.

    Raises
    ------
    WeightsHashError
        If they differ.
    BundleError
        If the file cannot be read.
    """
    try:
        at = path.stat()
        state = at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns
        known = _checked.get(path)
        found = known[1] if known is not None and known[0] == state else file_sha256(path)
        _checked[path] = state, found
    except OSError as error:
        raise BundleError(f"the weights cannot be read ({error.strerror or error})", where=path) from error
    if found != sha256:
        raise WeightsHashError(
            f"the weights are not those the card was written for (SHA-256 {found[:12]}…, card {sha256[:12]}…)",
            where=path,
            remedy="Copy the bundle again; deliberately changed weights need their own card",
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file into memory as it is stored.

    Returns
    -------
    dict of str to torch.Tensor
        By the names in the file, on the CPU.

    Raises
    ------
    UnsafeWeightsError
        If the file's name is that of a format that can run code.
    BundleError
        If the file is no safetensors file or is damaged.
    """
    refuse_unsafe(path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"the weights are damaged or no safetensors file ({error})", where=path, remedy="Copy the file again"
        ) from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file like :func:`read_tensors`, as numpy arrays.  Does not import torch.

    Raises
    ------
    UnsafeWeightsError, BundleError
        As for :func:`read_tensors`; also if a tensor has a type that numpy lacks, such as bf16.
    """
    refuse_unsafe(path)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"the weights are damaged or no safetensors file ({error})", where=path, remedy="Copy the file again"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file like :func:`read_tensors`, half precision widened to fp32; integers stay integers."""
    import torch

    half = (torch.float16, torch.bfloat16)
    return {
        name: tensor.to(torch.float32) if tensor.dtype in half else tensor
        for name, tensor in read_tensors(path).items()
    }


def load_weights(network: nn.Module, state: Mapping[str, Tensor], *, where: Path | None = None) -> None:
    """Put weights into a network; every name and every shape must fit.

    Parameters
    ----------
    network
        Changed in place.  May be on the ``meta`` device: the tensors are assigned, not copied.
    state
        As :func:`read_state_dict` gives it.
    where
        The file, for the error message.

    Raises
    ------
    BundleError
        If a name is missing or superfluous or a shape differs; the message names the first and counts the rest.
    """
    expected = network.state_dict()
    missing = [name for name in expected if name not in state]
    superfluous = [name for name in state if name not in expected]
    differing = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is not part of it" for name in superfluous]
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}" for name in differing
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BundleError(
            f"the weights do not match the network: {problems[0]}{more}",
            where=where,
            remedy="Check architecture, architecture_options and classes on the card, or give a mapping of names",
        )
    network.load_state_dict(dict(state), strict=True, assign=True)


def write_state_dict(state: Mapping[str, Tensor], path: Path, *, half: bool = True) -> str:
    """Write weights as safetensors, atomically.

    Parameters
    ----------
    state
        The network's state dict, on any device.
    path
        The file; replaced if it is there.
    half
        Store floating-point tensors as fp16, which halves the file.

    Returns
    -------
    str
        SHA-256 of the file.

    Raises
    ------
    OutputError
        If it cannot be written, or if a weight is too large for fp16.
    """
    import torch
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        tensor = value.detach().to("cpu").contiguous()
        if half and tensor.is_floating_point():
            narrow = tensor.to(torch.float16)
            if not bool(torch.isfinite(narrow).all()):
                raise OutputError(
                    f"{name} has values outside the range of fp16", where=path, remedy="Store it with half=False"
                )
            tensor = narrow
        stored[name] = tensor
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through memory, because the library's own writer leaves a file that only its owner may read.
        partial.write_bytes(save(stored, metadata={"format": "pt"}))
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"the weights cannot be written ({error.strerror or error})", where=path) from error
    return file_sha256(path)
