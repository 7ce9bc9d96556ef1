"""Image of the heatmap over the slide.

Two kinds: the predicted class at each location, in the class's colour and more opaque with higher probability; or the
probability of one class on a colour map.  Only scored tissue is coloured.  Under the colour, the histology is shown in
grey: mixed with haematoxylin and eosin, the colours would not match the legend (blue on eosin looks purple).  Tissue
that was not scored keeps its stain, which distinguishes the two at a glance.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathology.atomic_files import write_bytes
from pathology.bundle.card import Card
from pathology.errors import UsageError
from pathology.findings.slide_result import SlideResult
from pathology.formatting import (
    RESEARCH_USE_ONLY,
    area,
    extent,
    heading,
    length,
    percent,
    round_length,
    scale,
    sentence,
)
from pathology.outputs.figures.heatmap import Heatmap
from pathology.outputs.figures.palette import class_colours, colour_map, hex_to_rgb
from pathology.outputs.figures.text import Lettering
from pathology.outputs.figures.thumbnail import SlidePicture

__all__ = ["LONGEST_SIDE", "ScaleBar", "compose_overlay", "paint", "prediction_opacity", "scale_bar", "write_overlay"]

_WARNINGS_SHOWN = 2
LONGEST_SIDE = 1600
"""Default longer side of the slide on an overlay, in pixels: fills a screen, prints A4 at 150 dots per inch."""

OPACITY = (0.15, 0.55)
"""Opacity of the predicted class's colour at its lowest possible probability (1 / number of classes) and at 1.  The
upper end leaves nuclei and fibres visible through the colour, the lower end can still be distinguished from tissue that
was not scored."""

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Weights of red, green and blue for luma (ITU-R BT.709)."""

CLASS_MAP_OPACITY = 0.55
"""Opacity of a single class's map: constant, because the colour itself encodes the probability."""

COLOUR_MAP = "viridis"
"""Colour map for the probability of one class: uniform, safe for colour blindness, and without grey, which would
resemble the tissue under it (as the middle of cividis does)."""

INK, GREY, RULE, WARNING = "#1b1b1b", "#5a5a5a", "#c9c9c9", "#9a1b1b"


@dataclass(frozen=True)
class ScaleBar:
    """A scale bar of a round length.

    Attributes
    ----------
    micrometres
        Length on the slide.
    pixels
        Length in the image.
    """

    micrometres: float
    pixels: float

    @property
    def label(self) -> str:
        """Its length as text, such as ``500 µm``."""
        return length(self.micrometres)


def scale_bar(picture_width: int, mpp: float) -> ScaleBar:
    """Choose the longest scale bar of a round length that is at most a quarter of the image width.

    Parameters
    ----------
    picture_width
        In pixels.
    mpp
        Micrometres per *image* pixel, horizontally.
    """
    micrometres = round_length(picture_width * mpp / 4)
    return ScaleBar(micrometres, micrometres / mpp)


