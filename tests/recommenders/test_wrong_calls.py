"""Calls that look right but are not: labels in another order, masks of another kind, values that leave a dtype."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skvae import EASERecommender, LOCARecommender, MultVAERecommender, PopularityRecommender, VotingRecommender
from skvae.datasets import make_interactions
from skvae.metrics import content_holdout, make_ranking_scorer

N_USERS, N_ITEMS = 40, 10
VAE = MultVAERecommender(3, max_iter=2, random_state=0)
RECOMMENDERS = [
    PopularityRecommender(),
    EASERecommender(5),
    VAE,
    VotingRecommender([("a", EASERecommender(5)), ("b", PopularityRecommender())]),
    LOCARecommender(EASERecommender(5), embedding=VAE, n_anchors=2, random_state=0),
]


@pytest.fixture(scope="module")
def X():
    values = make_interactions(N_USERS, N_ITEMS, n_factors=2, mean_interactions=4, random_state=0).toarray()
    return pd.DataFrame(values.astype(np.float64), columns=[f"item{i}" for i in range(N_ITEMS)])


@pytest.fixture(scope="module")
def model(X):
    return EASERecommender(5).fit(X)


# ------------------------------------------------------------------------------------------------------- a long table
@pytest.mark.parametrize("recommender", RECOMMENDERS, ids=lambda recommender: type(recommender).__name__)
def test_every_recommender_refuses_a_long_table(recommender):
    users, items = np.repeat(np.arange(30), 2), np.tile(np.arange(20), 3)
    table = pd.DataFrame({"user_id": users + 1000, "item_id": items + 7, "rating": 3.0})
    with pytest.raises(ValueError, match=r"'user_id' and 'item_id', as a long table.*to_interactions\(X\['user_id'\]"):
        clone(recommender).fit(table)
    with pytest.warns(UserWarning, match="X has 3 columns and hardly a zero"):
        clone(recommender).fit(table.to_numpy())


# ------------------------------------------------------------------------------------------------- labels in any order
def test_masks_with_labels_are_those_of_the_items_in_their_order(model, X):
    pl = pytest.importorskip("polars")
    mask = X == 0
    expected = model.recommend(X, 3, items=mask.to_numpy())
    for given in (mask, mask.astype(object), mask.astype(float), mask.astype("boolean"), pl.DataFrame(mask)):
        np.testing.assert_array_equal(model.recommend(X, 3, items=given)[0], expected[0])
    turned = mask[mask.columns[::-1]]
    for given in (turned, pl.DataFrame(turned), turned.iloc[0]):
        for parameter in ("items", "filter_items"):
            with pytest.raises(ValueError, match="label 0 is 'item9', but item 0 of fit is 'item0'.*reindex"):
                model.recommend(X, 3, **{parameter: given})
    gap = mask.astype(object).where(X > 0, None)
    with pytest.raises(ValueError, match=r"dtype object.*missing.*fillna\(False\)"):
        model.recommend(X, 3, items=gap)
    some = pd.Series(["item1", "item2"], index=["x", "y"])  # labels of no items
    np.testing.assert_array_equal(model.recommend(X, 3, items=some)[0], model.recommend(X, 3, items=[1, 2])[0])


def test_held_out_interactions_have_the_columns_of_what_is_shown(model, X):
    hidden = X.iloc[::-1].set_axis(X.index)
    expected = model.score(X, hidden)
    turned = hidden[hidden.columns[::-1]]
    assert model.score(X, turned[X.columns]) == expected == model.score(X, hidden.to_numpy())
    for scorer in (model.score, lambda *given: make_ranking_scorer("recall@3")(model, *given)):
        with pytest.raises(ValueError, match="column 0 of y is 'item9' where X has 'item0'"):
            scorer(X, turned)


# --------------------------------------------------------------------------------------------------- lists of items
def test_items_may_come_as_any_collection(model, X):
    expected = model.recommend(X, 3, items=[1, 2, 5])[0]
    names = ["item1", "item2", "item5"]
    for given in ({1, 2, 5}, iter([1, 2, 5]), frozenset(names), dict.fromkeys(names).keys()):
        np.testing.assert_array_equal(model.recommend(X, 3, items=given)[0], expected)


@pytest.mark.parametrize(
    "given, message",
    [
        ("item1", r"pass a list, \['item1'\]"),
        (3, r"pass a list, \[3\]"),
        ([1.0, 2.0], "pass column numbers as integers"),
        ([[1, 2], None, *[[3]] * (N_USERS - 2)], r"items\[1\] is None; pass a list for each user, \[\] for none"),
        ([["item1"], "item2", *[["item3"]] * (N_USERS - 2)], r"items\[1\] is 'item2'; pass a list for each user"),
    ],
)
def test_what_is_no_list_of_items_is_answered_with_one(given, message, model, X):
    with pytest.raises(ValueError, match=message):
        model.recommend(X, 3, items=given)


def test_similar_items_needs_an_item(model):
    for given in ([], np.zeros(N_ITEMS, bool)):
        with pytest.raises(ValueError, match="similar_items needs one item at least"):
            model.similar_items(given)


def test_columns_that_are_numbers_are_no_names(X):
    numbered = EASERecommender(5).fit(X.set_axis(range(100, 100 + N_ITEMS), axis=1))
    with pytest.raises(ValueError, match=r"columns are strings.*X\.columns = X\.columns\.astype\(str\)"):
        numbered.recommend(X.to_numpy(), names=True)
    with pytest.raises(ValueError, match="fit saw no names.*DataFrame whose columns are strings"):
        numbered.recommend(X.to_numpy(), items=["item1"])


# ------------------------------------------------------------------------------------------- values that leave a dtype
def test_ease_says_where_rounding_takes_its_weights():
    """Fewer users than items: l2 alone makes X'X + l2 invertible, and float32 loses it in large values."""
    X = make_interactions(30, 80, random_state=0).astype(np.float64)
    exact, scaled = EASERecommender(20).fit(X * 1e3).item_weights_, []
    for factor in (1.0, 1e3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scaled.append(EASERecommender(20).fit((X * factor).astype(np.float32)).item_weights_)
    assert np.abs(scaled[1] - exact).max() > 0.02 * np.abs(exact).max()
    assert [w.filename for w in caught] == [__file__]
    assert "rounding in float32 may change item_weights_" in str(caught[0].message)
    for factor, weight, dtype in ((1e5, 1, np.float32), (1, 1e18, np.float64), (1e38, 1, np.float32)):
        model, given = EASERecommender(20), (X * factor).astype(dtype)
        weights = np.where(np.arange(30) == 0, weight, 1.0)
        with pytest.raises(ValueError, match="l2=20 is too small beside X'X.*nothing is left of it.*raise l2"):
            model.fit(given, sample_weight=weights)
        assert not hasattr(model, "item_weights_")
    with pytest.raises(ValueError, match="beyond the largest number of float32"):
        EASERecommender(1e300).fit(X.astype(np.float32))
    many = make_interactions(300, 20, random_state=0).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EASERecommender(20).fit(many * 1e6)  # as exact as without the factor, whatever l2


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix, sp.csc_array, sp.coo_matrix])
@pytest.mark.parametrize("dtype, value", [(np.uint8, 200), (np.int8, 100), (np.int16, -20_000), (np.int32, 2**31 - 1)])
def test_duplicates_are_added_without_an_overflow(dtype, value, kind):
    values = np.array([value, value, 1], dtype=dtype)
    cells = (values, ([0, 0, 1], [0, 0, 1])) if kind is sp.coo_matrix else (values, [0, 0, 1], [0, 2, 3])
    given = kind(cells, shape=(2, 2))
    shown, hidden = content_holdout(given)
    assert (shown + hidden).toarray()[0, 0] == 2 * value
    if value > 0:
        assert PopularityRecommender().fit(given).popularity_.tolist() == [np.float32(2 * value), 1]
    assert given.dtype == dtype and given.nnz == 3


