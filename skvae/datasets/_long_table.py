"""Conversion of a long table of (user, item, value, time) into matrices of users by items."""

import numbers
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import Bunch

from skvae._compat import refuse_masked, warn
from skvae._times import as_times, missing_entries

_SHOWN = 3  # unknown or repeated ids named in an error


class Catalogue(NamedTuple):
    """Ids in their order, and the place of each."""

    ids: np.ndarray
    place: dict

    @classmethod
    def of(cls, name, ids):
        """Index ids that must be different; None remains None."""
        if ids is None:
            return None
        ids = as_ids(name, ids)
        try:
            place = {id_: i for i, id_ in enumerate(entries(ids))}
        except TypeError as error:
            raise TypeError(f"{name} must be ids that can be hashed: {error}.") from error
        if len(place) < len(ids):
            seen = set()
            twice = dict.fromkeys(id_ for id_ in entries(ids) if id_ in seen or seen.add(id_))
            raise ValueError(f"{name} must not repeat, but {quoted(list(twice))} do.")
        return cls(ids, place)

    def places(self, distinct):
        """Place of each of some distinct ids, -1 where it is none of these."""
        place = self.place
        kinds = distinct.dtype.kind + self.ids.dtype.kind
        if kinds in ("mm", "MM") and distinct.dtype != self.ids.dtype:  # tolist makes other types of days and seconds
            unit = np.promote_types(distinct.dtype, self.ids.dtype)
            distinct, place = distinct.astype(unit), {x: i for i, x in enumerate(entries(self.ids.astype(unit)))}
        return np.fromiter((place.get(x, -1) for x in entries(distinct)), dtype=np.int64, count=len(distinct))

    def extended(self, name, column):
        """The same with the new ids of a column behind its own, sorted among themselves."""
        distinct = factorize(name, column)[0]
        new = distinct[self.places(distinct) < 0]
        if not len(new):
            return self
        dates = {new.dtype.kind, self.ids.dtype.kind} in ({"m"}, {"M"})  # of any resolution
        hint = "" if dates else on_types(name, new, f"the known {name}", self.ids)
        ids = np.concatenate([self.ids, new])
        lossy = ids.dtype.kind == "f" and ids.tolist() != self.ids.tolist() + new.tolist()
        if hint or lossy:
            raise ValueError(f"The new {name}, such as {quoted(entries(new))}, are of another type.{hint}")
        if ids.dtype != self.ids.dtype:
            return Catalogue.of(name, ids)
        return Catalogue(ids, self.place | {id_: i for i, id_ in enumerate(entries(new), len(self.ids))})


class LongTable(NamedTuple):
    """Columns of one length, checked."""

    users: np.ndarray
    items: np.ndarray
    values: np.ndarray
    times: np.ndarray | None

    @classmethod
    def of(cls, users, items, values, times):
        """Check the columns that a user gave."""
        users, items = as_ids("users", users), as_ids("items", items)
        values = _as_values(values, len(users))
        times = None if times is None else as_times(times)
        lengths = {"users": users, "items": items, "values": values} | ({} if times is None else {"times": times})
        if len({len(column) for column in lengths.values()}) > 1:
            raise ValueError(
                f"{', '.join(lengths)} must have one entry per interaction each, but have "
                f"{', '.join(f'{name}: {len(column)}' for name, column in lengths.items())}."
            )
        return cls(users, items, values, times)


class Rules(NamedTuple):
    """What to do with unknown ids, duplicates and negative values; checked by `check`."""

    unknown: str
    duplicates: str
    negative: str
    dtype: np.dtype
    unknown_is: str = "unknown"  # name of that parameter, for errors

    def check(self):
        """The same with a NumPy dtype, or a ValueError."""
        check_choice("duplicates", self.duplicates, ("sum", "last"))
        check_choice(self.unknown_is, self.unknown, ("error", "ignore"))
        check_choice("negative", self.negative, ("keep", "error", "ignore", "mask"))
        dtype = np.dtype(self.dtype)
        if dtype.kind not in "fiu":
            raise ValueError(f"dtype must be a floating or integer type, not {dtype}.")
        return self._replace(dtype=dtype)


