"""Laws of the ranking metrics, of the top-k below them and of the splits."""

import math
import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import ndcg_score

from skvae._topk import top_k
from skvae.metrics import (
    _ranking,
    average_precision_at_k,
    content_holdout,
    coverage,
    dcg_at_k,
    hit_rate_at_k,
    holdout_split,
    mrr,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)

# --- the definitions, as loops over one user: relevant is a set of items, listed the items best first ---------------


def recall_loop(relevant, listed, k):
    return sum(item in relevant for item in listed[:k]) / min(k, len(relevant))


def precision_loop(relevant, listed, k):
    return sum(item in relevant for item in listed[:k]) / k


def hit_rate_loop(relevant, listed, k):
    return float(any(item in relevant for item in listed[:k]))


def reciprocal_rank_loop(relevant, listed, k):
    return next((1 / rank for rank, item in enumerate(listed[:k], 1) if item in relevant), 0.0)


def average_precision_loop(relevant, listed, k):
    found, total = 0, 0.0
    for rank, item in enumerate(listed[:k], 1):
        if item in relevant:
            found += 1
            total += found / rank
    return total / min(k, len(relevant))


def dcg_loop(relevant, listed, k):
    return sum(1 / math.log2(rank + 1) for rank, item in enumerate(listed[:k], 1) if item in relevant)


def ndcg_loop(relevant, listed, k):
    return dcg_loop(relevant, listed, k) / sum(1 / math.log2(i + 2) for i in range(min(k, len(relevant))))


LOOPS = {
    recall_at_k: recall_loop,
    precision_at_k: precision_loop,
    hit_rate_at_k: hit_rate_loop,
    mrr: reciprocal_rank_loop,
    average_precision_at_k: average_precision_loop,
    dcg_at_k: dcg_loop,
    ndcg_at_k: ndcg_loop,
}
every_metric = pytest.mark.parametrize("metric", LOOPS, ids=lambda f: f.__name__)
every_k = pytest.mark.parametrize("k", [1, 3, 8, 50, None])


def best_first(scores):
    """The items of one user that may be recommended, best first, ties by the lower item."""
    return sorted(np.flatnonzero(scores > -np.inf), key=lambda item: (-scores[item], item))


def brute_force(loop, truth, scores, k):
    return [
        loop(set(np.flatnonzero(t)), best_first(s), len(s) if k is None else k) if t.any() else np.nan
        for t, s in zip(truth, scores)
    ]


@pytest.fixture
def draw():
    """Truth and scores of 40 users and 12 items: with ties, barred items, and users without held-out items."""
    rng = np.random.default_rng(0)
    truth = (rng.random((40, 12)) < rng.random((40, 1))).astype(float)
    truth[[0, 17]] = 0
    scores = rng.integers(0, 6, truth.shape).astype(float)
    scores[rng.random(truth.shape) < 0.2] = -np.inf
    scores[5] = -np.inf
    return truth, scores


def without_ties(truth, seed=1):
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(truth.shape[1], dtype=float), (len(truth), 1)), axis=1)


# --- metrics ----------------------------------------------------------------------------------------------------------


@every_metric
@every_k
def test_metric_equals_its_definition(metric, k, draw):
    truth, scores = draw
    expected = brute_force(LOOPS[metric], truth, scores, k)
    assert_allclose(metric(truth, scores, k=k, per_user=True), expected, rtol=1e-14)
    assert metric(truth, scores, k=k) == pytest.approx(np.nanmean(expected), rel=1e-14)


@every_metric
def test_default_length_of_the_list(metric):
    k = 20 if metric in (recall_at_k, precision_at_k, hit_rate_at_k) else 100
    truth = np.zeros((2, 150))
    truth[0, k - 1] = truth[1, k] = 1  # at rank k, and one too late
    within, beyond = metric(truth, -np.tile(np.arange(150), (2, 1)), per_user=True)
    assert within > 0 and beyond == 0


@pytest.mark.parametrize("k", [1, 5, 12, None])
def test_ndcg_is_scikit_learns_where_there_are_no_ties(k, draw):
    truth, _ = draw
    scores, kept = without_ties(truth), truth.any(axis=1)
    assert ndcg_at_k(truth, scores, k=k) == pytest.approx(ndcg_score(truth[kept], scores[kept], k=k), rel=1e-12)