# ---------------------------------------------------------------------------------------------- what is wrong, by name
def test_errors_name_the_argument_and_the_estimator_that_was_called(X):
    model = clone(VAE).fit(X)
    hole = X.mask(X > 0)
    for name, call in {
        "X_val": lambda wrong: clone(VAE).fit(X, X_val=wrong),
        "candidates": lambda wrong: model.similar_users(X, wrong),
    }.items():
        for wrong, message in ((hole, "contains NaN"), (X[X.columns[::-1]], "same order"), (-X, "Negative values")):
            with pytest.raises(ValueError, match=rf"(?s)^{name}: .*{message}"):
                call(wrong)
    with pytest.raises(ValueError, match=r"^LOCARecommender found no interaction in X: all \(40, 10\) cells are zero"):
        clone(RECOMMENDERS[-1]).fit(X * 0)


def test_lists_of_ids_are_answered_with_what_makes_a_matrix(model):
    for given in ([[1, 2, 3], [4, 5]], [{"a", "b"}, {"c"}], {"user": 1}):
        for call in (EASERecommender(5).fit, model.recommend):
            with warnings.catch_warnings(), pytest.raises((TypeError, ValueError), match="not .*ids.*to_interactions"):
                warnings.simplefilter("ignore")
                call(given)
    with pytest.raises(ValueError, match=r"items holds \{'item1'\}, but fit saw no item of that name"):
        model.similar_items({"item1"})  # it has no order


def test_names_that_have_been_compared_are_not_missed_later(X):
    named = clone(VAE).fit(X)
    loca = LOCARecommender(EASERecommender(5), embedding=FrozenEstimator(named), n_anchors=2, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "X does not have valid feature names")
        rows, _ = named.similar_users(X, X[:9], 3)
        loca.fit(X)
        loca.similar_users(X, k=3)
        loca.recommend(X)
    np.testing.assert_array_equal(
        rows, clone(VAE).fit(X.to_numpy()).similar_users(X.to_numpy(), X[:9].to_numpy(), 3)[0]
    )


@pytest.mark.parametrize("recommender", RECOMMENDERS, ids=lambda recommender: type(recommender).__name__)
def test_users_without_interactions_teach_nothing(recommender, X):
    values = X.to_numpy()
    more = np.concatenate([values[:7], np.zeros((30, N_ITEMS)), values[7:]])
    one, other = (clone(recommender).fit(rows).decision_function(X.to_numpy()) for rows in (values, more))
    np.testing.assert_array_equal(one, other)
