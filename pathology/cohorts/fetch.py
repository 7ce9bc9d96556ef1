"""Download series from the public bucket: resumable, and complete or not at all."""

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
"""Timeout in seconds without data."""
_TRIES: Final = 3


class FetchError(PathologyError, OSError):
    """The bucket cannot be reached, or its content differs from the index."""

    exit_status = 1


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of :func:`fetch`.

    Attributes
    ----------
    series
        Complete series.
    files
        Files downloaded in this run.
    already_present
        Files that were already present.
    bytes
        Bytes downloaded in this run.
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
    """Download series, each into its own folder.

    Existing files of the right size are skipped; interrupted downloads resume.
    New files are verified by MD5 checksum if the bucket provides one.

    Parameters
    ----------
    series
        Series to download.
    folder
        Output folder; one subfolder per series.
    endpoint
        URL of an S3-compatible server with path-style bucket names, such as a mirror; ``None``: the public
        bucket.
    progress
        Called with the series name and the number of bytes received.

    Raises
    ------
    FetchError
        If the network fails, or the bucket does not match the index.  Downloaded files are kept.
    OutputError
        If the folder cannot be written.
    """
    files = already_present = received = 0
    for one in series:
        match = re.fullmatch(r"s3://([^/]+)/(.+/)\*?", one.url)
        if match is None:
            raise UsageError(f"the index has no bucket URL for {one.name}: {one.url!r}")
        base = f"{endpoint.rstrip('/')}/{match[1]}" if endpoint else f"https://{match[1]}.s3.amazonaws.com"
        found = list(_listing(base, match[2]))
        if not found:
            raise FetchError(
                "series not found in the bucket",
                where=one.url,
                remedy="The index may be outdated: upgrade idc-index-data",
            )
        place = folder / one.name
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the folder cannot be created ({error.strerror})", where=place) from error

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
        # The listing is flat and machine-generated; regular expressions avoid the security risks of an XML parser.
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
    """Download one object, resuming a partial file; return the number of bytes received."""
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
        partial.touch()  # an empty object
    size = partial.stat().st_size
    if size != item.size:
        raise FetchError(
            f"incomplete download: {size:,} of {item.size:,} bytes", where=url, remedy="Repeat the command to resume"
        )
    if item.md5 is not None and _md5(partial) != item.md5:
        partial.unlink()
        raise FetchError("MD5 checksum mismatch", where=url, remedy="Repeat the command")
    partial.replace(path)
    return received


def _open(url: str, begin: int = 0) -> HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is not a web address", remedy="Use --endpoint http://… or https://…")
    request = urllib.request.Request(url, headers={"Range": f"bytes={begin}-"} if begin else {})  # noqa: S310 - checked
    try:
        answer: HTTPResponse = urllib.request.urlopen(request, timeout=_WAIT)  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:
        raise FetchError(f"the bucket returned {error.code} {error.reason}", where=url) from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _lost(url, error) from error
    return answer


def _lost(url: str, error: Exception) -> FetchError:
    reason = getattr(error, "reason", None) or error
    return FetchError(
        f"the bucket cannot be reached ({reason})",
        where=url,
        remedy="Check the network or proxy (HTTPS_PROXY), or use a mirror with --endpoint; downloaded files are kept",
    )


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
