"""Drops rows of weight zero, merges equal rows in small fits, and splits rows into observations."""

import contextlib

import numpy as np
import scipy.sparse as sp

from skvae import _reduce
from skvae._compat import check_sample_weight
from skvae._hash import combine

_FEW_CELLS = 2**18  # cells up to which equal rows are merged: a hash and a sort, a millisecond or two


def weigh(X, sample_weight, n_hashed=None):
    """Drop rows of weight zero; in small fits, merge equal rows and sort them by content.

    What a fit draws at random is drawn for the rows that are left. So rows of weight zero change nothing, nor does the
    order of the rows, nor whether a row is given twice or with twice the weight. In large fits the other rows stay as
    they are.

    Parameters
    ----------
    X : {ndarray, CSR array} of shape (n_samples, n_features)
        Checked; NaN equals NaN.
    sample_weight : array-like of shape (n_samples,) or None
    n_hashed : int or None, default=None
        Sort rows by so many columns, or twice, three times, ... as many where that does not tell all rows apart that
        differ; by their values in float32, so that float64 rows come in the same order. None: by all columns.

    Returns
    -------
    X : {ndarray, CSR array} of shape (n_rows, n_features)
        The very same object where nothing had to change.
    weight : float64 ndarray of shape (n_rows,) or None
        None where every row counts once.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or all of them are zero, or their number is not that of the rows.
    """
    X, weight = drop_weightless(X, sample_weight)
    if not _reduce.is_shared() and X.shape[0] * X.shape[1] <= _FEW_CELLS:
        dense = X.toarray() if sp.issparse(X) else X
        rows, starts = _by_content(dense, n_hashed)
        if len(starts) < len(rows):
            weight = np.add.reduceat(np.ones(len(rows)) if weight is None else weight[rows], starts)
            rows = rows[starts]
        elif weight is not None:
            weight = weight[rows]
        X = dense.take(rows, axis=0) if dense.flags.c_contiguous else dense[rows]  # the first takes less time
    return X, None if weight is None or (weight == 1).all() else weight


def agree_in_weights(sample_weight):
    """Refuse that some processes of a shared fit give weights, and others none."""
    _reduce.agree(weights="sample_weight" if sample_weight is not None else "no sample_weight")


@contextlib.contextmanager
def together_if_small(X, sample_weight):
    """Give every process of a shared fit the rows of all, where they are few: then each fits alone.

    Yields
    ------
    X, sample_weight
        The rows of all, or this process's own.
    """
    agree_in_weights(sample_weight)
    if not _reduce.is_shared():
        yield X, sample_weight
        return
    weight = np.ones(X.shape[0]) if sample_weight is None else checked_weight(sample_weight, X)
    counts = np.flatnonzero(weight)
    n = _reduce.count(len(counts))
    if not n:
        raise ValueError("sample_weight is zero for all rows of all processes.")
    if n * X.shape[1] > _FEW_CELLS:
        yield X, sample_weight
        return
    parts = _reduce.gathered((X[counts], weight[counts]))
    rows = (sp.vstack if sp.issparse(X) else np.concatenate)([rows for rows, _ in parts])
    weights = np.concatenate([weight for _, weight in parts])
    with _reduce.alone():
        yield rows, None if (weights == 1).all() else weights


def in_order_of_values(X, weight):
    """Sort the rows of `weigh` by the values of two columns in small fits: a shift of X leaves this order as it is.

    Parameters and result are rows and weights as `weigh` returns them.
    """
    if X.size > _FEW_CELLS or _reduce.is_shared():
        return X, weight
    order = np.lexsort(X[:, :2].T[::-1])
    return X[order], None if weight is None else weight[order]


def _by_content(X, n_hashed):
    """An order of the rows that does not depend on theirs, and the places in it where another row begins."""
    if n_hashed == 1:  # most often one column of real numbers tells all rows apart: then it is sorted without a hash
        with np.errstate(over="ignore"):
            column = X[:, 0].astype(np.float32)
        order = np.argsort(column)
        column = column[order]
        if (column[1:] > column[:-1]).all():  # NaN is above nothing
            return order, np.arange(len(order))
    key = np.zeros(len(X), dtype=np.int64)
    for start in range(0, X.shape[1], n_hashed) if n_hashed else ():
        key = _hashed(key, X[:, start : start + n_hashed], np.float32)
        order, starts, certain = _sorted_by(key, X, None)
        if certain:
            return order, starts
    return _sorted_by(_hashed(key, X, np.float64), X, "stable")[:2]


