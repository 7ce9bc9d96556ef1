"""Standardised uptake values from PET headers.

``SUV = activity concentration [Bq/ml] x body weight [g] / dose at the time the image is corrected to [Bq]``,
taking 1 ml of tissue as 1 g.  Follows the vendor-neutral pseudo-code of the Quantitative Imaging Biomarkers
Alliance (QIBA FDG-PET/CT profile, "SUVbw computation"); its rules for the reference time are in
:func:`_seconds_since_injection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from os import PathLike
from typing import TYPE_CHECKING, Any

from pathology.radiology.io.errors import MissingDoseError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["suv_factor"]

_REMEDY = "Export the original PET series, not a workstation copy without these fields, or use NIfTI images in SUV"


def suv_factor(slices: Sequence[Dataset], *, where: str | PathLike[str] | None = None) -> float:
    """Return the factor that turns rescaled pixel values into SUV (body weight).

    Parameters
    ----------
    slices
        All slices of the series.
    where
        Folder to name in errors.

    Raises
    ------
    MissingDoseError
        If dose, weight, half-life or injection time is missing or implausible, the image is not corrected for
        attenuation and decay, or the units are unknown.
    """
    first = slices[0]

    def refuse(what: str) -> MissingDoseError:
        return MissingDoseError(f"SUV cannot be computed: {what}", where=where, remedy=_REMEDY)

    units = str(first.get("Units", ""))
    if units == "GML":  # the scanner has written SUV already
        return 1.0
    if units == "CNTS":
        factor = _positive(_private(first, 0x7053, 0x1000))  # Philips: SUV scale factor
        if factor is not None:
            return factor
        raise refuse("counts without a scale factor")
    if units != "BQML":
        raise refuse(f"the units are '{units or 'not stated'}', not Bq/ml")
    corrections = {str(c) for c in _several(first.get("CorrectedImage"))}
    if not {"ATTN", "DECY"} <= corrections:
        raise refuse(f"the image is not corrected for {' and '.join(sorted({'ATTN', 'DECY'} - corrections))}")
    sequence = first.get("RadiopharmaceuticalInformationSequence")
    if not sequence:
        raise refuse("the radiopharmaceutical is not described")
    tracer = sequence[0]
    dose = _positive(tracer.get("RadionuclideTotalDose"))
    half_life = _positive(tracer.get("RadionuclideHalfLife"))
    weight = _positive(first.get("PatientWeight"))
    if dose is None:
        raise refuse("the injected dose is missing")
    if half_life is None:
        raise refuse("the half-life of the radionuclide is missing")
    if weight is None:
        raise refuse("the patient's weight is missing")
    if weight > 1000:
        raise refuse(f"a weight of {weight:g} kg is implausible")
    decay = str(first.get("DecayCorrection", ""))
    if decay == "ADMIN":
        remaining = dose
    elif decay == "START":
        elapsed = _seconds_since_injection(slices, tracer)
        if elapsed is None:
            raise refuse("the time of injection or of the scan is missing")
        if not 0 <= elapsed <= 10 * half_life:
            raise refuse(f"an uptake time of {elapsed / 60:.0f} min is implausible")
        remaining = dose * 2 ** (-elapsed / half_life)
    else:
        raise refuse(f"the decay correction is '{decay or 'not stated'}'")
    return weight * 1000 / remaining


def _several(value: Any) -> list[Any]:  # noqa: ANN401  # a DICOM value of any kind
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _positive(value: Any) -> float | None:  # noqa: ANN401
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number > 0 else None


def _private(dataset: Dataset, group: int, element: int) -> Any:  # noqa: ANN401
    return dataset[group, element].value if (group, element) in dataset else None


def _moment(date: Any, time: Any) -> datetime | None:  # noqa: ANN401
    if not date or not time:
        return None
    digits = str(time).split(".")[0].ljust(6, "0")
    try:
        return datetime.strptime(f"{date}{digits}", "%Y%m%d%H%M%S")  # noqa: DTZ007  # DICOM times carry no zone; only differences are used
    except ValueError:
        return None


def _seconds_since_injection(slices: Sequence[Dataset], tracer: Dataset) -> float | None:
    """Seconds from injection to the time the image is decay-corrected to.

    That time is the series' start unless that lies after the earliest acquisition: then the series was made
    later on a workstation, and the start is GE's own field or the earliest acquisition.
    """
    first = slices[0]
    series = _moment(first.get("SeriesDate"), first.get("SeriesTime"))
    acquired = [m for d in slices if (m := _moment(d.get("AcquisitionDate"), d.get("AcquisitionTime"))) is not None]
    scan = series
    if acquired and (series is None or series > min(acquired)):
        ge = _private(first, 0x0009, 0x100D)  # GE: start of the scan
        stamp = str(ge.decode() if isinstance(ge, bytes) else ge or "").strip()
        scan = (_moment(stamp[:8], stamp[8:]) if stamp else None) or min(acquired)
    if scan is None:
        return None
    stamp = str(tracer.get("RadiopharmaceuticalStartDateTime", "") or "")
    injected = _moment(stamp[:8], stamp[8:].split("+")[0].split("-")[0]) if stamp else None
    if injected is None:
        injected = _moment(scan.strftime("%Y%m%d"), tracer.get("RadiopharmaceuticalStartTime"))
        # A time without a date that would lie after the scan belongs to the day before.
        if injected is not None and injected > scan:
            injected -= timedelta(days=1)
    return None if injected is None else (scan - injected).total_seconds()
