"""Features of rows in which the log-density of a Gaussian is linear."""

import functools

import numpy as np
import torch


def quadratic_features(batch, space):
    """[x_i x_j (i <= j), x, 1] of each row, of shape (D (D + 1) / 2 + D + 1, n_rows): a column a row of the batch."""
    X = batch.X
    n, D = X.shape
    phi = space.empty("phi", (D * (D + 1) // 2 + D + 1, n), X)
    x = phi[-D - 1 : -1].copy_(X.mT)
    phi[-1] = 1
    start = 0
    for i in range(D):
        torch.mul(x[i], x[i:], out=phi[start : start + D - i])
        start += D - i
    return phi


def squares(batch, space):
    """[x**2, x] of each row, and beside them what was observed, if not everything: (n_rows, 2 D or 3 D)."""
    n, D = batch.X.shape
    phi = space.empty("phi", (n, 2 * D if batch.observed is None else 3 * D), batch.X)
    torch.mul(batch.X, batch.X, out=phi[:, :D])
    phi[:, D : 2 * D] = batch.X
    if batch.observed is not None:
        phi[:, 2 * D :] = batch.observed
    return phi


@functools.cache
def pairs_of(D):
    """Numbers (i, j) of the columns of each product among the quadratic features, and the factor of its coefficient."""
    i, j = np.triu_indices(D)
    return i, j, np.where(i == j, -0.5, -1.0)


def pairs_on(D, like):
    return [torch.as_tensor(part, device=like.device) for part in pairs_of(D)]


@functools.cache
def places_of(D):
    """Number of the product x_i x_j among the quadratic features, of shape (D, D)."""
    i, j, _ = pairs_of(D)
    place = np.empty((D, D), dtype=np.int64)
    place[i, j] = place[j, i] = np.arange(len(i))
    return place
