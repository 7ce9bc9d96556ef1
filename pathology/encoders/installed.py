"""Encoders on this machine: added once, as safetensors with a hash, then loaded by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import yaml
from pydantic import Field, ValidationError

from pathology._version import __version__
from pathology.bundle.card import WEIGHTS_NAME
from pathology.bundle.catalogue import load_bundle
from pathology.bundle.checkpoint import read_checkpoint
from pathology.bundle.weights import check_weights, file_sha256, load_weights, read_state_dict, read_tensors
from pathology.encoders.other_networks import LIBRARY_PREFIXES, library_encoder, of_bundle
from pathology.encoders.published import PUBLISHED, find_published, unknown_encoder
from pathology.encoders.specification import EncoderSpecification
from pathology.errors import BundleError, OutputError, UnknownModelError, UsageError
from pathology.input_files import read_json, read_yaml
from pathology.settings import Record, data_folder

if TYPE_CHECKING:
    from torch import Tensor

    from pathology.bundle.catalogue import Bundle
    from pathology.encoders.network import PatchEncoder

__all__ = [
    "ENVIRONMENT",
    "Encoder",
    "EncoderRecord",
    "add_encoder",
    "describe_encoder",
    "encoders_folder",
    "list_encoders",
    "load_encoder",
]

ENVIRONMENT: Final = "PATHOLOGY_ENCODERS"
"""Environment variable with the folder of encoders, instead of the platform's data folder."""

_RECORD: Final = "encoder.yaml"


class EncoderRecord(Record):
    """What is kept beside an encoder's weights."""

    specification: EncoderSpecification
    """How it is built and fed."""
    weights_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of ``weights.safetensors``."""
    revision: str = ""
    """Commit of the hub's repository; empty if the weights came from a file."""
    source: str
    """Where the weights came from: repository and file, or the file's name."""
    source_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the file they were read from."""
    parameters: Annotated[int, Field(gt=0)]
    """Number of learnable parameters."""
    made_by: str
    """The program that converted them."""


@dataclass(frozen=True)
class Encoder:
    """An encoder with its weights.

    Attributes
    ----------
    specification
        How it is built and fed.
    weights_sha256
        Hash of its weights.
    revision
        Commit of the hub's repository; empty for other weights.
    directory
        Its folder.
    bundle
        The classifier whose body it is; ``None`` for all others.
    """

    specification: EncoderSpecification
    weights_sha256: str
    revision: str
    directory: Path
    bundle: Bundle | None = None

    @property
    def name(self) -> str:
        """Name for ``--encoder``."""
        return self.specification.name

    def identity(self) -> dict[str, Any]:
        """Return what a feature file and a model card say of the encoder."""
        return {
            "encoder": self.name,
            "hub": self.specification.hub,
            "revision": self.revision,
            "weights_sha256": self.weights_sha256,
            "vector": self.specification.vector,
            "licence": self.specification.licence,
        }

    def key(self) -> str:
        """Return 16 hexadecimal digits that change with the network, its weights or its input."""
        content = [self.specification.model_dump(mode="json"), self.weights_sha256]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def network(self) -> PatchEncoder:
        """Build the network with its weights, in evaluation mode, fp32, on the CPU.

        Raises
        ------
        WeightsHashError
            If the weights changed since they were added.
        BundleError
            If they do not match the network.
        """
        import torch

        from pathology.encoders.network import PatchEncoder, build_body

        specification = self.specification
        if self.bundle is not None:
            from pathology.networks.penultimate import split_classifier

            body = split_classifier(self.bundle.network())[0]
        else:
            path = self.directory / WEIGHTS_NAME
            check_weights(path, self.weights_sha256)
            with torch.device("meta"):
                body = build_body(specification)
            load_weights(body, read_state_dict(path), where=path)
        return PatchEncoder(
            body,
            specification.mean,
            specification.std,
            pooling=specification.pooling,
            prefix_tokens=specification.prefix_tokens,
        ).eval()


def encoders_folder() -> Path:
    """Return the folder of added encoders: ``PATHOLOGY_ENCODERS``, or ``encoders`` in the platform's data folder."""
    given = os.environ.get(ENVIRONMENT)
    return Path(given).expanduser().absolute() if given else data_folder() / "encoders"


