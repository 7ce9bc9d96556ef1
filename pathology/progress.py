"""How a batch tells the world that it advances."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "SilentProgress"]


class Progress(Protocol):
    """Told how a batch advances.  Every method is called from the thread that started the batch, except
    :meth:`advanced`, which may come from another.
    """

    def began(self, slides: int, unchanged: int) -> None:
        """``slides`` are to be done; ``unchanged`` are already done."""

    def workers(self, count: int, dashboard: str | None) -> None:
        """``count`` tasks run at once; ``dashboard`` is the address of Dask's, if any."""

    def prepared(self, slide_id: str, patches: int) -> None:
        """A slide has ``patches`` still to be done."""

    def advanced(self, slide_id: str, patches: int) -> None:
        """So many more patches of a slide are done."""

    def finished(self, slide_id: str, outcome: str, *, failed: bool) -> None:
        """A slide is done or has failed; ``outcome`` says in a few words how."""


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
