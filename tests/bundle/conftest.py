"""A small catalogue of its own for each test."""

from pathlib import Path

import pytest

from pathology.testing.random_bundle import write_random_bundle


@pytest.fixture(scope="session")
def pristine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle that no test changes."""
    return write_random_bundle(tmp_path_factory.mktemp("pristine") / "little-model", patch=32)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's model folder: empty, and first on the search path."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setenv("PATHOLOGY_MODELS", str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return folder


@pytest.fixture
def bundle_folder(models: Path, pristine_bundle: Path) -> Path:
    """A copy of the whole bundle in the user's folder."""
    target = models / pristine_bundle.name
    target.mkdir()
    for file in pristine_bundle.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target
