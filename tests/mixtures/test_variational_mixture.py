"""Laws of variational mixtures of Gaussians; those of every mixture stand in test_every_mixture.py."""

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import betaln, digamma, gammaln, logsumexp, multigammaln
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture

import skvae.estimators.mixtures._gaussian as face
from skvae import VariationalGaussianMixture

KINDS = ["full", "tied", "diag", "spherical"]
PRIORS = ["dirichlet_process", "dirichlet_distribution"]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def draw(n=90, d=3, missing=0.0, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.random(n) < 0.4
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.4 * np.eye(d, k=1)) * np.where(z, 1.0, 0.5)[:, None] + 2.5 * z[:, None]
    X[rng.random(X.shape) < missing] = np.nan
    return X


def mixture(n_components=3, **options):
    return VariationalGaussianMixture(n_components, **{"random_state": 0, "acceleration": None, "tol": 0} | options)


def kinds_and_priors(test):
    return pytest.mark.parametrize("kind", KINDS)(pytest.mark.parametrize("prior", PRIORS)(test))


# ------------------------------------------------------------------------------------------------------- scikit-learn's
@pytest.fixture
def same_responsibilities(monkeypatch):
    """scikit-learn's class, both with the same first guesses: a function of the rows alone."""

    def guess(X):
        share = np.exp(0.5 * X @ np.random.default_rng(5).normal(size=(X.shape[1], 4)))
        return share / share.sum(1, keepdims=True)

    def first_guesses(init_params, table, *others):
        return lambda batch: torch.from_numpy(guess((batch.X + table.shift).numpy()).T.copy())

    class Theirs(BayesianGaussianMixture):
        def _initialize_parameters(self, X, random_state, xp=None):
            self._initialize(X, guess(X))

    monkeypatch.setattr(face, "initial_responsibilities", first_guesses)
    return Theirs


@kinds_and_priors
@pytest.mark.parametrize("given", [False, True])
def test_the_same_guesses_lead_where_scikit_learn_gets(kind, prior, given, same_responsibilities):
    X = draw()
    options = dict(n_components=4, covariance_type=kind, weight_concentration_prior_type=prior, max_iter=25)
    if given:
        scale = {"full": np.diag([1.0, 2.0, 3.0]), "tied": np.eye(3), "diag": [1.0, 2.0, 3.0], "spherical": 2.0}
        options |= dict(weight_concentration_prior=3.0, mean_precision_prior=0.1, mean_prior=[1.0, 0.0, -1.0])
        options |= dict(degrees_of_freedom_prior=4.5, covariance_prior=scale[kind], reg_covar=1e-2)
    theirs, ours = same_responsibilities(**options).fit(X), VariationalGaussianMixture(**options).fit(X)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    names = [name for name in vars(theirs) if name.endswith("_") and not name.startswith("_")]
    for name in set(names) - {"lower_bounds_", "weight_concentration_"}:
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7, atol=1e-9, err_msg=name)
    assert type(ours.weight_concentration_) is type(theirs.weight_concentration_)
    np.testing.assert_allclose(np.stack(ours.weight_concentration_), np.stack(theirs.weight_concentration_), rtol=1e-8)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-12)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


# ------------------------------------------------------------------------------------------------------------ the bound
@kinds_and_priors
@pytest.mark.parametrize("missing", [0.0, 0.25])
def test_the_bound_never_falls(kind, prior, missing):
    X, weight = draw(60, missing=missing), np.random.default_rng(1).random(60) * 2
    fitted = mixture(4, covariance_type=kind, weight_concentration_prior_type=prior, reg_covar=0.0, max_iter=25)
    bounds = fitted.fit(X, sample_weight=weight).lower_bounds_
    assert bounds[-1] > bounds[1] and np.diff(bounds).min() >= -1e-12 * abs(bounds[-1])


def log_normal(x, mean, precision):
    """Of stacks (..., d) and (..., d, d)."""
    away = x - mean
    squares = (away * (precision @ away[..., None])[..., 0]).sum(-1)
    return 0.5 * (np.linalg.slogdet(precision)[1] - squares - x.shape[-1] * np.log(2 * np.pi))


def normals(mean, covariance, rng, size=()):
    """Draws from Gaussians, of stacks (..., d) and (..., d, d)."""
    shape = np.broadcast_shapes(mean.shape, covariance.shape[:-1], (*size, mean.shape[-1]))
    return mean + (np.linalg.cholesky(covariance) @ rng.normal(size=shape)[..., None])[..., 0]


