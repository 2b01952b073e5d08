"""Frames of polars: their cells as arrays, their dtypes as those of NumPy, and frames made of cells again.

A null and a NaN are both missing cells. polars is imported only to make a frame for which none is at hand.
"""

from typing import NamedTuple

import numpy as np


class EnumDtype(NamedTuple):
    """What a dtype of polars that declares its categories shows of itself.

    Attributes
    ----------
    categories : list of str
    kind : str
        "O", as of all that is no number.
    """

    categories: list
    kind: str = "O"


def is_polars(X):
    """Tell whether X is a DataFrame of polars, by what it can do."""
    return hasattr(X, "schema") and hasattr(X, "with_columns") and hasattr(X, "to_series")


def numpy_dtypes(frame):
    """List a dtype of NumPy for each column, or an `EnumDtype`; object for strings and all that NumPy does not have."""
    return [_numpy_dtype(dtype) for dtype in frame.dtypes]


def _numpy_dtype(dtype):
    name = str(dtype).partition("(")[0]
    if name == "Enum":
        return EnumDtype(dtype.categories.to_list())
    known = {"Boolean": "bool", "Date": "datetime64[D]", "Datetime": "datetime64[us]", "Duration": "timedelta64[us]"}
    if name not in known and not (dtype.is_integer() or dtype.is_float()):
        return np.dtype(object)
    try:
        return np.dtype(known.get(name, name.lower()))
    except TypeError:  # integers of 128 bits
        return np.dtype(object)


def cells_of(frame, j):
    """Give the cells of a column as floats, integers, Booleans or objects, and which of them are missing."""
    series = frame.to_series(j)
    missing, kind = np.array(series.is_null().to_numpy(), dtype=bool), _numpy_dtype(series.dtype).kind
    if kind == "f":
        cells = series.to_numpy()  # NaN for a null
        return cells, missing | np.isnan(cells)
    if kind in "iu" or kind == "b" and not missing.any():
        return series.to_numpy(), missing  # floats if integers have nulls
    return _objects(series), missing


def _objects(series):
    cells = np.empty(len(series), dtype=object)
    cells[:] = series.to_list()
    return cells


def filled(frame, missing, cells):
    """Copy a frame, with `cells(j, rows, dtype)` in the missing cells of column j: in the rows of a mask."""
    columns = []
    for j in np.flatnonzero(missing.any(axis=0)):
        series, rows, dtype = frame.to_series(j), missing[:, j], _numpy_dtype(frame.dtypes[j])
        column = np.array(series.to_numpy()) if dtype.kind == "f" else _objects(series)
        column[rows] = cells(j, rows, dtype)
        known = None if str(series.dtype) == "Null" else series.dtype  # None in every row: of no type
        columns.append(_series(type(series), series.name, column, known))
    return frame.with_columns(columns)


def names_and_dtypes(frame):
    """Describe the columns of a frame in plain words.

    Returns
    -------
    described : list of (str, str, list of str or None)
        Name of the column, name of its dtype ("" for one with parameters or of no type, which cells say again), and the
        categories that it declares.
    """
    described = []
    for (name, dtype), like in zip(frame.schema.items(), numpy_dtypes(frame), strict=True):
        word = str(dtype).removesuffix("(ordering='physical')")  # of Categorical, in versions before 1.32
        described.append((name, "" if "(" in word or word == "Null" else word, getattr(like, "categories", None)))
    return described


def made(described, cells):
    """Make a frame of columns that `names_and_dtypes` describes, with `cells(j, dtype)` in column j."""
    import polars

    columns = []
    for j, (name, word, categories) in enumerate(described):
        dtype = getattr(polars, word)() if word else None if categories is None else polars.Enum(categories)
        like = np.dtype(object) if dtype is None else _numpy_dtype(dtype)
        columns.append(_series(polars.Series, name, cells(j, like), dtype))
    return polars.DataFrame(columns)


def _series(make, name, cells, dtype):
    """Make a column of polars of cells; categories take in what they lack. None for a dtype: that of the cells."""
    if dtype is None:
        return make(name, cells.tolist())
    if dtype.is_float():
        return make(name, np.asarray(cells, dtype=np.float64), dtype=dtype)
    plain = [cell.item() if isinstance(cell, np.generic) else cell for cell in cells]
    if dtype.is_integer():
        return make(name, [None if cell is None else int(cell) for cell in plain], dtype=dtype)
    if hasattr(_numpy_dtype(dtype), "categories"):
        known = dtype.categories.to_list()
        new = [cell for cell in dict.fromkeys(plain) if cell is not None and cell not in set(known)]
        dtype = type(dtype)([*known, *new]) if new else dtype
    return make(name, plain, dtype=dtype)
