"""Conversion of a long table of (user, item, value) into a CSR matrix with the ids of its rows and columns."""

import numbers
import warnings
from datetime import date, timedelta

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch

_SHOWN = 3  # unknown or repeated ids named in an error


def to_interactions(
    users,
    items,
    values=None,
    *,
    duplicates="sum",
    user_ids=None,
    item_ids=None,
    unknown="error",
    dtype=np.float32,
):
    """Turn a long table with one interaction per row into a users x items matrix.

    Parameters
    ----------
    users, items : array-like of shape (n_interactions,)
        Ids of any one sortable type: integers, strings, dates, the columns of a DataFrame (categorical ones too).
    values : array-like of shape (n_interactions,), default=None
        Strength of each interaction, for instance a rating or a play count. None counts every interaction as 1.
    duplicates : {"sum", "last"}, default="sum"
        What to store if a pair of user and item occurs more than once: the sum of the values, or the last value.
    user_ids, item_ids : array-like of unique ids, default=None
        Ids of the rows and of the columns, in their order, as an earlier call returned them. None takes the ids that
        occur, sorted. To pass new users to a fitted recommender, give `item_ids` and leave `user_ids` out.
    unknown : {"error", "ignore"}, default="error"
        What to do with interactions whose id is not in the given `user_ids` or `item_ids`: raise an error, or leave
        these interactions out. If all items of a user are left out, the user has a row of zeros. If not a single id is
        known, "ignore" warns, because ids of another type are the usual reason: "1" is not 1.
    dtype : numeric dtype, default=numpy.float32
        Dtype of the matrix. An integer type that cannot hold the values is an error.

    Returns
    -------
    interactions : Bunch
        With the attributes

        - data : csr_array of shape (n_users, n_items), sorted indices, no duplicates. Interactions of value (or sum)
          0 are not stored.
        - user_ids : ndarray of shape (n_users,), the id of each row
        - item_ids : ndarray of shape (n_items,), the id of each column; ``item_ids[data.indices]`` leads back

    Raises
    ------
    ValueError
        If the lengths differ, an input is empty or not one-dimensional, an id or a value is missing, given ids repeat,
        ids are unknown (the first few are named), or `duplicates`, `unknown` or `dtype` is none of the above.
    TypeError
        If ids are of several types that have no common order, or cannot be hashed.

    Examples
    --------
    >>> from skvae.datasets import to_interactions
    >>> table = to_interactions(["ann", "bob", "ann", "ann"], ["tea", "tea", "rice", "tea"])
    >>> table.data.toarray()
    array([[1., 2.],
           [0., 1.]], dtype=float32)
    >>> table.user_ids.tolist(), table.item_ids.tolist()
    (['ann', 'bob'], ['rice', 'tea'])

    New users, on the same columns:

    >>> new = to_interactions(["eve", "eve"], ["tea", "soap"], item_ids=table.item_ids, unknown="ignore")
    >>> new.data.toarray()
    array([[0., 1.]], dtype=float32)
    """
    _check_choice("duplicates", duplicates, ("sum", "last"))
    _check_choice("unknown", unknown, ("error", "ignore"))
    users, items = _as_ids("users", users), _as_ids("items", items)
    values = _as_values(values, len(users))
    if not len(users) == len(items) == len(values):
        raise ValueError(
            "users, items and values must have one entry per interaction each, but have "
            f"users: {len(users)}, items: {len(items)}, values: {len(values)}."
        )
    rows, user_ids = _locate("users", users, user_ids, unknown)
    columns, item_ids = _locate("items", items, item_ids, unknown)
    known = (rows >= 0) & (columns >= 0)
    if not known.all():
        rows, columns, values = rows[known], columns[known], values[known]
    dtype = np.dtype(dtype)
    if dtype.kind not in "fiu":
        raise ValueError(f"dtype must be a floating or integer type, not {dtype}.")
    data = _assemble(rows, columns, values, (len(user_ids), len(item_ids)), duplicates, dtype)
    return Bunch(data=data, user_ids=user_ids, item_ids=item_ids)


def _assemble(rows, columns, values, shape, duplicates, dtype):
    """Return the CSR matrix of interactions in any order; all of them lie inside `shape`."""
    if shape[0] * shape[1] >= 2**63:  # exact: Python's integers
        raise ValueError(f"A matrix of shape {shape} has more than 2**63 cells, which int64 keys cannot tell apart.")
    cell = rows * shape[1] + columns
    order = np.argsort(cell, kind="stable")  # stable: the last of a cell's interactions is the one given last
    cell = cell[order]
    starts = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]][: len(cell)])
    if duplicates == "sum":
        merged = np.add.reduceat(values[order], starts) if len(starts) else values[:0]
    else:
        merged = values[order[np.r_[starts[1:] - 1, len(cell) - 1]]] if len(starts) else values[:0]
    starts, merged = starts[merged != 0], merged[merged != 0]
    rows, columns = np.divmod(cell[starts], shape[1])
    indptr = np.r_[0, np.cumsum(np.bincount(rows, minlength=shape[0]))]
    index = np.int32 if max(*shape, len(merged)) < 2**31 else np.int64
    with np.errstate(invalid="ignore", over="ignore"):
        values = merged.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(values, merged):
        raise ValueError(f"dtype={dtype} cannot hold the values exactly (fractions, signs or sums too large).")
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"dtype={dtype} cannot hold the largest value, {np.abs(merged).max():g}.")
    return csr_array((values, columns.astype(index), indptr.astype(index)), shape=shape)


