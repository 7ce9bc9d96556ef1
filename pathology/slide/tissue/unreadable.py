"""How much of a slide's tissue could not be read: always reported; above a limit the slide is refused."""

from __future__ import annotations

from os import PathLike

from pathology.errors import CorruptSlideError
from pathology.formatting import area, percent

__all__ = ["check_unreadable", "unreadable_warning"]


def check_unreadable(
    readable_mm2: float, unreadable_mm2: float, limit: float, *, where: str | PathLike[str] | None
) -> None:
    """Refuse a slide if too much of its tissue cannot be read.

    Parameters
    ----------
    readable_mm2
        Area of tissue in mm² that was read.
    unreadable_mm2
        Estimated area of tissue in mm² that could not be read.
    limit
        Largest allowed unreadable fraction of the total, 0 to 1.
    where
        The slide.

    Raises
    ------
    CorruptSlideError
        If the limit is exceeded.
    """
    total = readable_mm2 + unreadable_mm2
    if not unreadable_mm2 or unreadable_mm2 <= limit * total:
        return
    if not readable_mm2:
        what = "the slide is damaged: no tissue can be read, because its stored tiles cannot be decoded"
    else:
        what = (
            f"the slide is damaged: about {percent(unreadable_mm2 / total)} of its tissue ({area(unreadable_mm2)}) "
            f"cannot be read, more than the {percent(limit)} allowed"
        )
    raise CorruptSlideError(what, where=where, remedy="Copy the slide again from its source, or rescan it")


def unreadable_warning(readable_mm2: float, unreadable_mm2: float, tiles: int) -> tuple[str, ...]:
    """Return a warning about unreadable tiles, or nothing if all were read.

    Parameters
    ----------
    readable_mm2, unreadable_mm2
        As for :func:`check_unreadable`.
    tiles
        Stored tiles that could not be decoded.
    """
    if not tiles and not unreadable_mm2:
        return ()
    subject = f"{tiles:,} stored tile{'s' if tiles != 1 else ''} could not be decoded"
    if not unreadable_mm2:
        return (f"{subject}, none of them on tissue",)
    share = percent(unreadable_mm2 / (readable_mm2 + unreadable_mm2))
    return (
        f"{subject}: about {share} of the tissue ({area(unreadable_mm2)}) was not examined; areas, shares and "
        "densities are those of the rest",
    )
