"""Variational autoencoder with a multinomial likelihood for implicit feedback.

    z_u ~ N(0, I_K),   pi(z_u) = softmax(f_theta(z_u)),   x_u ~ Mult(N_u, pi(z_u)),
    q(z_u | x_u) = N(mu_phi(x_u), diag sigma_phi^2(x_u))

Notation and equations of Liang, Krishnan, Hoffman and Jebara, *Variational Autoencoders for Collaborative Filtering*,
WWW 2018. With zero noise and beta = 0 the bound is the objective of their Mult-DAE. The decoder may have one more
hidden layer, beside its others, for what the linear path cannot say:

    f_theta(z) = h(z) W + silu(z V + c) U + b,   h(z) = z without hidden layers
"""

import torch
import torch.nn.functional as F

from skvae._tensors import uniform_at
from skvae.elbo import Bound, Posterior, kl_to_standard_normal
from skvae.networks import glorot, hidden, init_mlp, layer, network


class MultVAE:
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_items, n_components : int
    hidden_layer_sizes : sequence of int
        Of the encoder; the decoder mirrors them.
    activation : callable
    dropout : float
        Share of the input's entries that training hides.
    likelihood : object of `skvae.likelihoods`
    decoder_units : int, default=0
        Units of the decoder's hidden layer beside the others. The last weight has their rows after its own.
    """

    n_heads = 2  # numbers that the encoder gives for each latent dimension
    read_by_rows = ("encoder.0.weight",)

    def __init__(self, n_items, n_components, hidden_layer_sizes, activation, dropout, likelihood, decoder_units=0):
        self.n_components, self.activation = n_components, activation
        self.dropout, self.likelihood, self.decoder_units = dropout, likelihood, decoder_units
        self.encoder_sizes = (n_items, *hidden_layer_sizes, self.n_heads * n_components)
        self.decoder_sizes = (n_components, *reversed(hidden_layer_sizes), n_items)
        self.last = len(hidden_layer_sizes)  # index of each network's last layer

    @property
    def item_axes(self):
        """Axis of the items in each parameter that has one; by it, processes may split the items among them."""
        return {"encoder.0.weight": 0, f"decoder.{self.last}.weight": 1, f"decoder.{self.last}.bias": 0}

    def init(self, noise, mean, share):
        """Random weights; the decoder's last biases at the marginal maximum likelihood.

        `mean` and `share`, both (n_items,), are the mean of each column and its share of stored entries.
        """
        params = init_mlp("encoder", self.encoder_sizes, noise) | init_mlp("decoder", self.decoder_sizes, noise)
        params[f"decoder.{self.last}.bias"] = self.likelihood.init_bias(mean, share)
        if self.decoder_units:
            params |= init_mlp("decoder.units", (self.n_components, self.decoder_units), noise)
            last, beside = f"decoder.{self.last}.weight", noise.fold("decoder.units", 1)
            params[last] = torch.cat([params[last], glorot(self.decoder_units, self.decoder_sizes[-1], beside)])
        return params

    def bound(self, params, x, noise=None):
        """The evidence lower bound by one draw of z; without noise, z = mu and nothing is dropped."""
        q = self.encode(params, x, noise)
        z = q.mean
        if noise is not None:
            epsilon = noise.fold("z").normal(x.row, self.n_components, z.dtype)
            z = z + (0.5 * q.log_variance).exp() * epsilon
        return Bound(self.log_prob(params, x, z), self.kl(q))

    def expected_bound(self, params, x, draws):
        """The normalised bound of each row, its expectation taken over standard normal draws (n_draws, K)."""
        q = self.encode(params, x)
        std = (0.5 * q.log_variance).exp()
        log_prob = torch.stack([self.log_prob(params, x, q.mean + std * draw) for draw in draws]).mean(0)
        return log_prob + self.likelihood.log_base(x) - self.kl(q).sum(-1)

    def likeness(self):
        """Nothing: these networks do not train as members of one ascent."""

    def kl(self, q):
        """KL(q(z_k | x) || N(0, 1)), of shape (n_rows, n_components)."""
        return kl_to_standard_normal(*q)

    def encode(self, params, x, noise=None):
        """q(z | x). A row without entries tells nothing: its posterior is the prior, exactly."""
        heads = self._encoded(params, x, noise) * x.top.sign().unsqueeze(1)
        return Posterior(*heads.chunk(2, dim=-1))

    def _encoded(self, params, x, noise):
        """Output of the encoder."""
        weight, bias = layer(params, "encoder", 0)
        h = normalised(x, self.dropout, noise).linear(weight, bias)
        if not self.last:
            return h
        return network(params, "encoder", self.activation(h), range(1, self.last + 1), self.activation)

    def log_prob(self, params, x, z):
        """log p(x | z) less the part that is constant in the parameters, of shape (n_rows,)."""
        return self.likelihood.log_prob_of_linear(x, self._before_last(params, z), *layer(params, "decoder", self.last))

    def scores(self, params, x):
        """Scores of all items at the mean of q(z | x), of shape (n_rows, n_items)."""
        return self.decode(params, self.encode(params, x).mean)

    def decode(self, params, z):
        """f_theta(z), of shape (n_rows, n_items)."""
        weight, bias = layer(params, "decoder", self.last)
        return torch.addmm(bias, self._before_last(params, z), weight)

    def _before_last(self, params, z):
        h = hidden(params, "decoder", z, range(self.last), self.activation)
        return torch.cat([h, hidden(params, "decoder.units", z, range(1), F.silu)], -1) if self.decoder_units else h


def normalised(x, dropout, noise=None):
    """The rows at unit length, then entries hidden at random: zeros stay zeros, so only stored entries draw."""
    value = x.at_unit_length()
    if noise is not None and dropout:
        key = noise.fold("dropout").keys(x.row)
        kept = uniform_at(key[x.user], x.column, value.dtype) >= dropout
        value = value * kept / (1 - dropout)
    return x.with_values(value)
