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
    """Resample a volume to a grid by linear interpolation.

    Before downsampling, the image is smoothed by a Gaussian along each downsampled axis, with
    sigma = spacing ratio / 2 voxels if the ratio exceeds 1, to avoid
    aliasing.

    Parameters
    ----------
    volume
        Volume to resample.
    onto
        Target grid; may have another orientation.
    outside
        Value outside the volume; ``None``: the minimum of the volume (air).
    smooth
        Whether to smooth before downsampling.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> volume, _ = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> resample(volume, Geometry((16, 16, 16), (2.0, 2.0, 2.0))).array.shape
    (16, 16, 16)
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
    """Correct the MRI bias field with N4 (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908).

    Parameters
    ----------
    volume
        An MR image with values >= 0.
    within
        Region in which the field is estimated; ``None``: Otsu foreground.
    shrink
        Downsampling factor for estimating the field, which is smooth; it is applied at full resolution.
    iterations
        Maximum number of iterations per level.

    Raises
    ------
    UsageError
        If the image is not an MR image or has negative values.
    """
    if volume.modality != "MR":
        raise UsageError(f"bias correction is for MR images, got {volume.modality}")
    if volume.array.min() < 0:
        raise UsageError("bias correction requires non-negative values", remedy="Correct before normalising")
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
    """Settings of registration."""

    deformable: bool = False
    """``False``: rigid only.  ``True``: rigid, then B-spline deformation."""
    grid_mm: Annotated[float, Field(gt=0)] = 60.0
    """Spacing of the B-spline control points, in mm; limits the scale of deformations."""
    bins: Annotated[int, Field(ge=8)] = 32
    """Bins of the joint histogram of Mattes' mutual information."""
    sampling: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Fraction of voxels sampled in each step."""
    iterations: Annotated[int, Field(ge=1)] = 100
    """Maximum number of iterations per level."""
    seed: int = 0
    """Seed of the sampling."""


@dataclass(frozen=True, slots=True, eq=False)
class Registration:
    """Result of a registration.

    Attributes
    ----------
    fixed
        Grid of the fixed image.
    metric_before, metric_after
        Mattes' mutual information, negative (lower is better), before and after.
    rotation_degrees
        Rotation angle of the rigid transform.
    shift_mm
        Translation of the rigid transform at the centre of the volume.
    """

    fixed: Geometry
    metric_before: float
    metric_after: float
    rotation_degrees: float
    shift_mm: float
    _transform: Any

    def apply(self, volume: Volume, *, outside: float | None = None) -> Volume:
        """Resample a volume from the moving space to the grid of the fixed image."""
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
    """Register one volume to another of the same patient, of any modality.

    The metric of the result is never worse than that of the initial alignment.

    Mattes' mutual information on three levels (4, 2, 1 voxels; smoothing 4, 2, 0 mm); first a rigid transform from
    the scanner positions, then, if requested, a B-spline deformation.

    Parameters
    ----------
    fixed
        Fixed image.
    moving
        Moving image.
    settings
        Default: rigid.
    progress
        Called with the metric after each step.

    Raises
    ------
    StudyError
        If the volumes do not overlap.

    Examples
    --------
    >>> from pathology.radiology.io import Geometry
    >>> from pathology.testing import tumour_phantom
    >>> fixed, _ = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0)))
    >>> moved, _ = tumour_phantom(Geometry((32, 32, 16), (1.0, 1.0, 2.0), origin=(3.0, 0.0, 0.0)))
    >>> type(register(fixed, moved)).__name__
    'Registration'
    """
    chosen = settings or RegistrationSettings()
    still, mobile = (to_image(_clipped(v), v.geometry) for v in (fixed, moving))
    rigid = sitk.Euler3DTransform()
    rigid.SetCenter(still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in fixed.geometry.size]))

    def run(mobile: Any, transform: Any, optimiser: Callable[[Any], None]) -> Any:  # noqa: ANN401
        method = sitk.ImageRegistrationMethod()
        # Several threads sum in varying order, so that repeated runs would differ in the last digits.
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
                f"'{moving.name}' cannot be registered to '{fixed.name}': too little overlap",
                remedy="Check that both belong to the same examination",
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
        # The optimiser diverged, as it may with a small field of view: keep the scanner positions.
        solid = rigid
    transform: Any = solid
    if chosen.deformable:
        mesh = [
            max(1, round(n * s / chosen.grid_mm))
            for n, s in zip(fixed.geometry.size, fixed.geometry.spacing, strict=True)
        ]
        aligned = sitk.Resample(mobile, still, solid, sitk.sitkLinear, float(_clipped(moving).min()))
        bent = run(aligned, sitk.BSplineTransformInitializer(still, mesh), quasi_newton)
        # A point of the fixed image is first deformed, then moved rigidly (the last added acts first).
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
    """Clip extreme values, which would put most tissue into one histogram bin (soft tissue in CT)."""
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
        raise StudyError(
            "the two images do not overlap", remedy="Check that both belong to the same examination"
        ) from error
