"""One form for the times of interactions: numbers, of which greater is later.

In a long table they are a column beside users and items; beside a matrix of users by items they are a matrix of the
same shape, with an entry for every interaction.
"""

from datetime import UTC, date, datetime
from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp

from skvae._compat import refuse_masked

_FARTHEST = np.datetime64(290_000, "Y")  # microseconds of more years do not fit int64


def as_times(column, name="times"):
    """Read a column of times.

    Parameters
    ----------
    column : array-like of shape (n,)
        Numbers, dates or datetimes. With a time zone they are taken to UTC; without one they are taken as they are.
    name : str, default="times"
        What to call it in errors.

    Returns
    -------
    times : int64 or float64 ndarray of shape (n,)
        Whole numbers as int64 and others as float64. Datetimes become seconds since 1970-01-01, float64, exact to a
        microsecond. A whole number that neither type holds exactly is an error.
    """
    refuse_masked(column, name, "leave such interactions out")
    zoned = getattr(getattr(column, "dtype", None), "tz", None) is not None  # a column of pandas
    array = np.asarray(column, dtype="M8[us]") if zoned else np.asarray(column)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, one entry per interaction, but has shape {array.shape}.")
    missing = missing_entries(array)
    if len(missing):
        raise ValueError(f"{name}[{missing[0]}] is missing ({array[missing[0]]!r}); leave such interactions out.")
    if array.dtype.kind == "O":
        array = _from_objects(array, name)
    if array.dtype.kind == "M":
        return _seconds(array, name)
    if array.dtype.kind not in "iuf":
        raise _no_times(array[0], name)
    _refuse_infinite(array, lambda i: f"{name}[{i}]")
    return _as_numbers(array, array if hasattr(column, "dtype") else list(column), lambda i: f"{name}[{i}]")


def missing_entries(array):
    """Numbers of the entries that are NaN, NaT, None or pandas.NA."""
    if array.dtype.kind == "O":
        # pandas' missing markers are told by the names of their types: pandas itself is not imported here.
        return [
            i
            for i, x in enumerate(array.tolist())
            if x is None or type(x).__name__ in ("NAType", "NaTType") or (isinstance(x, Real) and x != x)
        ]
    if array.dtype.kind in "fcmM":
        return np.flatnonzero(np.isnan(array) if array.dtype.kind in "fc" else np.isnat(array))
    return []


def stored_times(X, times):
    """Find the time of each stored entry of X.

    Parameters
    ----------
    X : canonical CSR of shape (n_users, n_items)
        Interactions.
    times : {array-like, sparse matrix} of shape (n_users, n_items)
        Numbers. If sparse, with a stored entry (of value 0, too) for each of X; other entries do not matter.

    Returns
    -------
    times : int64 or float64 ndarray of shape (X.nnz,)
        In the order of ``X.data``.
    """
    if np.shape(times) != X.shape:
        raise ValueError(
            f"times must have the shape of X, {X.shape}, with a time for every interaction, but has {np.shape(times)}."
        )
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    found = _sparse_entries(times, X, rows) if sp.issparse(times) else np.asanyarray(times)[rows, X.indices]
    if np.ma.is_masked(found):
        first = int(np.ma.getmaskarray(found).argmax())
        raise ValueError(f"times[{rows[first]}, {X.indices[first]}] is missing (masked); X has an interaction there.")
    found = np.asarray(found)
    if found.dtype.kind not in "iuf":
        raise ValueError(
            f"times must be a matrix of numbers, but its dtype is {found.dtype}. to_interactions(..., times=...) makes "
            "one of a column of datetimes."
        )
    _refuse_infinite(found, lambda i: f"times[{rows[i]}, {X.indices[i]}]")
    return _as_numbers(found, found, lambda i: f"times[{rows[i]}, {X.indices[i]}]")


def _as_numbers(array, given, where):
    """Whole numbers as int64, unsigned ones too if they fit; others as float64, unless one as given is rounded."""
    if array.dtype.kind in "iu" and array.max(initial=0) < 2**63:
        return array.astype(np.int64)
    found = array.astype(np.float64)
    for i in np.flatnonzero(np.abs(found) >= 2**53):
        if isinstance(given[i], Integral) and int(given[i]) != int(found[i]):
            raise ValueError(
                f"{where(i)} = {given[i]}, which float64 does not hold exactly; count times from a later origin, or in "
                "a larger unit."
            )
    return found


def _seconds(array, name):
    """Seconds since 1970-01-01 of datetimes, none of which is missing."""
    if np.datetime_data(array.dtype)[0] in ("Y", "M", "W", "D", "h", "m", "s", "ms"):  # others cannot hold such times
        far = np.flatnonzero(np.abs(array.astype(np.int64)) > _FARTHEST.astype(array.dtype).astype(np.int64))
        if len(far):
            raise ValueError(f"{name}[{far[0]}] = {array[far[0]]}; times must lie within 290,000 years of 1970.")
    return array.astype("M8[us]").astype(np.int64) / 1e6


def _sparse_entries(times, X, rows):
    """Entries of a sparse matrix at the stored cells of X."""
    n_given, times = times.nnz, sp.csr_array(times)
    twice = times.nnz < n_given  # some formats sum duplicates on the way
    if not twice and np.array_equal(times.indptr, X.indptr) and np.array_equal(times.indices, X.indices):
        return times.data
    n_columns = np.int64(X.shape[1])
    cells = np.repeat(np.arange(X.shape[0]), np.diff(times.indptr)) * n_columns + times.indices
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    if twice or (cells[1:] == cells[:-1]).any():
        raise ValueError("times has two entries in one cell, and there is no saying which of them holds; keep one.")
    wanted = rows * n_columns + X.indices
    place = np.searchsorted(cells, wanted)
    absent = np.flatnonzero(np.append(cells, -1)[place] != wanted)
    if len(absent):
        raise ValueError(
            f"times has no entry for the interaction X[{rows[absent[0]]}, {X.indices[absent[0]]}]. Store one for every "
            "interaction, of value 0 too, as to_interactions(..., times=...) does."
        )
    return times.data[order[place]]


def _from_objects(array, name):
    """Numbers or datetimes from an array of Python objects, none of which is missing."""
    entries = array.tolist()
    strange = [x for x in entries if isinstance(x, bool) or not isinstance(x, Real | date | np.datetime64)]
    if strange:
        raise _no_times(strange[0], name)
    if all(isinstance(x, Real) for x in entries):
        found = np.array(entries)
        return found.astype(np.float64) if found.dtype.kind == "O" else found  # integers of 2**64 and above
    if any(isinstance(x, Real) for x in entries):
        raise ValueError(f"{name} mixes numbers and datetimes; convert one of them.")
    zoned = {getattr(x, "tzinfo", None) is not None for x in entries}
    if len(zoned) == 2:
        raise ValueError(f"{name} mixes datetimes with and without a time zone; give all of them one, or none.")
    if zoned == {True}:
        entries = [x.astimezone(UTC).replace(tzinfo=None) if isinstance(x, datetime) else x for x in entries]
    return np.array(entries, dtype="M8[us]")


def _no_times(entry, name):
    return ValueError(
        f"{name} must be numbers or datetimes, but holds {entry!r} ({type(entry).__name__}). Convert text by "
        "pandas.to_datetime, or by np.asarray(..., dtype='datetime64[s]')."
    )


def _refuse_infinite(times, where):
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        raise ValueError(f"{where(bad[0])} = {times[bad[0]]}; each interaction needs a finite time, or must go.")
