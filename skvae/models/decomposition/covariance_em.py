"""Factor analysis of complete rows that are known by their covariance S about their mean, on the CPU.

The steps are those of `models.decomposition.factor_analysis` with mu = 0, where everything about means drops out:

    B = M^-1 W' Psi^-1,  M = I + W' Psi^-1 W      E[z | x] = B x
    C = M^-1 + B S B'                             mean of E[z z']
    L L' = C,   W <- (L^-1 B S)',   psi <- diag(S - W W')

The M-step is the one with expanded parameters (Liu, Rubin and Wu 1998): W = S B' C^-1 L. All matrices but S are small,
so NumPy computes them: each operation of torch costs several times as much to begin.
"""

from typing import NamedTuple

import numpy as np
import torch

from skvae.models.decomposition.factor_analysis import _LOG_2PI, UNIQUENESS_FLOOR, FactorAnalysis, Params

_ONE_THREAD = 1024  # cells up to which torch computes logarithms and the like in one thread
_SINGULAR = 10 * UNIQUENESS_FLOOR  # least eigenvalue of correlations below which noise would be near its floor


class CentredStats(NamedTuple):
    """What the M-step reads; NumPy arrays.

    Attributes
    ----------
    bound : float
        Sum of log p(x) over the rows.
    A : ndarray of shape (K, D)
        B S, the mean of E[z] x'.
    C : ndarray of shape (K, K)
        Mean of E[z z'].
    """

    bound: np.ndarray
    A: np.ndarray
    C: np.ndarray


class CentredFactorAnalysis(FactorAnalysis):
    """The steps of EM for one batch, `SufficientStatistics` with mean 0, and parameters with mu = 0.

    Parameters
    ----------
    n_components : int
    S : ndarray of shape (D, D)
        Covariance of the rows.
    tied : bool, default=False
        One noise variance for all columns.
    """

    def __init__(self, n_components, S, tied=False):
        super().__init__(n_components, torch.from_numpy(S.diagonal().copy()), tied)
        self.S = S

    def init(self, mu, noise, psi=None):
        """Draw loadings that explain half of each column's variance, or as much as the noise `psi` if it is given.

        A few rows at a time: torch then computes in one thread, and need not wait for NumPy's threads to end.
        """
        psi = (self.variance / 2 if psi is None else psi).maximum(self.floor)
        draw = noise.fold("loadings")
        rows = torch.arange(len(mu)).split(max(1, _ONE_THREAD // max(1, self.n_components)))
        W = torch.cat([draw.normal(row, self.n_components, mu.dtype) for row in rows])
        return Params(mu, W * (psi / max(1, self.n_components)).sqrt()[:, None], psi)

    def e_step(self, batch, params, memory=None):
        """Compute the expected statistics and the bound."""
        W, psi, S = params.W.numpy(), params.psi.numpy(), self.S
        precise = (W / psi[:, None]).T
        root, log_det_M = _inverse_root(precise @ W + np.eye(self.n_components))
        V = root.T @ root
        B = V @ precise
        A = B @ S
        C = V + A @ B.T
        # The sum of r' Sigma^-1 r, as in FactorAnalysis._with_bound
        residual = S.diagonal() + (W * (W @ C - 2 * A.T)).sum(1)
        mahalanobis = (residual / psi).sum() + C.trace() - self.n_components
        bound = -0.5 * float(batch.n) * (len(psi) * _LOG_2PI + np.log(psi).sum() + log_det_M + mahalanobis)
        return CentredStats(bound, A, C), None

    def m_step(self, stats, params):
        """Regress each column on z, and give z unit variance again."""
        root, _ = _inverse_root(stats.C)
        W = root @ stats.A
        psi = self.S.diagonal() - np.square(W).sum(0)
        psi = np.maximum(np.full_like(psi, psi.mean()) if self.tied else psi, self.floor.numpy())
        return Params(params.mu, torch.from_numpy(W.T), torch.from_numpy(psi))


def explain_all(S, psi=None):
    """Compute loadings of as many factors as columns that explain all of S, and the noise beside them.

    S - Psi has a root if no noise is above the least eigenvalue of the correlations, as a share of its column's
    variance. Then W W' + Psi = S, which no other parameters surpass.

    Parameters
    ----------
    S : ndarray of shape (D, D)
    psi : ndarray of shape (D,) or None, default=None
        Most noise of each column. None: half of its variance.

    Returns
    -------
    W, psi : ndarrays of shape (D, D) and (D,), or None
        None if S is singular, or so nearly that the noise would be at its floor.
    """
    variance = S.diagonal()
    if not (variance > 0).all():
        return None
    scale = np.sqrt(variance)
    least = np.linalg.eigvalsh(S / scale / scale[:, None])[0]
    if least < _SINGULAR:
        return None
    psi = np.minimum(variance / 2 if psi is None else psi, least * variance)
    values, axes = np.linalg.eigh((S - np.diag(psi)) / scale / scale[:, None])
    return scale[:, None] * axes * np.sqrt(np.maximum(values, 0)), psi


def _inverse_root(G):
    """Compute L^-1 and log|G| of a positive definite G = L L'."""
    try:
        L = np.linalg.cholesky(G)
    except np.linalg.LinAlgError as error:
        raise torch.linalg.LinAlgError(str(error)) from error
    return np.linalg.inv(L), 2 * np.log(L.diagonal()).sum()
