"""Factor analysis with a prior on the loadings: its bound, and the number of factors that it keeps."""

import numpy as np
import pytest
import torch
from scipy.stats import gamma, multivariate_normal, norm
from sklearn.datasets import load_breast_cancer, load_wine

from skvae import FactorAnalysisEM, VariationalFactorAnalysis
from skvae.models.decomposition import variational_factor_analysis as vfa
from skvae.models.decomposition.factor_analysis import SufficientStatistics


def draw(n=300, d=8, k=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, size=d)


def prepared(X, k):
    """The model, one batch of sufficient statistics of X less its means, and initial parameters."""
    X = torch.from_numpy(X - X.mean(axis=0))
    n, S = torch.tensor(float(len(X)), dtype=torch.float64), X.T @ X / len(X)
    model = vfa.VariationalFactorAnalysis(k, S.diagonal())
    scale = S.diagonal().sqrt()
    values, axes = torch.linalg.eigh(S / scale / scale[:, None])
    batch = SufficientStatistics(n, torch.zeros(len(S), dtype=torch.float64), S)
    return model, batch, model.init(axes.flip(1)[:, :k], values.flip(0)[:k], len(X))


def climbed(model, batch, params, n_steps):
    bounds = []
    for _ in range(n_steps):
        stats, _ = model.e_step(batch, params)
        bounds.append(float(model.bound(stats, params)))
        params = model.m_step(stats, params)
    return params, np.array(bounds)


@pytest.mark.parametrize("n, d, k", [(300, 8, 7), (20, 6, 5), (12, 30, 10), (5, 2, 1)])
def test_the_bound_never_falls(n, d, k):
    X = draw(n, d, seed=n)
    _, bounds = climbed(*prepared(X, k), 200)
    assert np.diff(bounds).min() >= -1e-11 * abs(bounds[-1])
    assert bounds[-1] > bounds[0] + 0.1


def test_the_bound_is_the_mean_of_what_it_is_the_expectation_of():
    """E_q[log p(X, Z, W, tau) - log q(Z, W, tau)] by draws of q."""
    X, k, n_draws = draw(6, 3, 1, seed=3), 2, 20_000
    model, batch, params = prepared(X, k)
    params, _ = climbed(model, batch, params, 5)
    bound = float(model.bound(model.e_step(batch, params)[0], params))
    Y, rng = X - X.mean(axis=0), np.random.default_rng(0)
    M, B_inv, a, b, alpha, V = (part.numpy() for part in params)
    m = Y / (b / a) @ M @ V  # means of z
    tau = rng.gamma(a, 1 / b, size=(n_draws, 3))
    W = M + rng.normal(size=(n_draws, 3, k)) @ np.linalg.cholesky(B_inv).T / np.sqrt(tau)[:, :, None]
    z = m + rng.normal(size=(n_draws, 6, k)) @ np.linalg.cholesky(V).T
    log_q = gamma.logpdf(tau, a, scale=1 / b).sum(1) + multivariate_normal(np.zeros(k), V).logpdf(z - m).sum(1)
    log_q += multivariate_normal(np.zeros(k), B_inv).logpdf((W - M) * np.sqrt(tau)[:, :, None]).sum(1)
    log_q += k / 2 * np.log(tau).sum(1)
    prior_rate = 1e-3 * Y.var(axis=0)
    log_p = gamma.logpdf(tau, 1e-3, scale=1 / prior_rate).sum(1) + norm.logpdf(z).sum((1, 2))
    log_p += norm.logpdf(W, scale=1 / np.sqrt(tau[:, :, None] * alpha)).sum((1, 2))
    log_p += norm.logpdf(Y, z @ W.swapaxes(1, 2), 1 / np.sqrt(tau)[:, None]).sum((1, 2))
    each = log_p - log_q
    assert abs(each.mean() - bound) < 4 * each.std() / np.sqrt(n_draws)
    assert each.std() / np.sqrt(n_draws) < 0.05


def test_without_factors_the_bound_is_the_evidence():
    """Of independent columns with a Gamma prior on their precisions, the integral over tau is known."""
    X = draw(50, 4)
    Y, a_0 = X - X.mean(axis=0), 1e-3
    tau = np.exp(np.linspace(-25, 5, 20_001))[:, None]
    log_joint = gamma.logpdf(tau, a_0, scale=1 / (a_0 * Y.var(axis=0))) + np.log(tau)
    log_joint = log_joint + 25 * np.log(tau / (2 * np.pi)) - 0.5 * tau * (Y**2).sum(axis=0)
    top = log_joint.max(axis=0)
    evidence = np.log(np.trapezoid(np.exp(log_joint - top), np.log(tau[:, 0]), axis=0)) + top
    model = VariationalFactorAnalysis(0).fit(X)
    assert model.lower_bounds_[-1] == pytest.approx(evidence.sum() / 50, abs=1e-9)