@every_metric
@every_k
def test_lists_and_scores_agree(metric, k, draw):
    truth, scores = draw
    ranked = np.full(truth.shape, -1)
    for row, user in zip(ranked, scores):
        listed = best_first(user)
        row[: len(listed)] = listed
    assert_array_equal(
        metric(truth, ranked=ranked, k=k, per_user=True), metric(truth, scores, k=k, per_user=True), strict=True
    )


@every_metric
def test_items_have_no_order(metric, draw):
    truth, _ = draw
    scores, order = without_ties(truth), np.random.default_rng(2).permutation(truth.shape[1])
    assert metric(truth[:, order], scores[:, order], k=4) == metric(truth, scores, k=4)


@every_metric
@pytest.mark.parametrize("cells", [1, 30, 10**9])
def test_blocks_do_not_matter(metric, cells, draw, monkeypatch):
    truth, scores = draw
    before = metric(truth, scores, k=5, per_user=True), metric(truth, ranked=without_ties(truth).astype(int), k=5)
    monkeypatch.setattr(_ranking, "_BLOCK_CELLS", cells)
    assert_array_equal(metric(truth, scores, k=5, per_user=True), before[0])
    assert metric(truth, ranked=without_ties(truth).astype(int), k=5) == before[1]


@pytest.mark.parametrize("metric", [ndcg_at_k, recall_at_k, average_precision_at_k, hit_rate_at_k, mrr])
@pytest.mark.parametrize("k", [1, 3, 100, 500, None])
def test_a_perfect_list_scores_exactly_one(metric, k):
    truth = np.tril(np.ones((150, 150)))  # 1, 2, ..., 150 held-out items
    assert_array_equal(metric(truth, truth, k=k, per_user=True), np.ones(150))  # rounding does not show


@given(hnp.arrays(bool, (3, 30)), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_no_list_beats_the_ideal_one(truth, k, seed):
    truth[0, 0] = True
    scores = np.random.default_rng(seed).random(truth.shape) + truth  # near the top, where rounding could show
    scores[:, ::7] -= 1
    assert ndcg_at_k(truth, scores, k=k, per_user=True)[truth.any(axis=1)].max() <= 1


@every_metric
def test_users_with_nothing_held_out_leave_the_mean(metric, draw):
    truth, scores = draw
    kept = truth.any(axis=1)
    values = metric(truth, scores, k=5, per_user=True)
    assert values.shape == (len(truth),)
    assert_array_equal(np.isnan(values), ~kept)
    assert metric(truth, scores, k=5) == metric(truth[kept], scores[kept], k=5) == pytest.approx(values[kept].mean())
    for per_user in (False, True):
        with pytest.raises(ValueError, match="held-out item"):
            metric(np.zeros((3, 4)), np.ones((3, 4)), per_user=per_user)


@every_metric
def test_what_is_barred_or_padding_never_hits(metric):
    truth = np.ones((2, 4))
    assert metric(truth, np.full((2, 4), -np.inf), k=4) == 0
    assert metric(truth, ranked=np.full((2, 4), -1), k=4) == 0
    # Padding of the second user must not be taken for the last item of the first.
    assert metric([[0, 0, 0, 1], [1, 0, 0, 0]], ranked=[[0, 1], [-1, 1]], k=2) == 0


@every_metric
def test_means_are_python_floats(metric):
    assert type(metric(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32))) is float


def unsorted_with_duplicates(dense):
    """The same matrix with every row back to front, every value in two halves and a stored zero."""
    rows, columns = np.nonzero(dense)
    rows, columns, data = np.r_[rows, rows, 0], np.r_[columns, columns, 0], np.r_[dense[dense != 0] / 2] * 1.0
    data = np.r_[data, data, 0.0]
    order = np.lexsort((-columns, rows))
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=len(dense)))]
    return sp.csr_array((data[order], columns[order], indptr), shape=dense.shape)


def read_only(dense):
    X = unsorted_with_duplicates(dense)
    for part in (X.data, X.indices, X.indptr):
        part.setflags(write=False)
    return X


def wide_indices(dense):
    X = sp.csr_array(dense)
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


CONTAINERS = {
    "lists": np.ndarray.tolist,
    "bool": lambda dense: dense != 0,
    "csr_array": sp.csr_array,
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "coo_array": sp.coo_array,
    "lil_array": sp.lil_array,
    "dok_matrix": sp.dok_matrix,
    "int8": lambda dense: sp.csr_array(dense.astype(np.int8)),
    "int64 indices": wide_indices,
    "unsorted, duplicates, stored zeros": unsorted_with_duplicates,
    "read-only": read_only,
}
every_container = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)


