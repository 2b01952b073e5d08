"""Laws of the Bernoulli and categorical mixture: the model against brute force, then its scikit-learn face."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from skvae._tensors import Table
from skvae.engines import em
from skvae.models.bernoulli_mixture import BernoulliMixture

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

    return model.m_step(em.summed(lambda batch: model.start(batch, R(batch)), batches), None)


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
@pytest.mark.parametrize("seed", range(4))
def test_em_never_lowers_the_bound(levels, missing, accelerate, seed):
    X, *_ = draw(150, levels, 3, seed, missing)
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, len(X))
    model = BernoulliMixture(3, alpha=[1e-3, 1.0][seed % 2], n_levels=levels)
    bounds = climb(model, X, weight, max_iter=150, accelerate=accelerate, seed=seed).lower_bounds
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
    again = model.m_step(model.stats_of(params, 50.0), params)
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
