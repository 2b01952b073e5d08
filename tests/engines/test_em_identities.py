"""Two models that are one in a limit, or one in two forms: they must agree there."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine, make_blobs
from sklearn.decomposition import PCA
from sklearn.mixture import BayesianGaussianMixture

from skvae import BernoulliMixtureEM, FactorAnalysisEM, GaussianMixtureEM, KMeansLite, ProbabilisticPCA
from skvae._tensors import Table, as_tensors
from skvae.engines import em
from skvae.models.clustering import kmeans
from skvae.models.mixtures import bernoulli_mixture, gaussian_mixture

CPU = torch.device("cpu")


def tables(X, weight=None):
    return Table(X, CPU, weight=weight).batches(64)


def blobs(seed, n=300, d=3, k=5):
    return make_blobs(n, d, centers=k, cluster_std=2.0, random_state=seed)[0]


def gaps(X, share, seed=0):
    """A copy with some cells missing, but no whole row."""
    gone = np.random.default_rng(seed).random(X.shape) < share
    gone[gone.all(axis=1), 0] = False
    return np.where(gone, np.nan, X)


# ------------------------------------------------------------------------------- K-means and the Gaussian mixture
def spherical(centres, variance):
    """A mixture of equal proportions and one fixed variance around given centres."""
    K = len(centres)
    model = gaussian_mixture.DiagonalGaussianMixture(K, pooled=True)
    pi, sigma = centres.new_full((K,), 1 / K), centres.new_full((K, 1), variance)
    return model, model.params(pi, centres, sigma)


def collected(model, batches, params):
    """Statistics of all batches, as tensors."""
    return gaussian_mixture.Stats(*as_tensors(*em.collect(model, batches, params)[0]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
def test_k_means_is_the_limit_of_gaussians_without_variance(seed, weighted):
    """One step of either, from the same centres: the same labels and means, and the bounds differ by a constant."""
    X = blobs(seed)
    weight = np.random.default_rng(seed).random(len(X)) if weighted else np.ones(len(X))
    centres, variance = torch.from_numpy(X[:5].copy()), 1e-5
    lloyd = kmeans.KMeans(5)
    stats, memory = em.collect(lloyd, tables(X, weight), kmeans.Params(centres))
    label = torch.cat([part.label for part in memory])
    model, params = spherical(centres, variance)
    soft = collected(model, tables(X, weight), params)
    found = torch.cat([model.log_joint(batch, params).argmax(0) for batch in tables(X, weight)])
    np.testing.assert_array_equal(found, label)
    np.testing.assert_allclose(soft.N, stats.N, atol=1e-8)
    means = model.moved(soft, params.origin).S / soft.N[:, None]
    np.testing.assert_allclose(means, lloyd.m_step(stats, kmeans.Params(centres)).centres, atol=1e-8)
    constant = -np.log(5) - 1.5 * np.log(2 * np.pi * variance)  # log pi + the norm of the density in 3 dimensions
    expected = float(lloyd.bound(stats, kmeans.Params(centres))) / (2 * variance) + weight.sum() * constant
    assert float(soft.bound) == pytest.approx(expected, rel=1e-9)


def test_steps_in_the_limit_are_the_whole_of_lloyds_algorithm():
    """With the variance held near nothing, EM visits the centres that K-means visits, to the end."""
    X = blobs(3)
    centres = torch.from_numpy(X[:5].copy())
    steps = KMeansLite(5, init=X[:5], tol=0).fit(X)
    for _ in range(steps.n_iter_):
        model, params = spherical(centres, 1e-5)
        stats = collected(model, tables(X), params)
        centres = model.moved(stats, params.origin).S / stats.N[:, None]
    np.testing.assert_allclose(centres, steps.cluster_centers_, atol=1e-8)


def test_far_apart_a_spherical_mixture_finds_the_clusters_of_k_means():
    X, y = make_blobs(400, 4, centers=4, cluster_std=0.3, center_box=(-20, 20), random_state=1)
    clusters = KMeansLite(4, random_state=0).fit(X)
    mixture = GaussianMixtureEM(4, covariance_type="spherical", random_state=0).fit(X)
    order, found = (np.lexsort(points.T) for points in (clusters.cluster_centers_, mixture.means_))
    np.testing.assert_allclose(mixture.means_[found], clusters.cluster_centers_[order], atol=1e-6)
    np.testing.assert_allclose(mixture.weights_[found], np.bincount(clusters.labels_)[order] / 400, atol=1e-9)


# --------------------------------------------------------------------------- kinds of covariance of one mixture
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_full_matrices_that_are_diagonal_are_diagonal_ones(missing):
    """The likelihood and posterior of the two classes of model, on the same parameters."""
    X = gaps(blobs(4), missing)
    rng = np.random.default_rng(4)
    pi, mu, sigma = rng.dirichlet(np.ones(5)), rng.normal(size=(5, 3)), rng.random((5, 3)) + 1.0
    full, diagonal = gaussian_mixture.FullGaussianMixture(5), gaussian_mixture.DiagonalGaussianMixture(5)
    pi, mu, sigma = map(torch.tensor, (pi, mu, sigma))
    matrices, vectors = full.params(pi, mu, torch.diag_embed(sigma)), diagonal.params(pi, mu, sigma)
    for batch in tables(X):
        np.testing.assert_allclose(full.log_joint(batch, matrices), diagonal.log_joint(batch, vectors), rtol=1e-10)
        np.testing.assert_allclose(full.fill(batch, matrices), diagonal.fill(batch, vectors), rtol=1e-9, atol=1e-12)
    some, _ = em.collect(full, tables(X), matrices)
    others, _ = em.collect(diagonal, tables(X), vectors)
    np.testing.assert_allclose(some.bound, others.bound, rtol=1e-12)
    np.testing.assert_allclose(some.N, others.N, rtol=1e-10)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_of_one_component_tied_is_full_and_of_one_column_all_are_one(missing):
    X = gaps(blobs(5), missing)
    options = dict(tol=1e-12, max_iter=2000, random_state=0)
    full, tied = (GaussianMixtureEM(1, covariance_type=kind, **options).fit(X) for kind in ("full", "tied"))
    np.testing.assert_allclose(full.covariances_[0], tied.covariances_, rtol=1e-8)
    column = blobs(5)[:, :1]
    scores = [
        GaussianMixtureEM(3, covariance_type=kind, random_state=0).fit(column).score(column)
        for kind in ("full", "diag", "spherical")
    ]
    np.testing.assert_allclose(scores, scores[0], rtol=1e-9)


def test_components_that_are_the_same_are_one():
    """Twice the same component, with half the weight each, is the mixture without the copy."""
    X = blobs(6)
    one = GaussianMixtureEM(2, random_state=0, tol=1e-10, max_iter=1000).fit(X)
    twice = GaussianMixtureEM(
        4,
        weights_init=np.repeat(one.weights_ / 2, 2),
        means_init=np.repeat(one.means_, 2, axis=0),
        precisions_init=np.repeat(one.precisions_, 2, axis=0),
    ).fit(X)
    assert twice.score(X) == pytest.approx(one.score(X), abs=1e-6)
    np.testing.assert_allclose(twice.means_[::2], twice.means_[1::2], rtol=1e-9)


def test_without_a_prior_scikit_learns_variational_mixture_is_near():
    """Another engine's mixture, whose prior vanishes beside many rows."""
    X = make_blobs(2000, 2, centers=2, random_state=7)[0]
    ours = GaussianMixtureEM(2, random_state=0, tol=1e-8).fit(X)
    theirs = BayesianGaussianMixture(
        n_components=2,
        random_state=0,
        weight_concentration_prior=1e-3,
        mean_precision_prior=1e-3,
        tol=1e-8,
        max_iter=500,
    ).fit(X)
    order, other = ours.means_[:, 0].argsort(), theirs.means_[:, 0].argsort()
    np.testing.assert_allclose(ours.means_[order], theirs.means_[other], atol=1e-2)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=1e-2)