class _Cells(NamedTuple):
    """Distinct cells in their order, one entry each."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    times: np.ndarray | None

    def where(self, mask):
        return _Cells(*(None if part is None else part[mask] for part in self))


def encode(table, users, items, rules):
    """Make the matrices of a long table.

    Parameters
    ----------
    table : LongTable
    users, items : Catalogue or None
        Rows and columns. None takes the ids that occur, sorted.
    rules : Rules

    Returns
    -------
    interactions : Bunch
        As `skvae.datasets.to_interactions` returns it.
    """
    rows, user_ids = _locate("users", table.users, users, rules)
    columns, item_ids = _locate("items", table.items, items, rules)
    shape, known = (len(user_ids), len(item_ids)), (rows >= 0) & (columns >= 0)
    cells = _Cells(rows, columns, table.values, table.times)
    cells = _merge(cells if known.all() else cells.where(known), shape, rules.duplicates)
    cells, disliked = _split_off_negative(cells, rules.negative, user_ids, item_ids)
    return Bunch(
        data=_matrix(cells, _as_dtype(cells.values, rules.dtype), shape),
        user_ids=user_ids,
        item_ids=item_ids,
        times=None if cells.times is None else _matrix(cells, cells.times, shape),
        disliked=None if disliked is None else _matrix(disliked, np.ones(len(disliked.rows), bool), shape),
    )


def _merge(cells, shape, duplicates):
    """Sort interactions by cell, and make one of those in the same cell; a value of 0 is none."""
    if shape[0] * shape[1] >= 2**63:  # exact: Python's integers
        raise ValueError(f"A matrix of shape {shape} has more than 2**63 cells, which int64 keys cannot tell apart.")
    cell = cells.rows * shape[1] + cells.columns
    # Both sorts are stable: of equal cells (and times) the one that was given last stays the last.
    order = np.argsort(cell, kind="stable") if cells.times is None else np.lexsort((cells.times, cell))
    cell = cell[order]
    ends = np.flatnonzero(np.r_[cell[1:] != cell[:-1], True][: len(cell)])
    last = order[ends]
    if duplicates == "sum" and len(cell):
        values = np.add.reduceat(_room_for_sums(cells.values[order]), np.r_[0, ends[:-1] + 1])
    else:
        values = cells.values[last]
    rows, columns = np.divmod(cell[ends], shape[1])
    merged = _Cells(rows, columns, values, None if cells.times is None else cells.times[last])
    return merged if values.all() else merged.where(values != 0)


def _room_for_sums(values):
    """Integers whose sums would leave int64 as float64, as those of larger integers are."""
    largest = max(int(values.max()), -int(values.min())) if values.dtype.kind == "i" else 0
    return values.astype(np.float64) if largest * len(values) >= 2**63 else values


def _split_off_negative(cells, negative, user_ids, item_ids):
    """Cells of positive value, and those of negative value where a mask of them is asked for."""
    below = cells.values < 0
    if negative == "keep" or not below.any():
        return cells, cells.where(below) if negative == "mask" else None
    if negative == "error":
        first = int(below.argmax())
        raise ValueError(
            f"{int(below.sum())} values are negative, the first being {cells.values[first]:g} of user "
            f"{quoted(entries(user_ids[[cells.rows[first]]]))} and item "
            f"{quoted(entries(item_ids[[cells.columns[first]]]))}; negative='ignore' leaves them out, negative='mask' "
            "returns them as a mask of dislikes."
        )
    return cells.where(~below), cells.where(below) if negative == "mask" else None


def _matrix(cells, values, shape):
    """CSR matrix of values in distinct, sorted cells."""
    indptr = np.r_[0, np.cumsum(np.bincount(cells.rows, minlength=shape[0]))]
    index = np.int32 if max(*shape, len(values)) < 2**31 else np.int64
    return csr_array((values, cells.columns.astype(index), indptr.astype(index)), shape=shape)


def _as_dtype(merged, dtype):
    with np.errstate(invalid="ignore", over="ignore"):
        values = merged.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(values, merged):
        raise ValueError(f"dtype={dtype} cannot hold the values exactly (fractions, signs or sums too large).")
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"dtype={dtype} cannot hold the largest value, {np.abs(merged).max():g}.")
    return values


# --- columns ----------------------------------------------------------------------------------------------------------


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
    refuse_masked(column, name, "leave such interactions out")
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


def as_ids(name, ids):
    """Return an array of ids; NaN, NaT, None and pandas.NA are none."""
    column, ids = ids, _as_column(name, ids)
    if ids.dtype == np.float64 and not hasattr(column, "dtype") and (np.abs(ids) >= 2**53).any():
        ids = np.fromiter(column, dtype=object, count=len(ids))  # int64 has no room for all, and floats merge some
    missing = missing_entries(ids)
    if len(missing):
        raise ValueError(f"{name}[{missing[0]}] is missing ({ids[missing[0]]!r}); leave such interactions out.")
    return ids


def entries(ids):
    """Ids as a list of Python's objects; dates and durations that these cannot hold remain NumPy's."""
    found = ids.tolist()  # makes whole numbers of dates in nanoseconds, far years and months of durations
    if ids.dtype.kind not in "mM" or not any(isinstance(id_, int) for id_ in found):
        return found
    if np.datetime_data(ids.dtype)[0] in ("ns", "ps", "fs", "as"):
        coarse = ids.astype(f"{ids.dtype.kind}8[us]")
        found = [near if same else 0 for near, same in zip(coarse.tolist(), coarse.astype(ids.dtype) == ids)]
    return [own if isinstance(id_, int) else id_ for id_, own in zip(found, ids)]


def check_choice(name, value, choices):
    """Raise unless `value` is one of the strings."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}.")


