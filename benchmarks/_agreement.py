"""Fits of every estimator that a device and the CPU must agree on, and how far they may differ.

Each case is fitted on both, with one seed. Random numbers belong to seeds and rows, so only rounding differs, and cases
stop after few iterations or epochs, before it has grown.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, clone

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    ELSARecommender,
    FactorAnalysisEM,
    GANGenerator,
    GaussianMixtureEM,
    KMeansLite,
    MultVAERecommender,
    ProbabilisticPCA,
    RecVAERecommender,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
)
from skvae.datasets import make_interactions
from skvae.model_selection import StackedGridSearchCV

# Noise of one unit in the last place, put on every result of arithmetic, moves tables of 1,000 rows by less than a
# tenth of these (tests/test_benchmarks.py).
EXACT = 1e-7  # EM in float64
SINGLE = 1e-3  # float32: EM, and a few epochs of a network


def fit(estimator, X):
    return estimator.fit(X)


def fit_weighted(estimator, X):
    return estimator.fit(X, sample_weight=1 + np.arange(X.shape[0]) % 3)


def fit_twice(estimator, X):
    return estimator.fit(X).fit(X)


def fit_in_parts(estimator, X):
    half = X.shape[0] // 2
    return estimator.partial_fit(X[:half]).partial_fit(X[half:])


def fit_validated(estimator, X):
    fifth = X.shape[0] // 5
    return estimator.fit(X[fifth:], X_val=X[:fifth])


def draw(estimator, X):
    return estimator.sample(50, random_state=1)


def listed_scores(estimator, X):
    """Scores of the recommended items. Of two with almost equal scores either may come first: ids say less."""
    return estimator.recommend(X, k=10)[1]


def explained(estimator, X):
    return estimator.explain(X, 0).data


def mean_test_scores(search, X):
    return search.cv_results_["mean_test_score"]


class Case(NamedTuple):
    """One fit, and what to compare afterwards.

    Attributes
    ----------
    name : str
    estimator : estimator object
        Not fitted; its device is set later.
    X : {ndarray, sparse matrix}
    asks : tuple of str and callable
        Fitted attributes, methods of X, or functions (estimator, X) -> arrays.
    tolerance : float
    fit : callable
        (estimator, X) -> fitted estimator.
    """

    name: str
    estimator: BaseEstimator
    X: np.ndarray
    asks: tuple
    tolerance: float
    fit: Callable = fit


class Deviations(NamedTuple):
    """Largest difference between the two devices, relative to the largest number, and what it was found in."""

    fitted: float  # both fitted where they are
    predicted: float  # the fit of the CPU, placed on the other device
    worst: str


def compared(case, device):
    """The `Deviations` of a case."""
    on_cpu = case.fit(placed(clone(case.estimator), "cpu"), case.X)
    on_device = case.fit(placed(clone(case.estimator), device), case.X)
    if torch.device(fitted_on(on_device)).type != torch.device(device).type:
        raise RuntimeError(f"asked to fit on {device!r}, it was fitted on {fitted_on(on_device)!r}")
    moved = placed(copy.deepcopy(on_cpu), device)
    fitted, predicted = {}, {}
    for ask in case.asks:
        name = ask if isinstance(ask, str) else ask.__name__
        expected = answer(on_cpu, ask, case.X)
        fitted[name] = deviation(answer(on_device, ask, case.X), expected)
        predicted[name] = deviation(answer(moved, ask, case.X), expected)
    largest = {name: max(fitted[name], predicted[name]) for name in fitted}
    return Deviations(max(fitted.values()), max(predicted.values()), max(largest, key=largest.get))


def placed(estimator, device):
    """The estimator, or the one that a search fits, with its device set."""
    for name in estimator.get_params():
        if name.split("__")[-1] == "device":
            estimator.set_params(**{name: device})
    best = getattr(estimator, "best_estimator_", None)
    if best is not None:
        placed(best, device)
    return estimator


def fitted_on(estimator):
    return getattr(estimator, "best_estimator_", estimator).device_


def answer(estimator, ask, X):
    if callable(ask):
        return ask(estimator, X)
    found = getattr(estimator, ask)
    return found(X) if callable(found) else found


def deviation(found, expected):
    """Largest difference relative to the largest number expected; of labels, the share that differ.

    Infinite where shapes, dtypes or the places of NaN and infinity differ. Of several arrays, the largest.
    """
    if isinstance(expected, dict):
        return max(deviation(found[name], expected[name]) for name in expected)
    if isinstance(expected, tuple):
        return max(deviation(*pair) for pair in zip(found, expected, strict=True))
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return np.inf
    if expected.dtype.kind != "f":
        return float(np.mean(found != expected))
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    difference = np.abs(found.astype(np.float64) - expected)[finite].max()
    return float(difference / max(np.abs(expected[finite]).max(), np.finfo(expected.dtype).tiny))


# ----------------------------------------------------------------------------------------------------------------- data
def blobs(n, d, seed=0):
    """Rows of four groups that overlap."""
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(4, d))[rng.integers(4, size=n)] + rng.normal(size=(n, d))


def factors(n, d, n_factors=2, seed=0):
    """Rows of a factor model."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** -np.arange(n_factors)  # axes of different length: their order is certain
    return rng.normal(size=(n, n_factors)) * 2 * scale @ rng.normal(size=(n_factors, d)) + rng.normal(size=(n, d))