@every_metric
@every_container
def test_truth_comes_in_any_container(metric, container, draw):
    truth, scores = draw
    X = container(truth)
    before = pickle.dumps(X)
    assert metric(X, scores, k=5) == metric(truth, scores, k=5)
    assert pickle.dumps(X) == before


@every_metric
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.float16, np.float32, np.longdouble])
def test_scores_come_in_any_real_dtype(metric, dtype, draw):
    truth, _ = draw
    scores = np.random.default_rng(3).integers(0, 2 if dtype is bool else 6, truth.shape).astype(dtype)
    scores.setflags(write=False)
    assert metric(truth, scores, k=3) == metric(truth, scores.astype(float), k=3)


def test_values_of_the_truth_beyond_zero_or_not_do_not_count(draw):
    truth, scores = draw
    graded = truth * np.random.default_rng(4).choice([-2.5, 0.1, 7], truth.shape)
    assert ndcg_at_k(graded, scores) == ndcg_at_k(truth, scores)


def test_coverage_counts_items_in_any_list(draw):
    _, scores = draw
    for k in (1, 2, 12, 99, None):
        items = {item for user in scores for item in best_first(user)[:k]}
        assert coverage(scores, k=k) == len(items) / 12
    assert coverage(ranked=[[3, -1], [3, 0]], k=2, n_items=8) == 2 / 8
    assert coverage(ranked=[[3, -1], [3, 0]], k=1, n_items=8) == 1 / 8
    assert coverage(np.full((2, 3), -np.inf)) == 0


S = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "exactly one of y_score and ranked; neither"),
        ({"y_score": S, "ranked": [[0], [1]]}, "exactly one of y_score and ranked; both"),
        ({"y_score": S[:, :2]}, r"shape of y_true, \(2, 3\), but it has \(2, 2\)"),
        ({"y_score": sp.csr_array(S)}, "y_score must be dense"),
        ({"y_score": np.where(S == 5, np.nan, S)}, "user 1, item 2 is NaN"),
        ({"y_score": S * 1j}, "real numbers, but its dtype is complex128"),
        ({"ranked": [[0], [1]], "k": 2}, r"shape \(2, 2 or more\), but it has \(2, 1\)"),
        ({"ranked": [0, 1], "k": 1}, r"shape \(2, 1 or more\), but it has \(2,\)"),
        ({"ranked": np.empty((2, 0), int), "k": None}, r"shape \(2, 1 or more\)"),
        ({"ranked": [[0.0, 1.0, 2.0]] * 2}, "its dtype is float64"),
        ({"ranked": [[0, 1, 2], [0, 3, 1]]}, r"ranked\[1, 1\] = 3, but items run from 0 to 2"),
        ({"ranked": [[0, 1, -2], [0, 1, 2]]}, r"ranked\[0, 2\] = -2"),
        ({"ranked": [[0, 1, 2], [2, 1, 2]]}, "item 2 of user 1 twice"),
        ({"y_score": S, "k": 0}, "k=0"),
        ({"y_score": S, "k": 1.0}, r"k=1\.0"),
        ({"y_score": S, "k": True}, "k=True"),
        ({"y_true": np.full((2, 3), np.nan), "y_score": S}, "y_true contains NaN"),
        ({"y_true": [1, 0, 1], "y_score": S}, "Expected 2D array"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ndcg_at_k(**({"y_true": np.ones((2, 3))} | arguments))


def test_nan_is_named_by_its_row_in_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(_ranking, "_BLOCK_CELLS", 6)
    scores = np.zeros((9, 3))
    scores[7, 1] = np.nan
    with pytest.raises(ValueError, match="user 7, item 1"):
        ndcg_at_k(np.ones((9, 3)), scores)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"ranked": [[0]], "k": 1}, "needs n_items"),
        ({"ranked": [[0]], "k": 1, "n_items": 0}, "n_items=0"),
        ({"ranked": [[5]], "k": 1, "n_items": 5}, r"ranked\[0, 0\] = 5"),
        ({"y_score": S, "n_items": 4}, r"n_items=4\), but it has \(2, 3\)"),
        ({"y_score": np.empty((2, 0))}, r"it has \(2, 0\)"),
        ({}, "exactly one"),
    ],
)
def test_bad_arguments_of_coverage_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        coverage(**arguments)


