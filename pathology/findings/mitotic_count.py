"""Mitotic counts in units that mean the same everywhere.

"Per ten high-power fields" is no unit: a field of an older microscope measures 0.17 mm², a modern one 0.24 mm².
A count is therefore first given per mm², with its interval, and then in the field convention that a grading system
was written for.
"""

from __future__ import annotations

import math
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
    "bell_counts",
    "count_mitoses",
    "tissue_share",
]


class FieldConvention(Record):
    """What "ten high-power fields" means to somebody."""

    name: str
    """For the report."""
    field_mm2: Annotated[float, Field(gt=0)]
    """Area of one field in mm²."""
    fields: Annotated[int, Field(ge=1)] = 10
    """Number of fields counted together."""

    @property
    def area_mm2(self) -> float:
        """Area of all fields in mm²."""
        return self.field_mm2 * self.fields

    @classmethod
    def of_microscope(cls, field_number: float, objective: float = 40, *, tube_factor: float = 1) -> FieldConvention:
        """Describe ten fields of a given microscope.

        Parameters
        ----------
        field_number
            Diameter in mm of the eyepiece's field stop, engraved on it (18 to 26.5).
        objective
            Magnification of the objective.
        tube_factor
            Magnification between objective and eyepiece, 1 on most stands.

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
"""The field for which the FNCLCC cut-offs hold: ten fields of 0.1734 mm² (WHO classification, as cited by
Guillou & Coindre and by the 2013 and 2020 editions)."""

MODERN_FIELD = FieldConvention(name="modern 40x, FN 22, 0.237 mm² fields", field_mm2=0.237)
"""A 40x objective with field number 22: diameter 0.55 mm, ten fields 2.37 mm²."""


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
    """Count divided by area."""
    per_mm2_interval: tuple[float, float]
    """Exact 95 % Poisson interval of the density.  It describes the chance of a count, not the detector's errors,
    and holds for a window chosen beforehand; see :class:`MitoticCount` for what choosing the maximum adds."""
    per_fields: dict[str, float]
    """The density as a count per ten fields, by convention."""
    members: tuple[int, ...] = ()
    """Indices of the mitoses counted."""
    tissue_share: float | None = None
    """Share of the window that is tissue, 0 to 1; ``None`` where no map of the tissue was given.  A window that lies
    half on glass holds less tissue than its area says, and its density is too low by as much."""

    @classmethod
    def of(cls, hotspot: Hotspot, conventions: tuple[FieldConvention, ...]) -> HotspotCount:
        """Make the record of a hotspot."""
        area = hotspot.window.area_mm2
        density = hotspot.count / area
        interval = poisson_interval(hotspot.count)
        return cls(
            shape=hotspot.window.shape,
            area_mm2=area,
            x=hotspot.x,
            y=hotspot.y,
            half_width=hotspot.half_width,
            half_height=hotspot.half_height,
            count=hotspot.count,
            per_mm2=density,
            per_mm2_interval=(interval.low / area, interval.high / area),
            per_fields={c.name: c.from_density(density) for c in conventions},
            members=hotspot.members,
        )


class MitoticCount(Record):
    """The mitotic count of a slide."""

    total: int
    """Mitoses on the whole slide."""
    tissue_mm2: float | None
    """Tissue searched, in mm²; ``None`` where it is not known."""
    overall_per_mm2: float | None
    """Mean density over all tissue."""
    hotspot: HotspotCount | None
    """The window with the most mitoses; ``None`` where there is not one mitosis."""
    expected_maximum: float | None
    """What the maximum would be, in the mean, if the same number of mitoses were spread evenly."""
    expected_maximum_interval: tuple[float, float] | None
    """Its 2.5 % and 97.5 % quantiles."""
    bias: float | None
    """``expected_maximum`` divided by the count expected in a window chosen beforehand: the share of the hotspot's
    excess that choosing the maximum alone explains."""
    clustering_p_value: float | None
    """Chance of a maximum as high as this without any clustering."""


class SlideMitoses(MitoticCount):
    """The mitotic count of a slide as a detector left it, before anybody reviewed a detection."""

    threshold: float
    """Score from which on a detection counts."""
    candidates: int
    """All detections, whatever their score."""

    @property
    def hotspot_per_mm2(self) -> float | None:
        """Density in the hotspot; 0 where there is no mitosis, ``None`` where no hotspot was searched."""
        if self.hotspot is not None:
            return self.hotspot.per_mm2
        return 0.0 if self.total == 0 else None


def count_mitoses(
    points: NDArray[np.floating],
    mpp: float,
    *,
    window: HotspotWindow | None = None,
    tissue_mm2: float | None = None,
    conventions: tuple[FieldConvention, ...] = (FNCLCC_FIELD, MODERN_FIELD),
    simulations: int = 199,
    seed: int = 0,
) -> MitoticCount:
    """Count mitoses on a slide and in its hotspot.

    Parameters
    ----------
    points
        ``(N, 2)`` centres of mitoses in level-0 pixels, already restricted to tumour where a map of it is known.
    mpp
        Micrometres per level-0 pixel.
    window
        Shape and area of the hotspot; a circle of 1.734 mm² unless given.
    tissue_mm2
        Area searched; without it neither overall density nor the maximum's bias are given.
    conventions
        Fields to convert to.
    simulations, seed
        For the bias; see :func:`pathology.findings.hotspot.expected_maximum`.

    Raises
    ------
    UsageError
        If coordinates, scale or areas make no sense.

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
        raise UsageError(f"the tissue's area must be positive, got {tissue_mm2} mm²")
    found = find_hotspots(points, mpp, window, most=1)
    expected: ExpectedMaximum | None = None
    if tissue_mm2 is not None and found:
        expected = expected_maximum(
            len(points), tissue_mm2, window, observed=found[0].count, simulations=simulations, seed=seed
        )
    return MitoticCount(
        total=len(points),
        tissue_mm2=tissue_mm2,
        overall_per_mm2=None if tissue_mm2 is None else len(points) / tissue_mm2,
        hotspot=HotspotCount.of(found[0], conventions) if found else None,
        expected_maximum=expected.mean if expected else None,
        expected_maximum_interval=expected.interval if expected else None,
        bias=expected.bias if expected else None,
        clustering_p_value=expected.p_value if expected else None,
    )


