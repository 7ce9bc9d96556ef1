"""Coding, imputation and scaling: right by hand, and learnt from training patients only."""

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import KNNImputer

from pathology.errors import InputTableError, UsageError
from pathology.survival.covariates import CovariateSettings, Preparation, read_outcome_columns


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {
            "age": rng.normal(60, 10, n),
            "size": rng.normal(10, 3, n),
            "site": rng.choice(["leg", "trunk", "uterus"], n, p=[0.6, 0.3, 0.1]),
            "constant": 1.0,
        }
    )
    frame.loc[3, "age"] = np.nan
    frame.loc[5, "site"] = None
    return frame


SETTINGS = CovariateSettings(numeric=("age", "size"), categorical=("site",), min_patients=3)


def test_coding_by_hand(table):
    p = Preparation(SETTINGS).fit(table)
    x = p.transform(table)
    assert p.names == ("age", "size", "site=trunk", "site=uterus")
    assert p.reference == {"site": "leg"}
    assert x[0, 0] == pytest.approx((table["age"][0] - table["age"].mean()) / table["age"].std(ddof=0))
    assert x[3, 0] == pytest.approx((table["age"].median() - table["age"].mean()) / table["age"].std(ddof=0))
    assert x[:, 2].tolist() == [float(s == "trunk") for s in table["site"].fillna("leg")]
    assert p.scale_of("age") == pytest.approx(table["age"].std(ddof=0))


def test_nearest_neighbours_equal_scikit_learn(table):
    p = Preparation(SETTINGS.model_copy(update={"imputation": "knn"})).fit(table)
    coded = np.column_stack(
        [
            (table["age"] - table["age"].mean()) / table["age"].std(ddof=0),
            (table["size"] - table["size"].mean()) / table["size"].std(ddof=0),
            np.where(table["site"].isna(), np.nan, (table["site"] == "trunk").astype(float)),
            np.where(table["site"].isna(), np.nan, (table["site"] == "uterus").astype(float)),
        ]
    )
    expected = KNNImputer(n_neighbors=5).fit(coded).transform(coded)
    assert p.transform(table) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("imputation", ["median", "knn"])
def test_test_rows_cannot_change_what_was_learnt(table, imputation):
    settings = SETTINGS.model_copy(update={"imputation": imputation})
    train = table.iloc[:40]
    spoilt = table.iloc[40:].assign(age=1e6, size=-1e6, site="moon")
    p = Preparation(settings).fit(train)
    before = p.transform(train)
    p.transform(spoilt)
    assert np.array_equal(p.transform(train), before)
    one_by_one = np.concatenate([p.transform(table.iloc[[i]]) for i in range(40, 60)])
    assert one_by_one == pytest.approx(p.transform(table.iloc[40:]), abs=1e-12)


def test_unknown_levels_are_rare_or_the_reference(table):
    p = Preparation(SETTINGS).fit(table)
    assert p.transform(table.assign(site="moon"))[:, 2:].sum() == 0
    few = table.assign(site=["leg"] * 40 + ["a"] * 2 + ["b"] * 2 + ["trunk"] * 16)
    p = Preparation(SETTINGS).fit(few)
    assert p.names[-1] == "site=(rare)"
    assert p.transform(few.assign(site="moon"))[:, -1].sum() == len(few)


def test_columns_that_say_nothing_are_dropped_and_named(table):
    p = Preparation(CovariateSettings(numeric=("age", "constant"))).fit(table)
    assert p.names == ("age",)
    assert p.dropped == {"constant": "constant"}
    with pytest.raises(InputTableError, match="'constant': constant"):
        Preparation(CovariateSettings(numeric=("constant",))).fit(table)


def test_state_rebuilds_it(table):
    for imputation in ("median", "knn"):
        p = Preparation(SETTINGS.model_copy(update={"imputation": imputation})).fit(table)
        assert np.array_equal(Preparation.from_state(*p.state()).transform(table), p.transform(table))


def test_errors_name_row_and_column(table):
    p = Preparation(SETTINGS).fit(table)
    bad = table.astype({"age": object})
    bad.loc[7, "age"] = "old"
    with pytest.raises(InputTableError, match="row 9: 'age' is 'old', expected a number"):
        p.transform(bad)
    with pytest.raises(InputTableError, match="missing column 'size'"):
        p.transform(table.drop(columns="size"))
    with pytest.raises(UsageError, match="not been fitted"):
        Preparation(SETTINGS).transform(table)
    with pytest.raises(ValueError, match="listed twice"):
        CovariateSettings(numeric=("age", "age"))


def test_outcome_columns():
    frame = pd.DataFrame({"t": [10, None, 5], "e": [1, 0, 0]})
    outcome, rows = read_outcome_columns(frame, "t", "e")
    assert rows.tolist() == [0, 2]
    assert outcome.time.tolist() == [10, 5]
    with pytest.raises(InputTableError, match="row 3: 't' is -1"):
        read_outcome_columns(frame.assign(t=[1, -1, 2]), "t", "e")
    with pytest.raises(InputTableError, match="row 4: 'e' is 7"):
        read_outcome_columns(frame.assign(e=[1, 0, 7]), "t", "e")
    with pytest.raises(InputTableError, match="no row has both"):
        read_outcome_columns(frame.assign(t=None), "t", "e")
