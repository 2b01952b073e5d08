"""Variational autoencoder: non-linear factor analysis with an amortised posterior.

    z ~ N(0, I_K),   x | z ~ p(x | f_theta(z)),   q(z | x) = N(mu_phi(x), diag sigma_phi^2(x))

Kingma and Welling, *Auto-Encoding Variational Bayes*, ICLR 2014; Rezende, Mohamed and Wierstra, ICML 2014. With a
linear decoder and a Gaussian likelihood the expectation over z is taken in closed form, and the bound's maximum is that
of factor analysis (Lucas et al., NeurIPS 2019).

Every tensor has a leading axis of members (`training.members`). A posterior is found as one vector of 2 K numbers, its
means, then its log-variances. It may be an offset from `linear_heads`: the exact posterior of factor analysis.
"""

import math

import torch

from skvae.elbo import (
    Bound,
    Posterior,
    draw_and_kl,
    draw_and_kl_and_back,
    importance_weighted,
    kl_to_standard_normal,
    with_free_bits,
)
from skvae.models.autoencoders.encoder_decoder import EncoderDecoder, own, with_heads
from skvae.networks import layer

LOWEST, HIGHEST = -15.0, 10.0  # of a log-variance


class VAE(EncoderDecoder):
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    *sizes, **modules
        As of `EncoderDecoder`; an encoder's output is means, then log-variances.
    n_draws : int, default=1
        Of z for each row and step.
    objective : {"elbo", "iwae"}, default="elbo"
    free_bits : float, default=0.0
        Nats.
    """

    n_heads = 2
    amortised = True  # one encoder finds the posteriors of all rows
    kl_weights = None  # of the layers, beside beta

    def __init__(self, *sizes, n_draws=1, objective="elbo", free_bits=0.0, **modules):
        super().__init__(*sizes, **modules)
        self.n_draws, self.objective, self.free_bits = n_draws, objective, free_bits

    @property
    def layer_sizes(self):
        """Latent dimensions of each layer."""
        return (self.n_components,)

    @property
    def closed_form(self):
        """Whether the expectation over z is known, and no draws are needed."""
        linear = not self.last and self.own_decoder is None
        return linear and self.objective == "elbo" and hasattr(self.likelihood, "expected_log_prob")

    @property
    def several(self):
        """Whether the bound takes several draws of a row."""
        return self.n_draws > 1 or self.objective == "iwae"

    def _settings(self):
        return self.n_draws, self.objective, self.free_bits

    # ------------------------------------------------------------------------------------------------- the bound
    def bound(self, params, batch, noise):
        """The bound of each row, by draws of z or in closed form."""
        if self._goes_by_hand(params):
            # By one draw, with the way back that autograd would find.
            heads, to_weights = self._encoded_and_back(params, batch.u)
            heads = _beside_linear_path(heads, batch)
            epsilon = self._epsilon(noise.fold("z"), batch.row, heads.dtype)
            (z, kl), to_heads = draw_and_kl_and_back(heads, epsilon, LOWEST, HIGHEST)
            log_prob, to_z = self._log_prob_and_back(params, batch.x, z)
            return Bound(log_prob, kl, lambda of_log_prob, of_kl: to_weights(to_heads(to_z(of_log_prob), of_kl)))
        if not (self.closed_form or self.several):
            heads = self._heads(params, batch)
            epsilon = self._epsilon(noise.fold("z"), batch.row, heads.dtype)
            z, kl = draw_and_kl(heads, epsilon, LOWEST, HIGHEST)
            return self._bound(self.log_prob(params, batch.x, z), kl, batch)
        q = self.encode(params, batch)
        kl = kl_to_standard_normal(*q)
        if self.closed_form:
            return self._bound(self.expected_log_prob(params, batch.x, q), kl, batch)
        return self._bound_of_draws(params, batch, *self._draws(params, q, batch, noise), kl, noise)

    def _draws(self, params, q, batch, noise):
        """`draw` from noise that is each row's own."""
        epsilon = [self._epsilon(noise.fold("z", s), batch.row, q.mean.dtype) for s in range(self.n_draws)]
        return self.draw(params, q, torch.stack(epsilon, 1))

    def _bound_of_draws(self, params, batch, z, q, kl, noise):
        """The bound by draws z of q, as of `draw`."""
        each = self.log_prob(params, batch.x, z)
        if self.objective == "iwae":
            return importance_weighted(each.mean(1), kl, log_mean_weight(each, z, q, getattr(noise, "live", None)))
        return self._bound(each.mean(1), kl, batch)

    def _goes_by_hand(self, params):
        """Whether the bound of these brings its way back."""
        return not (self.several or self.closed_form or self.free_bits) and self._trained_by_hand(params)

    def _bound(self, log_prob, kl, batch):
        if self.free_bits:
            return with_free_bits(log_prob, kl, self.free_bits, batch.w, n=batch.n_rows)
        return Bound(log_prob, kl)

    def encode(self, params, batch):
        """q(z | x)."""
        mean, log_variance = self._heads(params, batch).chunk(2, dim=-1)
        return Posterior(mean, log_variance.clamp(LOWEST, HIGHEST))

    def _heads(self, params, batch):
        """Means and log-variances (M, B, 2 K), the latter as the network gives them."""
        return _beside_linear_path(self._encoded(params, batch), batch)

    def draw(self, params, q, epsilon):
        """Turn standard normal draws (M, S, B, K) into draws of z, and give the posterior each comes from.

        The latter has an axis of draws too, of length 1 where it is the same for all.
        """
        z = q.mean[:, None] + (0.5 * q.log_variance).exp()[:, None] * epsilon
        return z, self.at(params, q, z)

    def at(self, params, q, z):
        """The posterior that draws z (M, S, B, K) come from, each dimension given those before it."""
        return Posterior(q.mean[:, None], q.log_variance[:, None])

    def _epsilon(self, noise, row, dtype):
        return noise.normal(row, self.n_components, dtype)

    def expected_log_prob(self, params, x, q):
        """E_q[log p(x | z)] of a linear decoder, less the part that is constant in the parameters."""
        weight, _ = layer(params, "decoder", self.last)
        spread = q.log_variance.exp() @ weight.square()  # of f under q, since f is linear in z
        return self.likelihood.expected_log_prob(x, self.decode(params, q.mean), spread, own(params))

    def weighted(self, kl):
        """The KL term of each dimension times what its layer is weighted by, beside beta."""
        return kl

    def with_factors(self, params, W, mu, psi):
        """Parameters that begin as factor analysis, with what layers above the first need."""
        return params

    def without_upper_layers(self, params):
        """Parameters in which layers above the first have no effect."""
        return params

    def heads_of_factors(self, heads):
        """Heads (n_rows, 2 K) by which the posterior is that of a linear model of fewer factors, or of as many."""
        return with_heads(heads, self.n_components)

    # ------------------------------------------------------------------------------------------------ evaluation
    def log_weights(self, params, batch, epsilon):
        """log p(x, z_s) - log q(z_s | x) of z_s = mu + sigma epsilon_s, less log_base; (M, S, B).

        `epsilon`, standard normal, has a shape that broadcasts to (M, S, B, K).
        """
        z, q = self.draw(params, self.encode(params, batch), epsilon)
        return log_weight(self.log_prob(params, batch.x, z), z, q)


