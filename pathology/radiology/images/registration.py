"""Resampling, bias correction and registration through SimpleITK.

Every function is deterministic: SimpleITK runs on a set number of threads and metrics are sampled on a regular grid or
with a fixed seed.
"""

# mypy: disable-error-code="no-untyped-call"
# SimpleITK is not typed.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathology.errors import UsageError
from pathology.radiology.io.errors import StudyError
from pathology.radiology.io.geometry import Geometry
from pathology.radiology.io.itk import sitk, to_image
from pathology.radiology.io.volume import Mask, Volume
from pathology.settings import Record

__all__ = ["Registration", "RegistrationSettings", "correct_bias", "register", "resample"]


def resample(
    volume: Volume,
    onto: Geometry,
    *,
    outside: float | None = None,
    smooth: bool = True,
) -> Volume:
    """Resample a volume onto a grid, linearly.

    Before a coarser grid is taken the image is smoothed by a Gaussian along each axis that shrinks, with
    sigma = spacing ratio / 2 voxels where the ratio exceeds 1, so that fine structure is averaged and not
    skipped (aliasing).

    Parameters
    ----------
    volume
        What to resample.
    onto
        The wanted grid; another orientation is allowed.
    outside
        Value where the volume has none; ``None`` takes the volume's minimum (air).
    smooth
        Whether to smooth before a coarser grid is taken.
    """
    image = to_image(volume.array, volume.geometry)
    if smooth:
        # The extent of a wanted voxel along each axis of the given volume.
        wanted = np.abs(volume.geometry.axes.T @ onto.axes) @ np.asarray(onto.spacing)
        ratio = wanted / np.asarray(volume.geometry.spacing)
        sigma = [float(r * s / 2) if r > 1.001 else 0.0 for r, s in zip(ratio, volume.geometry.spacing, strict=True)]
        if any(sigma):
            # ITK's recursive filter needs a positive sigma and four voxels; axes that do not shrink are left alone.
            for axis, value in enumerate(sigma):
                if value > 0 and volume.geometry.size[axis] >= 4:
                    image = sitk.RecursiveGaussian(
                        image, value, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis
                    )
    fill = float(volume.array.min()) if outside is None else outside
    result = sitk.Resample(
        image,
        list(onto.size),
        sitk.Transform(),
        sitk.sitkLinear,
        list(onto.origin),
        list(onto.spacing),
        list(onto.direction),
        fill,
    )
    return replace(volume, array=sitk.GetArrayFromImage(result).astype(np.float32), geometry=onto)