# ------------------------------------------------------------ one Gaussian, factor analysis, principal components
@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_one_gaussian_is_a_factor_analysis_with_factors_enough(missing):
    """With 3 factors, 6 columns have 6 (6 + 1) / 2 free covariances and 21 parameters: any covariance can be had."""
    rng = np.random.default_rng(8)
    X = gaps(rng.normal(size=(400, 3)) @ rng.normal(size=(3, 6)) + rng.normal(size=(400, 6)), missing)
    one = GaussianMixtureEM(1, reg_covar=0, tol=1e-12, max_iter=5000).fit(X)
    factors = FactorAnalysisEM(4, tol=1e-8, max_iter=20_000).fit(X)
    assert factors.score(X) == pytest.approx(one.score(X), abs=2e-4)
    assert factors.score(X) <= one.score(X) + 1e-7  # no covariance is likelier than the free one
    fewer = FactorAnalysisEM(1, tol=1e-6, max_iter=20_000).fit(X)
    assert fewer.score(X) < one.score(X) - 1e-3
    np.testing.assert_allclose(factors.get_covariance(), one.covariances_[0], atol=0.02 * one.covariances_.max())
    if missing:
        np.testing.assert_allclose(factors.impute(X), one.impute(X), atol=0.1)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_no_factors_are_one_diagonal_gaussian(missing):
    X = gaps(load_iris().data, missing)
    none = FactorAnalysisEM(0, tol=1e-10).fit(X)
    diagonal = GaussianMixtureEM(1, covariance_type="diag", reg_covar=0, tol=1e-12, max_iter=1000).fit(X)
    assert none.score(X) == pytest.approx(diagonal.score(X), rel=1e-8)
    np.testing.assert_allclose(none.noise_variance_, diagonal.covariances_[0], rtol=1e-6)
    no_axes = ProbabilisticPCA(0, tol=1e-10).fit(X)
    spherical = GaussianMixtureEM(1, covariance_type="spherical", reg_covar=0, tol=1e-12, max_iter=1000).fit(X)
    assert no_axes.noise_variance_ == pytest.approx(spherical.covariances_[0], rel=1e-6)
    assert no_axes.score(X) == pytest.approx(spherical.score(X), rel=1e-8)


