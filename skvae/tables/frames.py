"""Tables as users have them, arrays and DataFrames: their cells as numbers, and numbers as their cells again.

A frame is known by what it can do. pandas is imported only to make anew what a fit on a frame has left: its dtypes and
labels, and values such as dates, all of which are kept in plain words.
"""

from numbers import Real
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array


# --------------------------------------------------------------------------------------------------------- from a table
def is_frame(X):
    """Whether X is a pandas DataFrame, by what it can do."""
    return hasattr(X, "iloc") and getattr(X, "ndim", 0) == 2


def as_table(X, who):
    """A frame as it is, anything else as an array of two dimensions; scikit-learn refuses the rest in its words."""
    if not is_frame(X):
        if sp.issparse(X):
            check_array(X, estimator=who)
        given, X = X, np.asarray(X)
        if X.dtype.kind in "US" and not isinstance(given, np.ndarray):  # [[1, "a"]]: the 1 should stay a number
            X = np.asarray(given, dtype=object)
    if X.ndim != 2 or 0 in X.shape or (not is_frame(X) and X.dtype.kind not in "fiubOUS"):
        check_array(X, ensure_all_finite=False, estimator=who)
        raise ValueError(f"{who} expects a table of numbers, Booleans or strings, but X has dtype {X.dtype}.")
    return X


def dtypes_of(table):
    """The dtype of each column of a frame; of an array its one."""
    return list(table.dtypes) if is_frame(table) else [table.dtype]


def common_dtype(table):
    """float32 where nothing else is in the table, else float64."""
    return np.float32 if all(dtype == np.float32 for dtype in dtypes_of(table)) else np.float64


def all_numbers(table):
    """Whether NumPy alone can read the table: no objects, strings, categories or nullable dtypes."""
    return all(isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in dtypes_of(table))


def _is_float(dtype):
    return isinstance(dtype, np.dtype) and dtype.kind == "f"