def tissue_share(hotspot: HotspotCount, mask: NDArray[np.bool_], dimensions: tuple[int, int]) -> float:
    """Return the share of a hotspot's window that is tissue.

    Parameters
    ----------
    hotspot
        The window, in level-0 pixels.
    mask
        ``(rows, columns)`` bool over the whole slide, true on tissue.
    dimensions
        ``(width, height)`` of the slide in level-0 pixels.

    Returns
    -------
    float
        0 to 1, over mask pixels whose centre lies in the window; what hangs over the slide's edge is no tissue.
    """
    per_x, per_y = dimensions[0] / mask.shape[1], dimensions[1] / mask.shape[0]
    # The raster goes on beyond the slide, so that the part of the window there counts too.
    columns = np.arange(
        math.floor((hotspot.x - hotspot.half_width) / per_x), math.ceil((hotspot.x + hotspot.half_width) / per_x) + 1
    )
    rows = np.arange(
        math.floor((hotspot.y - hotspot.half_height) / per_y), math.ceil((hotspot.y + hotspot.half_height) / per_y) + 1
    )
    across = np.abs((columns + 0.5) * per_x - hotspot.x)[None, :] / hotspot.half_width
    down = np.abs((rows + 0.5) * per_y - hotspot.y)[:, None] / hotspot.half_height
    inside = np.hypot(across, down) <= 1 if hotspot.shape == "circle" else np.maximum(across, down) <= 1
    if not inside.any():
        # A window smaller than a pixel of the mask.
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
    """Count as Bell et al. do for uterine smooth muscle: four sets of ten fields, of which the highest counts.

    Parameters
    ----------
    points, mpp
        As in :func:`count_mitoses`.
    convention
        The fields; each set is one circle of their joint area.

    Returns
    -------
    tuple of HotspotCount
        Up to four sets, by falling count; the first is the one to report.  The microscopist takes the four sets
        in the most active area (Bell, Kempson & Hendrickson 1994, Am J Surg Pathol 18:535); here the search is
        exhaustive and no mitosis counts in two sets, so the first can only be as high or higher than by eye.
    """
    window = HotspotWindow(area_mm2=convention.area_mm2)
    return tuple(HotspotCount.of(h, (convention,)) for h in find_hotspots(points, mpp, window, most=4))
