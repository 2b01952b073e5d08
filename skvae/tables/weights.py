"""Drops rows of weight zero and, in small fits, merges equal rows."""

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


def drop_weightless(X, sample_weight):
    """Check weights, and drop rows of weight zero; return the rows, and their weights in float64, None if none came."""
    if sample_weight is None:
        return X, None
    weight = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    kept = np.flatnonzero(weight)
    return (X, weight) if len(kept) == len(weight) else (X[kept], weight[kept])