def prediction_opacity(confidence: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Return the opacity for the probability of a predicted class: linear over its possible range.

    Parameters
    ----------
    confidence
        Any shape, probability of the predicted class; NaN gives 0.
    classes
        Number of classes.
    """
    lowest, highest = OPACITY
    chance = 1 / classes
    certainty = np.clip((confidence - chance) / (1 - chance), 0, 1) if classes > 1 else confidence
    opacity = np.nan_to_num(lowest + (highest - lowest) * certainty, nan=0.0)
    return np.asarray(opacity, np.float32)


def paint(
    picture: SlidePicture,
    heatmap: Heatmap,
    tissue: NDArray[np.bool_],
    dimensions: tuple[int, int],
    *,
    colours: tuple[str, ...],
    only: str | None = None,
) -> NDArray[np.uint8]:
    """Blend a heatmap with an image of its slide.

    Each image pixel takes the cell under its centre, and is coloured only where the tissue mask, interpolated at that
    centre, is at least 0.5; so the position is exact to half an image pixel.

    Parameters
    ----------
    picture
        The slide.
    heatmap
        Its predictions.
    tissue
        ``(rows, columns)`` bool, any resolution, covering the whole slide.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    colours
        ``#rrggbb`` per class of the heatmap, for the predicted-class map.
    only
        A single class to show; ``None`` shows the predicted class.

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)`` uint8 RGB, of the same size as the image.

    Raises
    ------
    UsageError
        If the class does not exist, or the number of colours differs from the number of classes.
    """
    if len(colours) != len(heatmap.classes):
        raise UsageError(f"colours: expected {len(heatmap.classes)}, one per class, got {len(colours)}")
    if only is None:
        predicted = heatmap.predicted()
        table = np.array([hex_to_rgb(colour) for colour in colours], np.float32)
        cell_colour = table[predicted]  # -1 selects the last colour, with opacity 0
        cell_opacity = prediction_opacity(heatmap.confidence(), len(heatmap.classes))
    else:
        values = heatmap.probability(only)
        cell_colour = colour_map(COLOUR_MAP, values).astype(np.float32)
        cell_opacity = np.where(np.isnan(values), 0, CLASS_MAP_OPACITY).astype(np.float32)
    if not heatmap.known().any():
        return picture.pixels.copy()

    width, height = picture.size
    x = (np.arange(width, dtype=np.float64) + 0.5) * picture.scale[0]
    y = (np.arange(height, dtype=np.float64) + 0.5) * picture.scale[1]
    column, row = heatmap.cells_along(x, 0), heatmap.cells_along(y, 1)
    opacity = cell_opacity[row[:, None], column] * (row[:, None] >= 0) * (column >= 0)
    opacity *= _tissue_at(tissue, dimensions, x, y)
    histology = picture.pixels.astype(np.float32)
    grey = histology @ LUMINANCE
    under = np.where(opacity[..., None] > 0, grey[..., None], histology)
    mixed = under * (1 - opacity[..., None]) + cell_colour[row[:, None], column] * opacity[..., None]
    return np.rint(mixed).astype(np.uint8)


def _tissue_at(
    tissue: NDArray[np.bool_], dimensions: tuple[int, int], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return ``(len(y), len(x))`` bool: where the mask, interpolated bilinearly at level-0 points, reaches 0.5."""
    sides = []
    for positions, side, count in ((y, dimensions[1], tissue.shape[0]), (x, dimensions[0], tissue.shape[1])):
        place = np.clip(positions * count / side - 0.5, 0, count - 1)
        first = np.minimum(place.astype(np.intp), max(0, count - 2))
        sides.append((first, np.minimum(first + 1, count - 1), (place - first).astype(np.float32)))
    (top, bottom, down), (left, right, across) = sides
    rows = tissue[top] * (1 - down[:, None]) + tissue[bottom] * down[:, None]
    value = rows[:, left] * (1 - across) + rows[:, right] * across
    inside = (y < dimensions[1])[:, None] & (x < dimensions[0])
    result: NDArray[np.bool_] = (value >= 0.5) & inside
    return result


def compose_overlay(
    result: SlideResult,
    card: Card,
    picture: SlidePicture,
    heatmap: Heatmap,
    tissue: NDArray[np.bool_],
    *,
    only: str | None = None,
    longest: int = LONGEST_SIDE,
) -> NDArray[np.uint8]:
    """Draw the overlay with its legend, scale bar, slide name, model and scale.

    Parameters
    ----------
    result
        The scored slide; ``width`` and ``height`` must be known.
    card
        Its model.
    picture, heatmap, tissue
        See :func:`paint`.
    only
        A single class to show; ``None`` shows the predicted class.
    longest
        Longer side of the slide in the image, in pixels; a smaller slide is not magnified (see
        :func:`~pathology.outputs.figures.thumbnail.picture_size`).

    Returns
    -------
    numpy.ndarray
        ``(H, W, 3)`` uint8 RGB; the slide at the top left, the legend to its right or, for a wide slide, below.

    Raises
    ------
    UsageError
        If the slide's size is unknown, or as :func:`paint`.
    """
    if result.width is None or result.height is None:
        raise UsageError("the size of the slide is unknown", where=result.path)
    dimensions = (result.width, result.height)
    picture = picture.shown(dimensions, longest)
    painted = paint(picture, heatmap, tissue, dimensions, colours=class_colours(card), only=only)
    return _Sheet(result, card, heatmap, picture, painted, only, longest).drawn()


def write_overlay(
    path: Path,
    result: SlideResult,
    card: Card,
    picture: SlidePicture,
    heatmap: Heatmap,
    tissue: NDArray[np.bool_],
    *,
    only: str | None = None,
    longest: int = LONGEST_SIDE,
) -> None:
    """Write :func:`compose_overlay` as a PNG, completely or not at all.

    Raises
    ------
    UsageError
        As :func:`compose_overlay`.
    OutputError
        If the file cannot be written.
    """
    pixels = compose_overlay(result, card, picture, heatmap, tissue, only=only, longest=longest)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    write_bytes(path, buffer.getvalue())