@pytest.mark.parametrize(
    ("kind", "prior", "missing"), [(kind, PRIORS[0], 0.3) for kind in KINDS] + [("tied", PRIORS[1], 0.0)]
)
def test_the_bound_is_what_draws_from_the_posterior_say(kind, prior, missing):
    """E_q[log p(X, X_missing, Z, pi, mu, Lambda) - log q], by draws of all but Z; the Wishart densities are SciPy's."""
    K, n, d, n_draws = 2, 8, 2, 1500
    X, rng = draw(n, d, missing=missing, seed=3), np.random.default_rng(0)
    options = dict(covariance_type=kind, weight_concentration_prior_type=prior, degrees_of_freedom_prior=4.0)
    fitted = mixture(K, max_iter=2, **options).fit(X)
    bound = mixture(K, max_iter=3, **options).fit(X).lower_bounds_[-1] * n  # of the parameters after two steps
    copies, eye = K if kind == "tied" else 1, np.eye(d)
    nu, nu_0 = np.broadcast_to(copies * fitted.degrees_of_freedom_, K), copies * fitted.degrees_of_freedom_prior_
    as_matrix = {"diag": lambda c: c[:, None] * eye, "tied": lambda c: np.stack([c] * K)}
    as_matrix["spherical"] = lambda c: c[:, None, None] * eye
    sigma = as_matrix.get(kind, np.asarray)(fitted.covariances_)
    W_0 = np.linalg.inv(copies * fitted.covariance_prior_ * (1.0 if kind in ("full", "tied") else eye))
    found, Lambda = np.zeros(n_draws), []
    for k in range(K):
        if k == 0 or kind != "tied":
            W = np.linalg.inv(nu[k] * sigma[k])
            Lambda.append(stats.wishart.rvs(nu[k], W, n_draws, random_state=rng))
            at = np.moveaxis(Lambda[k], 0, -1)
            found += stats.wishart.logpdf(at, nu_0, W_0) - stats.wishart.logpdf(at, nu[k], W)
        else:
            Lambda.append(Lambda[0])
    alpha, alpha_0 = fitted.weight_concentration_, fitted.weight_concentration_prior_
    if prior == "dirichlet_process":
        v = rng.beta(*alpha, size=(n_draws, K))
        found += (stats.beta.logpdf(v, 1, alpha_0) - stats.beta.logpdf(v, *alpha)).sum(1)
        log_pi = np.log(v) + np.column_stack([np.zeros(n_draws), np.log1p(-v)[:, 0]])
    else:
        pi = rng.dirichlet(alpha, n_draws)
        found += stats.dirichlet.logpdf(pi.T, [alpha_0] * K) - stats.dirichlet.logpdf(pi.T, alpha)
        log_pi = np.log(pi)
    R = fitted.predict_proba(X)
    for k in range(K):
        m, beta, P = fitted.means_[k], fitted.mean_precision_[k], np.linalg.inv(sigma[k])
        mu = normals(m, np.linalg.inv(beta * Lambda[k]), rng)
        found += log_normal(mu, fitted.mean_prior_, fitted.mean_precision_prior_ * Lambda[k])
        found -= log_normal(mu, m, beta * Lambda[k])
        for row, r in zip(X, R[:, k]):
            x, gone = np.tile(row, (n_draws, 1)), np.isnan(row)
            if gone.any():  # q(x_missing | z = k): Gaussian of precision nu W there
                inner = P[np.ix_(gone, gone)]
                centre = m[gone] - np.linalg.solve(inner, P[np.ix_(gone, ~gone)] @ (row - m)[~gone])
                x[:, gone] = normals(centre, np.linalg.inv(inner), rng, (n_draws,))
                found -= r * log_normal(x[:, gone], centre, inner)
            found += r * (log_pi[:, k] - np.log(r) + log_normal(x, mu, Lambda[k]))
    assert bound == pytest.approx(found.mean(), abs=4 * found.std() / np.sqrt(n_draws))
    assert found.std() < 10


def log_evidence(X, prior_mean, kappa, nu, S):
    """Of rows of one Gaussian under a Normal-Wishart prior (Murphy 2007, eq. 266)."""
    n, d = X.shape
    mean = X.mean(0)
    scatter = (X - mean).T @ (X - mean)
    away = np.outer(mean - prior_mean, mean - prior_mean)
    S_n = S + scatter + kappa * n / (kappa + n) * away
    gammas = multigammaln((nu + n) / 2, d) - multigammaln(nu / 2, d)
    dets = nu / 2 * np.linalg.slogdet(S)[1] - (nu + n) / 2 * np.linalg.slogdet(S_n)[1]
    return -n * d / 2 * np.log(np.pi) + gammas + dets + d / 2 * np.log(kappa / (kappa + n))


