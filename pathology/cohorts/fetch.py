"""Fetching series from their public bucket: whole or not at all, and from where it stopped."""

from __future__ import annotations

import hashlib
import html
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from pathology.cohorts.index import CohortSeries
from pathology.errors import OutputError, PathologyError, UsageError

__all__ = ["FetchError", "Fetched", "fetch"]

_CHUNK: Final = 1 << 20
_WAIT: Final = 60
"""Seconds without a byte after which a connection counts as lost."""
_TRIES: Final = 3


class FetchError(PathologyError, OSError):
    """The bucket cannot be reached, or gave something else than it promised."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one run of :func:`fetch` did.

    Attributes
    ----------
    series
        Series that are whole now.
    files
        Files fetched in this run.
    already_present
        Files that were there before.
    bytes
        Bytes that came over the network in this run.
    """

    series: int
    files: int
    already_present: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    size: int
    md5: str | None


def fetch(
    series: Sequence[CohortSeries],
    folder: Path,
    *,
    endpoint: str | None = None,
    progress: Callable[[str, int], None] = lambda _name, _bytes: None,
) -> Fetched:
    """Fetch series into a folder each.

    A file that is there with the right size is not fetched again; one that was broken off goes on where it stopped.
    Every new file is compared with the bucket's MD5 sum where the bucket gives one.

    Parameters
    ----------
    series
        What to fetch.
    folder
        Where to; each series gets the folder of its name.
    endpoint
        Address of a server that speaks S3 with the bucket's name in the path, such as a mirror; ``None``: the public
        bucket itself.
    progress
        Called with the series' name and the bytes that arrived.

    Raises
    ------
    FetchError
        If there is no network, or the bucket has not what the index says.  What arrived is kept.
    OutputError
        If the folder cannot be written.
    """
    files = already_present = received = 0
    for one in series:
        match = re.fullmatch(r"s3://([^/]+)/(.+/)\*?", one.url)
        if match is None:
            raise UsageError(f"the index gives no bucket for {one.name}: {one.url!r}")
        base = f"{endpoint.rstrip('/')}/{match[1]}" if endpoint else f"https://{match[1]}.s3.amazonaws.com"
        found = list(_listing(base, match[2]))
        if not found:
            raise FetchError(
                "the bucket has no such series", where=one.url, remedy="The index may be old: upgrade idc-index-data"
            )
        place = folder / one.name
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the folder cannot be made ({error.strerror})", where=place) from error

        def report(count: int, name: str = one.name) -> None:
            progress(name, count)

        for item in found:
            path = place / item.key.rsplit("/", 1)[-1]
            if path.is_file() and path.stat().st_size == item.size:
                already_present += 1
                continue
            received += _get(f"{base}/{quote(item.key)}", path, item, report)
            files += 1
    return Fetched(len(series), files, already_present, received)


def _listing(base: str, prefix: str) -> Iterator[_Object]:
    """List the objects under a prefix (S3 API, ListObjectsV2)."""
    token: str | None = None
    while True:
        query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
        with _open(f"{base}?{urlencode(query)}") as answer:
            text = answer.read().decode("utf-8")
        # The listing is machine-made and flat; reading its fields by name needs no XML parser with its own dangers.
        for entry in re.findall(r"<Contents>(.*?)</Contents>", text, re.DOTALL):
            key, size, tag = (_field(entry, name) for name in ("Key", "Size", "ETag"))
            if key and not key.endswith("/"):
                md5 = (tag or "").strip('"')
                yield _Object(key, int(size or 0), md5 if re.fullmatch(r"[0-9a-f]{32}", md5) else None)
        token = _field(text, "NextContinuationToken")
        if not token:
            return


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return html.unescape(match[1]) if match else None


def _get(url: str, path: Path, item: _Object, progress: Callable[[int], None]) -> int:
    """Fetch one object, going on with what an earlier try left; returns the bytes that came."""
    partial = path.with_name(f"{path.name}.partial")
    received = 0
    for attempt in range(1, _TRIES + 1):
        offset = partial.stat().st_size if partial.is_file() else 0
        if offset > item.size:
            partial.unlink()
            offset = 0
        if offset == item.size and partial.is_file():
            break
        try:
            with _open(url, offset) as answer:
                append = offset > 0 and answer.status == 206
                with partial.open("ab" if append else "wb") as file:
                    while chunk := answer.read(_CHUNK):
                        file.write(chunk)
                        received += len(chunk)
                        progress(len(chunk))
        except (FetchError, HTTPException, TimeoutError, ConnectionError) as error:
            if attempt == _TRIES:
                raise error if isinstance(error, FetchError) else _lost(url, error) from error
        except OSError as error:
            raise OutputError(f"the file cannot be written ({error.strerror or error})", where=path) from error
    if not partial.is_file():
        partial.touch()  # an object without bytes
    size = partial.stat().st_size
    if size != item.size:
        raise FetchError(f"{size:,} of {item.size:,} bytes arrived", where=url, remedy="Run the same command again")
    if item.md5 is not None and _md5(partial) != item.md5:
        partial.unlink()
        raise FetchError(
            "the file is not the one in the bucket (MD5 differs)", where=url, remedy="Run the same command again"
        )
    partial.replace(path)
    return received


def _open(url: str, begin: int = 0) -> HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no web address", remedy="Give --endpoint http://… or https://…")
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})  # noqa: S310 - checked
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=_WAIT)  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:
        raise FetchError(f"the bucket answered {error.code} {error.reason}", where=url) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _lost(url, error) from error
    return answer


def _lost(url: str, error: Exception) -> FetchError:
    reason = getattr(error, "reason", None) or error
    return FetchError(
        f"the bucket cannot be reached ({reason})",
        where=url,
        remedy="Check the network or proxy (HTTPS_PROXY), or give a mirror with --endpoint; what was fetched is kept",
    )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
