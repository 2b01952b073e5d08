"""What `MultVAERecommender` does with good input: fit, transform, recommend, predict, score, posterior, elbo."""

from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skvae import MultVAERecommender
from skvae.datasets import make_interactions
from skvae.estimators._base import Estimator
from skvae.estimators.recommenders._recommender import RecommenderMixin
from skvae.metrics import content_holdout, holdout_split, make_ranking_scorer, ndcg_at_k

N_USERS, N_ITEMS = 60, 15
METHODS = ["decision_function", "transform", "posterior", "elbo", "predict", "recommend", "score"]


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, n_factors=2, mean_interactions=6, random_state=0).astype(np.float64)


@pytest.fixture(scope="module")
def model(X):
    return MultVAERecommender(4, hidden_layer_sizes=(6,), max_iter=10, random_state=0).fit(X)


def tiny(n_components=3, **parameters):
    return MultVAERecommender(n_components, **{"max_iter": 3, "batch_size": 50, "random_state": 0, **parameters})


def per_user(model, method, X, **arguments):
    """What a method returns, as a tuple of arrays whose first axis is the users."""
    found = getattr(model, method)(X, **arguments)
    return found if isinstance(found, tuple) else (found,)


def brute_force(scores, k, allowed):
    """The k best allowed columns of each row, ties to the lower one, padded with -1 and -inf."""
    ids, values = np.full((len(scores), k), -1), np.full((len(scores), k), -np.inf)
    for user, row in enumerate(scores):
        best = [item for item in np.argsort(-row, kind="stable") if allowed[user, item]][:k]
        ids[user, : len(best)], values[user, : len(best)] = best, row[best]
    return ids, values


# ------------------------------------------------------------------------------------------------ the fitted estimator
@pytest.mark.parametrize("method", METHODS + ["get_feature_names_out"])
def test_every_method_asks_for_fit_first(method, X):
    arguments = () if method == "get_feature_names_out" else (X,)
    with pytest.raises(NotFittedError, match="MultVAERecommender instance is not fitted yet"):
        getattr(tiny(), method)(*arguments)


def test_fit_leaves_the_documented_attributes(model, X):
    assert model.n_features_in_ == N_ITEMS
    assert not hasattr(model, "feature_names_in_")
    assert type(model.n_iter_) is int and model.n_iter_ == model.max_iter
    assert model.lower_bounds_.shape == (model.n_iter_,)
    assert np.isfinite(model.lower_bounds_).all()
    assert model.validation_scores_.shape == (0,)
    assert type(model.device_) is str
    assert {name for name in vars(model) if not name.startswith("_") and not name.endswith("_")} == set(
        model.get_params()
    )


def test_a_longer_fit_raises_the_bound(X):
    start, end = tiny(max_iter=60, beta=1.0, dropout=0.0, annealing=None).fit(X).lower_bounds_[[0, -1]]
    assert end > start + 0.1


def test_lower_bounds_are_the_mean_elbo_of_the_users(X):
    model = tiny(max_iter=80, beta=1.0, dropout=0.0).fit(X)  # without dropout and near rest, an epoch is an evaluation
    assert model.lower_bounds_[-10:].mean() == pytest.approx(model.elbo(X).mean(), abs=0.1)


def test_fit_transform_is_fit_then_transform(X):
    np.testing.assert_array_equal(tiny().fit_transform(X), tiny().fit(X).transform(X))


def test_y_is_ignored_in_fit(X):
    with_y = tiny().fit(X, np.arange(N_USERS))
    np.testing.assert_array_equal(with_y.decision_function(X), tiny().fit(X).decision_function(X))


def test_a_refit_forgets_the_first_fit(X, model):
    again = clone(model).fit(X[:30, :7]).fit(X)
    assert again.n_features_in_ == N_ITEMS and again.n_iter_ == model.n_iter_
    np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))


