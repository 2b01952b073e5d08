"""Laws of the Bernoulli and categorical mixture: the model against brute force, then its scikit-learn face."""

import pickle
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from skvae._tensors import Table
from skvae.engines import em
from skvae.estimators.mixtures.bernoulli import BernoulliMixtureEM
from skvae.models.mixtures.bernoulli_mixture import BernoulliMixture

CPU = torch.device("cpu")
LEVELS = {"binary": (2, 2, 2, 2, 2), "levels": (3, 2, 4, 1, 2), "ternary": (3, 3, 3, 3, 3)}


# ------------------------------------------------------------------------------------------------------------ the model
def draw(n, levels, K, seed, missing=0.0):
    """Rows from a planted mixture, with its proportions and tables of probabilities (one (K, C) a column)."""
    generator = np.random.default_rng(seed)
    pi = generator.dirichlet(np.full(K, 5.0))
    tables = [generator.dirichlet(np.full(count, 0.7), K) for count in levels]
    z = generator.choice(K, n, p=pi)
    X = np.stack([(generator.random(n)[:, None] > table[z].cumsum(1)[:, :-1]).sum(1) for table in tables], axis=1)
    X = X.astype(float)
    X[generator.random(X.shape) < missing] = np.nan
    return X, pi, tables


def batches_of(X, weight=None, size=64):
    return Table(X, CPU, weight=weight).batches(size)


def started(model, batches, seed=0):
    """Parameters from responsibilities that are a function of the row's number alone."""

    def R(batch):
        share = np.random.default_rng(seed).random((10_000, model.n_components))[batch.row.numpy()]
        return torch.from_numpy((share / share.sum(1, keepdims=True)).T.copy())

    return model.m_step(em.summed(lambda batch: model.stats_from_responsibilities(batch, R(batch)), batches), None)


def climb(model, X, weight=None, *, size=64, max_iter=100, accelerate=False, seed=0):
    batches = batches_of(X, weight, size)
    total = len(X) if weight is None else weight.sum()
    plan = em.Plan(max_iter, lambda step: False, total, accelerate)
    return em.ascend(model, batches, [started(model, batches, seed)], plan=plan)


def brute_log_px(X, pi, tables):
    """log sum_k pi_k prod_d theta_kd[x_d], cell by cell."""
    log_px = []
    for row in X:
        terms = [
            np.log(pi[k]) + sum(np.log(table[k][int(x)]) for x, table in zip(row, tables) if not np.isnan(x))
            for k in range(len(pi))
        ]
        log_px.append(logsumexp(terms))
    return np.array(log_px)


def model_log_px(model, X, params):
    out = np.empty(len(X))
    for batch in batches_of(X, size=7):
        out[batch.row.numpy()] = model.log_joint(batch, params).logsumexp(0).numpy()
    return out


def brute_tables(model, params):
    table = model.probabilities(params).numpy()
    return [table[:, d, :count] for d, count in enumerate(model.n_levels or [2] * table.shape[1])]


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_em_never_lowers_the_bound(levels, missing, accelerate, seed):
    X, *_ = draw(150, levels, 3, seed, missing)
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, len(X))
    model = BernoulliMixture(3, alpha=[1e-3, 1.0][seed % 2], n_levels=levels)
    bounds = climb(model, X, weight, max_iter=80, size=100, accelerate=accelerate, seed=seed).lower_bounds
    assert np.diff(bounds).min() >= -1e-12 * abs(bounds[-1])
    assert bounds[-1] > bounds[0] + 1e-3


def test_acceleration_reaches_the_same_bound_in_fewer_steps():
    X, *_ = draw(500, (2,) * 8, 3, 0)
    model = BernoulliMixture(3)
    plain = climb(model, X, max_iter=800, size=500).lower_bounds
    quick = climb(model, X, max_iter=800, size=500, accelerate=True).lower_bounds
    assert quick[-1] >= plain[-1] - 1e-9
    assert np.argmax(np.array(quick) > plain[-1] - 1e-7) < 0.6 * np.argmax(np.array(plain) > plain[-1] - 1e-7)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_the_likelihood_is_that_of_the_cells_one_by_one(levels):
    X, *_ = draw(60, levels, 3, 0, missing=0.3)
    X[5] = np.nan
    model = BernoulliMixture(3, n_levels=levels)
    params = climb(model, X, max_iter=5).params
    brute = brute_log_px(X, params.pi.numpy(), brute_tables(model, params))
    np.testing.assert_allclose(model_log_px(model, X, params), brute, rtol=0, atol=1e-12)
    assert abs(brute[5]) < 1e-15


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_the_probabilities_of_all_rows_there_could_be_sum_to_one(levels):
    X, *_ = draw(60, levels, 2, 1)
    model = BernoulliMixture(2, n_levels=levels)
    params = climb(model, X, max_iter=5).params
    everything = np.array(list(product(*map(range, levels))), dtype=float)
    assert np.exp(model_log_px(model, everything, params)).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_a_row_with_missing_cells_is_as_likely_as_all_its_completions_together(levels):
    X, *_ = draw(80, levels, 3, 2, missing=0.4)
    model = BernoulliMixture(3, n_levels=levels)
    params = climb(model, X, max_iter=5).params
    for row, log_px in zip(X, model_log_px(model, X, params)):
        choices = [range(count) if np.isnan(x) else [x] for x, count in zip(row, levels)]
        completions = np.array(list(product(*choices)), dtype=float)
        assert logsumexp(model_log_px(model, completions, params)) == pytest.approx(log_px, abs=1e-12)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_statistics_add(levels, missing):
    X, *_ = draw(100, levels, 3, 3, missing)
    model = BernoulliMixture(3, n_levels=levels)
    params = climb(model, X, max_iter=3).params
    whole, _ = em.collect(model, batches_of(X, size=100), params)
    parts, _ = em.collect(model, batches_of(X, size=9), params)
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_integer_weights_are_repeated_rows():
    X, *_ = draw(50, LEVELS["levels"], 2, 4, missing=0.2)
    repeats = np.random.default_rng(0).integers(0, 4, len(X))
    model = BernoulliMixture(2, n_levels=LEVELS["levels"])
    start = started(model, batches_of(X))
    plan = em.Plan(30, lambda step: False, repeats.sum())
    weighted = em.ascend(model, batches_of(X, repeats.astype(float)), [start], plan=plan)
    repeated = em.ascend(model, batches_of(np.repeat(X, repeats, axis=0)), [start], plan=plan)
    np.testing.assert_allclose(weighted.lower_bounds, repeated.lower_bounds, rtol=1e-12)
    for a, b in zip(weighted.params, repeated.params):
        np.testing.assert_allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_one_component_is_the_smoothed_share_of_each_level(levels):
    X, *_ = draw(70, levels, 2, 5, missing=0.25)
    weight = np.random.default_rng(5).uniform(0, 2, len(X))
    model = BernoulliMixture(1, alpha=0.3, n_levels=levels)
    tables = brute_tables(model, climb(model, X, weight, max_iter=1).params)
    for d, count in enumerate(levels):
        at = np.array([weight[X[:, d] == c].sum() for c in range(count)]) + 0.3
        np.testing.assert_allclose(tables[d][0], at / at.sum(), rtol=1e-12)


