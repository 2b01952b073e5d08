"""Probabilistic PCA in closed form: factor analysis with tied noise, x ~ N(mu, W W' + sigma^2 I), of complete rows.

Tipping and Bishop (*JRSS B* 61, 1999); Bishop, *Pattern Recognition and Machine Learning* (2006), section 12.2.1.
"""

import contextlib
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor

from skvae._rounding import CONSTANT_VARIANCE
from skvae._tensors import as_tensors, library, on_host
from skvae.models.decomposition.factor_analysis import TIED_NOISE_FLOOR, upright

_LOG_2PI = math.log(2 * math.pi)
_LARGE = 500  # columns from which on a few eigenvectors are cheaper than all


class Axes(NamedTuple):
    """A model with tied noise, given by its principal axes; Tensors, or arrays of NumPy.

    Attributes
    ----------
    axes : Tensor of shape (D, K)
        Orthonormal, the longest first; the largest entry of each is positive.
    values : Tensor of shape (K,)
        Variance along each of them, noise included.
    noise : Tensor of shape ()
        sigma^2.
    """

    axes: Tensor
    values: Tensor
    noise: Tensor

    def loadings(self):
        """W of shape (D, K)."""
        return self.axes * library(self.axes).sqrt(self.values - self.noise)


def axes_of(params):
    """Compute the principal axes of parameters with tied noise."""
    U, lengths, _ = torch.linalg.svd(params.W, full_matrices=False)
    return Axes(upright(U), lengths.square() + params.psi[0], params.psi[0])


def mean_log_evidence(axes, total):
    """Mean of log p(x) over the rows that these axes are the closed form of; `total` is the sum of their variances."""
    D, K = axes.axes.shape
    xp, rest = library(axes.axes), total - axes.values.sum() if K < D else 0.0
    log_det = xp.log(axes.values).sum() + (D - K) * xp.log(axes.noise)
    return -0.5 * (D * _LOG_2PI + log_det + K + rest / axes.noise)


def closed_form(S, n_components):
    """Maximise the likelihood given the covariance: Tipping and Bishop (1999); (12.45), (12.46) in Bishop.

    S is a Tensor or an array of NumPy, and so are the axes then.
    """
    values, axes = _leading(S, n_components)
    return _from_eigen(values, axes, S.diagonal().sum(), n_components)


def _leading(S, n_components):
    """Compute eigenvalues, ascending, and eigenvectors: all, or the leading ones of a large matrix (Lanczos)."""
    (matrix,) = on_host(S)
    if isinstance(matrix, np.ndarray) and len(S) >= _LARGE and 0 < n_components <= len(S) // 20:
        with contextlib.suppress(ArpackNoConvergence):
            v0 = np.random.default_rng(0).normal(size=len(S))  # the same at every call
            found = eigsh(matrix, n_components, v0=v0, tol=0)
            return found if S is matrix else as_tensors(*found)
    return library(S).linalg.eigh(S)


def closed_form_of_rows(X, n_components):
    """Maximise the likelihood given fewer than D centred rows, scaled so that S = X' X.

    Axes beyond the number of rows are arbitrary, but orthogonal to the others.
    """
    if len(X) < n_components:
        X = torch.cat([X, X.new_zeros(n_components - len(X), X.shape[1])])
    values, rows = torch.linalg.eigh(X @ X.T)
    axes, _ = torch.linalg.qr(X.T @ rows.flip(1))
    return _from_eigen(values, axes.flip(1), X.square().sum(), n_components)


def _from_eigen(values, axes, total, n_components):
    """Build the axes from eigenvalues in ascending order; the rest of the total variance is noise."""
    D, K, xp = len(axes), n_components, library(axes)
    values, axes = xp.flip(values, (0,))[:K], xp.flip(axes, (1,))[:, :K]
    noise = xp.maximum((total - values.sum()) / max(1, D - K), noise_floor(total, D))
    return Axes(upright(axes), xp.maximum(values, noise), noise)


def noise_floor(total, n_columns):
    """The smallest noise variance of columns whose variances sum up to `total`."""
    return TIED_NOISE_FLOOR * total / n_columns if total > 0 else total + CONSTANT_VARIANCE