def _hashed(key, cells, dtype):
    """Hash columns, rounded to a dtype, into a key of each row; 0.0 and -0.0 are one value, and so are all NaNs."""
    with np.errstate(over="ignore"):
        cells = np.where(np.isnan(cells), np.nan, cells.astype(dtype) + dtype(0)).astype(dtype, copy=False)
    for column in cells.view(f"i{cells.itemsize}").astype(np.int64, copy=False).T:
        key = combine(key, column)
    return key


def _sorted_by(key, X, kind):
    """Sort by keys; the order, the places where another row begins, and whether rows of equal keys are equal."""
    order = np.argsort(key, kind=kind)
    key = key[order]
    twins = np.flatnonzero(key[1:] == key[:-1])  # rows of another key differ
    if not len(twins):
        return order, np.arange(len(key)), True
    one, other = X[order[twins]], X[order[twins + 1]]
    same = ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)
    return order, np.delete(np.arange(len(key)), twins[same] + 1), same.all()


def observations(weight, most=None):
    """Split rows into observations: a row of weight w is w of them, the last of which may weigh less than one.

    Parameters
    ----------
    weight : float64 ndarray of shape (n_rows,)
    most : int or None, default=None
        Above so many, an observation stands for several.

    Returns
    -------
    row : int64 ndarray of shape (n_observations,)
        Of each observation, in order.
    weight : float64 ndarray of shape (n_observations,)
    """
    size = 1.0 if most is None else max(1.0, _reduce.count(weight.sum()) / most)
    n = np.ceil(weight / size).astype(np.int64)
    weight_of = np.full(n.sum(), size)
    weight_of[np.cumsum(n) - 1] = weight - (n - 1) * size
    return np.repeat(np.arange(len(weight)), n), weight_of


def spread(X, weight, n_rows):
    """Split heavy rows of a table that has fewer than `n_rows` into equal ones, towards that number.

    A network draws noise for each row of a step, and a few rows of large weight draw too little. No row is split into
    more rows than whole observations.

    Parameters
    ----------
    X : ndarray of shape (n_distinct, n_features)
    weight : float64 ndarray of shape (n_distinct,) or None
    n_rows : int

    Returns
    -------
    X, weight
        The very same objects where nothing had to change.
    """
    heaviest = _reduce.largest(1.0 if weight is None else weight.max(initial=0.0))
    if heaviest <= 1 or _reduce.count(len(X)) >= n_rows:
        return X, weight
    weight = np.ones(len(X)) if weight is None else weight
    most = np.maximum(np.floor(weight), 1.0)
    parts = np.floor(n_rows * weight / _reduce.count(weight.sum())).clip(1.0, most).astype(np.int64)
    row = np.repeat(np.arange(len(X)), parts)
    each = np.floor(weight / parts)  # whole observations; the first parts get one more, the last what is left
    rank = np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
    left = np.floor(weight) - each * parts
    split = each[row] + (rank < left[row])
    split[np.cumsum(parts) - 1] += weight - np.floor(weight)
    return X[row], split


def scaled(weight):
    """Weights of mean 1 over the rows of all processes."""
    total, n = _reduce.total((weight.sum(), len(weight)))
    return weight / (total / n)


def weighted_mean(values, weight):
    """Mean over the rows of all processes, by weight."""
    by_row = weight.reshape(-1, *[1] * (values.ndim - 1))
    total, n = _reduce.total(((values * by_row).sum(axis=0), weight.sum()))
    return total / n


def drop_weightless(X, sample_weight):
    """Check weights, and drop rows of weight zero; return the rows, and their weights in float64, None if none came."""
    if sample_weight is None:
        return X, None
    weight = checked_weight(sample_weight, X)
    kept = np.flatnonzero(weight)
    return (X, weight) if len(kept) == len(weight) else (X[kept], weight[kept])


def checked_weight(sample_weight, X):
    """Weights of rows in float64, not negative. In a shared fit those of one process may all be zero."""
    if not X.shape[0]:
        return np.empty(0)
    return check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=_reduce.is_shared()
    )