def _locate(name, column, known, rules):
    """Return the position of each entry of `column` among the known ids (-1: not there), and the ids."""
    distinct, inverse = factorize(name, column)
    if known is None:
        return inverse, distinct
    position = known.places(distinct)
    strange, ids_name = distinct[position < 0], f"{name[:-1]}_ids"
    if len(strange) and rules.unknown == "error":
        raise ValueError(
            f"{len(strange)} of the {len(distinct)} distinct {name} are not in {ids_name}, the first being "
            f"{quoted(entries(strange))}; pass {rules.unknown_is}='ignore' to leave their interactions out."
            + on_types(name, strange, ids_name, known.ids)
        )
    if len(strange) == len(distinct):
        warn(
            f"None of the {len(distinct)} distinct {name} is in {ids_name}, so the matrix is empty: the first are "
            f"{quoted(entries(strange))}, and {ids_name} begin with {quoted(entries(known.ids[: _SHOWN + 1]))}."
            + on_types(name, strange, ids_name, known.ids),
            UserWarning,
        )
    return position[inverse], known.ids


def on_types(name, strange, ids_name, ids):
    """A hint where ids are unknown because they are of another type than the known ones: "1" is not 1."""
    given, known = (
        {"number" if isinstance(id_, numbers.Real) else type(id_).__name__ for id_ in entries(some)}
        for some in (strange, ids)
    )
    if given & known:
        return ""
    return f" {name} hold {', '.join(sorted(given))}, {ids_name} {', '.join(sorted(known))}: convert one of them."


def factorize(name, column):
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


def quoted(ids):
    """The first few ids, for a message."""
    shown = [
        str(x) if isinstance(x, date | timedelta | np.datetime64 | np.timedelta64) else repr(x) for x in ids[:_SHOWN]
    ]
    return ", ".join(shown) + (", ..." if len(ids) > _SHOWN else "")
