"""Progress reports of a batch."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "SilentProgress"]


class Progress(Protocol):
    """Receives progress reports of a batch.  Every method is called from the thread that started the batch, except
    :meth:`advanced`, which may come from another.
    """

    def began(self, slides: int, unchanged: int) -> None:
        """``slides`` remain to be processed; ``unchanged`` are already done."""

    def workers(self, count: int, dashboard: str | None) -> None:
        """``count`` tasks run at once; ``dashboard`` is the address of the Dask dashboard, if any."""

    def prepared(self, slide_id: str, patches: int) -> None:
        """A slide has ``patches`` left to process."""

    def advanced(self, slide_id: str, patches: int) -> None:
        """``patches`` more patches of a slide are done."""

    def finished(self, slide_id: str, outcome: str, *, failed: bool) -> None:
        """A slide is done or has failed; ``outcome`` is a short description."""


class SilentProgress:
    """Shows nothing."""

    def began(self, slides: int, unchanged: int) -> None:
        """Show nothing."""

    def workers(self, count: int, dashboard: str | None) -> None:
        """Show nothing."""

    def prepared(self, slide_id: str, patches: int) -> None:
        """Show nothing."""

    def advanced(self, slide_id: str, patches: int) -> None:
        """Show nothing."""

    def finished(self, slide_id: str, outcome: str, *, failed: bool) -> None:
        """Show nothing."""