def correct_bias(
    volume: Volume, *, within: Mask | None = None, shrink: int = 2, iterations: tuple[int, ...] = (50, 50, 30)
) -> Volume:
    """Remove the slow brightness drift of MRI by N4 (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908).

    Parameters
    ----------
    volume
        An MR image with values >= 0.
    within
        Where the field is estimated; ``None`` takes Otsu's foreground.
    shrink
        The field is smooth, so it is estimated on an image thinned by this factor, and applied to the full one.
    iterations
        Greatest number of iterations on each level.

    Raises
    ------
    UsageError
        If the image is no MR image or has negative values.
    """
    if volume.modality != "MR":
        raise UsageError(f"bias correction is for MR images; this is {volume.modality}")
    if volume.array.min() < 0:
        raise UsageError(
            "bias correction works on the logarithm; the image has negative values", remedy="Correct before normalising"
        )
    image = to_image(volume.array, volume.geometry)
    mask = (
        sitk.OtsuThreshold(image, 0, 1, 128)
        if within is None
        else to_image(within.array.astype(np.uint8), within.geometry)
    )
    factors = [min(shrink, max(1, n // 4)) for n in volume.geometry.size]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetNumberOfThreads(1)
    corrector.SetMaximumNumberOfIterations(list(iterations))
    corrector.Execute(sitk.Shrink(image, factors), sitk.Shrink(mask, factors))
    field = np.exp(sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)))
    return volume.with_array(volume.array / np.maximum(field, 1e-6))


class RegistrationSettings(Record):
    """How two volumes of one patient are brought together."""

    deformable: bool = False
    """``False``: turn and shift only.  ``True``: a B-spline deformation after that."""
    grid_mm: Annotated[float, Field(gt=0)] = 60.0
    """Distance of the B-spline's control points, in mm: what is smaller than this cannot be bent."""
    bins: Annotated[int, Field(ge=8)] = 32
    """Bins of the joint histogram of Mattes' mutual information."""
    sampling: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of voxels looked at in each step."""
    iterations: Annotated[int, Field(ge=1)] = 100
    """Greatest number of steps on each level."""
    seed: int = 0
    """Seed of the sampling."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """A found alignment.

    Attributes
    ----------
    fixed
        The grid of the resting image.
    metric_before, metric_after
        Mattes' mutual information, negative (lower is better), before and after.
    rotation_degrees
        Angle of the rigid part.
    shift_mm
        Length of the rigid part's shift at the volume's centre.
    """

    fixed: Geometry
    metric_before: float
    metric_after: float
    rotation_degrees: float
    shift_mm: float
    _transform: Any

    def apply(self, volume: Volume, *, outside: float | None = None) -> Volume:
        """Bring a volume in the moving image's place onto the resting image's grid."""
        return replace(volume, array=self._warp(volume.array, volume.geometry, outside), geometry=self.fixed)

    def _warp(self, array: NDArray[Any], geometry: Geometry, outside: float | None) -> NDArray[np.float32]:
        fill = float(array.min()) if outside is None else outside
        result = sitk.Resample(
            to_image(array, geometry),
            list(self.fixed.size),
            self._transform,
            sitk.sitkLinear,
            list(self.fixed.origin),
            list(self.fixed.spacing),
            list(self.fixed.direction),
            fill,
        )
        warped: NDArray[np.float32] = sitk.GetArrayFromImage(result).astype(np.float32)
        return warped


def register(
    fixed: Volume,
    moving: Volume,
    settings: RegistrationSettings | None = None,
    *,
    progress: Callable[[float], None] | None = None,
) -> Registration:
    """Find the alignment of one volume with another of the same patient, of any modality.

    The result is never worse, by its own measure, than what it started from.

    Mattes' mutual information on three levels (4, 2, 1 voxels; smoothing 4, 2, 0 mm); first turn and shift from
    the images' own positions, then, if wanted, a B-spline deformation.

    Parameters
    ----------
    fixed
        The image that stays.
    moving
        The image that is brought onto it.
    settings
        Defaults: rigid.
    progress
        Called with the metric after each step.

    Raises
    ------
    StudyError
        If the volumes do not overlap.
    """
    chosen = settings or RegistrationSettings()
    still, mobile = (to_image(_clipped(v), v.geometry) for v in (fixed, moving))
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.geometry.size]))

    def run(mobile: Any, transform: Any, optimiser: Callable[[Any], None]) -> Any:  # noqa: ANN401
        method = sitk.ImageRegistrationMethod()
        # More than one thread sums in a varying order, and a repeated run would differ in its last digits.
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(chosen.bins)
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(chosen.sampling, chosen.seed + 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([4, 2, 0])
        method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        optimiser(method)
        method.SetInitialTransform(transform, inPlace=False)
        if progress is not None:
            method.AddCommand(sitk.sitkIterationEvent, lambda: progress(float(method.GetMetricValue())))
        try:
            return method.Execute(still, mobile)
        except RuntimeError as error:
            raise StudyError(
                f"'{moving.name}' cannot be aligned with '{fixed.name}': they hardly overlap",
                remedy="Check that both are of one examination",
            ) from error

    def gradient(method: Any) -> None:  # noqa: ANN401
        method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, chosen.iterations, relaxationFactor=0.6)
        method.SetOptimizerScalesFromPhysicalShift()

    def quasi_newton(method: Any) -> None:  # noqa: ANN401
        method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=chosen.iterations)

    before = _mutual_information(still, mobile, sitk.Transform(3, sitk.sitkIdentity), chosen)
    found = run(mobile, rigid, gradient)
    solid = sitk.Euler3DTransform(found.GetNthTransform(0) if isinstance(found, sitk.CompositeTransform) else found)
    if _mutual_information(still, mobile, solid, chosen) > before:
        # The search went astray, as it may where little is in view: the images' own positions are better.
        solid = rigid
    transform: Any = solid
    if chosen.deformable:
        mesh = [
            max(1, round(n * s / chosen.grid_mm))
            for n, s in zip(fixed.geometry.size, fixed.geometry.spacing, strict=True)
        ]
        aligned = sitk.Resample(mobile, still, solid, sitk.sitkLinear, float(_clipped(moving).min()))
        bent = run(aligned, sitk.BSplineTransformInitializer(still, mesh), quasi_newton)
        # A point of the resting image is first bent, then turned and shifted (the last added acts first).
        transform = sitk.CompositeTransform(3)
        transform.AddTransform(solid)
        transform.AddTransform(bent)
        if _mutual_information(still, mobile, transform, chosen) > _mutual_information(still, mobile, solid, chosen):
            transform = solid
    after = _mutual_information(still, mobile, transform, chosen)
    matrix = np.asarray(solid.GetMatrix()).reshape(3, 3)
    angle = float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))))
    return Registration(fixed.geometry, before, after, angle, float(np.linalg.norm(solid.GetTranslation())), transform)


def _clipped(volume: Volume) -> NDArray[np.float32]:
    """Cut off extreme values, which would leave most tissue in one bin of the histogram: soft tissue in CT."""
    low, high = (-200.0, 300.0) if volume.unit == "HU" else (float(v) for v in np.percentile(volume.array, [0.5, 99.5]))
    clipped: NDArray[np.float32] = np.clip(volume.array, low, high)
    return clipped


def _mutual_information(still: Any, mobile: Any, transform: Any, settings: RegistrationSettings) -> float:  # noqa: ANN401
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(settings.bins)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetInitialTransform(transform)
    try:
        return float(method.MetricEvaluate(still, mobile))
    except RuntimeError as error:
        raise StudyError("the two images do not overlap", remedy="Check that both are of one examination") from error
