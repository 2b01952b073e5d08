"""Variational autoencoder: non-linear factor analysis with an amortised posterior.

    z ~ N(0, I_K),   x | z ~ p(x | f_theta(z)),   q(z | x) = N(mu_phi(x), diag sigma_phi^2(x))

Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014; Rezende, Mohamed and Wierstra, ICML 2014. With a
linear decoder and a Gaussian likelihood the expectation over z is taken in closed form, and the bound's maximum is that
of factor analysis (Lucas et al., NeurIPS 2019).

Every tensor has a leading axis of members (`skvae._members`). Posteriors may be offsets from a `base`, such as the
exact posterior of factor analysis; the decoder may have a linear path beside its layers, "decoder.skip.weight".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skvae.elbo import Bound, FreeBits, ImportanceWeighted, draw_and_kl, kl_to_standard_normal
from skvae.networks import Module, affine, hidden, init_mlp, layer

_LOWEST, _HIGHEST = -15.0, 10.0  # of a log-variance


class Posterior(NamedTuple):
    """q(z | x), factorised.

    Attributes
    ----------
    mean, log_variance : Tensors of shape (n_members, n_rows, n_components)
    """

    mean: Tensor
    log_variance: Tensor


class VAE:
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_inputs, n_components, n_outputs : int
        Widths of what the encoder reads, of z, and of what the decoder gives.
    hidden_layer_sizes : sequence of int
        Of the encoder; the decoder mirrors them.
    activation : callable
    likelihood : object of `skvae.likelihoods`
    n_draws : int, default=1
        Of z for each row and step.
    objective : {"elbo", "iwae"}, default="elbo"
    free_bits : float, default=0.0
        Nats.
    encoder, decoder : callable or None, default=None
        (n_in, n_out) -> torch.nn.Module, in place of the layers; an encoder's output is means, then log-variances.
    """

    adds_to_base = True  # the encoder's output is an offset, where there is a base

    def __init__(
        self,
        n_inputs,
        n_components,
        n_outputs,
        hidden_layer_sizes,
        activation,
        likelihood,
        *,
        n_draws=1,
        objective="elbo",
        free_bits=0.0,
        encoder=None,
        decoder=None,
    ):
        self.n_components, self.activation, self.likelihood = n_components, activation, likelihood
        self.n_draws, self.objective, self.free_bits = n_draws, objective, free_bits
        self.encoder_sizes = (n_inputs, *hidden_layer_sizes)
        self.decoder_sizes = (n_components, *reversed(hidden_layer_sizes), n_outputs)
        self.n_outputs = n_outputs
        self.last = len(hidden_layer_sizes)  # index of the decoder's last layer
        self.own_encoder = None if encoder is None else Module("encoder", encoder, n_inputs, 2 * n_components)
        self.own_decoder = None if decoder is None else Module("decoder", decoder, n_components, n_outputs)
        linear = not self.last and decoder is None
        self.several = n_draws > 1 or objective == "iwae"
        self.closed_form = linear and objective == "elbo" and hasattr(likelihood, "expected_log_prob")

    # ------------------------------------------------------------------------------------------------ parameters
    def init(self, noise, moments):
        """Random weights of one network, whose posterior is the prior's in scale; biases at the marginal maximum.

        `moments` has the mean, the variance and the share of non-zero cells of each column. No axis of members.
        """
        params = self._init_encoder(noise) | self._init_decoder(noise, moments)
        own = self.likelihood.init_own(moments.mean, moments.variance)
        return params | {f"likelihood.{name}": tensor for name, tensor in own.items()}

    def _init_encoder(self, noise):
        if self.own_encoder:
            return self.own_encoder.init(noise)
        K, sizes = self.n_components, self.encoder_sizes
        params = init_mlp("encoder", sizes, noise) | init_mlp("mean", (sizes[-1], K), noise)
        zeros = torch.zeros(sizes[-1] + 1, K, dtype=torch.float32)
        return params | {"log_variance.0.weight": zeros[1:], "log_variance.0.bias": zeros[0]}

    def _init_decoder(self, noise, moments):
        if self.own_decoder:
            return self.own_decoder.init(noise)
        params = init_mlp("decoder", self.decoder_sizes, noise)
        params[f"decoder.{self.last}.bias"] = self.likelihood.init_bias(moments.mean, moments.share).float()
        return params

    # ------------------------------------------------------------------------------------------------- the bound
    def bound(self, params, batch, noise):
        """The bound of each row, by draws of z or in closed form."""
        if not (self.closed_form or self.several):
            mean, log_variance = self._heads(params, batch)
            epsilon = self._epsilon(noise.fold("z"), batch.row, mean.dtype)
            z, kl = draw_and_kl(mean, log_variance, epsilon, _LOWEST, _HIGHEST)
            return self._bound(self.log_prob(params, batch.x, z), kl, batch)
        q = self.encode(params, batch)
        kl = kl_to_standard_normal(*q)
        if self.closed_form:
            return self._bound(self.expected_log_prob(params, batch.x, q), kl, batch)
        z = self.draw(q, noise, batch.row)
        each = self.log_prob(params, batch.x, z)
        if self.objective == "iwae":
            return ImportanceWeighted(each.mean(1), kl, log_mean_weight(each, z, q, getattr(noise, "live", None)))
        return self._bound(each.mean(1), kl, batch)

    def _bound(self, log_prob, kl, batch):
        return FreeBits(log_prob, kl, self.free_bits, batch.w) if self.free_bits else Bound(log_prob, kl)

    def encode(self, params, batch):
        """q(z | x)."""
        mean, log_variance = self._heads(params, batch)
        return Posterior(mean, log_variance.clamp(_LOWEST, _HIGHEST))

    def _heads(self, params, batch):
        """Means and log-variances, the latter as the network gives them."""
        if self.own_encoder:
            mean, log_variance = self.own_encoder(params, batch.u).chunk(2, dim=-1)
        else:
            h = hidden(params, "encoder", batch.u, range(len(self.encoder_sizes) - 1), self.activation)
            mean = affine(h, *layer(params, "mean", 0))
            log_variance = affine(h, *layer(params, "log_variance", 0))
            if "mean.skip.weight" in params:
                skip = params["mean.skip.weight"]
                mean = mean + batch.u.expand(len(skip), -1, -1) @ skip
        return _beside_base(mean, log_variance, batch.base)

    def draw(self, q, noise, row):
        """Draws of z, (M, S, B, K), from noise that is the row's own."""
        epsilon = [self._epsilon(noise.fold("z", s), row, q.mean.dtype) for s in range(self.n_draws)]
        return at(q, torch.stack(epsilon, 1))

    def _epsilon(self, noise, row, dtype):
        return noise.normal(row, self.n_components, dtype)

    def log_prob(self, params, x, z):
        """log p(x | z) less the part that is constant in the parameters; of z (M, B, K) or (M, S, B, K)."""
        if z.dim() == 4:
            x = x.unsqueeze(1)
        return self.likelihood.log_prob(x, self.decode(params, z), own(params))

    def decode(self, params, z):
        """f_theta(z), of the shape of z but for the last axis."""
        if z.dim() == 4:
            return self.decode(params, z.flatten(1, 2)).unflatten(1, z.shape[1:3])
        if self.own_decoder:
            return self.own_decoder(params, z)
        h = hidden(params, "decoder", z, range(self.last), self.activation)
        f = affine(h, *layer(params, "decoder", self.last))
        return f + z @ params["decoder.skip.weight"] if "decoder.skip.weight" in params else f

    def expected_log_prob(self, params, x, q):
        """E_q[log p(x | z)] of a linear decoder, less the part that is constant in the parameters."""
        weight, _ = layer(params, "decoder", self.last)
        spread = q.log_variance.exp() @ weight.square()  # of f under q, since f is linear in z
        return self.likelihood.expected_log_prob(x, self.decode(params, q.mean), spread, own(params))

    # -------------------------------------------------------------------------------------------- more dimensions of z
    def widened(self, params, n_components):
        """Parameters of the same function of x with further latent dimensions, whose posterior is the prior.

        Their weights are zero, and stay so as long as no noise is drawn for them.
        """
        return {name: _widened(tensor, self._axis_of_z(name), n_components) for name, tensor in params.items()}

    def narrowed(self, params):
        """Back again."""
        return {name: _narrowed(tensor, self._axis_of_z(name), self.n_components) for name, tensor in params.items()}

    def _axis_of_z(self, name):
        """Which axis of a parameter is that of z, counted from the end; 0 for none, as for the user's own modules."""
        if name in {"decoder.0.weight", "decoder.skip.weight"}:
            return 0 if self.own_decoder else -2
        return -1 if name.startswith(("mean.", "log_variance.", "row.")) else 0

    # ------------------------------------------------------------------------------------------------ evaluation
    def log_weights(self, params, batch, epsilon):
        """log p(x, z_s) - log q(z_s | x) of z_s = mu + sigma epsilon_s, less log_base; (M, S, B).

        `epsilon`, standard normal, has a shape that broadcasts to (M, S, B, K).
        """
        q = self.encode(params, batch)
        z = at(q, epsilon)
        return log_weight(self.log_prob(params, batch.x, z), z, q)