def test_an_independent_optimiser_finds_the_same_maximum():
    """Of log-likelihood plus log-prior, over logits, by quasi-Newton steps that know nothing of EM."""
    X, *_ = draw(60, (2, 2, 2, 2), 2, 6, missing=0.1)
    alpha, K, D = 0.1, 2, 4

    def negative(free):
        pi, mu = softmax(np.append(free[: K - 1], 0)), 1 / (1 + np.exp(-free[K - 1 :].reshape(K, D)))
        log_p = np.where(np.isnan(X[:, None]), 0, np.where(X[:, None] == 1, np.log(mu), np.log(1 - mu))).sum(2)
        return -logsumexp(log_p + np.log(pi), axis=1).sum() - alpha * (np.log(mu) + np.log(1 - mu)).sum()

    fit = climb(BernoulliMixture(K, alpha), X, max_iter=1000, accelerate=True, seed=1)
    at_end = np.concatenate([[float((fit.params.pi[0] / fit.params.pi[1]).log())], fit.params.log_odds.numpy().ravel()])
    assert -negative(at_end) == pytest.approx(len(X) * fit.lower_bounds[-1], abs=1e-6)
    nearby = at_end + 0.3 * np.random.default_rng(0).standard_normal(len(at_end))
    found = minimize(negative, nearby, method="BFGS", options={"gtol": 1e-6})
    assert -found.fun == pytest.approx(len(X) * fit.lower_bounds[-1], abs=1e-5)


@pytest.mark.parametrize("levels", [(2,) * 12, (3,) * 10, (2, 4) * 5], ids=str)
def test_planted_parameters_are_recovered(levels):
    X, pi, tables = draw(3000, levels, 3, 7, missing=0.1)
    model = BernoulliMixture(3, n_levels=levels)
    fits = [climb(model, X, size=3000, max_iter=60, accelerate=True, seed=seed) for seed in range(3)]
    params = max(fits, key=lambda fit: fit.lower_bounds[-1]).params
    found = brute_tables(model, params)
    distance = sum(np.abs(a[:, None] - b[None]).sum(2) for a, b in zip(found, tables))
    match = distance.argmin(0)
    assert sorted(match) == [0, 1, 2]
    np.testing.assert_allclose(params.pi.numpy()[match], pi, atol=0.03)
    for a, b in zip(found, tables):
        np.testing.assert_allclose(a[match], b, atol=0.08)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_free_reals_lead_back(levels):
    X, *_ = draw(50, levels, 3, 8)
    model = BernoulliMixture(3, n_levels=levels)
    params = climb(model, X, max_iter=20).params
    again = model.from_free(model.to_free(params), params)
    for a, b in zip(params, again):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_statistics_of_parameters_lead_back(levels):
    X, *_ = draw(50, levels, 3, 9)
    model = BernoulliMixture(3, n_levels=levels)
    params = climb(model, X, max_iter=20).params
    again = model.m_step(model.stats_from_params(params, 50.0), params)
    np.testing.assert_allclose(again.pi, params.pi, rtol=1e-9)
    np.testing.assert_allclose(again.theta, params.theta, rtol=1e-9, atol=1e-12)


def test_binary_columns_are_two_levels():
    X, *_ = draw(60, (2, 2, 2, 2, 3), 2, 10, missing=0.2)
    X[:, 4] = np.minimum(X[:, 4], 1)
    binary = climb(BernoulliMixture(2), X[:, :4]).lower_bounds
    with_a_constant = np.column_stack([X[:, :4], np.zeros(len(X))])
    levels = climb(BernoulliMixture(2, n_levels=(2, 2, 2, 2, 1)), with_a_constant).lower_bounds
    np.testing.assert_allclose(levels, binary, rtol=1e-12)


def test_rows_far_from_every_component_neither_underflow_nor_lose_digits():
    X = np.vstack([np.zeros((3, 3000)), np.ones((3, 3000))])
    model = BernoulliMixture(2, alpha=1e-3)
    start = model.params(torch.tensor([0.5, 0.5]), torch.tensor([[0.1], [0.9]]).expand(2, 3000).double())
    fit = em.ascend(model, batches_of(X), [start], plan=em.Plan(20, lambda step: False, 6))
    assert np.isfinite(fit.lower_bounds).all()
    assert np.exp(fit.params.log_rest[0, 0].item()) == pytest.approx(3.001 / 3.002, rel=1e-9)
    expected = np.log(0.5) + 3000 * np.log(3.001 / 3.002)
    np.testing.assert_allclose(model_log_px(model, X, fit.params), expected, rtol=1e-9)


