"""``pathology view``: browse results."""

from __future__ import annotations

import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

__all__ = ["run"]


def run(results: list[Path], *, slides: list[Path], patients: Path | None, port: int, browser: bool) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from pathology.errors import UsageError
    from pathology.viewer.batch import Batch
    from pathology.viewer.server import ViewerServer

    for folder in slides:
        if not folder.is_dir():
            raise UsageError("--slides is not a folder", where=folder)
    batch = Batch(results, slides, patients=patients)
    server = ViewerServer(batch, _page(), port=port)

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    # Ending it is how it is meant to be used, and no interruption.
    for ending in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, end)
    try:
        print(f"Viewer: {server.address}")
        print("Accessible only from this machine. Press Ctrl-C to stop. Research use only.", flush=True)
        with _opened(server.address) if browser else nullcontext():
            server.serve()
    except KeyboardInterrupt:
        print("\nViewer stopped.")
    finally:
        server.close()


@contextmanager
def _opened(address: str) -> Iterator[None]:
    """Open the browser on a page, readable by this user only, that leads to the viewer.

    Everybody on this machine can read the arguments of a browser's process: the token must not be among them.
    """
    with tempfile.TemporaryDirectory(prefix="pathology-view-", ignore_cleanup_errors=True) as folder:
        page = Path(folder) / "viewer.html"
        page.touch(mode=0o600)
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
            f'<title>pathology viewer</title><p><a href="{address}">Open the viewer</a></p>',
            encoding="utf-8",
        )
        webbrowser.open(page.as_uri())
        yield


def _page() -> Path | None:
    """Return the built page; in a source tree, build it if it is missing."""
    from pathology.viewer.page import SOURCE, PageBuildError, build_page, find_page

    found = find_page()
    if found is None and SOURCE.exists():
        print("Building the viewer page (first run only).", flush=True)
        try:
            build_page()
        except PageBuildError as error:
            print(f"Cannot build the viewer page: {error}")
    return find_page()
