"""Phantoms shared by the radiology tests."""

import shutil
import subprocess

import numpy as np
import pytest

from pathology.radiology.io.geometry import Geometry
from pathology.testing.radiology_phantoms import tumour_phantom


def oblique_direction() -> tuple[float, ...]:
    """A turned, right-handed set of axes."""
    a, b = np.radians(20), np.radians(-12)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return tuple((turn @ tilt).ravel())


@pytest.fixture
def axial() -> Geometry:
    return Geometry(size=(40, 36, 14), spacing=(1.5, 1.25, 3.27), origin=(-31.0, 22.5, 100.0))


@pytest.fixture
def oblique() -> Geometry:
    return Geometry(
        size=(40, 36, 14), spacing=(1.5, 1.25, 3.27), origin=(-31.0, 22.5, 100.0), direction=oblique_direction()
    )


@pytest.fixture
def mr(axial):
    return tumour_phantom(axial, seed=1)


@pytest.fixture
def ct(axial):
    return tumour_phantom(axial, seed=2, modality="CT")


@pytest.fixture
def check_conformance():
    """Fails where Debian's dicom3tools find an error in a DICOM file; skips where they are not installed."""

    def check(path):
        program = shutil.which("dciodvfy")
        if program is None:
            pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
        result = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
        errors = [line for line in (result.stdout + result.stderr).splitlines() if line.startswith("Error")]
        assert not errors, errors

    return check