def test_probabilistic_pca_is_factor_analysis_with_tied_noise():
    """On data whose columns have one noise, the freedom of the other is worth little; and never less than nothing."""
    rng = np.random.default_rng(9)
    X = 2 * rng.normal(size=(20_000, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(20_000, 6))
    tied, free = ProbabilisticPCA(2).fit(X), FactorAnalysisEM(2, tol=1e-6).fit(X)
    assert 0 <= (free.score(X) - tied.score(X)) * len(X) < 20  # half of a chi-square of 5 degrees of freedom
    np.testing.assert_allclose(free.get_covariance(), tied.get_covariance(), atol=0.05)
    np.testing.assert_allclose(free.noise_variance_, tied.noise_variance_, atol=0.03)
    turn = np.linalg.lstsq(free.transform(X), tied.transform(X), rcond=None)[0]
    np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=0.01)  # the same factors, turned


@pytest.mark.parametrize("load", [load_iris, load_wine])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_probabilistic_pca_is_pca(load, k):
    """In subspace, variances and, by the divisor n in place of n - 1, in score."""
    X = load().data
    ours, theirs = ProbabilisticPCA(k).fit(X), PCA(k).fit(X)
    np.testing.assert_allclose(np.abs(ours.components_ @ theirs.components_.T), np.eye(k), atol=1e-6)
    np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-9)
    n, d = X.shape
    scaled = theirs.get_covariance() * (n - 1) / n
    np.testing.assert_allclose(ours.get_covariance(), scaled, rtol=1e-7, atol=1e-9 * scaled.max())
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    noise = values[k:].mean()
    maximum = -0.5 * (d * np.log(2 * np.pi) + np.log(values[:k]).sum() + (d - k) * np.log(noise) + d)
    assert ours.score(X) == pytest.approx(maximum, rel=1e-9)
    assert ours.score(X) == pytest.approx(theirs.score(X), abs=d / n)
    assert ours.score(X) >= theirs.score(X)


