"""The model of the VAE against exact answers, and what the gradient engine does for several fits at once."""

import math

import numpy as np
import pytest
import torch
from pytest import approx
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from skvae._tensors import Cells, Noise, keep_gradient
from skvae.elbo import Bound, kl_to_standard_normal, with_free_bits
from skvae.engines import gradient
from skvae.engines.watching import Watcher
from skvae.likelihoods import Bernoulli, Gaussian, Mixed, Poisson
from skvae.models.autoencoders.autoencoder import Autoencoder
from skvae.models.autoencoders.encoder_decoder import own
from skvae.models.autoencoders.vae import VAE, PerRowVAE, Posterior
from skvae.networks import init_mlp
from skvae.training.members import MemberBatch, MemberNoise

N, D, K = 12, 5, 2


# ----------------------------------------------------------------------------------------- a model known in full
def linear_model(seed=0, off=0.0, kind=VAE, draws=1, **settings):
    """A linear Gaussian model in float64, whose encoder is the exact posterior, or `off` it.

    Returns the model, its parameters, a batch of its rows, and log p(x) of each.
    """
    rng = np.random.default_rng(seed)
    psi = 0.3 + rng.random(D)
    basis, _ = np.linalg.qr(rng.normal(size=(D, K)))
    W = (basis * [2.0, 1.2]).T * np.sqrt(psi)  # W psi^-1 W' is diagonal: the posterior factorises
    mu, precision = rng.normal(size=D), 1 + np.diag((W / psi) @ W.T)
    x = rng.normal(size=(N, K)) @ W + mu + np.sqrt(psi) * rng.normal(size=(N, D))
    A = (W / psi).T / precision
    params = {
        "decoder.0.weight": W,
        "decoder.0.bias": mu,
        "likelihood.noise": np.log(psi - 1e-3),
        "encoder.0.weight": np.hstack([(1 - off) * A, np.zeros((D, K))]),
        "encoder.0.bias": np.hstack([-(1 - off) * mu @ A, -np.log(precision) + off]),
    }
    params = {name: torch.from_numpy(np.asarray(array))[None] for name, array in params.items()}
    model = kind(D, K, D, (), torch.tanh, Gaussian(), n_draws=draws, **settings)
    exact = multivariate_normal(mu, W.T @ W + np.diag(psi)).logpdf(x)
    return model, params, rows_of(torch.from_numpy(x)), exact


def rows_of(x, observed=None, w=None):
    n = x.shape[-2]
    w = torch.ones(1, n, dtype=x.dtype) if w is None else w
    return MemberBatch(Cells(x[None], observed), x[None], w, torch.arange(n)[None])


def noise(seed=0):
    return MemberNoise([Noise(seed)])


def base(model, batch):
    return model.likelihood.log_base(batch.x)


# ------------------------------------------------------------------------------------------------- terms of the bound
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.3, 0.2), (-0.4, 2.5)])
def test_the_closed_form_kl_is_that_of_monte_carlo(mean, std):
    z = norm(mean, std).rvs(200_000, random_state=0)
    each = norm(mean, std).logpdf(z) - norm.logpdf(z)
    exact = kl_to_standard_normal(torch.tensor(mean), torch.tensor(2 * math.log(std)))
    assert float(exact) == approx(each.mean(), abs=4 * each.std() / math.sqrt(len(z)) + 1e-12)


@pytest.mark.parametrize("missing", [False, True])
def test_the_expectation_in_closed_form_is_the_mean_over_draws(missing):
    model, params, batch, _ = linear_model(off=0.4)
    if missing:
        observed = (torch.rand(1, N, D, generator=torch.Generator().manual_seed(0)) > 0.3).double()
        batch = batch._replace(x=Cells(batch.x.value * observed, observed))
    q = model.encode(params, batch)
    closed = model.expected_log_prob(params, batch.x, q)[0].numpy()
    z, _ = model.draw(params, q, Noise(1).normal(torch.arange(20_000), K, torch.float64)[None, :, None])
    each = model.log_prob(params, batch.x, z)[0].numpy()
    z_score = (each.mean(0) - closed) / (each.std(0) / math.sqrt(len(each)))
    assert np.abs(z_score).max() < 4.5
    assert np.abs(each[:50].mean(0) - closed).max() > 1e-3  # it is an expectation, not a draw


