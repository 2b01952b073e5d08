"""Deep latent Gaussian model: a VAE of several layers of latent variables.

    z_L = xi_L,   z_l = mu_l(z_{l+1}) + sigma_l(z_{l+1}) xi_l,   xi_l ~ N(0, I),   x | z_1 ~ p(x | f(z_1))

    q(z_l | z_{l+1}, x)  prop. to  N(z_l; mu_l, sigma_l^2) N(z_l; m_l(x), v_l(x)),   q(z_L | x) = N(m_L(x), v_L(x))

The model is that of Rezende, Mohamed and Wierstra, ICML 2014, eqs. 1-4; the posterior that of Sonderby et al., *Ladder
Variational Autoencoders*, NeurIPS 2016, eqs. 17-19: the prior of a layer times what one encoder reads of it in x. The
latent dimensions of the model are those of all xi_l, from the data upwards: their prior is N(0, I) as in any VAE.
"""

import math

import torch
import torch.nn.functional as F

from skvae.elbo import (
    Bound,
    Posterior,
    draw_and_kl_and_back,
    draw_from_product_and_back,
    kl_to_standard_normal,
    with_free_bits,
)
from skvae.models.autoencoders.encoder_decoder import own, with_heads
from skvae.models.autoencoders.vae import HIGHEST, LOWEST, VAE, PerRowVAE
from skvae.networks import init_mlp, network, network_and_back

_SHARE = 0.5  # of the variance of z_l that the layer above gives at first


