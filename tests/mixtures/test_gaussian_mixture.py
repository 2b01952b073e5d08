"""Gaussian mixtures as a model of the EM engine: against scipy's densities, brute force, and other computations."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skvae._tensors import Table
from skvae.engines import em
from skvae.models.mixtures import gaussian_mixture as gm
from skvae.models.mixtures.posterior import posterior

CPU = torch.device("cpu")
FAMILIES = {
    "full": (gm.FullGaussianMixture, False),
    "tied": (gm.FullGaussianMixture, True),
    "diag": (gm.DiagonalGaussianMixture, False),
    "spherical": (gm.DiagonalGaussianMixture, True),
}
every_kind = pytest.mark.parametrize("kind", list(FAMILIES))
N, D, K = 90, 3, 3


def model_of(kind, n_components=K, floor=0.0):
    family, pooled = FAMILIES[kind]
    return family(n_components, pooled=pooled, floor=floor)


def draw(seed, n=N, d=D, k=K, missing=0.0):
    """Rows around k points, some cells of which are NaN; the first row never has any."""
    rng = np.random.default_rng(seed)
    turns = rng.normal(size=(k, d, d)) / np.sqrt(d)
    labels = rng.integers(k, size=n)
    X = 2 * rng.normal(size=(k, d))[labels] + np.einsum("nde,ne->nd", turns[labels], rng.normal(size=(n, d)))
    gone = rng.random((n, d)) < missing
    gone[0] = False
    X[gone] = np.nan
    return X


def draw_params(kind, seed, d=D, k=K):
    """Parameters of no particular goodness."""
    rng = np.random.default_rng([seed, 1])
    A = rng.normal(size=(k, d, d))
    sigma = {
        "full": A @ A.swapaxes(1, 2) + 0.5 * np.eye(d),
        "tied": (A @ A.swapaxes(1, 2))[:1] + 0.5 * np.eye(d),
        "diag": 0.3 + rng.random((k, d)),
        "spherical": 0.3 + rng.random((k, 1)),
    }[kind]
    pi = rng.dirichlet(np.full(k, 3.0))
    return model_of(kind, k).params(*map(torch.tensor, (pi, rng.normal(size=(k, d)), sigma)))


def batches(X, weight=None, batch_size=32, **options):
    return Table(X, CPU, weight=weight, **options).batches(batch_size)


def climb(kind, X, weight=None, *, start=0, max_iter=40, batch_size=32, accelerate=False, model=None, params=None):
    total = float(len(X) if weight is None else weight.sum())
    model = model or model_of(kind)
    plan = em.Plan(max_iter, lambda step: False, total, accelerate=accelerate)
    params = params or draw_params(kind, start, X.shape[1], model.n_components)
    return em.ascend(model, batches(X, weight, batch_size), [params], plan=plan)


def full_covariances(params):
    return torch.diag_embed(params.sigma).numpy() if params.sigma.dim() == 2 else params.sigma.numpy()


def brute_log_joint(X, params):
    """log p(x_o, z = k) of each row, by scipy's densities of the observed cells; of shape (n, K)."""
    out = np.zeros((len(X), len(params.pi)))
    for n, x in enumerate(X):
        o = ~np.isnan(x)
        for k, (pi, mu, sigma) in enumerate(zip(params.pi.numpy(), params.mu.numpy(), full_covariances(params))):
            out[n, k] = np.log(pi)
            if o.any():
                out[n, k] += multivariate_normal(mu[o], sigma[np.ix_(o, o)]).logpdf(x[o])
    return out


def log_joint(model, X, params, batch_size=32):
    """The model's, with the rows in the order of X."""
    out = np.empty((len(X), len(params.pi)))
    for batch in batches(X, batch_size=batch_size):
        out[batch.row.numpy()] = model.log_joint(batch, params).mT.numpy()
    return out


def statistics(model, X, params, weight=None, batch_size=32):
    """As sums of x measured from 0, whatever the model measures from."""
    stats, _ = em.collect(model, batches(X, weight, batch_size), params)
    return model.moved(stats, params.origin)


def assert_close(some, others, rtol=1e-9, atol=0.0):
    for a, b in zip(some, others):
        a, b = np.asarray(a), np.asarray(b)
        scale = np.abs(b).max() if b.size else 1.0
        a, b = np.broadcast_arrays(a, b)  # the weight of the observed cells, (K, 1) where none is missing
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol + rtol * scale)