def test_given_probabilities_of_zero_and_one_become_tiny():
    model = BernoulliMixture(2)
    params = model.params(torch.tensor([1.0, 0.0]).double(), torch.tensor([[0.0, 1.0], [0.5, 0.5]]).double())
    assert all(torch.isfinite(values).all() for values in params)
    assert np.isfinite(model_log_px(model, np.array([[1.0, 0.0], [0.0, 1.0]]), params)).all()


# ------------------------------------------------------------------------------------------------------------- the face
ENOUGH = dict(n_init=1, tol=1e-3, max_iter=500, random_state=0)


def drawn(n=400, D=8, K=3, seed=0, missing=0.0):
    return draw(n, (2,) * D, K, seed, missing)[0]


def tables_of(mixture):
    """A (K, C) table of probabilities for each column."""
    if mixture.categories_ is None:
        return [np.stack([1 - mean, mean], axis=1) for mean in mixture.means_.T]
    return np.split(mixture.means_, np.cumsum([len(c) for c in mixture.categories_])[:-1], axis=1)


def same_fit(one, other, atol=1e-9):
    assert one.n_iter_ == other.n_iter_
    np.testing.assert_allclose(one.lower_bounds_, other.lower_bounds_, rtol=1e-11)
    np.testing.assert_allclose(one.weights_, other.weights_, rtol=0, atol=atol)
    np.testing.assert_allclose(one.means_, other.means_, rtol=0, atol=atol)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_score_samples_is_the_likelihood_cell_by_cell(missing):
    X = drawn(missing=missing)
    mixture = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    brute = brute_log_px(X, mixture.weights_, tables_of(mixture))
    np.testing.assert_allclose(mixture.score_samples(X), brute, rtol=0, atol=1e-9)
    assert mixture.score(X) == pytest.approx(brute.mean(), abs=1e-12)
    weight = np.random.default_rng(0).uniform(0, 2, len(X))
    assert mixture.score(X, sample_weight=weight) == pytest.approx(np.average(brute, weights=weight), abs=1e-9)