@pytest.mark.parametrize("n, d, k", [(200, 10, 3), (100, 30, 4), (500, 20, 5), (300, 9, 0), (20, 50, 0), (2000, 5, 0)])
def test_the_planted_number_of_factors_is_found(n, d, k):
    model = VariationalFactorAnalysis().fit(draw(n, d, k, seed=n))
    assert model.n_components_ == k
    assert model.components_.shape == (k, d)
    assert model.transform(draw(n, d, k, seed=n)).shape == (n, k)


def test_units_change_nothing():
    X, units = load_wine().data, np.logspace(-3, 4, 13)
    one, other = VariationalFactorAnalysis().fit(X), VariationalFactorAnalysis().fit(X * units)
    np.testing.assert_allclose(other.components_, one.components_ * units, rtol=1e-6)
    np.testing.assert_allclose(other.score_samples(X * units), one.score_samples(X) - np.log(units).sum(), rtol=1e-9)
    assert other.lower_bounds_[-1] == pytest.approx(one.lower_bounds_[-1] - np.log(units).sum(), abs=1e-9)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_one_fit_is_as_good_as_a_search_for_k(load):
    """On held-out rows it comes within .1 nats of the best factor analysis, of all K chosen by these very rows."""
    X = np.random.default_rng(0).permutation(load().data)
    rows, others = X[::2], X[1::2]
    one = VariationalFactorAnalysis().fit(rows).score(others)
    assert one > max(FactorAnalysisEM(k).fit(rows).score(others) for k in range(2, 9)) - 0.1


def test_few_rows_are_read_as_their_covariance_would_be():
    X = draw(20, 40, 2)
    rows = VariationalFactorAnalysis(18).fit(X)
    assert rows._sufficient_statistics is None
    kept = VariationalFactorAnalysis(18).fit_covariance(np.cov(X.T, bias=True), 20)
    assert rows.lower_bounds_[-1] == pytest.approx(kept.lower_bounds_[-1], abs=1e-4)
    assert rows.n_components_ == kept.n_components_ == 2


def test_a_constant_column_takes_no_part():
    X = load_wine().data
    alone, beside = VariationalFactorAnalysis().fit(X), VariationalFactorAnalysis().fit(np.c_[X, np.full(178, 7.0)])
    np.testing.assert_allclose(beside.components_[:, :13], alone.components_, atol=1e-3)  # K at most is one more
    assert (beside.components_[:, 13] == 0).all() and beside.noise_variance_[13] == 1e-12


def test_parts_give_the_fit_of_all_rows():
    X = draw()
    whole, parts = VariationalFactorAnalysis().fit(X), VariationalFactorAnalysis()
    for part in np.split(X, [100, 130]):
        parts.partial_fit(part)
    np.testing.assert_allclose(parts.components_, whole.components_, rtol=1e-7)


def test_gaps_are_refused_with_the_cell():
    X = draw()
    model = VariationalFactorAnalysis().fit(X)
    X[4, 2] = np.nan
    for method in (VariationalFactorAnalysis().fit, model.partial_fit, model.transform, model.score_samples):
        with pytest.raises(ValueError, match="NaN"):
            method(X)
    with pytest.raises(ValueError, match="FactorAnalysisEM"):
        VariationalFactorAnalysis().fit(X)
    assert not hasattr(model, "impute") and not hasattr(model, "aic")


def test_a_table_without_variance_has_no_factors():
    X = np.full((20, 3), 2.0)
    model = VariationalFactorAnalysis().fit(X)
    assert model.n_components_ == 0
    assert model.score(X) == pytest.approx(FactorAnalysisEM(1).fit(X).score(X))


@pytest.mark.parametrize("model", [FactorAnalysisEM(1), VariationalFactorAnalysis()])
def test_noise_that_float32_cannot_hold_is_refused(model):
    X = 1e-30 * np.random.default_rng(0).normal(size=(50, 4))
    with pytest.raises(ValueError, match="squares underflow in float32.*float64"):
        model.fit(X.astype(np.float32))
    assert np.isfinite(model.fit(X).score(X))


def test_weights_of_less_than_two_rows_are_refused():
    X = np.random.default_rng(0).normal(size=(50, 4))
    with pytest.raises(ValueError, match="weights sum to 2 or more, but sample_weight sums to 0.5"):
        VariationalFactorAnalysis().fit(X, sample_weight=np.full(50, 0.01))
