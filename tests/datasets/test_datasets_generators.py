"""make_interactions: a draw from the model that it names, the same whatever the block or the number of users."""

import numpy as np
import pytest

from skvae.datasets import _generators, make_interactions


def softmax(scores):
    weight = np.exp(scores - scores.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def squared_errors(counts, N, pi):
    mean, variance = N[:, None] * pi, N[:, None] * pi * (1 - pi)
    return ((counts - mean) ** 2 / variance)[mean > 5].mean()


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and (a != b).nnz == 0


def test_items_are_drawn_in_the_planted_proportions():
    rng = np.random.RandomState(0)
    Z, V, b = rng.standard_normal((3, 2)), rng.standard_normal((12, 2)), rng.standard_normal(12)
    n = 200_000
    X = _generators._draw_rows(Z, V, b, np.full(3, n), rng, block_size=2)
    pi = softmax(b + Z @ V.T)
    assert X.sum(1).tolist() == [n] * 3
    error = (X.toarray() / n - pi) / np.sqrt(pi * (1 - pi) / n)  # standard errors: 36 normal numbers
    assert abs(error).max() < 4.5
    assert 0.5 < error.std() < 1.5


@pytest.mark.parametrize(("uniform", "item"), [(0.0, 0), (1 - 2.0**-53, 3), (0.25, 1), (0.2499, 0)])
def test_draws_at_the_borders_stay_in_their_row(uniform, item):
    class Stub:
        def random_sample(self, n):
            return np.full(n, uniform)

    cells = _generators._draw_cells(np.zeros((3, 4)), np.array([1, 2, 1]), Stub())
    assert cells.tolist() == [item, 4 + item, 4 + item, 8 + item]


def test_returned_factors_are_those_of_the_draw():
    X, Z, V, b = make_interactions(
        400, 30, n_factors=3, mean_interactions=300, binary=False, return_factors=True, random_state=0
    )
    N = X.sum(1)
    # Squared errors in units of the multinomial variance are 1 on average, and far more with another user's taste.
    assert squared_errors(X.toarray(), N, softmax(b + Z @ V.T)) == pytest.approx(1, abs=0.1)
    assert squared_errors(X.toarray(), N, softmax(b + Z[::-1] @ V.T)) > 5


def test_parameters_are_the_spreads_and_the_mean_they_say():
    X, Z, V, b = make_interactions(
        20_000,
        500,
        n_factors=4,
        mean_interactions=9,
        popularity=0.5,
        strength=1.5,
        binary=False,
        return_factors=True,
        random_state=0,
    )
    N = X.sum(1)
    assert N.min() == 1
    assert N.mean() == pytest.approx(9, rel=0.05)
    assert N.std() > 6  # a Poisson number of this mean: 3
    assert b.std() == pytest.approx(0.5, rel=0.1)
    assert (Z @ V.T).std() == pytest.approx(1.5, rel=0.15)


@pytest.mark.parametrize("cells", [1, 200, 7_000, 2**30])
def test_blocks_do_not_show(monkeypatch, cells):
    expected = make_interactions(150, 70, binary=False, random_state=3)
    monkeypatch.setattr(_generators, "_BLOCK_CELLS", cells)
    assert same(make_interactions(150, 70, binary=False, random_state=3), expected)


def test_the_first_rows_of_a_longer_draw_are_the_shorter_one():
    assert same(make_interactions(500, 80, random_state=1)[:90], make_interactions(90, 80, random_state=1))


def test_binary_marks_what_was_counted():
    counts = make_interactions(100, 40, binary=False, random_state=0)
    marks = make_interactions(100, 40, random_state=0)
    assert counts.data.max() > 1
    assert np.array_equal(marks.toarray(), counts.toarray() > 0)
    assert marks.has_canonical_format
    assert marks.dtype == counts.dtype == np.float32
    assert marks.indices.dtype == np.int32


def test_random_state_is_scikit_learns():
    draw = make_interactions(50, 40, random_state=0)
    assert same(draw, make_interactions(50, 40, random_state=0))
    assert not same(draw, make_interactions(50, 40, random_state=1))
    assert same(draw, make_interactions(50, 40, random_state=np.random.RandomState(0)))
    shared = np.random.RandomState(0)
    assert same(draw, make_interactions(50, 40, random_state=shared))
    assert not same(draw, make_interactions(50, 40, random_state=shared))
    assert not same(make_interactions(50, 40), make_interactions(50, 40))


def test_true_scores_rank_far_better_than_popularity_which_is_better_than_chance():
    X, Z, V, b = make_interactions(400, 300, return_factors=True, random_state=0)
    train, test = X[:200], X[200:].toarray()

    def share_in_top_20(scores):
        top = np.argsort(-scores, axis=1)[:, :20]
        return np.take_along_axis(test, top, axis=1).sum() / test.sum()

    true = share_in_top_20((b + Z @ V.T)[200:])
    popular = share_in_top_20(np.tile(train.sum(0), (200, 1)))
    assert true > 1.5 * popular
    assert popular > 2 * 20 / 300


def test_without_strength_all_users_have_one_taste():
    _, Z, V, b = make_interactions(10, 20, strength=0, popularity=0, return_factors=True)
    assert not V.any()
    assert not b.any()


def test_extreme_sizes():
    assert make_interactions(1, 1).toarray().tolist() == [[1]]
    assert make_interactions(5, 3, mean_interactions=1, binary=False).sum(1).tolist() == [1] * 5
    assert np.isfinite(make_interactions(5, 50, popularity=1e3, strength=1e3).data).all()


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("n_users", 0, ValueError),
        ("n_users", 2.5, TypeError),
        ("n_items", -1, ValueError),
        ("n_factors", 0, ValueError),
        ("mean_interactions", 0.5, ValueError),
        ("mean_interactions", "many", TypeError),
        ("popularity", -1, ValueError),
        ("strength", np.inf, ValueError),
        ("strength", np.nan, ValueError),
        ("random_state", "seed", ValueError),
    ],
)
def test_bad_parameters_are_refused_by_name(name, value, error):
    with pytest.raises(error, match="cannot be used to seed" if name == "random_state" else name):
        make_interactions(**{"n_users": 5, "n_items": 5, name: value})
