"""Novelty, popularity bias and the Gini index of recommended lists."""

import numpy as np
import pytest
import scipy.sparse as sp

from skvae import PopularityRecommender
from skvae.metrics import gini_index, novelty, popularity_bias


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return (rng.random((200, 12)) < np.linspace(0.05, 0.6, 12)).astype(float)


def test_lists_and_scores_say_the_same(X):
    scores = np.random.default_rng(1).normal(size=(30, 12))
    ranked = np.argsort(-scores, axis=1)
    for measure in (novelty, popularity_bias):
        from_scores = measure(scores, popularity=X, k=4)
        assert from_scores == pytest.approx(measure(ranked=ranked, popularity=sp.csr_array(X), k=4))
    assert gini_index(scores, k=4) == pytest.approx(gini_index(ranked=ranked, n_items=12, k=4))


def test_they_are_what_a_loop_computes(X):
    ranked = np.array([[3, 1, -1], [0, 5, 2], [3, 4, 5]])
    listed = [item for row in ranked for item in row if item >= 0]
    users = (X > 0).sum(0)
    assert novelty(ranked=ranked, popularity=X, k=3) == pytest.approx(np.mean(-np.log2(users[listed] / 200)))
    of_clicks = np.mean([users[item] for _, item in zip(*X.nonzero(), strict=True)])
    assert popularity_bias(ranked=ranked, popularity=X, k=3) == pytest.approx(np.mean(users[listed]) / of_clicks)
    often = np.bincount(listed, minlength=12)
    differences = np.abs(often[:, None] - often).sum()
    assert gini_index(ranked=ranked, n_items=12, k=3) == pytest.approx(differences / (2 * 12 * often.sum()))


def test_popular_lists_are_known_biased_and_uneven(X):
    popular, _ = PopularityRecommender().fit(X).recommend(np.zeros((50, 12)), k=3)
    even = np.array([np.roll(np.arange(12), user)[:3] for user in range(48)])
    assert novelty(ranked=popular, popularity=X, k=3) < novelty(ranked=even, popularity=X, k=3)
    assert popularity_bias(ranked=popular, popularity=X, k=3) > 1 > popularity_bias(ranked=even, popularity=X, k=3)
    assert gini_index(ranked=even, n_items=12, k=3) == pytest.approx(0, abs=1e-12)
    assert gini_index(ranked=popular, n_items=12, k=3) == pytest.approx(0.75)


def test_an_item_that_nobody_has_is_as_new_as_one_of_one_user():
    X = np.array([[1, 0], [1, 0], [1, 0], [1, 0]])
    assert novelty(ranked=[[1]], popularity=X, k=1) == 2.0


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        (novelty, {"ranked": [[0]], "popularity": np.zeros((3, 2))}, "no interaction"),
        (novelty, {"popularity": np.ones((3, 2))}, "exactly one"),
        (novelty, {"ranked": [[-1]], "popularity": np.ones((3, 2)), "k": 1}, "No item is recommended"),
        (popularity_bias, {"ranked": [[5]], "popularity": np.ones((3, 2)), "k": 1}, "5"),
        (gini_index, {"ranked": [[0]]}, "needs n_items"),
        (gini_index, {"ranked": [[0]], "n_items": 2, "k": 0}, "length of the list"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(**arguments)
