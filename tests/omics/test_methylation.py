"""Promoter features equal a window-by-window computation; what cannot be says so."""

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import MinMaxScaler

from pathology.errors import InputTableError, UsageError
from pathology.omics.methylation import (
    histone_enrichment,
    promoter_features,
    read_methylation,
    read_promoters,
    scale_features,
)


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    position = np.sort(rng.choice(120_000, 900, replace=False))
    calls = pd.DataFrame({"chrom": "1", "pos": position, "mval": rng.normal(0, 3, 900).round(3)})
    promoters = pd.DataFrame(
        {
            "EnsmblID_T": [f"ENST{i}" for i in range(6)],
            "Strand": ["+", "-", "+", "-", "+", "+"],
            "Chr": ["1", "1", "1", "1", "1", "7"],
            "Start": [60_000, 30_000, 1_000, 90_000, 500_000, 60_000],
            "End": [70_000, 61_000, 2_000, 119_500, 510_000, 70_000],
        }
    )
    return promoters, calls


def _by_definition(row, calls):
    tss = row["Start"] if row["Strand"] == "+" else row["End"]
    out = []
    for size in (250, 2500):
        start = tss - size * 10
        region = calls[(calls["pos"] >= start) & (calls["pos"] < start + 20 * size)]["mval"]
        whole = round(((region - region.mean()) ** 2).sum(), 3) if len(region) else np.nan
        windows = []
        for w in range(20):
            low = start + w * size
            inside = calls[(calls["pos"] >= low) & (calls["pos"] < low + size) & (calls["chrom"] == row["Chr"])]["mval"]
            if not len(inside):
                windows.append([np.nan] * 4)
                continue
            ssd = ((inside - inside.mean()) ** 2).sum()
            windows.append([inside.mean(), ssd / whole, ssd, ssd / len(inside)] if whole else [inside.mean(), 0, 0, 0])
        out.append(windows if row["Strand"] == "+" else windows[::-1])
    return np.round(np.array(out, dtype=float), 3)


def test_features_equal_their_definition(sample):
    promoters, calls = sample
    features = promoter_features(promoters, calls)
    assert features.shape == (6, 2, 20, 4)
    for i, row in promoters.iterrows():
        assert np.allclose(features[i], _by_definition(row, calls), atol=1.1e-3, equal_nan=True)
    assert np.isnan(features[4]).all()  # far from any call
    assert np.isnan(features[5]).all()  # another chromosome
    assert np.isfinite(features[0, 1]).all()


def test_a_hand_computed_window():
    calls = pd.DataFrame({"chrom": "2", "pos": [1000, 1249, 1250, 999], "mval": [1.0, 3.0, 5.0, 7.0]})
    plus = pd.DataFrame({"EnsmblID_T": ["t"], "Strand": ["+"], "Chr": ["2"], "Start": [1000], "End": [5000]})
    f = promoter_features(plus, calls)[0, 0]
    # Region: 1, 3, 5, 7 -> mean 4, SSD 20.  First window after the start holds 1 and 3: mean 2, SSD 2.
    assert f[10].tolist() == [2.0, 0.1, 2.0, 1.0]
    assert f[11].tolist() == [5.0, 0.0, 0.0, 0.0]
    assert f[9].tolist() == [7.0, 0.0, 0.0, 0.0]
    minus = plus.assign(Strand="-", Start=[10], End=[1000])
    assert np.array_equal(promoter_features(minus, calls)[0, 0], f[::-1], equal_nan=True)


def test_a_region_without_variation_has_only_means():
    calls = pd.DataFrame({"chrom": "2", "pos": [1000, 1300], "mval": [2.0, 2.0]})
    plus = pd.DataFrame({"EnsmblID_T": ["t"], "Strand": ["+"], "Chr": ["2"], "Start": [1000], "End": [5000]})
    f = promoter_features(plus, calls)[0, 0]
    assert f[10].tolist() == [2, 0, 0, 0]
    assert f[11].tolist() == [2, 0, 0, 0]


def test_scaling_equals_scikit_learn(sample):
    promoters, calls = sample
    features = promoter_features(promoters, calls)
    scaled = scale_features(features)
    for s in range(2):
        for c in range(4):
            column = features[:, s, :, c].reshape(-1, 1)
            expected = np.nan_to_num(MinMaxScaler((0.1, 1)).fit_transform(column), nan=0.0)
            assert scaled[:, s, :, c].ravel() == pytest.approx(expected.ravel(), abs=1e-12)


def test_enrichment_by_hand():
    # The 25th percentile of 0, 4, 4, 8 is 3.
    value = histone_enrichment([13, 5, 0, 0], [0, 4, 4, 8])
    assert value == pytest.approx([np.log2(16 / 3), np.log2(8 / 7), np.log2(3 / 7), np.log2(3 / 11)])
    assert histone_enrichment([0, 1], [0, 0]).tolist() == [0, 0]
    with pytest.raises(UsageError, match="no negative values"):
        histone_enrichment([-1], [1])


def test_files_are_read_and_mistakes_named(tmp_path):
    calls, promoters = tmp_path / "calls.tsv", tmp_path / "promoters.tsv"
    calls.write_text("pos\tchrom\tmval\n20\tchr1\t1.5\n10\t1\t\n5\t1\t-2\n")
    table = read_methylation(calls)
    assert table.to_dict("list") == {"chrom": ["1", "1"], "pos": [5, 20], "mval": [-2.0, 1.5]}
    calls.write_text("pos\tchrom\tmval\n20\tchr1\thigh\n")
    with pytest.raises(InputTableError, match="row 2: 'mval' is 'high'"):
        read_methylation(calls)
    calls.write_text("pos\tchrom\tmval\n2.5\tchr1\t1\n")
    with pytest.raises(InputTableError, match=r"row 2: 'pos' is '2.5', expected an integer"):
        read_methylation(calls)
    calls.write_text("pos\tchrom\n1\t1\n")
    with pytest.raises(InputTableError, match="missing column mval"):
        read_methylation(calls)
    header = "EnsmblID_T\tStrand\tChr\tStart\tEnd\n"
    promoters.write_text(header + "a\t+\tchr1\t5\t9\nb\t-\tX\t5\t9\n")
    assert read_promoters(promoters)["Chr"].tolist() == ["1", "X"]
    promoters.write_text(header + "a\t+\t1\t5\t9\na\t-\t1\t5\t9\n")
    with pytest.raises(InputTableError, match="row 3: duplicate transcript 'a'"):
        read_promoters(promoters)
    promoters.write_text(header + "a\t*\t1\t5\t9\n")
    with pytest.raises(InputTableError, match="expected \\+ or -"):
        read_promoters(promoters)
    with pytest.raises(InputTableError, match="cannot be read"):
        read_promoters(tmp_path / "none.tsv")
