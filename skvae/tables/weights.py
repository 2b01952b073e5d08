"""Drops rows of weight zero, merges equal rows in small fits, and splits rows into observations."""

import numpy as np
import scipy.sparse as sp

from skvae._compat import check_sample_weight
from skvae._hash import combine

_FEW_CELLS = 2**18  # cells up to which equal rows are merged: a hash and a sort, a millisecond or two


def weigh(X, sample_weight):
    """Drop rows of weight zero; in small fits, merge equal rows and sort them by content.

    What a fit draws at random is drawn for the rows that are left. So rows of weight zero change nothing, nor does the
    order of the rows, nor whether a row is given twice or with twice the weight. In large fits the other rows stay as
    they are.

    Parameters
    ----------
    X : {ndarray, CSR array} of shape (n_samples, n_features)
        Checked; NaN equals NaN.
    sample_weight : array-like of shape (n_samples,) or None

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
    if X.shape[0] * X.shape[1] <= _FEW_CELLS:
        dense = X.toarray() if sp.issparse(X) else X
        # float32 and float64 of the same value have the same key; so do 0.0 and -0.0, and all NaNs.
        cells = np.where(np.isnan(dense), np.nan, dense.astype(np.float64) + 0.0).view(np.int64)
        key = np.zeros(len(dense), dtype=np.int64)
        for column in cells.T:
            key = combine(key, column)
        order = np.argsort(key, kind="stable")
        rows = dense[order]
        same = (rows[1:] == rows[:-1]) | (np.isnan(rows[1:]) & np.isnan(rows[:-1]))
        starts = np.flatnonzero(np.concatenate([[True], ~same.all(axis=1)]))
        weight = np.ones(len(key)) if weight is None else weight
        X, weight = X[order[starts]], np.add.reduceat(weight[order], starts)
    return X, None if weight is None or (weight == 1).all() else weight


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
    size = 1.0 if most is None else max(1.0, weight.sum() / most)
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
    if weight is None or len(X) >= n_rows or weight.max() <= 1:
        return X, weight
    most = np.maximum(np.floor(weight), 1.0)
    parts = np.floor(n_rows * weight / weight.sum()).clip(1.0, most).astype(np.int64)
    row = np.repeat(np.arange(len(X)), parts)
    each = np.floor(weight / parts)  # whole observations; the first parts get one more, the last what is left
    rank = np.arange(len(row)) - np.repeat(np.cumsum(parts) - parts, parts)
    left = np.floor(weight) - each * parts
    split = each[row] + (rank < left[row])
    split[np.cumsum(parts) - 1] += weight - np.floor(weight)
    return X[row], split


def drop_weightless(X, sample_weight):
    """Check weights, and drop rows of weight zero; return the rows, and their weights in float64, None if none came."""
    if sample_weight is None:
        return X, None
    weight = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    kept = np.flatnonzero(weight)
    return (X, weight) if len(kept) == len(weight) else (X[kept], weight[kept])
