"""Random numbers keyed by seeds, rows and columns: the order in which they are drawn does not matter."""

import math
from zlib import crc32

import numpy as np
import torch

from skvae._hash import combine


class Noise:
    """Random numbers as a pure function of (seed, path, row, column).

    No state and no stream to advance: a row draws the same numbers whatever batch, shard or order it comes in, and
    a column the same whatever the number of columns asked for.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed):
        self.key, self._folded = int(seed), {}

    def fold(self, *path):
        """Return noise of its own for a purpose, such as `noise.fold("dropout", epoch)`."""
        if path not in self._folded:  # remembered: a loop asks for the same one at every step
            key = np.array([self.key], dtype=np.int64)
            for step in path:
                key = combine(key, np.array([crc32(step.encode()) if isinstance(step, str) else step], dtype=np.int64))
            self._folded[path] = Noise(key[0])
        return self._folded[path]

    def keys(self, row):
        """Return a key for each row, from which its cells draw."""
        return combine(self.key, row)

    def uniform(self, row, n_columns, dtype=torch.float32):
        """Draw from the uniform distribution on (0, 1), of shape (len(row), n_columns)."""
        return uniform_at(self.keys(row)[:, None], torch.arange(n_columns, device=row.device), dtype)

    def normal(self, row, n_columns, dtype=torch.float32):
        """Draw from the standard normal, of shape (len(row), n_columns), as Box and Muller (1958) do."""
        return normal_at(self.keys(row)[:, None], torch.arange(n_columns, device=row.device), dtype)

    def permutation(self, n):
        """Return an order of n rows, as an int64 array: the rows sorted by their own random bits."""
        return np.argsort(self.keys(np.arange(n, dtype=np.int64)), kind="stable")


def uniform_at(key, column, dtype=torch.float32):
    """Draw from the uniform distribution on (0, 1) for single cells, by row `keys` and columns, which broadcast.

    Arrays of both make an array of float64, with the numbers that tensors make in that dtype.
    """
    bits = combine(key, column) >> 40
    return ((bits & 0x7FFFFF) + 0.5) * 2.0**-23 if isinstance(bits, np.ndarray) else _unit(bits, dtype)


def normal_at(key, column, dtype=torch.float32):
    """Draw from the standard normal for single cells, by row `keys` and columns, which broadcast."""
    bits = combine(key, column)
    radius = _unit(bits >> 40, dtype).log_().mul_(-2).sqrt_()
    return radius.mul_(_unit(bits, dtype).mul_(2 * math.pi).cos_())


def _unit(bits, dtype):
    """Map the lowest 23 bits to the midpoints of 2**23 equal parts of (0, 1): float32 holds each of them exactly."""
    return (bits & 0x7FFFFF).to(dtype).add_(0.5).mul_(2.0**-23)


def content_keys(X):
    """Hash the content of each row: equal rows have equal keys, of float32 and of float64 alike.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
        NaN equals NaN. Numbers that are equal in float32 count as equal.

    Returns
    -------
    key : int64 ndarray of shape (n_rows,)
    """
    with np.errstate(over="ignore"):
        single = X.astype(np.float32) + np.float32(0.0)  # -0.0 becomes 0.0
    single[np.isnan(single)] = np.nan  # of one sign and payload
    bits = single.view(np.int32).astype(np.int64)
    return combine(np.arange(X.shape[1], dtype=np.int64), bits).sum(1)
