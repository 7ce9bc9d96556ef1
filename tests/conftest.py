"""Fixtures shared by all tests."""

import os
import shutil
from pathlib import Path

import numpy as np
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


@pytest.fixture(scope="session")
def write_keras_weights():
    """A function that writes random weights of MethylationToActivity as Keras does, and returns the file."""
    h5py = pytest.importorskip("h5py")
    shapes = {
        "conv2d_1": (1, 3, 3, 8),
        "conv2d_2": (1, 3, 8, 8),
        "conv2d_3": (1, 3, 8, 8),
        "dense_1": (320, 64),
        "dense_2": (64, 1),
    }

    def write(path, seed=0):
        rng = np.random.default_rng(seed)
        with h5py.File(path, "w") as file:
            for name, shape in shapes.items():
                group = file.create_group(f"model_weights/{name}/{name}")
                group["kernel:0"] = rng.normal(0, 0.3, shape).astype(np.float32)
                group["bias:0"] = rng.normal(0, 0.1, shape[-1]).astype(np.float32)
        return path

    return write


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium on the path")
    with playwright.sync_playwright() as running:
        # Tests often run as root or in a container, where Chromium's sandbox cannot.
        started = running.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()
