"""Export bundles to a zip file; import them from a zip file, a folder or third-party weights."""

from __future__ import annotations

import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pathology.bundle.card import (
    CARD_NAME,
    WEIGHTS_NAME,
    read_card,
    read_card_fields,
    validate_card,
    write_card,
)
from pathology.bundle.card_page import card_markdown
from pathology.bundle.catalogue import Bundle, build_card_network, find_bundle_folder, load_bundle, user_folder
from pathology.bundle.check import Check
from pathology.bundle.domain import DOMAIN_NAME
from pathology.bundle.graph import GRAPH_NAMES
from pathology.bundle.head_card import HEAD_CARD_NAME, HEAD_WEIGHTS_NAME, is_head_bundle, read_head_card
from pathology.bundle.head_page import head_markdown
from pathology.bundle.int8 import INT8_NAMES
from pathology.bundle.learned_aggregator import AGGREGATOR_NAMES
from pathology.bundle.verify import verify_bundle
from pathology.bundle.weights import (
    check_weights,
    file_sha256,
    load_weights,
    read_tensors,
    refuse_unsafe,
    write_state_dict,
)
from pathology.errors import BundleError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["export_bundle", "import_bundle", "install", "map_names"]

PAGE_NAME: Final = "README.md"
EVALUATION_NAME: Final = "evaluation.json"
"""Predictions behind the card's metrics, if the bundle has them."""

_EXPORTED: Final = (CARD_NAME, WEIGHTS_NAME, DOMAIN_NAME, *AGGREGATOR_NAMES, *INT8_NAMES, *GRAPH_NAMES, EVALUATION_NAME)
_FILES: Final = (*_EXPORTED, PAGE_NAME)
_HEAD_EXPORTED: Final = (HEAD_CARD_NAME, HEAD_WEIGHTS_NAME, DOMAIN_NAME)
_HEAD_FILES: Final = (*_HEAD_EXPORTED, PAGE_NAME)
_MOST_UNPACKED: Final = 4
"""How many times its packed size a bundle may have."""
_CARD_LIMIT: Final = 16 << 20
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)

# The DenseNet weights that torchvision first published write `denselayer1.norm.1.weight` for
# `denselayer1.norm1.weight`.
_FIRST_DENSENET: Final = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def export_bundle(model: str | Path, destination: Path) -> Path:
    """Write a bundle as one zip file: card, weights, evaluation if there is one, and the card as a page.

    The same bundle always gives the same bytes.

    Parameters
    ----------
    model
        As for :func:`pathology.bundle.catalogue.load_bundle`; the bundle is checked first.
    destination
        The zip file, or a folder in which ``<name>-<version>.zip`` is made.

    Returns
    -------
    Path
        The zip file.

    Raises
    ------
    BundleError
        If there is no such bundle or it is broken.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> export_bundle(bundle_path, folder / "model.zip").name
    'model.zip'
    """
    directory = find_bundle_folder(model)
    if is_head_bundle(directory):
        _raise_first(verify_bundle(directory))
        head = read_head_card(directory)
        return _write_zip(
            destination, directory, f"{head.name}-{head.version}", head.name, _HEAD_EXPORTED, head_markdown(head)
        )
    card = load_bundle(directory).card
    return _write_zip(destination, directory, f"{card.name}-{card.version}", card.name, _EXPORTED, card_markdown(card))


def _write_zip(destination: Path, directory: Path, stem: str, name: str, files: Sequence[str], page: str) -> Path:
    target = destination / f"{stem}.zip" if destination.is_dir() else destination
    partial = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(partial, "w") as archive:
            for file_name in files:
                path = directory / file_name
                if path.is_file():
                    with archive.open(_entry(f"{name}/{file_name}"), "w") as file, path.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
            archive.writestr(_entry(f"{name}/{PAGE_NAME}"), page)
        partial.replace(target)
    except OSError as error:
        raise OutputError(f"the bundle cannot be written ({error.strerror or error})", where=target) from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
    return target


def _raise_first(checks: Sequence[Check], *, where: Path | None = None, more: str = "") -> None:
    for check in checks:
        if check.error is not None:
            raise type(check.error)(
                f"{check.error.what}{more}", where=where or check.error.where, remedy=check.error.remedy
            )


def _entry(name: str) -> zipfile.ZipInfo:
    # A fixed date makes equal bundles equal files; stored, because weights do not compress.
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.external_attr = 0o644 << 16
    return entry