# ----------------------------------------------------------------------------------- a user's result is that user's own
@pytest.mark.parametrize("method", METHODS[:-1])
def test_a_user_does_not_depend_on_the_batch(method, model, X):
    together = per_user(model, method, X)
    apart = zip(*(per_user(model, method, X[[user]]) for user in range(N_USERS)))
    for whole, parts in zip(together, apart):
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS[:-1])
def test_a_user_does_not_depend_on_the_order(method, model, X):
    order = np.random.RandomState(0).permutation(N_USERS)
    for whole, shuffled in zip(per_user(model, method, X), per_user(model, method, X[order])):
        np.testing.assert_allclose(shuffled, whole[order], rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS[:-1])
def test_the_blocks_in_which_users_are_scored_do_not_show(method, model, X, monkeypatch):
    whole = per_user(model, method, X)
    monkeypatch.setattr("skvae._tensors._block_sizes._BLOCK_CELLS", 4 * N_ITEMS)
    for found, expected in zip(per_user(model, method, X), whole):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


def test_recommend_never_scores_all_users_at_once(model, X, monkeypatch):
    seen = []
    scorer = type(model)._scorer

    def spied(self, X):
        return lambda block: seen.append(block.shape[0]) or scorer(self, X)(block)

    monkeypatch.setattr("skvae._tensors._block_sizes._BLOCK_CELLS", 4 * N_ITEMS)
    monkeypatch.setattr(type(model), "_scorer", spied)
    model.recommend(X)
    assert sum(seen) == N_USERS and max(seen) <= 4


@pytest.mark.parametrize("method", METHODS)
def test_x_is_left_as_it_was(method, model, X):
    given = X.copy()
    getattr(model, method)(given)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(given, part), getattr(X, part))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "method", ["decision_function", "transform", "posterior", "elbo", "recommend", "fit_transform"]
)
def test_the_input_dtype_comes_back(method, dtype, model, X):
    estimator = tiny() if method == "fit_transform" else model
    assert per_user(estimator, method, X.astype(dtype))[-1].dtype == dtype


def test_float32_and_float64_agree(model, X):
    single = model.decision_function(X.astype(np.float32))
    np.testing.assert_allclose(single, model.decision_function(X), atol=1e-4)


def test_the_length_of_a_row_tells_the_posterior_nothing(model, X):
    """The input is normalised: twice the clicks on the same items are the same taste."""
    for there, here in zip(model.posterior(3 * X), model.posterior(X)):
        np.testing.assert_allclose(there, here, atol=1e-10)


# ---------------------------------------------------------------------------------------------- recommend and predict
@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("k", [1, 4, N_ITEMS, N_ITEMS + 3])
def test_recommend_agrees_with_a_full_sort(k, exclude_seen, model, X):
    scores = model.decision_function(X)
    allowed = X.toarray() == 0 if exclude_seen else np.ones(X.shape, dtype=bool)
    ids, values = model.recommend(X, k, exclude_seen=exclude_seen)
    expected_ids, expected_values = brute_force(scores, k, allowed)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected_values)
    assert ids.dtype == np.int64 and ids.shape == values.shape == (N_USERS, k)


@pytest.mark.parametrize(
    "items, filter_items",
    [([1, 4, 8, 9], None), (None, [0, 3, 14]), ([1, 4, 8, 9], [8]), (np.arange(N_ITEMS) % 2 == 0, [2]), (None, [3, 3])],
)
def test_items_and_filter_items_agree_with_a_full_sort(items, filter_items, model, X):
    allowed = X.toarray() == 0
    every = np.arange(N_ITEMS)
    allowed &= np.isin(every, every if items is None else every[np.asarray(items)])
    allowed &= ~np.isin(every, [] if filter_items is None else every[np.asarray(filter_items)])
    ids, values = model.recommend(X, 6, items=items, filter_items=filter_items)
    expected_ids, expected_values = brute_force(model.decision_function(X), 6, allowed)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, expected_values)