def cells_of(table, j):
    """The cells of a column as floats, integers, Booleans or objects, and which of them are missing."""
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
    """Whether a cell of objects is None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, Real) and value != value)


def names_of(table, names):
    """Names of the columns where all are strings, else None."""
    names = list(table.columns) if is_frame(table) else names
    return None if names is None or not all(isinstance(name, str) for name in names) else list(names)


def all_booleans(table, j):
    """Whether a column has Booleans only; as objects too, which pandas makes of Booleans and None."""
    dtype = dtypes_of(table)[j if is_frame(table) else 0]
    if dtype.kind != "O" or not isinstance(dtype, np.dtype):
        return dtype.kind == "b"
    values, missing = cells_of(table, j)
    return not missing.all() and all(isinstance(value, bool | np.bool) for value in values[~missing])


def declared_levels(table, j):
    """The levels that a frame declares for a column of categories, observed or not."""
    dtype = table.dtypes.iloc[j] if is_frame(table) else None
    return list(getattr(dtype, "categories", ()))


# ------------------------------------------------------------------------------------------------------- in plain words
class Labels(NamedTuple):
    """An index of pandas in plain words.

    Attributes
    ----------
    values : list
        Plain values; tuples where there are several levels.
    dtype : str
        "" where there are several levels.
    names : list
        Of the levels.
    """

    values: list
    dtype: str
    names: list


class DtypeFacts(NamedTuple):
    """A dtype of a column in plain words.

    Attributes
    ----------
    name : str
    categories : Labels or None
    ordered : bool
    """

    name: str
    categories: Labels | None = None
    ordered: bool = False


class FrameFacts(NamedTuple):
    """The labels and dtypes of the columns of a DataFrame in plain words.

    Attributes
    ----------
    labels : Labels
    dtypes : list of DtypeFacts
    """

    labels: Labels
    dtypes: list


def facts_of(frame):
    """The `FrameFacts` of a frame."""
    return FrameFacts(_labels_of(frame.columns), [_dtype_facts(dtype) for dtype in frame.dtypes])


def _dtype_facts(dtype):
    if hasattr(dtype, "categories"):
        return DtypeFacts("category", _labels_of(dtype.categories), bool(dtype.ordered))
    return DtypeFacts(_dtype_name(dtype))


def _dtype_name(dtype):
    """The name by which pandas makes the dtype: of strings, "string" alone does not say how they are stored."""
    return f"string[{dtype.storage}]" if str(dtype) == "string" else str(dtype)


def _labels_of(index):
    if index.nlevels > 1:
        return Labels([tuple(map(plain, each)) for each in index], "", list(index.names))
    return Labels([plain(value) for value in index], _dtype_name(index.dtype), list(index.names))


def empty_frame(facts):
    """A frame of no rows with the labels and dtypes of the one whose `FrameFacts` these are."""
    import pandas

    dtypes = [dtype_of(each) for each in facts.dtypes]
    frame = pandas.DataFrame({j: pandas.Series([], dtype=dtype) for j, dtype in enumerate(dtypes)})
    frame.columns = _index_of(facts.labels)
    return frame


def dtype_of(facts):
    """The dtype whose `DtypeFacts` these are."""
    import pandas

    if facts.categories is None:
        return pandas.api.types.pandas_dtype(facts.name)
    return pandas.CategoricalDtype(_index_of(facts.categories), facts.ordered)


def _index_of(labels):
    import pandas

    if not labels.dtype:
        return pandas.MultiIndex.from_tuples(labels.values, names=labels.names)
    values = not_plain(labels.values, labels.dtype)
    return pandas.Index(values, dtype=labels.dtype, name=labels.names[0], tupleize_cols=False)


def plain(value):
    """A scalar of NumPy or pandas as a Python object that differs from those of other values of its column."""
    if isinstance(value, np.generic):
        return value.item()
    if not _is_of_pandas(value):
        return value
    if hasattr(value, "left"):  # an interval
        return plain(value.left), plain(value.right)
    value = value.tz_convert("UTC") if getattr(value, "tz", None) is not None else value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _is_of_pandas(value):
    return type(value).__module__.partition(".")[0] == "pandas"


def made_plain(values):
    """Plain values of some scalars, and the dtype that gives the scalars back: None where they are plain already."""
    if any(map(_is_of_pandas, values)):
        import pandas

        dtype = pandas.Index(values).dtype
        if dtype.kind != "O" or not isinstance(dtype, np.dtype):
            return [plain(value) for value in values], str(dtype)
    return [value.item() if isinstance(value, np.generic) else value for value in values], None


def not_plain(values, dtype):
    """The scalars of a dtype of pandas whose plain values these are, as a list."""
    import pandas

    dtype = pandas.api.types.pandas_dtype(dtype)
    if hasattr(dtype, "closed"):
        left, right = (not_plain([pair[end] for pair in values], dtype.subtype) for end in (0, 1))
        return list(pandas.IntervalIndex.from_arrays(left, right, closed=dtype.closed))
    return list(pandas.Index(values, dtype=dtype, tupleize_cols=False))


# ----------------------------------------------------------------------------------------------------------- to a table
def imputed(X, checked, values, *, are_levels=False):
    """A copy of a table of numbers, as it was given, whose missing cells hold values.

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
        return np.where(missing, values, checked).astype(checked.dtype, copy=False)

    def cells(j, rows, dtype):
        found = values[rows, j]
        return found if are_levels and hasattr(dtype, "categories") else words(found, dtype)

    return filled_frame(X, missing, cells)


def filled_frame(X, missing, cells):
    """A copy of a frame whose missing cells hold `cells(j, rows, dtype)`: of column j in the rows of a mask."""
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
    """Numbers of a column as what the user has there: levels, Booleans, integers or themselves.

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
        return _with_gaps(_nearest(dtype.categories, np.nan_to_num(numbers)), numbers)
    if dtype.kind == "b" or boolean:
        return _with_gaps(numbers > 0.5, numbers)
    if dtype.kind in "iu":
        return _with_gaps(_rounded(numbers, dtype), numbers)
    return numbers


def series_like(like, cells, dtype, index):
    """A column of a frame like another, without asking for pandas; categories take in what they lack.

    With None for the dtype, it is that of the cells.
    """
    if hasattr(dtype, "categories"):
        known = set(dtype.categories)
        new = [value for value in dict.fromkeys(cells) if not is_missing(value) and value not in known]
        if new:
            dtype = type(dtype)([*dtype.categories, *new], ordered=dtype.ordered)
    return type(like)(cells, index=index, name=like.name, dtype=dtype)


def _nearest(categories, numbers):
    """The categories, which are numbers, that lie nearest to these."""
    known = np.asarray(categories)
    return known[np.abs(known.astype(np.float64) - numbers[:, None]).argmin(1)].astype(object)


def _with_gaps(cells, numbers):
    """The cells, None where a number is NaN."""
    missing = np.isnan(numbers)
    if missing.any():
        cells = cells.astype(object)
        cells[missing] = None
    return cells


def _rounded(numbers, dtype):
    """The nearest integers that the dtype holds."""
    limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
    largest = float(limits.max)
    if largest > limits.max:  # 2^63 - 1 as a float is 2^63
        largest = np.nextafter(largest, 0)
    return np.clip(np.rint(np.nan_to_num(numbers).astype(np.float64)), limits.min, largest)