def test_predict_proba_is_bayes_rule_and_predict_its_best():
    X = drawn(missing=0.3)
    mixture = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    tables = tables_of(mixture)
    joint = [brute_log_px(X, [1.0], [table[[k]] for table in tables]) + np.log(mixture.weights_[k]) for k in range(3)]
    expected = softmax(np.transpose(joint), axis=1)
    np.testing.assert_allclose(mixture.predict_proba(X), expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(mixture.predict(X), expected.argmax(1))
    assert mixture.predict(X).dtype == np.int64
    np.testing.assert_array_equal(mixture.fit_predict(X), mixture.predict(X))


def test_one_component_has_the_columns_means():
    X = drawn(missing=0.2)
    mixture = BernoulliMixtureEM(alpha=1e-9).fit(X)
    np.testing.assert_allclose(mixture.means_[0], np.nanmean(X, axis=0), rtol=1e-6)
    assert mixture.weights_ == 1.0
    assert mixture.lower_bound_ == pytest.approx(mixture.score(X), abs=1e-6)


def test_the_bound_is_the_score_plus_the_prior():
    X = drawn()
    mixture = BernoulliMixtureEM(3, tol=1e-12, max_iter=2000, alpha=0.5).fit(X)
    prior = 0.5 * (np.log(mixture.means_) + np.log(1 - mixture.means_)).sum() / len(X)
    assert mixture.lower_bound_ == pytest.approx(mixture.score(X) + prior, abs=1e-9)


@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("categorical", [None, "all"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_weights_repeats_order_and_batches_change_nothing(init_params, categorical, missing):
    X = drawn(300, missing=missing)
    generator = np.random.default_rng(1)
    repeats = generator.integers(0, 4, len(X))
    settings = dict(init_params=init_params, categorical_features=categorical, n_init=2, max_iter=200, random_state=3)
    weighted = BernoulliMixtureEM(2, **settings).fit(X, sample_weight=repeats)
    repeated = generator.permutation(np.repeat(X, repeats, axis=0))
    same_fit(weighted, BernoulliMixtureEM(2, **settings).fit(repeated))
    same_fit(weighted, BernoulliMixtureEM(2, batch_size=17, **settings).fit(repeated))


def test_batches_change_nothing_where_rows_are_many():
    """Too many for equal rows to be merged."""
    X = np.random.default_rng(0).integers(0, 2, (3000, 100)).astype(float)
    X[:1000, :50] = 1
    settings = dict(tol=0, max_iter=5, random_state=0)
    with pytest.warns(ConvergenceWarning):
        one, other = (BernoulliMixtureEM(3, batch_size=size, **settings).fit(X) for size in (123, 3000))
    same_fit(one, other)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_long_tables_of_few_distinct_rows_are_fitted_as_they_are(missing, weighted):
    """They are too long for `weigh` to merge their rows."""
    levels = (2, 3, 2, 4, 2, 2)
    X, *_ = draw(60_000, levels, 2, 0, missing)
    weight = np.random.default_rng(0).uniform(0, 2, len(X)) if weighted else None
    means = np.random.default_rng(1).uniform(0.2, 0.3, (2, sum(levels)))
    given = dict(weights_init=[0.4, 0.6], means_init=means)
    mixture = BernoulliMixtureEM(2, categorical_features="all", alpha=1e-3, tol=0, max_iter=15, **given)
    with pytest.warns(ConvergenceWarning):
        mixture.fit(X, sample_weight=weight)
    model = BernoulliMixture(2, alpha=1e-3, n_levels=levels)
    first = np.cumsum([0, *levels[:-1]])
    start = model.params(
        torch.tensor([0.4, 0.6], dtype=torch.float64), torch.from_numpy(np.delete(means, first, axis=1))
    )
    total = len(X) if weight is None else weight.sum()
    fit = em.ascend(model, batches_of(X, weight, 20_000), [start], plan=em.Plan(15, lambda step: False, total))
    np.testing.assert_allclose(mixture.lower_bounds_, fit.lower_bounds, rtol=1e-11)
    np.testing.assert_allclose(np.delete(mixture.means_, first, axis=1), fit.params.theta, rtol=1e-8)
    assert mixture.n_samples_seen_ == pytest.approx(total)


def test_predictions_for_some_rows_are_those_among_all():
    X = drawn(missing=0.2)
    mixture = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    for method in ("predict", "predict_proba", "score_samples", "impute"):
        whole = getattr(mixture, method)(X)
        np.testing.assert_allclose(getattr(mixture, method)(X[7:9]), whole[7:9], rtol=0, atol=1e-9)


@pytest.mark.parametrize("acceleration", [None, "squarem"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_bound_of_a_fit_never_falls(acceleration, missing):
    X = drawn(missing=missing)
    settings = dict(n_init=2, tol=1e-9, max_iter=3000, random_state=0)
    mixture = BernoulliMixtureEM(4, acceleration=acceleration, **settings).fit(X)
    assert mixture.converged_
    assert np.diff(mixture.lower_bounds_).min() >= -1e-12
    assert len(mixture.lower_bounds_) == mixture.n_iter_
    assert mixture.lower_bound_ == mixture.lower_bounds_[-1]


def test_information_criteria():
    X = drawn(missing=0.1)
    mixture = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    deviance, n_free = -2 * mixture.score_samples(X).sum(), 3 * 8 + 2
    assert mixture.aic(X) == pytest.approx(deviance + 2 * n_free)
    assert mixture.bic(X) == pytest.approx(deviance + n_free * np.log(len(X)))
    assert mixture.bic(X[:9], sample_weight=np.full(9, 2)) == pytest.approx(mixture.bic(np.repeat(X[:9], 2, axis=0)))
    levels = draw(300, (3, 2, 4), 2, 0)[0]
    classes = BernoulliMixtureEM(2, categorical_features="all", **ENOUGH).fit(levels)
    assert classes.aic(levels) == pytest.approx(-2 * classes.score_samples(levels).sum() + 2 * (2 * (2 + 1 + 3) + 1))


def test_a_number_of_components_set_after_the_fit_changes_nothing_before_the_next():
    X = drawn(missing=0.1)
    mixture = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    other = BernoulliMixtureEM(3, **ENOUGH).fit(X).set_params(n_components=1)
    assert (other.aic(X), other.bic(X)) == (mixture.aic(X), mixture.bic(X))
    for found, expected in zip(other.sample(200, random_state=0), mixture.sample(200, random_state=0)):
        np.testing.assert_array_equal(found, expected)


def test_samples_have_the_mixtures_means():
    X = draw(500, (2, 2, 4, 3), 3, 1)[0] * 2 - 1  # categories -1, 1, 3, 5
    X[:, :2] = X[:, :2] > 0
    mixture = BernoulliMixtureEM(3, categorical_features=[2, 3], **ENOUGH).fit(X)
    drawn_rows, labels = mixture.sample(40_000, random_state=0)
    np.testing.assert_allclose(np.bincount(labels) / 40_000, mixture.weights_, atol=0.01)
    assert (np.diff(labels) >= 0).all()
    overall = mixture.weights_ @ mixture.means_
    np.testing.assert_allclose(drawn_rows[:, :2].mean(0), overall[:2], atol=0.01)
    for column, start in ((2, 2), (3, 6)):
        categories = mixture.categories_[column]
        shares = (drawn_rows[:, [column]] == categories).mean(0)
        np.testing.assert_allclose(shares, overall[start : start + len(categories)], atol=0.01)
    for k in range(3):
        np.testing.assert_allclose(drawn_rows[labels == k, 0].mean(), mixture.means_[k, 0], atol=0.03)
    np.testing.assert_array_equal(drawn_rows, mixture.sample(40_000, random_state=0)[0])
    assert (mixture.sample(100)[0] != mixture.sample(100)[0]).any()
    with pytest.raises(ValueError, match="'n_samples': 0"):
        mixture.sample(0)


def test_imputation_weighs_all_completions():
    X, *_ = draw(200, (2, 3, 2, 4), 2, 2, missing=0.4)
    values = [np.array([0, 1]), np.array([5, 7, 9]), np.array([0, 1]), np.array([-1, 0, 2, 8])]
    X = np.stack([np.append(v, np.nan)[np.nan_to_num(x, nan=len(v)).astype(int)] for v, x in zip(values, X.T)], axis=1)
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 3], **ENOUGH).fit(X)
    likely, mean = mixture.impute(X), mixture.impute(X, strategy="mean")
    seen = ~np.isnan(X)
    np.testing.assert_array_equal(likely[seen], X[seen])
    np.testing.assert_array_equal(mean[seen], X[seen])
    for i, j in np.argwhere(~seen)[:60]:
        candidates = np.repeat(X[[i]], len(values[j]), axis=0)
        candidates[:, j] = values[j]
        p = softmax(mixture.score_samples(candidates))
        assert mean[i, j] == pytest.approx(p @ values[j], abs=1e-9)
        assert likely[i, j] == values[j][p.argmax()]
    with pytest.raises(ValueError, match="most_probable"):
        mixture.impute(X, strategy="median")


def test_imputation_keeps_containers_and_dtypes():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(drawn(missing=0.2), columns=list("abcdefgh")).astype({"a": "float32"})
    X["b"] = X["b"].fillna(1.0).astype(int)
    mixture = BernoulliMixtureEM(2, **ENOUGH).fit(X)
    filled = mixture.impute(X)
    assert isinstance(filled, pd.DataFrame) and not filled.isna().any().any()
    assert (filled["b"] == X["b"]).all() and filled["b"].dtype == X["b"].dtype
    X32 = drawn(missing=0.2).astype(np.float32)
    assert BernoulliMixtureEM(2, **ENOUGH).fit(X32).impute(X32).dtype == np.float32


def test_imputation_recovers_what_was_hidden():
    hidden = np.random.default_rng(0).random((2000, 12)) < 0.2
    X = drawn(2000, 12, 2, seed=5)
    mixture = BernoulliMixtureEM(2, **ENOUGH).fit(np.where(hidden, np.nan, X))
    right = (mixture.impute(np.where(hidden, np.nan, X)) == X)[hidden].mean()
    assert right > (X == (X.mean(0) > 0.5))[hidden].mean() + 0.1


# ------------------------------------------------------------------------------------------------- binary, or made so
def test_binarize_is_a_threshold():
    X = np.random.default_rng(0).normal(size=(200, 6))
    X[::7, 2] = np.nan
    ones = np.where(np.isnan(X), np.nan, X > 0.5)
    same_fit(
        BernoulliMixtureEM(2, binarize=0.5, random_state=0).fit(X),
        BernoulliMixtureEM(2, binarize=None, random_state=0).fit(ones),
    )


def test_without_binarize_other_values_are_refused():
    X = np.zeros((20, 6))
    X[12, 4], X[13, 1], X[2, 3] = 3.7, 2.0, np.nan
    with pytest.raises(ValueError, match=r"\(binarize=None\) expects X in \{0, 1\}, but X\[12, 4\] = 3\.7; pass"):
        BernoulliMixtureEM(binarize=None).fit(X)
    with pytest.raises(ValueError, match=r"X\[12, 4\] = 3\.7"):
        BernoulliMixtureEM(binarize=None, categorical_features=[1, 2]).fit(X)
    with pytest.raises(ValueError, match=r"X\[0, 0\] = 0\.5"):
        BernoulliMixtureEM(binarize=None).fit(np.eye(4)).predict(np.full((1, 4), 0.5))


def test_binarising_into_constant_columns_is_warned_of():
    """Codes from 1 on are all above the threshold: every cell would be a one."""
    pd = pytest.importorskip("pandas")
    codes = pd.DataFrame(np.random.default_rng(0).integers(1, 7, size=(100, 4)), columns=list("abcd"))
    fitting = BernoulliMixtureEM(2, n_init=1, random_state=0)
    with pytest.warns(UserWarning, match=r"4 of 4 columns constant: a, b, c, d; .*from 1 to 6.*categorical_features"):
        fitting.fit(codes)
    with pytest.warns(UserWarning, match=r"binarize=9 makes 2 of 3 columns constant: 1, 2; .*threshold"):
        clone(fitting).set_params(binarize=9).fit(np.c_[codes["a"] * 8, codes["b"], codes["c"]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone(fitting).set_params(categorical_features="all").fit(codes)
        clone(fitting).set_params(binarize=3).fit(codes)
        clone(fitting).set_params(binarize=9).fit(np.c_[codes.to_numpy()[:, :2] * 8, codes["c"]])  # one of three
        clone(fitting).fit(np.c_[np.ones(20), np.arange(20) % 2])  # was constant before


def test_fit_leaves_X_alone():
    X = np.random.default_rng(0).normal(size=(50, 3))
    X[3, 1] = np.nan
    for data in (X, np.where(np.isnan(X), np.nan, X > 0)):
        before = data.copy()
        BernoulliMixtureEM(2, random_state=0).fit(data).impute(data)
        np.testing.assert_array_equal(data, before)


# -------------------------------------------------------------------------------------------------------- categorical
def test_categories_of_binary_columns_change_nothing():
    X = drawn(missing=0.2)
    binary = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    categorical = BernoulliMixtureEM(3, categorical_features="all", **ENOUGH).fit(X)
    same_fit(binary, clone(binary).fit(X))
    np.testing.assert_allclose(categorical.means_[:, 1::2], binary.means_, rtol=1e-12)
    np.testing.assert_allclose(categorical.means_[:, ::2] + binary.means_, 1, rtol=1e-12)
    np.testing.assert_allclose(categorical.score_samples(X), binary.score_samples(X), rtol=1e-9)


def test_the_means_of_a_categorical_column_sum_to_one():
    X, *_ = draw(300, (3, 2, 4), 2, 0, missing=0.1)
    mixture = BernoulliMixtureEM(2, categorical_features=[0, 2], **ENOUGH).fit(X)
    assert mixture.means_.shape == (2, 3 + 1 + 4)
    np.testing.assert_allclose(mixture.means_[:, :3].sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(mixture.means_[:, 4:].sum(1), 1, rtol=1e-12)
    for found, expected in zip(mixture.categories_, ([0, 1, 2], [0, 1], [0, 1, 2, 3])):
        np.testing.assert_array_equal(found, expected)


def test_the_names_of_categories_do_not_matter():
    X, *_ = draw(400, (3, 3, 3, 3, 3), 2, 3)
    renamed = np.array([7.5, -2.0, 100.0])[X.astype(int)]
    settings = dict(categorical_features="all", tol=1e-10, max_iter=3000, n_init=5, random_state=0)
    one, other = (BernoulliMixtureEM(2, **settings).fit(data) for data in (X, renamed))
    assert other.lower_bound_ == pytest.approx(one.lower_bound_, abs=1e-7)


@pytest.mark.parametrize("columns", [[1, 2], [-1, 1], [False, True, True], ["b", "c"]], ids=str)
def test_categorical_columns_by_number_mask_or_name(columns):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(draw(100, (2, 3, 4), 2, 0)[0], columns=["a", "b", "c"])
    assert BernoulliMixtureEM(2, categorical_features=columns, random_state=0).fit(X).means_.shape == (2, 1 + 3 + 4)


def test_unknown_categorical_columns_are_refused():
    X = draw(100, (2, 3, 4), 2, 0)[0]
    for columns in ([3], ["a"], [0.5], [[1]]):
        with pytest.raises(ValueError, match="expected|no column is named"):
            BernoulliMixtureEM(categorical_features=columns).fit(X)


def test_a_category_that_fit_has_not_seen():
    X = draw(100, (2, 3, 4), 2, 0)[0]
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 2], random_state=0).fit(X)
    row = np.array([[1.0, 9.0, 0.0]])
    with pytest.raises(ValueError, match=r"X\[0, 1\] = 9 is a category .* has 0, 1, 2\. Pass handle_unknown='missing'"):
        mixture.predict(row)
    mixture.set_params(handle_unknown="missing")
    np.testing.assert_allclose(mixture.score_samples(row), mixture.score_samples([[1.0, np.nan, 0.0]]), rtol=1e-12)


def test_rows_without_weight_teach_nothing_but_names_of_categories():
    X = draw(100, (2, 3, 4), 2, 0)[0]
    settings = dict(n_components=2, categorical_features=[1, 2], random_state=0)
    known = np.vstack([[0, 2, 1], X])
    weight = np.r_[0, np.ones(100)]
    same_fit(BernoulliMixtureEM(**settings).fit(known, sample_weight=weight), BernoulliMixtureEM(**settings).fit(X))
    new = np.vstack([[0, 2, 9], X])
    mixture = BernoulliMixtureEM(**settings)
    np.testing.assert_array_equal(mixture.fit_predict(new, sample_weight=weight), mixture.predict(new))
    np.testing.assert_array_equal(mixture.categories_[2], [0, 1, 2, 3, 9])
    alone = BernoulliMixtureEM(1, alpha=0.1, categorical_features=[2]).fit(new, sample_weight=weight)
    counts = np.r_[np.bincount(X[:, 2].astype(int), minlength=4), 0]
    np.testing.assert_allclose(alone.means_[0, 2:], (counts + 0.1) / 100.5, rtol=1e-9)


@pytest.mark.parametrize("none", [[], (), np.zeros(3, dtype=bool), [False] * 3], ids=repr)
def test_no_categorical_columns_are_none(none):
    X = draw(100, (2, 3, 4), 2, 0)[0]
    plain, listed = (BernoulliMixtureEM(2, categorical_features=c, random_state=0).fit(X) for c in (None, none))
    same_fit(listed, plain)
    assert listed.categories_ is None


@pytest.mark.parametrize("strategy", ["most_probable", "mean"])
def test_categories_that_are_taken_for_missing_are_imputed(strategy):
    pd = pytest.importorskip("pandas")
    X = draw(100, (2, 3, 4), 2, 0)[0]
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 2], handle_unknown="missing", random_state=0).fit(X)
    new, gaps = np.array([[0.0, 1.0, 9.0], [5.0, 1.0, np.nan]]), np.array([[0.0, 1.0, np.nan], [5.0, 1.0, np.nan]])
    np.testing.assert_array_equal(mixture.impute(new, strategy), mixture.impute(gaps, strategy))
    expected = np.rint(mixture.impute(gaps[:1], strategy)[0, 2])
    filled = mixture.fit(pd.DataFrame(X, columns=list("abc"))).impute(
        pd.DataFrame(new[:1].astype(int), columns=list("abc")), strategy
    )
    assert filled["c"].dtype == int and filled["c"].iloc[0] == expected


def test_an_ascent_finds_the_estimator_as_it_was_and_so_does_who_comes_after_its_failure(monkeypatch):
    """What is learnt of the columns is passed on, and set with all else at the end."""
    X = draw(100, (2, 3, 4), 2, 0)[0]
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 2], random_state=0).fit(X)
    fitted = {name for name in vars(mixture) if name not in mixture.get_params() and name != "n_features_in_"}
    before = {name: getattr(mixture, name) for name in fitted}
    seen = []

    def ascend(*_, **__):
        seen.append(all(getattr(mixture, name) is before[name] for name in fitted))
        raise FloatingPointError("the bound was nan")

    monkeypatch.setattr(em, "ascend", ascend)
    weight = np.arange(100) % 7  # without some categories in the first rows
    with pytest.raises(FloatingPointError):
        mixture.set_params(categorical_features=[0]).fit(np.vstack([X, [[5, 5, 5]]]), sample_weight=np.r_[weight, 0])
    assert seen == [True]
    assert all(getattr(mixture, name) is before[name] for name in fitted)


