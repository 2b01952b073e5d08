"""Splits by time: nothing hidden is earlier than what is shown, nothing is lost, and order does not matter."""

import datetime as dt

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from skvae import EASERecommender, PopularityRecommender
from skvae.datasets import fetch_movielens, to_interactions
from skvae.metrics import (
    content_holdout,
    leave_last_out,
    leave_one_out,
    make_ranking_scorer,
    ndcg_at_k,
    time_split,
)


def stored(X):
    return X.toarray() != 0


@pytest.fixture(scope="module")
def X():
    """60 users, 40 items, values 1 to 5; the first users have 0, 1, 2, ... interactions."""
    rng = np.random.default_rng(5)
    X = rng.integers(1, 6, (60, 40)) * (rng.random((60, 40)) < rng.random((60, 1)))
    for user in range(8):
        X[user] = 0
        X[user, rng.choice(40, user, replace=False)] = 3
    return sp.csr_array(X.astype(np.float32))


@pytest.fixture(scope="module", params=["different times", "many ties"])
def times(request, X):
    """Of the cells of X, negative, zero and positive; in the second case five of them."""
    rng = np.random.default_rng(6)
    some = rng.permutation(X.nnz) - 300 if request.param == "different times" else rng.integers(-2, 3, X.nnz)
    return sp.csr_array((some, X.indices, X.indptr), shape=X.shape)


@pytest.fixture(scope="module")
def by_day(X):
    """Times of which no two in a row are equal."""
    return sp.csr_array((np.random.default_rng(7).permutation(X.nnz), X.indices, X.indptr), shape=X.shape)


def newest(row, n):
    """Columns of the n latest of a row of (column, time) pairs."""
    return {column for column, _ in sorted(row, key=lambda pair: pair[1])[len(row) - n :]}