class _Sheet:
    """The image, its frame and the text around it.

    Each part is a method that draws at ``(x, y)`` within ``width`` and returns the ``y`` below it.  A first pass draws
    the parts on a dummy image to determine the required height.
    """

    def __init__(
        self,
        result: SlideResult,
        card: Card,
        heatmap: Heatmap,
        picture: SlidePicture,
        painted: NDArray[np.uint8],
        only: str | None,
        longest: int,
    ) -> None:
        self.result, self.card, self.heatmap, self.picture, self.only = result, card, heatmap, picture, only
        self.painted = painted
        unit = max(longest, 900) / LONGEST_SIDE
        self.title = Lettering(round(30 * unit), bold=True)
        self.strong = Lettering(round(22 * unit), bold=True)
        self.body = Lettering(round(22 * unit))
        self.small = Lettering(round(19 * unit))
        self.gap = round(24 * unit)
        self.panel = round(580 * unit)
        self.draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def drawn(self) -> NDArray[np.uint8]:
        width, height = self.picture.size
        gap = self.gap
        below = width > 1.6 * height and width > 1.5 * self.panel
        place = self._below if below else self._beside
        right, bottom = place()
        sheet = Image.new("RGB", (right + gap, bottom + gap), "white")
        sheet.paste(Image.fromarray(self.painted), (gap, gap))
        self.draw = ImageDraw.Draw(sheet)
        self.draw.rectangle((gap - 1, gap - 1, gap + width, gap + height), outline=RULE)
        place(bottom)
        return np.asarray(sheet)

    def _beside(self, bottom: int | None = None) -> tuple[int, int]:
        width, height = self.picture.size
        under_picture = self._scale_bar(self.gap, self.gap + height + self.gap // 2, width)
        x = self.gap + width + self.gap + self.gap // 2
        y = self._identity(x, self.gap, self.panel)
        y = self._legend(x, y + self.gap, self.panel)
        y = self._research_use_only(x, y + self.gap, self.panel, bottom)
        return x + self.panel, max(under_picture, y)

    def _below(self, bottom: int | None = None) -> tuple[int, int]:
        width, height = self.picture.size
        y = self._scale_bar(self.gap, self.gap + height + self.gap // 2, width) + self.gap
        half = (width - 2 * self.gap) // 2
        left = self._identity(self.gap, y, half)
        right = self._legend(self.gap + half + 2 * self.gap, y, half)
        y = self._research_use_only(self.gap, left + self.gap, half, bottom)
        return self.gap + width, max(y, right)

    def _text(
        self, lettering: Lettering, text: str, x: int, y: int, width: float, colour: str = INK, lines: int | None = None
    ) -> int:
        for line in lettering.wrap(text, width, lines):
            self.draw.text((x, y), line, font=lettering.font, fill=colour)
            y += lettering.line_height
        return y

    def _right(self, lettering: Lettering, text: str, right: float, y: int, colour: str) -> None:
        self.draw.text((right - lettering.width(text), y), text, font=lettering.font, fill=colour)

    def _identity(self, x: int, y: int, width: int) -> int:
        result, card = self.result, self.card
        y = self._text(self.title, result.slide_id, x, y, width, lines=3) + self.gap // 3
        if result.abstained:
            y = self._text(self.strong, heading(result.answer), x, y, width, WARNING)
            y = self._text(self.small, sentence(result.abstained_because), x, y, width, GREY, lines=3)
        elif result.prediction is not None:
            y = self._text(self.strong, f"Prediction: {result.prediction}", x, y, width, lines=3)
        for warning in result.warnings[:_WARNINGS_SHOWN]:
            y = self._text(self.small, f"Warning: {warning}", x, y, width, WARNING, lines=3)
        if len(result.warnings) > _WARNINGS_SHOWN:
            more = len(result.warnings) - _WARNINGS_SHOWN
            y = self._text(self.small, f"and {more} more in the report", x, y, width, WARNING)
        y += self.gap // 2
        facts = (
            f"Model: {card.name} {card.version}",
            f"Slide: {self._slide_size()}{scale(result.mpp)}",
            f"Patches: {result.patches:,} of {card.patch} px at {scale(card.mpp)}",
        )
        for fact in facts:
            y = self._text(self.small, fact, x, y, width, GREY, lines=3)
        return y

    def _slide_size(self) -> str:
        result = self.result
        if result.mpp is None or result.width is None or result.height is None:
            return ""
        return extent(result.width, result.height, result.mpp) + " at "

    def _legend(self, x: int, y: int, width: int) -> int:
        self.draw.line((x, y, x + width, y), fill=RULE)
        y += self.gap // 2
        y = self._classes(x, y, width) if self.only is None else self._one_class(self.only, x, y, width)
        note = "Tissue in its original stain was not scored." if self.heatmap.known().any() else "No patch was scored."
        return self._text(self.small, note, x, y + self.gap // 2, width, GREY)

    def _classes(self, x: int, y: int, width: int) -> int:
        area_column = self.small.width("0,000.00 mm²")
        share_column = self.body.width("> 99.9 %")
        self._right(self.small, "share of tissue", x + width - area_column, y, GREY)
        self._right(self.small, "area", x + width, y, GREY)
        y = self._text(self.strong, "Predicted class", x, y, width) + self.gap // 4
        found = {finding.name: finding for finding in self.result.classes}
        swatch = self.body.size
        for name, colour in zip(self.card.classes, class_colours(self.card), strict=True):
            finding = found.get(name)
            ink = INK if finding is not None and finding.share > 0 else GREY
            top = y + round((self.body.line_height - swatch) / 2)
            self.draw.rectangle((x, top, x + swatch, top + swatch), fill=colour, outline=INK)
            if finding is not None:
                self._right(self.body, percent(finding.share), x + width - area_column, y, ink)
                self._right(self.small, area(finding.area_mm2), x + width, y + 2, ink)
            indent = swatch + self.gap // 2
            room = width - indent - area_column - share_column - self.gap // 4
            y = self._text(self.body, name, x + indent, y, room, ink) + self.gap // 6
        return self._certainty(x, y + self.gap // 2, width)

    def _certainty(self, x: int, y: int, width: int) -> int:
        classes = len(self.card.classes)
        if classes == 1:
            return y
        y = self._text(self.small, "The stronger the colour, the more probable the class:", x, y, width, GREY)
        y += self.gap // 4
        values = np.linspace(1 / classes, 1, width, dtype=np.float32)
        opacity = prediction_opacity(values, classes)[:, None]
        names = [finding.name for finding in self.result.classes]
        shares = [finding.share for finding in self.result.classes]
        largest = names[int(np.argmax(shares))] if names else self.card.classes[0]
        colour = np.array(hex_to_rgb(class_colours(self.card)[self.card.classes.index(largest)]))
        self._strip(np.rint(colour * opacity + 255 * (1 - opacity)).astype(np.uint8), x, y)
        y += self.body.size + self.gap // 6
        self.draw.text((x, y), percent(1 / classes), font=self.small.font, fill=GREY)
        self._right(self.small, "100 %", x + width, y, GREY)
        return y + self.small.line_height

    def _one_class(self, name: str, x: int, y: int, width: int) -> int:
        y = self._text(self.strong, f"Probability of {name}", x, y, width, lines=3) + self.gap // 3
        self._strip(colour_map(COLOUR_MAP, np.linspace(0, 1, width, dtype=np.float32)), x, y)
        y += self.body.size + self.gap // 6
        for part in (0.0, 0.5, 1.0):
            text = percent(part)
            left = x + (width - self.small.width(text)) * part
            self.draw.text((left, y), text, font=self.small.font, fill=GREY)
        y += self.small.line_height + self.gap // 3
        for finding in self.result.classes:
            if finding.name == name:
                y = self._text(self.body, f"Whole slide: {percent(finding.probability)}", x, y, width)
                predicted = f"Predicted on {percent(finding.share)} of the tissue ({area(finding.area_mm2)})"
                y = self._text(self.body, predicted, x, y, width)
        return y

    def _strip(self, colours: NDArray[np.uint8], x: int, y: int) -> None:
        """Draw one colour per pixel column, framed."""
        height = self.body.size
        for offset, colour in enumerate(colours):
            self.draw.line((x + offset, y, x + offset, y + height), fill=tuple(int(c) for c in colour))
        self.draw.rectangle((x, y, x + len(colours) - 1, y + height), outline=INK)

    def _scale_bar(self, x: int, y: int, width: int) -> int:
        if self.result.mpp is None:
            return self._text(self.small, "Scale unknown", x, y, width, GREY)
        bar = scale_bar(width, self.result.mpp * self.picture.scale[0])
        thickness = max(3, self.small.size // 3)
        right = x + round(bar.pixels) - 1
        self.draw.rectangle((x, y, right, y + thickness), fill=INK)
        self.draw.text((x, y + thickness + thickness // 2), bar.label, font=self.body.font, fill=INK)
        return y + 2 * thickness + self.body.line_height

    def _research_use_only(self, x: int, y: int, width: int, bottom: int | None) -> int:
        lines = self.strong.wrap(RESEARCH_USE_ONLY, width)
        height = len(lines) * self.strong.line_height
        if bottom is not None:
            y = max(y, bottom - height)
        for line in lines:
            self.draw.text((x, y), line, font=self.strong.font, fill=WARNING)
            y += self.strong.line_height
        return y