def test_the_bound_of_a_linear_model_is_tight_at_the_exact_posterior_and_below_elsewhere():
    model, params, batch, exact = linear_model()
    bound = (model.bound(params, batch, noise()).value() + base(model, batch))[0]
    np.testing.assert_allclose(bound, exact, rtol=1e-10)
    model, params, batch, exact = linear_model(off=0.3)
    bound = (model.bound(params, batch, noise()).value() + base(model, batch))[0]
    assert (exact - bound.numpy()).min() > 0.01


def bounds_of_draws(S, n_repeats=300):
    """Bound of S draws of each row, n_repeats times, the bound of one, and the exact log p(x)."""
    model, params, batch, exact = linear_model(off=0.5)
    epsilon = Noise(S).normal(torch.arange(n_repeats * S), K, torch.float64).reshape(n_repeats, 1, S, 1, K)
    with torch.no_grad():
        weights = torch.cat([model.log_weights(params, batch, each) for each in epsilon])
    return (weights + base(model, batch)[:, None]).logsumexp(1).numpy() - math.log(S), exact


def test_bounds_rise_with_draws_towards_the_evidence_and_never_pass_it_on_average():
    """ELBO (the mean of one draw) <= importance-weighted bounds, rising with S <= log p(x), with Monte-Carlo errors."""
    model, params, batch, exact = linear_model(off=0.5)
    elbo = (model.bound(params, batch, noise()).value() + base(model, batch))[0].numpy().mean()
    means, errors = [], []
    for S in (1, 2, 5, 20, 80):
        each = bounds_of_draws(S)[0].mean(1)  # over rows: repeats are independent
        means.append(each.mean())
        errors.append(each.std() / math.sqrt(len(each)))
    assert elbo == approx(means[0], abs=4 * errors[0])
    gaps = np.diff(means) / np.hypot(errors[1:], errors[:-1])
    assert (gaps > 3).all()  # each clearly above the one before
    assert means[-1] < exact.mean() + 4 * errors[-1]
    assert exact.mean() - means[-1] < 0.1 * (exact.mean() - means[0])


def test_the_importance_weighted_objective_is_its_formula():
    """log mean_s p(x | z_s) p(z_s) / q(z_s | x) by SciPy (Burda et al. 2016, eq. 8)."""
    model, params, batch, _ = linear_model(off=0.5, draws=3, objective="iwae")
    bound = model.bound(params, batch, noise())
    q = model.encode(params, batch)
    epsilon = [noise().fold("z", s).normal(batch.row, K, torch.float64) for s in range(3)]
    z, _ = model.draw(params, q, torch.stack(epsilon, 1))
    assert z.shape == (1, 3, N, K)
    f = z[0].numpy() @ params["decoder.0.weight"][0].numpy() + params["decoder.0.bias"][0].numpy()
    psi = model.likelihood.variance(own(params), D)[0].numpy()
    log_p = norm(f, np.sqrt(psi)).logpdf(batch.x.value[0].numpy()).sum(-1) + norm.logpdf(z[0].numpy()).sum(-1)
    log_q = norm(q.mean[0].numpy(), np.exp(0.5 * q.log_variance[0].numpy())).logpdf(z[0].numpy()).sum(-1)
    expected = logsumexp(log_p - log_q, axis=0) - math.log(3)
    np.testing.assert_allclose((bound.value() + base(model, batch))[0], expected, rtol=1e-9)
    np.testing.assert_allclose(bound.value(7.0), bound.value())  # no KL term to weigh


