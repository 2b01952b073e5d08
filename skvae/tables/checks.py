"""Checks of a table of numbers: what no fit can take, and columns that a user names."""

import numpy as np

_LARGEST = 1e150


def refuse_empty_columns(X, name, weight=None):
    """Complain of columns in which no cell was observed, in rows of some weight: nothing can be learnt of them."""
    counts = slice(None) if weight is None or np.all(weight) else np.asarray(weight) > 0
    empty = np.flatnonzero(np.isnan(X[counts]).all(axis=0))
    if len(empty):
        where = "in X" if isinstance(counts, slice) else "in the rows of X that have a weight"
        raise ValueError(
            f"{name} cannot learn a column without any observed value, but {where} every cell is NaN in column(s) "
            f"{', '.join(map(str, empty[:10]))}; drop them."
        )


def refuse_overflow(X):
    """Complain of values whose squares no float64 holds."""
    largest = max(float(np.fmax.reduce(X, axis=None)), -float(np.fmin.reduce(X, axis=None)))
    if largest > _LARGEST:
        raise ValueError(f"X holds values whose squares overflow, such as {largest:g}; scale it.")


def columns_of(estimator, columns, *, allow_all=False):
    """Find the numbers of some columns, not all, that are given by number, name or mask of a fitted estimator."""
    n = estimator.n_features_in_
    columns = np.atleast_1d(columns)
    if columns.dtype.kind in "OU":
        names = list(getattr(estimator, "feature_names_in_", []))
        unknown = [name for name in columns.tolist() if name not in names]
        if unknown:
            raise ValueError(f"no column is named {unknown[0]!r}; fit saw {names or 'no names'}.")
        columns = np.array([names.index(name) for name in columns.tolist()])
    elif columns.dtype == bool and columns.shape == (n,):
        columns = np.flatnonzero(columns)
    columns = columns.astype(np.int64) if columns.dtype.kind == "u" else columns
    if columns.ndim != 1 or columns.dtype.kind != "i" or len(np.unique(columns % n)) != len(columns):
        raise ValueError(f"expected numbers, names or a mask of distinct columns, but got {columns.tolist()}.")
    if not 0 < len(columns) < n + allow_all or columns.min() < -n or columns.max() >= n:
        some = "some" if allow_all else "some, but not all,"
        raise ValueError(f"expected {some} of {n} columns, but got {columns.tolist()}.")
    return columns % n
