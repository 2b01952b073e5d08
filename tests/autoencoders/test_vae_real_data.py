"""`VAETransformer` on real tables, against exact maxima and factor analysis; all come with scikit-learn."""

import numpy as np
import pytest
from pytest import approx
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, VAETransformer

pytestmark = pytest.mark.slow


def table(name):
    X = {"wine": load_wine, "digits": load_digits, "cancer": load_breast_cancer}[name]().data
    return StandardScaler().fit_transform(X[:, X.std(0) > 0])


@pytest.mark.parametrize(
    ("name", "k", "noise", "maximum", "within"),
    [
        ("wine", 3, "isotropic", -15.70179, 0.01),  # probabilistic PCA, exact
        ("wine", 3, "diag", -15.08025, 0.05),  # factor analysis
        ("digits", 10, "isotropic", -74.26018, 0.01),
        ("digits", 10, "diag", -71.74267, 0.05),
    ],
)
def test_a_linear_decoder_reaches_the_exact_maximum(name, k, noise, maximum, within):
    """Lucas et al., NeurIPS 2019: the bound of the linear model has no maxima of its own."""
    X = table(name)
    settings = {"learning_rate": 0.02, "learning_rate_schedule": "cosine", "early_stopping": False}
    max_iter = 1000 if name == "wine" else 300
    model = VAETransformer(
        k, hidden_layer_sizes=(), noise=noise, max_iter=max_iter, batch_size=200, random_state=0, **settings
    ).fit(X)
    score = model.score(X)
    assert maximum - within < score < maximum + 0.001
    assert score - 0.02 < model.elbo(X).mean() < score + 1e-4
    assert model.score_samples(X, n_draws=1000).mean() == approx(score, abs=0.02)


@pytest.mark.parametrize(
    ("name", "k", "share", "at_most"), [("cancer", 5, 0.2, 0.33), ("cancer", 5, 0.5, 0.33), ("wine", 3, 0.2, 0.7)]
)
def test_imputation_is_at_least_that_of_factor_analysis(name, k, share, at_most):
    """Squared error of hidden cells of standardised columns; 1 for their means."""
    X = table(name)
    hidden = np.random.default_rng(0).random(X.shape) < share
    gappy = np.where(hidden, np.nan, X)
    error = lambda model: ((model.fit(gappy).impute(gappy) - X)[hidden] ** 2).mean()  # noqa: E731
    of_network = error(VAETransformer(k, random_state=0))
    assert of_network < min(at_most, 1.01 * error(FactorAnalysisEM(k)))


def test_a_held_out_part_of_cancer_is_likelier_than_under_factor_analysis():
    X = table("cancer")
    train, test = X[::2], X[1::2]
    model = VAETransformer(5, random_state=0).fit(train)
    assert model.nonlinear_
    assert model.score(test) > FactorAnalysisEM(5).fit(train).score(test) + 0.5
    assert model.elbo(test, inference="svi").mean() > model.elbo(test).mean() - 0.05