def test_free_bits_are_their_formula():
    """A dimension costs at least the free bits on the weighted mean over the batch; beta weighs what it costs."""
    rng = np.random.default_rng(0)
    log_prob, kl = rng.normal(size=(2, 6)), rng.random((2, 6, 3)) * [0.1, 1.0, 3.0]
    w = rng.random((2, 6))
    w /= w.mean(1, keepdims=True)
    bound = with_free_bits(*map(torch.from_numpy, (log_prob, kl)), 0.5, torch.from_numpy(w))
    cost = np.maximum((w[..., None] * kl).mean(1), 0.5).sum(-1)
    np.testing.assert_allclose(bound.value(2.0), log_prob - 2.0 * cost[:, None])
    assert (cost > kl.mean(1).sum(-1)).any()


def test_free_bits_leave_no_gradient_on_cheap_dimensions():
    model, params, batch, _ = linear_model(off=0.5, free_bits=100.0)
    params = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    bound = model.bound(params, batch, noise())
    free = torch.autograd.grad(bound.value(1.0).mean(), params["encoder.0.bias"], retain_graph=True)[0]
    alone = torch.autograd.grad(bound.log_prob.mean(), params["encoder.0.bias"])[0]
    torch.testing.assert_close(free, alone)


def test_several_draws_are_a_mean_of_single_ones(monkeypatch):
    monkeypatch.setattr(VAE, "closed_form", False)
    draws = [linear_model(draws=S) for S in (1, 8)]
    bounds = []
    for model, params, batch, _ in draws:
        each = [model.bound(params, batch, noise(seed)).log_prob for seed in range(300)]
        bounds.append(torch.cat(each).mean(1).numpy())
    assert bounds[0].mean() == approx(bounds[1].mean(), abs=4 * bounds[0].std() / math.sqrt(300))
    assert bounds[0].var() / bounds[1].var() == approx(8, rel=0.4)


def test_rows_draw_their_own_noise_whatever_the_batch(monkeypatch):
    monkeypatch.setattr(VAE, "closed_form", False)
    model, params, batch, _ = linear_model()
    whole = model.bound(params, batch, noise()).log_prob[0]
    some = torch.tensor([7, 2])
    part = batch._replace(x=Cells(batch.x.value[:, some]), u=batch.u[:, some], w=batch.w[:, some], row=some[None])
    torch.testing.assert_close(model.bound(params, part, noise()).log_prob[0], whole[some])


def test_missing_cells_say_nothing():
    """The bound with cells missing is the exact marginal of the others where q is exact for them."""
    model, params, batch, _ = linear_model()
    observed = torch.ones(1, N, D, dtype=torch.float64)
    observed[:, :, 3:] = 0
    changed = Cells(torch.where(observed > 0, batch.x.value, 99.0) * observed, observed)
    q = model.encode(params, batch)
    epsilon = Noise(0).normal(torch.arange(4000), K, torch.float64)[None, :, None]
    z, _ = model.draw(params, q, epsilon)
    weights = model.log_prob(params, changed, z) - z.square().sum(-1) / 2
    log_q = (-epsilon.square() / 2 - q.log_variance[:, None] / 2).sum(-1)
    got = (weights - log_q).logsumexp(1)[0] - math.log(4000) + base(model, batch._replace(x=changed))[0]
    W, mu = params["decoder.0.weight"][0].numpy()[:, :3], params["decoder.0.bias"][0].numpy()[:3]
    psi = model.likelihood.variance(own(params), D)[0].numpy()[:3]
    exact = multivariate_normal(mu, W.T @ W + np.diag(psi)).logpdf(batch.x.value[0].numpy()[:, :3])
    assert got.numpy() == approx(exact, abs=0.3)
    assert float(got.mean()) == approx(exact.mean(), abs=0.05)


