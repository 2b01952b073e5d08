"""Weighted means and variances of the columns of a table, some cells of which may be missing."""

import numpy as np
import scipy.sparse as sp

from skvae import _reduce
from skvae._rounding import is_constant
from skvae._tensors import is_mapped, row_slices

_CELLS_AT_ONCE = 2**22  # in float64: a large table of float32 is never copied as a whole
_FAR = 100  # times as large are squared norms as variances where rows are far from 0
_CELLS_IN_CACHE = 2**20  # of rows read in turn


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
    if _reduce.largest(is_mapped(X)):
        return _of_blocks(X, weight, seen)
    parts = slices(X.shape[1], _CELLS_AT_ONCE // max(1, _reduce.largest(len(X))))
    found = [_mean_and_variance(X[:, part], weight, None if seen is None else seen[:, part]) for part in parts]
    return tuple(map(np.concatenate, zip(*found)))


def without_rounding(variance, mean):
    """The variances, but 0 for columns that vary by rounding only."""
    return np.where(is_constant(variance, mean), 0.0, variance)


def seen_weight(weight, seen):
    """Weight of the cells seen of each column, at least the smallest float64, so that it can be divided by."""
    return np.maximum(_reduce.count(weight @ seen.astype(np.float64)), np.finfo(np.float64).tiny)


def slices(n, step):
    """Cut `range(n)` into slices of `step`, or of 1 if that is less."""
    step = max(1, step)
    return [slice(start, start + step) for start in range(0, n, step)]


def centred(X, weight, dtype):
    """Subtract from dense rows what makes distances precise, and find the mean variance of a column.

    Neither needs more digits than X has. Unlike `column_means_and_variances`, this therefore reads rows in their own
    dtype and order.

    Parameters
    ----------
    X : {float ndarray, sparse array} of shape (n_rows, n_columns)
    weight : float64 ndarray of shape (n_rows,)
    dtype : dtype
        Of the rows returned.

    Returns
    -------
    rows : {ndarray, sparse array} of shape (n_rows, n_columns), or None
        None of a memory map, which is not copied.
    centre : float64 ndarray of shape (n_columns,), or (1,) for sparse rows
        The means rounded to the dtype of X; 0 for sparse rows, which stay sparse.
    mean_variance : float
    """
    if _reduce.largest(is_mapped(X)):
        return None, *_centre_of_blocks(X, weight)
    if sp.issparse(X):
        rows = X.astype(dtype, copy=False)
        total = _reduce.count(weight.sum())
        mean, squares = (_reduce.count(sums) / total for sums in (rows.T @ weight, rows.multiply(rows).T @ weight))
        return rows, np.zeros(1), float((squares - mean**2).mean())
    parts = slices(len(X), max(256, _CELLS_IN_CACHE // X.shape[1]))
    total = _reduce.count(weight.sum())
    sums = sum((weight[part].astype(X.dtype) @ X[part] for part in parts), np.zeros(X.shape[1], X.dtype))
    mean = (_reduce.count(sums) / total).astype(X.dtype)
    rows = X.astype(dtype, copy=False) - mean.astype(dtype)
    squares = _reduce.count(weight @ np.einsum("ij,ij->i", rows, rows))
    return rows, mean.astype(np.float64), float(squares / total / X.shape[1])


def far_from_zero(X):
    """Whether the rows of a sparse array are nearly alike for their norms, so that distances need more digits."""
    parts = (X[part] for part in row_slices(X)) if is_mapped(X) else [X]
    n, squares, total = _reduce.count(X.shape[0]), 0.0, 0.0
    for x in (part.astype(np.float64, copy=False) for part in parts):
        squares, total = squares + x.multiply(x).sum(), total + x.sum(axis=0)
    squares = _reduce.count(squares) / n
    middle = np.square(_reduce.count(total) / n).sum()
    return bool(squares - middle < squares / _FAR)


def _centre_of_blocks(X, weight):
    """Centre and mean variance of a column of a memory map, as of `centred`."""
    if not sp.issparse(X):
        mean, variance = column_means_and_variances(X, weight)
        return mean.astype(X.dtype).astype(np.float64), float(variance.mean())
    sums, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for part in row_slices(X):
        rows = X[part].astype(np.float64, copy=False)
        sums += rows.T @ weight[part]
        squares += rows.multiply(rows).T @ weight[part]
    total = _reduce.count(weight.sum())
    mean, squares = (_reduce.count(each) / total for each in (sums, squares))
    return np.zeros(1), float((squares - mean**2).mean())


def _mean_and_variance(x, weight, seen):
    x = x.astype(np.float64)
    if seen is not None:
        x[~seen] = 0
    n = _reduce.count(weight.sum()) if seen is None else seen_weight(weight, seen)
    mean = _reduce.count(weight @ x) / n
    x = _less(x, mean, seen)
    slip = _reduce.count(weight @ x) / n  # what rounding left of a large mean
    x = _less(x, slip, seen)
    return mean + slip, _reduce.count(weight @ np.square(x, out=x)) / n


def _of_blocks(X, weight, seen):
    """Means and variances from rows that are read twice, in blocks: columns of a memory map lie all over the file."""

    def blocks():
        for part in row_slices(X):
            yield X[part].astype(np.float64), weight[part], None if seen is None else seen[part]

    nothing = np.zeros(X.shape[1])
    n, total = nothing.copy(), nothing.copy()
    for x, w, cells in blocks():
        n += w.sum() if cells is None else w @ cells.astype(np.float64)
        total += w @ (_less(x, 0.0, cells))
    n, total = _reduce.count(n), _reduce.count(total)
    n = np.maximum(n, np.finfo(np.float64).tiny)
    mean, slip, squares = total / n, nothing.copy(), nothing.copy()
    for x, w, cells in blocks():
        x = _less(x, mean, cells)
        slip += w @ x  # what rounding left of a large mean
        squares += w @ np.square(x, out=x)
    slip, squares = _reduce.count(slip) / n, _reduce.count(squares) / n
    return mean + slip, squares - slip**2


def _less(x, mean, seen):
    """Subtract the mean from x, in place; put 0 where a cell is missing."""
    x -= mean
    if seen is not None:
        x[~seen] = 0
    return x