def import_bundle(
    source: Path,
    *,
    folder: Path | None = None,
    card: Path | None = None,
    names: Mapping[str, str | None] | None = None,
    replace: bool = False,
) -> Bundle:
    """Install a bundle into a folder of the search path after a complete verification.

    Parameters
    ----------
    source
        A zip file of :func:`export_bundle`; a bundle's folder; or a ``.safetensors`` file with the state dict of a
        network this package has, as torchvision or timm name its parts.
    folder
        Where to put it; ``None``: the user's folder (:func:`pathology.bundle.catalogue.user_folder`).
    card
        For a ``.safetensors`` file only, its card.  ``weights_sha256`` and ``parameters`` may be omitted and are
        filled in; ``weights_sha256``, where given, must be that of ``source``.
    names
        For a ``.safetensors`` file only, the mapping of its names to the network's; see :func:`map_names`.
    replace
        Replace a bundle of the same name.

    Raises
    ------
    UnsafeWeightsError
        If ``source`` is a pickle, a checkpoint or a TorchScript program.
    BundleError
        If the source is not a bundle, the card is not valid, the weights do not match, a bundle of the name exists, or
        any other check of :func:`pathology.bundle.verify.verify_bundle` fails.
    OutputError
        If the folder cannot be written.

    Examples
    --------
    >>> archive = export_bundle(bundle_path, folder / "model.zip")
    >>> import_bundle(archive, folder=folder).name
    'example'
    """
    return load_bundle(_install(source, folder, card, names, replace=replace, heads=False))


def install(
    source: Path,
    *,
    folder: Path | None = None,
    card: Path | None = None,
    names: Mapping[str, str | None] | None = None,
    replace: bool = False,
) -> Path:
    """Install a bundle of any kind, a slide-level head included, and return its folder; see :func:`import_bundle`."""
    return _install(source, folder, card, names, replace=replace, heads=True)