def test_text_through_an_ordinal_encoder():
    pd = pytest.importorskip("pandas")
    codes = draw(300, (3, 3, 3), 2, 1)[0].astype(int)
    X = pd.DataFrame(np.array(["ham", "eggs", "spam"], dtype=object)[codes], columns=list("abc"))
    X.loc[3, "b"] = np.nan
    pipe = make_pipeline(OrdinalEncoder(), BernoulliMixtureEM(2, categorical_features="all", random_state=0))
    labels = pipe.fit(X).predict(X)
    assert labels.shape == (300,) and np.isfinite(pipe.score(X))


def test_categorical_columns_named_after_a_fit_wait_for_the_next():
    X = draw(100, (2, 3, 4), 2, 0)[0]
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 2], random_state=0).fit(X)
    labels = mixture.predict_proba(X)
    mixture.set_params(categorical_features=None)
    np.testing.assert_array_equal(mixture.predict_proba(X), labels)
    mixture.partial_fit(X)
    assert mixture.means_.shape == (2, 8)
    assert mixture.fit(X).means_.shape == (2, 3) and mixture.categories_ is None


# ------------------------------------------------------------------------------------------------------ where it starts
def test_given_starting_values_are_where_it_starts():
    X = drawn()
    means = np.random.default_rng(0).uniform(0.1, 0.9, (2, 8))
    mixture = BernoulliMixtureEM(2, max_iter=0, weights_init=[0.3, 0.7], means_init=means).fit(X)
    np.testing.assert_allclose(mixture.weights_, [0.3, 0.7], rtol=1e-12)
    np.testing.assert_allclose(mixture.means_, means, rtol=1e-12)
    assert mixture.n_iter_ == 0 and not mixture.converged_ and mixture.lower_bounds_ == []
    mixture = BernoulliMixtureEM(2, max_iter=0, means_init=means, random_state=0).fit(X)
    np.testing.assert_allclose(mixture.means_, means, rtol=1e-12)
    classes = BernoulliMixtureEM(2, categorical_features=[0], max_iter=0, means_init=np.full((2, 9), 0.5)).fit(X)
    np.testing.assert_allclose(classes.means_, 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(means_init=np.full((2, 7), 0.5)), r"'means' should have the shape of \(2, 8\), but got \(2, 7\)"),
        (dict(means_init=np.full((2, 8), 1.5)), r"'means' should be in the range \[0, 1\]"),
        (dict(weights_init=[0.5, 0.6]), "should be normalized"),
        (dict(weights_init=[1.5, -0.5]), r"'weights' should be in the range \[0, 1\]"),
        (dict(weights_init=[1.0]), r"'weights' should have the shape of \(2,\)"),
    ],
)
def test_starting_values_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        BernoulliMixtureEM(2, **given).fit(drawn())


