import subprocess
import sys

import pytest

pytest.importorskip("openvino")

from pathology.inference.engines.openvino import OpenVINOEngine, computes_bf16, converted_model
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
            pytest.skip("this CPU does not support bf16")
        return OpenVINOEngine(random_bundle, precision="bf16", threads=2)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


def test_a_model_is_converted_once(random_bundle):
    first = converted_model(random_bundle)
    stamp = first.stat().st_mtime_ns
    assert converted_model(random_bundle) == first
    assert first.stat().st_mtime_ns == stamp


FIRST_USE = """
import faulthandler, sys, threading
import numpy as np
from pathology import load_bundle
from pathology.inference.engines.openvino import OpenVINOEngine
faulthandler.dump_traceback_later(60, exit=True)
bundle = load_bundle(sys.argv[1])
sys.setswitchinterval(1e-6)
engine = OpenVINOEngine(bundle, threads=8)
patches = np.zeros((64, bundle.card.patch, bundle.card.patch, 3), np.uint8)
assert np.isfinite(engine.predict(patches)).all()
"""


def test_many_threads_at_first_use_do_not_wait_for_ever(random_bundle):
    """Without a first use in one thread alone, about one process in six hung."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, str(random_bundle.directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