# --- top_k ------------------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 5), st.integers(1, 9)), elements=st.sampled_from([-np.inf, 0, 1, 2])
    ),
    st.integers(1, 10),
)
@settings(max_examples=100, deadline=None)
def test_top_k_sorts_stably(scores, k):
    assert_array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


@pytest.mark.parametrize("k", [1, 7, 100, 450, 2000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("n_values", [2, 50, 10**9])
def test_top_k_of_wide_rows_sorts_stably(dtype, k, n_values):
    """Wide enough for candidates to be picked before they are sorted; with ties at the border, and without."""
    scores = np.random.default_rng(k).integers(-n_values, n_values, (40, 1000)).astype(dtype)
    scores[5] = 0
    if dtype != np.int64:
        scores[7], scores[8, 10:] = -np.inf, -np.inf
    assert_array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


# --- splits -----------------------------------------------------------------------------------------------------------


def stored(X):
    return X.toarray() != 0


@pytest.fixture
def ratings():
    """60 users, 40 items, values 1 to 5; the first users have 0, 1, 2, ... interactions."""
    rng = np.random.default_rng(5)
    X = rng.integers(1, 6, (60, 40)) * (rng.random((60, 40)) < rng.random((60, 1)))
    for user in range(8):
        X[user] = 0
        X[user, rng.choice(40, user, replace=False)] = 3
    return X.astype(np.float32)


SPLITS = {
    "holdout_split": lambda X, test_size=0.2, seed=0: holdout_split(X, test_size, random_state=seed),
    "content_holdout": content_holdout,
}
every_split = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)


@every_split
@pytest.mark.parametrize("test_size", [0.01, 0.2, 0.29, 0.5, 0.99])
def test_a_split_hides_its_share_and_loses_nothing(split, test_size, ratings):
    foldin, heldout = split(ratings, test_size)
    assert_array_equal((foldin + heldout).toarray(), ratings)
    assert not (stored(foldin) & stored(heldout)).any()
    percent = round(100 * test_size)
    n = np.count_nonzero(ratings, axis=1)
    expected = [0 if m < 2 else min(max(1, percent * m // 100), m - 1) for m in n.tolist()]
    assert_array_equal(stored(heldout).sum(axis=1), expected)


@every_split
@pytest.mark.parametrize("test_size, n_hidden", [(0.29, 29), (0.57, 57), (0.999, 99), (1 - 1e-15, 99), (1e-15, 1)])
def test_rounding_does_not_show_in_the_share(split, test_size, n_hidden):  # 0.29 * 100 is a hair below 29
    assert split(np.ones((1, 100)), test_size)[1].nnz == n_hidden


@every_split
@every_container
def test_a_split_does_not_depend_on_the_container(split, container, ratings):
    X = container(ratings)
    before = pickle.dumps(X)
    parts = split(X)
    assert pickle.dumps(X) == before
    for part, expected in zip(parts, split(ratings)):
        assert type(part) is (sp.csr_matrix if sp.isspmatrix(X) else sp.csr_array)
        assert part.dtype == (X.dtype if hasattr(X, "dtype") else np.float64)
        assert part.has_canonical_format
        assert_array_equal(part.toarray(), expected.toarray() != 0 if part.dtype == bool else expected.toarray())


@every_split
def test_every_cell_is_hidden_as_often_as_any_other(split):
    X = np.ones((1, 10))
    hidden = np.mean([stored(split(X, 0.3, seed)[1])[0] for seed in range(500)], axis=0)
    assert abs(hidden - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 500)


def test_random_split_differs_between_equal_rows_and_columns_are_even():
    X = np.ones((2000, 10))
    hidden = stored(holdout_split(X, 0.3, random_state=0)[1])
    assert abs(hidden.mean(axis=0) - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 2000)
    assert len(np.unique(hidden, axis=0)) > 100  # of 120 possible ones


def test_random_state_of_the_split(ratings):
    def hidden(random_state):
        return stored(holdout_split(ratings, random_state=random_state)[1])

    assert_array_equal(hidden(3), hidden(3))
    assert_array_equal(hidden(np.random.RandomState(3)), hidden(np.random.RandomState(3)))
    assert (hidden(3) != hidden(4)).any()
    assert (hidden(None) != hidden(None)).any()
    advancing = np.random.RandomState(3)
    assert (hidden(advancing) != hidden(advancing)).any()


def test_content_split_of_a_row_without_equals_depends_on_that_row_alone(ratings):
    ratings = ratings[np.unique(ratings != 0, axis=0, return_index=True)[1]]
    hidden = stored(content_holdout(ratings)[1])
    order = np.random.default_rng(6).permutation(len(ratings))
    assert_array_equal(stored(content_holdout(ratings[order])[1]), hidden[order])
    assert_array_equal(stored(content_holdout(ratings[10:23])[1]), hidden[10:23])
    one_by_one = [stored(content_holdout(sp.csr_matrix(row[None]))[1])[0] for row in ratings]
    assert_array_equal(one_by_one, hidden)


def test_equal_rows_differ_by_their_rank_among_equals():
    X = np.ones((2000, 10))
    hidden = stored(content_holdout(X, 0.3)[1])
    assert abs(hidden.mean(axis=0) - 0.3).max() < 5 * math.sqrt(0.3 * 0.7 / 2000)
    assert len(np.unique(hidden, axis=0)) > 100  # of 120 possible ones
    assert_array_equal(stored(content_holdout(X[:50], 0.3)[1]), hidden[:50])  # the ranks of the first stay
    among_others = np.zeros((4000, 11))
    among_others[::2, :10], among_others[1::2, 1:] = X, X
    assert_array_equal(stored(content_holdout(among_others, 0.3)[1])[::2, :10], hidden)


def test_the_order_of_the_rows_changes_only_which_of_the_equal_rows_has_which_split(ratings):
    crowd = np.repeat(ratings, np.arange(len(ratings)) % 5, axis=0)
    order = np.random.default_rng(7).permutation(len(crowd))
    splits, of_reordered = (stored(content_holdout(rows)[1]) for rows in (crowd > 0, crowd[order] > 0))
    pairs, of_pairs = np.hstack([crowd > 0, splits]), np.hstack([crowd[order] > 0, of_reordered])
    assert_array_equal(pairs[np.lexsort(pairs.T)], of_pairs[np.lexsort(of_pairs.T)])


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_of_equal_users_scores_near_the_expectation(seed):
    _, hidden = content_holdout(np.ones((1000, 2)), seed=seed)
    first_then_second = np.tile([1.0, 0.0], (1000, 1))  # finds the hidden item at rank 1 or 2 with equal chance
    expected, deviation = (1 + 1 / math.log2(3)) / 2, (1 - 1 / math.log2(3)) / 2
    assert abs(ndcg_at_k(hidden, first_then_second) - expected) < 4 * deviation / math.sqrt(1000)


def test_content_split_does_not_see_values_but_sees_items_and_seed(ratings):
    hidden = stored(content_holdout(ratings)[1])
    assert_array_equal(stored(content_holdout(ratings > 0)[1]), hidden)
    assert_array_equal(stored(content_holdout(np.pad(ratings, ((0, 0), (0, 3))))[1])[:, :40], hidden)
    assert (stored(content_holdout(ratings, seed=1)[1]) != hidden).any()
    # One item more changes the whole choice: rows that overlap are not all split by the same order of the items.
    X = np.ones((200, 200)) - np.eye(200)
    often = stored(content_holdout(X)[1]).mean(axis=0)
    assert abs(often - 0.2 * 199 / 200).max() < 5 * math.sqrt(0.2 * 0.8 / 200)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1, 2**70, np.int32(7)])
def test_any_int_is_a_seed(seed, ratings):
    assert content_holdout(ratings, seed=seed)[1].nnz > 0


@every_split
@pytest.mark.parametrize("test_size", [0, 1, 0.0, 1.0, -0.1, 3, np.nan, "0.2", None])
def test_bad_test_size_is_named(split, test_size, ratings):
    with pytest.raises(ValueError, match="inside"):
        split(ratings, test_size)


def test_bad_input_of_the_splits_is_named(ratings):
    with pytest.raises(ValueError, match="seed must be an int"):
        content_holdout(ratings, seed=None)
    with pytest.raises(ValueError, match="contains NaN"):
        content_holdout(ratings * np.nan)
    with pytest.raises(ValueError, match="Expected 2D"):
        holdout_split(ratings[0])


@every_split
def test_no_users_is_a_split_of_nothing(split):
    foldin, heldout = split(sp.csr_array((0, 5)))
    assert foldin.shape == heldout.shape == (0, 5)