def test_more_starts_never_do_worse():
    X = drawn(300, 10, 5, seed=5)
    settings = dict(init_params="random", tol=1e-6, max_iter=1000)
    for seed in range(3):
        one, more = (BernoulliMixtureEM(5, n_init=n, random_state=seed, **settings).fit(X) for n in (1, 6))
        assert more.lower_bound_ >= one.lower_bound_ - 1e-12


def test_a_random_start_gets_off_the_saddle_where_all_components_are_alike():
    X = drawn(5000, 10, 3, seed=6)
    alone = BernoulliMixtureEM().fit(X).score(X)
    best = BernoulliMixtureEM(3, tol=1e-6, max_iter=1000, random_state=0).fit(X).score(X)
    found = BernoulliMixtureEM(3, init_params="random", random_state=0, n_init=3).fit(X).score(X)
    assert found > alone + 0.8 * (best - alone)


def test_a_warm_start_goes_on():
    X = drawn()
    settings = dict(tol=0, random_state=0)
    with pytest.warns(ConvergenceWarning):
        whole = BernoulliMixtureEM(3, max_iter=10, **settings).fit(X)
        parts = BernoulliMixtureEM(3, max_iter=4, warm_start=True, **settings).fit(X)
        first = parts.lower_bounds_
        parts.set_params(max_iter=6).fit(X)
    np.testing.assert_allclose([*first, *parts.lower_bounds_], whole.lower_bounds_, rtol=1e-12)
    np.testing.assert_allclose(parts.means_, whole.means_, rtol=1e-9)


