"""Features of rows in which the log-density of a Gaussian is linear.

Each function takes a batch of n complete rows, or of rows whose missing cells are 0, and a `Workspace`. It returns an
array of shape (n_features, n), NumPy's on the CPU.
"""

import functools

import numpy as np
import torch

from skvae._tensors import library, on_host


def products(batch, space):
    """[x_i x_j (i <= j), x, 1] of each row: D (D + 1) / 2 + D + 1 features."""
    phi, x = _with_x(batch, space, batch.X.shape[1] * (batch.X.shape[1] + 1) // 2)
    multiply, start, D = library(x).multiply, 0, len(x)
    for i in range(D):
        multiply(x[i], x[i:], out=phi[start : start + D - i])
        start += D - i
    return phi


def squares(batch, space):
    """[x**2, x, 1] of each row, or [x**2, x, observed] where cells are missing: 2 D + 1 or 3 D features."""
    phi, x = _with_x(batch, space, batch.X.shape[1], 1 if batch.observed is None else batch.X.shape[1])
    library(x).multiply(x, x, out=phi[: len(x)])
    if batch.observed is not None:
        phi[2 * len(x) :] = on_host(batch.observed)[0].T
    return phi


def itself(batch, space):
    """[x, 1] of each row: D + 1 features."""
    return _with_x(batch, space, 0)[0]


def _with_x(batch, space, n_before, n_after=1):
    """Memory for the features, of which x and the ones behind it are written, and the part that holds x."""
    (X,) = on_host(batch.X)
    n, D = X.shape
    phi = space.empty("phi", (n_before + D + n_after, n), X)
    x = phi[n_before : n_before + D]
    x[:] = X.T
    phi[n_before + D :] = 1
    return phi, x


@functools.cache
def pairs_of(D):
    """Place i * D + j of each product x_i x_j (i <= j) in a D x D matrix, and the factor of its coefficient."""
    i, j = np.triu_indices(D)
    return i * D + j, np.where(i == j, -0.5, -1.0)


def pairs_on(D, like):
    """Compute the same on the device of a Tensor: to send them there, the host would have to wait."""
    i, j = torch.triu_indices(D, D, device=like.device)
    return i * D + j, torch.where(i == j, -0.5, -1.0).to(like.dtype)


@functools.cache
def places_of(D):
    """Number of the product x_i x_j among the features, for each cell of a D x D matrix in order of rows."""
    i, j = np.triu_indices(D)
    place = np.empty((D, D), dtype=np.int64)
    place[i, j] = place[j, i] = np.arange(len(i))
    return place.ravel()
