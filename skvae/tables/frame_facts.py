"""DataFrames in plain words: their labels, dtypes and values such as dates, written down and made again.

Of frames of polars, `polars_frames` does the same.

pandas is imported only to make them again, and to name the dtype of values that are objects of pandas.
"""

from typing import NamedTuple

import numpy as np


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
    """Describe a frame by its `FrameFacts`."""
    return FrameFacts(
        _labels_of(frame.columns),
        [
            DtypeFacts("category", _labels_of(dtype.categories), bool(dtype.ordered))
            if hasattr(dtype, "categories")
            else DtypeFacts(_dtype_name(dtype))
            for dtype in frame.dtypes
        ],
    )


def _dtype_name(dtype):
    """Name a dtype so that pandas can make it: of strings, "string" alone does not say how they are stored."""
    return f"string[{dtype.storage}]" if str(dtype) == "string" else str(dtype)


def _labels_of(index):
    if index.nlevels > 1:
        return Labels([tuple(map(plain, each)) for each in index], "", list(index.names))
    return Labels([plain(value) for value in index], _dtype_name(index.dtype), list(index.names))


def empty_frame(facts):
    """Make a frame of no rows from the `FrameFacts` of another."""
    import pandas

    dtypes = [dtype_of(each) for each in facts.dtypes]
    frame = pandas.DataFrame({j: pandas.Series([], dtype=dtype) for j, dtype in enumerate(dtypes)})
    frame.columns = _index_of(facts.labels)
    return frame


def dtype_of(facts):
    """Make a dtype from its `DtypeFacts`."""
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
    """Give a scalar of NumPy or pandas as a plain object that differs from those of other values of its column."""
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
    """Give the plain values of some scalars, and the dtype that gives the scalars back: None where they are plain."""
    if any(map(_is_of_pandas, values)):
        import pandas

        dtype = pandas.Index(values).dtype
        if dtype.kind != "O" or not isinstance(dtype, np.dtype):
            return [plain(value) for value in values], str(dtype)
    return [value.item() if isinstance(value, np.generic) else value for value in values], None


def not_plain(values, dtype):
    """Give back the scalars of a dtype of pandas from their plain values, as a list."""
    import pandas

    dtype = pandas.api.types.pandas_dtype(dtype)
    if hasattr(dtype, "closed"):
        left, right = (not_plain([pair[end] for pair in values], dtype.subtype) for end in (0, 1))
        return list(pandas.IntervalIndex.from_arrays(left, right, closed=dtype.closed))
    return list(pandas.Index(values, dtype=dtype, tupleize_cols=False))