def test_a_warm_start_refuses_other_shapes():
    mixture = BernoulliMixtureEM(3, warm_start=True, random_state=0).fit(drawn())
    with pytest.raises(ValueError, match="has 3 components and cannot go on with n_components=2"):
        mixture.set_params(n_components=2).fit(drawn())


def test_a_warm_start_keeps_the_categories():
    X = draw(100, (2, 3, 4), 2, 0)[0]
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 2], warm_start=True, random_state=0).fit(X)
    mixture.fit(X[X[:, 1] < 2])
    np.testing.assert_array_equal(mixture.categories_[1], [0, 1, 2])


def test_it_says_when_it_has_not_converged():
    with pytest.warns(ConvergenceWarning, match=r"BernoulliMixtureEM did not converge: .*max_iter=2.*tol=1e-12"):
        BernoulliMixtureEM(3, max_iter=2, tol=1e-12, random_state=0).fit(drawn())


# --------------------------------------------------------------------------------------------------------- partial_fit
def test_the_first_part_is_a_fit():
    X = drawn(missing=0.1)
    same_fit(BernoulliMixtureEM(3, random_state=0).partial_fit(X), BernoulliMixtureEM(3, random_state=0).fit(X))


@pytest.mark.parametrize("categorical", [None, "all"])
def test_parts_lead_where_the_whole_does(categorical):
    X = drawn(6000, 10, 3, seed=7, missing=0.1)
    mixture = BernoulliMixtureEM(3, categorical_features=categorical, random_state=0)
    whole = clone(mixture).set_params(tol=1e-7, max_iter=1000).fit(X).score(X)
    mixture.partial_fit(X[:300])
    first = mixture.score(X)
    for _ in range(3):
        for part in np.array_split(X, 20):
            mixture.partial_fit(part)
    assert mixture.n_samples_seen_ == 300 + 3 * 6000
    assert whole - mixture.score(X) < 0.3 * (whole - first)
    assert whole - mixture.score(X) < 0.02


def test_parts_of_a_converged_fit_leave_it_there():
    """The statistics so far are those of the parameters, prior and all."""
    X = drawn(300)
    mixture = BernoulliMixtureEM(2, alpha=5.0, tol=1e-14, max_iter=5000, random_state=0).fit(X)
    means = mixture.means_
    mixture.partial_fit(X[:0:-1][:1], sample_weight=[1e-12])
    np.testing.assert_allclose(mixture.means_, means, atol=1e-6)


# ----------------------------------------------------------------------------------------------- where data are awkward
def test_too_few_rows_and_empty_columns_are_refused():
    with pytest.raises(ValueError, match="Expected n_samples >= n_components but got n_components = 5, n_samples = 4"):
        BernoulliMixtureEM(5).fit(np.eye(4))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        BernoulliMixtureEM().fit(np.ones((1, 3)))
    X = drawn()
    X[:, 3] = np.nan
    for categorical in (None, "all"):
        with pytest.raises(ValueError, match=r"every cell is NaN in column\(s\) 3"):
            BernoulliMixtureEM(2, categorical_features=categorical).fit(X)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "score_samples", "impute"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinity_is_refused(method, bad):
    X = drawn()
    mixture = BernoulliMixtureEM(2, n_init=1, random_state=0).fit(X)
    X[5, 2] = bad
    with pytest.raises(ValueError, match="infinity"):
        getattr(mixture, method)(X)