@pytest.mark.parametrize("kind", ["full", "tied"])
@pytest.mark.parametrize("prior", PRIORS)
def test_one_component_has_the_exact_evidence_posterior_and_predictive_density(kind, prior):
    X, new = draw(40), draw(5, seed=9)
    vague = dict(
        mean_prior=np.zeros(3), mean_precision_prior=1e-3, degrees_of_freedom_prior=3.0, covariance_prior=np.eye(3)
    )
    fitted = mixture(1, covariance_type=kind, reg_covar=0.0, max_iter=2, weight_concentration_prior_type=prior, **vague)
    fitted.fit(X)
    exact = log_evidence(X, np.zeros(3), 1e-3, 3.0, np.eye(3))
    sticks = betaln(41, 1.0) - betaln(1, 1.0) if prior == "dirichlet_process" else 0.0  # all rows on the first
    assert 40 * fitted.lower_bounds_[-1] == pytest.approx(exact + sticks, rel=1e-10)
    np.testing.assert_allclose(fitted.means_[0], X.sum(0) / 40.001, rtol=1e-10)
    assert (fitted.mean_precision_[0], np.ravel(fitted.degrees_of_freedom_)[0]) == pytest.approx((40.001, 43.0))
    more = [log_evidence(np.vstack([X, row]), np.zeros(3), 1e-3, 3.0, np.eye(3)) - exact for row in new]
    np.testing.assert_allclose(fitted.score_samples(new), more, rtol=1e-9)


@pytest.mark.parametrize("kind", ["diag", "spherical"])
def test_of_one_column_the_kinds_are_the_same(kind):
    X = draw(60, 1, missing=0.1)[:, :1]
    X[0] = 1.0
    one, other = (mixture(covariance_type=k, max_iter=20).fit(X) for k in ("full", kind))
    np.testing.assert_allclose(one.lower_bounds_, other.lower_bounds_, rtol=1e-9)
    np.testing.assert_allclose(one.score_samples(X), other.score_samples(X), rtol=1e-7, atol=1e-12)


def test_a_smaller_family_of_posteriors_has_a_lower_bound():
    X = draw()
    prior = dict(covariance_prior=np.eye(3), reg_covar=0.0, max_iter=30)
    full = mixture(1, **prior).fit(X).lower_bounds_[-1]
    diagonal = mixture(1, covariance_type="diag", **prior | {"covariance_prior": np.ones(3)}).fit(X).lower_bounds_[-1]
    multiple = mixture(1, covariance_type="spherical", **prior | {"covariance_prior": 1.0}).fit(X).lower_bounds_[-1]
    assert full > diagonal > multiple


# ----------------------------------------------------------------------------------------------------------- components
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", ["full", "diag"])
def test_components_that_are_not_needed_empty_themselves(kind, prior):
    options = dict(covariance_type=kind, weight_concentration_prior_type=prior, max_iter=300, tol=1e-3)
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(150, 2)), rng.normal(7, 1, size=(100, 2))])
    fitted = mixture(8, **options).fit(X)
    assert (fitted.weights_ > 0.02).sum() == 2
    np.testing.assert_allclose(np.sort(fitted.weights_)[-2:], [0.4, 0.6], atol=0.03)
    two = mixture(2, **options).fit(X)
    np.testing.assert_allclose(fitted.score_samples(X), two.score_samples(X), atol=0.2)


def test_the_accelerated_ascent_gets_there_in_fewer_steps():
    X = draw()
    options = dict(reg_covar=0.0, tol=1e-4, max_iter=3000)
    plain, fast = (mixture(3, acceleration=way, **options).fit(X) for way in (None, "squarem"))
    assert plain.converged_ and fast.converged_ and fast.n_iter_ < plain.n_iter_
    assert fast.lower_bounds_[-1] > plain.lower_bounds_[-1] - 1e-4
    assert np.diff(fast.lower_bounds_).min() >= -1e-12 * abs(fast.lower_bounds_[-1])


