"""Probabilistic PCA: the closed form, PCA, and factor analysis with tied noise are one model."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skvae import FactorAnalysisEM, ProbabilisticPCA
from skvae._tensors import Noise, Table
from skvae.engines import em
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables import weights


def draw(n=100, d=6, k=2, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, k)) * np.linspace(3, 2, k) @ rng.normal(size=(k, d)) / np.sqrt(d)
    X += rng.normal(size=(n, d)) * 0.7 + rng.normal(size=d)
    X[rng.random(X.shape) < missing] = np.nan
    return X


@pytest.mark.parametrize(
    ("X", "k"),
    [(load_iris().data, 2), (load_digits().data, 10), (draw(), 3), (draw(15, 40), 4), (draw(700, 600, 5), 5)],
)
def test_axes_and_variances_are_those_of_pca(X, k):
    ours, theirs = ProbabilisticPCA(k).fit(X), PCA(k, svd_solver="full").fit(X)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-9)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-10)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-12)
    np.testing.assert_allclose(ours.components_ @ ours.components_.T, np.eye(k), atol=1e-12)
    for name in ("components_", "explained_variance_", "mean_"):
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype
    assert ours.transform(X).shape == theirs.transform(X).shape


@pytest.mark.parametrize("X", [load_iris().data, draw()], ids=["iris", "drawn"])
def test_its_likelihood_is_the_formula_of_pca(X):
    """PCA takes covariances with divisor n - 1; of them the score is equal, of those with divisor n it is higher."""
    theirs = PCA(2).fit(X)
    ours = ProbabilisticPCA(2).fit_covariance(np.cov(X.T), len(X), mean=X.mean(axis=0))
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-12)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-10)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), rtol=1e-9, atol=1e-12)
    assert ours.noise_variance_ == pytest.approx(theirs.noise_variance_, rel=1e-12)
    assert ProbabilisticPCA(2).fit(X).score(X) > theirs.score(X)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(100, 6), (12, 20)])
def test_em_with_tied_noise_arrives_at_the_closed_form(shape, weighted):
    X = draw(*shape)
    weight = np.random.default_rng(0).uniform(0.5, 2, len(X)) if weighted else None
    closed = ProbabilisticPCA(2).fit(X, sample_weight=weight)
    mean = np.average(X, axis=0, weights=weight)
    table = Table(X, torch.device("cpu"), weight=weight, shift=mean)
    model = fa.FactorAnalysis(2, torch.tensor(X.var(axis=0)), tied=True)
    start = model.init(torch.zeros(shape[1], dtype=torch.float64), Noise(0))
    n = float(table.weight.sum())
    plan = em.Plan(3000, lambda step: step.gain * n < 1e-12, n, accelerate=True)
    fit = em.ascend(model, table.batches(50), [start], plan=plan)
    assert fit.lower_bounds[-1] * n == pytest.approx(closed.loglike_[0], abs=1e-8)
    covariance = (fit.params.W @ fit.params.W.T + fit.params.psi.diag()).numpy()
    np.testing.assert_allclose(covariance, closed.get_covariance(), atol=1e-4)


def test_missing_cells_lead_to_the_closed_form_as_they_vanish():
    X = draw(400)
    X[0, 0] = np.nan
    gaps, none = ProbabilisticPCA(2, tol=1e-9).fit(X), ProbabilisticPCA(2).fit(X[1:])
    np.testing.assert_allclose(gaps.components_, none.components_, atol=0.02)
    np.testing.assert_allclose(gaps.get_covariance(), none.get_covariance(), atol=0.05)
    assert gaps.converged_ and gaps.n_iter_ > 1 == none.n_iter_


def test_likelihood_with_gaps_is_brute_force_and_a_maximum():
    X = draw(60, missing=0.2)
    model = ProbabilisticPCA(2, tol=1e-10).fit(X)

    def log_likelihood(mean, S):
        return sum(
            multivariate_normal(mean[s], S[np.ix_(s, s)]).logpdf(x[s]) for x, s in zip(X, ~np.isnan(X)) if s.any()
        )

    S, W, noise = model.get_covariance(), model._loadings(), model.noise_variance_
    best = log_likelihood(model.mean_, S)
    assert model.loglike_[-1] == pytest.approx(best, abs=1e-6)
    assert model.score(X) * 60 == pytest.approx(best, rel=1e-12)
    rng = np.random.default_rng(0)
    for _ in range(20):
        nearby = W + 0.02 * rng.normal(size=W.shape)
        mean = model.mean_ + 0.02 * rng.normal(size=6)
        assert log_likelihood(mean, nearby @ nearby.T + noise * np.exp(0.02 * rng.normal()) * np.eye(6)) < best


def test_it_bounds_factor_analysis_from_below():
    X = draw(missing=0.1)
    assert FactorAnalysisEM(2, tol=1e-6).fit(X).score(X) > ProbabilisticPCA(2, tol=1e-6).fit(X).score(X)


def test_scores_are_posterior_means():
    X = draw()
    model = ProbabilisticPCA(2).fit(X)
    W = model._loadings()
    expected = (X - model.mean_) @ np.linalg.solve(model.get_covariance(), W)
    np.testing.assert_allclose(model.transform(X), expected, rtol=1e-9)
    values = model.explained_variance_ * 99 / 100
    shrunk = (X - model.mean_) @ model.components_.T * np.sqrt(values - model.noise_variance_) / values
    np.testing.assert_allclose(model.transform(X), shrunk, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.inverse_transform(shrunk), model.mean_ + shrunk @ W.T)


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_integer_weights_are_repeated_rows(missing):
    X = draw(missing=missing)
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    weighted = ProbabilisticPCA(2).fit(X, sample_weight=weight)
    repeated = ProbabilisticPCA(2).fit(np.repeat(X, weight, axis=0))
    for name in ("components_", "explained_variance_", "noise_variance_", "mean_", "loglike_"):
        np.testing.assert_allclose(getattr(weighted, name), getattr(repeated, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(200, 12), (10, 12)])
def test_rows_that_equal_others_are_rows(shape, missing):
    """Four distinct rows: repeated, weighted, or in a table too large for equal rows to be merged."""
    n, d = shape
    generator = np.random.default_rng(0)
    distinct, which = draw(4, d, missing=missing), np.sort(generator.integers(0, 4, n))
    many = distinct[which]
    n_axes = min(d - 1, n - 2)
    settings = dict(max_iter=1) if missing else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert ProbabilisticPCA(**settings).fit(many).components_.shape == (n_axes, d)
        weighted = ProbabilisticPCA(**settings).fit(distinct, sample_weight=np.bincount(which, minlength=4))
        assert weighted.components_.shape == (n_axes, d)
        assert ProbabilisticPCA(**settings).fit(many, sample_weight=np.full(n, 1 / n)).components_.shape == (n_axes, d)
        model = ProbabilisticPCA(5, **settings).fit(many)
        np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(5), atol=1e-10)


@pytest.mark.filterwarnings("ignore:ProbabilisticPCA found no noise")  # fewer distinct rows than axes
def test_the_number_of_axes_does_not_depend_on_the_size_of_the_table(monkeypatch):
    many = np.repeat(draw(4, 12), 50, axis=0)
    merged = ProbabilisticPCA().fit(many)
    monkeypatch.setattr(weights, "_FEW_CELLS", 0)
    apart = ProbabilisticPCA().fit(many)
    assert merged.components_.shape == apart.components_.shape == (11, 12)
    np.testing.assert_allclose(merged.get_covariance(), apart.get_covariance(), rtol=1e-9, atol=1e-9)


def test_partial_fit_is_fit():
    X = draw()
    model = ProbabilisticPCA(2)
    for part in (X[:1], X[1:30], X[30:]):
        model.partial_fit(part)
    whole = ProbabilisticPCA(2).fit(X)
    np.testing.assert_allclose(model.components_, whole.components_, atol=1e-10)
    np.testing.assert_allclose(model.loglike_, whole.loglike_, rtol=1e-11)


def test_partial_fit_counts_rows_of_little_weight():
    X = draw()
    weight = np.full(100, 1 / 100)
    model = ProbabilisticPCA()
    for part in (slice(0, 30), slice(30, 100)):
        model.partial_fit(X[part], sample_weight=weight[part])
    whole = ProbabilisticPCA().fit(X, sample_weight=weight)
    assert model.components_.shape == whole.components_.shape == (5, 6)
    np.testing.assert_allclose(model.get_covariance(), whole.get_covariance(), atol=1e-10)


def test_rows_and_covariance_agree_where_there_are_few_rows():
    X = draw(12, 20)
    alone = ProbabilisticPCA(3).fit_covariance(np.cov(X.T, bias=True), 12, mean=X.mean(axis=0))
    rows = ProbabilisticPCA(3).fit(X)
    np.testing.assert_allclose(alone.components_, rows.components_, atol=1e-9)
    np.testing.assert_allclose(alone.get_covariance(), rows.get_covariance(), rtol=1e-9, atol=1e-10)


def test_no_noise_is_warned_of():
    rng = np.random.default_rng(0)
    X = rng.random((5, 100))
    with pytest.warns(
        ConvergenceWarning, match="found no noise: 4 components explain all.*use fewer than 4 components"
    ):
        model = ProbabilisticPCA(4).fit(X)
    assert model.noise_variance_ == pytest.approx(1e-12 * X.var(axis=0).mean())
    with pytest.warns(ConvergenceWarning, match="found no noise: 4 components"):
        ProbabilisticPCA(4).fit_covariance(np.cov(X.T, bias=True), 5)
    holes = np.where(np.arange(100) == 3, np.nan, X[:1])
    with pytest.warns(ConvergenceWarning, match="found no noise: 4 components"):
        ProbabilisticPCA(4, max_iter=3000).fit(np.vstack([holes, X[1:]]))
    ProbabilisticPCA(3).fit(X)
    ProbabilisticPCA(4).partial_fit(X)  # more rows may follow
    ProbabilisticPCA(1).fit(np.ones((5, 3)))  # constant columns vary as little as they can


def test_the_default_leaves_noise():
    assert ProbabilisticPCA().fit(draw()).components_.shape == (5, 6)
    assert ProbabilisticPCA().fit(draw(10, 20)).components_.shape == (8, 20)
    assert ProbabilisticPCA().fit(draw()[:, :1]).components_.shape == (0, 1)


def test_degenerate_input():
    X = draw()
    none = ProbabilisticPCA(0).fit(X)
    assert none.noise_variance_ == pytest.approx(X.var(axis=0).mean()) and none.transform(X).shape == (100, 0)
    with pytest.warns(ConvergenceWarning, match="found no noise"):
        whole = ProbabilisticPCA(6).fit(X)
    np.testing.assert_allclose(whole.get_covariance(), np.cov(X.T, bias=True), rtol=1e-4, atol=1e-4)
    constant = ProbabilisticPCA(1).fit(np.ones((5, 3)))
    assert constant.noise_variance_ == pytest.approx(1e-12) and np.isfinite(constant.score(np.ones((5, 3))))
    with pytest.warns(ConvergenceWarning, match="found no noise"):
        wide = ProbabilisticPCA(8).fit(draw(8, 20))
    np.testing.assert_allclose(wide.components_ @ wide.components_.T, np.eye(8), atol=1e-10)
    with pytest.raises(ValueError, match="more axes than X has rows, n_samples=8"):
        ProbabilisticPCA(9).fit(draw(8, 20))
    with pytest.raises(ValueError, match="more factors than X has columns"):
        ProbabilisticPCA(7).fit(X)
    with pytest.raises(ValueError, match="infinity"):
        ProbabilisticPCA(2).fit(np.where(np.arange(6) == 1, np.inf, X))
    gap = X.copy()
    gap[:, 2] = np.nan
    with pytest.raises(ValueError, match=r"in column\(s\) 2"):
        ProbabilisticPCA(2).fit(gap)


@pytest.mark.parametrize("scale", [1e8, 1e-8])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_scales_do_not_matter(missing, scale):
    X = draw(missing=missing)
    one, other = ProbabilisticPCA(2, tol=1e-8).fit(X), ProbabilisticPCA(2, tol=1e-8).fit(X * scale)
    np.testing.assert_allclose(other.components_, one.components_, atol=1e-5)
    assert other.noise_variance_ / scale**2 == pytest.approx(one.noise_variance_, rel=1e-6)


def test_float32_stays():
    X = draw().astype(np.float32)
    model = ProbabilisticPCA(2).fit(X)
    for array in (model.components_, model.mean_, model.transform(X), model.score_samples(X), model.sample(2)):
        assert array.dtype == np.float32
    np.testing.assert_allclose(model.score(X), ProbabilisticPCA(2).fit(X.astype(float)).score(X), rtol=1e-5)


def test_draws_criteria_imputation_and_state():
    X = draw(missing=0.1)
    model = ProbabilisticPCA(2).fit(X)
    np.testing.assert_allclose(np.cov(model.sample(40_000, random_state=1).T), model.get_covariance(), atol=0.15)
    assert model.bic(X) - model.aic(X) == pytest.approx((6 + 1 + 12 - 1) * (np.log(100) - 2))
    filled = model.impute(X)
    assert not np.isnan(filled).any()
    np.testing.assert_array_equal(filled[~np.isnan(X)], X[~np.isnan(X)])
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.transform(X), model.transform(X))
    search = GridSearchCV(ProbabilisticPCA(), {"n_components": [0, 1, 2, 4]}).fit(draw(500, 12))
    assert search.best_params_["n_components"] == 2


def test_callbacks_and_warnings():
    monitor = ScoringMonitor(scoring={"fit": lambda estimator, X, y: estimator.score(X)})
    ProbabilisticPCA(2).set_callbacks(monitor).fit(draw())
    ProbabilisticPCA(2).set_callbacks(monitor).fit(draw(missing=0.1))
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        ProbabilisticPCA(2, max_iter=2).fit(draw(missing=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProbabilisticPCA(2, max_iter=1).fit(draw())


def test_columns_on_scales_of_their_own_lose_no_axis():
    X = np.random.default_rng(0).normal(size=(200, 3)) @ np.diag([1e3, 1.0, 1e-2])
    model, peer = ProbabilisticPCA(2).fit(X), PCA(2).fit(X)
    assert model.score(X) == pytest.approx(peer.score(X), abs=0.02)  # divisors n and n - 1
    np.testing.assert_allclose(model.noise_variance_, peer.noise_variance_, rtol=0.01)


@pytest.mark.filterwarnings("ignore:ProbabilisticPCA found no noise")  # fewer distinct rows than axes
@pytest.mark.parametrize("light", [0.5, 0.01])
def test_rows_are_counted_one_by_one(light):
    """Whole weights as repeated rows, light ones as rows; parts together as the whole."""
    X = np.random.default_rng(0).normal(size=(8, 14))
    weight = np.repeat([light, 2.0], 4)
    weighted = ProbabilisticPCA().fit(X, sample_weight=weight)
    twice = ProbabilisticPCA().fit(np.vstack([X, X[4:]]), sample_weight=np.r_[weight[:4], np.ones(8)])
    assert weighted.components_.shape == twice.components_.shape == (10, 14)
    parts = ProbabilisticPCA()
    for rows in (slice(0, 6), slice(6, 8)):
        parts.partial_fit(X[rows], sample_weight=weight[rows])
    assert parts.components_.shape == (10, 14)
