"""Aggregators learn from labels of slides alone, and find the patches that make the difference."""

import numpy as np
import pytest
import torch

from pathology.errors import UsageError
from pathology.networks.mil import build_aggregator
from pathology.training.common.aggregator import MilSettings, bag_probabilities, fit_aggregator


def slides(seed, count, shown=4, features=16):
    """Bags of noise in which a few patches say the class; the mean over patches hardly does."""
    random = np.random.default_rng(seed)
    bags, labels, where = [], [], []
    for number in range(count):
        label = number % 3
        bag = random.normal(0, 1, (random.integers(30, 60), features)).astype(np.float32)
        told = random.choice(len(bag), shown, replace=False)
        bag[told, label] += 6
        bags.append(bag)
        labels.append(label)
        where.append(told)
    return bags, labels, where


@pytest.mark.parametrize("kind", ["attention", "transformer"])
def test_learns_from_slide_labels(kind):
    bags, labels, _ = slides(0, 36)
    held, truth, where = slides(1, 30)
    settings = MilSettings(kind=kind, epochs=25, least_epochs=8, patience=6, learning_rate=5e-4)
    fitted = fit_aggregator(bags, labels, 3, settings, validation=slides(2, 12)[:2])
    p = bag_probabilities(fitted.network, held)
    assert (p.argmax(axis=1) == truth).mean() > 0.85
    assert fitted.validation_losses[fitted.best_epoch] == min(fitted.validation_losses)
    assert fitted.losses[-1] < fitted.losses[0]
    with torch.inference_mode():
        share = [
            float(fitted.network(torch.from_numpy(bag)).attention[torch.from_numpy(told)].sum())
            / (len(told) / len(bag))
            for bag, told in zip(held, where, strict=True)
        ]
    # Attention on the telling patches, relative to spreading it evenly.  The transformer has mixed all patches before
    # it pools them, so that its attention says little about where.
    assert np.mean(share) > (1.5 if kind == "attention" else 0.9)


def test_permuted_labels_teach_nothing():
    random = np.random.default_rng(3)
    bags, labels, _ = slides(4, 24)
    held, truth, _ = slides(5, 60)
    settings = MilSettings(epochs=6, least_epochs=6, learning_rate=5e-4)
    permuted = random.permutation(labels).tolist()
    fitted = fit_aggregator(bags, permuted, 3, settings, validation=(bags[:6], permuted[:6]))
    right = (bag_probabilities(fitted.network, held).argmax(axis=1) == truth).mean()
    assert right < 0.75  # 1/3 by chance; with true labels above 0.85


def test_one_seed_one_result():
    bags, labels, _ = slides(6, 9)
    settings = MilSettings(epochs=2, least_epochs=1, most_patches=10)
    runs = [fit_aggregator(bags, labels, 3, settings, validation=(bags, labels), seed=s) for s in (0, 0, 1)]
    first, again, other = (bag_probabilities(run.network, bags) for run in runs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_bad_input():
    with pytest.raises(UsageError, match="expected one label per slide"):
        fit_aggregator([np.zeros((2, 3))], [0, 1], 2, MilSettings(), validation=([np.zeros((2, 3))], [0]))
    with pytest.raises(UsageError, match="for every slide"):
        fit_aggregator([np.zeros((0, 3))], [0], 2, MilSettings(), validation=([np.zeros((2, 3))], [0]))
    with pytest.raises(LookupError):
        build_aggregator("mean", 3, 2)
