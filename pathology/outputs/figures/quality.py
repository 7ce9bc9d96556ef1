"""Image of a slide's tissue, excluded regions and artefacts, with a legend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from pathology.formatting import RESEARCH_USE_ONLY, area, percent
from pathology.outputs.figures.palette import hex_to_rgb
from pathology.outputs.figures.text import Lettering, drawable
from pathology.slide.tissue.detect import ExclusionReason
from pathology.slide.tissue.quality import SlideQuality

__all__ = ["QUALITY_COLOURS", "quality_picture"]

QUALITY_COLOURS = {
    # Okabe and Ito's colours, except those close to pink and purple.
    "tissue": "#009e73",
    "pen": "#0072b2",
    "blur": "#e69f00",
    "fold": "#f0e442",
    "bubble": "#56b4e9",
    "dark": "#000000",
    "edge": "#999999",
    "fragment": "#cc79a7",
    "unreadable": "#d55e00",
}
"""Colour of each entry; tissue is outlined, the others are filled."""

_ENTRIES = {
    "tissue": "Tissue (outline)",
    "pen": "Pen marks",
    "blur": "Out of focus",
    "fold": "Fold",
    "bubble": "Air bubble",
    "dark": "Dark dirt",
    "edge": "Slide edge, coverslip, grey debris",
    "fragment": "Fragment below minimum size",
    "unreadable": "Unreadable",
}
_OPACITY = 0.6


def quality_picture(
    thumbnail: NDArray[np.uint8], quality: SlideQuality, *, title: str, longest: int = 1200
) -> Image.Image:
    """Draw the tissue outline, excluded regions and artefacts over a slide.

    Parameters
    ----------
    thumbnail
        ``(H, W, 3)`` uint8 RGB in which the tissue was detected.
    quality
        The tissue and artefact masks.
    title
        Name of the slide.
    longest
        Longer side of the slide image in pixels; a smaller thumbnail is magnified by integer factors up to it.

    Returns
    -------
    PIL.Image.Image
        RGB: the slide, and beside it the title, a legend with areas and shares, and the research-use notice.
    """
    painted = _painted(thumbnail, quality, longest)
    small, strong = Lettering(15), Lettering(17, bold=True)
    panel, gap = 400, 16
    lines = _legend(quality)
    heading = strong.wrap(title, panel - 2 * gap, 3)
    warning = small.wrap(RESEARCH_USE_ONLY, panel - 2 * gap)
    needed = 2 * gap + len(heading) * strong.line_height + len(lines) * 28 + 2 * gap + len(warning) * small.line_height
    picture = Image.new("RGB", (painted.width + panel, max(painted.height, needed)), "white")
    picture.paste(painted, (0, 0))
    draw = ImageDraw.Draw(picture)
    x, y = painted.width + gap, gap
    for line in heading:
        draw.text((x, y), line, "black", font=strong.font)
        y += strong.line_height
    y += gap
    for name, text in lines:
        box = (x, y + 2, x + 18, y + 20)
        if name == "tissue":
            draw.rectangle(box, outline=QUALITY_COLOURS[name], width=3)
        else:
            draw.rectangle(box, fill=QUALITY_COLOURS[name], outline="#666666")
        draw.text((x + 28, y), drawable(text), "black", font=small.font)
        y += 28
    y += gap
    for line in warning:
        draw.text((x, y), line, "black", font=small.font)
        y += small.line_height
    return picture


def _legend(quality: SlideQuality) -> list[tuple[str, str]]:
    counts, shares = quality.tissue.counts, quality.tissue_shares()
    pixel_mm2 = quality.tissue.mpp**2 * 1e-6
    lines = []
    for name, words in _ENTRIES.items():
        if name in ("blur", "fold", "bubble", "dark"):
            share = shares[name]
            said = "unknown" if share is None else f"{percent(share)} of tissue"
        else:
            said = area(counts[name] * pixel_mm2)
        lines.append((name, f"{words}: {said}"))
    return lines


def _painted(thumbnail: NDArray[np.uint8], quality: SlideQuality, longest: int) -> Image.Image:
    height, width = thumbnail.shape[:2]
    steps = max(1, longest // max(height, width))
    shrink = min(1.0, longest / max(height, width))
    size = (max(1, round(width * shrink)) * steps, max(1, round(height * shrink)) * steps)
    shown = np.asarray(Image.fromarray(thumbnail).resize(size, Image.Resampling.BOX), np.float32)
    tissue = _resized(quality.tissue.mask, size)
    masks = {name: _resized(mask, size) for name, mask in quality.masks.items()}
    masks["blur"] &= tissue
    for reason in (ExclusionReason.EDGE, ExclusionReason.FRAGMENT, ExclusionReason.UNREADABLE):
        masks[reason.name.lower()] = _resized(quality.tissue.excluded == reason, size)
    # Other artefacts are drawn over blur.
    for name in sorted(masks, key=lambda name: name != "blur"):
        shown[masks[name]] = (1 - _OPACITY) * shown[masks[name]] + _OPACITY * np.array(
            hex_to_rgb(QUALITY_COLOURS[name])
        )
    outline = tissue & ~ndimage.binary_erosion(tissue, np.ones((3, 3), bool), border_value=0)
    shown[outline] = hex_to_rgb(QUALITY_COLOURS["tissue"])
    return Image.fromarray(np.rint(shown).astype(np.uint8))


def _resized(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Resize a mask; structures thinner than a pixel remain visible."""
    shares = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).resize(size, Image.Resampling.BOX)
    return np.asarray(shares) >= 96
