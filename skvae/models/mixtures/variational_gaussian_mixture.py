"""Posterior over the parameters of a mixture of Gaussians, by mean-field coordinate ascent.

    pi ~ Dir(alpha_0, ...)   or   pi_k = v_k prod_{j<k} (1 - v_j),  v_k ~ Beta(1, alpha_0)
    Lambda_k ~ W(W_0, nu_0),   mu_k | Lambda_k ~ N(m_0, (beta_0 Lambda_k)^-1)
    z ~ Cat(pi),   x | z = k ~ N(mu_k, Lambda_k^-1)

Notation and steps of Bishop, *Pattern Recognition and Machine Learning* (2006), section 10.2; sticks as Blei and Jordan
(2006), of which q(z) uses the first K, and the others stay as in the prior (Kurihara, Welling and Teh 2007).

Given q(pi) q(mu, Lambda), the best q(z, x_missing) is the E-step of a mixture of Gaussians with means m_k and
precisions nu_k W_k: cells that are missing are integrated out under them. Only the weights differ, exp of

    E[log pi_k] + (E[log |Lambda_k|] - log |nu_k W_k|) / 2 - D / (2 beta_k),

which do not sum to 1. So the E-step and its sums are those of `GaussianMixture`.

The kind of covariance is that of W_k: any matrix, a diagonal one, or a multiple of 1. The model is the same for these
three, so their bounds can be compared: a smaller family of q gives a lower bound. Where tied, one Lambda serves all
components.
"""

import math
import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._tensors import as_tensors, on_host
from skvae.models.mixtures import gaussian_mixture
from skvae.models.mixtures.gaussian_mixture import FullGaussianMixture
from skvae.models.mixtures.posterior import log_ratios, mixing_proportions


class Prior(NamedTuple):
    """Parameters of the prior; arrays in the units of X, or of `measured_from`, Tensors.

    Attributes
    ----------
    alpha : float
        Concentration of the weights.
    beta : float
    m : {ndarray, Tensor} of shape (D,)
    nu : float
        Above D - 1.
    W_inv : {ndarray, Tensor} of shape (D, D), or (D,) where diagonal
        The inverse of W_0.
    """

    alpha: float
    beta: float
    m: Tensor
    nu: float
    W_inv: Tensor

    def measured_from(self, origin):
        """The prior of x - origin, a Tensor (D,)."""
        m, W_inv = (torch.tensor(np.asarray(array, dtype=np.float64)).to(origin) for array in (self.m, self.W_inv))
        return self._replace(m=m - origin, W_inv=W_inv)


class Params(NamedTuple):
    """The posterior q(pi) prod_k q(mu_k, Lambda_k), and the mixture whose E-step it takes.

    Attributes
    ----------
    prior : Prior
    alpha : Tensor of shape (1, K) or (2, K)
        Parameters of q(pi), as `MixingWeights` has them.
    beta : Tensor of shape (K,)
    nu : Tensor of shape (K,)
        K times the same where tied.
    gaussian : gaussian_mixture.Params
        Its `mu` are m_k, its `sigma` are W_k^-1 / nu_k, its `pi` are E[pi_k], scaled to sum to 1.
    simplified_bound : Tensor ()
        The bound after the M-step without its constants, exact where the floor is 0: what scikit-learn reports. -inf if
        no M-step has led here.
    """

    prior: Prior
    alpha: Tensor
    beta: Tensor
    nu: Tensor
    gaussian: gaussian_mixture.Params
    simplified_bound: Tensor

    @property
    def N(self):
        """The weight of rows that each component stands for."""
        return (self.beta - self.prior.beta).clamp(min=0)


