"""The E-step of Gaussian mixtures for rows with missing cells, which are integrated out exactly."""

import math

import torch

from skvae._tensors import cholesky

_LOG_2PI = math.log(2 * math.pi)


def observed_precisions(params, patterns):
    """Inverses of the observed blocks of each covariance, zero elsewhere, and half the log-determinants of the blocks.

    With m the 0/1 vector of a pattern, m Sigma m + (I - m) has the block Sigma_oo, the identity elsewhere, and nothing
    in between: one batched Cholesky does for all patterns. Shapes (K, n_patterns, D, D) and (K, n_patterns).
    """
    m = patterns.to(params.mu.dtype)
    both = m[:, :, None] * m[:, None, :]
    block = params.sigma[:, None] * both + torch.diag_embed(1 - m)
    L = cholesky(block)
    J = torch.cholesky_inverse(L) * both
    return J, L.diagonal(dim1=2, dim2=3).log().sum(2)


def incomplete_log_joint(batch, params):
    """log p(x_o, z = k) of the observed cells, of shape (K, n_rows), and what `incomplete_sums` reads."""
    J, half_log_det = observed_precisions(params, batch.patterns)
    x = (batch.X - params.mu[:, None]) * batch.observed  # (K, n, D)
    y = (J[:, batch.pattern] @ x[..., None])[..., 0]  # Sigma_oo^-1 (x_o - mu_o), zero where missing
    n_observed = batch.observed.sum(1)
    constant = params.log_pi[:, None] - half_log_det[:, batch.pattern] - 0.5 * _LOG_2PI * n_observed
    return constant - 0.5 * (x * y).sum(2), (y, J)


def incomplete_sums(batch, R, params, work):
    """Weights (K,), sums (K, D) and sums of squares (K, D, D), measured from mu, given R (K, n_rows).

    E[x | x_o] = mu + Sigma y stands in place of x, and the covariance of what is missing is added.
    """
    y, J = work
    x = y @ params.sigma
    by_pattern = R.new_zeros(R.shape[0], len(batch.patterns)).index_add_(1, batch.pattern, R)
    explained = (by_pattern[:, :, None, None] * J).sum(1)
    N = R.sum(1)
    rest = N[:, None, None] * params.sigma - params.sigma @ explained @ params.sigma
    return N, (R[:, None] @ x)[:, 0], (x * R[..., None]).mT @ x + rest
