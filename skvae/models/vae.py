"""Variational autoencoder: non-linear factor analysis with an amortised posterior.

    z ~ N(0, I_K),   x | z ~ p(x | f_theta(z)),   q(z | x) = N(mu_phi(x), diag sigma_phi^2(x))

Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014; Rezende, Mohamed and Wierstra, ICML 2014. With a
linear decoder and a Gaussian likelihood the expectation over z is taken in closed form, and the bound's maximum is that
of factor analysis (Lucas et al., NeurIPS 2019).

Every tensor has a leading axis of members (`skvae._members`). A posterior is found as one vector of 2 K numbers, its
means, then its log-variances. It may be an offset from a `base`, such as the exact posterior of factor analysis. The
decoder, and the encoder's means, may have a linear path beside their layers, "decoder.skip.weight".
"""

import math
import pickle

import torch

from skvae._tensors import kept
from skvae.elbo import (
    Bound,
    Posterior,
    draw_and_kl,
    draw_and_kl_and_back,
    importance_weighted,
    kl_to_standard_normal,
    with_free_bits,
)
from skvae.networks import Module, init_mlp, known, layer, network, network_and_back

_LOWEST, _HIGHEST = -15.0, 10.0  # of a log-variance


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

    n_heads = 2  # numbers that the encoder gives for each latent dimension

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
        self.closed_form = linear and objective == "elbo" and hasattr(likelihood, "expected_log_prob")

    @property
    def several(self):
        """Whether the bound takes several draws of a row."""
        return self.n_draws > 1 or self.objective == "iwae"

    def likeness(self):
        """What models have in common that may climb as members of one ascent: all but the latent dimensions.

        None for a module of the user's own, which is computed member by member anyway.
        """
        if self.own_encoder or self.own_decoder:
            return None
        layers = self.encoder_sizes, self.decoder_sizes[1:], self.activation
        return type(self), *layers, pickle.dumps(self.likelihood), self.n_draws, self.objective, self.free_bits

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
        params, means = init_mlp("encoder", sizes, noise), init_mlp("mean", (sizes[-1], K), noise)
        for key in ("weight", "bias"):  # zeros for the log-variances
            params[f"encoder.{self.last}.{key}"] = torch.nn.functional.pad(means[f"mean.0.{key}"], (0, K))
        return params

    def _init_decoder(self, noise, moments):
        if self.own_decoder:
            return self.own_decoder.init(noise)
        params = init_mlp("decoder", self.decoder_sizes, noise)
        params[f"decoder.{self.last}.bias"] = self.likelihood.init_bias(moments.mean, moments.share).float()
        return params

    # ------------------------------------------------------------------------------------------------- the bound
    def bound(self, params, batch, noise):
        """The bound of each row, by draws of z or in closed form."""
        if self._goes_by_hand(params):
            return self._bound_by_hand(params, batch, noise)
        if not (self.closed_form or self.several):
            heads = self._heads(params, batch)
            epsilon = self._epsilon(noise.fold("z"), batch.row, heads.dtype)
            z, kl = draw_and_kl(heads, epsilon, _LOWEST, _HIGHEST)
            return self._bound(self.log_prob(params, batch.x, z), kl, batch)
        q = self.encode(params, batch)
        kl = kl_to_standard_normal(*q)
        if self.closed_form:
            return self._bound(self.expected_log_prob(params, batch.x, q), kl, batch)
        z = self.draw(q, noise, batch.row)
        each = self.log_prob(params, batch.x, z)
        if self.objective == "iwae":
            return importance_weighted(each.mean(1), kl, log_mean_weight(each, z, q, getattr(noise, "live", None)))
        return self._bound(each.mean(1), kl, batch)

    def _goes_by_hand(self, params):
        """Whether these are trained, and by a way back that need not be asked of autograd."""
        if self.own_encoder or self.own_decoder or self.several or self.closed_form or self.free_bits:
            return False
        return known(self.activation) and kept(params["encoder.0.weight"]) is not None

    def _bound_by_hand(self, params, batch, noise):
        """The same by one draw of a network that is trained, with the way back that autograd would find."""
        layers = range(self.last + 1)
        heads, to_weights = network_and_back(params, "encoder", batch.u, layers, self.activation, to_input=False)
        heads = _beside_base(heads, batch)
        epsilon = self._epsilon(noise.fold("z"), batch.row, heads.dtype)
        (z, kl), to_heads = draw_and_kl_and_back(heads, epsilon, _LOWEST, _HIGHEST)
        log_prob, to_z = self._log_prob_and_back(params, batch.x, z)
        return Bound(log_prob, kl, lambda of_log_prob, of_kl: to_weights(to_heads(to_z(of_log_prob), of_kl)))

    def _log_prob_and_back(self, params, x, z):
        f, to_z = network_and_back(params, "decoder", z, range(self.last + 1), self.activation)
        log_prob, to_f = self.likelihood.log_prob_and_back(x, f, own(params))
        return log_prob, lambda upstream: to_z(to_f(upstream))

    def _bound(self, log_prob, kl, batch):
        return with_free_bits(log_prob, kl, self.free_bits, batch.w) if self.free_bits else Bound(log_prob, kl)

    def encode(self, params, batch):
        """q(z | x)."""
        mean, log_variance = self._heads(params, batch).chunk(2, dim=-1)
        return Posterior(mean, log_variance.clamp(_LOWEST, _HIGHEST))

    def _heads(self, params, batch):
        """Means and log-variances (M, B, 2 K), the latter as the network gives them."""
        return _beside_base(self._encoded(params, batch), batch)

    def _encoded(self, params, batch):
        """What the encoder makes of its input."""
        if self.own_encoder:
            return self.own_encoder(params, batch.u)
        return network(params, "encoder", batch.u, range(self.last + 1), self.activation)

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
        return network(params, "decoder", z, range(self.last + 1), self.activation)

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
        return {name: self._resized(name, tensor, n_components) for name, tensor in params.items()}

    def narrowed(self, params):
        """Back again."""
        return {name: self._resized(name, tensor, self.n_components) for name, tensor in params.items()}

    def _resized(self, name, tensor, n_components):
        if name in self._names_of_heads():
            return with_heads(tensor, n_components, self.n_heads)
        if name == "encoder.skip.weight" and not self.own_encoder:
            return _with_length(tensor, -1, n_components)
        if name in {"decoder.0.weight", "decoder.skip.weight"} and not self.own_decoder:
            return _with_length(tensor, -2, n_components)
        return tensor

    def _names_of_heads(self):
        """Of the parameters whose last axis is that of the posterior; none of the user's own modules."""
        return () if self.own_encoder else (f"encoder.{self.last}.weight", f"encoder.{self.last}.bias")

    # ------------------------------------------------------------------------------------------------ evaluation
    def log_weights(self, params, batch, epsilon):
        """log p(x, z_s) - log q(z_s | x) of z_s = mu + sigma epsilon_s, less log_base; (M, S, B).

        `epsilon`, standard normal, has a shape that broadcasts to (M, S, B, K).
        """
        q = self.encode(params, batch)
        z = at(q, epsilon)
        return log_weight(self.log_prob(params, batch.x, z), z, q)