class VariationalGaussianMixture:
    """The steps of coordinate ascent.

    Parameters
    ----------
    mixture : GaussianMixture
        The model whose E-step is taken; its `floor` enters W_k^-1 times the weight of the component.
    prior : Prior
        In the units of X.
    weights : MixingWeights
    """

    def __init__(self, mixture, prior, weights):
        self.mixture, self.prior, self.weights = mixture, prior, weights
        self.n_components = mixture.n_components
        self._full = isinstance(mixture, FullGaussianMixture)
        self._tied = self._full and mixture.pooled

    def params(self, prior, alpha, beta, m, nu, sigma, simplified_bound=-math.inf):
        """Parameters ready for the E-step, of a prior and means measured from one origin.

        Raises
        ------
        torch.linalg.LinAlgError
            If a matrix is not positive definite; its text names the components.
        """
        D = m.shape[1]
        gaussian = self.mixture.params(torch.ones_like(beta), m, sigma)
        log_det_ratio = _digammas(nu, D) + D * (math.log(2) - nu.log())  # E[log |Lambda|] - log |nu W|, (10.65)
        log_weight = self.weights.mean_log(alpha) + 0.5 * log_det_ratio - 0.5 * D / beta  # (10.46), (10.64)
        gaussian = gaussian.reweighted(log_weight)._replace(pi=self.weights.mean(alpha))
        return Params(prior, alpha, beta, nu, gaussian, torch.as_tensor(simplified_bound).to(beta))

    def e_step(self, batch, params, memory=None):
        """q(z, x_missing) of each row and the sums that it weights (10.49, 10.51 to 10.53)."""
        return self.mixture.e_step(batch, params.gaussian, memory)

    def bound(self, stats, params):
        """The evidence lower bound (10.70): q(z, x_missing) is the best for these parameters."""
        return torch.as_tensor(stats.bound) - self.divergence(params)

    def m_step(self, stats, params):
        """q(pi) and q(mu, Lambda) from the sums over rows (10.57 to 10.63)."""
        old = params.gaussian
        N, S, SS = self._complete(stats, old.mu - old.origin, old.sigma)
        entropy = torch.as_tensor(stats.bound) - _mean_log_joint(N, S, SS, old)
        return self._posterior(N, S, SS, old.origin, params.prior, entropy)

    def first_m_step(self, stats, prior, column_variances):
        """The same from sums measured from 0 for guessed responsibilities; missing cells count as draws from there."""
        N, S, SS = self._complete(stats, 0.0, column_variances)
        return self._posterior(N, S, SS, torch.zeros_like(S), prior, -math.inf)

    def divergence(self, params):
        """KL from the prior to the posterior of all parameters (10.72 to 10.77, without what belongs to z)."""
        prior, gaussian, beta, nu = params.prior, params.gaussian, params.beta, params.nu
        D = gaussian.mu.shape[1]
        away = gaussian.mu - prior.m
        if self._full:
            pulled = (gaussian.root.mT @ away[:, :, None])[:, :, 0].square().sum(1)  # (m - m_0)' nu W (m - m_0)
            trace = ((prior.W_inv @ gaussian.root) * gaussian.root).sum((1, 2))
            log_det, log_det_0 = -2 * _log_diagonal(gaussian.root), torch.linalg.slogdet(prior.W_inv)[1]
        else:
            pulled = (away * gaussian.root).square().sum(1)
            trace = (prior.W_inv * gaussian.root.square()).sum(1)
            log_det, log_det_0 = -2 * gaussian.root.log().sum(1), prior.W_inv.log().sum()
        of_means = D * (prior.beta / beta - 1 + (beta / prior.beta).log()) + prior.beta * pulled
        nu_0 = torch.full_like(nu[:1], prior.nu)
        of_precisions = (
            prior.nu * (log_det + D * nu.log() - log_det_0)
            + trace
            - nu * D
            + 2 * (_log_gammas(nu_0, D) - _log_gammas(nu, D))
            + (nu - prior.nu) * _digammas(nu, D)
        )
        if self._tied:
            of_precisions = of_precisions[:1]
        of_weights = self.weights.divergence(params.alpha, prior.alpha)
        return of_weights + 0.5 * (of_means.sum() + of_precisions.sum())

    def log_joint(self, batch, params):
        """log of q(z_n = k, x_missing) before normalisation, with the missing cells integrated out: (K, n_rows)."""
        return self.mixture.log_joint(batch, params.gaussian)

    def log_predictive(self, batch, params):
        """log of E[pi_k] St(x_n | k), the terms of the predictive density of the observed cells (10.81, 10.82)."""
        gaussian, D = params.gaussian, batch.X.shape[1]
        n_observed = D if batch.observed is None else batch.observed.sum(1)
        half_log_det = self.mixture.half_log_det(batch, gaussian)
        highest = gaussian.log_pi[:, None] - half_log_det - 0.5 * math.log(2 * math.pi) * n_observed
        distance = 2 * (highest - self.log_joint(batch, params)).clamp(min=0)  # (x_o - m_o)' sigma_oo^-1 (x_o - m_o)
        freedom = (params.nu + 1 - D)[:, None]
        spread = ((1 + 1 / params.beta) * params.nu)[:, None] / freedom  # times sigma: the scale matrix
        norm = (0.5 * (freedom + n_observed)).lgamma() - (0.5 * freedom).lgamma() - half_log_det
        norm = norm - 0.5 * n_observed * (math.pi * freedom * spread).log()
        tail = -0.5 * (freedom + n_observed) * (distance / (freedom * spread)).log1p()
        return gaussian.pi.log()[:, None] + norm + tail

    def fill(self, batch, params):
        """E[x | x_o] of each row, of shape (n_rows, D): x itself where it was observed."""
        return self.mixture.fill(batch, params.gaussian)

    def row_width(self, n_columns):
        return self.mixture.row_width(n_columns)

    def incomplete_rows(self, n_columns):
        return self.mixture.incomplete_rows(n_columns)

    def stats_from_responsibilities(self, batch, R, column_variances=None):
        """Statistics of a batch, measured from 0, given the responsibilities R (K, n_rows)."""
        return self.mixture.stats_from_responsibilities(batch, R, column_variances)

    def stats_from_params(self, params, weight):
        """Statistics of rows of this total weight from which the M-step finds these parameters.

        If the weight is that of the rows that led to them; otherwise the same statistics, scaled.
        """
        prior, gaussian, N = params.prior, params.gaussian, params.N
        m, m_0 = gaussian.mu - gaussian.origin, prior.m - gaussian.origin
        S = params.beta[:, None] * m - prior.beta * m_0
        from_means = self._column(params.beta) * self._outer(m, m) - prior.beta * self._outer(m_0, m_0)
        from_means = from_means - self._column(N) * self.mixture.floor * self._unit(m)
        if self._tied:
            SS = (params.nu[0] * gaussian.sigma[0] - prior.W_inv + from_means.sum(0))[None]
        else:
            SS = self._column(params.nu) * gaussian.sigma - prior.W_inv + from_means
        entropy = params.simplified_bound - self._log_normalisers(params)
        bound = _mean_log_joint(N, S, SS, gaussian) + torch.where(entropy.isfinite(), entropy, 0.0)
        M = N.new_zeros(0) if self._full else N[:, None]
        scale = weight / N.sum()
        return gaussian_mixture.Stats(*on_host(*(scale * field for field in (bound, N, S, SS, M))))

    def to_free(self, params):
        """Log-ratios of N, m, and log-Cholesky factors of sigma: unconstrained reals."""
        free = self.mixture._free_covariance(params.gaussian.sigma)
        return torch.cat([log_ratios(mixing_proportions(params.N)), params.gaussian.mu.reshape(-1), free])

    def from_free(self, vector, params):
        """Parameters from the vector of `to_free`, of the prior and the total weight of `params`."""
        K, D = params.gaussian.mu.shape
        share, m, free = vector.split([K, K * D, len(vector) - K - K * D])
        N = params.N.sum() * share.softmax(0)
        sigma = self.mixture._covariance_of(free, params.gaussian)
        return self._of_weights(N, m.reshape(K, D), sigma, params.prior)

    # --------------------------------------------------------------------------------------------- sums over rows -> q
    def _complete(self, stats, d, sigma):
        """Sums (N, S, SS) with the missing cells of diagonal covariances in them: d away from the origin, +- sigma."""
        N, S, SS, M = as_tensors(*stats[1:])
        if self._full:  # has them already
            return N, S, SS
        gap = (N[:, None] - M).clamp(min=0)
        return N, S + gap * d, SS if sigma is None else SS + gap * (d * d + sigma)

    def _posterior(self, N, S, SS, origin, prior, entropy):
        mean = S / (N + sys.float_info.min)[:, None]
        away = origin + mean - prior.m
        beta = prior.beta + N
        within = self._column(N) * self._outer(mean, mean)
        within = SS - within.sum(0) if self._tied else SS - within  # N_k S_k of (10.53)
        between = self._column(prior.beta * N / beta) * self._outer(away, away)
        between = between + self._column(N) * self.mixture.floor * self._unit(away)
        between = between.sum(0) if self._tied else between
        W_inv = prior.W_inv + (within if self._full else within.clamp(min=0)) + between  # (10.62)
        if self._full:
            W_inv = 0.5 * (W_inv + W_inv.mT)
        elif self.mixture.pooled:
            W_inv = W_inv.mean(1, keepdim=True)
        nu = self._nu(N, prior)
        sigma = W_inv / self._column(nu)[: len(W_inv)]
        params = self._of_weights(N, prior.m + (N / beta)[:, None] * away, sigma, prior)
        return params._replace(simplified_bound=entropy + self._log_normalisers(params))

    def _of_weights(self, N, m, sigma, prior):
        """Parameters of components of the weights N (10.58, 10.60, 10.63)."""
        alpha = self.weights.posterior(prior.alpha, N)
        return self.params(prior, alpha, prior.beta + N, m, self._nu(N, prior), sigma)

    def _nu(self, N, prior):
        return prior.nu + (N.sum().expand(len(N)) if self._tied else N)

    def _column(self, values):
        """(K,) -> (K, 1, 1), or (K, 1) where diagonal."""
        return values[:, None, None] if self._full else values[:, None]

    def _outer(self, a, b):
        return a[..., :, None] * b[..., None, :] if self._full else a * b

    def _unit(self, like):
        return torch.eye(like.shape[1], dtype=like.dtype, device=like.device) if self._full else 1.0

    def _log_normalisers(self, params):
        """The terms of the bound after the M-step that are neither constant nor the entropy of q(z)."""
        D = params.gaussian.mu.shape[1]
        nu = params.nu / self.n_components if self._tied else params.nu  # scikit-learn's tied components share rows
        root = params.gaussian.root
        half_log_det = (_log_diagonal(root) if self._full else root.log().sum(1)) - 0.5 * D * nu.log()
        of_precisions = nu * (half_log_det + 0.5 * D * math.log(2)) + _log_gammas(nu, D)
        of_weights = self.weights.log_normaliser(params.alpha)
        return of_precisions.sum() + of_weights - 0.5 * D * params.beta.log().sum()


def _mean_log_joint(N, S, SS, gaussian):
    """sum_n E[log of the weighted density of x_n, z_n] under the q(z, x_missing) that the sums are of."""
    d = gaussian.mu - gaussian.origin
    if SS.dim() == 3:
        P = gaussian.root @ gaussian.root.mT
        Pd = (P @ d[:, :, None])[:, :, 0]
    else:
        P = gaussian.root.square()
        Pd = P * d
    squares = (P[: len(SS)] * SS).sum() + (Pd * (N[:, None] * d - 2 * S)).sum()
    return N @ gaussian.log_norm - 0.5 * squares


def _log_diagonal(root):
    return root.diagonal(dim1=1, dim2=2).log().sum(1)


def _halves(nu, D):
    return 0.5 * (nu[:, None] - torch.arange(D, dtype=nu.dtype, device=nu.device))


def _log_gammas(nu, D):
    """log Gamma_D(nu / 2), without its power of pi."""
    return _halves(nu, D).lgamma().sum(1)


def _digammas(nu, D):
    return _halves(nu, D).digamma().sum(1)
