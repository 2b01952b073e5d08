"""log p(x) of each row, taken apart: the parts add up, and are what closed forms and quadrature say they are."""

import functools

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    ProbabilisticPCA,
    VAETransformer,
)
from skvae.inspection import evidence_decomposition

WINE = load_wine().data[::3]
GAPS = np.where(np.random.default_rng(0).random(WINE.shape) < 0.1, np.nan, WINE)
GAPS[0] = np.nan  # nothing seen
EXACT = [
    GaussianMixtureEM(3, random_state=0),
    GaussianMixtureEM(3, covariance_type="diag", random_state=0),
    BernoulliMixtureEM(3, binarize=5.0, n_init=1, random_state=0),
    FactorAnalysisEM(3),
    ProbabilisticPCA(2),
]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:binarize")


@pytest.fixture(autouse=True)
def _few_steps_a_row(monkeypatch):
    monkeypatch.setattr("skvae.training.ascent._SVI_STEPS", 60)  # to the best posterior, which no test here needs


@functools.cache
def linear():
    """A linear Gaussian VAE early in its fit: its encoder is not yet the best, and its loadings are not orthogonal."""
    settings = {"hidden_layer_sizes": (), "early_stopping": False, "max_iter": 40, "random_state": 0}
    return VAETransformer(3, **settings).fit(WINE)


