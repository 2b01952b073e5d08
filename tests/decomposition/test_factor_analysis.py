"""Factor analysis: the laws of its EM, and the estimator held to brute force, closed forms and scikit-learn."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import chi2, multivariate_normal
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, ProbabilisticPCA
from skvae._tensors import Noise, Table
from skvae.engines import em
from skvae.estimators.decomposition._linear_gaussian import LinearGaussian
from skvae.models.decomposition import factor_analysis as fa
from skvae.models.decomposition.covariance_em import CentredFactorAnalysis, explain_all

CPU = torch.device("cpu")
ROTATIONS = [None, "varimax", "quartimax", "equamax", "promax", "oblimin"]
METHODS = ["transform", "score_samples"]


def draw(n=80, d=6, k=2, missing=0.0, seed=0):
    """Rows of k factors, each with columns of its own and a little of the others, and some cells missing.

    Such factors are determined well: no noise vanishes, and EM converges in tens of steps.
    """
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(d, k)) * 0.15
    W[np.arange(d), np.arange(d) % max(k, 1)] += rng.uniform(1.2, 1.8, d)
    X = rng.normal(size=(n, k)) * np.linspace(1.2, 0.8, k) @ W.T + rng.normal(size=(n, d)) * rng.uniform(0.7, 1.0, d)
    X += rng.normal(size=d)
    X[rng.random(X.shape) < missing] = np.nan
    return X


def fitted(X, k=2, **parameters):
    sample_weight = parameters.pop("sample_weight", None)
    return FactorAnalysisEM(k, **{"tol": 1e-9, "max_iter": 20_000} | parameters).fit(X, sample_weight=sample_weight)


def marginal_log_prob(X, mean, covariance):
    """By brute force: the density of the observed cells of each row."""
    seen = ~np.isnan(X)
    return np.array(
        [
            multivariate_normal(mean[s], covariance[np.ix_(s, s)]).logpdf(x[s]) if s.any() else 0.0
            for x, s in zip(X, seen)
        ]
    )


def gapped_log_likelihood(X, mean, covariance):
    """The same in one go: a missing cell is made an independent standard normal, and seen to be 0."""
    seen = ~np.isnan(X)
    both = seen[:, :, None] & seen[:, None, :]
    S = np.where(both, covariance, np.eye(X.shape[1]))
    r = np.where(seen, X - mean, 0.0)
    mahalanobis = (r * np.linalg.solve(S, r[:, :, None])[:, :, 0]).sum()
    return -0.5 * (seen.sum() * np.log(2 * np.pi) + np.linalg.slogdet(S)[1].sum() + mahalanobis)


def climb(X, k=2, *, weight=None, tied=False, accelerate=True, batch_size=32, max_iter=100, seed=0):
    """The engine on the bare model, as rows."""
    mean = np.nanmean(X, axis=0)
    table = Table(X, CPU, weight=weight, shift=mean)
    model = fa.FactorAnalysis(k, torch.tensor(np.nanvar(X, axis=0)), tied)
    start = model.init(torch.zeros(X.shape[1], dtype=torch.float64), Noise(seed))
    n = float(table.weight.sum())
    plan = em.Plan(max_iter, lambda step: step.gain * n < 1e-10, n, accelerate=accelerate)
    return em.ascend(model, table.batches(batch_size), [start], plan=plan)


# ---------------------------------------------------------------------------------------------------------- the model
@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_em_never_lowers_the_bound(seed, missing, tied, accelerate):
    X = draw(seed=seed, missing=missing)
    weight = np.random.default_rng(seed).uniform(0.2, 3, len(X))
    bounds = climb(X, 3, weight=weight, tied=tied, accelerate=accelerate, seed=seed).lower_bounds
    assert len(bounds) > 5 and bounds[-1] > bounds[0]
    assert np.diff(bounds).min() >= -1e-11 * abs(bounds[-1])


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_bound_never_falls_at_the_floor(missing):
    """Two columns that are the same: their noise vanishes."""
    X = draw(missing=missing)
    X[:, 1] = 2 * X[:, 0]
    fit = climb(X, 2, max_iter=400)
    assert (fit.params.psi.numpy() / np.nanvar(X, axis=0)).min() < 1e-5
    assert np.diff(fit.lower_bounds).min() >= -1e-9


@pytest.mark.parametrize("missing", [0.0, 0.25])
@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_bound_is_the_log_likelihood(k, missing):
    """Constants included, from any parameters."""
    X = draw(missing=missing)
    X[3] = np.nan if missing else X[3]
    weight = np.random.default_rng(0).uniform(0.2, 3, len(X))
    table = Table(X, CPU, weight=weight)
    model = fa.FactorAnalysis(k, torch.tensor(np.nanvar(X, axis=0)))
    params = model.init(torch.tensor(np.nanmean(X, axis=0) + 0.1), Noise(0))
    covariance = (params.W @ params.W.T + params.psi.diag()).numpy()
    exact = marginal_log_prob(X, params.mu.numpy(), covariance)
    stats, _ = em.collect(model, table.batches(16), params)
    assert float(model.bound(stats, params)) == pytest.approx(weight @ exact, rel=1e-12)
    for batch in table.batches(16):
        np.testing.assert_allclose(fa.log_prob(batch, params), exact[batch.row], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_posteriors_and_scores_ask_for_parameters_only(missing):
    """Against dense algebra, one row at a time, of the cells that were observed."""
    X = draw(missing=missing)
    start = fa.FactorAnalysis(2, torch.tensor(np.nanvar(X, axis=0))).init(torch.tensor(np.nanmean(X, axis=0)), Noise(0))
    mu, W, psi = (tensor.numpy() for tensor in start)
    for batch in Table(X, CPU).batches(16):
        q, z = fa.posterior(batch, start), fa.bartlett(batch, start)
        for place, row in enumerate(batch.row.tolist()):
            s = ~np.isnan(X[row])
            precise = W[s] / psi[s][:, None]
            V = np.linalg.inv(np.eye(2) + W[s].T @ precise)
            r = (X[row] - mu)[s]
            pattern = 0 if batch.pattern is None else batch.pattern[place]
            np.testing.assert_allclose(q.V[pattern], V, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(q.mean[place], V @ precise.T @ r, rtol=1e-9, atol=1e-12)
            least = np.linalg.lstsq(W[s] / np.sqrt(psi[s])[:, None], r / np.sqrt(psi[s]), rcond=None)[0]
            np.testing.assert_allclose(z[place], least, rtol=1e-7, atol=1e-9)


def test_a_subclass_is_told_what_it_lacks():
    class Half(LinearGaussian):
        def _n_components(self, n_features, n_rows):
            return 1

    with pytest.raises(TypeError, match="_fitted_attributes.*_loadings"):
        Half()


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_what_runs_on_a_gpu_takes_the_same_steps(missing, monkeypatch):
    X = draw(missing=missing)
    expected = fitted(X)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)  # the other branches, on tensors that are here after all
    model = fitted(X)
    np.testing.assert_allclose(model.get_covariance(), expected.get_covariance(), rtol=1e-10)
    np.testing.assert_allclose(model.loglike_, expected.loglike_, rtol=1e-12)


def test_a_matrix_without_cholesky_factor_leaves_the_others_alone_on_a_gpu(monkeypatch):
    good = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    pair = torch.stack([good, -good])
    with pytest.raises(torch.linalg.LinAlgError):
        fa.cholesky(pair)
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)
    factors = fa.cholesky(pair)
    torch.testing.assert_close(factors[0] @ factors[0].T, good)
    assert factors[1].isnan().all()


def test_a_last_step_that_fails_is_an_error_and_changes_nothing(monkeypatch):
    model = FactorAnalysisEM(2, max_iter=3)
    step, taken = CentredFactorAnalysis.m_step, []

    def failing(self, stats, params):
        taken.append(stats)
        found = step(self, stats, params)
        return found._replace(W=found.W * float("nan")) if len(taken) == 3 else found

    monkeypatch.setattr(CentredFactorAnalysis, "m_step", failing)
    with pytest.raises(FloatingPointError, match="not finite after 3 iterations"):
        model.fit(draw())
    assert not hasattr(model, "components_")


def test_moments_rows_and_patterns_give_the_same_statistics():
    X, weight = draw(), np.random.default_rng(0).uniform(0.2, 3, 80)
    table = Table(X, CPU, weight=weight)
    model = fa.FactorAnalysis(2, torch.tensor(X.var(axis=0)))
    params = model.init(torch.tensor(X.mean(axis=0) + 0.3), Noise(0))
    rows, _ = em.collect(model, table.batches(32), params)
    zero = torch.zeros(6, dtype=torch.float64)
    moments, _ = em.collect(model, [fa.sufficient_statistics(em.summed(fa.sums, table.batches(32)), zero)], params)
    everything = torch.ones(1, 6, dtype=torch.bool)
    batch = next(iter(table.batches(80)))
    batch = batch._replace(
        observed=torch.ones_like(batch.X), patterns=everything, pattern=torch.zeros(80, dtype=torch.int64)
    )
    patterns, _ = em.collect(model, [batch], params)
    for name in rows._fields:
        a, b, c = (getattr(stats, name) for stats in (rows, moments, patterns))
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(a.expand_as(c), c, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_the_steps_on_a_covariance_are_those_on_rows(k, tied):
    """From any parameters with mu = 0, also where noise is at its floor and hardly any is left."""
    X = draw()
    X[:, 5] = 2 * X[:, 4]
    X -= X.mean(axis=0)
    S = X.T @ X / len(X)
    table = Table(X, CPU)
    n, zero = torch.tensor(80.0, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    rows, alone = fa.FactorAnalysis(k, torch.tensor(S.diagonal()), tied), CentredFactorAnalysis(k, S, tied)
    params = rows.init(zero, Noise(0))
    for _ in range(30):
        stats, _ = em.collect(rows, table.batches(32), params)
        other, _ = em.collect(alone, [fa.SufficientStatistics(n, zero, torch.tensor(S))], params)
        assert float(alone.bound(other, params)) == pytest.approx(float(rows.bound(stats, params)), rel=1e-9)
        found = alone.m_step(other, params)
        for one, two in zip(rows.m_step(stats, params), found):
            torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-10)
        params = found


def test_a_covariance_without_factor_is_no_step():
    S = np.eye(3)
    model = CentredFactorAnalysis(2, S)
    with pytest.raises(torch.linalg.LinAlgError):
        model.m_step(
            model.e_step(
                fa.SufficientStatistics(torch.tensor(5.0), None, None),
                model.init(torch.zeros(3, dtype=torch.float64), Noise(0)),
            )[0]._replace(C=-np.eye(2)),
            None,
        )


@pytest.mark.parametrize("psi", [None, np.full(6, 1e-3), np.full(6, 1e3)], ids=["none", "little", "much"])
def test_as_many_factors_as_columns_explain_everything(psi):
    X = draw(200)
    S = np.cov(X.T, bias=True)
    W, noise = explain_all(S, psi)
    np.testing.assert_allclose(W @ W.T + np.diag(noise), S, rtol=1e-10, atol=1e-12)
    assert (noise > 1e-4 * S.diagonal()).all() and (psi is None or (noise <= psi).all())
    assert explain_all(np.ones((2, 2))) is None and explain_all(np.diag([1.0, 0.0])) is None
    model = FactorAnalysisEM(noise_variance_init=psi).fit(X)
    best = multivariate_normal(X.mean(axis=0), S).logpdf(X).sum()
    assert model.loglike_ == pytest.approx([best], abs=1e-8)
    assert model.score_samples(X).sum() == pytest.approx(best, abs=1e-7)
    assert model.n_iter_ == 1 and model.converged_
    assert model.loglike_[-1] >= FactorAnalysis().fit(X).loglike_[-1] - 1e-7
    with pytest.warns(ConvergenceWarning, match="no noise"):  # nothing explains these without a loss
        FactorAnalysisEM().fit(np.c_[X, X[:, 0]])


def test_a_step_with_gaps_is_the_step_without():
    """Where no cell is missing, the regression of each column on its own rows is that on all rows."""
    X = draw()
    model = fa.FactorAnalysis(2, torch.tensor(X.var(axis=0)))
    params = model.init(torch.tensor(X.mean(axis=0)), Noise(0))
    stats, _ = em.collect(model, Table(X, CPU).batches(80), params)
    apart = stats._replace(n=stats.n.expand(6), C=stats.C.expand(6, -1, -1))
    for one, other in zip(model.m_step(stats, params), model.m_step(apart, params)):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_free_parameters_go_there_and_back(tied):
    model = fa.FactorAnalysis(2, torch.tensor([1e16, 1.0, 1e-16, 0.0], dtype=torch.float64), tied)
    params = model.init(torch.arange(4.0, dtype=torch.float64), Noise(0))
    for one, other in zip(params, model.from_free(model.to_free(params), params)):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_scores_by_bartlett_are_weighted_least_squares():
    X = draw(missing=0.1)
    model = fitted(X, rotation="oblimin", score_method="bartlett")
    L, noise = model.components_.T, model.noise_variance_
    expected = []
    for x in X:
        s = ~np.isnan(x)
        scaled = L[s] / np.sqrt(noise[s])[:, None]
        expected.append(np.linalg.lstsq(scaled, (x - model.mean_)[s] / np.sqrt(noise[s]), rcond=None)[0])
    enough = (~np.isnan(X)).sum(axis=1) >= 2
    np.testing.assert_allclose(model.transform(X)[enough], np.array(expected)[enough], rtol=1e-8, atol=1e-8)


# -------------------------------------------------------------------------------------------- what the fit arrives at
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_one_factor_is_the_maximum_that_an_optimiser_finds(missing):
    X = draw(n=60, d=4, k=1, missing=missing)
    model = fitted(X, 1)

    def loss(free):
        mean, w, noise = free[:4], free[4:8], np.exp(free[8:])
        return -gapped_log_likelihood(X, mean, np.outer(w, w) + np.diag(noise))

    start = np.concatenate([np.nanmean(X, axis=0), np.nanstd(X, axis=0) / 2, np.log(np.nanvar(X, axis=0) / 2)])
    best = minimize(loss, start, method="BFGS", options={"gtol": 1e-4})
    assert model.score(X) * len(X) == pytest.approx(-best.fun, abs=1e-6)
    np.testing.assert_allclose(model.mean_, best.x[:4], atol=1e-4)
    np.testing.assert_allclose(model.noise_variance_, np.exp(best.x[8:]), rtol=1e-3)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_planted_parameters_are_recovered(missing):
    rng = np.random.default_rng(1)
    L = rng.normal(size=(8, 2))
    noise, mean = rng.uniform(0.5, 1.5, 8), rng.normal(size=8)
    X = mean + rng.normal(size=(10_000, 2)) @ L.T + rng.normal(size=(10_000, 8)) * np.sqrt(noise)
    X[rng.random(X.shape) < missing] = np.nan
    model = FactorAnalysisEM(2).fit(X)
    assert model.converged_
    np.testing.assert_allclose(model.mean_, mean, atol=0.07)
    np.testing.assert_allclose(model.noise_variance_, noise, atol=0.1)
    np.testing.assert_allclose(model.get_covariance(), L @ L.T + np.diag(noise), atol=0.2)


def test_stationary_with_missing_cells_whatever_the_complete_rows():
    """Complete rows enter as moments if they are many; a fit that never sees them so agrees."""
    X = draw(n=120, missing=0.0)
    X[:50, 2:4] = np.nan
    assert len(X) - 50 >= X.shape[1]
    model = fitted(X)
    assert model.loglike_[-1] == pytest.approx(climb(X, max_iter=5000).lower_bounds[-1] * len(X), abs=1e-6)
    np.testing.assert_allclose(model.score(X) * len(X), model.loglike_[-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("X", "k"),
    [(load_iris().data, 1), (load_digits().data, 7), (draw(200, 10, 3), 3), (draw(40, 60, 2), 2)],
    ids=["iris", "digits", "drawn", "wide"],
)
def test_the_likelihood_is_scikit_learns_or_higher(X, k):
    """At tolerances of nothing, and as high at the default ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of iris, a column without noise
        exact = FactorAnalysis(k, tol=1e-9, max_iter=500, svd_method="lapack").fit(X)
        ours = fitted(X, k)
        default = FactorAnalysisEM(k).fit(X)
    assert ours.score(X) >= exact.score(X) - 1e-9 * abs(exact.score(X))
    theirs = FactorAnalysis(k, svd_method="lapack").fit(X)
    assert default.score(X) * len(X) >= theirs.loglike_[-1] - 2e-2


