"""Tables as users have them, arrays and DataFrames: their cells as numbers, and numbers as their cells again.

Neither pandas nor polars is imported: a frame is known by what it can do.
"""

from numbers import Real

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array

from skvae import _reduce
from skvae.tables import polars_frames
from skvae.tables.polars_frames import is_polars


# --------------------------------------------------------------------------------------------------------- from a table
def is_frame(X):
    """Tell whether X is a DataFrame of pandas or polars, by what it can do."""
    return hasattr(X, "iloc") and getattr(X, "ndim", 0) == 2 or is_polars(X)


def as_table(X, who):
    """Give a frame as it is, all else as an array of two dimensions; scikit-learn refuses the rest in its words."""
    if not is_frame(X):
        if sp.issparse(X):
            check_array(X, estimator=who)
        given, X = X, np.asarray(X)
        if X.dtype.kind in "US" and not isinstance(given, np.ndarray):  # [[1, "a"]]: the 1 should stay a number
            X = np.asarray(given, dtype=object)
    nothing = 0 in X.shape[_reduce.is_shared() :]  # a process of a shared fit may have no rows
    if nothing or not is_frame(X) and (X.ndim != 2 or X.dtype.kind not in "fiubOUS"):
        check_array(X, ensure_all_finite=False, estimator=who)
        raise ValueError(f"{who} expects a table of numbers, Booleans or strings, but X has dtype {X.dtype}.")
    return X


def dtypes_of(table):
    """List the dtype of each column of a frame (of polars: its like in NumPy), or the one of an array."""
    if is_polars(table):
        return polars_frames.numpy_dtypes(table)
    return list(table.dtypes) if is_frame(table) else [table.dtype]


def common_dtype(table):
    """Choose float32 where nothing else is in the table, else float64."""
    return np.float32 if all(dtype == np.float32 for dtype in dtypes_of(table)) else np.float64


def all_numbers(table):
    """Tell whether NumPy alone can read the table: no objects, strings, categories or nullable dtypes."""
    return all(isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in dtypes_of(table))


def _is_float(dtype):
    return isinstance(dtype, np.dtype) and dtype.kind == "f"


def cells_of(table, j):
    """Give the cells of a column as floats, integers, Booleans or objects, and which of them are missing."""
    if is_polars(table):
        return polars_frames.cells_of(table, j)
    if is_frame(table):
        series = table.iloc[:, j]
        missing = series.isna().to_numpy(dtype=bool)
        if series.dtype.kind not in "fiub":
            return series.to_numpy(dtype=object), missing
        if isinstance(series.dtype, np.dtype):
            return series.to_numpy(), missing
        return series.to_numpy(dtype=np.float64, na_value=np.nan), missing
    column = table[:, j]
    if column.dtype.kind in "fiub":
        return column, np.isnan(column)
    column = column.astype(object)
    return column, np.fromiter(map(is_missing, column), dtype=bool, count=len(column))