class DeepVAE(VAE):
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_inputs : int
    layer_sizes : tuple of int
        Latent dimensions of each layer, from the data upwards.
    n_outputs : int
    hidden_layer_sizes : sequence of int
        Of the encoder; the decoder, and the network between any two layers, mirror them.
    *others, **settings
        As of `VAE`.
    kl_weights : sequence of float or None, default=None
        Factor of the KL term of each layer; None: 1.
    """

    closed_form = False
    layer_sizes = ()

    def __init__(self, n_inputs, layer_sizes, n_outputs, hidden_layer_sizes, *others, kl_weights=None, **settings):
        n_factors = layer_sizes[0]
        super().__init__(
            n_inputs, sum(layer_sizes), n_outputs, hidden_layer_sizes, *others, n_factors=n_factors, **settings
        )
        self.layer_sizes = tuple(layer_sizes)
        self.inner_sizes = [
            (above, *reversed(hidden_layer_sizes), 2 * size)
            for size, above in zip(layer_sizes[:-1], layer_sizes[1:], strict=True)
        ]
        self.kl_weights = None if kl_weights is None else tuple(map(float, kl_weights))

    def _settings(self):
        return *super()._settings(), self.layer_sizes, self.kl_weights

    def _resized(self, name, tensor, n_components):
        return tensor  # only models of the same layers are alike

    # ------------------------------------------------------------------------------------------------- the bound
    def bound(self, params, batch, noise):
        if self._goes_by_hand(params):
            return self._bound_by_hand(params, batch, noise)
        z, q = self._draws(params, self.encode(params, batch), batch, noise)
        return self._bound_of_draws(params, batch, z, q, kl_to_standard_normal(*q).mean(1), noise)

    def _goes_by_hand(self, params):
        return super()._goes_by_hand(params) and not self.kl_weights

    def _bound_by_hand(self, params, batch, noise):
        """The bound by one draw, with the way back that autograd would find."""
        heads, to_weights = self._encoded_and_back(params, batch.u)
        heads = heads if batch.linear_heads is None else heads + batch.linear_heads
        epsilon = self._epsilon(noise.fold("z", 0), batch.row, heads.dtype).split(self.layer_sizes, -1)
        *read, top = (torch.cat(pair, -1) for pair in zip(*self._by_layer(heads), strict=True))
        (z, kl), back = draw_and_kl_and_back(top, epsilon[-1], LOWEST, HIGHEST)
        kls, steps = [kl], [back]
        for i in reversed(range(len(read))):
            prior, to_above = network_and_back(params, f"layer{i}", z, self._inner_layers(i), self.activation)
            terms = torch.cat([read[i], prior], -1)
            (z, kl), back = draw_from_product_and_back(terms, epsilon[i], LOWEST, HIGHEST)
            kls.append(kl)
            steps += [to_above, back]
        log_prob, to_z = self._log_prob_and_back(params, batch.x, z)

        def by_hand(of_log_prob, of_kl):
            of_z, of_kls, of_read = to_z(of_log_prob), of_kl.split(self.layer_sizes, -1), []
            for i in range(len(read)):
                of_terms = steps.pop()(of_z, of_kls[i])
                of_read.append(of_terms[..., : 2 * self.layer_sizes[i]])
                of_z = steps.pop()(of_terms[..., 2 * self.layer_sizes[i] :])
            of_read.append(steps.pop()(of_z, of_kls[-1]))
            to_weights(torch.cat([part.chunk(2, -1)[head] for head in (0, 1) for part in of_read], -1))

        return Bound(log_prob, torch.cat(kls[::-1], -1), by_hand)

    def _by_layer(self, heads):
        """Means, then log-variances, each split by layer."""
        return [part.split(self.layer_sizes, -1) for part in heads.chunk(2, -1)]

    def _inner_layers(self, i):
        return range(len(self.inner_sizes[i]) - 1)

    def _bound(self, log_prob, kl, batch):
        if self.free_bits:
            return with_free_bits(log_prob, kl, self.free_bits, batch.w, self.weighted, batch.n_rows)
        if self.kl_weights is None:
            return Bound(log_prob, kl)
        return Bound(log_prob, kl, objective=lambda beta: log_prob - beta * self.weighted(kl).sum(-1))

    def weighted(self, kl):
        if self.kl_weights is None:
            return kl
        weights = [torch.full((n,), weight) for n, weight in zip(self.layer_sizes, self.kl_weights, strict=True)]
        return kl * torch.cat(weights).to(kl)

    # ------------------------------------------------------------------------------------------------ parameters
    def init(self, noise, statistics):
        params = super().init(noise, statistics)
        for i, sizes in enumerate(self.inner_sizes):
            params |= init_mlp(f"layer{i}", sizes, noise)
        return self._with_shares(params, _SHARE)

    def _with_shares(self, params, share):
        """Parameters by which every z_l is N(0, I), and the layer above gives a share of its variance, or none."""
        changed = {}
        for i, (above, *_, twice) in enumerate(self.inner_sizes):
            name, last, n = f"layer{i}", self._inner_layers(i)[-1], twice // 2
            bias = torch.zeros_like(params[f"{name}.{last}.bias"])
            bias[n : n + min(above, n)] = math.log(1 - share)
            changed |= {
                f"{name}.{last}.weight": torch.zeros_like(params[f"{name}.{last}.weight"]),
                f"{name}.{last}.bias": bias,
                f"{name}.skip.weight": share**0.5 * torch.eye(above, n).to(bias),
            }
        return params | changed

    def with_factors(self, params, W, mu, psi):
        """Parameters of a network that begins as factor analysis, with layers above that know of the factors.

        Every z_l is still N(0, I), so that x has the distribution of factor analysis. The encoder reads in x what the
        exact posterior of the layers above is.

        Parameters
        ----------
        params : dict of Tensor
            As `factor_analysis_start.factor_analysis_network` makes them.
        W : Tensor of shape (n_factors, n_columns)
        mu, psi : Tensors of shape (n_columns,)
        """
        scaled = W / psi
        precision = torch.eye(len(W), dtype=W.dtype) + scaled @ W.mT  # of the posterior of the factors
        to_factors, variance = torch.linalg.solve(precision, scaled).mT, 1 / precision.diagonal()
        skip, bias = params["encoder.skip.weight"].clone(), params[f"encoder.{self.last}.bias"].clone()
        start = self.layer_sizes[0]
        for size in self.layer_sizes[1:]:
            spare = size - min(size, to_factors.shape[1])
            to_factors = F.pad(_SHARE**0.5 * to_factors[:, :size], (0, spare))
            variance = F.pad(1 - _SHARE + _SHARE * variance[:size], (0, spare), value=1.0)
            end, slope, read, held = start + size, to_factors, variance.log(), 0.0
            if end < self.n_components:
                read, held = _read(variance.log()), HIGHEST
                slope = to_factors * (read - variance.log()).exp()
            skip[:, start:end], bias[start:end] = slope, -mu @ slope
            bias[self.n_components + start : self.n_components + end] = read - held
            start = end
        return self._with_shares(params, _SHARE) | {"encoder.skip.weight": skip, f"encoder.{self.last}.bias": bias}

    def without_upper_layers(self, params):
        """Parameters of a network in which z_1 is N(0, I) whatever the layers above are."""
        return self._with_shares(params, 0.0)

    def heads_of_factors(self, heads):
        """What the encoder reads in x of z_1 where that has this posterior under a prior N(0, I); nothing of others."""
        mean, log_variance = with_heads(heads, self.n_factors).chunk(2, -1)
        read = _read(log_variance)
        heads = with_heads(torch.cat([mean * (read - log_variance).exp(), read], -1), self.n_components)
        heads[:, self.n_components + self.n_factors : 2 * self.n_components - self.layer_sizes[-1]] = HIGHEST
        return heads

    # -------------------------------------------------------------------------------------------- from layer to layer
    def _f(self, params, z):
        return super()._f(params, self.values(params, z)[0])

    def values(self, params, xi):
        """z_1, ..., z_L of the latent dimensions xi (M, B, K) or (M, S, B, K)."""
        parts = xi.split(self.layer_sizes, -1)
        z = [parts[-1]]
        for i in reversed(range(len(parts) - 1)):
            z.append(self._value(self._prior(params, i, z[-1]), parts[i]))
        return z[::-1]

    def mean_of_layer(self, params, z, layer):
        z = z[..., : self.layer_sizes[layer]]
        for i in reversed(range(layer)):  # layers below are as z expects them
            z = self._prior(params, i, z).mean
        return self.likelihood.mean(super()._f(params, z), own(params))

    def _prior(self, params, i, above):
        """p(z_l | z_{l+1})."""
        if above.dim() == 4:
            return Posterior(
                *(part.unflatten(1, above.shape[1:3]) for part in self._prior(params, i, above.flatten(1, 2)))
            )
        mean, log_variance = network(params, f"layer{i}", above, self._inner_layers(i), self.activation).chunk(2, -1)
        return Posterior(mean, log_variance.clamp(LOWEST, HIGHEST))

    @staticmethod
    def _value(prior, xi):
        return prior.mean + (0.5 * prior.log_variance).exp() * xi

    def at(self, params, q, z):
        parts = z.split(self.layer_sizes, -1)
        return self._down(params, q, lambda i, q: parts[i])[1]

    def draw(self, params, q, epsilon):
        parts = epsilon.split(self.layer_sizes, -1)
        return self._down(params, q, lambda i, q: q.mean + (0.5 * q.log_variance).exp() * parts[i])

    def _down(self, params, q, xi_of):
        """The xi that `xi_of(i, posterior of xi_l)` gives from the top down, (M, S, B, K), and their posterior."""
        read = [
            Posterior(mean[:, None], log_variance[:, None])
            for mean, log_variance in zip(*(part.split(self.layer_sizes, -1) for part in q), strict=True)
        ]
        top = len(read) - 1
        posterior = [read[top]]
        xi = [xi_of(top, read[top])]
        z = xi[0]
        for i in reversed(range(top)):
            prior = self._prior(params, i, z)
            posterior.append(_product(prior, read[i]))
            xi.append(xi_of(i, posterior[-1]))
            if i:
                z = self._value(prior, xi[-1])
        shape = xi[-1].shape[:-1]
        join = lambda parts: torch.cat([part.expand(*shape, -1) for part in reversed(parts)], -1)  # noqa: E731
        return join(xi), Posterior(*(join(part) for part in zip(*posterior, strict=True)))


def _read(log_variance):
    """Log-variance of what is read in x of a latent variable, which then has this one under a prior N(0, 1)."""
    return -(-log_variance).expm1().clamp(min=math.exp(-HIGHEST)).log()


def _product(prior, read):
    """Posterior of xi, where z = mu + sigma xi has this prior, and N(z; m, v) was read in x: their product."""
    log_ratio = prior.log_variance - read.log_variance
    mean = (read.mean - prior.mean) * (-0.5 * prior.log_variance).exp() * log_ratio.sigmoid()
    return Posterior(mean, -F.softplus(log_ratio))


class PerRowDeepVAE(PerRowVAE, DeepVAE):
    """The same with a posterior of its own for every row, in place of an encoder."""
