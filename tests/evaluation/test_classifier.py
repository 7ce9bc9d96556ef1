import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pathology.errors import UsageError
from pathology.evaluation.classifier import SlidePrediction, evaluate_slides, fit_thresholds, slide_scores

CLASSES = ("ARMS", "ERMS", "CCS")


def findings(seed, slides=60, knowledge=1.0, per_patient=2):
    random = np.random.default_rng(seed)
    result = []
    for number in range(slides):
        label = (number // per_patient) % 3
        logits = random.normal(size=(12, 3)) + random.normal(size=3) + knowledge * np.eye(3)[label]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        result.append(SlidePrediction(f"s{number}", f"p{number // per_patient}", label, p))
    return result


def test_figures_equal_scikit_learn_at_every_level():
    found = findings(0)
    evaluation = evaluate_slides(found, CLASSES, name="internal", data="made up", resamples=100)
    assert (evaluation.slides, evaluation.patients, evaluation.patches) == (60, 30, 720)
    truth = np.array([f.label for f in found])
    for rule in ("mean", "share", "majority", "top"):
        scores = slide_scores(found, rule)
        report = evaluation.at("slide", rule)
        assert report.report.macro_auc.value == pytest.approx(roc_auc_score(truth, scores, multi_class="ovr"))
        for c, name in enumerate(CLASSES):
            assert report.average_precision[name].value == pytest.approx(
                average_precision_score(truth == c, scores[:, c])
            )
            assert report.report.support[name] == 20
            assert report.report.auc[name].n == 30  # patients: what the interval rests on
    patient = slide_scores(found, "mean").reshape(30, 2, 3).mean(axis=1)
    names = [f"p{i}" for i in range(30)]
    order = np.argsort(names)
    assert evaluation.at("patient", "mean").report.macro_auc.value == pytest.approx(
        roc_auc_score((np.arange(30) % 3)[order], patient[order], multi_class="ovr")
    )
    patches = np.concatenate([f.patches for f in found])
    assert evaluation.at("patch", "none").report.accuracy.value == pytest.approx(
        (patches.argmax(axis=1) == np.repeat(truth, 12)).mean()
    )


def test_permuted_labels_give_an_area_of_one_half():
    """Without knowledge the interval holds 0.5 about as often as it states, and the areas centre on it."""
    areas, held = [], 0
    for seed in range(40):
        found = findings(seed, slides=30, knowledge=2.0, per_patient=1)
        labels = np.random.default_rng(1000 + seed).permutation([f.label for f in found])
        shuffled = [
            SlidePrediction(f.slide_id, f.patient_id, int(c), f.patches) for f, c in zip(found, labels, strict=True)
        ]
        auc = (
            evaluate_slides(shuffled, CLASSES, name="x", data="y", resamples=100).at("slide", "mean").report.auc["ARMS"]
        )
        areas.append(auc.value)
        held += 0.5 in auc
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)
    assert held >= 34  # 95 % of 40 is 38; fewer than 34 has a chance below 2 %


def test_thresholds_come_from_other_slides():
    found, other = findings(1), findings(2)
    thresholds = fit_thresholds(found, CLASSES)
    evaluation = evaluate_slides(other, CLASSES, name="x", data="y", thresholds=thresholds, resamples=100)
    assert evaluation.thresholds == thresholds
    slide = evaluation.at("slide", "mean")
    truth, scores = np.array([f.label for f in other]), slide_scores(other, "mean")
    for c, name in enumerate(CLASSES):
        called = scores[:, c] >= thresholds[name]
        assert slide.sensitivity[name].value == pytest.approx(called[truth == c].mean())
        assert slide.specificity[name].value == pytest.approx((~called[truth != c]).mean())
    assert not evaluation.at("slide", "share").sensitivity


def test_unreadable_patches_do_not_count_and_models_may_answer_for_themselves():
    found = findings(3, slides=12)
    gappy = [
        SlidePrediction(f.slide_id, f.patient_id, f.label, np.vstack([f.patches, [[np.nan] * 3]]), np.eye(3)[f.label])
        for f in found
    ]
    evaluation = evaluate_slides(gappy, CLASSES, name="x", data="y", resamples=100)
    assert evaluation.patches == 12 * 12
    assert evaluation.at("slide", "model").report.accuracy.value == 1
    with pytest.raises(UsageError, match="no metrics by"):
        evaluate_slides(found, CLASSES, name="x", data="y", resamples=100).at("slide", "model")
    with pytest.raises(UsageError, match="no slides"):
        evaluate_slides([], CLASSES, name="x", data="y")
