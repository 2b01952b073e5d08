"""Messages about tables: which cell or column, what it holds, what to do."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.base import clone

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    ProbabilisticPCA,
    VAETransformer,
)
from skvae.tables.checks import refuse_empty_columns
from skvae.tables.columns import listed

QUICK = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
ESTIMATORS = [
    GaussianMixtureEM(2, random_state=0),
    BernoulliMixtureEM(2, binarize=0.0, random_state=0),
    FactorAnalysisEM(1),
    ProbabilisticPCA(1),
    VAETransformer(1, **QUICK),
    AutoencoderTransformer(1, **QUICK),
]
each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
each_and_k_means = pytest.mark.parametrize(
    "estimator", [*ESTIMATORS, KMeansLite(2, random_state=0)], ids=lambda estimator: type(estimator).__name__
)


def frame(**columns):
    X = np.random.default_rng(0).normal(size=(40, 2))
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1]}).assign(**columns)


DAYS = pd.Series(pd.date_range("2026-01-01", periods=40))


@each_and_k_means
@pytest.mark.parametrize(
    "days",
    [
        DAYS,
        DAYS - DAYS[0],
        DAYS.dt.tz_localize("UTC"),
        DAYS.dt.to_period("D"),
        pd.Series([datetime.date(2026, 1, 1)] * 40, dtype=object),
    ],
    ids=["dates", "durations", "zones", "periods", "objects"],
)
def test_dates_are_refused_by_the_name_of_their_column(estimator, days):
    remedy = r"column 'b' holds dates or times \(.+\); turn it into numbers, for example days since a date, or drop it"
    with pytest.raises(TypeError, match=remedy):
        clone(estimator).fit(frame(b=days))


@each_and_k_means
def test_dates_of_polars_and_numpy_are_refused_too(estimator):
    with pytest.raises(TypeError, match="column 'b' holds dates or times"):
        clone(estimator).fit(pl.DataFrame({"a": np.arange(9.0), "b": [datetime.date(2026, 1, 1)] * 9}))
    with pytest.raises((TypeError, ValueError), match=r"dates or times \(datetime64|dtype datetime64"):
        clone(estimator).fit(DAYS.to_numpy()[:, None].repeat(2, axis=1))


@each_and_k_means
@pytest.mark.parametrize("column", [["u"] * 40, [0.5] * 7 + ["u"] * 33], ids=["strings", "mixed"])
def test_strings_are_refused_by_the_name_of_their_cell(estimator, column):
    table = frame(b=pd.Series(column, dtype=object))
    row = column.index("u")
    remedy = rf"X\[{row}, 'b'\] = 'u' is a string; .*OneHotEncoder.*likelihood='auto'"
    with pytest.raises(ValueError, match=remedy):
        clone(estimator).fit(table)
    with pytest.raises(ValueError, match=rf"X\[{row}, 1\] = 'u' is a string"):
        clone(estimator).fit(table.to_numpy(dtype=object).tolist())
    with pytest.raises(ValueError, match=remedy):
        clone(estimator).fit(frame()).score(table)


@each
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinite_cells_are_named(estimator, dtype):
    table = frame().astype(dtype)
    table.loc[3, "b"] = -np.inf
    remedy = r"expects finite values, NaN .*X\[3, 'b'\] = -inf; correct it, or make such cells missing"
    with pytest.raises(ValueError, match=remedy):
        clone(estimator).fit(table)
    with pytest.raises(ValueError, match=r"X\[3, 1\] = -inf"):
        clone(estimator).fit(table.to_numpy())
    model = clone(estimator).fit(frame())
    for method in (model.score, model.impute):
        with pytest.raises(ValueError, match=remedy):
            method(table)


def test_conditions_name_infinite_cells():
    model = GaussianMixtureEM(2, random_state=0).fit(frame())
    with pytest.raises(ValueError, match=r"expects finite values, but X\[0, 'a'\] = inf; correct it\."):
        model.condition("a", pd.DataFrame({"a": [np.inf]}))


def test_k_means_names_infinite_cells():
    table = frame()
    table.loc[3, "b"] = np.inf
    with pytest.raises(ValueError, match=r"expects finite values, but X\[3, 'b'\] = inf; correct it\."):
        KMeansLite(2).fit(table)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        KMeansLite(2).fit(table.assign(b=np.nan))


@each
def test_empty_columns_are_named(estimator):
    with pytest.raises(ValueError, match=r"every cell is NaN in column\(s\) 'b'; drop"):
        clone(estimator).fit(frame(b=np.nan))


def test_lists_stop_at_ten_and_say_how_many_more_there_are():
    assert listed(range(3)) == "0, 1, 2"
    assert listed(np.arange(10)).endswith("8, 9")
    assert listed(np.arange(15)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more"
    assert listed([0, 2], names=["a", "b", "c"]) == "'a', 'c'"
    assert listed([repr(word) for word in "uv"]) == "'u', 'v'"
    X = np.full((3, 15), np.nan)
    with pytest.raises(ValueError, match=r"column\(s\) 0, .*, 9 and 5 more; drop them"):
        refuse_empty_columns(X, "Model")


def test_every_list_of_columns_says_how_many_more_there_are():
    X = np.random.default_rng(0).normal(size=(40, 15))
    with pytest.raises(ValueError, match=r"column\(s\) 0, .*, 9 and 5 more; scale it"):
        FactorAnalysisEM(1).fit(X * 1e-160)
    names = [f"c{j}" for j in range(15)]
    with pytest.raises(ValueError, match=r"column\(s\) 'c0', .*, 'c9' and 5 more; scale it"):
        ProbabilisticPCA(1).fit(pd.DataFrame(X * 1e-160, columns=names))
    with pytest.raises(ValueError, match=r"column\(s\) 'c1', .*, 'c10' and 4 more not at all; name them too"):
        VAETransformer(likelihood=[("gaussian", ["c0"])]).fit(pd.DataFrame(X, columns=names))
