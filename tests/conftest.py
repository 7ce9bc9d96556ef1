"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, not about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real test data; tests that need it skip where it is not given."""
    value = os.environ.get("PATHOLOGY_TEST_DATA")
    if not value:
        pytest.skip("needs real data: set PATHOLOGY_TEST_DATA to the data folder")
    path = Path(value).resolve()
    if not path.is_dir():
        pytest.fail(f"PATHOLOGY_TEST_DATA is set to {path}, which is no folder")
    return path


@pytest.fixture(scope="session")
def cmu_slide(data_dir: Path) -> Path:
    """The real Aperio slide: H&E skin, 2220 x 2967 px, 0.499 µm/px."""
    return data_dir / "slides" / "CMU-1-Small-Region.svs"
