"""Intervals and tests against SciPy, brute force, textbook values and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from pathology.errors import UsageError
from pathology.stats.bootstrap import bootstrap
from pathology.stats.delong import delong, delong_test
from pathology.stats.intervals import Interval, mcnemar, mean_interval, poisson_interval, wilson
from pathology.stats.reader_study import reader_study


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_its_formula(counts):
    k, n = counts
    z = 1.959963984540054
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    ci = wilson(k, n)
    assert ci.low == pytest.approx(max(0, centre - half), abs=1e-12)
    assert ci.high == pytest.approx(min(1, centre + half), abs=1e-12)
    assert ci.n == n
    assert p in ci or p in (0, 1)


def test_intervals_of_published_counts():
    # Newcombe 1998, Stat Med 17:857, Table I: 81/263, 15/148.
    assert (wilson(81, 263).low, wilson(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert (wilson(15, 148).low, wilson(15, 148).high) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    corrected = wilson(81, 263, continuity=True)
    assert (corrected.low, corrected.high) == pytest.approx((0.2535, 0.3682), abs=5e-5)
    # The mitosis detector's 97 of 130 and 97 of 108.
    assert (wilson(97, 130).low, wilson(97, 130).high) == pytest.approx((0.665, 0.813), abs=5e-4)
    assert (wilson(97, 108).low, wilson(97, 108).high) == pytest.approx((0.827, 0.942), abs=5e-4)


def test_poisson_covers_at_least_its_level():
    for mean in (0.5, 3.0, 12.0):
        intervals = [poisson_interval(count) for count in range(200)]
        covered = [interval.low <= mean <= interval.high for interval in intervals]
        assert stats.poisson.pmf(np.arange(200), mean)[covered].sum() >= 0.95


def test_poisson_equals_the_exact_tails():
    for count in (0, 1, 7, 30):
        ci = poisson_interval(count, exposure=2.37)
        low, high = ci.low * 2.37, ci.high * 2.37
        assert stats.poisson.cdf(count, high) == pytest.approx(0.025, abs=1e-9)
        if count:
            assert stats.poisson.sf(count - 1, low) == pytest.approx(0.025, abs=1e-9)
    assert poisson_interval(0).high == pytest.approx(3.689, abs=5e-4)  # Garwood's table
    assert poisson_interval(10).low == pytest.approx(4.795, abs=5e-4)


def test_mean_interval_equals_scipy():
    values = np.random.default_rng(0).normal(size=9)
    ci = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (ci.low, ci.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert np.isnan(mean_interval([0.5]).low)


def _delong_by_definition(y, scores):
    """The structural components of DeLong 1988, equations 2 to 4, one pair at a time."""
    v10, v01 = [], []
    for s in scores:
        kernel = np.array([[1.0 if a > b else 0.5 if a == b else 0.0 for b in s[~y]] for a in s[y]])
        v10.append(kernel.mean(axis=1))
        v01.append(kernel.mean(axis=0))
    area = np.array([v.mean() for v in v10])
    m, n = int(y.sum()), int((~y).sum())
    s10 = np.array([[np.sum((a - a.mean()) * (b - b.mean())) / (m - 1) for a in v10] for b in v10])
    s01 = np.array([[np.sum((a - a.mean()) * (b - b.mean())) / (n - 1) for a in v01] for b in v01])
    return area, s10 / m + s01 / n


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.booleans())
def test_delong_equals_its_definition(seed, n, ties):
    rng = np.random.default_rng(seed)
    y = np.zeros(n, bool)
    y[: max(2, n // 3)] = True
    a, b = rng.normal(size=n) + y, rng.normal(size=n) + 0.5 * y
    if ties:
        a, b = a.round(), b.round()
    area, cov = _delong_by_definition(y, [a, b])
    test = delong_test(y, a, b)
    assert test.first.value == pytest.approx(roc_auc_score(y, a), abs=1e-12)
    assert test.second.value == pytest.approx(area[1], abs=1e-12)
    sd = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    if sd > 1e-9:
        assert test.z == pytest.approx((area[0] - area[1]) / sd, rel=1e-9)
        assert test.p == pytest.approx(2 * stats.norm.sf(abs(test.z)), rel=1e-9)
    single = delong(y, a)
    half = 1.959963984540054 * np.sqrt(cov[0, 0])
    assert (single.low, single.high) == pytest.approx((max(0, area[0] - half), min(1, area[0] + half)), abs=1e-9)


def test_delong_edge_cases():
    y = np.array([0, 0, 0, 1, 1, 1])
    perfect = delong(y, np.arange(6.0))
    assert perfect.value == 1
    assert "degenerate" in perfect.method
    same = delong_test(y, np.arange(6.0), np.arange(6.0))
    assert same.z == 0
    assert same.p == 1
    assert np.isnan(delong(np.zeros(4), np.arange(4.0)).value)
    with pytest.raises(UsageError, match="0 and 1"):
        delong([0, 1, 2], np.zeros(3))
    with pytest.raises(UsageError, match="without missing values"):
        delong([0, 1], np.array([0.1, np.nan]))


def test_delong_test_keeps_its_size():
    """Under the null, p below 0.05 in about 5 % of 1000 simulated studies."""
    rng = np.random.default_rng(1)
    y = np.arange(120) < 50
    rejected = 0
    for _ in range(1000):
        shared = rng.normal(size=120) + 0.8 * y
        rejected += delong_test(y, shared + rng.normal(size=120), shared + rng.normal(size=120)).p < 0.05
    assert 0.03 < rejected / 1000 < 0.07


def test_mcnemar_equals_the_textbook():
    # Agresti, Categorical Data Analysis, 2nd ed., Table 10.1: approval of the prime minister, 794/150/86/570.
    first = np.r_[np.ones(794), np.ones(150), np.zeros(86), np.zeros(570)].astype(bool)
    second = np.r_[np.ones(794), np.zeros(150), np.ones(86), np.zeros(570)].astype(bool)
    test = mcnemar(first, second, exact=False)
    assert np.sqrt(test.statistic) == pytest.approx(4.17, abs=5e-3)
    assert test.difference.value == pytest.approx(0.04, abs=1e-12)
    assert (test.difference.low, test.difference.high) == pytest.approx((0.021, 0.059), abs=5e-4)
    exact = mcnemar(first, second)
    assert exact.p == pytest.approx(stats.binomtest(86, 236).pvalue, rel=1e-12)
    assert mcnemar(first, first).p == 1
    with pytest.raises(UsageError, match="shapes"):
        mcnemar(first, second[:3])


def test_reader_study_arithmetic():
    rng = np.random.default_rng(2)
    unaided = rng.random((9, 40)) < 0.46
    aided = unaided | (rng.random((9, 40)) < 0.7)
    study = reader_study(unaided, aided)
    a, b = unaided.mean(axis=1), aided.mean(axis=1)
    assert study.unaided.value == pytest.approx(a.mean())
    assert study.unaided_sd == pytest.approx(a.std(ddof=1))
    expected = stats.ttest_rel(b, a)
    assert study.t_test.statistic == pytest.approx(expected.statistic)
    assert study.t_test.p == pytest.approx(expected.pvalue)
    assert study.wilcoxon_p == pytest.approx(stats.wilcoxon(b - a).pvalue)
    assert study.gain.low < study.gain.value < study.gain.high
    assert len(study.by_reader) == 9
    assert study.by_reader[0].difference.value == pytest.approx(b[0] - a[0])
    unchanged = reader_study(unaided, unaided)
    assert unchanged.t_test.p == 1
    assert np.isnan(unchanged.wilcoxon_p)
    with pytest.raises(UsageError, match="readers, cases"):
        reader_study(unaided, aided[:, :3])


class TestBootstrap:
    def test_percentile_and_bca_equal_scipy_on_its_own_draws(self, monkeypatch):
        values = np.random.default_rng(0).exponential(size=25)
        for method, scipys in (("percentile", "percentile"), ("bca", "BCa")):
            reference = stats.bootstrap(
                (values,), np.mean, method=scipys, n_resamples=4000, rng=np.random.default_rng(3), vectorized=True
            )
            ours = bootstrap(lambda r: values[r].mean(), np.arange(25), method=method, resamples=4000, seed=3)
            # Both draw with the same generator but in another order, so they agree up to simulation error.
            assert ours.low == pytest.approx(reference.confidence_interval.low, abs=0.02)
            assert ours.high == pytest.approx(reference.confidence_interval.high, abs=0.03)
        assert ours.method.startswith("BCa bootstrap by patient")

    def test_bca_tails_equal_scipy_exactly(self):
        from pathology.stats.bootstrap import _bca_tails

        values = np.random.default_rng(5).exponential(size=20)
        reference = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=999, rng=np.random.default_rng(1))
        left_out = np.array([np.delete(values, i).mean() for i in range(20)])
        draws = reference.bootstrap_distribution
        tails = _bca_tails(values.mean(), draws, left_out, np.array([0.025, 0.975]))
        ci = reference.confidence_interval
        assert np.quantile(draws, tails) == pytest.approx([ci.low, ci.high], abs=1e-12)

    @pytest.mark.slow
    def test_coverage_is_nominal_by_patient_and_not_by_row(self):
        """1000 simulated studies of 80 patients with 4 correlated rows each: 95 % means 93 to 97 %."""
        rng = np.random.default_rng(7)
        patients = np.repeat(np.arange(80), 4)
        hits, naive = 0, 0
        for trial in range(1000):
            rows = np.repeat(rng.normal(size=80), 4) + 0.5 * rng.normal(size=320)
            hits += 0.0 in bootstrap(lambda r, v=rows: v[r].mean(), patients, resamples=300, seed=trial)
            if trial < 200:
                naive += 0.0 in bootstrap(lambda r, v=rows: v[r].mean(), np.arange(320), resamples=200, seed=trial)
        assert abs(hits / 1000 - 0.95) <= 0.02
        assert naive / 200 < 0.85

    def test_undefined_resamples_are_counted_and_said(self):
        y = np.array([0] * 30 + [1] * 2)
        s = np.linspace(0, 1, 32)
        ci = bootstrap(lambda r: roc_auc_score(y[r], s[r]) if 0 < y[r].sum() < 32 else np.nan, np.arange(32))
        drawn = int(ci.method.split("(")[1].split(" of")[0])
        assert 1500 < drawn < 1950  # (30/32)^32 = 13 % hold no positive
        kept = bootstrap(lambda r: roc_auc_score(y[r], s[r]), np.arange(32), strata=y)
        assert "2000 of 2000" in kept.method
        assert kept.method.startswith("stratified")

    def test_impossible_requests(self):
        assert np.isnan(bootstrap(lambda r: 1.0, ["a", "a"]).low)
        with pytest.raises(UsageError, match="two strata"):
            bootstrap(lambda r: 1.0, ["a", "a", "b"], strata=[0, 1, 0])
        with pytest.raises(UsageError, match="at least 100"):
            bootstrap(lambda r: 1.0, ["a", "b"], resamples=10)

    def test_same_seed_same_interval(self):
        v = np.random.default_rng(0).normal(size=30)
        first = bootstrap(lambda r: v[r].mean(), np.arange(30), seed=4)
        assert first == bootstrap(lambda r: v[r].mean(), np.arange(30), seed=4)
        assert first != bootstrap(lambda r: v[r].mean(), np.arange(30), seed=5)


def test_an_interval_reads_as_a_sentence():
    assert str(Interval(value=0.8151, low=0.75, high=0.88, n=108, method="x")) == "0.815 (95 % CI 0.75-0.88, n = 108)"
    alone = bootstrap(lambda r: 1.0, ["a"])
    assert str(alone) == "1 (no interval, n = 1)"
    # Every resample of a perfect result is perfect: that is not certainty.
    assert str(bootstrap(lambda r: 1.0, ["a", "b"])) == "1 (no interval: no resample differs, n = 2)"


@pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_impossible_counts_are_refused(k, n):
    with pytest.raises(UsageError, match="not a proportion"):
        wilson(k, n)
    with pytest.raises(UsageError):
        poisson_interval(-1)