def list_encoders() -> list[tuple[EncoderSpecification, Encoder | None]]:
    """Return every published encoder and every other that was added, with what is on this machine.

    Examples
    --------
    >>> [specification.name for specification, _ in list_encoders()][:2]
    ['uni', 'uni2-h']
    """
    here = {}
    folder = encoders_folder()
    for record in sorted(folder.glob(f"*/{_RECORD}")) if folder.is_dir() else []:
        encoder = _read(record.parent)
        here[encoder.name] = encoder
    listed: list[tuple[EncoderSpecification, Encoder | None]] = [(s, here.pop(s.name, None)) for s in PUBLISHED]
    return listed + [(encoder.specification, encoder) for encoder in here.values()]


def describe_encoder(name: str) -> dict[str, Any]:
    """Return everything known of an encoder, without fetching it; ``added`` is ``None`` if it is not on this machine.

    Parameters
    ----------
    name
        As for :func:`load_encoder`.

    Raises
    ------
    UnknownModelError
        If nothing has this name.
    """
    encoder = _here(name)
    specification = encoder.specification if encoder is not None else find_published(name) or library_encoder(name)
    if specification is None:
        raise unknown_encoder(name)
    added = {**encoder.identity(), "directory": str(encoder.directory)} if encoder is not None else None
    return {**specification.model_dump(mode="json"), "added": added}


def load_encoder(name: str) -> Encoder:
    """Return an encoder by name; a published one is fetched at its first use.

    Parameters
    ----------
    name
        A published encoder or an alias of it, ``timm:NAME``, ``torchvision:NAME``, or a classifier bundle whose body
        encodes.

    Raises
    ------
    UnknownModelError
        If nothing has this name; the message names the closest.
    BundleError
        If its weights cannot be fetched, or the encoder is damaged.

    Examples
    --------
    >>> load_encoder(str(bundle_path)).specification.vector
    1024
    """
    encoder = _here(name)
    if encoder is not None:
        return encoder
    if find_published(name) is None and not name.lower().startswith(LIBRARY_PREFIXES):
        raise unknown_encoder(name)
    return add_encoder(name)


def _here(name: str) -> Encoder | None:
    """Return an encoder that was added, or the body of a bundle; ``None`` if neither has this name."""
    published = find_published(name)
    folder = _folder_of(published.name if published is not None else name.lower())
    if (folder / _RECORD).is_file():
        return _read(folder)
    if published is not None or name.lower().startswith(LIBRARY_PREFIXES):
        return None
    try:
        bundle = load_bundle(name)
    except UnknownModelError:
        return None
    return Encoder(of_bundle(bundle.card), bundle.card.weights_sha256, "", bundle.directory, bundle)


def add_encoder(
    name: str, *, source: Path | None = None, revision: str | None = None, replace: bool = False
) -> Encoder:
    """Add an encoder: convert its weights to safetensors, check them against the network, and record their hash.

    Parameters
    ----------
    name
        A published encoder, ``timm:NAME`` or ``torchvision:NAME``.
    source
        Weights file, or a folder as the hub lays it out; ``None``: from the hub.
    revision
        Commit, branch or tag of the hub's repository; ``None``: the newest.
    replace
        Replace an encoder that was added before.

    Raises
    ------
    UnknownModelError
        If nothing has this name.
    UsageError
        If it was added before, or a revision is given together with a file.
    BundleError
        If the weights cannot be fetched or do not match the network.
    UnsafeWeightsError
        If the file holds anything but tensors.
    OutputError
        If the folder cannot be written.

    Examples
    --------
    >>> import torch, torchvision
    >>> torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), folder / "weights.pth")
    >>> add_encoder("torchvision:shufflenet_v2_x0_5", source=folder / "weights.pth").specification.vector
    1024
    """
    specification = find_published(name) or library_encoder(name.lower())
    if specification is None:
        raise unknown_encoder(name)
    folder = _folder_of(specification.name)
    if (folder / _RECORD).is_file() and not replace:
        raise UsageError(f"{specification.name} was added before", where=folder, remedy="Replace it with --replace")
    if source is not None and revision is not None:
        raise UsageError("--revision is the hub's and does not apply to a file", remedy="Omit one of them")
    if source is not None:
        weights, config, commit = *_local(source, specification), ""
        said = weights.name
    else:
        weights, config, commit, said = _fetched(specification, revision)
    if config is not None and specification.library == "timm":
        specification = _with_config(specification, config)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".adding-") as scratch:
            aside = Path(scratch) / folder.name
            aside.mkdir()
            parameters = _convert(weights, specification, aside / WEIGHTS_NAME)
            record = EncoderRecord(
                specification=specification,
                weights_sha256=file_sha256(aside / WEIGHTS_NAME),
                revision=commit,
                source=said,
                source_sha256=file_sha256(weights),
                parameters=parameters,
                made_by=f"pathology {__version__}",
            )
            text = yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
            (aside / _RECORD).write_text(text, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            aside.replace(folder)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"the encoder cannot be stored ({error.strerror or error})",
            where=folder.parent,
            remedy=f"Set {ENVIRONMENT} to a writable folder",
        ) from error
    return _read(folder)