# --- the latest of each user ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test_size", [1, 3, 1000, np.int32(2), 0.01, 0.2, 0.29, 0.99])
def test_the_latest_of_each_user_are_hidden_and_nothing_is_lost(X, times, test_size):
    foldin, heldout = leave_last_out(X, times, test_size)
    assert_array_equal((foldin + heldout).toarray(), X.toarray())
    assert not (stored(foldin) & stored(heldout)).any()
    percent = round(100 * float(test_size))
    dense = times.toarray()
    for user, n in enumerate(np.diff(X.indptr).tolist()):
        asked = max(1, percent * n // 100) if isinstance(test_size, float) else int(test_size)
        hidden, shown = stored(heldout)[user], stored(foldin)[user]
        assert hidden.sum() == (0 if n < 2 else min(asked, n - 1))
        if hidden.any():
            assert dense[user, hidden].min() >= dense[user, shown].max()


def test_brute_force_finds_the_same(X, by_day):
    _, heldout = leave_last_out(X, by_day, 3)
    for user in range(X.shape[0]):
        row = slice(*X.indptr[user : user + 2])
        pairs = list(zip(X.indices[row].tolist(), by_day.data[row].tolist(), strict=True))
        expected = newest(pairs, min(3, max(len(pairs) - 1, 0)))
        assert set(np.flatnonzero(heldout[[user]].toarray()[0]).tolist()) == expected


@pytest.mark.parametrize("test_size", [0.2, 0.5])
def test_at_equal_times_the_choice_is_that_of_content_holdout(X, test_size):
    same_time = sp.csr_array((np.zeros(X.nnz), X.indices, X.indptr), shape=X.shape)
    for seed in (0, 1):
        for one, two in zip(leave_last_out(X, same_time, test_size, seed=seed), content_holdout(X, test_size, seed)):
            assert_array_equal(one.toarray(), two.toarray())


def test_the_order_of_rows_and_the_values_do_not_matter(X, times):
    distinct = np.unique(stored(X), axis=0, return_index=True)[1]  # equal rows may exchange the choice among ties
    X, times = X[distinct], times[distinct]
    rows = np.random.default_rng(8).permutation(X.shape[0])
    _, heldout = leave_last_out(X, times, 2)
    assert_array_equal(stored(leave_last_out(X, times, 2)[1]), stored(heldout))
    assert_array_equal(stored(leave_last_out(X[rows], times[rows], 2)[1]), stored(heldout)[rows])
    assert_array_equal(stored(leave_last_out(X > 0, times, 2)[1]), stored(heldout))


def test_equal_users_do_not_all_hide_the_same_of_tied_items():
    n_hidden = leave_last_out(np.ones((1000, 4)), np.zeros((1000, 4)))[1].sum(axis=0)
    assert n_hidden.min() > 200


def test_the_order_of_the_columns_of_a_tie_does_not_decide():
    """Movies that are rated within one second are not hidden by their number."""
    X = np.random.default_rng(9).random((2000, 10)) < 0.5
    hidden = leave_last_out(X, np.zeros(X.shape))[1].toarray().sum(axis=0) / X.sum(axis=0)
    assert np.ptp(hidden) < 0.1


# --- one at random ----------------------------------------------------------------------------------------------------


def test_leave_one_out_hides_one(X):
    foldin, heldout = leave_one_out(X, random_state=0)
    assert_array_equal((foldin + heldout).toarray(), X.toarray())
    assert_array_equal(stored(heldout).sum(axis=1), np.diff(X.indptr) > 1)
    assert_array_equal(stored(leave_one_out(X, random_state=0)[1]), stored(heldout))
    assert (stored(leave_one_out(X, random_state=1)[1]) != stored(heldout)).any()
    assert (stored(leave_one_out(X)[1]) != stored(leave_one_out(X)[1])).any()
    often = leave_one_out(np.ones((4000, 4)), random_state=2)[1].mean(axis=0)
    assert abs(often - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 4000)


# --- one point in time for all ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* users with hidden interactions have no visible ones")
def test_everything_from_a_point_in_time_on_is_hidden(X, times):
    for at in (0, 1, np.quantile(times.data, 0.8)):
        before, after = time_split(X, times, at)
        assert_array_equal((before + after).toarray(), X.toarray())
        assert_array_equal(stored(after), stored(X) & (times.toarray() >= at))
        assert_array_equal(stored(before), stored(X) & (times.toarray() < at))
        rows = np.random.default_rng(8).permutation(X.shape[0])
        assert_array_equal(time_split(X[rows], times[rows], at)[1].toarray(), after.toarray()[rows])


@pytest.mark.parametrize(
    "at",
    [
        dt.datetime(2020, 1, 2),
        dt.date(2020, 1, 2),
        np.datetime64("2020-01-02"),
        dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
        1577923200,
    ],
)
def test_a_point_in_time_may_be_a_datetime(at):
    days = np.array(["2020-01-01", "2020-01-02", "2019-12-31", "2020-01-03"], "M8[D]")
    table = to_interactions([0, 0, 1, 1], [0, 1, 0, 1], times=days)
    before, after = time_split(table.data, table.times, at)
    assert before.toarray().tolist() == [[1, 0], [1, 0]]
    assert after.toarray().tolist() == [[0, 1], [0, 1]]


def test_users_without_history_are_told():
    X = np.ones((3, 2))
    times = [[1, 2], [3, 4], [1, 1]]
    with pytest.warns(UserWarning, match=r"1 of the 2 users with hidden interactions have no visible") as caught:
        before, _ = time_split(X, times, 2)
    assert caught[0].filename == __file__
    assert_array_equal(np.diff(before.indptr) > 0, [True, False, True])
    time_split(X[[0, 2]], np.array(times)[[0, 2]], 2)  # warnings are errors here


def test_a_point_outside_of_the_times_is_refused():
    X, times = np.ones((1, 2)), [[5, 7]]
    for at, message in ((5, "nothing before it"), (8, "nothing after it"), (dt.date(2020, 1, 1), "run from 5 to 7")):
        with pytest.raises(ValueError, match=message):
            time_split(X, times, at)
    with pytest.raises(ValueError, match="there is no interaction"):
        time_split(np.zeros((1, 2)), times, 6)
    with pytest.raises(ValueError, match="at must be numbers or datetimes, but holds"):
        time_split(X, times, "2020-01-01")


# --- how times are given ----------------------------------------------------------------------------------------------

SPLITS = {
    "leave_last_out": lambda X, times: leave_last_out(X, times, 2),
    "time_split": lambda X, times: time_split(X, times, 0.5),
    "half_life": lambda X, times: (PopularityRecommender(half_life=2.0).fit(X, times=times).popularity_[None],) * 2,
}
everyone = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)