def _beside_base(heads, batch):
    return heads if batch.base is None else heads + batch.base


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


def with_heads(tensor, n_components, n_heads=2):
    """Cut a last axis of n_heads * K numbers to so many latent dimensions, or fill it up with zeros: with the prior."""
    if tensor.shape[-1] == n_heads * n_components:
        return tensor
    return _with_length(tensor.unflatten(-1, (n_heads, -1)), -1, n_components).flatten(-2)


def _with_length(tensor, axis, n):
    """The tensor with an axis cut to this length, or filled up with zeros."""
    if tensor.shape[axis] >= n:
        return tensor.narrow(axis, 0, n)
    shape = list(tensor.shape)
    shape[axis] = n - shape[axis]
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)


class PerRowVAE(VAE):
    """The same with a posterior of its own for every row, in place of an encoder (Hoffman et al., JMLR 14, 2013).

    Parameter "row.posterior", of shape (n_members, n_rows, 2 * n_components), holds offsets from the base, if there is
    one.

    Parameters
    ----------
    *sizes, **settings
        As of `VAE`.
    fixed : dict of Tensor or None, default=None
        Parameters of the decoder, which then stay: only the rows' own are passed.
    """

    def __init__(self, *sizes, fixed=None, **settings):
        super().__init__(*sizes, **settings)
        self.fixed = fixed

    def likeness(self):
        return None  # rows are numbered by one table

    def _goes_by_hand(self, params):
        return False  # it has no encoder

    def init_rows(self, n_rows, dtype=torch.float32):
        """Every posterior the prior (or its base); with an axis of members."""
        return {"row.posterior": torch.zeros(1, n_rows, 2 * self.n_components, dtype=dtype)}

    def _init_encoder(self, noise):
        return {}

    def bound(self, params, batch, noise):
        return super().bound(params if self.fixed is None else self.fixed | params, batch, noise)

    def _epsilon(self, noise, row, dtype):
        """As of any model; with a fixed decoder, the same for all rows: each is then on its own."""
        return super()._epsilon(noise, row if self.fixed is None else torch.zeros_like(row), dtype)

    def _encoded(self, params, batch):
        """Looked up."""
        return params["row.posterior"].index_select(1, batch.row[0])

    def _names_of_heads(self):
        return ("row.posterior",)