def test_a_row_without_cells_teaches_nothing_and_gets_the_proportions():
    X = drawn()
    empty = np.full((2, 8), np.nan)
    settings = dict(tol=0, max_iter=30)
    start = dict(weights_init=[0.3, 0.7], means_init=np.random.default_rng(0).uniform(0.2, 0.8, (2, 8)))
    with pytest.warns(ConvergenceWarning):
        with_empty = BernoulliMixtureEM(2, **settings, **start).fit(np.vstack([X, empty]))
        without = BernoulliMixtureEM(2, **settings, **start).fit(X)
    np.testing.assert_allclose(with_empty.means_, without.means_, atol=0.02)
    np.testing.assert_allclose(with_empty.score_samples(empty), 0, atol=1e-12)
    np.testing.assert_allclose(with_empty.predict_proba(empty), [with_empty.weights_] * 2, rtol=1e-9)


@pytest.mark.parametrize(
    "X",
    [
        np.zeros((10, 3)),
        np.ones((10, 3)),
        np.tile([[0.0, 1.0, 1.0]], (10, 1)),
        np.repeat(np.eye(3), 4, axis=0),
        np.r_[np.zeros(5), np.ones(5)][:, None],
        np.random.default_rng(0).integers(0, 2, (5, 40)).astype(float),
        np.full((6, 2), 1e308),
    ],
    ids=["zeros", "ones", "constant", "duplicates", "one feature", "wide", "huge"],
)
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("categorical", [None, "all"])
@pytest.mark.filterwarnings("ignore:BernoulliMixtureEM did not converge")
def test_degenerate_tables(X, init_params, categorical):
    settings = dict(init_params=init_params, categorical_features=categorical, n_init=2, random_state=0)
    mixture = BernoulliMixtureEM(4, **settings).fit(X)
    assert ((mixture.means_ > 0) & (mixture.means_ <= 1)).all()
    assert mixture.weights_.sum() == pytest.approx(1)
    assert np.isfinite(mixture.score_samples(X)).all()
    np.testing.assert_allclose(mixture.predict_proba(X).sum(1), 1, rtol=1e-9)
    assert np.isfinite(mixture.sample(5, random_state=0)[0]).all()


def test_float32_stays_float32():
    X = drawn(missing=0.1).astype(np.float32)
    mixture = BernoulliMixtureEM(3, **ENOUGH).fit(X)
    for array in (mixture.weights_, mixture.means_, mixture.score_samples(X), mixture.predict_proba(X)):
        assert array.dtype == np.float32
    assert mixture.sample(3, random_state=0)[0].dtype == np.float32
    double = BernoulliMixtureEM(3, **ENOUGH).fit(X.astype(np.float64))
    np.testing.assert_allclose(mixture.score_samples(X), double.score_samples(X.astype(np.float64)), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ real life
def test_prototypes_of_digits():
    X, y = load_digits(return_X_y=True)
    mixture = BernoulliMixtureEM(10, binarize=7.5, n_init=3, random_state=0).fit(X)
    assert mixture.means_.shape == (10, 64)
    assert adjusted_rand_score(y, mixture.predict(X)) > 0.5
    assert mixture.score(X) > BernoulliMixtureEM(binarize=7.5).fit(X).score(X) + 5


def test_the_number_of_components_is_found_by_cross_validation():
    X = drawn(1500, 12, 3, seed=8)
    search = GridSearchCV(
        BernoulliMixtureEM(random_state=0, tol=1e-5, max_iter=500), {"n_components": [1, 2, 3, 6]}, cv=3
    )
    assert search.fit(X).best_params_ == {"n_components": 3}
    bic = [clone(search.estimator).set_params(n_components=K).fit(X).bic(X) for K in (1, 2, 3, 4)]
    assert np.argmin(bic) == 2


def test_pickles_and_clones():
    X = draw(100, (2, 3, 4), 2, 0)[0]
    mixture = BernoulliMixtureEM(2, categorical_features=[1, 2], random_state=0).fit(X)
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.predict_proba(X), mixture.predict_proba(X))
    assert set(vars(clone(mixture))) == set(mixture.get_params())


@pytest.mark.parametrize(
    "bad", [dict(n_components=0), dict(device="abacus"), dict(binarize=None), dict(means_init=[[2.0]])], ids=str
)
def test_a_failed_fit_leaves_the_mixture_as_it_was(bad):
    X = np.random.default_rng(0).normal(size=(60, 4))
    mixture = BernoulliMixtureEM(2, n_init=1, random_state=0).fit(X)
    before = mixture.means_
    with pytest.raises(ValueError):
        mixture.set_params(**bad, categorical_features=[0]).fit(X[:, :3])
    assert mixture.means_ is before and mixture.n_features_in_ == 4 and mixture.categories_ is None


def test_predictions_change_nothing():
    X = drawn(missing=0.1)
    mixture = BernoulliMixtureEM(2, random_state=0).fit(X)
    before = pickle.dumps(vars(mixture))
    for method in ("predict", "predict_proba", "score_samples", "score", "aic", "bic", "impute"):
        getattr(mixture, method)(X)
    mixture.sample(3)
    assert pickle.dumps(vars(mixture)) == before


def test_progress_is_told(capsys):
    X = drawn()
    BernoulliMixtureEM(3, verbose=2, tol=0.1, n_init=1, random_state=0).fit(X)
    *lines, end = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith("[BernoulliMixtureEM] iteration") for line in lines)
    assert end == "[BernoulliMixtureEM] ended: converged"


class Recorder:
    """A callback that keeps the fitted attributes after every iteration."""

    def __init__(self):
        self.means = []

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "iteration":
            self.means.append(fitted_estimator.means_)
        return len(self.means) == 3

    def teardown(self, estimator, context):
        pass


def test_callbacks_see_every_iteration_and_may_stop_it():
    recorder = Recorder()
    mixture = BernoulliMixtureEM(3, tol=0, n_init=1, random_state=0).set_callbacks(recorder)
    with pytest.warns(ConvergenceWarning):
        mixture.fit(drawn())
    assert mixture.n_iter_ == 3
    np.testing.assert_array_equal(recorder.means[-1], mixture.means_)