def backwards(times):
    """The same matrix with the entries of each row in the opposite order."""
    order = np.concatenate([np.arange(b - 1, a - 1, -1) for a, b in zip(times.indptr, times.indptr[1:])])
    return sp.csr_array((times.data[order], times.indices[order], times.indptr), shape=times.shape)


@everyone
@pytest.mark.filterwarnings("ignore:.* users with hidden interactions have no visible ones")
def test_times_come_in_any_container_and_zero_is_a_time(split, X):
    some = np.random.default_rng(3).integers(0, 3, X.nnz)  # stored zeros
    times = sp.csr_array((some, X.indices, X.indptr), shape=X.shape)
    expected = [np.asarray(part if isinstance(part, np.ndarray) else part.toarray()) for part in split(X, times)]
    row, column = X.tocoo().coords
    dense = np.full(X.shape, np.nan)
    dense[row, column] = some
    shuffled = np.random.default_rng(4).permutation(X.nnz)
    coo = sp.coo_array((some[shuffled], (row[shuffled], column[shuffled])), shape=X.shape)
    wide = sp.csr_array((np.r_[some, 9], (np.r_[row, 0], np.r_[column, 0])), shape=X.shape)  # user 0 has nothing
    forms = (dense, sp.csr_matrix(times), times.astype(float), coo, coo.tocsc(), wide, backwards(times))
    for form in forms:
        for part, whole in zip(split(X, form), expected):
            assert_array_equal(part if isinstance(part, np.ndarray) else part.toarray(), whole)
    for kind in (sp.csr_matrix, sp.csc_array, np.asarray):
        other = X.toarray() if kind is np.asarray else kind(X)
        for part, whole in zip(split(other, times), expected):
            assert_array_equal(part if isinstance(part, np.ndarray) else part.toarray(), whole)


@everyone
@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([[1, 2, 3]], r"times must have the shape of X, \(2, 3\), .* but has \(1, 3\)"),
        (sp.csr_array(np.ones((2, 2))), r"but has \(2, 2\)"),
        ([1, 2], r"but has \(2,\)"),
        (sp.csr_array([[1, 0, 1], [1, 1, 1]]), r"no entry for the interaction X\[0, 1\].*of value 0 too"),
        (sp.csr_array((2, 3)), r"no entry for the interaction X\[0, 0\]"),
        ([[1, 2, 3], [4, np.nan, 6]], r"times\[1, 1\] = nan"),
        ([[1, np.inf, 3], [4, 5, 6]], r"times\[0, 1\] = inf"),
        (np.full((2, 3), "2020"), "times must be a matrix of numbers, but its dtype is <U4"),
        (np.full((2, 3), "2020", "M8[D]"), "times must be a matrix of numbers, but its dtype is datetime64"),
        (sp.coo_array(([1] * 7, ([0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 0, 1, 2, 2])), shape=(2, 3)), "two entries in one"),
        (sp.csr_array((np.ones(7), [0, 1, 2, 0, 1, 2, 2], [0, 3, 7]), shape=(2, 3)), "two entries in one cell"),
    ],
)
def test_bad_times_are_refused_by_name(split, times, message):
    with pytest.raises(ValueError, match=message):
        split(np.ones((2, 3)), times)


