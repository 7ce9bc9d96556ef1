"""What an annotation file says, before it is compared with any slide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["BoxFile", "Looked", "Mark", "Unit"]

Unit = Literal["pixels", "fraction"]
"""Unit of coordinates: level-0 pixels, or fractions of the image's width and height."""

Looked = Literal["images", "regions", "unknown"]
"""What the file says about the tissue that was looked at: all of each image it lists, regions, or nothing."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One object of an annotation file.

    Attributes
    ----------
    image
        The image as the file names it.
    left, top, right, bottom
        Corners; of a point, its place twice.  NaN where the file holds no number.
    label
        Class as the file names it; empty if there is none.
    where
        Place in the file, for messages.
    point
        Whether it is a point, which has no size of its own.
    unit
        Unit of the coordinates.
    size_um
        Side of the box around a point, in µm, if the file states it.
    outline
        Corners of a shape other than an upright rectangle; empty: the rectangle itself.
    """

    image: str
    left: float
    top: float
    right: float
    bottom: float
    label: str
    where: str
    point: bool = False
    unit: Unit = "pixels"
    size_um: float | None = None
    outline: tuple[tuple[float, float], ...] = ()

    @property
    def finite(self) -> bool:
        """Whether all coordinates are numbers."""
        return all(map(math.isfinite, (self.left, self.top, self.right, self.bottom)))

    @classmethod
    def around(cls, image: str, corners: list[tuple[float, float]], label: str, where: str) -> Mark:
        """Return the bounding box of a shape; a single corner is a point.

        Examples
        --------
        >>> mark = Mark.around("a", [(3, 4), (9, 5), (6, 11)], "mitosis", "row 1")
        >>> mark.left, mark.top, mark.right, mark.bottom, mark.point
        (3, 4, 9, 11, False)
        """
        if not corners:
            nothing = math.nan
            return cls(image, nothing, nothing, nothing, nothing, label, where)
        x, y = [c[0] for c in corners], [c[1] for c in corners]
        box = min(x), min(y), max(x), max(y)
        upright = set(corners) == {(box[i], box[j]) for i in (0, 2) for j in (1, 3)}
        outline = () if upright else tuple(corners)
        return cls(image, *box, label, where, point=len(corners) == 1, outline=outline)


@dataclass(frozen=True, slots=True)
class BoxFile:
    """The content of one annotation file or folder.

    Attributes
    ----------
    source
        File or folder.
    form
        Name of its format.
    marks
        Objects in the order of the file.
    images
        Images that the file lists, also without any object, with the ``(width, height)`` it states for them.
    looked
        What the file says about the tissue that was looked at.
    """

    source: str
    form: str
    marks: tuple[Mark, ...]
    images: dict[str, tuple[int, int] | None]
    looked: Looked