def test_predict_is_the_best_unseen_item(model, X):
    scores = np.where(X.toarray() > 0, -np.inf, model.decision_function(X))
    np.testing.assert_array_equal(model.predict(X), scores.argmax(axis=1))
    np.testing.assert_array_equal(model.predict(X), model.recommend(X, 1)[0][:, 0])


def test_decision_function_does_not_mask_what_was_seen(model, X):
    assert np.isfinite(model.decision_function(X)).all()


# ---------------------------------------------------------------------------------------------------------------- score
def test_score_hides_a_fifth_and_ranks_it(model, X):
    foldin, heldout = content_holdout(X, 0.2)
    scores = np.where(foldin.toarray() > 0, -np.inf, model.decision_function(foldin))
    assert model.score(X) == pytest.approx(ndcg_at_k(heldout, scores, k=100), abs=1e-12)


@pytest.mark.parametrize("container", [sp.csr_array, sp.coo_matrix, np.asarray, pd.DataFrame, list])
def test_score_takes_held_out_interactions_in_any_container(container, model, X):
    foldin, heldout = holdout_split(X, random_state=0)
    expected = make_ranking_scorer("ndcg", k=100)(model, foldin, heldout)
    given = heldout.toarray().tolist() if container is list else heldout.toarray()
    assert model.score(foldin, given if container is list else container(given)) == pytest.approx(expected, abs=1e-12)


def test_score_is_the_ranking_scorers(model, X):
    assert model.score(X) == pytest.approx(make_ranking_scorer("ndcg", k=100, holdout=0.2)(model, X), abs=1e-12)


def test_score_does_not_count_held_out_items_that_are_seen(model, X):
    foldin, heldout = holdout_split(X, random_state=0)
    both = make_ranking_scorer("ndcg", k=100)(model, foldin, X)
    assert both == pytest.approx(make_ranking_scorer("ndcg", k=100)(model, foldin, heldout))
    assert model.score(foldin, X) == pytest.approx(both, abs=1e-12)


def test_score_ignores_a_y_of_one_dimension(model, X):
    assert model.score(X, np.arange(N_USERS)) == model.score(X, list(range(N_USERS))) == model.score(X)


def test_score_is_a_float_that_ignores_the_order_of_the_users(model, X):
    order = np.random.RandomState(1).permutation(N_USERS)
    assert type(model.score(X)) is float
    assert model.score(X[order]) == pytest.approx(model.score(X), abs=1e-12)


def test_score_leaves_out_users_without_held_out_interactions(model, X):
    one_each = sp.csr_array(np.eye(N_ITEMS))
    assert model.score(sp.vstack([X, one_each]).tocsr()) == pytest.approx(model.score(X), abs=1e-12)


# -------------------------------------------------------------------------------------------------- posterior and elbo
def test_transform_is_the_posterior_mean(model, X):
    mean, std = model.posterior(X)
    np.testing.assert_array_equal(model.transform(X), mean)
    assert mean.shape == std.shape == (N_USERS, 4)
    assert (std > 0).all() and mean.std() > 0


