import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.testing.random_bundle import write_random_bundle


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory):
    return load_bundle(write_random_bundle(tmp_path_factory.mktemp("models") / "random-densenet"))