def test_bad_arguments_of_the_splits_are_named():
    X = np.ones((2, 3))
    for test_size, message in (
        (0, "at least 1"),
        (-1, "at least 1"),
        (1.0, "inside"),
        (True, "inside"),
        ("1", "inside"),
    ):
        with pytest.raises(ValueError, match=message):
            leave_last_out(X, X, test_size)
    with pytest.raises(ValueError, match="seed must be an int"):
        leave_last_out(X, X, seed=None)
    with pytest.raises(ValueError, match="times must have the shape of X"):
        leave_last_out(X, None)
    for at in (None, np.nan, np.inf, np.datetime64("NaT", "s"), [2]):
        with pytest.raises(ValueError, match="at must be one finite number, date or datetime, but at="):
            time_split(X, X, at)


def test_values_that_cancel_need_no_time():
    X = sp.csr_array((np.array([1.0, -1, 1, 1]), [0, 0, 1, 2], [0, 4]), shape=(1, 3))
    times = sp.csr_array((np.array([5, 1, 2]), [0, 1, 2], [0, 3]), shape=(1, 3))
    foldin, heldout = leave_last_out(X, times)
    assert (foldin.toarray().tolist(), heldout.toarray().tolist()) == ([[0, 1, 0]], [[0, 0, 1]])


# --- with scorers and searches ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* users with hidden interactions have no visible ones")
@pytest.mark.parametrize("name", ["leave_last_out", "time_split", "leave_one_out"])
def test_searches_take_the_parts_as_X_and_y(name, X, by_day):
    halves = {
        "leave_last_out": lambda: leave_last_out(X, by_day, 0.3),
        "time_split": lambda: time_split(X, by_day, 500),
        "leave_one_out": lambda: leave_one_out(X, random_state=0),
    }
    foldin, hidden = halves[name]()
    folds, scoring = KFold(3, shuffle=True, random_state=0), make_ranking_scorer("ndcg@10")
    search = GridSearchCV(EASERecommender(), {"l2": [5.0, 500.0]}, scoring=scoring, cv=folds, error_score="raise")
    search.fit(foldin, hidden)
    expected = []
    for train, test in folds.split(X):
        ids, _ = EASERecommender(5.0).fit(foldin[train]).recommend(foldin[test], k=10)
        expected.append(ndcg_at_k(hidden[test], ranked=ids, k=10))
    found = [search.cv_results_[f"split{i}_test_score"][0] for i in range(3)]
    assert found == pytest.approx(expected)
    assert cross_val_score(EASERecommender(5.0), foldin, hidden.toarray(), scoring=scoring, cv=folds) == pytest.approx(
        expected
    )


def test_movielens_by_time(ml_100k_path):
    ratings = fetch_movielens(data_home=ml_100k_path.parent, download_if_missing=False)
    assert ratings.times.nnz == 100_000
    assert (ratings.times.data.min(), ratings.times.data.max()) == (874_724_710, 893_286_638)
    assert ratings.times[195, 241] == 881_250_949  # the first line of u.data
    liked = ratings.data >= 4
    foldin, hidden = leave_last_out(liked, ratings.times, 0.2)
    latest = sp.csr_array((ratings.times * foldin).max(axis=1)).toarray().ravel()
    times = (ratings.times * hidden).tocsr()
    users = np.repeat(np.arange(943), np.diff(times.indptr))
    assert (times.data >= latest[users]).all()
    with pytest.warns(UserWarning, match="of the .* users with hidden interactions have no visible ones"):
        before, after = time_split(liked, ratings.times, dt.date(1998, 3, 1))
    assert ((before + after) != liked).nnz == 0
    assert (ratings.times * after).tocsr().data.min() >= 888_710_400 > (ratings.times * before).tocsr().data.max()
