"""The viewer's server: results folders over HTTP, for one user on one machine.

Privacy: it listens on 127.0.0.1 only; every address begins with a random token; requests whose ``Host`` is not the
server's own address are rejected, which prevents DNS rebinding; pages of other sites can neither know the token nor
submit a decision (``Origin`` is checked, and decisions are JSON); a content security policy keeps the page from loading
external resources.  Integrity of results: only decisions are written, only files on a fixed list are served, and slides
are identified by their names in the batch, never by a path in an address.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import mimetypes
import secrets
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from pathology.errors import OutputError, PathologyError, SlideError, UsageError
from pathology.viewer.batch import Batch

__all__ = ["ViewerServer"]

_LARGEST_BODY: Final = 64 * 1024
_MOST_CONNECTIONS: Final = 64
"""Largest number of connections; a browser opens six."""
_IDLE_SECONDS: Final = 60.0
_UNKNOWN_SECONDS: Final = 10.0
"""Seconds that a connection may stay silent before a request with the token has come over it."""

_SLIDE_FILES: Final = {"report.html": "text/html; charset=utf-8", "overview.jpg": "image/jpeg"}
"""Files of a slide's folder that are served unchanged."""

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_REPORT_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"

_MISSING_PAGE: Final = (
    "<!doctype html><html lang='en-GB'><meta charset='utf-8'><title>pathology viewer</title>"
    "<h1>The viewer page is missing</h1><p>This copy of pathology was built without it because npm was not available. "
    "Install Node.js 20 or later and reinstall pathology from source; results, reports and exports do not "
    "need it.</p>"
)