def _as_values(values, n):
    if values is None:
        return np.ones(n, dtype=np.int64)
    values = _as_column("values", values)
    try:
        values = values.astype(np.int64 if values.dtype.kind in "bi" else np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"values must be numbers, one for each interaction: {error}.") from error
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        raise ValueError(f"values[{missing[0]}] = {values[missing[0]]}; leave such interactions out.")
    return values


def _as_column(name, column):
    """Return a one-dimensional, non-empty array; never one in which NumPy made strings of numbers."""
    array = np.asarray(column)
    # [1, "a"] and ["a", nan] silently become arrays of strings; arrays of objects let the checks see what was given.
    if array.ndim == 1 and array.dtype.kind in "US" and not hasattr(column, "dtype"):
        if len({type(x) for x in column} - {str, np.str_, bytes, np.bytes_}):
            array = np.fromiter(column, dtype=object, count=len(array))
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, one entry per interaction, but has shape {array.shape}.")
    if len(array) == 0:
        raise ValueError(f"{name} is empty; an interaction matrix needs at least one interaction.")
    return array


def _as_ids(name, ids):
    """Return an array of ids; NaN, NaT, None and pandas.NA are none."""
    ids, missing = _as_column(name, ids), ()
    if ids.dtype.kind == "O":
        # pandas' missing markers are told by the names of their types: pandas itself is not imported here.
        missing = [
            i
            for i, x in enumerate(ids.tolist())
            if x is None or type(x).__name__ in ("NAType", "NaTType") or (isinstance(x, numbers.Real) and x != x)
        ]
    elif ids.dtype.kind in "fcmM":
        missing = np.flatnonzero(np.isnan(ids) if ids.dtype.kind in "fc" else np.isnat(ids))
    if len(missing):
        raise ValueError(f"{name}[{missing[0]}] is missing ({ids[missing[0]]!r}); leave such interactions out.")
    return ids


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")


def _locate(name, column, ids, unknown):
    """Return the position of each entry of `column` among `ids` (-1: not there), and the ids."""
    distinct, inverse = _factorize(name, column)
    if ids is None:
        return inverse, distinct
    ids = _as_ids(f"{name[:-1]}_ids", ids)
    position = _positions(name, distinct, ids)
    strange, ids_name = distinct[position < 0], f"{name[:-1]}_ids"
    if len(strange) and unknown == "error":
        raise ValueError(
            f"{len(strange)} of the {len(distinct)} distinct {name} are not in {ids_name}, the first being "
            f"{_quote(strange.tolist())}; pass unknown='ignore' to leave their interactions out."
            + _on_types(name, strange, ids_name, ids)
        )
    if len(strange) == len(distinct):
        warnings.warn(
            f"None of the {len(distinct)} distinct {name} is in {ids_name}, so the matrix is empty: the first are "
            f"{_quote(strange.tolist())}, and {ids_name} begin with {_quote(ids.tolist())}."
            + _on_types(name, strange, ids_name, ids),
            UserWarning,
            stacklevel=3,
        )
    return position[inverse], ids


def _on_types(name, strange, ids_name, ids):
    """A hint where ids are unknown because they are of another type than the known ones: "1" is not 1."""
    given, known = (
        {"number" if isinstance(id_, numbers.Real) else type(id_).__name__ for id_ in some.tolist()}
        for some in (strange, ids)
    )
    if given & known:
        return ""
    return f" {name} hold {', '.join(sorted(given))}, {ids_name} {', '.join(sorted(known))}: convert one of them."


def _factorize(name, column):
    """Return the sorted distinct entries and, for each entry, its position among them."""
    if column.dtype.kind not in "OUS":
        return np.unique(column, return_inverse=True)
    # A dictionary meets each string once; sorting a million of them is ten times as slow.
    entries = column.tolist()
    try:
        distinct = sorted(set(entries))
    except TypeError as error:
        raise TypeError(f"{name} must be ids of one type that has an order and can be hashed: {error}.") from error
    position = {entry: i for i, entry in enumerate(distinct)}
    inverse = np.fromiter(map(position.__getitem__, entries), dtype=np.int64, count=len(entries))
    return np.fromiter(distinct, dtype=column.dtype, count=len(distinct)), inverse  # an entry may be a tuple


def _positions(name, distinct, ids):
    """Return the position of each of the distinct entries among `ids`, -1 where it is none of them."""
    if distinct.dtype.kind == ids.dtype.kind and ids.dtype.kind in "mM":  # days and seconds are told apart by tolist
        unit = np.promote_types(distinct.dtype, ids.dtype)
        distinct, ids = distinct.astype(unit), ids.astype(unit)
    try:
        position = {id_: i for i, id_ in enumerate(ids.tolist())}
    except TypeError as error:
        raise TypeError(f"{name[:-1]}_ids must be ids that can be hashed: {error}.") from error
    if len(position) < len(ids):
        seen = set()
        twice = dict.fromkeys(id_ for id_ in ids.tolist() if id_ in seen or seen.add(id_))
        raise ValueError(f"{name[:-1]}_ids must not repeat, but {_quote(list(twice))} do.")
    return np.fromiter((position.get(x, -1) for x in distinct.tolist()), dtype=np.int64, count=len(distinct))


def _quote(ids):
    shown = [str(x) if isinstance(x, date | timedelta) else repr(x) for x in ids[:_SHOWN]]
    return ", ".join(shown) + (", ..." if len(ids) > _SHOWN else "")
