"""The RecVAE against plain formulas: its encoder, its composite prior, and the weight of the KL term of each user."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import integrate, stats

from skvae import RecVAERecommender
from skvae._tensors import Noise, Rows
from skvae.datasets import make_interactions
from skvae.elbo import Posterior
from skvae.models.recommenders.rec_vae import OLD, RecVAE, log_normal, log_prior

N_ITEMS, K = 10, 3
COUNTS = np.random.default_rng(0).poisson(0.8, (7, N_ITEMS)).astype(float)
COUNTS[2] = 0


def batch_of(dense):
    return Rows(sp.csr_array(dense), torch.device("cpu"), torch.float64).batch(np.arange(len(dense)))


def make_model(dropout=0.0):
    """A model, parameters away from their first values, and others as those of the last epoch."""
    model, generator = RecVAE(N_ITEMS, K, 5, 3, dropout), torch.Generator().manual_seed(0)

    def moved(tensor):
        return tensor.double() + 0.3 * torch.randn(tensor.shape, dtype=torch.float64, generator=generator)

    share = torch.full((N_ITEMS,), 0.5)
    params = {name: moved(tensor) for name, tensor in model.init(Noise(1), share, share).items()}
    old = {OLD + name: moved(tensor) for name, tensor in params.items() if name.startswith("encoder.")}
    return model, params, old


def test_the_encoder_is_what_torchs_own_layers_compute():
    model, params, _ = make_model()
    h = torch.from_numpy(COUNTS)
    f = torch.nn.functional.normalize(h) @ params["encoder.0.weight"] + params["encoder.0.bias"]
    outputs = []
    for i in range(3):
        norm = torch.nn.LayerNorm(5, dtype=torch.float64)
        norm.weight.data, norm.bias.data = params[f"encoder.{i}.scale"], params[f"encoder.{i}.shift"]
        outputs.append(norm(torch.nn.SiLU()(f + sum(outputs))))
        f = outputs[-1] @ params[f"encoder.{i + 1}.weight"] + params[f"encoder.{i + 1}.bias"]
    q = model.encode(params, batch_of(COUNTS))
    some = COUNTS.any(1)
    torch.testing.assert_close(torch.cat([q.mean, q.log_variance], 1)[some], f.detach()[some])
    assert (q.mean[~some] == 0).all() and (q.log_variance[~some] == 0).all()


def test_the_prior_is_the_mixture_and_integrates_to_one():
    mean, log_variance = 0.7, -1.2

    def density(z):
        z = torch.tensor([[float(z)]], dtype=torch.float64)
        old = Posterior(torch.full_like(z, mean), torch.full_like(z, log_variance))
        return log_prior(z, old).exp().item()

    parts = stats.norm([0, mean, 0], [1, math.exp(log_variance / 2), math.exp(5)])
    for z in (-2.0, 0.5, 300.0):
        assert density(z) == pytest.approx([0.15, 0.75, 0.1] @ parts.pdf(z), rel=1e-10)
    total = sum(integrate.quad(density, *ends)[0] for ends in ((-3000, -9), (-9, 9), (9, 3000)))
    assert total == pytest.approx(1, abs=1e-6)


def test_the_kl_term_is_a_draw_of_the_kl_divergence_to_the_prior():
    """Its mean over many rows of equal content is the integral; of an encoder that stayed, at most log(4 / 3)."""
    model, params, old = make_model()
    many = batch_of(np.tile(COUNTS[:1], (10_000, 1)))
    kl = model.bound(params | old, many, Noise(0)).kl
    q, q_old = (
        model.encode(own, batch_of(COUNTS[:1]))
        for own in (params, {name.removeprefix(OLD): t for name, t in old.items()})
    )
    grid = torch.linspace(-15, 15, 6001, dtype=torch.float64)[:, None].expand(-1, K)
    log_q = log_normal(grid, *q)
    expected = torch.trapezoid(log_q.exp() * (log_q - log_prior(grid, q_old)), grid, dim=0)
    error = kl.std(0) / len(kl) ** 0.5
    assert (expected > 0.1).all() and ((kl.mean(0) - expected).abs() < 5 * error).all()
    same = {OLD + name: tensor for name, tensor in params.items()}
    assert (model.bound(params | same, many, Noise(0)).kl < math.log(4 / 3) + 1e-9).all()


def test_the_kl_term_of_a_user_weighs_as_much_as_the_user_has_clicked():
    model, params, old = make_model(dropout=0.5)
    bound = model.bound(params | old, batch_of(COUNTS), Noise(0))
    expected = bound.log_prob - 0.3 * torch.from_numpy(COUNTS.sum(1)) * bound.kl.sum(1)
    torch.testing.assert_close(bound.value(0.3), expected)


@pytest.mark.parametrize("change", [{"gamma": 1.0}, {"n_layers": 3}, {"hidden_size": 7}, {"dropout": 0.1}])
def test_what_is_asked_for_reaches_the_fit(change):
    X = make_interactions(60, 20, random_state=0)
    base = {"n_components": 4, "hidden_size": 8, "max_iter": 3, "random_state": 0}
    one, other = (RecVAERecommender(**own).fit(X).decision_function(X) for own in (base, base | change))
    assert not np.allclose(one, other, atol=1e-3)


def test_no_parameter_of_the_last_epoch_is_left_behind():
    X = make_interactions(60, 20, random_state=0)
    model = RecVAERecommender(4, hidden_size=8, max_iter=3, random_state=0).fit(X)
    assert {name.split(".")[0] for name in model.parameters_} == {"encoder", "decoder"}


def test_the_weight_of_the_kl_term_falls_with_the_number_of_users():
    X = make_interactions(1000, 20, random_state=0)
    base = {"n_components": 2, "hidden_size": 4, "n_layers": 1, "max_iter": 1, "random_state": 0}
    for n, gamma in ((100, 0.02), (800, 0.01), (1000, 0.008)):
        np.testing.assert_allclose(RecVAERecommender(**base).fit(X[:n]).kl_weights_, gamma)
    weighted = RecVAERecommender(**base).fit(X[:100], sample_weight=np.full(100, 8))
    np.testing.assert_allclose(weighted.kl_weights_, 0.01)
    np.testing.assert_allclose(RecVAERecommender(**base, gamma=0.5).fit(X[:100]).kl_weights_, 0.5)