# --------------------------------------------------------------------------------------------------- posteriors per row
def test_posteriors_per_row_reach_the_exact_one_under_a_fixed_decoder():
    """Also from a bad start, and the decoder stays as it is."""
    model, params, batch, exact = linear_model(kind=PerRowVAE)
    decoder = {name: tensor for name, tensor in params.items() if name.startswith(("decoder.", "likelihood."))}
    model.fixed = {name: tensor.clone() for name, tensor in decoder.items()}
    start = model.init_rows(N, torch.float64)

    class AllRows:
        def n_batches(self, batch_size):
            return 1

        def shuffled(self, batch_size, noise):
            yield batch

    plan = gradient.Plan(400, N, 0.05, rate_schedule=lambda f: 1 - f, fit_of_member=np.array([0]))
    fit = gradient.ascend(model, start, AllRows(), plan=plan, noise=noise())
    bound = (model.bound(fit.params, batch, noise()).value() + base(model, batch))[0]
    np.testing.assert_allclose(bound, exact, atol=1e-5)
    assert fit.params.keys() == {"row.posterior"}
    assert all(torch.equal(model.fixed[name], tensor) for name, tensor in decoder.items())


def test_log_variances_are_held_in_range():
    model, params, batch, _ = linear_model()
    params["encoder.0.bias"][:, K:] = torch.tensor([1e9, -1e9])
    q = model.encode(params, batch)
    assert q.log_variance.max() <= 10 and q.log_variance.min() >= -15
    assert torch.isfinite(model.bound(params, batch, noise()).value()).all()


def test_the_posterior_starts_as_wide_as_the_prior_and_the_mean_at_the_marginal_maximum():
    class Moments:
        mean, variance, share = torch.full((D,), 0.25), torch.ones(D), torch.full((D,), 0.25)

    model = VAE(D, K, D, (7,), torch.tanh, Bernoulli())
    params = model.init(Noise(0), Moments)
    stacked = {name: tensor[None] for name, tensor in params.items()}
    q = model.encode(stacked, rows_of(torch.zeros(3, D)))
    assert isinstance(q, Posterior) and not q.log_variance.any()
    np.testing.assert_allclose(params["decoder.1.bias"].sigmoid(), 0.25, rtol=1e-5)


# ------------------------------------------------------------------------------------------ the way back by hand
BY_HAND = {  # likelihood, hidden layers, own values
    "gaussian": (Gaussian(), (7,), {"noise": (D,)}),
    "isotropic": (Gaussian("isotropic"), (7, 4), {"noise": (1,)}),
    "fixed noise": (Gaussian(0.7), (7,), {}),
    "bernoulli": (Bernoulli(), (7,), {}),
    "linear bernoulli": (Bernoulli(), (), {}),
    "poisson": (Poisson(), (7,), {}),
    "autoencoder": (None, (7,), {}),
    "mixed": (Mixed([(Gaussian(), 0, 2), (Bernoulli(), 2, D)]), (7,), {"0.noise": (2,)}),
}


