"""Weighted means and variances of the columns of a table, some cells of which may be missing."""

import numpy as np

from skvae._rounding import is_constant

_CELLS_AT_ONCE = 2**22  # in float64: a large table of float32 is never copied as a whole


def column_means_and_variances(X, weight=None, seen=None):
    """Mean and variance of each column over the cells seen, in float64 whatever X is.

    Digits are kept where means are large for their spread: what rounding leaves of a mean is taken off once more.

    Parameters
    ----------
    X : float ndarray of shape (n_rows, n_columns)
        What stands in cells that were not seen does not matter.
    weight : float64 ndarray of shape (n_rows,) or None, default=None
        None: every row counts once.
    seen : bool ndarray of shape (n_rows, n_columns) or None, default=None
        None: every cell.

    Returns
    -------
    mean, variance : float64 ndarray of shape (n_columns,)
        0 in columns of which no cell was seen.
    """
    weight = np.ones(len(X)) if weight is None else weight
    parts = slices(X.shape[1], _CELLS_AT_ONCE // len(X))
    moments = [_moments_of(X[:, part], weight, None if seen is None else seen[:, part]) for part in parts]
    return tuple(map(np.concatenate, zip(*moments)))


def without_rounding(variance, mean):
    """The variances, but 0 for columns that vary by rounding only."""
    return np.where(is_constant(variance, mean), 0.0, variance)


def seen_weight(weight, seen):
    """Weight of the cells seen of each column: no less than next to nothing, to divide by."""
    return np.maximum(weight @ seen.astype(np.float64), np.finfo(np.float64).tiny)


def slices(n, step):
    """`range(n)` in slices of `step`, or of 1 if that is less."""
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, n, step)]


def _moments_of(x, weight, seen):
    x = _less(x.astype(np.float64), 0.0, seen)
    n = weight.sum() if seen is None else seen_weight(weight, seen)
    mean = weight @ x / n
    x = _less(x, mean, seen)
    slip = weight @ x / n  # what rounding left of a large mean
    x = _less(x, slip, seen)
    return mean + slip, weight @ np.square(x, out=x) / n


def _less(x, mean, seen):
    """X less the mean, in place; zero where a cell is missing."""
    x -= mean
    if seen is not None:
        x[~seen] = 0
    return x