def test_probabilistic_pca_by_em_is_the_closed_form():
    """A hole in one cell of many rows sends it the other way, to the same place."""
    rng = np.random.default_rng(10)
    X = 2 * rng.normal(size=(3000, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(3000, 5))
    with_hole = X.copy()
    with_hole[0, 0] = np.nan
    closed, climbed = ProbabilisticPCA(2).fit(X), ProbabilisticPCA(2, tol=1e-8, max_iter=10_000).fit(with_hole)
    np.testing.assert_allclose(climbed.get_covariance(), closed.get_covariance(), atol=5e-3)
    assert climbed.score(X) == pytest.approx(closed.score(X), abs=1e-5)


# ------------------------------------------------------------------------------------------------- Bernoulli mixtures
def bits(seed, n=400, d=6):
    rng = np.random.default_rng(seed)
    theta = rng.random((2, d)) * 0.8 + 0.1
    return (rng.random((n, d)) < theta[rng.integers(2, size=n)]).astype(float)


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_bernoulli_component_is_the_means_of_the_columns(missing, weighted):
    X = gaps(bits(11), missing)
    weight = np.random.default_rng(11).random(len(X)) if weighted else np.ones(len(X))
    alpha = 1e-9
    model = BernoulliMixtureEM(1, alpha=alpha).fit(X, sample_weight=weight)
    seen = ~np.isnan(X)
    mean = (weight @ np.nan_to_num(X)) / (weight @ seen)
    np.testing.assert_allclose(model.means_[0], mean, rtol=1e-6)
    cells = np.where(np.nan_to_num(X) > 0, np.log(mean), np.log1p(-mean)) * seen
    np.testing.assert_allclose(model.score_samples(X), cells.sum(axis=1), rtol=1e-6)


def test_categories_of_two_levels_are_bits():
    """The latent class model with two levels a column takes the Bernoulli mixture's steps."""
    X = bits(12)
    options = dict(random_state=0, tol=1e-8, max_iter=500)
    binary, categorical = (
        BernoulliMixtureEM(2, categorical_features=columns, **options).fit(X) for columns in (None, list(range(6)))
    )
    np.testing.assert_allclose(categorical.lower_bounds_, binary.lower_bounds_, rtol=1e-10)
    np.testing.assert_allclose(categorical.predict_proba(X), binary.predict_proba(X), atol=1e-9)


def test_bits_and_gaussians_share_their_clusters_where_these_are_plain():
    """Bits that nearly name their cluster: a Bernoulli and a spherical Gaussian mixture split the rows alike."""
    rng = np.random.default_rng(13)
    y = rng.integers(2, size=500)
    theta = np.where(np.arange(20) < 10, 0.95, 0.05)
    X = (rng.random((500, 20)) < np.where(y[:, None] == 0, theta, 1 - theta)).astype(float)
    labels = [
        BernoulliMixtureEM(2, random_state=0).fit_predict(X),
        GaussianMixtureEM(2, covariance_type="spherical", random_state=0).fit_predict(X),
        KMeansLite(2, random_state=0).fit_predict(X),
    ]
    for found in labels:
        assert (found == y).all() or (found == 1 - y).all()


def test_the_posterior_of_bits_is_that_of_gaussians_with_the_same_odds():
    """log p(z | x) is linear in x for bits, and for Gaussians of tied covariance: equal slopes, equal posteriors."""
    X = bits(14)
    rng = np.random.default_rng(14)
    theta, pi = rng.random((2, 6)) * 0.8 + 0.1, np.array([0.3, 0.7])
    model = bernoulli_mixture.BernoulliMixture(2)
    params = model.params(torch.tensor(pi), torch.tensor(theta))
    slope = (params.log_odds[1] - params.log_odds[0]).numpy()
    offset = (params.log_rest[1] - params.log_rest[0]).sum().item() + np.log(pi[1] / pi[0])
    batch = Table(X, CPU).batch(0, len(X))
    log_joint = model.log_joint(batch, params)
    np.testing.assert_allclose(log_joint[1] - log_joint[0], X @ slope + offset, atol=1e-5)
    # unit covariances with means 0 and `slope` have that slope, and the offset log(q / (1 - q)) - |slope|^2 / 2
    q = 1 / (1 + np.exp(-(offset + 0.5 * slope @ slope)))
    gaussian = gaussian_mixture.FullGaussianMixture(2, pooled=True)
    tied = gaussian.params(
        torch.tensor([1 - q, q]),
        torch.tensor(np.stack([np.zeros(6), slope])),
        torch.eye(6, dtype=torch.float64)[None],
    )
    posterior, other = (joint.softmax(0) for joint in (log_joint, gaussian.log_joint(batch, tied)))
    np.testing.assert_allclose(posterior, other, atol=1e-6)
