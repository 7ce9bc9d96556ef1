import numpy as np
import pytest

from pathology.errors import UsageError
from pathology.inference.engines.recheck import RecheckTies
from pathology.inference.engines.torch import TorchEngine
from pathology.testing.engine_suite import EngineSuite
from pathology.testing.random_bundle import reference_probabilities


class TestTorchEngine(EngineSuite):
    @pytest.fixture
    def engine(self, random_bundle):
        return TorchEngine(random_bundle, device="cpu", batch_size=4)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


class TestTorchBf16(EngineSuite):
    tolerance = 0.05

    @pytest.fixture
    def engine(self, random_bundle):
        return TorchEngine(random_bundle, device="cpu", precision="bf16", batch_size=4)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


class TestNearTies(EngineSuite):
    tolerance = 0.05

    @pytest.fixture
    def engine(self, random_bundle):
        fast = TorchEngine(random_bundle, device="cpu", precision="bf16", batch_size=4)
        return RecheckTies(fast, TorchEngine(random_bundle, device="cpu", batch_size=4), margin=0.05)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)

    def test_near_ties_are_exact(self, engine, patches, expected, random_bundle):
        got = engine.predict(patches)
        fast = TorchEngine(random_bundle, device="cpu", precision="bf16", batch_size=4).predict(patches)
        top = np.sort(fast, axis=1)
        near = top[:, -1] - top[:, -2] < 0.05
        assert engine.rescored == near.sum()
        np.testing.assert_array_equal(got[~near], fast[~near])
        np.testing.assert_allclose(got[near], expected[near], atol=1e-4)


def test_a_device_that_is_not_there_is_refused(random_bundle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        TorchEngine(random_bundle, device="cuda")