@pytest.mark.parametrize("beta", [0.3, torch.tensor([[0.5], [2.0]], dtype=torch.float64)])
@pytest.mark.parametrize("rows", ["shared", "own", "one member"])
@pytest.mark.parametrize("skip, missing", [(False, False), (True, True)])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_way_back_by_hand_is_that_of_autograd(name, skip, missing, rows, beta):
    likelihood, layers, values = BY_HAND[name]
    sizes = (D, K, D, layers, torch.tanh)
    model, M = VAE(*sizes, likelihood) if likelihood else Autoencoder(*sizes), 1 if rows == "one member" else 2
    beta, S = beta[:M] if isinstance(beta, torch.Tensor) else beta, M if rows == "own" else 1

    def draw(purpose, *shape):
        return (
            Noise(1).fold(purpose).normal(torch.arange(math.prod(shape[:-1])), shape[-1], torch.float64).reshape(shape)
        )

    shapes = {name: tensor.shape for name, tensor in model._init_encoder(Noise(0)).items()}
    shapes |= {name: tensor.shape for name, tensor in init_mlp("decoder", model.decoder_sizes, Noise(0)).items()}
    shapes |= {f"likelihood.{name}": shape for name, shape in values.items()}
    shapes |= {"encoder.skip.weight": (D, K), "decoder.skip.weight": (K, D)} if skip else {}
    params = {name: draw(name, M, *shape) for name, shape in shapes.items()}
    observed = (draw("observed", S, N, D) > 0).double() if missing else None
    x = (draw("x", S, N, D) > 0).double() * (1 if observed is None else observed)
    base_posterior = draw("base", S, N, 2 * K) if skip else None
    batch = MemberBatch(Cells(x, observed), x, draw("w", S, N).square(), torch.arange(N)[None], base_posterior)

    of_autograd = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    by_hand = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    for leaf in by_hand.values():
        keep_gradient(leaf, torch.zeros_like(leaf))
    expected, found = model.bound(of_autograd, batch, noise()), model.bound(by_hand, batch, noise())
    assert expected.by_hand is None and found.by_hand is not None
    assert not found.log_prob.requires_grad and not found.kl.requires_grad
    torch.testing.assert_close((found.log_prob, found.kl), (expected.log_prob.detach(), expected.kl.detach()))
    found.descend(beta, batch.w)
    (-(batch.w * expected.value(beta)).sum() / N).backward()
    for name, leaf in by_hand.items():
        torch.testing.assert_close(leaf.grad, of_autograd[name].grad, msg=lambda text, name=name: f"{name}: {text}")


# -------------------------------------------------------------------------------------- the engine, for several fits
class Quadratic:
    """Members climb to targets of their own: -|w - t|^2."""

    targets = torch.tensor([1.0, -1.0, 2.0])

    def bound(self, params, batch, noise):
        value = -(params["w"] - self.targets[:, None, None]).square().sum((-1, -2)) - params["b"].square().sum(-1)
        return Bound(value[:, None].expand(-1, batch.w.shape[1]), torch.zeros(len(value), batch.w.shape[1], 1))


class OneBatch:
    batch = rows_of(torch.zeros(4, 1))

    def n_batches(self, batch_size):
        return 1

    def shuffled(self, batch_size, noise):
        yield self.batch


def ascend(n_members=3, model=None, members=slice(None), **plan):
    start = {"w": torch.full((n_members, 2, 2), 0.5), "b": torch.full((n_members, 2), 0.5)}
    model = model or Quadratic()
    model.targets = Quadratic.targets[members]
    validate, watcher = plan.pop("validate", None), plan.pop("watcher", None)
    plan = {"max_iter": 8, "batch_size": 4, "learning_rate": 0.1} | plan
    plan = gradient.Plan(**{"fit_of_member": np.arange(n_members)} | plan)
    return gradient.ascend(model, start, OneBatch(), plan=plan, noise=noise(), validate=validate, watcher=watcher)