def test_elbo_takes_the_kl_of_the_posterior(X):
    """Where the decoder ignores z, the bound is log p(x) - KL(q || prior): both known."""
    model = tiny(beta=0.0).fit(X)
    for name in ("decoder.0.weight",):
        model.parameters_[name] = np.zeros_like(model.parameters_[name])
    mean, std = model.posterior(X)
    kl = 0.5 * (mean**2 + std**2 - 1 - np.log(std**2)).sum(axis=1)
    bias = model.parameters_["decoder.0.bias"].astype(np.float64)
    log_share = bias - np.log(np.exp(bias).sum())
    counts = X.toarray().astype(int)  # zeros and ones, so that the coefficient is N!
    factorial = np.array([np.log(np.arange(1, n + 1)).sum() for n in counts.sum(axis=1)])
    np.testing.assert_allclose(model.elbo(X), factorial + counts @ log_share - kl, rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_clicks", [1, 2])
def test_elbo_bounds_a_distribution_over_all_rows(n_clicks, X):
    """The bounds of all rows of n clicks, exponentiated, sum to one at most: p(x) sums to one."""
    model = tiny(4, max_iter=60, beta=1.0).fit(X[:, :8])
    rows = np.zeros((0, 8))
    for items in combinations_with_replacement(range(8), n_clicks):
        rows = np.vstack([rows, np.bincount(items, minlength=8)])
    assert 0.1 < np.exp(model.elbo(rows)).sum() < 1 + 1e-3


def test_elbo_gives_the_same_at_every_call(model, X):
    np.testing.assert_array_equal(model.elbo(X), model.elbo(X))


# ------------------------------------------------------------------------------------------------ names and data frames
def test_data_frames_and_set_output(X):
    frame = pd.DataFrame(X.toarray(), columns=[f"song {i}" for i in range(N_ITEMS)], index=range(100, 100 + N_USERS))
    model = tiny().set_output(transform="pandas").fit(frame)
    assert list(model.feature_names_in_) == list(frame.columns)
    embedded = model.transform(frame)
    assert list(embedded.columns) == [f"multvaerecommender{i}" for i in range(3)] == list(model.get_feature_names_out())
    assert list(embedded.index) == list(frame.index)
    np.testing.assert_array_equal(embedded, tiny().fit(X).transform(X))
    ids, _ = model.recommend(frame, 2)
    assert isinstance(ids, np.ndarray)


def test_a_sparse_data_frame_is_a_matrix_like_others(X):
    frame = pd.DataFrame.sparse.from_spmatrix(sp.csr_matrix(X), columns=[f"song {i}" for i in range(N_ITEMS)])
    scores = tiny().fit(frame).decision_function(frame)
    np.testing.assert_allclose(scores, tiny().fit(X).decision_function(X), rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------- validation, early stopping
def test_x_val_logs_its_score_and_the_best_epoch_is_kept(X):
    train, val = X[:40].astype(np.float32), X[40:].astype(np.float32)
    model = tiny(max_iter=40, learning_rate=0.2, n_iter_no_change=4, learning_rate_schedule="constant")
    model.fit(train, X_val=val)
    scores = model.validation_scores_
    assert scores.shape == (model.n_iter_,) and model.n_iter_ < 40
    assert scores[9:].argmax() < len(scores[9:]) - 1  # else nothing would show which epoch was kept
    assert model.score(val) == pytest.approx(scores[9:].max(), abs=1e-9)


def test_without_early_stopping_x_val_is_only_logged(X):
    model = tiny(max_iter=6, early_stopping=False).fit(X, X_val=X[:20])
    assert model.validation_scores_.shape == (6,)
    np.testing.assert_array_equal(model.decision_function(X), tiny(max_iter=6).fit(X).decision_function(X))


@pytest.mark.parametrize(
    "parameters, full_beta_at",
    [
        (dict(annealing="linear", anneal_fraction=0.5), 10),
        (dict(annealing="sigmoid", anneal_fraction=0.25), 5),
        (dict(annealing="cyclical", anneal_fraction=0.25, n_cycles=4), 17),
        (dict(annealing=lambda fraction: fraction, anneal_fraction=0.9), 18),
        (dict(annealing=None), 1),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else str(value["annealing"])[:9],
)
def test_nothing_stops_before_the_annealing_ends(parameters, full_beta_at, X):
    """At a learning rate of nothing no epoch is better than the first that counts."""
    model = tiny(max_iter=20, learning_rate=1e-12, n_iter_no_change=2, **parameters).fit(X, X_val=X[:20])
    assert model.n_iter_ == min(20, full_beta_at + 2)


def test_annealing_ends_with_the_fit_at_the_latest(X):
    model = tiny(max_iter=8, anneal_fraction=1.0, n_iter_no_change=1).fit(X, X_val=X[:20])
    assert model.n_iter_ == 8


def test_early_stopping_sets_its_own_users_aside(X):
    model = tiny(early_stopping=True, validation_fraction=0.3, max_iter=5).fit(X)
    assert 1 <= len(model.validation_scores_) == model.n_iter_


def test_beta_pulls_the_posterior_to_the_prior(X):
    free, bound = (tiny(max_iter=100, beta=beta, annealing=None).fit(X).transform(X) for beta in (0.0, 100.0))
    assert np.abs(bound).mean() < 0.5 * np.abs(free).mean()


def test_a_callable_annealing_is_given_the_fraction_of_the_steps(X):
    seen = []
    tiny(max_iter=4, batch_size=20, annealing=lambda fraction: seen.append(fraction) or 1.0).fit(X)
    steps = 4 * int(np.ceil(len(np.unique(X.toarray(), axis=0)) / 20))  # equal users are one row of twice the weight
    np.testing.assert_allclose(sorted(set(seen) - {1.0}), np.arange(steps) / steps)


@pytest.mark.parametrize(
    "name, formula",
    [
        ("linear", lambda fraction: min(1.0, fraction / 0.5)),
        ("cyclical", lambda fraction: min(1.0, 2 * fraction % 1 / 0.5)),
        (None, lambda fraction: 1.0),
    ],
    ids=["linear", "cyclical", "None"],
)
def test_the_names_of_annealing_are_the_formulas(name, formula, X):
    common = dict(anneal_fraction=0.5, n_cycles=2, beta=0.7, max_iter=6)
    named, spelt = (tiny(annealing=annealing, **common).fit(X) for annealing in (name, formula))
    np.testing.assert_allclose(named.decision_function(X), spelt.decision_function(X), rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- parameters
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu", "silu"])
def test_every_activation_fits(activation, X):
    scores = tiny(activation=activation, hidden_layer_sizes=(5,)).fit(X).decision_function(X)
    other = tiny(activation="tanh" if activation != "tanh" else "relu", hidden_layer_sizes=(5,)).fit(X)
    assert np.isfinite(scores).all() and not np.allclose(scores, other.decision_function(X))


@pytest.mark.parametrize("sizes", [(), [], (7,), [7, 5], np.array([7]), 7])
def test_hidden_layer_sizes_in_any_container(sizes, X):
    expected = [int(size) for size in np.atleast_1d(np.asarray(sizes, dtype=int))]
    model = tiny(hidden_layer_sizes=sizes).fit(X)
    widths = [model.parameters_[f"encoder.{layer}.bias"].size for layer in range(len(expected))]
    assert widths == expected


def test_the_published_setting_runs(X):
    model = MultVAERecommender(
        200,
        hidden_layer_sizes=(600,),
        activation="tanh",
        dropout=0.5,
        beta=0.2,
        annealing="linear",
        anneal_fraction=1.0,
        weight_decay=0.0,
        learning_rate=1e-3,
        learning_rate_schedule="constant",
        batch_size=500,
        max_iter=5,
        random_state=0,
    ).fit(X)
    assert model.parameters_["encoder.0.weight"].shape == (N_ITEMS, 600)
    assert model.parameters_["encoder.1.weight"].shape == (600, 400)
    assert model.parameters_["decoder.0.weight"].shape == (200, 600)
    assert model.transform(X).shape == (N_USERS, 200)


def test_weight_decay_shrinks_the_weights(X):
    def size(weight_decay):
        fitted = tiny(max_iter=300, weight_decay=weight_decay).fit(X)
        return np.linalg.norm(fitted.parameters_["decoder.0.weight"])

    assert size(1.0) < 0.5 * size(0.0)


def test_confidence_matters_for_the_gaussian_likelihood_only(X):
    def scores(likelihood, confidence):
        return tiny(likelihood=likelihood, confidence=confidence, max_iter=10).fit(X).decision_function(X)

    assert not np.allclose(scores("gaussian", (1.0, 2.0)), scores("gaussian", (1.0, 30.0)))
    np.testing.assert_array_equal(scores("multinomial", (1.0, 2.0)), scores("multinomial", (1.0, 30.0)))


@pytest.mark.parametrize("verbose, lines", [(0, 0), (1, 5), (2, 20)])
def test_verbose_prints_a_line_an_interval(verbose, lines, X, capsys):
    tiny(max_iter=20, verbose=verbose, early_stopping=False).fit(X, X_val=X[:20])
    *printed, end, kept = capsys.readouterr().out.splitlines() or ["", ""]
    assert len(printed) == lines
    if lines:
        assert end == "[MultVAERecommender] ended: max_iter was reached"
        assert kept == "[MultVAERecommender] kept the network of the last epoch, 20"
    for line in printed:
        assert line.startswith("[MultVAERecommender] epoch ") and "bound" in line and "validation score" in line
    assert not lines or "epoch 20/20" in printed[-1]


# ------------------------------------------------------------------------------------------------------- it recommends
@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli", "gaussian"])
def test_the_withheld_cell_of_a_checkerboard_ranks_first(likelihood):
    """Users like all even items or all odd ones; one item of the right colour is withheld from each."""
    n_users, n_items = 40, 12
    colour = np.arange(n_users) % 2
    board = (np.arange(n_items) % 2 == colour[:, None]).astype(float)
    withheld = 2 * (np.arange(n_users) // 2 % (n_items // 2)) + colour
    board[np.arange(n_users), withheld] = 0
    model = tiny(4, likelihood=likelihood, max_iter=80, learning_rate=0.02).fit(board)
    np.testing.assert_array_equal(model.predict(board), withheld)
    assert model.score(board, np.eye(n_items)[withheld]) == 1.0
    assert np.isfinite(model.elbo(board)).all()


def test_planted_tastes_are_found_in_new_users():
    X, Z, V, b = make_interactions(
        1000, 60, n_factors=3, mean_interactions=20, popularity=1.0, return_factors=True, random_state=0
    )
    model = MultVAERecommender(8, random_state=0).fit(X[:800])
    foldin, heldout = content_holdout(X[800:])
    hidden = foldin.toarray() == 0
    best = ndcg_at_k(heldout, np.where(hidden, b + Z[800:] @ V.T, -np.inf), k=100)
    popularity = ndcg_at_k(heldout, np.where(hidden, np.asarray(X[:800].sum(axis=0)).ravel(), -np.inf), k=100)
    assert model.score(X[800:]) > popularity + 0.75 * (best - popularity)


def test_a_user_without_interactions_is_shown_what_is_popular(X):
    model = MultVAERecommender(4, random_state=0).fit(X)
    nobody = sp.csr_array((1, N_ITEMS))
    clicks = np.asarray(X.sum(axis=0)).ravel()
    assert spearmanr(model.decision_function(nobody)[0], clicks).statistic > 0.8
    assert np.isin(model.recommend(nobody, 3)[0][0], np.argsort(-clicks)[:5]).all()


class SameForAll(RecommenderMixin, Estimator):
    """Every user has the same scores, in one memory."""

    def __init__(self, dtype=torch.float64):
        self.dtype = dtype

    def fit(self, X, y=None):
        return self._set(popularity_=self._check_X(X, reset=True).sum(axis=0))

    def _scorer(self, X):
        return lambda users: torch.from_numpy(self.popularity_).to(self.dtype).expand(users.shape[0], -1)


def test_scores_in_one_memory_are_masked_user_by_user():
    X = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0]])
    ids, _ = SameForAll().fit(X).recommend(X[:2], k=2)
    assert ids.tolist() == [[1, 2], [0, 2]]
    with pytest.raises(TypeError, match="must return a function to a Tensor of floats, but got Tensor of torch.int64"):
        SameForAll(torch.int64).fit(X).recommend(X)
