"""Factor analysis with a prior on the loadings, which removes the factors that the rows do not support.

    z ~ N(0, I_K),   x_d | z ~ N(mu_d + w_d' z, 1 / tau_d),   w_dk ~ N(0, 1 / (tau_d alpha_k)),
    tau_d ~ Gamma(a_0, b_0d)

Each alpha_k is the value that raises the evidence most; a factor whose alpha_k grows without bound has no loadings
(automatic relevance determination: Bishop, *Bayesian PCA*, NeurIPS 11, 1998, and *Variational principal components*,
ICANN 1999). The bound is raised by coordinate ascent over a mean field q(Z) q(W, tau). Since the prior of w_d is in
units of the noise, q(w_d | tau_d) has one precision B, times tau_d, for all columns:

    q(w_d | tau_d) = N(m_d, 1 / tau_d B^-1),   q(tau_d) = Gamma(a, b_d)

and with b_0d = a_0 times the variance of the column, its units change nothing. Between the steps z and W are turned and
scaled together, which changes no prediction and raises the bound: many steps become few (Luttinen and Ilin,
*Transformations in variational Bayesian factor analysis to speed up learning*, Neurocomputing 73, 2010). Rows are
complete and measured from the means of their columns, which stand for mu.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skvae._rounding import CONSTANT_VARIANCE
from skvae._tensors import cholesky
from skvae.models.decomposition.factor_analysis import UNIQUENESS_FLOOR, SufficientStatistics

_LOG_2PI = math.log(2 * math.pi)
_NOISE_SHAPE = 1e-3  # a_0
_LEAST_NOISE = 0.02  # of initial parameters, as a share of each column's variance


class Params(NamedTuple):
    """The posterior of loadings and noise, and what the E-step reads of it.

    Attributes
    ----------
    M : Tensor of shape (D, K)
        Means of the loadings.
    B_inv : Tensor of shape (K, K)
        Covariance of the loadings of a column, in units of its noise variance.
    a : Tensor of shape ()
        Shape of q(tau).
    b : Tensor of shape (D,)
        Rates of q(tau).
    alpha : Tensor of shape (K,)
    V : Tensor of shape (K, K)
        Covariance of q(z).
    """

    M: Tensor
    B_inv: Tensor
    a: Tensor
    b: Tensor
    alpha: Tensor
    V: Tensor

    @property
    def tau(self):
        """E[tau], of shape (D,)."""
        return self.a / self.b


class Stats(NamedTuple):
    """Sums over rows, under q(z) of mean m_z: n, of shape (); x**2, (D,); m_z x', (K, D); m_z m_z', (K, K)."""

    n: Tensor
    xx: Tensor
    zx: Tensor
    zz: Tensor


class VariationalFactorAnalysis:
    """The steps of coordinate ascent, for batches of complete rows and for `SufficientStatistics`, of mean 0.

    Parameters
    ----------
    n_components : int
        Number K of factors at most.
    variance : Tensor of shape (D,)
        Variances of the columns. Those of variance 0 have no loadings, and a known noise.
    """

    def __init__(self, n_components, variance):
        self.n_components, self.varies = n_components, variance > 0
        self.D = int(self.varies.sum())
        self.floor = torch.where(self.varies, UNIQUENESS_FLOOR * variance, CONSTANT_VARIANCE)
        self.variance = variance.maximum(self.floor)

    def init(self, axes, values, n):
        """The posterior about the principal axes of the correlations, (D, K), and their variances, (K,); n: of rows."""
        # From too little noise it takes hundreds of steps to shrink loadings; from too much, weak factors never rise.
        noise = (0.5 * values.median()).clamp(min=_LEAST_NOISE) if len(values) else values.new_tensor(1.0)
        M = axes * (values - noise).clamp(min=1e-3).sqrt() * self.variance.sqrt()[:, None]
        B_inv = torch.eye(len(values), dtype=M.dtype, device=M.device) / n
        left = (self.variance - M.square().sum(1)).maximum(noise * self.variance)
        return self._params(M, B_inv, left * (_NOISE_SHAPE + 0.5 * n), n)

    def only(self, params, factors):
        """The posterior without the factors that the indices `factors` leave out."""
        B_inv, n = params.B_inv[factors][:, factors], 2 * (params.a - _NOISE_SHAPE)
        return self._params(params.M[:, factors], B_inv, params.b, n)

    def _params(self, M, B_inv, b, n):
        a = torch.as_tensor(_NOISE_SHAPE + 0.5 * n, dtype=M.dtype, device=M.device)
        b = torch.where(self.varies, b, a * CONSTANT_VARIANCE)
        square = self._square(M, B_inv, a / b)
        V = torch.cholesky_inverse(cholesky(square + torch.eye(len(B_inv), dtype=M.dtype, device=M.device)))
        return Params(M, B_inv, a, b, self.D / square.diagonal(), V)

    def _square(self, M, B_inv, tau):
        """E[W' diag(tau) W]."""
        return (M * tau[:, None]).T @ M + self.D * B_inv

    # ----------------------------------------------------------------------------------------------- coordinate ascent
    def e_step(self, batch, params, memory=None):
        """Update q(z) of the rows of a batch, and sum what the M-step reads."""
        project = params.V @ (params.M * params.tau[:, None]).T  # the mean of z is this times x
        if isinstance(batch, SufficientStatistics):
            n, _, S = batch
            zx = project @ S
            return Stats(n, n * S.diagonal(), n * zx, n * zx @ project.T), None
        z, w = batch.X @ project.T, batch.w[:, None]
        return Stats(batch.w.sum(), batch.w @ batch.X.square(), (w * z).T @ batch.X, (w * z).T @ z), None

    def m_step(self, stats, params):
        """Turn z and W, then update alpha, q(W, tau), and alpha again."""
        n, xx, zx, zz = stats
        C = zz + n * params.V  # sum of E[z z']
        R, square = self._turn(C / n, self._square(params.M, params.B_inv, params.tau))
        zx = R @ zx
        root = cholesky(R @ C @ R.T + torch.diag(self.D / square))
        B_inv = torch.cholesky_inverse(root)
        explained = torch.linalg.solve_triangular(root, zx, upper=False).square().sum(0)
        b = _NOISE_SHAPE * self.variance + 0.5 * (xx - explained).maximum(n * self.floor)
        return self._params((B_inv @ zx).T, B_inv, b, n)

    def _turn(self, C, square):
        """The R of z <- R z, W <- W R^-1 that raises the bound most, and the diagonal of E[W' diag(tau) W] then.

        It makes the second moments C of z the identity, and E[W' diag(tau) W] diagonal.
        """
        half = cholesky(C)
        values, axes = torch.linalg.eigh(half.T @ square @ half)
        eye = torch.eye(len(C), dtype=C.dtype, device=C.device)
        return axes.T.flip(0) @ torch.linalg.solve_triangular(half, eye, upper=False), values.flip(0)

    def bound(self, stats, params):
        """The evidence lower bound: of all rows, less the divergence of q(W, tau) from its prior."""
        n, xx, zx, zz = stats
        M, B_inv, a, b, alpha, V = params
        D, K, tau = self.D, len(V), params.tau
        C = zz + n * V
        log_tau = torch.where(self.varies, a.digamma(), a.log()) - b.log()
        log_det_V, log_det_B_inv = (2 * cholesky(matrix).diagonal().log().sum() for matrix in (V, B_inv))
        # At the best q(z), as that of (x - M z)' T (x - M z) + z' (I + D B^-1) z: its rounding then hardly matters.
        residual = xx + (M * (M @ C - 2 * zx.T)).sum(1)
        mahalanobis = tau @ residual + C.trace() + D * (B_inv * C).sum() - n * K
        rows = 0.5 * (n * (log_tau.sum() - len(M) * _LOG_2PI + log_det_V) - mahalanobis)
        signal = tau @ M.square() + D * B_inv.diagonal()
        kl_of_loadings = 0.5 * (alpha @ signal - D * (log_det_B_inv + alpha.log().sum() + K))
        kl_of_noise = _kl_of_gammas(a, b, _NOISE_SHAPE, _NOISE_SHAPE * self.variance)
        return rows - kl_of_loadings - torch.where(self.varies, kl_of_noise, 0).sum()

    def point(self, params):
        """What a user reads of the posterior, for each factor or column.

        Returns
        -------
        M : Tensor of shape (D, K)
        noise : Tensor of shape (D,)
            Variances of a new row that the factors' mean loadings do not explain.
        signal : Tensor of shape (K,)
            Mean over columns of the squared mean loadings, in units of the noise.
        kept : bool Tensor of shape (K,)
            Whether the signal is above the posterior variance of a loading.
        """
        M, B_inv, a, b, _, _ = params
        noise = torch.where(self.varies, b / (a - 1) * (1 + B_inv.trace()), CONSTANT_VARIANCE)
        signal = params.tau @ M.square() / max(1, self.D)
        return M, noise, signal, signal > B_inv.diagonal()


def _kl_of_gammas(a, b, a_0, b_0):
    """KL of Gamma(a, b) from Gamma(a_0, b_0); shapes, then rates."""
    log_ratio = b.log() - b_0.log()
    return (a - a_0) * a.digamma() - a.lgamma() + math.lgamma(a_0) + a_0 * log_ratio + a * (b_0 / b - 1)
