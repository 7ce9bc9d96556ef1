"""Files of the Hugging Face hub: fetched at one revision, and every refusal explained.

This is the one file that imports huggingface_hub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathology.errors import BundleError
from pathology.extras import missing_extra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pathology.encoders.specification import EncoderSpecification

__all__ = ["Fetched", "fetch"]


@dataclass(frozen=True)
class Fetched:
    """Files of one revision of a repository.

    Attributes
    ----------
    weights
        The weights file.
    config
        ``config.json``; ``None`` if the repository has none.
    revision
        The commit, 40 hexadecimal digits.
    """

    weights: Path
    config: Path | None
    revision: str


def fetch(specification: EncoderSpecification, revision: str | None = None) -> Fetched:
    """Fetch an encoder's weights, or find them in the hub's own cache.

    ``HF_ENDPOINT``, ``HF_HUB_CACHE``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` are respected.

    Parameters
    ----------
    specification
        Names repository and files.
    revision
        Commit, branch or tag; ``None``: the newest.  Weights and configuration are of the same commit.

    Raises
    ------
    MissingDependencyError
        If the hub's client is not installed.
    BundleError
        If the weights cannot be fetched; the message says whether consent, a token, the network, the repository or the
        revision is missing, and what to do.
    """
    names: Sequence[str] = specification.files
    for name in names:
        found = _file(specification, name, revision)
        if found is None:
            continue
        commit = _commit(found)
        return Fetched(found, _file(specification, "config.json", commit), commit)
    raise BundleError(
        f"the repository has none of {', '.join(names)}",
        where=specification.hub,
        remedy=f"Download its weights and give the file: pathology encoders add {specification.name} --from FILE",
    )


def _client() -> Any:  # noqa: ANN401 - the module
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("encoders of the hub need its client on first use", "encoders") from error
    return huggingface_hub


def _file(specification: EncoderSpecification, name: str, revision: str | None) -> Path | None:
    """Return a file of the repository; ``None`` if this revision has none of this name."""
    client = _client()
    errors = client.errors
    where, encoder = specification.hub, specification.name
    by_hand = f"Or download it elsewhere: pathology encoders add {encoder} --from FILE"
    try:
        return Path(
            client.hf_hub_download(
                where,
                name,
                revision=revision,
                # The client reads its environment once, at import; these may have been set since.
                endpoint=os.environ.get("HF_ENDPOINT") or None,
                cache_dir=os.environ.get("HF_HUB_CACHE") or None,
                token=os.environ.get("HF_TOKEN") or None,
                local_files_only=os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "true", "yes"),
            )
        )
    except errors.GatedRepoError as error:
        raise BundleError(
            f"{encoder} is gated: the hub gives its weights only to accounts that accepted its terms"
            f" (licence: {specification.licence})",
            where=where,
            remedy=f"Accept the terms on the page of {where}, create a read token, and set HF_TOKEN or run"
            f" 'hf auth login'. {by_hand}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(
            f"the repository has no revision {revision!r}",
            where=where,
            remedy="Give a commit, branch or tag of the repository, or omit --revision",
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise BundleError(
            f"{encoder} is not in the hub's cache and the hub cannot be reached",
            where=where,
            remedy=f"Connect to the network and unset HF_HUB_OFFLINE. {by_hand}",
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.RepositoryNotFoundError as error:
        raise BundleError(
            f"the hub shows no repository {where} to this account",
            where=where,
            remedy=f"Private and renamed repositories look the same: set HF_TOKEN, or check the name. {by_hand}",
        ) from error
    except (OSError, ValueError) as error:  # the client's errors of the network, and of a full disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BundleError(f"the weights cannot be fetched ({reason})", where=where, remedy=by_hand) from error


def _commit(path: Path) -> str:
    """Return the commit of a file in the hub's cache, which keeps it under ``snapshots/COMMIT``."""
    parts = path.parts
    return parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1] if "snapshots" in parts else ""