def _folder_of(name: str) -> Path:
    # A colon is not allowed in file names everywhere, and no separator may lead out of the folder.
    return encoders_folder() / name.replace(":", "-").replace("/", "-").replace("\\", "-")


def _read(folder: Path) -> Encoder:
    path = folder / _RECORD
    try:
        record = EncoderRecord.model_validate(read_yaml(path, BundleError))
    except (BundleError, ValidationError) as error:
        raise BundleError(
            f"the encoder's record cannot be read ({str(error).splitlines()[0]})",
            where=path,
            remedy="Delete the folder and add the encoder again: pathology encoders add",
        ) from error
    return Encoder(record.specification, record.weights_sha256, record.revision, folder)


def _local(source: Path, specification: EncoderSpecification) -> tuple[Path, Path | None]:
    """Return the weights and the configuration in a file or folder."""
    if source.is_dir():
        found = next((source / name for name in specification.files if (source / name).is_file()), None)
        if found is None:
            raise BundleError(
                f"the folder has none of {', '.join(specification.files)}", where=source, remedy="Give the weights file"
            )
        config = source / "config.json"
        return found, config if config.is_file() else None
    if not source.is_file():
        raise BundleError("no such file or folder", where=source)
    return source, None


def _fetched(specification: EncoderSpecification, revision: str | None) -> tuple[Path, Path | None, str, str]:
    if not specification.hub:
        raise BundleError(
            f"{specification.name} has no weights on the hub",
            remedy=f"Give its weights: pathology encoders add {specification.name} --from FILE",
        )
    from pathology.encoders.hub import fetch

    fetched = fetch(specification, revision)
    return fetched.weights, fetched.config, fetched.revision, f"{specification.hub}/{fetched.weights.name}"


def _with_config(specification: EncoderSpecification, config: Path) -> EncoderSpecification:
    """Take mean and standard deviation from the publisher's own configuration, where it states them."""
    try:
        content = read_json(config, BundleError)
        stated = content.get("pretrained_cfg") or {}
        found = {name: tuple(map(float, stated[name])) for name in ("mean", "std") if stated.get(name)}
        return EncoderSpecification.model_validate({**specification.model_dump(), **found})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(
            f"the configuration cannot be read ({str(error).splitlines()[0]})", where=config, remedy="Download it again"
        ) from error


def _convert(weights: Path, specification: EncoderSpecification, path: Path) -> int:
    """Write the weights under the network's own names and return its number of parameters."""
    import torch

    from pathology.encoders.key_names import named_as_timm
    from pathology.encoders.network import build_body

    if weights.suffix == ".safetensors":
        state = read_tensors(weights)
    else:
        state = read_checkpoint(weights, remedy="Download it again from where its authors publish it")
    with torch.device("meta"):
        body = build_body(specification)
    named = named_as_timm(state, specification, body.state_dict())
    load_weights(body, named, where=weights)
    if weights.suffix == ".safetensors" and named.keys() == state.keys():
        _link(weights, path)  # as published, to the byte
    else:
        _write(named, path)
    return sum(parameter.numel() for parameter in body.parameters())


def _link(weights: Path, path: Path) -> None:
    """Share the file with the hub's cache where possible: the largest are 4.5 GB."""
    resolved = weights.resolve()
    try:
        if "snapshots" in weights.parts:  # the hub's own cache, which never changes a file in place
            path.hardlink_to(resolved)
            return
    except OSError:
        pass  # another file system, or one without links
    shutil.copyfile(resolved, path)


def _write(state: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    # From the mapped file, tensor by tensor; write_state_dict would hold all of them in memory twice.
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt"})
    path.chmod(0o644)
