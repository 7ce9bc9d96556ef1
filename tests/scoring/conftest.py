import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.testing.random_bundle import SMALL_NETWORK, write_random_bundle


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A bundle with small patches, so that few pixels make many of them."""
    return load_bundle(
        write_random_bundle(tmp_path_factory.mktemp("models") / "random-network", **SMALL_NETWORK)
    ).directory
