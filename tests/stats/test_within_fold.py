import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pathology.errors import UsageError
from pathology.stats.splits import repeated_grouped_k_fold
from pathology.stats.within_fold import NestedPredictions, within_fold_area


def predictions(labels, folds, repeats, predict, seed=0):
    values = np.zeros((repeats, len(labels)))
    place = np.zeros((repeats, len(labels)), np.int64)
    for fold in repeated_grouped_k_fold(range(len(labels)), labels, k=folds, repeats=repeats, seed=seed):
        values[fold.repeat, fold.test] = predict(fold)
        place[fold.repeat, fold.test] = fold.index
    return NestedPredictions(values, place)


def test_one_fold_gives_the_ordinary_area():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40)
    scores = labels + random.normal(size=40)
    one = NestedPredictions(scores[None], np.zeros((1, 40), np.int64))
    found = within_fold_area(labels, one, range(40))
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert found.low < found.value < found.high
    assert found.n == 40


def test_a_model_that_knows_only_the_prevalence_scores_one_half():
    """Pooled over folds it would score far below: that is why only patients of a fold are compared."""
    labels = np.array([1] * 8 + [0] * 20)
    constant = predictions(labels, 5, 4, lambda fold: labels[fold.train].mean())
    assert within_fold_area(labels, constant, range(28)).value == 0.5
    assert roc_auc_score(labels, constant.values[0]) < 0.5


def test_every_pair_is_weighed_by_how_often_it_met():
    labels = np.array([1, 0, 0])
    values = np.array([[0.9, 0.1, 0.5], [0.2, 0.1, 0.5]])
    fold = np.array([[0, 0, 1], [0, 0, 0]])
    # Pair (0, 1) met twice and was right twice, pair (0, 2) met once and was wrong.
    found = within_fold_area(labels, NestedPredictions(values, fold), ["a", "b", "c"])
    assert found.value == pytest.approx(2 / 3)


def test_wrong_inputs_are_refused():
    with pytest.raises(UsageError, match="expected equal shapes"):
        NestedPredictions(np.zeros((1, 3)), np.zeros((1, 4), np.int64))
    apart = NestedPredictions(np.zeros((1, 2)), np.array([[0, 1]]))
    with pytest.raises(UsageError, match="share a fold"):
        within_fold_area(np.array([0, 1]), apart, [1, 2])
