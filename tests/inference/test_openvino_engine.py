import pytest

pytest.importorskip("openvino")

from pathology.inference.openvino_engine import OpenVINOEngine, computes_bf16, converted_model
from pathology.testing.engine_suite import EngineSuite
from pathology.testing.random_bundle import reference_probabilities


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PATHOLOGY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


class TestFp32(EngineSuite):
    @pytest.fixture
    def engine(self, random_bundle):
        return OpenVINOEngine(random_bundle, threads=2)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


class TestBf16(EngineSuite):
    tolerance = 0.05

    @pytest.fixture
    def engine(self, random_bundle):
        if not computes_bf16():
            pytest.skip("this processor has no bf16 arithmetic")
        return OpenVINOEngine(random_bundle, precision="bf16", threads=2)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


def test_a_model_is_converted_once(random_bundle):
    first = converted_model(random_bundle)
    stamp = first.stat().st_mtime_ns
    assert converted_model(random_bundle) == first
    assert first.stat().st_mtime_ns == stamp