@every_kind
@pytest.mark.parametrize("shift", [0.0, 1e4], ids=["near", "far"])  # quadratic features, and distances
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_what_the_model_returns_is_overwritten_by_no_later_call(kind, shift, missing):
    X, params, model = draw(0, missing=missing), draw_params(kind, 0), model_of(kind)
    params = model.params(params.pi, params.mu + shift, params.sigma)
    some, others = (list(batches(part, batch_size=N))[-1] for part in (X + shift, 3 - X + shift))
    found = [model.log_joint(some, params), model.fill(some, params), *model.e_step(some, params)[0]]
    before = [np.asarray(array).copy() for array in found]
    for function in (model.log_joint, model.fill, model.e_step):
        function(others, params)
    for array, expected in zip(found, before):
        np.testing.assert_array_equal(array, expected)


# ---------------------------------------------------------------------------------------------------------- densities
@every_kind
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_log_joint_is_the_density_of_the_observed_cells(kind, missing):
    X, params = draw(0, 40, missing=missing), draw_params(kind, 0)
    X[1] = np.nan if missing else 0.5
    np.testing.assert_allclose(log_joint(model_of(kind), X, params), brute_log_joint(X, params), rtol=1e-10)


@every_kind
def test_a_row_without_cells_leaves_the_prior(kind):
    params = draw_params(kind, 1)
    X = np.vstack([np.zeros(D), np.full(D, np.nan)])
    np.testing.assert_allclose(log_joint(model_of(kind), X, params)[1], params.pi.log().numpy(), rtol=1e-13)


@every_kind
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("d", [3, 9])
def test_the_two_forms_agree(kind, missing, d, monkeypatch):
    """Products with quadratic features, and distances from the means."""
    X, weight = draw(2, d=d, missing=missing), np.random.default_rng(2).random(N)
    near = draw_params(kind, 2, d)
    monkeypatch.setattr(gm, "_FAR", 0.0)
    far = draw_params(kind, 2, d)
    assert near.theta is not None and far.theta is None
    model = model_of(kind)
    np.testing.assert_allclose(log_joint(model, X, near), log_joint(model, X, far), rtol=1e-9)
    assert_close(statistics(model, X, near, weight), statistics(model, X, far, weight))
    assert_close(
        model.m_step(em.collect(model, batches(X, weight), near)[0], near)[:3],
        model.m_step(em.collect(model, batches(X, weight), far)[0], far)[:3],
    )


def test_many_columns_take_the_triangular_form():
    """A component that is hopelessly behind may be left at a bound of its share: nothing else may move."""
    d = gm._FEW_COLUMNS + 3
    X, params = draw(3, 50, d), draw_params("full", 3, d)
    assert params.theta is None
    found, expected = log_joint(model_of("full"), X, params), brute_log_joint(X, params)
    np.testing.assert_allclose(logsumexp(found, axis=1), logsumexp(expected, axis=1), rtol=1e-10)
    shares = [np.exp(joint - logsumexp(joint, axis=1, keepdims=True)) for joint in (found, expected)]
    np.testing.assert_allclose(*shares, rtol=1e-9, atol=1e-20)
    assert (found >= expected - 1e-9 * abs(expected)).all()


@every_kind
@pytest.mark.parametrize("far", [1e4, 0.0])
def test_complete_rows_count_the_same_beside_incomplete_ones(kind, far, monkeypatch):
    """Rows without gaps handled by the code for gaps give the same sums."""
    monkeypatch.setattr(gm, "_FAR", far)
    X, params, model = draw(4, 30), draw_params(kind, 4), model_of(kind)
    batch = Table(X, CPU).batch(0, len(X))
    all_seen = batch._replace(
        observed=torch.ones_like(batch.X), patterns=torch.ones(1, D, dtype=bool), pattern=torch.zeros(30, dtype=int)
    )
    np.testing.assert_allclose(model.log_joint(all_seen, params), model.log_joint(batch, params), rtol=1e-9)
    assert_close(model.e_step(all_seen, params)[0], model.e_step(batch, params)[0])


