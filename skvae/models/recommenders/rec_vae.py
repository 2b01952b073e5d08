"""Variational autoencoder of clicks with a densely connected encoder, a composite prior and a linear decoder.

    h_1 = LN(s(V_1 x)),   h_i = LN(s(V_i h_{i-1} + h_1 + ... + h_{i-1})),   q(z | x) = N(mu, sigma^2)(h_L)
    p(z_k | x) = 3/20 N(0, 1) + 3/4 q_old(z_k | x) + 1/10 N(0, e^10)
    L_u = E_q[log p(x_u | z)] - gamma N_u KL(q(z | x_u) || p(z | x_u)),   N_u = sum_i x_ui

s is the swish, LN layer normalisation, q_old the encoder of the last epoch: a step away from it costs, as in a trust
region. Shenbin, Alekseev, Tutubalina, Malykh and Nikolenko, *RecVAE: a New Variational Autoencoder for Top-N
Recommendations with Implicit Feedback*, WSDM 2020, sections 3.2 to 3.4. The likelihood is that of `mult_vae`.
"""

import math

import torch
import torch.nn.functional as F

from skvae._tensors import products
from skvae.elbo import Bound
from skvae.likelihoods import Multinomial
from skvae.models.recommenders.mult_vae import MultVAE, normalised
from skvae.networks import layer

OLD = "old."  # begins the names of the parameters of the last epoch
_SHARES = (3 / 20, 3 / 4, 1 / 10)  # of the standard normal, the old posterior and the wide normal
_WIDE = 10.0  # log-variance of the wide normal


class RecVAE(MultVAE):
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_items, n_components : int
    hidden_size : int
        Width of each hidden layer of the encoder.
    n_layers : int
        Number of hidden layers of the encoder.
    dropout : float
        Share of the input's entries that training hides.
    """

    def __init__(self, n_items, n_components, hidden_size, n_layers, dropout):
        super().__init__(n_items, n_components, (), None, dropout, Multinomial())
        self.encoder_sizes = (n_items, *[hidden_size] * n_layers, 2 * n_components)
        self.hidden_size, self.n_layers = hidden_size, n_layers

    def init(self, noise, mean, share):
        params = super().init(noise, mean, share)
        for i in range(self.n_layers):
            params[f"encoder.{i}.scale"] = torch.ones(self.hidden_size)
            params[f"encoder.{i}.shift"] = torch.zeros(self.hidden_size)
        return params

    def bound(self, params, x, noise):
        """The bound by one draw of z; what is raised weighs the KL term of each user by the user's total N_u.

        Among the parameters are those of the encoder of the last epoch, under names that begin with `OLD`. It sees
        the rows whole.
        """
        q = self.encode(params, x, noise)
        epsilon = noise.fold("z").normal(x.row, self.n_components, q.mean.dtype)
        z = q.mean + (0.5 * q.log_variance).exp() * epsilon
        with torch.no_grad():
            old = {name.removeprefix(OLD): tensor for name, tensor in params.items() if name.startswith(OLD)}
            q_old = self.encode(old, x)
        log_prob, kl, total = self.log_prob(params, x, z), log_normal(z, *q) - log_prior(z, q_old), x.sum()
        return Bound(log_prob, kl, objective=lambda gamma: log_prob - gamma * total * kl.sum(-1))

    def _encoded(self, params, x, noise):
        f, before = normalised(x, self.dropout, noise).linear(*layer(params, "encoder", 0)), 0
        for i in range(self.n_layers):
            scale, shift = params[f"encoder.{i}.scale"], params[f"encoder.{i}.shift"]
            h = F.layer_norm(F.silu(f + before), (self.hidden_size,), scale, shift)
            before = before + h
            weight, bias = layer(params, "encoder", i + 1)
            f = products().affine(h, weight, bias)
        return f


def log_prior(z, q_old):
    """log p(z_k | x) of the composite prior, elementwise."""
    of_parts = log_normal(z, 0, z.new_zeros(())), log_normal(z, *q_old), log_normal(z, 0, z.new_full((), _WIDE))
    return torch.stack([part + math.log(share) for part, share in zip(of_parts, _SHARES, strict=True)]).logsumexp(0)


def log_normal(z, mean, log_variance):
    """log N(z | mean, exp(log_variance)), elementwise."""
    return -0.5 * (math.log(2 * math.pi) + log_variance + (z - mean).square() * (-log_variance).exp())