def test_where_the_maximum_is_regular_it_is_scikit_learns():
    X = draw(300, 8, 2)
    exact = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(X)
    ours = fitted(X, tol=1e-11)
    np.testing.assert_allclose(ours.get_covariance(), exact.get_covariance(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.noise_variance_, exact.noise_variance_, rtol=1e-4)
    np.testing.assert_allclose(ours.get_precision(), exact.get_precision(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.abs(ours.components_), np.abs(exact.components_), atol=1e-4)
    np.testing.assert_allclose(np.abs(ours.transform(X)), np.abs(exact.transform(X)), atol=1e-4)
    np.testing.assert_allclose(ours.score_samples(X), exact.score_samples(X), rtol=1e-5, atol=1e-5)
    assert ours.score(X) == pytest.approx(exact.score(X), rel=1e-10)
    np.testing.assert_allclose(ours.mean_, exact.mean_, rtol=1e-12)


def test_orientation_is_canonical():
    """Whatever the start: axes of Psi^-1/2 W, the longest first, their largest loading positive."""
    X = draw(300, 9, 3)
    first, second = (fitted(X, 3, random_state=seed, tol=1e-11) for seed in (0, 7))
    np.testing.assert_allclose(first.components_, second.components_, atol=1e-4)
    gram = first.components_ / first.noise_variance_ @ first.components_.T
    np.testing.assert_allclose(gram, np.diag(gram.diagonal()), atol=1e-9 * gram.max())
    assert (np.diff(gram.diagonal()) < 0).all()
    assert (first.components_.max(axis=1) == np.abs(first.components_).max(axis=1)).all()


@pytest.mark.parametrize("Class", [FactorAnalysisEM, ProbabilisticPCA])
def test_one_number_weighs_all_rows_alike(Class):
    X = load_iris().data
    np.testing.assert_array_equal(Class(1).fit(X, sample_weight=1.0).components_, Class(1).fit(X).components_)
    assert Class(1).fit(X, sample_weight=2).n_samples_seen_ == 300
    with pytest.raises(ValueError, match="zero for all but 1 sample"):
        Class(1).fit(X, sample_weight=np.arange(150) == 3)


# ------------------------------------------------------------------------------------------------- weights and order
@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(60, 5), (3000, 90), (12, 20)], ids=["merged", "large", "wide"])
def test_integer_weights_are_repeated_rows(shape, missing):
    if shape[1] > 5 and missing:
        shape = (shape[0] // 2, shape[1] // 2)
    X = draw(*shape, missing=missing)
    weight = np.random.default_rng(0).integers(0, 4, len(X))
    few = dict(tol=0, max_iter=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        weighted = fitted(X, sample_weight=weight, **few)
        repeated = fitted(np.repeat(X, weight, axis=0), **few)
    assert weighted.n_samples_seen_ == weight.sum() == repeated.n_samples_seen_
    np.testing.assert_allclose(weighted.get_covariance(), repeated.get_covariance(), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(weighted.loglike_, repeated.loglike_, rtol=1e-10)
    assert weighted.score(X, sample_weight=weight) == pytest.approx(repeated.score(np.repeat(X, weight, axis=0)))


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(4000, 80), (30, 90)])
def test_batches_and_row_order_change_nothing(shape, missing):
    X = draw(*shape, missing=missing) if shape[0] < 100 else draw(4000 if not missing else 1000, 80, missing=missing)
    few = dict(tol=0, max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = fitted(X, **few)
        others = [fitted(X, batch_size=7 if len(X) < 100 else 300, **few), fitted(X[::-1], **few)]
    for other in others:
        np.testing.assert_allclose(other.get_covariance(), model.get_covariance(), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(other.loglike_, model.loglike_, rtol=1e-11)
    for method in METHODS:
        whole = getattr(model, method)(X)
        np.testing.assert_allclose(getattr(model, method)(X[5:9]), whole[5:9], rtol=1e-9, atol=1e-11)


# -------------------------------------------------------------------------------------------- statistics in their place
@pytest.mark.parametrize("parts", [[40, 80], [1, 2, 79], [80]])
def test_partial_fit_learns_what_fit_learns(parts):
    X = draw() * 3 + 100
    weight = np.random.default_rng(0).uniform(0.5, 2, len(X))
    model = FactorAnalysisEM(2, tol=1e-10, max_iter=20_000)
    for start, stop in zip([0, *parts], [*parts, len(X)]):
        if stop > start:
            model.partial_fit(X[start:stop], sample_weight=weight[start:stop])
    whole = fitted(X, tol=1e-10, sample_weight=weight)
    assert model.n_samples_seen_ == pytest.approx(weight.sum())
    np.testing.assert_allclose(model.mean_, whole.mean_, rtol=1e-12)
    np.testing.assert_allclose(
        model._sufficient_statistics["S"], whole._sufficient_statistics["S"], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(model.get_covariance(), whole.get_covariance(), rtol=1e-4, atol=1e-4)
    assert model.loglike_[-1] == pytest.approx(whole.loglike_[-1], abs=1e-6)


def test_partial_fit_goes_on_from_where_it_was():
    X = draw(400)
    model = FactorAnalysisEM(2, tol=1e-6).partial_fit(X)
    before = model.n_iter_
    model.partial_fit(X)  # the same rows again: the same covariance, the same maximum
    assert model.n_iter_ <= 3 < before
    assert model.set_params(n_components=1).partial_fit(X).components_.shape == (1, 6)


def test_partial_fit_refuses_what_it_cannot_keep():
    X = draw()
    with pytest.raises(ValueError, match="X contains NaN"):
        FactorAnalysisEM(2).partial_fit(draw(missing=0.1))
    model = fitted(draw(missing=0.1))
    with pytest.raises(ValueError, match="kept no covariance"):
        model.partial_fit(X)
    with pytest.raises(ValueError, match="expecting 6 features"):
        fitted(X).partial_fit(X[:, :4])


def test_a_covariance_is_as_good_as_its_rows():
    X = draw()
    rows = fitted(X)
    alone = FactorAnalysisEM(2, tol=1e-9, max_iter=20_000).fit_covariance(
        np.cov(X.T, bias=True), len(X), mean=X.mean(axis=0)
    )
    np.testing.assert_allclose(alone.get_covariance(), rows.get_covariance(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(alone.transform(X), rows.transform(X), rtol=1e-5, atol=1e-5)
    assert alone.bic() == pytest.approx(rows.bic(), abs=1e-6)
    assert alone.chi_square() == pytest.approx(rows.chi_square(), abs=1e-5)
    frame = pd.DataFrame(np.corrcoef(X.T), columns=list("abcdef"))
    named = FactorAnalysisEM(2).fit_covariance(frame, 80)
    assert list(named.feature_names_in_) == list("abcdef") and (named.mean_ == 0).all()


@pytest.mark.parametrize(
    ("S", "n", "mean", "complaint"),
    [
        (np.ones((2, 3)), 5, None, "symmetric"),
        (np.array([[1.0, 0.5], [0.1, 1.0]]), 5, None, "symmetric"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), 5, None, "eigenvalue -1"),
        (np.eye(2), 0, None, "n_samples must be"),
        (np.eye(2), "a", None, "n_samples must be a positive number of rows, but it is 'a'"),
        (np.eye(2), None, None, "n_samples must be a positive number of rows, but it is None"),
        (np.eye(2), [5, 6], None, "n_samples must be"),
        (np.eye(2), 5, [1.0], "mean must hold 2"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), 5, None, "NaN"),
    ],
)
def test_what_is_no_covariance_is_refused(S, n, mean, complaint):
    with pytest.raises(ValueError, match=complaint):
        FactorAnalysisEM(1).fit_covariance(S, n, mean)


# ------------------------------------------------------------------------------------------------------------- rotation
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("rotation", ROTATIONS[1:])
def test_rotation_leaves_the_model_as_it_is(rotation, missing):
    X = draw(200, 9, 3, missing=missing)
    plain, rotated = fitted(X, 3), fitted(X, 3, rotation=rotation)
    np.testing.assert_allclose(rotated.get_covariance(), plain.get_covariance(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(rotated.get_precision(), plain.get_precision(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rotated.score_samples(X), plain.score_samples(X), rtol=1e-10)
    np.testing.assert_allclose(rotated.communalities_, plain.communalities_, rtol=1e-12)
    np.testing.assert_allclose(rotated.impute(X), plain.impute(X), rtol=1e-10)
    L, phi = rotated.components_.T, rotated.factor_correlation_
    covariance = L @ phi @ L.T + np.diag(rotated.noise_variance_)
    np.testing.assert_allclose(covariance, plain.get_covariance(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(phi.diagonal(), 1, rtol=1e-10)
    assert not np.allclose(L, plain.components_.T)
    oblique = rotation in ("promax", "oblimin")
    assert oblique == (np.abs(phi - np.eye(3)).max() > 1e-6)
    np.testing.assert_allclose(rotated.transform(X), plain.transform(X) @ rotated.rotation_matrix_, atol=1e-9)
    np.testing.assert_allclose(
        rotated.inverse_transform(rotated.transform(X)), plain.inverse_transform(plain.transform(X)), rtol=1e-9
    )


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_scores_by_regression_are_posterior_means(rotation):
    """Of factors that correlate by Phi: Phi L' Sigma^-1 (x - mean)."""
    X = draw(200, 9, 3)
    model = fitted(X, 3, rotation=rotation)
    gain = model.factor_correlation_ @ model.components_ @ np.linalg.inv(model.get_covariance())
    np.testing.assert_allclose(model.transform(X), (X - model.mean_) @ gain.T, rtol=1e-8, atol=1e-9)


def test_bartlett_scores_of_rows_without_noise_are_the_factors():
    model = fitted(draw(200, 9, 3), 3, rotation="oblimin", score_method="bartlett")
    Z = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(model.transform(model.inverse_transform(Z)), Z, rtol=1e-8)


def test_normalisation_concerns_the_rotation_alone():
    X = draw(200, 9, 3) * np.linspace(0.1, 10, 9)
    kaiser, plain = (fitted(X, 3, rotation="varimax", normalize=normalize) for normalize in (True, False))
    assert np.abs(kaiser.components_ - plain.components_).max() > 0.1
    np.testing.assert_allclose(kaiser.get_covariance(), plain.get_covariance(), rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(fitted(X, 3).components_, fitted(X, 3, normalize=False).components_)
    scaled = fitted(X / X.std(axis=0), 3, rotation="varimax", tol=1e-11).components_ * X.std(axis=0)
    np.testing.assert_allclose(kaiser.components_, scaled, atol=1e-3 * np.abs(scaled).max())  # units do not matter


# ------------------------------------------------------------------------------------------------------- missing cells
def test_missing_cells_are_filled_with_their_conditional_mean():
    X = draw(missing=0.2)
    X[4] = np.nan
    model = fitted(X)
    S, expected = model.get_covariance(), X.copy()
    for i, x in enumerate(X):
        s = ~np.isnan(x)
        slope = np.linalg.solve(S[np.ix_(s, s)], S[np.ix_(s, ~s)]) if s.any() else np.zeros((0, 6))
        expected[i, ~s] = model.mean_[~s] + (x - model.mean_)[s] @ slope
    np.testing.assert_allclose(model.impute(X), expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(model.impute(X)[4], model.mean_)
    assert (model.transform(X[4:5]) == 0).all() and model.score_samples(X[4:5]) == 0


def test_a_frame_comes_back_as_a_frame():
    X = pd.DataFrame(draw(missing=0.1), columns=list("abcdef"))
    filled = fitted(X).impute(X)
    assert list(filled.columns) == list("abcdef") and not filled.isna().any(axis=None)
    assert X.isna().any(axis=None)


def test_likelihood_with_gaps_is_brute_force():
    X = draw(missing=0.3)
    model = fitted(X)
    exact = marginal_log_prob(X, model.mean_, model.get_covariance())
    np.testing.assert_allclose(model.score_samples(X), exact, rtol=1e-10, atol=1e-11)
    assert model.loglike_[-1] == pytest.approx(exact.sum(), abs=1e-6)


def test_an_empty_row_teaches_nothing():
    X = draw(missing=0.1)
    with_empty = np.vstack([X, np.full((3, 6), np.nan)])
    np.testing.assert_allclose(fitted(with_empty).get_covariance(), fitted(X).get_covariance(), rtol=1e-3, atol=1e-4)


def test_an_empty_column_is_named():
    X = draw()
    X[:, 3] = np.nan
    with pytest.raises(ValueError, match=r"every cell is NaN in column\(s\) 3"):
        FactorAnalysisEM(2).fit(X)


@pytest.mark.parametrize("shape", [(80, 6), (5, 8)])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinity_is_refused(bad, shape):
    X = draw(*shape)
    model = fitted(draw(80, shape[1]))
    for other in (0.0, np.nan):
        X[1, 1], X[2, 2] = other, bad
        for method in (FactorAnalysisEM(2).fit, FactorAnalysisEM(2).partial_fit, model.transform, model.impute):
            with pytest.raises(ValueError, match="infinity|NaN"):
                method(X)


# ---------------------------------------------------------------------------------------------------- degenerate input
def test_a_column_without_noise_is_named():
    X = pd.DataFrame(draw(), columns=["length", "width", "c", "d", "e", "f"])
    X["width"] = 2 * X["length"]
    with pytest.warns(ConvergenceWarning, match=r"no noise in column\(s\) '(length|width)'.*Heywood"):
        model = FactorAnalysisEM(2, tol=1e-8).fit(X)
    assert np.isfinite(model.score(X))
    with pytest.warns(ConvergenceWarning, match=r"column\(s\) [01]"):
        FactorAnalysisEM(2, tol=1e-8).fit(X.to_numpy())


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8, -1e-8])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_constant_columns_are_no_news(value, missing):
    X = draw(d=8, missing=missing)
    X[:, 2] = np.where(np.isnan(X[:, 2]), np.nan, value)
    model = fitted(X)
    np.testing.assert_allclose(model.mean_[2], value, rtol=1e-12)
    assert model.noise_variance_[2] == pytest.approx(1e-12)
    np.testing.assert_allclose(model.components_[:, 2], 0, atol=1e-12)
    others = np.delete(np.arange(8), 2)
    np.testing.assert_allclose(
        model.get_covariance()[np.ix_(others, others)].diagonal(), np.nanvar(X[:, others], axis=0), rtol=0.3
    )


def test_all_columns_constant():
    model = fitted(np.ones((5, 3)), 1)
    np.testing.assert_allclose(model.mean_, 1)
    np.testing.assert_allclose(model.transform(np.ones((2, 3))), 0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e8, 1e-8])
@pytest.mark.parametrize("shape", [(80, 6), (15, 25)])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_scales_do_not_matter(shape, scale, missing):
    """The model of X in other units is the same model, EM step by EM step."""
    X = draw(*shape, missing=missing)
    few = dict(tol=0, max_iter=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one, other = fitted(X, **few), fitted(X * scale, **few)
    np.testing.assert_allclose(other.noise_variance_ / scale**2, one.noise_variance_, rtol=1e-6)
    np.testing.assert_allclose(other.get_covariance() / scale**2, one.get_covariance(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        other.score(X * scale) + np.isfinite(X).mean() * shape[1] * np.log(scale), one.score(X), rtol=1e-6
    )


def test_columns_far_from_zero():
    X = draw()
    near, far = fitted(X), fitted(X + 1e8)
    np.testing.assert_allclose(far.get_covariance(), near.get_covariance(), rtol=1e-5, atol=1e-5)
    assert far.score(X + 1e8) == pytest.approx(near.score(X), abs=1e-5)


def test_no_factors_are_independent_normals():
    X = draw()
    model = FactorAnalysisEM(0).fit(X)
    assert model.components_.shape == (0, 6) and model.transform(X).shape == (80, 0)
    np.testing.assert_allclose(model.noise_variance_, X.var(axis=0))
    np.testing.assert_allclose(model.get_covariance(), np.diag(X.var(axis=0)))
    np.testing.assert_allclose(model.get_precision(), np.diag(1 / X.var(axis=0)))
    gaps = draw(missing=0.2)
    model = fitted(gaps, 0)
    np.testing.assert_allclose(model.noise_variance_, np.nanvar(gaps, axis=0))
    np.testing.assert_allclose(model.mean_, np.nanmean(gaps, axis=0))
    assert model.inverse_transform(np.empty((2, 0))).shape == (2, 6)


def test_as_many_factors_as_columns_by_default():
    X = draw(300, 4, 1)
    model = FactorAnalysisEM(tol=1e-9).fit(X)
    assert model.components_.shape == (4, 4)
    np.testing.assert_allclose(model.get_covariance(), np.cov(X.T, bias=True), rtol=1e-3, atol=1e-3)


def test_one_column_and_one_row():
    X = draw()[:, :1]
    model = fitted(X, 1)
    assert model.score(X) == pytest.approx(multivariate_normal(X.mean(), X.var()).logpdf(X[:, 0]).mean())
    with pytest.raises(ValueError, match="1 sample"):
        FactorAnalysisEM(1).fit(draw()[:1])


def test_more_factors_than_columns_are_as_many_as_columns_with_a_warning():
    X = draw()
    with pytest.warns(
        UserWarning, match="n_components=9 asks for more factors than X has columns; 6 are fitted"
    ) as told:
        many = FactorAnalysisEM(9).fit(X)
    assert [warning.filename for warning in told] == [__file__]
    assert many.components_.shape == FactorAnalysis(9).fit(X).components_.shape
    np.testing.assert_array_equal(many.components_, FactorAnalysisEM(6).fit(X).components_)
    for method, given in (("partial_fit", (X,)), ("fit_covariance", (np.cov(X.T), 100))):
        with pytest.warns(UserWarning, match="6 are fitted"):
            assert getattr(FactorAnalysisEM(9), method)(*given).transform(X).shape[1] == 6


def test_values_that_overflow_are_told():
    with pytest.raises(ValueError, match="overflow"):
        FactorAnalysisEM(1).fit(draw() * 1e200)


@pytest.mark.parametrize("scale", [1e-155, 1e-160])
@pytest.mark.parametrize("shape", [(80, 6), (15, 25)])
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("Class", [FactorAnalysisEM, ProbabilisticPCA])
def test_values_whose_squares_underflow_are_told(Class, shape, missing, scale):
    X = draw(*shape, missing=missing)
    with pytest.raises(ValueError, match=r"squares underflow in float64: .* column\(s\) 0, 1, 2, 3, 4, .*; scale it"):
        Class(1).fit(X * scale)
    if not missing:
        with pytest.raises(ValueError, match="squares underflow"):
            Class(1).partial_fit(X * scale)


@pytest.mark.parametrize("Class", [FactorAnalysisEM, ProbabilisticPCA])
def test_small_values_are_fitted_as_any(Class):
    X = draw()
    score = Class(1).fit(X).score(X)
    assert Class(1).fit(X * 1e-140).score(X * 1e-140) - 6 * 140 * np.log(10) == pytest.approx(score, abs=1e-3)


# ----------------------------------------------------------------------------------------------------- the drop-in face
@pytest.mark.parametrize("parameters", [{}, {"n_components": 2}, {"n_components": 2, "rotation": "varimax"}], ids=str)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_scripts_for_scikit_learn_run(parameters, dtype):
    X = (3 * draw(100, 5)).astype(dtype)
    theirs = FactorAnalysis(**parameters).fit(X)
    ours = FactorAnalysisEM(**parameters).fit(X)
    for name in ("components_", "noise_variance_", "mean_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
        assert getattr(ours, name).dtype == (np.float32 if dtype is np.float32 else np.float64)
    for name in ("loglike_", "n_iter_", "n_features_in_"):
        assert type(getattr(ours, name)) is type(getattr(theirs, name))
    assert ours.transform(X).shape == theirs.transform(X).shape
    assert ours.transform(X).dtype == ours.mean_.dtype
    assert len(ours.loglike_) == ours.n_iter_ == len(ours.lower_bounds_)
    np.testing.assert_allclose(np.array(ours.loglike_) / 100, ours.lower_bounds_)
    assert ours.get_covariance().shape == theirs.get_covariance().shape == ours.get_precision().shape
    assert isinstance(ours.score(X), float)
    assert list(ours.get_feature_names_out())[0] == "factoranalysisem0"


def test_parameters_and_defaults_are_scikit_learns():
    theirs, ours = FactorAnalysis().get_params(), FactorAnalysisEM().get_params()
    assert {name: ours[name] for name in theirs} == theirs
    own = {"score_method", "normalize", "device", "batch_size", "data_parallel", "checkpoint", "verbose"}
    assert set(ours) - set(theirs) == own


def test_it_stops_when_the_total_likelihood_rises_by_less_than_tol():
    X = draw(500, 10, 3)
    loglike = fitted(X, 3, tol=1e-2).loglike_
    assert 0 <= loglike[-2] - loglike[-3] < 1e-2  # the step before the last one, which is taken all the same
    assert fitted(X, 3, tol=1e-2).n_iter_ < fitted(X, 3, tol=1e-6).n_iter_


@pytest.mark.parametrize("parameters", [{}, {"rotation": "oblimin"}, {"max_iter": 1}, {"max_iter": 4}], ids=str)
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(120, 6), (15, 25)])
@pytest.mark.parametrize("Class", [FactorAnalysisEM, ProbabilisticPCA])
def test_the_trace_ends_with_the_likelihood_of_the_model(Class, shape, missing, parameters):
    """To 7 decimals of the total, as scikit-learn's tests ask."""
    X = draw(*shape, missing=missing)
    if Class is ProbabilisticPCA:
        parameters = {name: value for name, value in parameters.items() if name != "rotation"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = Class(2, **parameters).fit(X)
    assert model.loglike_[-1] == pytest.approx(model.score_samples(X).sum(), abs=1.5e-7)
    assert model.lower_bounds_[-1] == pytest.approx(model.score(X), abs=1e-8)
    assert len(model.loglike_) == len(model.lower_bounds_) == model.n_iter_
    assert np.diff(model.loglike_).min(initial=0) >= -1e-9 * abs(model.loglike_[-1])
    assert model.bic() == pytest.approx(model.bic(X), abs=1e-6)


def test_too_few_iterations_are_warned_of():
    with pytest.warns(ConvergenceWarning, match="did not converge: it stopped at max_iter=3"):
        model = FactorAnalysisEM(2, max_iter=3).fit(draw())
    assert model.n_iter_ == 3 and not model.converged_


def test_the_fit_may_start_from_given_noise():
    X = draw(300)
    given = fitted(X, noise_variance_init=np.ones(6))
    assert given.loglike_[0] != fitted(X).loglike_[0]
    assert given.loglike_[-1] == pytest.approx(fitted(X).loglike_[-1], abs=1e-5)
    for bad in ([1.0], np.zeros(6), [1, 1, 1, 1, 1, np.nan]):
        with pytest.raises(ValueError, match="noise_variance_init must hold 6 positive numbers"):
            FactorAnalysisEM(2, noise_variance_init=bad).fit(X)


@pytest.mark.parametrize(
    "bad",
    [
        {"n_components": -1},
        {"tol": -1.0},
        {"max_iter": 0},
        {"svd_method": "qr"},
        {"rotation": "procrustes"},
        {"normalize": "kaiser"},
        {"score_method": "thurstone"},
        {"batch_size": 0},
        {"device": "abacus"},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FactorAnalysisEM(**bad).fit(draw())


def test_draws_have_the_moments_of_the_model():
    model = fitted(draw(), rotation="oblimin")
    X = model.sample(50_000, random_state=0)
    np.testing.assert_allclose(X.mean(axis=0), model.mean_, atol=0.05)
    np.testing.assert_allclose(np.cov(X.T), model.get_covariance(), atol=0.1)
    np.testing.assert_array_equal(model.sample(3, random_state=0), model.sample(3, random_state=0))
    assert not np.array_equal(model.sample(3), model.sample(3))
    assert model.sample().shape == (1, 6)
    with pytest.raises(ValueError, match="n_samples >= 1"):
        model.sample(0)


def test_information_criteria_count_free_parameters():
    X = draw()
    model = fitted(X)
    log_likelihood, n_free = model.score(X) * 80, 6 + 6 + 2 * 6 - 1
    assert model.aic(X) == pytest.approx(-2 * log_likelihood + 2 * n_free)
    assert model.bic(X) == pytest.approx(-2 * log_likelihood + n_free * np.log(80))
    assert model.bic() == pytest.approx(model.bic(X), abs=1e-6)
    assert fitted(X, 6).aic(X) >= -2 * fitted(X, 6).score(X) * 80 + 2 * (6 + 21) - 1e-9
    bics = [FactorAnalysisEM(k).fit(draw(1000, 8, 2)).bic() for k in range(5)]
    assert np.argmin(bics) == 2


def test_the_chi_square_of_factors_that_are_there_is_uniform_in_p():
    tests = [fitted(draw(400, 8, 2, seed=seed), tol=1e-4).chi_square() for seed in range(40)]
    assert {test.dof for test in tests} == {13}
    assert np.mean([test.statistic for test in tests]) == pytest.approx(13, abs=3)
    assert 0.2 < np.mean([test.p_value for test in tests]) < 0.8
    assert FactorAnalysisEM(1).fit(draw(400, 8, 3)).chi_square().p_value < 1e-6
    assert np.isnan(FactorAnalysisEM(3).fit(draw(100, 4, 1)).chi_square().p_value)


def test_chi_square_is_the_likelihood_ratio():
    X = draw(300, 8, 2)
    test = fitted(X).chi_square()
    free = multivariate_normal(X.mean(axis=0), np.cov(X.T, bias=True)).logpdf(X).sum()
    ratio = 2 * (free - fitted(X).score(X) * 300)
    assert test.statistic == pytest.approx(ratio / 300 * (299 - 21 / 6 - 4 / 3), abs=1e-5)
    assert test.p_value == pytest.approx(chi2.sf(test.statistic, 13))


def test_a_fit_to_rows_that_equal_others_keeps_their_covariance():
    """In small tables equal rows are merged, which does not make them fewer than columns."""
    distinct = draw(12, 6)[:5]
    many = np.repeat(distinct, 8, axis=0)
    model = FactorAnalysisEM(1).fit(many)
    assert model.partial_fit(many).n_samples_seen_ == 80
    weighted = FactorAnalysisEM(1).fit(distinct, sample_weight=np.full(5, 8))
    assert weighted.partial_fit(many).n_samples_seen_ == 80
    with pytest.raises(ValueError, match="singular"):
        model.chi_square()


def test_chi_square_says_what_it_lacks():
    for X in (draw(missing=0.1), draw(8, 10)):
        with pytest.raises(ValueError, match="needs the covariance of the fitted rows"):
            fitted(X, 1, tol=1e-2).chi_square()
    X = draw()
    X[:, 1] = 3
    with pytest.raises(ValueError, match="singular; drop constant columns"):
        fitted(X).chi_square()


def profile_discrepancy(log_noise, S, k):
    """Of the best loadings for this noise: the eigenvalues of Psi^-1/2 S Psi^-1/2 that they leave (Joreskog 1967)."""
    scale = np.exp(-0.5 * log_noise)
    left = np.linalg.eigvalsh(scale[:, None] * S * scale)[: len(S) - k]
    return (left - np.log(left) - 1).sum()


def test_holzinger_and_swineford(test_data):
    """Three factors of nine ability tests: n F is 22.897 on 12 degrees of freedom; 22.38 with Bartlett's correction."""
    path = test_data / "small" / "HolzingerSwineford1939.csv"
    if not path.is_file():
        pytest.skip("needs small/HolzingerSwineford1939.csv in the folder that SKVAE_TEST_DATA names")
    X = pd.read_csv(path)[[f"x{i}" for i in range(1, 10)]]
    model = fitted(X, 3, tol=1e-10, rotation="oblimin")
    R = np.corrcoef(X.T)
    best = minimize(profile_discrepancy, np.full(9, np.log(0.5)), (R, 3), method="BFGS", options={"gtol": 1e-7})
    assert 301 * best.fun == pytest.approx(22.897, abs=1e-3)
    test = model.chi_square()
    assert test.dof == 12
    assert test.statistic == pytest.approx(best.fun * (300 - 23 / 6 - 2), abs=1e-5)
    assert test.statistic == pytest.approx(22.38, abs=5e-3)
    assert test.p_value == pytest.approx(0.0335, abs=1e-4)
    np.testing.assert_allclose(model.noise_variance_ / X.var(ddof=0), np.exp(best.x), rtol=1e-3)
    strongest = np.abs(model.components_).argmax(axis=0)
    assert [len(set(strongest[i : i + 3])) for i in (0, 3, 6)] == [1, 1, 1] and len(set(strongest)) == 3


# ------------------------------------------------------------------------------------------------------ state and seams
def state(model):
    return pickle.dumps({name: value for name, value in vars(model).items() if not name.startswith("_skl")})


@pytest.mark.parametrize("rotation", [None, "oblimin"])
def test_the_state_is_arrays_and_pickles(rotation):
    X = draw(missing=0.1)
    model = fitted(X, rotation=rotation)
    twin = pickle.loads(pickle.dumps(model))
    assert b"torch" not in pickle.dumps(model)
    for method in (*METHODS, "impute"):
        np.testing.assert_array_equal(getattr(twin, method)(X), getattr(model, method)(X))
    before = state(model)
    for method in (*METHODS, "impute", "score"):
        getattr(model, method)(X)
    assert state(model) == before


def test_a_failed_fit_leaves_the_estimator_as_it_was():
    fresh = FactorAnalysisEM(2)
    before = dict(vars(fresh))
    with pytest.raises(ValueError):
        fresh.fit(np.full((5, 3), np.nan))
    assert vars(fresh) == before
    model = fitted(draw())
    before = state(model)
    with pytest.raises(ValueError):
        model.fit(np.full((5, 3), np.nan))
    with pytest.raises(ValueError):
        model.partial_fit(np.full((5, 6), np.nan))
    with pytest.raises(ValueError):
        model.fit_covariance(-np.eye(3), 10)
    assert state(model) == before


def test_unfitted_it_says_so():
    X = draw()
    for method in ("transform", "score_samples", "score", "impute", "bic", "inverse_transform"):
        with pytest.raises(NotFittedError):
            getattr(FactorAnalysisEM(2), method)(X)
    for method in ("get_covariance", "get_precision", "sample", "chi_square", "aic"):
        with pytest.raises(NotFittedError):
            getattr(FactorAnalysisEM(2), method)()


def test_seeds_repeat_and_x_is_left_alone():
    X = draw()
    kept = X.copy()
    first, second = fitted(X, copy=False), clone(FactorAnalysisEM(2, tol=1e-9, max_iter=20_000)).fit(X)
    np.testing.assert_array_equal(first.components_, second.components_)
    np.testing.assert_array_equal(X, kept)
    X.setflags(write=False)
    np.testing.assert_array_equal(fitted(X).components_, first.components_)


def test_it_works_in_pipelines_and_searches():
    X = draw(300, 8, 2)
    pipe = make_pipeline(StandardScaler(), FactorAnalysisEM())
    search = GridSearchCV(pipe, {"factoranalysisem__n_components": [0, 1, 2, 4]}, cv=3).fit(X)
    assert search.best_params_["factoranalysisem__n_components"] == 2
    out = clone(search.best_estimator_).set_output(transform="pandas").fit_transform(X)
    assert list(out.columns) == ["factoranalysisem0", "factoranalysisem1"]


def test_callbacks_see_every_iteration():
    from sklearn.callback import ScoringMonitor

    X = draw(missing=0.1)
    monitor = ScoringMonitor(scoring={"fit": lambda estimator, X, y: estimator.score(X)})
    model = FactorAnalysisEM(2).set_callbacks(monitor).fit(X)
    scores = [
        float(row["fit"])
        for row in monitor.get_logs(select="most_recent").data_as_pandas.to_dict("records")
        if row["fit"] == row["fit"]
    ]
    assert len(scores) >= model.n_iter_
    assert scores[-1] == pytest.approx(model.score(X))


def test_lines_are_printed_when_asked(capsys):
    FactorAnalysisEM(2, verbose=2).fit(draw())
    assert "[FactorAnalysisEM] iteration 1/1000  bound" in capsys.readouterr().out


def test_weights_on_another_scale_stop_no_earlier():
    X = load_iris().data
    plain = FactorAnalysisEM(2, tol=1e-4).fit(X)
    shares = FactorAnalysisEM(2, tol=1e-4).fit(X, sample_weight=np.full(len(X), 1 / len(X)))
    assert shares.score(X) == pytest.approx(plain.score(X), abs=1e-6)


def test_one_row_is_too_few_where_the_others_have_no_weight():
    X = load_iris().data
    with pytest.raises(ValueError, match="at least 2 rows"):
        FactorAnalysisEM(2).fit(X, sample_weight=np.eye(len(X))[0])


def test_a_covariance_with_nan_is_refused_by_its_name():
    with pytest.raises(ValueError, match="S must be a covariance matrix, but it holds NaN"):
        FactorAnalysisEM(1).fit_covariance(np.full((4, 4), np.nan), n_samples=150)