def _install(
    source: Path,
    folder: Path | None,
    card: Path | None,
    names: Mapping[str, str | None] | None,
    *,
    replace: bool,
    heads: bool,
) -> Path:
    refuse_unsafe(source)
    if not source.exists():
        raise BundleError("there is no such file or folder", where=source)
    if (card is not None or names is not None) and source.suffix.lower() != ".safetensors":
        raise BundleError("a card and a name mapping apply to .safetensors files only", where=source)
    with _staging(folder or user_folder()) as staging:
        if source.is_dir():
            staged = _stage_folder(source, staging)
        elif source.suffix.lower() == ".safetensors":
            staged = _stage_weights(source, card, names or {}, staging)
        else:
            staged = _stage_zip(source, staging)
        if is_head_bundle(staged) and not heads:
            raise BundleError(
                "this is a slide-level head, not a network", where=source, remedy="Run: pathology models import"
            )
        _raise_first(verify_bundle(staged), where=source, more="; nothing was imported")
        target = staging.parent / staged.name
        if target.exists():
            if not replace:
                raise BundleError(
                    f"a model called {staged.name!r} already exists",
                    where=target,
                    remedy="Remove it, allow replacing it (replace), or rename this model",
                )
            target.rename(staging / "replaced")
        try:
            staged.rename(target)
        except OSError:
            if (staging / "replaced").exists():
                (staging / "replaced").rename(target)
            raise
    return target


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside the bundles, gone afterwards, from which a checked bundle is moved into place."""
    staging = folder / f".{secrets.token_hex(8)}.partial"
    try:
        staging.mkdir(parents=True)
        yield staging
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"the bundle cannot be written ({error.strerror or error})", where=folder) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _stage_folder(source: Path, staging: Path) -> Path:
    head = is_head_bundle(source)
    staged = staging / (read_head_card(source).name if head else read_card(source / CARD_NAME).name)
    staged.mkdir()
    for name in _HEAD_FILES if head else _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, staged / name)
        elif name == WEIGHTS_NAME:
            load_bundle(source)  # Raises the reason: no weights, or an unsafe format.
    return staged


def _stage_zip(source: Path, staging: Path) -> Path:
    if not zipfile.is_zipfile(source):
        raise BundleError(
            "not a bundle zip file, a bundle folder or a .safetensors file",
            where=source,
            remedy="Give a zip file from pathology models export, or safetensors weights with a card",
        )
    try:
        return _unpack(source, staging)
    except (zipfile.BadZipFile, RuntimeError) as error:  # RuntimeError: the archive is encrypted.
        raise BundleError(f"the zip file is damaged ({error})", where=source, remedy="Copy it again") from error


def _unpack(source: Path, staging: Path) -> Path:
    with zipfile.ZipFile(source) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        cards = [entry for entry in entries if PurePosixPath(entry.filename).name in (CARD_NAME, HEAD_CARD_NAME)]
        if len(cards) != 1 or cards[0].file_size > _CARD_LIMIT:
            raise BundleError(
                f"the zip file does not contain exactly one {CARD_NAME} or {HEAD_CARD_NAME}", where=source
            )
        _refuse_bomb(entries, source)
        root, kind = PurePosixPath(cards[0].filename).parent, PurePosixPath(cards[0].filename).name
        files = _HEAD_FILES if kind == HEAD_CARD_NAME else _FILES
        unpacked = staging / "unpacked"
        unpacked.mkdir()
        for entry in entries:
            path = PurePosixPath(entry.filename)
            # Only the files of a bundle, from one folder, under names of our own: no entry can choose its place.
            if path.parent == root and path.name in files:
                with archive.open(entry) as packed, (unpacked / path.name).open("wb") as file:
                    shutil.copyfileobj(packed, file, 1 << 20)
            elif path.parent == root:
                refuse_unsafe(Path(path.name))
    named = read_head_card(unpacked) if kind == HEAD_CARD_NAME else read_card(unpacked / CARD_NAME)
    return unpacked.rename(staging / named.name)


def _refuse_bomb(entries: Sequence[zipfile.ZipInfo], source: Path) -> None:
    """Refuse an archive that would unpack to far more than it holds, before anything is unpacked."""
    total, packed = sum(entry.file_size for entry in entries), source.stat().st_size
    # Weights hardly compress; what zipfile reads of an entry ends at its stated size.
    if total > _CARD_LIMIT + _MOST_UNPACKED * packed:
        raise BundleError(
            f"the zip file of {packed / 2**20:,.1f} MiB would unpack to {total / 2**20:,.0f} MiB, which no bundle does",
            where=source,
            remedy="Get it again from its source",
        )


def _stage_weights(source: Path, card: Path | None, names: Mapping[str, str | None], staging: Path) -> Path:
    if card is None:
        raise BundleError(
            "weights without a card are not a model",
            where=source,
            remedy="Write a card (docs/bundles.md) and give it with the weights",
        )
    import torch

    fields = read_card_fields(card)
    if "weights_sha256" in fields:
        check_weights(source, str(fields["weights_sha256"]))
    draft = validate_card({"parameters": 1, **fields, "weights_sha256": file_sha256(source)}, card)
    with torch.device("meta"):
        network = build_card_network(draft, where=card)
    stored = map_names(read_tensors(source), names, where=source)
    for name, buffer in network.state_dict().items():
        # A counter that evaluation never reads; published weights often lack it.
        if name.endswith(".num_batches_tracked") and name not in stored:
            stored[name] = torch.zeros(buffer.shape, dtype=torch.int64)
    load_weights(network, stored, where=source)
    staged = staging / draft.name
    sha256 = write_state_dict(stored, staged / WEIGHTS_NAME, half=False)
    fields["weights_sha256"] = sha256
    fields.setdefault("parameters", sum(p.numel() for p in network.parameters() if p.requires_grad))
    write_card(validate_card(fields, card), staged / CARD_NAME)
    return staged


def map_names(
    state: Mapping[str, Tensor], names: Mapping[str, str | None], *, where: Path | None = None
) -> dict[str, Tensor]:
    """Rename the tensors of a state dict.

    The names of the first published torchvision DenseNets (``norm.1`` for ``norm1``) are recognised
    automatically.

    Parameters
    ----------
    state
        Tensors by their old names.
    names
        Old to new.  A key is a whole name, or a prefix that ends in a dot (``model.`` to ``""`` removes a prefix); the
        longest match wins.  ``None`` excludes the tensor.
    where
        The file, for the error message.

    Returns
    -------
    dict of str to torch.Tensor
        The same tensors by their new names.

    Raises
    ------
    BundleError
        If a key matches no name, or two tensors map to one name.
    """
    result: dict[str, Tensor] = {}
    used: set[str] = set()
    for old, tensor in state.items():
        fitting = [key for key in names if old == key or (key.endswith(".") and old.startswith(key))]
        new: str | None = old
        if fitting:
            key = max(fitting, key=len)
            used.add(key)
            value = names[key]
            new = None if value is None else value + old.removeprefix(key)
        if new is None:
            continue
        new = _FIRST_DENSENET.sub(r"\1\2.", new)
        if new in result:
            raise BundleError(f"two tensors map to the name {new}", where=where, remedy="Correct the name mapping")
        result[new] = tensor
    for key in names:
        if key not in used:
            raise BundleError(
                f"the name mapping contains {key!r}, which matches no tensor",
                where=where,
                remedy="Correct the mapping; a prefix ends in a dot",
            )
    return result