def curved(n, seed=0):
    """Rows near a curve, which no linear model fits."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-np.pi, np.pi, size=n)
    return np.c_[t, np.sin(2 * t), np.cos(2 * t), t**2 / 5] + 0.05 * rng.normal(size=(n, 4))


def with_gaps(X, share=0.1, seed=1):
    return np.where(np.random.default_rng(seed).random(X.shape) < share, np.nan, X)


def mixed(n, seed=0):
    """A column for each likelihood of one column, of two groups of rows, and two Gaussian ones."""
    rng = np.random.default_rng(seed)
    g = rng.integers(2, size=n)
    discrete = (
        rng.random(n) < 0.2 + 0.6 * g,
        rng.integers(3, size=n) + g,
        rng.poisson(1 + 4 * g),
        rng.negative_binomial(2, 0.3 + 0.4 * g),
    )
    return np.c_[*discrete, rng.normal(size=(n, 2)) + g[:, None]]


MIXED = [
    ("bernoulli", [0]),
    ("categorical", [1]),
    ("poisson", [2]),
    ("negative_binomial", [3]),
    ("gaussian", [4, 5]),
]


# ---------------------------------------------------------------------------------------------------------------- cases
def cases(n):
    """All cases, of tables of about n rows."""
    yield from clusterings(n)
    yield from mixtures(n)
    yield from linear_models(n)
    yield from networks(n)
    yield from recommenders(n)


def clusterings(n):
    X = blobs(n, 8)
    asks = ("labels_", "cluster_centers_", "inertia_", "predict", "transform", "score")
    yield Case("K-means", KMeansLite(4, random_state=0), X, asks, EXACT)
    yield Case("K-means, float32", KMeansLite(4, random_state=0), X.astype(np.float32), asks, SINGLE)
    sparse = sp.csr_array(np.where(X > 4, X, 0))
    yield Case("K-means, sparse rows, weights", KMeansLite(4, random_state=0), sparse, asks, EXACT, fit_weighted)
    later = ("cluster_centers_", "predict", "transform")
    yield Case("K-means, in parts", KMeansLite(4, random_state=0), X, later, EXACT, fit_in_parts)


def mixtures(n):
    X, wide = blobs(n, 6), blobs(n, 32)
    asks = ("weights_", "means_", "covariances_", "lower_bounds_", "predict", "predict_proba", "score_samples", draw)
    for kind in ("full", "tied", "diag", "spherical"):
        mixture = GaussianMixtureEM(4, covariance_type=kind, max_iter=20, random_state=0)
        yield Case(f"Gaussian mixture, {kind}", mixture, X, asks, EXACT)
    mixture = GaussianMixtureEM(4, max_iter=20, random_state=0)
    yield Case("Gaussian mixture, 32 columns, weights", mixture, wide, asks, EXACT, fit_weighted)
    yield Case("Gaussian mixture, 32 columns, float32", mixture, wide.astype(np.float32), asks, SINGLE)
    yield Case("Gaussian mixture, missing cells", mixture, with_gaps(X), (*asks, "impute"), EXACT)
    yield Case("Gaussian mixture, in parts", mixture, X, ("means_", "covariances_", "predict"), EXACT, fit_in_parts)
    mixture = VariationalGaussianMixture(4, max_iter=20, random_state=0)
    asks_of_q = ("lower_bound_", "mean_precision_", *asks)
    yield Case("Variational mixture, sticks, weights", mixture, wide, asks_of_q, EXACT, fit_weighted)
    mixture = clone(mixture).set_params(
        covariance_type="diag", weight_concentration_prior_type="dirichlet_distribution", learning_decay=0.5
    )
    yield Case("Variational mixture, diag, missing cells", mixture, with_gaps(X), (*asks_of_q, "impute"), EXACT)
    yield Case("Variational mixture, in parts", mixture, X, ("means_", "covariances_", "predict"), EXACT, fit_in_parts)
    # Rows of zeros and ones lie at equal distances, of which rounding would choose: K-means is no start for them.
    few = {"init_params": "random", "max_iter": 20, "random_state": 0}
    binary = with_gaps((X > 0).astype(float))
    binary[:, 0] = np.random.default_rng(2).integers(3, size=n)
    mixture = BernoulliMixtureEM(3, binarize=None, categorical_features=[0], **few)
    asks = ("weights_", "lower_bounds_", "predict_proba", "score_samples", "impute", draw)
    yield Case("Bernoulli mixture, categories, missing cells", mixture, binary, asks, EXACT)
    binary = (X > 0).astype(float)
    mixture = BernoulliMixtureEM(3, **few)
    yield Case("Bernoulli mixture, weights", mixture, binary, (*asks, "means_"), EXACT, fit_weighted)


def linear_models(n):
    X = factors(n, 8)
    asks = ("components_", "noise_variance_", "mean_", "transform", "score_samples", draw)
    models = {
        "Factor analysis": FactorAnalysisEM(2, max_iter=50),
        "Factor analysis, varimax": FactorAnalysisEM(2, max_iter=50, rotation="varimax"),
        "Probabilistic PCA": ProbabilisticPCA(2, max_iter=50),
        "Variational factor analysis": VariationalFactorAnalysis(max_iter=50),
    }
    for name, model in models.items():
        yield Case(name, model, X, asks, EXACT)
    for name in ("Factor analysis", "Probabilistic PCA"):
        yield Case(f"{name}, missing cells", models[name], with_gaps(X), (*asks, "impute"), EXACT)
        yield Case(f"{name}, in parts, weights", models[name], X, asks, EXACT, fit_weighted)
        yield Case(f"{name}, in parts", models[name], X, asks, EXACT, fit_in_parts)


def networks(n):
    X, gaps = factors(n, 8), with_gaps(factors(n, 8))
    few = {"hidden_layer_sizes": (16,), "max_iter": 3, "batch_size": 64, "random_state": 0}
    plain = few | {"early_stopping": False}
    asks = ("lower_bounds_", "transform", "posterior", "score_samples", "elbo", "reconstruct", "impute", draw)
    vae = VAETransformer(2, **plain)
    yield Case("VAE", vae, X, asks, SINGLE)
    yield Case("VAE, missing cells, weights", vae, gaps, asks, SINGLE, fit_weighted)
    yield Case("VAE, in parts", vae, X, asks[1:], SINGLE, fit_in_parts)
    yield Case("VAE, warm start", clone(vae).set_params(warm_start=True), X, asks, SINGLE, fit_twice)
    by_column = VAETransformer(2, likelihood=MIXED, **plain)
    yield Case("VAE, likelihoods by column", by_column, with_gaps(mixed(n)), asks, SINGLE)
    counts = np.random.default_rng(0).poisson(2.0, size=(n, 5)).astype(float)
    yield Case("VAE, multinomial", VAETransformer(2, likelihood="multinomial", **plain), counts, asks[:-2], SINGLE)
    yield Case("VAE, two layers", VAETransformer((2, 2), **plain), gaps, asks, SINGLE)
    yield Case("VAE, importance-weighted", VAETransformer(2, objective="iwae", n_draws=3, **plain), X, asks, SINGLE)
    annealed = VAETransformer(2, annealing="cyclical", free_bits=0.1, noise="isotropic", **plain)
    yield Case("VAE, annealing, free bits", annealed, X, asks, SINGLE)
    by_row = VAETransformer(2, inference="svi", **plain)
    yield Case(
        "VAE, a posterior of each row", by_row, X, ("lower_bounds_", "kl_per_dimension_", "noise_variance_"), SINGLE
    )
    linear = ("nonlinear_", "lower_bounds_", "transform", "score_samples", "elbo", "impute", draw)
    yield Case("VAE, factor analysis kept", VAETransformer(2, **few), gaps, linear, SINGLE)
    stopped = VAETransformer(2, **few | {"max_iter": 8})
    judged = ("nonlinear_", "validation_scores_", *asks)
    yield Case("VAE, early stopping", stopped, curved(n), judged, SINGLE)
    yield Case("VAE, rows to validate", stopped, curved(n), judged, SINGLE, fit_validated)
    grid = StackedGridSearchCV(vae, {"n_components": [1, 2], "beta": [0.5, 1.0]}, cv=2)
    yield Case("VAE, stacked search", grid, X, (mean_test_scores, "transform", "score"), SINGLE)
    asks = ("lower_bounds_", "reconstruction_error_", "transform", "score_samples", "reconstruct", "impute")
    yield Case("Autoencoder", AutoencoderTransformer(2, **few), X, asks, SINGLE)
    noisy = AutoencoderTransformer(2, denoising="salt_and_pepper", sparsity=(0.1, 0.1), **plain)
    yield Case("Autoencoder, denoising, sparse, missing cells", noisy, gaps, asks, SINGLE)
    masked = AutoencoderTransformer(2, denoising="masking", init="random", **plain)
    yield Case("Autoencoder, masking, in parts", masked, X, asks[2:], SINGLE, fit_in_parts)
    game = {"hidden_layer_sizes": (16,), "max_iter": 3, "batch_size": 64, "random_state": 0}
    asks = ("lower_bounds_", "validation_scores_", "decision_function", draw)
    yield Case("GAN", GANGenerator(2, n_discriminator_steps=2, gradient_penalty=0.1, **game), X, asks, SINGLE)
    levels = np.column_stack([X[:, :3], np.random.default_rng(0).integers(3, size=n)])
    stopped = GANGenerator(2, categorical_features=[3], early_stopping=True, **game)
    yield Case("GAN, categories, early stopping", stopped, levels, asks[1:3], SINGLE)


def recommenders(n):
    X = make_interactions(n, 300, mean_interactions=30, random_state=0)
    few = {"hidden_layer_sizes": (32,), "max_iter": 3, "batch_size": 100, "random_state": 0}
    plain = few | {"early_stopping": False}
    asks = ("lower_bounds_", "transform", "posterior", "elbo", "decision_function", listed_scores)
    for likelihood in ("multinomial", "bernoulli", "gaussian"):
        model = MultVAERecommender(8, likelihood=likelihood, **plain)
        yield Case(f"Mult-VAE, {likelihood}", model, X, asks, SINGLE)
    model = MultVAERecommender(8, **few | {"early_stopping": True, "anneal_fraction": 0.0})
    yield Case("Mult-VAE, early stopping", model, X, ("validation_scores_", *asks), SINGLE)
    yield Case("Mult-VAE, users to validate", model, X, ("validation_scores_", *asks), SINGLE, fit_validated)
    model = MultVAERecommender(8, **plain)
    yield Case("Mult-VAE, in parts", model, X, asks[1:], SINGLE, fit_in_parts)
    linear = ELSARecommender(8, max_iter=3, batch_size=100, early_stopping=False, random_state=0)
    asks_of_linear = ("lower_bounds_", "transform", "decision_function", explained, listed_scores)
    yield Case("ELSA", linear, X, asks_of_linear, SINGLE)
    yield Case("ELSA, in parts", linear, X, asks_of_linear[1:], SINGLE, fit_in_parts)
    deep = RecVAERecommender(
        8, hidden_size=32, n_layers=3, max_iter=3, batch_size=100, early_stopping=False, random_state=0
    )
    asks_of_deep = ("lower_bounds_", "transform", "posterior", "decision_function", listed_scores)
    yield Case("RecVAE", deep, X, asks_of_deep, SINGLE)
    yield Case("RecVAE, in parts", deep, X, asks_of_deep[1:], SINGLE, fit_in_parts)
    yield Case("Mult-VAE, warm start", clone(model).set_params(warm_start=True), X, asks, SINGLE, fit_twice)
