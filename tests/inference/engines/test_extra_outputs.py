"""What engines give beside probabilities: the out-of-distribution score and features, the same from both."""

import numpy as np
import pytest

from pathology.bundle.catalogue import load_bundle
from pathology.bundle.verify import verify_bundle
from pathology.errors import BundleError, UsageError, WeightsHashError
from pathology.inference.engines.select import make_engine
from pathology.testing.random_bundle import (
    add_random_trust,
    reference_features,
    reference_probabilities,
    write_random_bundle,
)
from pathology.testing.random_detector import write_random_detector

KINDS = ["torch", pytest.param("openvino", marks=pytest.mark.filterwarnings("ignore::DeprecationWarning"))]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = write_random_bundle(tmp_path_factory.mktemp("models") / "trusted")
    add_random_trust(folder, limit=2.0, threshold=0.6, aggregators=("attention",))
    return load_bundle(folder)


@pytest.fixture(scope="module")
def patches():
    random = np.random.default_rng(3)
    return np.clip(random.integers(60, 240, (9, 1, 1, 3)) + random.normal(0, 25, (9, 64, 64, 3)), 0, 255).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(cache))  # converted once for all tests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_score_and_features_are_the_networks(bundle, patches, kind, precision):
    if kind == "openvino":
        pytest.importorskip("openvino")
    engine = make_engine(bundle, kind=kind, device="cpu", precision=precision, threads=1, features=True)
    got = engine.predict(patches)
    engine.close()
    assert engine.extras == 1 + 1024
    assert got.shape == (9, 3 + 1 + 1024)
    features = reference_features(bundle, patches)
    near = 1e-4 if precision == "exact" else 0.02
    np.testing.assert_allclose(got[:, :3], reference_probabilities(bundle, patches), atol=near)
    np.testing.assert_allclose(got[:, 4:], features, atol=10 * near * np.abs(features).max())
    np.testing.assert_allclose(got[:, 3], bundle.domain().scores(features), rtol=1e-3 if precision == "exact" else 0.1)
    # The score follows from the features given beside it: low precision may shift both, but not apart.
    np.testing.assert_allclose(got[:, 3], bundle.domain().scores(got[:, 4:]), rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_without_features_only_the_score_is_added(bundle, patches, kind):
    if kind == "openvino":
        pytest.importorskip("openvino")
    engine = make_engine(bundle, kind=kind, device="cpu", precision="exact", threads=1)
    got = engine.predict(patches)
    engine.close()
    assert got.shape == (9, 4)
    np.testing.assert_allclose(got[:, :3].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_score_of_the_first_layers(patches, tmp_path, kind, precision):
    if kind == "openvino":
        pytest.importorskip("openvino")
    folder = write_random_bundle(tmp_path / "stem")
    add_random_trust(folder, limit=2.0, layer="stem")
    bundle = load_bundle(folder)
    engine = make_engine(bundle, kind=kind, device="cpu", precision=precision, threads=1)
    got = engine.predict(patches)
    engine.close()
    expected = bundle.domain().scores(reference_features(bundle, patches, stem=True))
    assert bundle.domain().centres.shape[1] == 128
    np.testing.assert_allclose(got[:, 3], expected, rtol=2e-3 if precision == "exact" else 0.1)


def test_a_detector_has_no_features(tmp_path):
    bundle = load_bundle(write_random_detector(tmp_path / "detector"))
    with pytest.raises(UsageError, match="no features"):
        make_engine(bundle, kind="torch", device="cpu", precision="exact", features=True)


def test_changed_files_are_refused(tmp_path):
    folder = write_random_bundle(tmp_path / "changed")
    add_random_trust(folder, limit=2.0, aggregators=("transformer",))
    assert verify_bundle(folder)[-1].error is None
    domain = folder / "domain.safetensors"
    domain.write_bytes(domain.read_bytes()[:-4] + b"abcd")
    with pytest.raises(WeightsHashError):
        load_bundle(folder).domain()
    assert isinstance(verify_bundle(folder)[-1].error, WeightsHashError)
    domain.unlink()
    with pytest.raises(BundleError, match=r"no domain\.safetensors"):
        load_bundle(folder).domain()
    with pytest.raises(BundleError, match="Choose one of: mean, transformer"):
        load_bundle(folder).aggregator("attention")
