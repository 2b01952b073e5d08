"""Input that `MultVAERecommender` can be fitted to, but that is hardly what was meant: long tables, large values."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, FunctionTransformer

from skvae import MultVAERecommender
from skvae.datasets import make_interactions


def tiny(**parameters):
    return MultVAERecommender(**{"n_components": 3, "max_iter": 2, "random_state": 0, **parameters})


# ------------------------------------------------------------------------------------------- a long table in place of X
@pytest.fixture(scope="module")
def long_table():
    cells = sp.coo_array(make_interactions(60, 30, random_state=0))
    return pd.DataFrame({"userId": cells.row, "movieId": cells.col, "rating": cells.data})


@pytest.mark.parametrize(
    "names",
    [
        ("userId", "movieId", "rating"),
        ("user_id", "item_id", "count"),
        ("Users", "Items", "value"),
        ("CUSTOMER ID", "sku", "n"),
        ("client", "ProductID", "quantity"),
    ],
)
@pytest.mark.parametrize("of_strings", [False, True])
def test_a_long_table_is_refused_by_the_names_of_its_columns(names, of_strings, long_table):
    table = long_table.set_axis(names, axis=1)
    table = table.astype({names[0]: str}) if of_strings else table
    for given in (table, table[table.columns[::-1]], table[[names[0], names[1]]]):
        for fit in (tiny().fit, tiny().partial_fit):
            with pytest.raises(ValueError, match=rf"to_interactions\(X\['{names[0]}'\], X\['{names[1]}'\]\)"):
                fit(given)


def test_a_long_table_without_such_names_is_warned_of(long_table):
    for given in (long_table.to_numpy(), long_table.set_axis(list("abc"), axis=1), long_table.iloc[:, :2].to_numpy()):
        with pytest.warns(UserWarning, match="leaves nothing to recommend.*to_interactions") as caught:
            tiny(n_components=2).fit(given)
        assert caught[0].filename == __file__
    with pytest.raises(ValueError, match="could not convert string to float.*to_interactions"):
        tiny().fit("u" + long_table.astype(str).to_numpy(dtype=object))


def test_small_matrices_are_no_long_tables():
    rng = np.random.default_rng(0)
    counts = rng.poisson(1.0, (200, 3))  # with zeros
    few_levels = rng.integers(1, 6, (200, 3))  # ratings of three items by all users
    weights = rng.random((200, 4))
    names = ["user manual", "movie ticket", "other"]
    ones = pd.DataFrame(rng.integers(0, 2, (50, 3)), columns=["tea", "book", "film"])
    for given in (counts, few_levels, weights, ones, pd.DataFrame(counts, columns=names), np.ones((50, 2))):
        tiny(n_components=2).fit(given)


# -------------------------------------------------------------------------------------------------- a few large values
@pytest.fixture(scope="module")
def clicks():
    return make_interactions(400, 60, random_state=0).astype(np.float64)


def with_heavy_user(X, factor):
    heavy = X.copy()
    heavy.data[heavy.indptr[7] : heavy.indptr[8]] *= factor
    return heavy


@pytest.mark.parametrize("likelihood", ["multinomial", "gaussian"])
@pytest.mark.parametrize("factor", [1e3, 1e5])
def test_a_heavy_user_is_warned_of(factor, likelihood, clicks):
    heavy = with_heavy_user(clicks, factor)
    with pytest.warns(UserWarning, match=rf"\d+ of the {clicks.nnz} interactions.*X\[7, \d+\] = .*log1p") as caught:
        tiny(likelihood=likelihood).fit(heavy)
    assert len(caught) == 1 and caught[0].filename == __file__
    largest, total = np.sort(heavy.data)[::-1].cumsum(), heavy.data.sum()
    n_half = int(str(caught[0].message).split()[0])
    assert largest[n_half - 2] < total / 2 <= largest[n_half - 1]


def test_what_the_warning_advises_silences_it(clicks):
    rng = np.random.default_rng(0)
    counts = clicks.copy()
    counts.data = np.ceil(np.exp(3 * rng.normal(size=clicks.nnz)))
    with pytest.warns(UserWarning, match="Damp counts"):
        tiny().partial_fit(counts)
    for kind in (sp.csr_array, sp.csr_matrix, lambda X: pd.DataFrame(X.toarray())):
        for X in (with_heavy_user(clicks, 1e5), counts):
            make_pipeline(FunctionTransformer(np.log1p), tiny()).fit(kind(X))
            make_pipeline(Binarizer(), tiny()).fit(kind(X))


def test_even_values_are_not_warned_of(clicks):
    rng = np.random.default_rng(0)
    uneven = clicks.copy()
    uneven.data = np.ceil(np.exp(rng.normal(size=clicks.nnz)))
    active = clicks.toarray()
    active[0] = 1  # a user with everything is one of many
    for given in (uneven, active, with_heavy_user(clicks, 10), clicks * 1e6, np.eye(4), [[1e9, 1.0], [1.0, 1.0]]):
        tiny(n_components=2).fit(given)
