"""The road from X to batches: rows and weights that count, what no fit can take, and results in the order of X.

check -> weights -> (small fits) equal rows merged -> `Table` or `Rows` -> an engine climbs -> NumPy attributes
"""

import numpy as np
import scipy.sparse as sp

from skvae._compat import check_sample_weight
from skvae._hash import combine

_FEW_CELLS = 2**18  # up to here, equal rows are merged: a hash and a sort, a millisecond or two
_LARGEST = 1e150
_CELLS_A_BATCH = {"cpu": 2**19, "cuda": 2**26}


def weigh(X, sample_weight):
    """Rows that count, and their weights; in small fits, each distinct row once and in an order of its content.

    So rows of weight zero change nothing, and neither does the order of the rows, or whether a row is given twice or
    with twice the weight: what a fit draws at random is drawn for the rows that are left. In large fits the rows stay
    as they come.

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
    weight = None
    if sample_weight is not None:
        weight = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if not weight.all():
            kept = np.flatnonzero(weight)
            X, weight = X[kept], weight[kept]
    if X.shape[0] * X.shape[1] <= _FEW_CELLS:
        X, weight = _merged(X, weight)
    return X, None if weight is None or (weight == 1).all() else weight


def _merged(X, weight):
    dense = X.toarray() if sp.issparse(X) else X
    key = _content_key(dense)
    order = np.argsort(key, kind="stable")
    rows = dense[order]
    same = (rows[1:] == rows[:-1]) | (np.isnan(rows[1:]) & np.isnan(rows[:-1]))
    starts = np.flatnonzero(np.concatenate([[True], ~same.all(axis=1)]))
    weight = np.ones(len(key)) if weight is None else weight
    return X[order[starts]], np.add.reduceat(weight[order], starts)


def _content_key(X):
    """A hash of each row. float32 and float64 of the same value agree; so do 0.0 and -0.0, and all NaNs."""
    cells = np.where(np.isnan(X), np.nan, X.astype(np.float64) + 0.0).view(np.int64)
    key = np.zeros(len(X), dtype=np.int64)
    for column in cells.T:
        key = combine(key, column)
    return key


def rows_a_batch(batch_size, n_columns, device):
    """`batch_size`, or as many rows as suit the caches of this kind of device."""
    if batch_size != "auto":
        return batch_size
    return max(256, _CELLS_A_BATCH["cpu" if device.type == "cpu" else "cuda"] // n_columns)


def by_row(batches, n_rows, function, dtype=None):
    """What a function says of the rows of each batch, put together in the order of the table.

    Parameters
    ----------
    batches : iterable
        Of a table, with the number of each row as `row`.
    n_rows : int
    function : callable
        Batch -> Tensor of shape (n_rows_of_the_batch, ...).
    dtype : dtype or None, default=None
        Of what is returned, unless it is integers; None: as it comes.

    Returns
    -------
    values : ndarray of shape (n_rows, ...)
    """
    out = None
    for batch in batches:
        values = function(batch).cpu().numpy()
        if out is None:
            as_it_comes = dtype is None or values.dtype.kind == "i"
            out = np.empty((n_rows, *values.shape[1:]), dtype=values.dtype if as_it_comes else dtype)
        out[batch.row.cpu().numpy()] = values
    return out


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
    """Numbers of some columns of a fitted estimator that are given by number, name or mask; not of all columns."""
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
