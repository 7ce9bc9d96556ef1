"""Colours of classes and probabilities, safe for the common forms of colour blindness."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from pathology.bundle.card import Card
from pathology.errors import UsageError

__all__ = ["CLASS_COLOURS", "class_colours", "colour_map", "hex_to_rgb"]

CLASS_COLOURS = (
    # Okabe and Ito, "Color Universal Design" (2008), without black, which reads as a fold or as pigment; reddish
    # purple stands last of the seven because it is closest to eosin.
    "#0072b2",  # blue
    "#e69f00",  # orange
    "#009e73",  # bluish green
    "#d55e00",  # vermilion
    "#56b4e9",  # sky blue
    "#f0e442",  # yellow
    "#cc79a7",  # reddish purple
    # Further ones: each is the colour furthest (CIEDE2000, the least over normal, protanope and deuteranope
    # vision as simulated by Machado et al. 2009) from all before it and from white, black and mid-grey, among
    # those with a chroma above 35, because overlays show tissue in grey under the colour.
    "#772200",  # brown
    "#112277",  # navy
    "#00ddaa",  # turquoise
    "#883355",  # plum
    "#0000dd",  # ultramarine
    "#cc0044",  # crimson
    "#3388ff",  # azure
    "#22eeff",  # cyan
    "#aa3388",  # magenta
)
"""Standard colours in the order of a card's classes."""


def hex_to_rgb(colour: str) -> tuple[int, int, int]:
    """Return ``#rrggbb`` as three values 0 to 255.

    Raises
    ------
    UsageError
        If it is no such string.
    """
    digits = colour.removeprefix("#")
    try:
        if len(digits) != 6 or not colour.startswith("#"):
            raise ValueError(colour)
        return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)
    except ValueError:
        raise UsageError(f"colour {colour!r} does not have the form #rrggbb") from None


def class_colours(card: Card) -> tuple[str, ...]:
    """Return one ``#rrggbb`` per class: the card's own colours, or else the standard ones.

    No palette remains distinguishable beyond 16 classes; the standard colours then repeat, and legends rely on the
    names.

    Examples
    --------
    >>> from pathology.bundle import read_card
    >>> class_colours(read_card(bundle_path / "card.yaml"))
    ('#0072b2', '#e69f00', '#009e73')
    """
    if card.colours:
        return card.colours
    return tuple(CLASS_COLOURS[index % len(CLASS_COLOURS)] for index in range(len(card.classes)))


def colour_map(name: str, values: NDArray[np.float32] | Sequence[float]) -> NDArray[np.uint8]:
    """Colour probabilities with a perceptually uniform map.

    Parameters
    ----------
    name
        A matplotlib map; ``cividis`` and ``viridis`` are uniform and safe for colour blindness (Nuñez et al.
        2018).
    values
        Any shape, 0 to 1; outside it is clipped.  NaN gets the colour of 0 (callers leave such places unpainted).

    Returns
    -------
    numpy.ndarray
        ``(*shape, 3)`` uint8 RGB.

    Raises
    ------
    UsageError
        If matplotlib has no such map.
    """
    try:
        colours = mpl.colormaps[name]
    except KeyError:
        raise UsageError(f"unknown colour map {name!r}", remedy="Use cividis or viridis") from None
    filled = np.nan_to_num(np.asarray(values, np.float32), nan=0.0)
    rgba: NDArray[np.uint8] = colours(np.clip(filled, 0, 1), bytes=True)
    return rgba[..., :3]