class _RefusalError(Exception):
    """A rejected request."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class ViewerServer:
    """Serves a batch until it is closed.

    Parameters
    ----------
    batch
        The results to show; closed with the server.
    page
        Folder of the built page; ``None`` if it was not built, which the server then reports.
    port
        0 selects a free one.

    Attributes
    ----------
    address : str
        Address of the page, including the token.
    """

    def __init__(self, batch: Batch, page: Path | None, *, port: int = 0) -> None:
        self._batch = batch
        self._token = secrets.token_urlsafe(24)
        files = {} if page is None else _files(page)
        try:
            self._server = _Server(("127.0.0.1", port), _handler(batch, files, self._token))
        except OSError as error:
            raise OutputError(
                f"cannot use port {port} ({error.strerror})", remedy="Omit --port, or choose another"
            ) from error
        self.port: int = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/{self._token}/"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Serve in a background thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="viewer", daemon=True)
        self._thread.start()

    def serve(self) -> None:
        """Serve until interrupted."""
        self._server.serve_forever(0.2)

    def close(self) -> None:
        """Stop serving, close all connections and all slides."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
        self._batch.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: dict[socket.socket, bool] = {}
        """Open connections, oldest first, and whether a request with the token has come over each."""
        self._counting = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in the standard library
        with self._counting:
            full = len(self._open) >= _MOST_CONNECTIONS
            if full:
                # Any user of this machine can connect and stay silent: the oldest without the token gives way.
                stranger = next((held for held, trusted in self._open.items() if not trusted), None)
                if stranger is not None:
                    del self._open[stranger]
                    with contextlib.suppress(OSError):  # it may have disconnected
                        stranger.shutdown(socket.SHUT_RDWR)
                    full = False
            if not full:
                self._open[request] = False
        if full:
            super().shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def trust(self, request: Any) -> None:  # noqa: ANN401
        """Keep a connection over which a request with the token has come."""
        with self._counting:
            if request in self._open:
                self._open[request] = True

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        with self._counting:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        with self._counting:
            still_open = list(self._open)
        for connection in still_open:
            with contextlib.suppress(OSError):  # the client may have disconnected
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Ignore it: a browser that disconnects during a response is not worth a traceback."""


def _files(page: Path) -> dict[str, tuple[bytes, str]]:
    """Read the built page: a few files, less than 2 MB in total."""
    found = {}
    for path in sorted(page.rglob("*")):
        if path.is_file():
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            if kind.startswith("text/") or kind.endswith(("javascript", "json", "svg+xml")):
                kind += "; charset=utf-8"
            found[path.relative_to(page).as_posix()] = path.read_bytes(), kind
    return found


Query = dict[str, str]
Answer = tuple[bytes, str, str]
"""Body, media type and Cache-Control."""

_KEEP: Final = "private, max-age=86400"
"""The token, and with it every address, changes each time the viewer is started."""
_ASK: Final = "no-store"


def _json(value: object) -> Answer:
    return json.dumps(value, separators=(",", ":")).encode(), "application/json", _ASK


def _number(query: Query, name: str) -> float:
    try:
        value = float(query[name])
    except (KeyError, ValueError):
        raise UsageError(f"{name}: expected a number") from None
    if not abs(value) < 1e9:
        raise UsageError(f"{name}: invalid value {value}")
    return value


def _handler(batch: Batch, files: dict[str, tuple[bytes, str]], token: str) -> type[BaseHTTPRequestHandler]:
    """Create the request handler class for a batch."""

    def page(parts: list[str]) -> Answer:
        name = "/".join(parts) or "index.html"
        if not files and name == "index.html":
            return _MISSING_PAGE.encode(), "text/html; charset=utf-8", _ASK
        if name not in files:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "no such page")
        content, kind = files[name]
        return content, kind, _KEEP if name.startswith("assets/") else _ASK

    def tile(run: int, slide: str, rest: list[str], query: Query) -> Answer:
        del query
        z, column, row = (int(part) for part in rest)
        return batch.tile(run, slide, z, column, row), "image/jpeg", _KEEP

    def about(run: int, slide: str, rest: list[str], query: Query) -> Answer:
        del rest, query
        return _json(batch.about(run, slide))

    def heatmap(run: int, slide: str, rest: list[str], query: Query) -> Answer:
        del rest
        return batch.view(run, slide).heatmap(query.get("class")), "application/octet-stream", _KEEP

    def mask(run: int, slide: str, rest: list[str], query: Query) -> Answer:
        del query
        return batch.view(run, slide).mask(rest[0]), "image/png", _KEEP

    def detections(run: int, slide: str, rest: list[str], query: Query) -> Answer:
        view = batch.view(run, slide)
        if rest == ["next"]:
            found = view.next_detection(
                int(_number(query, "after")),
                step=-1 if query.get("back") else 1,
                least=_number(query, "least"),
                undecided=bool(query.get("undecided")),
            )
            return _json(found)
        window = (_number(query, "left"), _number(query, "top"), _number(query, "right"), _number(query, "bottom"))
        return view.detections_within(window, _number(query, "least")), "application/octet-stream", _ASK

    def file(run: int, slide: str, rest: list[str], query: Query) -> Answer:
        del query
        kind = _SLIDE_FILES.get(rest[0])
        if kind is None:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "no such file")
        try:
            return (batch.slide(run, slide).folder / rest[0]).read_bytes(), kind, _ASK
        except OSError:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "the file is missing") from None

    of_slide: dict[str, tuple[int, Callable[[int, str, list[str], Query], Answer]]] = {
        "tile": (3, tile),
        "about": (0, about),
        "heatmap": (0, heatmap),
        "mask": (1, mask),
        "detections": (1, detections),
        "file": (1, file),
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "pathology"
        sys_version = ""
        timeout = _UNKNOWN_SECONDS
        disable_nagle_algorithm = True
        wbufsize = 64 * 1024

        def do_GET(self) -> None:
            self._answer(self._get)

        def do_POST(self) -> None:
            self._answer(self._post)

        def _is_page(self) -> bool:
            """Return whether the request is for the viewer page, not for a report."""
            return self.path.split("/")[2:3] not in (["api"], ["records"])

        def _own_names(self) -> tuple[str, str]:
            port = int(self.request.getsockname()[1])
            return f"127.0.0.1:{port}", f"localhost:{port}"

        def _parts(self) -> tuple[list[str], Query]:
            """Check the origin of the request; return the address parts after the token, and the query."""
            # DNS rebinding: pages of a name that resolves to 127.0.0.1 could otherwise send requests here.
            if self.headers.get("Host") not in self._own_names():
                raise _RefusalError(HTTPStatus.FORBIDDEN, "this server responds only to its own address")
            split = urlsplit(self.path)
            parts = [unquote(part, errors="surrogateescape") for part in split.path.split("/")[1:]]
            if not hmac.compare_digest(parts[0].encode("utf-8", "surrogateescape"), token.encode()):
                raise _RefusalError(
                    HTTPStatus.FORBIDDEN, "the token is missing; use the address printed by pathology view"
                )
            self.connection.settimeout(_IDLE_SECONDS)
            assert isinstance(self.server, _Server)
            self.server.trust(self.connection)
            query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
            return [part for part in parts[1:] if part], query

        def _get(self) -> Answer:
            parts, query = self._parts()
            if parts == ["api", "batch"]:
                return _json(batch.overview())
            if parts[:1] == ["records"] and batch.patients is not None:
                return *batch.patients.file(parts[1:]), _ASK
            if len(parts) >= 4 and parts[0] == "api" and parts[1] in of_slide:
                least, function = of_slide[parts[1]]
                if len(parts) - 4 >= least:
                    return function(int(parts[2]), parts[3], parts[4:], query)
            return page(parts)

        def _post(self) -> Answer:
            parts, _ = self._parts()
            if not (len(parts) == 4 and parts[:2] == ["api", "decision"]):
                raise _RefusalError(HTTPStatus.METHOD_NOT_ALLOWED, "only decisions can be submitted")
            origin = self.headers.get("Origin")
            if origin is not None and origin != f"http://{self.headers['Host']}":
                raise _RefusalError(HTTPStatus.FORBIDDEN, "pages of other sites may not submit decisions")
            if self.headers.get("Content-Type") != "application/json":
                raise _RefusalError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a decision must be JSON")
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > _LARGEST_BODY:
                raise _RefusalError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too long for a decision")
            try:
                wanted = json.loads(self.rfile.read(int(length)))
                row, verdict = wanted["row"], wanted["verdict"]
            except (ValueError, KeyError, TypeError):
                raise UsageError("a decision must have a row and a verdict") from None
            if not isinstance(row, int) or isinstance(row, bool) or verdict not in ("accepted", "rejected", None):
                raise UsageError("the verdict must be accepted, rejected or null")
            return _json(batch.view(int(parts[2]), parts[3]).decide(row, verdict))

        def _answer(self, work: Callable[[], Answer]) -> None:
            status = HTTPStatus.OK
            try:
                body, kind, cache = work()
            except _RefusalError as refused:
                status, (body, kind, cache) = refused.status, _json({"error": refused.reason})
            except SlideError as error:
                status, (body, kind, cache) = HTTPStatus.GONE, _json({"error": str(error)})
            except OutputError as error:
                status, (body, kind, cache) = HTTPStatus.INSUFFICIENT_STORAGE, _json({"error": str(error)})
            except (PathologyError, ValueError) as error:
                status, (body, kind, cache) = HTTPStatus.BAD_REQUEST, _json({"error": str(error)})
            except Exception as error:  # one bad slide must not stop the viewer
                status, (body, kind, cache) = HTTPStatus.INTERNAL_SERVER_ERROR, _json({"error": repr(error)})
            if status is not HTTPStatus.OK:
                self.close_connection = True  # an unread body would be parsed as the next request
            self.send_response(status)
            for name, value in _HEADERS.items():
                if name == "Content-Security-Policy" and kind.startswith("text/html") and not self._is_page():
                    value = _REPORT_POLICY  # a report includes its style and images
                self.send_header(name, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", cache)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:
            """Do not log: addresses contain the token."""

    return Handler
