"""Checks of a table of numbers: what no fit can take, and columns that a user names."""

import contextlib
import datetime
import itertools

import numpy as np
import scipy.sparse as sp

from skvae import _reduce
from skvae._compat import refuse_masked
from skvae._tensors import any_nan, is_mapped, row_slices
from skvae.tables.columns import cell_label, label, listed
from skvae.tables.frames import cells_of, dtypes_of, is_frame

_LARGEST, _SMALLEST = {np.dtype(np.float64): 1e150, np.dtype(np.float32): 1e18}, 1e-150


@contextlib.contextmanager
def naming_cells(X, who, *, gaps=True):
    """Name the cell, and what to do, where the block refuses a table of numbers because of one of its cells.

    Parameters
    ----------
    X : {array-like, DataFrame} of shape (n_samples, n_features)
        As it was given.
    who : str
        Name of the estimator.
    gaps : bool, default=True
        Whether cells may be missing.

    Raises
    ------
    ValueError
        If the block fails with a ValueError or a TypeError, and a cell is a string or infinite.
    TypeError
        If a column holds dates, times or durations; some of them NumPy would silently turn into numbers.
    """
    refuse_masked(X)
    typed = is_frame(X) or isinstance(X, np.ndarray)
    for j, dtype in enumerate(dtypes_of(X) if typed else []):
        if dtype.kind in "mM":
            raise TypeError(no_dates(who, label(list(X.columns) if is_frame(X) else None, j), dtype))
    try:
        yield
    except (ValueError, TypeError) as error:
        found = None if sp.issparse(X) else _refused_cell(X, who, gaps)
        if found is None:
            raise
        raise found from error


def no_dates(who, column, kind):
    """Say that a column must not hold dates, times or durations; `kind` is their dtype or type."""
    return (
        f"{who} expects numbers, but column {column!r} holds dates or times ({kind}); turn it into numbers, for "
        "example days since a date, or drop it."
    )


def no_strings(who, cell, value):
    """Say that a cell must not be a string."""
    return (
        f"{who} expects numbers, but {cell} = {value!r} is a string; encode the column, for example by OneHotEncoder, "
        "or drop it. VAETransformer(likelihood='auto') reads strings as categories."
    )


def _refused_cell(X, who, gaps):
    """The error about the first cell that is a string, a date or infinite; None where there is none."""
    try:
        table = X if is_frame(X) else np.asarray(X, dtype=None if isinstance(X, np.ndarray) else object)
    except ValueError:  # rows of several lengths
        return None
    if len(table.shape) != 2:
        return None
    names = list(table.columns) if is_frame(table) else None
    for j in range(table.shape[1]):
        values, missing = cells_of(table, j)
        for row in _no_numbers(values, missing):
            cell, value = cell_label(names, row, j), values[row]
            if isinstance(value, str | bytes):
                return ValueError(no_strings(who, cell, value))
            if is_date(value):
                return TypeError(no_dates(who, label(names, j), type(value).__name__))
            asked, remedy = (", NaN where a cell is missing", ", or make such cells missing") if gaps else ("", "")
            return ValueError(  # in scikit-learn's words first
                f"Input X contains infinity: {who} expects finite values{asked}, but {cell} = {value}; "
                f"correct it{remedy}."
            )
    return None


def _no_numbers(values, missing):
    """Rows whose cells are strings, dates or infinite."""
    if values.dtype != object:
        return np.flatnonzero(np.isinf(values)) if values.dtype.kind == "f" else []
    return [row for row in np.flatnonzero(~missing) if is_date(values[row]) or not _is_finite(values[row])]


def is_date(value):
    """Tell whether a cell is a date, a time, a duration or a period of pandas."""
    times = datetime.date | datetime.time | datetime.timedelta | np.datetime64 | np.timedelta64
    return isinstance(value, times) or type(value).__name__ == "Period"


def _is_finite(value):
    """Tell whether a cell is a finite number, or of a type of which scikit-learn itself says what is wrong."""
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False
    except TypeError:
        return True


def refuse_empty_columns(X, who, weight=None, names=None):
    """Complain of columns in which no cell was observed, in rows of some weight: nothing can be learnt of them."""
    if not _reduce.largest(any_nan(X)):
        return
    counts = slice(None) if weight is None or np.all(weight) else np.asarray(weight) > 0
    empty = np.flatnonzero(_reduce.count((~np.isnan(X[counts])).sum(axis=0)) == 0)
    if len(empty):
        where = "in X" if isinstance(counts, slice) else "in the rows of X that have a weight"
        raise ValueError(
            f"{who} cannot learn a column without any observed value, but {where} every cell is NaN in column(s) "
            f"{listed(empty, names)}; drop them."
        )


def refuse_gaps(numbers, columns):
    """Complain of the first missing cell, for an estimator that needs them all."""
    for part in row_slices(numbers):
        missing = np.isnan(numbers[part])
        if not missing.any():
            continue
        row, j = np.unravel_index(missing.argmax(), missing.shape)
        row += part.start
        raise ValueError(  # in scikit-learn's words first
            f"Input X contains NaN: {columns.who} needs every cell, but {columns.cell(row, j)} is missing; impute it, "
            "for example by VAETransformer.impute, or drop such rows."
        )


def largest_magnitude(X):
    """The largest absolute value of the cells that are not NaN."""
    parts = (np.asarray(X[part]) for part in row_slices(X)) if is_mapped(X) else [X]
    ends = [(float(np.fmax.reduce(x, axis=None)), -float(np.fmin.reduce(x, axis=None))) for x in parts]
    return float(np.fmax.reduce(ends, axis=None))  # a block may hold nothing but NaN


def refuse_overflow(X, dtype=None):
    """Complain of values whose squares a dtype, by default that of X, does not hold."""
    dtype = X.dtype if dtype is None else np.dtype(dtype)
    if not X.size:
        return
    largest = largest_magnitude(X)
    if largest > _LARGEST[dtype]:
        wider = " or give float64" if dtype == np.float32 else ""
        raise ValueError(f"X holds values whose squares overflow in {dtype}, such as {largest:g}; scale it{wider}.")


def refuse_underflow(numbers, names=None):
    """Complain of columns that differ by so little that the squares of it are zero: they would pass for constants."""
    ends = [(np.fmin.reduce(numbers, axis=0), np.fmax.reduce(numbers, axis=0))] if len(numbers) else []
    lowest, highest = zip(*itertools.chain(*_reduce.gathered(ends)), strict=True)
    span = np.fmax.reduce(highest) - np.fmin.reduce(lowest)
    tiny = np.flatnonzero((span > 0) & (span < _SMALLEST))
    if len(tiny):
        raise ValueError(
            f"X holds differences whose squares vanish in float64, such as {span[tiny[0]]:g}, in column(s) "
            f"{listed(tiny, names)}; scale them, or drop them."
        )


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