# --------------------------------------------------------------------------------------------------- predictive density
@pytest.mark.parametrize("kind", KINDS)
def test_the_predictive_density_integrates_to_one(kind):
    fitted = mixture(2, covariance_type=kind, degrees_of_freedom_prior=5.0, max_iter=10).fit(draw(d=2))
    t = np.linspace(-np.pi / 2, np.pi / 2, 602)[1:-1]  # x = tan t, so that the tails are in
    x, scale = np.tan(t), np.cos(t) ** -2
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(fitted.score_samples(grid)) * np.outer(scale, scale).ravel()
    assert density.sum() * (t[1] - t[0]) ** 2 == pytest.approx(1.0, abs=2e-3)
    half = grid[:: len(x)] * [1.0, np.nan]  # the second cell is missing
    across = logsumexp((np.log(density * (t[1] - t[0])) - np.log(np.repeat(scale, len(x)))).reshape(len(x), -1), axis=1)
    np.testing.assert_allclose(fitted.score_samples(half)[200:400], across[200:400], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_predictive_density(kind):
    fitted = mixture(2, covariance_type=kind, max_iter=10).fit(draw(d=2))
    drawn, labels = fitted.sample(3000, random_state=0)
    t = np.linspace(-np.pi / 2, np.pi / 4, 4002)[1:]  # x = tan t, up to 1
    below = np.exp(fitted.score_samples(np.column_stack([np.full(4001, np.nan), np.tan(t)]))) / np.cos(t) ** 2
    assert (drawn[:, 1] < 1.0).mean() == pytest.approx(np.trapezoid(below, t), abs=4 * 0.5 / np.sqrt(3000))
    np.testing.assert_allclose(np.bincount(labels, minlength=2) / 3000, fitted.weights_, atol=0.04)


# ------------------------------------------------------------------------------------- stochastic variational inference
@kinds_and_priors
def test_whole_steps_with_all_rows_are_coordinate_ascent(kind, prior):
    X, weight = draw(missing=0.2), np.random.default_rng(1).random(90)
    options = dict(covariance_type=kind, weight_concentration_prior_type=prior, learning_decay=0.0)
    options |= dict(total_samples=weight.sum())
    stepped, whole = (mixture(max_iter=n, **options).fit(X, sample_weight=weight) for n in (3, 5))
    for _ in range(2):
        stepped.partial_fit(X, sample_weight=weight)
    for name in ("weights_", "means_", "covariances_", "mean_precision_", "lower_bound_", "lower_bounds_"):
        np.testing.assert_allclose(getattr(stepped, name), getattr(whole, name), rtol=1e-8, err_msg=name)
    assert (stepped.n_batch_iter_, whole.n_batch_iter_) == (2, 0)


def test_steps_are_those_of_robbins_and_monro():
    X, new = draw(), draw(30, seed=1)
    fitted = mixture(weight_concentration_prior_type="dirichlet_distribution", max_iter=5, total_samples=300).fit(X)
    before, R = fitted.weight_concentration_ - fitted.weight_concentration_prior_, fitted.predict_proba(new)
    fitted.partial_fit(new)
    share = 11.0**-0.7
    expected = (1 - share) * before * 300 / 90 + share * 300 / 30 * R.sum(0)
    np.testing.assert_allclose(fitted.weight_concentration_ - fitted.weight_concentration_prior_, expected, rtol=1e-9)
    assert fitted.n_samples_seen_ == 120
    again = fitted.predict_proba(new)
    before = fitted.weight_concentration_
    fitted.partial_fit(new)
    expected = (1 - 12.0**-0.7) * (before - 1 / 3) + 12.0**-0.7 * 10 * again.sum(0)
    np.testing.assert_allclose(fitted.weight_concentration_ - 1 / 3, expected, rtol=1e-9)


def test_parts_lead_near_the_bound_of_all_rows():
    X = draw(900)
    whole = mixture(2, tol=1e-3).fit(X)
    parts = mixture(2, total_samples=900, learning_offset=1.0, covariance_prior=whole.covariance_prior_)
    for part in np.split(np.random.default_rng(0).permutation(X), 9) * 2:
        parts.partial_fit(part)
    assert parts.set_params(warm_start=True, max_iter=1).fit(X).lower_bounds_[0] > whole.lower_bounds_[-1] - 0.02


# ------------------------------------------------------------------------------------------------- priors and bad input
@pytest.mark.parametrize("kind", KINDS)
def test_default_priors_count_weights_as_copies_and_read_the_observed_cells(kind):
    X, count = draw(missing=0.2), np.random.default_rng(0).integers(0, 3, 90)
    fitted = mixture(covariance_type=kind, max_iter=1).fit(X, sample_weight=count)
    copies = np.repeat(X, count, axis=0)
    np.testing.assert_allclose(fitted.mean_prior_, np.nanmean(copies, axis=0))
    n, variances = len(copies), np.nanvar(copies, axis=0)
    expected = {"diag": variances * n / (n - 1), "spherical": variances.mean() * n / (n - 1)}.get(kind)
    prior = fitted.covariance_prior_
    if expected is None:
        assert np.linalg.eigvalsh(prior)[0] > 0
        prior, expected = np.diag(prior), variances * n / (n - 1)
    np.testing.assert_allclose(prior, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_tables_are_fitted_or_refused_in_words(kind):
    constant = np.column_stack([draw(), np.full(90, 7.0)])
    doubled = np.column_stack([draw(), draw()[:, 0]])
    for X in (
        constant,
        doubled,
        draw(6, 9),
        np.ones((5, 2)),
        np.repeat(draw(2), 3, axis=0),
        1e6 + draw(),
        1e-9 * draw(),
    ):
        fitted = mixture(2, covariance_type=kind, max_iter=20).fit(X)
        assert np.isfinite(fitted.lower_bounds_).all() and np.isfinite(fitted.score_samples(X)).all()
    with pytest.raises(ValueError, match="is singular.*constant.*reg_covar"):
        mixture(2, covariance_type=kind, reg_covar=0.0).fit(np.ones((5, 2)))


def test_wrong_parameters_are_named():
    X = draw()
    for wrong, message in {
        "degrees_of_freedom_prior": (2.0, "'degrees_of_freedom_prior' should be greater than 2, but got 2.000"),
        "mean_prior": ([0.0], r"'means' should have the shape of \(3,\), but got \(1,\)"),
        "covariance_prior": (np.ones((3, 3)), "'full covariance_prior' should be symmetric, positive-definite"),
        "learning_offset": (0.5, "learning_offset"),
    }.items():
        value, text = message
        with pytest.raises(ValueError, match=text):
            mixture(**{wrong: value}).fit(X)
    with pytest.raises(ValueError, match=r"should have the shape of \(3, 3\), but got \(1,\)"):
        mixture(covariance_prior=2.0).fit(X)
    fitted = mixture(max_iter=2).fit(X)
    for name, value in {"covariance_type": "diag", "weight_concentration_prior_type": PRIORS[1]}.items():
        with pytest.raises(ValueError, match=f"{name}='{value}' is not that of the fit"):
            fitted.set_params(**{name: value, "warm_start": True}).fit(X)
        fitted.set_params(covariance_type="full", weight_concentration_prior_type=PRIORS[0])


@pytest.mark.parametrize("kind", KINDS)
def test_far_components_take_the_other_kernels(kind):
    """Sums measured from the means, and distances from them, follow the same laws."""
    X = np.concatenate([draw(60), draw(60) + 1e6])
    options = dict(covariance_type=kind, mean_precision_prior=1e-16, reg_covar=0.0)
    options["covariance_prior"] = {"diag": np.ones(3), "spherical": 1.0}.get(kind, np.eye(3))
    fitted = mixture(2, max_iter=20, **options).fit(X)
    assert np.diff(fitted.lower_bounds_).min() > -1e-9
    model = fitted._fitted_model()
    table = fitted._table(X, torch.device("cpu"), to_fit=False)
    params = fitted._fitted_params(model, table)
    assert params.gaussian.theta is None
    back = model.m_step(model.stats_from_params(params, 120.0), params)
    torch.testing.assert_close(back.gaussian.sigma, params.gaussian.sigma, rtol=1e-3, atol=1e-9)
    near = mixture(1, max_iter=20, **options).fit(X[:60])
    np.testing.assert_allclose(fitted.score_samples(X[:60]), near.score_samples(X[:60]) - np.log(2), atol=0.6)


def test_the_weights_of_the_e_step_may_be_tiny():
    """Of 40 sticks the last have E[log pi] far below the smallest float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        X = draw(100, missing=0.1)
        fitted = mixture(60, weight_concentration_prior=1e-3, covariance_type="diag", max_iter=40).fit(X)
    assert digamma(1e-3) - digamma(1.001) < -900 and np.isfinite(fitted.score_samples(X)).all()
    assert np.diff(fitted.lower_bounds_).min() > -1e-6 and gammaln(1) == 0