@functools.cache
def curved():
    """A VAE of one latent dimension, for quadrature, and rows along a curve."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-2, 2, size=(60, 1))
    X = np.hstack([t, t**2, np.sin(2 * t)]) + 0.3 * rng.normal(size=(60, 3))
    settings = {"hidden_layer_sizes": (8,), "early_stopping": False, "max_iter": 60, "random_state": 0}
    return VAETransformer(1, **settings).fit(X), X[:20]


def assert_adds_up(parts, atol=1e-8):
    np.testing.assert_allclose(parts.elbo + parts.kl_gap, parts.log_evidence, atol=atol)
    np.testing.assert_allclose(parts.expected_log_likelihood - parts.kl_to_prior, parts.elbo, atol=atol)
    np.testing.assert_allclose(parts.approximation_gap + parts.amortization_gap, parts.kl_gap, atol=atol)


@pytest.mark.parametrize("X", [WINE, GAPS], ids=["complete", "gaps"])
@pytest.mark.parametrize("model", EXACT, ids=repr)
def test_the_bound_of_an_exact_posterior_is_the_evidence(model, X):
    """Its terms are computed each by itself, not by subtraction."""
    model = clone(model).fit(X)
    parts = evidence_decomposition(model, X)
    np.testing.assert_array_equal(parts.log_evidence, model.score_samples(X))
    np.testing.assert_allclose(parts.kl_gap, 0, atol=1e-8)
    assert_adds_up(parts)
    assert (parts.standard_error == 0).all() and (parts.kl_to_prior >= -1e-12).all()


def test_terms_of_a_mixture_are_sums_over_its_components():
    model = GaussianMixtureEM(3, covariance_type="diag", random_state=0).fit(WINE)
    R, parts = model.predict_proba(WINE), evidence_decomposition(model, WINE)
    squares = (WINE[:, None] - model.means_) ** 2 / model.covariances_ + np.log(2 * np.pi * model.covariances_)
    np.testing.assert_allclose(parts.expected_log_likelihood, (R * -0.5 * squares.sum(2)).sum(1), atol=1e-8)
    np.testing.assert_allclose(parts.kl_to_prior, (R * np.log(R / model.weights_)).sum(1), atol=1e-8)


def normal_posterior(model, X):
    """Mean and precision of the exact posterior of a linear Gaussian VAE of complete rows, from public attributes."""
    W = (model.inverse_transform(np.eye(3)) - model.inverse_transform(np.zeros((1, 3)))).T
    precise = W / model.noise_variance_[:, None]
    P = np.eye(3) + W.T @ precise
    return np.linalg.solve(P, precise.T @ (X - model.inverse_transform(np.zeros((1, 3)))).T).T, P


def test_the_gap_of_a_linear_model_is_a_divergence_of_normals():
    model, (m, P) = linear(), normal_posterior(linear(), WINE)
    mean, std = model.posterior(WINE)
    apart = np.einsum("nk,kl,nl->n", mean - m, P, mean - m)
    kl = 0.5 * (std**2 @ P.diagonal() + apart - 3 - np.linalg.slogdet(P)[1] - 2 * np.log(std).sum(1))
    parts = evidence_decomposition(model, WINE)
    np.testing.assert_allclose(parts.kl_gap, kl, atol=1e-6)  # `noise_variance_` has the digits of float32
    of_shape = 0.5 * (np.log(P.diagonal()).sum() - np.linalg.slogdet(P)[1])
    np.testing.assert_allclose(parts.approximation_gap, of_shape, atol=1e-6)
    assert_adds_up(parts)
    assert of_shape > 1e-3 and parts.amortization_gap.mean() > 1e-3


def test_estimated_evidence_and_its_error_are_those_of_quadrature():
    model, X = curved()
    z = np.linspace(-7, 7, 2001)[:, None]
    psi = model.noise_variance_
    squares = (X[:, None] - model.inverse_transform(z)) ** 2 / psi + np.log(2 * np.pi * psi)
    log_joint = -0.5 * (squares.sum(2) + z[:, 0] ** 2 + np.log(2 * np.pi))
    exact = logsumexp(log_joint, axis=1) + np.log(z[1, 0] - z[0, 0])
    found = [evidence_decomposition(model, X, n_draws=96, split_gap=False, random_state=seed) for seed in range(10)]
    squared_error = np.mean([(parts.log_evidence - exact) ** 2 for parts in found])
    assert np.mean([parts.standard_error**2 for parts in found]) == pytest.approx(squared_error, rel=0.3)
    parts = evidence_decomposition(model, X)
    assert (parts.log_evidence <= exact + 3 * parts.standard_error).all()
    assert np.mean(parts.standard_error) < 0.02


def test_the_gap_of_a_network_splits():
    model, X = curved()
    parts = evidence_decomposition(model, X)
    assert_adds_up(parts)
    np.testing.assert_allclose(parts.elbo, model.elbo(X))
    np.testing.assert_array_equal(parts.log_evidence, model.score_samples(X, n_draws=512))
    assert (parts.amortization_gap >= -1e-12).all() and parts.amortization_gap.mean() > 1e-4
    assert parts.approximation_gap.mean() > 0
    cheap = evidence_decomposition(model, X, split_gap=False)
    assert np.isnan(cheap.amortization_gap).all()
    np.testing.assert_array_equal(cheap.kl_gap, parts.kl_gap)


def test_posteriors_of_the_rows_own_have_nothing_amortised():
    settings = {"hidden_layer_sizes": (4,), "inference": "svi", "max_iter": 3, "random_state": 0}
    X = curved()[1][:8]
    parts = evidence_decomposition(VAETransformer(1, **settings).fit(X), X)
    np.testing.assert_allclose(parts.amortization_gap, 0, atol=1e-12)


def test_tables_of_several_kinds_with_gaps():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=50), "kind": rng.choice(["a", "b", None], 50)})
    model = VAETransformer(1, likelihood="auto", max_iter=5, early_stopping=False, random_state=0).fit(table)
    parts = evidence_decomposition(model, table, n_draws=64)
    assert_adds_up(parts)
    np.testing.assert_allclose(parts.elbo, model.elbo(table))


def test_a_pipeline_is_of_the_columns_as_its_last_step_reads_them():
    pipeline = make_pipeline(StandardScaler(), FactorAnalysisEM(2)).fit(WINE)
    np.testing.assert_array_equal(evidence_decomposition(pipeline, WINE).log_evidence, pipeline.score_samples(WINE))


@pytest.mark.parametrize("model", [KMeansLite(2), AutoencoderTransformer(1, max_iter=1)], ids=repr)
def test_models_without_a_density_are_refused(model):
    with pytest.raises(TypeError, match=f"needs a density .* got {type(model).__name__}"):
        evidence_decomposition(model.fit(WINE), WINE)


@pytest.mark.parametrize(("n_draws", "message"), [(31, "32 or more"), (0.5, "whole number"), (True, "whole number")])
def test_bad_numbers_of_draws_are_refused(n_draws, message):
    with pytest.raises(ValueError, match=message):
        evidence_decomposition(curved()[0], curved()[1], n_draws=n_draws)
