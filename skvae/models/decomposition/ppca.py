"""Probabilistic PCA in closed form: factor analysis with tied noise, x ~ N(mu, W W' + sigma^2 I), of complete rows.

Tipping and Bishop (*JRSS B* 61, 1999); Bishop, *Pattern Recognition and Machine Learning* (2006), section 12.2.1.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor

from skvae._rounding import CONSTANT_VARIANCE
from skvae.models.decomposition.factor_analysis import TIED_NOISE_FLOOR, upright

_LARGE = 500  # columns from which on a few eigenvectors are cheaper than all


class Axes(NamedTuple):
    """A model with tied noise, given by its principal axes.

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
        return self.axes * (self.values - self.noise).sqrt()


def axes_of(params):
    """Compute the principal axes of parameters with tied noise."""
    U, lengths, _ = torch.linalg.svd(params.W, full_matrices=False)
    return Axes(upright(U), lengths.square() + params.psi[0], params.psi[0])


def closed_form(S, n_components):
    """Maximise the likelihood given the covariance: Tipping and Bishop (1999); (12.45), (12.46) in Bishop."""
    values, axes = _leading(S, n_components)
    return _from_eigen(values, axes, S.diagonal().sum(), n_components)


def _leading(S, n_components):
    """Compute eigenvalues, ascending, and eigenvectors: all, or the leading ones of a large matrix (Lanczos)."""
    if len(S) >= _LARGE and 0 < n_components <= len(S) // 20 and S.device.type == "cpu":
        with contextlib.suppress(ArpackNoConvergence):
            v0 = np.random.default_rng(0).normal(size=len(S))  # the same at every call
            return map(torch.from_numpy, eigsh(S.numpy(), n_components, v0=v0, tol=0))
    return torch.linalg.eigh(S)


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
    D, K = len(axes), n_components
    values, axes = values.flip(0)[:K], axes.flip(1)[:, :K]
    floor = TIED_NOISE_FLOOR * total / D if total > 0 else total.new_tensor(CONSTANT_VARIANCE)
    noise = ((total - values.sum()) / max(1, D - K)).maximum(floor)
    return Axes(upright(axes), values.maximum(noise), noise)
