"""Rows with gaps under a `VAETransformer` that was fitted to complete rows, against integrals over z on a grid."""

import numpy as np
import pytest
import torch
from pytest import approx
from scipy.special import logsumexp, softmax
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from test_vae import linear_model

from skvae import FactorAnalysisEM, VAETransformer
from skvae._tensors import Cells, content_keys
from skvae.models.autoencoders.laplace import laplace

SHARES = [0.0, 0.3, 0.7, 1.0]
_GRID = np.linspace(-6, 6, 201)


@pytest.fixture(scope="module")
def wine():
    X = StandardScaler().fit_transform(load_wine().data)[np.random.default_rng(0).permutation(178)]
    return X[:120], X[120:]


@pytest.fixture(scope="module")
def model(wine):
    settings = {"hidden_layer_sizes": (16,), "early_stopping": False, "max_iter": 300, "learning_rate": 0.01}
    return VAETransformer(2, random_state=0, **settings).fit(wine[0])


def hide(X, share, seed=0):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def on_grid(model, X):
    """log p(x), E[x] and E[z], sd[z] of each row given its observed cells, from the public attributes of the model."""
    z = np.stack(np.meshgrid(_GRID, _GRID), -1).reshape(-1, 2)
    f, psi = model.inverse_transform(z), model.noise_variance_
    log_prior = -0.5 * (z**2).sum(1) + 2 * np.log(_GRID[1] - _GRID[0]) - np.log(2 * np.pi)
    found = []
    for x in X:
        log_cells = -0.5 * ((x - f) ** 2 / psi + np.log(2 * np.pi * psi))
        log_joint = np.where(np.isnan(x), 0.0, log_cells).sum(1) + log_prior
        share = softmax(log_joint)
        mean = share @ z
        found.append((logsumexp(log_joint), share @ f, mean, np.sqrt(share @ (z - mean) ** 2)))
    return [np.array(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("share", SHARES)
def test_the_score_is_the_integral_over_z(share, model, wine):
    X = hide(wine[1], share)
    exact = on_grid(model, X)[0]
    found = model.score_samples(X)
    assert found.mean() == approx(exact.mean(), abs=0.08)
    assert np.abs(found - exact).mean() < 0.15
    finer = np.abs(model.score_samples(X, n_draws=2000) - exact).mean()
    assert finer < 0.04  # unbiased weights: the error falls with their number


@pytest.mark.parametrize("share", SHARES[1:])
def test_imputed_cells_are_the_expectation_over_z(share, model, wine):
    X = hide(wine[1], share)
    exact, gaps = on_grid(model, X)[1], np.isnan(X)
    assert np.abs(model.impute(X, n_draws=4000) - exact)[gaps].mean() < 0.02
    assert np.abs(model.impute(X) - exact)[gaps].mean() < 0.05


@pytest.mark.parametrize("share", SHARES[1:])
def test_the_posterior_knows_what_it_does_not_see(share, model, wine):
    X = hide(wine[1], share)
    X = X[np.isnan(X).any(1)]
    _, _, mean, std = on_grid(model, X)
    found_mean, found_std = model.posterior(X)
    np.testing.assert_array_equal(model.transform(X), found_mean)
    assert np.abs(found_mean - mean).mean() < 0.2
    assert np.median(found_std / std) == approx(1.0, abs=0.25)
    assert model.elbo(X).mean() < model.score(X) + 0.02
    assert model.elbo(X).mean() > model.elbo(X, inference="svi").mean() - 0.35


def test_a_row_without_any_cell_is_the_prior(model, wine):
    empty = np.full((1, 13), np.nan)
    mean, std = model.posterior(empty)
    np.testing.assert_allclose(mean, 0.0, atol=1e-6)
    np.testing.assert_allclose(std, 1.0, atol=1e-6)
    assert model.score_samples(empty) == approx([0.0], abs=0.06)
    assert model.elbo(empty) == approx([0.0], abs=1e-6)


def test_complete_rows_are_still_encoded(model, wine):
    """One row with a gap changes nothing for the others."""
    X = wine[1][:6].copy()
    before = model.transform(X)
    X[0, 3] = np.nan
    np.testing.assert_allclose(model.transform(X)[1:], before[1:], rtol=1e-6, atol=1e-9)
    assert np.abs(model.transform(X)[0] - before[0]).max() > 1e-4


def test_imputation_is_no_worse_than_that_of_factor_analysis(wine):
    training, new = wine
    vae, exact = (estimator.fit(training) for estimator in (VAETransformer(3, random_state=0), FactorAnalysisEM(3)))
    for share in SHARES[1:]:
        X = hide(np.tile(new, (4, 1)), share, seed=2)
        gaps, truth = np.isnan(X), np.tile(new, (4, 1))
        errors = [((each.impute(X) - truth) ** 2 * gaps).sum(1) for each in (vae, exact)]
        difference = errors[0] - errors[1]
        assert difference.mean() < difference.std() / np.sqrt(len(new))


def test_equal_rows_draw_alike_and_others_do_not(model, wine):
    X = np.concatenate([wine[1][:3], wine[1][:3]])
    score = model.score_samples(X, n_draws=20)
    np.testing.assert_allclose(score[:3], score[3:], rtol=1e-9)
    single = model.score_samples(X.astype(np.float32), n_draws=20)
    np.testing.assert_allclose(single, score, atol=2e-3)


def test_keys_tell_the_content_of_rows():
    X = np.random.default_rng(0).normal(size=(50, 4))
    X[0, 1], X[1, 2], X[2, 3] = np.nan, 0.0, 1e300
    key = content_keys(X)
    assert len(set(key)) == 50
    np.testing.assert_array_equal(content_keys(np.asfortranarray(X)), key)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(content_keys(X.astype(np.float32)), key)
    X[1, 2], X[0, 1] = -0.0, -np.nan
    np.testing.assert_array_equal(content_keys(X), key)
    assert content_keys(X[:, ::-1])[3] != key[3]


def test_laplace_is_exact_for_a_linear_gaussian_model():
    """Whatever cells are missing, and from any guess."""
    model, params, batch, _ = linear_model()
    observed = (torch.rand(batch.x.value.shape, generator=torch.Generator().manual_seed(0)) < 0.6).double()
    x = Cells(batch.x.value * observed, observed)
    W, mu = params["decoder.0.weight"][0], params["decoder.0.bias"][0]
    psi = model.likelihood.variance({"noise": params["likelihood.noise"]}, len(mu))[0]
    found = laplace(model, params, x, torch.full((len(observed[0]), 2), 3.0, dtype=torch.float64))
    for row, seen in enumerate(observed[0].bool()):
        scaled = W[:, seen] / psi[seen]
        P = torch.eye(2, dtype=torch.float64) + scaled @ W[:, seen].T
        mean = torch.linalg.solve(P, scaled @ (x.value[0, row, seen] - mu[seen]))
        torch.testing.assert_close(found.mode[row], mean, rtol=1e-6, atol=1e-8)
        V = found.axes[row]
        torch.testing.assert_close(V @ torch.diag(found.precision[row]) @ V.T, P, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.factorised()[1][row], -P.diagonal().log(), rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_overflow_are_impossible_and_have_no_gap(model):
    X = np.zeros((2, 13), np.float32)
    X[0, 0], X[0, 1] = 1e25, np.nan
    score = model.score_samples(X)
    assert score[0] == -np.inf and np.isfinite(score[1])
    assert np.isfinite(model.impute(X)).all()