@pytest.mark.parametrize(
    ("rates", "decays"), [((0.1, 0.01, 0.1), 0.0), (0.1, (0.0, 0.5, 0.5)), ((0.1, 0.1, 0.02), (0.3, 0.0, 0.0))]
)
def test_rates_and_decays_of_members_are_those_of_single_runs(rates, decays):
    together = ascend(learning_rate=rates, weight_decay=decays)
    for member, (rate, decay) in enumerate(zip(np.broadcast_to(rates, 3), np.broadcast_to(decays, 3))):
        alone = ascend(1, members=slice(member, member + 1), learning_rate=float(rate), weight_decay=float(decay))
        for name, tensor in alone.params.items():
            np.testing.assert_allclose(together.params[name][member], tensor[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.array(together.lower_bounds)[:, member], np.ravel(alone.lower_bounds), atol=1e-6)


def test_decay_of_members_spares_biases():
    plain, decayed = ascend(), ascend(weight_decay=(5.0, 5.0, 5.0))
    assert torch.equal(plain.params["b"], decayed.params["b"])
    assert not torch.equal(plain.params["w"], decayed.params["w"])


def test_the_learning_rate_of_members_follows_the_schedule():
    still = ascend(learning_rate=(0.1, 0.2, 0.3), rate_schedule=lambda fraction: 0.0)
    assert (still.params["w"] == 0.5).all()


def recorded(table, kept):
    """Votes that read from a table, one row a validation, and keep the parameters that they saw."""
    rows = iter(np.asarray(table, dtype=float))

    def validate(params):
        kept.append({name: tensor.detach().clone() for name, tensor in params.items()})
        return next(rows)

    return validate


SCORES = [[1, 5, 9], [5, 4, 8], [4, 3, 7], [3, 9, 6], [9, 9, 9]]  # fits of 3 members


def test_each_fit_keeps_its_own_best():
    kept = []
    fit = ascend(validate=recorded(SCORES, kept), patience=2)
    assert fit.best.tolist() == [1, 0, 0] and fit.n_validations.tolist() == [4, 3, 3]
    assert fit.n_iter == 4
    for member, number in enumerate(fit.best):
        for name in fit.params:
            assert torch.equal(fit.params[name][member], kept[number][name][member])


def test_members_of_one_fit_are_kept_together():
    kept = []
    scores = [[1, 1], [2, 0], [0, 0], [0, 0]]
    fit = ascend(validate=recorded(scores, kept), patience=2, fit_of_member=np.array([0, 0, 1]))
    assert fit.best.tolist() == [1, 0]
    for member, number in enumerate([1, 1, 0]):
        assert torch.equal(fit.params["w"][member], kept[number]["w"][member])


def test_a_rise_below_tol_is_kept_but_buys_no_patience():
    scores = [[1.0], [1.05], [1.09], [9.0]]
    fit = ascend(validate=recorded(scores, []), patience=2, tol=0.1, fit_of_member=np.zeros(3, int))
    assert fit.n_iter == 3 and fit.best.tolist() == [2]
    fit = ascend(validate=recorded([*scores, *[[0.0]] * 4], []), patience=2, tol=0.01, fit_of_member=np.zeros(3, int))
    assert fit.best.tolist() == [3]


def test_validations_come_every_so_many_epochs_and_at_the_end():
    kept = []
    fit = ascend(validate=recorded(np.arange(9)[:, None], kept), validate_every=3, fit_of_member=np.zeros(3, int))
    assert len(kept) == len(fit.validation_scores) == 3 and fit.n_iter == 8
    assert torch.equal(kept[-1]["w"], fit.params["w"])


class Poisoned(Quadratic):
    """One member's bound is no number at some calls."""

    def __init__(self, calls):
        self.calls, self.seen = calls, -1

    def bound(self, params, batch, noise):
        self.seen += 1
        bound = super().bound(params, batch, noise)
        bad = torch.tensor([[1.0], [math.nan], [1.0]]) if self.seen in self.calls else torch.ones(3, 1)
        return Bound(bound.log_prob * bad, bound.kl)


class Notes(Watcher):
    def __init__(self):
        self.w = []

    def ends(self, epoch):
        self.w.append(epoch.params["w"].detach().clone())


@pytest.mark.parametrize("rates", [0.1, (0.1, 0.1, 0.05)])
def test_a_refused_step_halves_the_rates_of_all_once_then_ends_the_ascent(rates):
    notes = Notes()
    with pytest.warns(RuntimeWarning, match="1 steps of epoch 2"):
        ascend(model=Poisoned({2}), learning_rate=rates, watcher=notes)
    assert torch.equal(notes.w[2], notes.w[1])  # the last good state
    whole = Notes()
    ascend(learning_rate=rates, watcher=whole)
    assert torch.equal(notes.w[1], whole.w[1])
    step, usual = notes.w[3] - notes.w[2], whole.w[2] - whole.w[1]
    torch.testing.assert_close(step, usual / 2, rtol=0.02, atol=1e-6)
    with pytest.warns(RuntimeWarning), pytest.raises(FloatingPointError, match=r"epoch 5.*halved to 0\.05.*outliers"):
        ascend(model=Poisoned({2, 5}), learning_rate=rates)