def _beside_base(mean, log_variance, base):
    if base is None:
        return mean, log_variance
    return mean + base[..., 0], log_variance + base[..., 1]


def own(params):
    """The likelihood's parameters."""
    prefix = "likelihood."
    return {name.removeprefix(prefix): tensor for name, tensor in params.items() if name.startswith(prefix)}


def at(q, epsilon):
    """The draws of z that standard normal draws (M, S, B, K) stand for."""
    return q.mean[:, None] + (0.5 * q.log_variance).exp()[:, None] * epsilon


def log_weight(log_prob, z, q, live=None):
    """log p(x | z) + log p(z) - log q(z | x) of draws z (M, S, B, K): the log of an importance weight, (M, S, B).

    `live` (M, 1, K) is 0 for dimensions that a smaller member does not have, and for which nothing was drawn.
    """
    mean, log_variance = q.mean[:, None], q.log_variance[:, None]
    log_ratio = log_variance + (z - mean).square() * (-log_variance).exp() - z.square()
    return log_prob + 0.5 * (log_ratio if live is None else log_ratio * live[:, None]).sum(-1)


def log_mean_weight(log_prob, z, q, live=None):
    """log of the mean importance weight of each row, (M, B) (Burda et al. 2016, eq. 8)."""
    return log_weight(log_prob, z, q, live).logsumexp(1) - math.log(z.shape[1])


