import numpy as np
import pytest

from pathology.stats.conformal import Coverage
from pathology.stats.intervals import Interval, wilson
from pathology.training.common.card_metrics import interval_metric, trust_metrics


def test_a_figure_without_an_interval_says_why():
    lone = Interval(value=0.5, low=np.nan, high=np.nan, n=2, method="DeLong, needs two of each")
    figure = interval_metric("area", lone, unit="slides", data="d")
    assert figure.value is None
    assert figure.interval is None
    assert "0.500" in figure.note
    assert "needs two of each" in figure.note
    none = Interval(value=np.nan, low=np.nan, high=np.nan, n=0, method="no rows")
    assert "not defined" in interval_metric("recall", none, unit="slides", data="d").note


def test_an_interval_without_width_is_not_certainty():
    sure = Interval(value=1, low=1, high=1, n=6, method="bootstrap")
    assert "does not imply certainty" in interval_metric("area", sure, unit="patients", data="d", note="Six.").note
    wide = interval_metric("accuracy", wilson(5, 6), unit="patients", data="d")
    assert wide.note == ""
    assert wide.value == pytest.approx(5 / 6, abs=1e-4)
    assert wide.n == 6


def test_trust_is_measured_with_its_stated_rates():
    covered = Coverage(covered=9, n=10, share=0.9, interval=(0.6, 0.98), mean_size=1.4, single=0.6, empty=0.0)
    metrics = trust_metrics(covered, wilson(1, 20), "test patients", coverage=0.9, rate=0.05)
    assert [f.n for f in metrics] == [10, 20]
    assert "nominal: 90%" in metrics[0].metric
    assert "at most 5%" in metrics[1].metric
    assert trust_metrics(None, None, "d", coverage=0.9, rate=0.05) == []
