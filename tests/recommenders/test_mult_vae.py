"""The Mult-VAE and its likelihoods against their dense formulas and against the laws of the model."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from skvae._tensors import Noise, Rows, keep_gradient
from skvae.elbo import kl_to_standard_normal
from skvae.likelihoods import Bernoulli, Multinomial, WeightedGaussian, multinomial
from skvae.models.recommenders.mult_vae import MultVAE, normalised

CPU = torch.device("cpu")
N_ITEMS = 12


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["whole", "in blocks"])
def items(request, monkeypatch):
    """Whether the scores of all items are in memory together, or some at a time (none, of one block, has a click)."""
    if request.param == "in blocks":
        blocks = [slice(0, 5), slice(5, 6), slice(6, N_ITEMS)]
        monkeypatch.setattr(multinomial, "column_blocks", lambda *shape_and_device: blocks)


@pytest.fixture
def counts():
    dense = np.random.default_rng(0).poisson(0.5, (9, N_ITEMS)).astype(float)
    dense[4] = 0
    dense[:, 5] = 0
    return dense


def batch_of(dense, index=None):
    rows = Rows(sp.csr_array(dense), CPU, torch.float64)
    return rows.batch(np.arange(len(dense)) if index is None else np.asarray(index))


def make_model(hidden=(), dropout=0.0, likelihood=None, n_components=3, seed=1, units=0):
    model = MultVAE(N_ITEMS, n_components, hidden, torch.tanh, dropout, likelihood or Multinomial(), units)
    params = model.init(Noise(seed), torch.full((N_ITEMS,), 0.5), torch.full((N_ITEMS,), 0.5))
    return model, {name: tensor.double() + 0.1 * draw(*tensor.shape, seed=2) for name, tensor in params.items()}


# ------------------------------------------------------------------------------------------------------- likelihoods
def test_multinomial_loss_and_gradient_are_the_dense_formula(items, counts):
    x, dense = batch_of(counts), torch.from_numpy(counts)
    inputs = [draw(9, 5).requires_grad_(), draw(5, N_ITEMS).requires_grad_(), draw(N_ITEMS).requires_grad_()]
    h, weight, bias = inputs
    upstream = draw(9, seed=3)
    expected = (dense * (h @ weight + bias).log_softmax(-1)).sum(-1)
    got = Multinomial().log_prob_of_linear(x, h, weight, bias)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(got, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_gradients_accumulate_in_place_as_autograds_do(items, counts):
    """Two passes over leaves that keep their gradients add up, in both layers that are as wide as the catalogue."""
    x = batch_of(counts)
    leaves = [draw(N_ITEMS, 5).requires_grad_(), draw(5).requires_grad_(), draw(5, N_ITEMS).requires_grad_()]

    def loss():
        return Multinomial().log_prob_of_linear(x, x.linear(leaves[0], leaves[1]), leaves[2], draw(N_ITEMS)).sum()

    once = torch.autograd.grad(loss(), leaves)
    for leaf in leaves[:3:2]:
        keep_gradient(leaf, torch.zeros_like(leaf))
    for _ in range(3):
        loss().backward()
    for leaf, gradient in zip(leaves, once, strict=True):
        torch.testing.assert_close(leaf.grad, 3 * gradient)


def test_multinomial_loss_survives_huge_scores(items, counts):
    h = torch.full((9, 1), 1e4, dtype=torch.float64)
    weight, bias = draw(1, N_ITEMS), torch.zeros(N_ITEMS, dtype=torch.float64)
    expected = Multinomial().log_prob(batch_of(counts), h @ weight + bias)
    got = Multinomial().log_prob_of_linear(batch_of(counts), h, weight, bias)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, expected)


def test_multinomial_is_normalised(counts):
    f = draw(9, N_ITEMS)
    got = Multinomial().log_prob(batch_of(counts), f) + Multinomial().log_base(batch_of(counts))
    p = f.softmax(-1).numpy()
    expected = [stats.multinomial(row.sum(), q / q.sum()).logpmf(row) for row, q in zip(counts, p, strict=True)]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-10)


def test_bernoulli_is_normalised(counts):
    clicks, f = (counts > 0).astype(float), draw(9, N_ITEMS)
    got = Bernoulli().log_prob(batch_of(clicks), f) + Bernoulli().log_base(batch_of(clicks))
    np.testing.assert_allclose(got, stats.bernoulli.logpmf(clicks, f.sigmoid().numpy()).sum(1), atol=1e-10)


def test_gaussian_is_normalised(counts):
    c0, c1 = 0.5, 4.0
    f = draw(9, N_ITEMS)
    likelihood = WeightedGaussian((c0, c1))
    got = likelihood.log_prob(batch_of(counts), f) + likelihood.log_base(batch_of(counts))
    deviation = np.where(counts > 0, c1, c0) ** -0.5
    np.testing.assert_allclose(got, stats.norm.logpdf(counts, f.numpy(), deviation).sum(1), atol=1e-10)


@pytest.mark.parametrize("likelihood", [Multinomial(), Bernoulli(), WeightedGaussian((1.0, 5.0))])
@pytest.mark.parametrize("top", [1, 5])
def test_biases_start_at_the_marginal_maximum(likelihood, top):
    """No other constant row of scores explains the data better, be they clicks or ratings up to five."""
    rng = np.random.default_rng(1)
    values = rng.integers(1, top + 1, (200, N_ITEMS)) * (rng.random((200, N_ITEMS)) < np.linspace(0.1, 0.9, N_ITEMS))
    values = values.astype(float)
    if isinstance(likelihood, Bernoulli):
        values /= top
    bias = likelihood.init_bias(torch.from_numpy(values.mean(0)), torch.from_numpy((values > 0).mean(0)))
    x = batch_of(values)
    best = likelihood.log_prob(x, bias.expand(200, -1)).sum()
    for seed in range(20):
        other = bias + 0.05 * draw(N_ITEMS, seed=seed)
        assert likelihood.log_prob(x, other.expand(200, -1)).sum() <= best + 1e-9


def test_kl_is_its_monte_carlo_mean():
    mean, log_variance = torch.tensor([0.7, -1.2]), torch.tensor([-0.5, 0.3])
    q = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z = mean + (0.5 * log_variance).exp() * Noise(0).normal(torch.arange(200_000), 2)
    sampled = q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)
    error = 5 * sampled.std(0) / math.sqrt(len(z))
    assert ((sampled.mean(0) - kl_to_standard_normal(mean, log_variance)).abs() < error).all()


# ------------------------------------------------------------------------------------------------------------- model
@pytest.mark.parametrize("hidden, units", [((), 0), ((7,), 0), ((7, 5), 0), ((), 4), ((7,), 4)])
def test_without_noise_the_bound_is_the_mult_dae_objective(counts, hidden, units):
    """Liang et al. 2018, section 2.2.2: the log-likelihood of x at a deterministic code."""
    model, params = make_model(hidden, dropout=0.5, units=units)
    bound = model.bound(params, batch_of(counts), noise=None)
    dense = torch.from_numpy(counts)
    h = dense / dense.norm(dim=1, keepdim=True).clamp(min=1e-300)
    for index in range(len(hidden) + 1):
        h = h @ params[f"encoder.{index}.weight"] + params[f"encoder.{index}.bias"]
        h = torch.tanh(h) if index < len(hidden) else h[:, :3] * (dense.sum(1, keepdim=True) > 0)
    if units:
        beside = h @ params["decoder.units.0.weight"] + params["decoder.units.0.bias"]
        beside = beside * beside.sigmoid() @ params[f"decoder.{len(hidden)}.weight"][-units:]
        params[f"decoder.{len(hidden)}.weight"] = params[f"decoder.{len(hidden)}.weight"][:-units]
    for index in range(len(hidden) + 1):
        h = h @ params[f"decoder.{index}.weight"] + params[f"decoder.{index}.bias"]
        h = torch.tanh(h) if index < len(hidden) else h
    h = h + beside if units else h
    expected = (dense * h.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(bound.value(beta=0.0), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("hidden, units", [((), 0), ((7,), 0), ((), 4)])
def test_permuting_the_items_permutes_the_scores(counts, hidden, units):
    model, params = make_model(hidden, units=units)
    order = np.random.default_rng(3).permutation(N_ITEMS)
    permuted = dict(params)
    permuted["encoder.0.weight"] = params["encoder.0.weight"][order]
    for part in ("weight", "bias"):
        permuted[f"decoder.{model.last}.{part}"] = params[f"decoder.{model.last}.{part}"][..., order]
    scores = model.decode(params, model.encode(params, batch_of(counts)).mean)
    scores_permuted = model.decode(permuted, model.encode(permuted, batch_of(counts[:, order])).mean)
    torch.testing.assert_close(scores_permuted, scores[:, order])


def test_a_row_has_the_same_bound_in_any_batch(counts):
    model, params = make_model((7,), dropout=0.5)
    noise = Noise(4)
    whole = model.bound(params, batch_of(counts), noise)
    index = [8, 2, 5]
    some = model.bound(params, batch_of(counts, index), noise)
    torch.testing.assert_close(some.log_prob, whole.log_prob[index])
    torch.testing.assert_close(some.kl, whole.kl[index])


def test_an_empty_row_has_the_prior_as_its_posterior(counts):
    model, params = make_model((7,), dropout=0.5)
    q = model.encode(params, batch_of(counts), Noise(0))
    assert q.mean[4].abs().max() == q.log_variance[4].abs().max() == 0
    assert model.bound(params, batch_of(counts), Noise(0)).value()[4] == 0


def test_dropout_hides_its_share_and_keeps_the_mean():
    dense = np.ones((2000, N_ITEMS))
    model, _ = make_model(dropout=0.3)
    x = batch_of(dense)
    dropped = normalised(x, model.dropout, Noise(0)).value
    kept = dropped > 0
    assert abs(kept.double().mean() - 0.7) < 5 * math.sqrt(0.21 / len(dropped))
    torch.testing.assert_close(dropped[kept], normalised(x, model.dropout).value[kept] / 0.7)


def test_the_bound_is_below_the_exact_evidence():
    """E_q[log p(x|z)] - KL <= log p(x), the right side by quadrature over a one-dimensional z."""
    counts = np.random.default_rng(5).poisson(0.4, (6, N_ITEMS)).astype(float)
    model, params = make_model((7,), n_components=1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    z = torch.from_numpy(nodes)
    x = batch_of(counts)
    on_grid = torch.stack([model.log_prob(params, x, node.expand(6, 1)) for node in z])
    evidence = (on_grid + torch.from_numpy(np.log(weights / weights.sum()))[:, None]).logsumexp(0)
    draws = torch.stack([model.bound(params, x, Noise(seed)).value() for seed in range(2000)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert (draws.mean(0) <= evidence + 4 * error).all()
    assert (draws.mean(0) > evidence - 2).all()  # a bound worth the name
