import pytest

from pathology.errors import UsageError
from pathology.inference.torch_engine import TorchEngine
from pathology.testing.engine_suite import EngineSuite
from pathology.testing.random_bundle import reference_probabilities


class TestTorchEngine(EngineSuite):
    @pytest.fixture
    def engine(self, random_bundle):
        return TorchEngine(random_bundle, device="cpu", batch_size=4)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


def test_a_device_that_is_not_there_is_refused(random_bundle, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        TorchEngine(random_bundle, device="cuda")