def is_missing(value):
    """Tell whether a cell of objects is None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, Real) and value != value)


def names_of(table, names):
    """List the names of the columns where all are strings, else None."""
    names = list(table.columns) if is_frame(table) else names
    return None if names is None or not all(isinstance(name, str) for name in names) else list(names)


def all_booleans(table, j):
    """Tell whether a column has Booleans only; as objects too, which pandas makes of Booleans and None."""
    dtype = dtypes_of(table)[j if is_frame(table) else 0]
    if dtype.kind != "O" or not isinstance(dtype, np.dtype):
        return dtype.kind == "b"
    values, missing = cells_of(table, j)
    return not missing.all() and all(isinstance(value, bool | np.bool) for value in values[~missing])


def declared_levels(table, j):
    """List the levels that a frame declares for a column of categories, observed or not."""
    return list(getattr(dtypes_of(table)[j], "categories", ())) if is_frame(table) else []


# ----------------------------------------------------------------------------------------------------------- to a table
def imputed(X, checked, values, *, are_levels=False):
    """Copy a table of numbers, as it was given, with values in its missing cells.

    Parameters
    ----------
    X : {DataFrame, array-like} of shape (n_samples, n_features)
    checked : float ndarray of shape (n_samples, n_features)
        The same after scikit-learn's checks.
    values : float ndarray of shape (n_samples, n_features)
        Read where `checked` is NaN.
    are_levels : bool, default=False
        Whether these are values that a column may have; else the nearest of its categories is taken.

    Returns
    -------
    X_filled : {DataFrame, ndarray} of shape (n_samples, n_features)
        A frame keeps its dtypes, which decide whether integers are rounded and Booleans are made; all else is an array
        of the dtype of `checked`.
    """
    missing = np.isnan(checked)
    if not is_frame(X):
        return merged(missing, values, checked)

    def cells(j, rows, dtype):
        found = values[rows, j]
        return found if are_levels and hasattr(dtype, "categories") else words(found, dtype)

    return filled_frame(X, missing, cells)


def merged(missing, values, cells):
    """Give the cells with values where they are missing, as far as their dtype reaches."""
    limits = np.finfo(cells.dtype)
    return np.where(missing, np.clip(values, limits.min, limits.max), cells).astype(cells.dtype, copy=False)


def filled_frame(X, missing, cells):
    """Copy a frame, with `cells(j, rows, dtype)` in the missing cells of column j: in the rows of a mask."""
    if is_polars(X):
        return polars_frames.filled(X, missing, cells)
    out = X.copy()
    for j in np.flatnonzero(missing.any(axis=0)):
        series, rows = X.iloc[:, j], missing[:, j]
        found, dtype = cells(j, rows, series.dtype), series.dtype
        if _is_float(dtype) and rows.all() and found.dtype.kind != "f":  # nothing says that floats are meant
            column, dtype = found, None
        else:
            column = series.to_numpy(dtype=dtype if _is_float(dtype) else object, copy=True)
            column[rows] = found
        out.isetitem(j, series_like(series, column, dtype, X.index))
    return out


def words(numbers, dtype, levels=None, *, boolean=False):
    """Turn numbers of a column into what the user has there: levels, Booleans, integers or themselves.

    Parameters
    ----------
    numbers : float ndarray
        NaN where a cell is to stay missing.
    dtype : dtype
        Of NumPy or pandas; integers are rounded, Booleans whether a number exceeds 0.5, categories the nearest.
    levels : list or None, default=None
        What the numbers are places in.
    boolean : bool, default=False
        Whether the column holds Booleans, though its dtype does not say so.
    """
    if levels is not None:
        values = np.empty(len(levels) + 1, dtype=object)  # the last stands for missing cells
        values[:-1] = levels
        return values[np.where(np.isnan(numbers), -1, numbers).astype(np.intp)]
    if hasattr(dtype, "categories"):
        known = np.asarray(dtype.categories)
        away = np.abs(known.astype(np.float64) - np.nan_to_num(numbers)[:, None])
        return _with_gaps(known[away.argmin(1)].astype(object), numbers)
    if dtype.kind == "b" or boolean:
        return _with_gaps(numbers > 0.5, numbers)
    if dtype.kind in "iu":
        limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
        largest = float(limits.max)
        if largest > limits.max:  # 2^63 - 1 as a float is 2^63
            largest = np.nextafter(largest, 0)
        rounded = np.rint(np.nan_to_num(numbers).astype(np.float64))
        return _with_gaps(np.clip(rounded, limits.min, largest), numbers)
    return numbers


def series_like(like, cells, dtype, index):
    """Make a column of a frame like another, without asking for pandas; categories take in what they lack.

    With None for the dtype, it is that of the cells.
    """
    if hasattr(dtype, "categories"):
        known = set(dtype.categories)
        new = [value for value in dict.fromkeys(cells) if not is_missing(value) and value not in known]
        if new:
            dtype = type(dtype)([*dtype.categories, *new], ordered=dtype.ordered)
    return type(like)(cells, index=index, name=like.name, dtype=dtype)


def _with_gaps(cells, numbers):
    """Give the cells, None where a number is NaN."""
    missing = np.isnan(numbers)
    if missing.any():
        cells = cells.astype(object)
        cells[missing] = None
    return cells