@every_kind
def test_far_from_the_origin_no_digits_are_lost(kind):
    """A distance of 1e6 deviations: quadratic features would leave no digit of the log-densities."""
    X, near = draw(5, 40), draw_params(kind, 5)
    away = 1e6
    params = model_of(kind).params(near.pi, near.mu + away, near.sigma[:1] if kind == "tied" else near.sigma)
    moved = log_joint(model_of(kind), X + away, params)
    np.testing.assert_allclose(moved, log_joint(model_of(kind), X, near), rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- the steps
@every_kind
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_statistics_are_weighted_conditional_moments(kind, missing):
    """Row by row, with E[x | x_o, k] and Cov[x | x_o, k] by the formulas of a normal distribution."""
    X, params = draw(6, 25, missing=missing), draw_params(kind, 6)
    weight = np.random.default_rng(6).random(25) + 0.1
    joint = brute_log_joint(X, params)
    R = weight[:, None] * np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    N_k, S, SS, M = np.zeros(K), np.zeros((K, D)), np.zeros((K, D, D)), np.zeros((K, D))
    for n, x in enumerate(X):
        o = ~np.isnan(x)
        for k, (mu, sigma) in enumerate(zip(params.mu.numpy(), full_covariances(params))):
            slope = sigma[:, o] @ np.linalg.inv(sigma[np.ix_(o, o)])
            e = mu + slope @ (x[o] - mu[o])
            c = sigma - slope @ sigma[o]
            N_k[k] += R[n, k]
            S[k] += R[n, k] * e
            SS[k] += R[n, k] * (np.outer(e, e) + c)
            M[k] += R[n, k] * o
    stats = statistics(model_of(kind), X, params, weight)
    np.testing.assert_allclose(stats.bound, weight @ logsumexp(joint, axis=1), rtol=1e-10)
    np.testing.assert_allclose(stats.N, N_k, rtol=1e-9)
    if kind in ("full", "tied"):
        np.testing.assert_allclose(stats.S, S, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stats.SS, SS.sum(0)[None] if kind == "tied" else SS, rtol=1e-9, atol=1e-9)
    else:  # cells that are missing leave the sums
        np.testing.assert_allclose(stats.S, R.T @ np.nan_to_num(X), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(stats.SS, R.T @ np.nan_to_num(X) ** 2, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.broadcast_to(stats.M, M.shape), M, rtol=1e-9)


@every_kind
@pytest.mark.parametrize("missing", [0.0, 0.25])
@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_bound_never_falls(kind, missing, accelerate, seed):
    X = draw(seed, missing=missing)
    weight = np.random.default_rng(seed).random(N) * 3 if seed else None
    bounds = climb(kind, X, weight, start=seed, max_iter=60, accelerate=accelerate).lower_bounds
    assert len(bounds) == 60
    assert np.diff(bounds).min() >= -1e-12 * abs(bounds[-1])
    assert bounds[-1] > bounds[0]


@every_kind
def test_no_small_change_of_the_parameters_raises_a_converged_bound(kind):
    """What EM with missing cells converges to is a stationary point of the brute-force likelihood."""
    X = draw(7, 60, missing=0.2)
    fit = climb(kind, X, start=7, max_iter=500, batch_size=60, accelerate=True)
    model = model_of(kind)
    vector = model.to_free(fit.params)

    def height(v):
        return logsumexp(log_joint(model, X, model.from_free(v, fit.params)), axis=1).mean()

    by_scipy = logsumexp(brute_log_joint(X, fit.params), axis=1).mean()
    assert by_scipy == pytest.approx(fit.lower_bounds[-1], rel=1e-9)
    rng = np.random.default_rng(7)
    for _ in range(5):
        step = torch.tensor(rng.normal(size=len(vector)))
        step *= 1e-3 / step.norm()
        slope = (height(vector + step) - height(vector - step)) / 2e-3
        assert abs(slope) < 2e-4


@every_kind
def test_integer_weights_are_repeated_rows(kind):
    X, count = draw(21, missing=0.1), np.random.default_rng(8).integers(0, 4, N)
    weighted = climb(kind, X, count.astype(float), start=21, max_iter=20)
    repeated = climb(kind, np.repeat(X, count, axis=0), start=21, max_iter=20)
    np.testing.assert_allclose(weighted.lower_bounds, repeated.lower_bounds, rtol=1e-10)
    assert_close(weighted.params[:3], repeated.params[:3], rtol=1e-8)


@every_kind
def test_batches_and_the_order_of_rows_change_nothing(kind):
    X = draw(9, missing=0.15)
    whole = climb(kind, X, start=9, batch_size=N)
    order = np.random.default_rng(9).permutation(N)
    for other in (climb(kind, X, start=9, batch_size=7), climb(kind, X[order], start=9, batch_size=20)):
        np.testing.assert_allclose(other.lower_bounds, whole.lower_bounds, rtol=1e-10)
        assert_close(other.params[:3], whole.params[:3], rtol=1e-8)


@every_kind
def test_what_is_remembered_of_a_batch_changes_no_digit(kind):
    """A shared covariance needs the sum of x x', which stays the same in every iteration."""
    X, params, model = draw(20), draw_params(kind, 20), model_of(kind)
    batch = Table(X, CPU).batch(0, N)
    _, memory = model.e_step(batch, draw_params(kind, 21))
    assert (memory is not None) == (kind == "tied")
    for again, fresh in zip(model.e_step(batch, params, memory)[0], model_of(kind).e_step(batch, params)[0]):
        np.testing.assert_array_equal(again, fresh)


@every_kind
def test_free_reals_lead_there_and_back(kind):
    model, params = model_of(kind), draw_params(kind, 10)
    vector = model.to_free(params)
    for found, given in zip(model.from_free(vector, params), params):
        np.testing.assert_allclose(found, given, rtol=1e-10, atol=1e-12)
    other = vector + torch.tensor(np.random.default_rng(10).normal(size=len(vector)))
    np.testing.assert_allclose(model.to_free(model.from_free(other, params))[K:], other[K:], rtol=1e-9)


@every_kind
def test_statistics_of_parameters_give_them_back(kind):
    model, params = model_of(kind, floor=1e-3), draw_params(kind, 11)
    stats = model.stats_from_params(params, 1.0)
    for found, given in zip(model.m_step(stats, params)[:3], params[:3]):
        np.testing.assert_allclose(found, given, rtol=1e-9, atol=1e-12)


@every_kind
def test_moved_statistics_are_those_of_moved_rows(kind):
    X, params, model = draw(12, missing=0.2), draw_params(kind, 12), model_of(kind)
    d = torch.tensor([1.0, -2.0, 0.5])
    here = statistics(model, X, params)
    shifted = model.params(params.pi, params.mu + d, params.sigma[:1] if kind == "tied" else params.sigma)
    there = statistics(model, X + d.numpy(), shifted)
    assert_close(model.moved(here, d.expand(K, D)), there, rtol=1e-9)


@every_kind
def test_the_floor_is_added_to_the_variances(kind):
    X, params, floor = draw(13), draw_params(kind, 13), 0.7
    plain = model_of(kind).m_step(em.collect(model_of(kind), batches(X), params)[0], params)
    floored = model_of(kind, floor=floor)
    higher = floored.m_step(em.collect(floored, batches(X), params)[0], params)
    np.testing.assert_allclose(full_covariances(higher) - full_covariances(plain), [floor * np.eye(D)] * K, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- components
@every_kind
def test_one_component_is_mean_and_covariance(kind):
    X, weight = draw(14), np.random.default_rng(14).random(N)
    params = climb(kind, X, weight, model=model_of(kind, 1), max_iter=1).params
    S = np.cov(X.T, aweights=weight, bias=True)
    expected = {"full": S, "tied": S, "diag": np.diag(np.diag(S)), "spherical": np.eye(D) * np.trace(S) / D}[kind]
    np.testing.assert_allclose(params.mu[0], np.average(X, axis=0, weights=weight), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(full_covariances(params)[0], expected, rtol=1e-10, atol=1e-12)


def test_one_component_with_gaps_is_the_maximum_that_an_optimiser_finds():
    X = draw(15, 40, 2, 1, missing=0.25)
    X = X[~np.isnan(X).all(axis=1)]
    fit = climb("full", X, model=model_of("full", 1), max_iter=300, accelerate=True)

    def cost(v):
        L = np.array([[np.exp(v[2]), 0], [v[3], np.exp(v[4])]])
        S, total = L @ L.T, 0.0
        for o in ([True, True], [True, False], [False, True]):
            rows = X[(~np.isnan(X) == o).all(axis=1)][:, o]
            total += multivariate_normal(v[:2][o], S[np.ix_(o, o)]).logpdf(rows).sum()
        return -total / len(X)

    found = minimize(cost, [*np.nanmean(X, axis=0), 0, 0, 0], method="BFGS", options={"gtol": 1e-8})
    assert fit.lower_bounds[-1] == pytest.approx(-found.fun, rel=1e-9)
    np.testing.assert_allclose(fit.params.mu[0], found.x[:2], rtol=1e-4, atol=1e-4)


@every_kind
@pytest.mark.parametrize("away", [30.0, 1e4])
def test_a_component_without_rows_stays_where_it_is(kind, away):
    X, near = draw(16), draw_params(kind, 16)
    mu = near.mu.clone()
    mu[1] = away
    model = model_of(kind, floor=1e-6)
    params = model.params(near.pi, mu, near.sigma[:1] if kind == "tied" else near.sigma)
    assert (params.theta is None) == (away == 1e4)
    found = climb(kind, X, model=model, params=params, max_iter=3).params
    np.testing.assert_allclose(found.mu[1], mu[1])
    assert all(torch.isfinite(field).all() for field in found[:5])
    if kind != "tied":
        np.testing.assert_allclose(found.sigma[1], near.sigma[1])


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_collapsed_component_is_named(kind):
    pi, mu = torch.full((3,), 1 / 3, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    sigma = torch.ones(3, 2, dtype=torch.float64)[:, : 1 if kind == "spherical" else 2].clone()
    sigma[1] = 0
    with pytest.raises(torch.linalg.LinAlgError, match=r"^\[1\]$"):
        model_of(kind).params(pi, mu, torch.diag_embed(sigma) if kind == "full" else sigma)


# ------------------------------------------------------------------------------------------ filling and conditioning
@every_kind
def test_gaps_are_filled_by_the_conditional_expectation(kind):
    X, params, model = draw(17, 30, missing=0.4), draw_params(kind, 17), model_of(kind)
    X[2] = np.nan
    joint = brute_log_joint(X, params)
    R = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    expected = X.copy()
    for n, x in enumerate(X):
        o = ~np.isnan(x)
        fills = [
            mu[~o] + sigma[np.ix_(~o, o)] @ np.linalg.inv(sigma[np.ix_(o, o)]) @ (x[o] - mu[o])
            for mu, sigma in zip(params.mu.numpy(), full_covariances(params))
        ]
        expected[n, ~o] = R[n] @ fills
    found = np.empty_like(X)
    for batch in batches(X):
        found[batch.row.numpy()] = model.fill(batch, params)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@every_kind
def test_marginal_times_conditional_is_the_joint(kind):
    X, params, model = draw(18, 20), draw_params(kind, 18), model_of(kind)
    given, rest = [2, 0], [1]
    marginal, slope, sigma = model.split(params, torch.tensor(given), torch.tensor(rest))
    log_given = log_joint(model, X[:, given], marginal)
    weights = np.exp(log_given - logsumexp(log_given, axis=1, keepdims=True))
    for n, x in enumerate(X):
        means = params.mu[:, rest].numpy() + np.einsum("krg,kg->kr", slope, x[given] - marginal.mu.numpy())
        conditional = sum(
            w * multivariate_normal(m, s).pdf(x[rest]) for w, m, s in zip(weights[n], means, sigma.numpy())
        )
        joint = logsumexp(brute_log_joint(x[None], params)[0])
        assert np.log(conditional) + logsumexp(log_given[n]) == pytest.approx(joint, rel=1e-9)


# ------------------------------------------------------------------------------------------------------------- rounding
def test_far_components_do_not_underflow():
    """Responsibilities below exp(-80) count as that: nothing is lost, and no denormal number slows a product down."""
    log_joint = torch.tensor([[0.0, -1e5], [-800.0, 0.0]], dtype=torch.float64)
    log_px, R = posterior(log_joint.clone())
    np.testing.assert_allclose(log_px, 0, atol=1e-15)
    assert R.min() > 1e-35
    np.testing.assert_allclose(R.sum(0), 1)


def test_planted_parameters_are_found():
    rng = np.random.default_rng(19)
    means = np.array([[0.0, 0, 0], [6, 0, 0], [0, 6, 6]])
    labels = rng.choice(3, size=3000, p=[0.5, 0.3, 0.2])
    A = rng.normal(size=(3, 3, 3)) * 0.7
    X = means[labels] + np.einsum("nde,ne->nd", A[labels], rng.normal(size=(3000, 3)))
    gaps = rng.random(X.shape) < 0.2
    start = model_of("full").params(*map(torch.tensor, (np.full(3, 1 / 3), means + 1.0, np.stack([np.eye(3)] * 3))))
    for rows in (X, np.where(gaps, np.nan, X)):
        params = climb("full", rows, params=start, max_iter=100, batch_size=512).params
        np.testing.assert_allclose(params.pi, [0.5, 0.3, 0.2], atol=0.03)
        np.testing.assert_allclose(params.mu, means, atol=0.25)
        np.testing.assert_allclose(params.sigma, A @ A.swapaxes(1, 2), atol=0.35)