def _widened(tensor, axis, n):
    if not axis or tensor.shape[axis] == n:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = n - shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)


def _narrowed(tensor, axis, n):
    return tensor.narrow(axis, 0, n) if axis else tensor


class PerRowVAE(VAE):
    """The same with a posterior of its own for every row, in place of an encoder (Hoffman et al., JMLR 14, 2013).

    Parameters "row.mean" and "row.log_variance" have shape (n_members, n_rows, n_components), and hold offsets from the
    base, if there is one. Those of the decoder may be `fixed`; then only the rows' own are passed.
    """

    fixed = None

    def init_rows(self, n_rows, dtype=torch.float32):
        """Every posterior the prior (or its base); with an axis of members."""
        zeros = torch.zeros(1, n_rows, self.n_components, dtype=dtype)
        return {"row.mean": zeros, "row.log_variance": zeros.clone()}

    def _init_encoder(self, noise):
        return {}

    def bound(self, params, batch, noise):
        return super().bound(params if self.fixed is None else self.fixed | params, batch, noise)

    def _epsilon(self, noise, row, dtype):
        """As of any model; with a fixed decoder, the same for all rows: each is then on its own."""
        return super()._epsilon(noise, row if self.fixed is None else torch.zeros_like(row), dtype)

    def _heads(self, params, batch):
        """Looked up."""
        mean, log_variance = (params[f"row.{name}"].index_select(1, batch.row[0]) for name in Posterior._fields)
        return _beside_base(mean, log_variance, batch.base)