def _beside_linear_path(heads, batch):
    return heads if batch.linear_heads is None else heads + batch.linear_heads


def log_weight(log_prob, z, q, live=None):
    """log p(x | z) + log p(z) - log q(z | x) of draws z (M, S, B, K): the log of an importance weight, (M, S, B).

    `live` (M, 1, K) is 0 for dimensions that a smaller member does not have, and for which nothing was drawn.
    """
    log_ratio = q.log_variance + (z - q.mean).square() * (-q.log_variance).exp() - z.square()
    return log_prob + 0.5 * (log_ratio if live is None else log_ratio * live[:, None]).sum(-1)


def log_mean_weight(log_prob, z, q, live=None):
    """log of the mean importance weight of each row, (M, B) (Burda et al. 2016, eq. 8)."""
    return log_weight(log_prob, z, q, live).logsumexp(1) - math.log(z.shape[1])


class PerRowVAE(VAE):
    """The same with a posterior of its own for every row, in place of an encoder (Hoffman et al., JMLR 14, 2013).

    Parameter "row.posterior", of shape (n_members, n_rows, 2 * n_components), holds offsets from the linear
    heads, if there are any.

    Parameters
    ----------
    *sizes, **settings
        As of `VAE`.
    fixed : dict of Tensor or None, default=None
        Parameters of the decoder, which then stay: only the rows' own are passed.
    """

    amortised = False

    def __init__(self, *sizes, fixed=None, **settings):
        super().__init__(*sizes, **settings)
        self.fixed = fixed

    def likeness(self):
        return None  # rows are numbered by one table

    def _goes_by_hand(self, params):
        return False  # it has no encoder

    def init_rows(self, n_rows, dtype=torch.float32):
        """Posteriors that equal the prior, or the linear heads; with an axis of members."""
        return {"row.posterior": torch.zeros(1, n_rows, 2 * self.n_components, dtype=dtype)}

    def _init_encoder(self, noise):
        return {}

    def bound(self, params, batch, noise):
        return super().bound(params if self.fixed is None else self.fixed | params, batch, noise)

    def _epsilon(self, noise, row, dtype):
        """As of any model; with a fixed decoder, the same for all rows: each is then on its own."""
        return super()._epsilon(noise, row if self.fixed is None else torch.zeros_like(row), dtype)

    def _encoded(self, params, batch):
        """The posteriors of the rows of a batch, by the numbers of the rows."""
        return params["row.posterior"].index_select(1, batch.row[0])

    def _names_of_heads(self):
        return ("row.posterior",)
