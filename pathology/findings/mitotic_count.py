"""Mitotic counts in comparable units.

"Per ten high-power fields" is not a unit: a field of an older microscope measures 0.17 mm², a modern one 0.24 mm².
Counts are therefore given per mm², with an interval, and then converted to the field convention of a grading system.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.findings.hotspot import ExpectedMaximum, Hotspot, HotspotWindow, expected_maximum, find_hotspots
from pathology.settings import Record
from pathology.stats.intervals import poisson_interval

__all__ = [
    "FNCLCC_FIELD",
    "MODERN_FIELD",
    "FieldConvention",
    "HotspotCount",
    "MitoticCount",
    "SlideMitoses",
    "TissueMap",
    "bell_counts",
    "count_mitoses",
]


class FieldConvention(Record):
    """A definition of "ten high-power fields"."""

    name: str
    """Name shown in the report."""
    field_mm2: Annotated[float, Field(gt=0)]
    """Area of one field in mm²."""
    fields: Annotated[int, Field(ge=1)] = 10
    """Number of fields counted."""

    @property
    def area_mm2(self) -> float:
        """Total area of the fields in mm²."""
        return self.field_mm2 * self.fields

    @classmethod
    def of_microscope(cls, field_number: float, objective: float = 40, *, tube_factor: float = 1) -> FieldConvention:
        """Return the convention for ten fields of a given microscope.

        Parameters
        ----------
        field_number
            Field number engraved on the eyepiece: diameter of its field stop in mm (18 to 26.5).
        objective
            Magnification of the objective.
        tube_factor
            Magnification between objective and eyepiece, 1 on most microscopes.

        Returns
        -------
        FieldConvention
            The field's diameter on the slide is ``field_number / (objective tube_factor)`` mm.

        Raises
        ------
        UsageError
            If a value is not positive.
        """
        if not (field_number > 0 and objective > 0 and tube_factor > 0):
            raise UsageError("field number, objective and tube factor must be positive")
        diameter = field_number / (objective * tube_factor)
        return cls(name=f"FN {field_number:g}, {objective:g}x", field_mm2=math.pi / 4 * diameter**2)

    def from_density(self, per_mm2: float) -> float:
        """Return a density per mm² as a count in these fields."""
        return per_mm2 * self.area_mm2

    def to_density(self, count: float) -> float:
        """Return a count in these fields as a density per mm²."""
        return count / self.area_mm2


FNCLCC_FIELD = FieldConvention(name="FNCLCC, 0.1734 mm² fields", field_mm2=0.1734)
"""The field on which the FNCLCC cut-offs are based: ten fields of 0.1734 mm² (WHO classification, as cited by
Guillou & Coindre and by the 2013 and 2020 editions)."""

MODERN_FIELD = FieldConvention(name="modern 40x, FN 22, 0.237 mm² fields", field_mm2=0.237)
"""A 40x objective with field number 22: diameter 0.55 mm, ten fields 2.37 mm²."""


@dataclass(frozen=True, eq=False)
class TissueMap:
    """The tissue of a slide.

    Attributes
    ----------
    mask
        ``(rows, columns)`` bool over the whole slide, true on tissue.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.
    """

    mask: NDArray[np.bool_]
    dimensions: tuple[int, int]

    def without_unread(
        self, corners: NDArray[np.integer], extent: float, unread: NDArray[np.bool_]
    ) -> tuple[TissueMap, float]:
        """Return the tissue without what lies only under patches that could not be read, and the share that is left.

        Where nothing could be read, nothing could be counted: it must not dilute a density.

        Parameters
        ----------
        corners
            ``(N, 2)`` level-0 corners ``(x, y)`` of the patches.
        extent
            Side of a patch in level-0 pixels.
        unread
            ``(N,)`` bool.
        """
        if not unread.any() or not self.mask.any():
            return self, 1.0
        rows, columns = self.mask.shape
        per = np.array([self.dimensions[0] / columns, self.dimensions[1] / rows])
        low = np.rint(corners / per).astype(np.intp)
        high = np.rint((corners + extent) / per).astype(np.intp)
        lost, seen = np.zeros_like(self.mask), np.zeros_like(self.mask)
        for painted, chosen in ((lost, unread), (seen, ~unread)):
            for (left, top), (right, bottom) in zip(low[chosen].tolist(), high[chosen].tolist(), strict=True):
                painted[top:bottom, left:right] = True
        mask = self.mask & ~(lost & ~seen)
        return TissueMap(mask, self.dimensions), float(mask.sum() / self.mask.sum())


class HotspotCount(Record):
    """Mitoses in one window, as a record for results and reports."""

    shape: str
    """``circle`` or ``rectangle``."""
    area_mm2: float
    """Area of the window in mm²."""
    x: float
    """Centre, level-0 pixels."""
    y: float
    """Centre, level-0 pixels."""
    half_width: float
    """Level-0 pixels; the radius of a circle."""
    half_height: float
    """Level-0 pixels; the radius of a circle."""
    count: int
    """Mitoses in the window."""
    per_mm2: float
    """Density per mm² of the tissue in the window; per mm² of the window where its tissue is not known."""
    per_mm2_interval: tuple[float, float]
    """Exact 95 % Poisson interval of the density.  It covers random variation of the count, not the detector's errors,
    and applies to a predefined window; see :class:`MitoticCount` for the effect of selecting the maximum."""
    per_fields: dict[str, float]
    """The density as a count per ten fields, keyed by convention."""
    members: tuple[int, ...] = ()
    """Indices of the mitoses in the window."""
    tissue_share: float | None = None
    """Tissue fraction of the window, 0 to 1; ``None`` without a tissue mask."""

    @property
    def tissue_mm2(self) -> float | None:
        """Tissue in the window, in mm²; ``None`` without a tissue mask."""
        return None if self.tissue_share is None else self.tissue_share * self.area_mm2

    @property
    def basis(self) -> str:
        """The count and the area on which the density is based, as text."""
        if not self.tissue_share:
            known = "tissue area unknown" if self.tissue_share is None else "no tissue"
            return f"{self.count} in a window of {self.area_mm2:.3g} mm²; {known}"
        return f"{self.count} in {self.tissue_mm2:.3g} mm² of tissue, in a window of {self.area_mm2:.3g} mm²"

    @classmethod
    def of(cls, hotspot: Hotspot, conventions: tuple[FieldConvention, ...], share: float | None = None) -> HotspotCount:
        """Create the record of a hotspot with the tissue fraction of its window; ``None`` if unknown."""
        area = hotspot.window.area_mm2
        examined = area * share if share else area
        density = hotspot.count / examined
        interval = poisson_interval(hotspot.count, exposure=examined)
        return cls(
            shape=hotspot.window.shape,
            area_mm2=area,
            x=hotspot.x,
            y=hotspot.y,
            half_width=hotspot.half_width,
            half_height=hotspot.half_height,
            count=hotspot.count,
            per_mm2=density,
            per_mm2_interval=(interval.low, interval.high),
            per_fields={c.name: c.from_density(density) for c in conventions},
            members=hotspot.members,
            tissue_share=share,
        )


class MitoticCount(Record):
    """The mitotic count of a slide."""

    total: int
    """Mitoses on the whole slide."""
    tissue_mm2: float | None
    """Tissue searched, in mm²; ``None`` if unknown."""
    overall_per_mm2: float | None
    """Mean density over all tissue."""
    hotspot: HotspotCount | None
    """The window with the most mitoses; ``None`` without any mitosis."""
    expected_maximum: float | None
    """Mean maximum count if the same number of mitoses were evenly distributed."""
    expected_maximum_interval: tuple[float, float] | None
    """Its 2.5 % and 97.5 % quantiles."""
    bias: float | None
    """``expected_maximum`` divided by the count expected in a predefined window: the part of the hotspot's excess that
    is explained by selecting the maximum alone."""
    clustering_p_value: float | None
    """Probability of a maximum at least this high without clustering."""


class SlideMitoses(MitoticCount):
    """The mitotic count of a slide by the detector alone, before any review."""

    threshold: float
    """Lowest score at which a detection counts."""
    candidates: int
    """Number of detections of any score."""

    @property
    def hotspot_per_mm2(self) -> float | None:
        """Density in the hotspot; 0 without mitoses, ``None`` if no hotspot was searched for."""
        if self.hotspot is not None:
            return self.hotspot.per_mm2
        return 0.0 if self.total == 0 else None


def count_mitoses(
    points: NDArray[np.floating],
    mpp: float,
    *,
    window: HotspotWindow | None = None,
    tissue_mm2: float | None = None,
    tissue: TissueMap | None = None,
    conventions: tuple[FieldConvention, ...] = (FNCLCC_FIELD, MODERN_FIELD),
    simulations: int = 199,
    seed: int = 0,
) -> MitoticCount:
    """Count mitoses on a slide and in its hotspot.

    Parameters
    ----------
    points
        ``(N, 2)`` centres of mitoses in level-0 pixels, already restricted to tumour if a tumour map is available.
    mpp
        Micrometres per level-0 pixel.
    window
        Shape and area of the hotspot; by default a circle of 1.734 mm².
    tissue_mm2
        Area searched; without it, neither the overall density nor the expected maximum is computed.
    conventions
        Fields to convert to.
    simulations, seed
        For the expected maximum; see :func:`pathology.findings.hotspot.expected_maximum`.

    Raises
    ------
    UsageError
        If coordinates, scale or areas are invalid.

    Examples
    --------
    >>> points = np.array([[100.0, 100.0], [120.0, 110.0], [9000.0, 9000.0]])
    >>> count = count_mitoses(points, 0.25, tissue_mm2=12.0)
    >>> count.total, count.hotspot.count
    (3, 2)
    """
    points = np.asarray(points, np.float64).reshape(-1, 2)
    window = window or HotspotWindow()
    if tissue_mm2 is not None and not tissue_mm2 > 0:
        raise UsageError(f"the tissue area must be positive, got {tissue_mm2} mm²")
    found = _hotspot(points, mpp, window, tissue)
    expected: ExpectedMaximum | None = None
    if tissue_mm2 is not None and found is not None:
        expected = expected_maximum(
            len(points), tissue_mm2, window, observed=found[0].count, simulations=simulations, seed=seed
        )
    return MitoticCount(
        total=len(points),
        tissue_mm2=tissue_mm2,
        overall_per_mm2=None if tissue_mm2 is None else len(points) / tissue_mm2,
        hotspot=None if found is None else HotspotCount.of(found[0], conventions, found[1]),
        expected_maximum=expected.mean if expected else None,
        expected_maximum_interval=expected.interval if expected else None,
        bias=expected.bias if expected else None,
        clustering_p_value=expected.p_value if expected else None,
    )


_TIED = 8
"""Largest number of windows with equal counts compared by their tissue."""


def _hotspot(
    points: NDArray[np.float64], mpp: float, window: HotspotWindow, tissue: TissueMap | None
) -> tuple[Hotspot, float | None] | None:
    """Return the window with the most mitoses, and its tissue fraction; ties are resolved by more tissue."""
    found = find_hotspots(points, mpp, window, most=1 if tissue is None else _TIED)
    if not found:
        return None
    if tissue is None:
        return found[0], None
    tied = [(hotspot, tissue_share(hotspot, tissue)) for hotspot in found if hotspot.count == found[0].count]
    return max(tied, key=lambda pair: pair[1])


def tissue_share(hotspot: Hotspot, tissue: TissueMap) -> float:
    """Return the tissue fraction of a hotspot's window.

    Parameters
    ----------
    hotspot
        The window, in level-0 pixels.
    tissue
        The slide's tissue.

    Returns
    -------
    float
        0 to 1, over mask pixels whose centre lies in the window; parts beyond the slide boundary count as glass.
    """
    mask, dimensions = tissue.mask, tissue.dimensions
    per_x, per_y = dimensions[0] / mask.shape[1], dimensions[1] / mask.shape[0]
    # The raster extends beyond the slide, so that the part of the window there is included.
    columns = np.arange(
        math.floor((hotspot.x - hotspot.half_width) / per_x), math.ceil((hotspot.x + hotspot.half_width) / per_x) + 1
    )
    rows = np.arange(
        math.floor((hotspot.y - hotspot.half_height) / per_y), math.ceil((hotspot.y + hotspot.half_height) / per_y) + 1
    )
    across = np.abs((columns + 0.5) * per_x - hotspot.x)[None, :] / hotspot.half_width
    down = np.abs((rows + 0.5) * per_y - hotspot.y)[:, None] / hotspot.half_height
    inside = np.hypot(across, down) <= 1 if hotspot.window.shape == "circle" else np.maximum(across, down) <= 1
    if not inside.any():
        # The window is smaller than a pixel of the mask.
        inside = np.maximum(across, down) == np.maximum(across, down).min()
    seen = np.zeros(inside.shape, bool)
    on_slide = np.ix_((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    seen[on_slide] = mask[
        np.ix_(
            rows[(rows >= 0) & (rows < mask.shape[0])],
            columns[(columns >= 0) & (columns < mask.shape[1])],
        )
    ]
    return float(seen[inside].mean())


def bell_counts(
    points: NDArray[np.floating], mpp: float, convention: FieldConvention = MODERN_FIELD
) -> tuple[HotspotCount, ...]:
    """Count as in Bell et al. for uterine smooth muscle tumours: the highest of four sets of ten fields.

    Parameters
    ----------
    points, mpp
        As in :func:`count_mitoses`.
    convention
        Definition of a field; each set is one circle of the total area of its fields.

    Returns
    -------
    tuple of HotspotCount
        Up to four sets, by decreasing count; report the first.  At the microscope, the four sets are chosen in the
        most active area (Bell, Kempson & Hendrickson 1994, Am J Surg Pathol 18:535); here the search is exhaustive
        and no mitosis belongs to two sets, so the first is at least as high as by eye.
    """
    window = HotspotWindow(area_mm2=convention.area_mm2)
    return tuple(HotspotCount.of(h, (convention,)) for h in find_hotspots(points, mpp, window, most=4))
