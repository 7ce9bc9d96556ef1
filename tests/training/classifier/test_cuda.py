"""Training on a GPU: low precision by torch's own means, and a state that goes on."""

import numpy as np
import pytest
import torch

from pathology.networks.registry import build_network
from pathology.training.classifier.fit import fit_slides
from pathology.training.classifier.predict import predict_slides
from pathology.training.classifier.recipe import SlideRecipe, Stage
from pathology.training.common.checkpoint import Checkpoint
from pathology.training.common.distributed import distributed_training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_a_gpu_trains_in_low_precision_and_goes_on(patches, tmp_path):
    recipe = SlideRecipe(
        architecture="densenet121-foersch",
        mpp=1.0,
        patch=32,
        batch=4,
        stages=(Stage(epochs=1, frozen=True, learning_rate=1e-3), Stage(epochs=3, learning_rate=1e-3)),
        augmentation="none",
    )
    rows = np.arange(4)
    with distributed_training() as ranks:
        assert ranks.device.type == "cuda"
        torch.manual_seed(0)
        checkpoint = Checkpoint(tmp_path, "one")
        fitted = fit_slides(
            build_network("densenet121-foersch", 2), patches, rows, rows, recipe, ranks=ranks, checkpoint=checkpoint
        )
        again = fit_slides(
            build_network("densenet121-foersch", 2), patches, rows, rows, recipe, ranks=ranks, checkpoint=checkpoint
        )
        assert fitted.precision in ("bf16", "fp16")
        assert fitted.history[-1].loss < fitted.history[0].loss
        assert again.history == fitted.history
        exact = predict_slides(fitted.network, patches, rows, recipe, device=ranks.device)
        low = predict_slides(fitted.network, patches, rows, recipe, device=ranks.device, low=torch.bfloat16)
        on_cpu = predict_slides(fitted.network.cpu(), patches, rows, recipe, device=torch.device("cpu"))
    for a, b, c in zip(exact, low, on_cpu, strict=True):
        np.testing.assert_allclose(a.probabilities(), c.probabilities(), atol=2e-3)
        np.testing.assert_allclose(a.probabilities(), b.probabilities(), atol=0.05)
