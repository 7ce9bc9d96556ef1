"""The CUDA path, where there is a device."""

import numpy as np
import pytest
import torch

from pathology.inference.engines.recheck import RecheckTies
from pathology.inference.engines.select import make_engine
from pathology.inference.engines.torch import TorchEngine
from pathology.testing.engine_suite import EngineSuite
from pathology.testing.random_bundle import reference_probabilities

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class TestCudaFp32(EngineSuite):
    tolerance = 1e-3

    @pytest.fixture
    def engine(self, random_bundle):
        return TorchEngine(random_bundle, device="cuda", batch_size=16)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


class TestCudaFp16(EngineSuite):
    tolerance = 0.02

    @pytest.fixture
    def engine(self, random_bundle):
        return TorchEngine(random_bundle, device="cuda", precision="fp16", batch_size=16)

    @pytest.fixture
    def expected(self, random_bundle, patches):
        return reference_probabilities(random_bundle, patches)


def test_what_is_made_for_a_gpu(random_bundle):
    engine = make_engine(random_bundle, kind="torch", device="cuda")
    assert isinstance(engine, RecheckTies)
    assert engine.precision == "fp16"
    patches = np.random.default_rng(0).integers(0, 255, (300, 64, 64, 3)).astype(np.uint8)
    exact = make_engine(random_bundle, kind="torch", device="cuda", precision="exact").predict(patches)
    assert (engine.predict(patches).argmax(1) == exact.argmax(1)).mean() >= 0.999
