"""Which items may be recommended to whom: for all users alike, or for each user."""

from collections.abc import Hashable, Iterator, Set
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch


class Filters(NamedTuple):
    """Items that may not be recommended.

    Attributes
    ----------
    barred : int64 ndarray or None
        Columns that nobody gets.
    only : CSR array of shape (n_users, n_items) or None
        Stored entries are all that each user may get.
    never : CSR array of shape (n_users, n_items) or None
        Stored entries are what each user may not get.
    """

    barred: np.ndarray | None = None
    only: sp.csr_array | None = None
    never: sp.csr_array | None = None

    def apply(self, scores, rows):
        """Overwrite the scores of a slice of the users by -inf where an item is barred."""
        if self.barred is not None:
            scores[:, _placed(self.barred, scores)] = -torch.inf
        if self.only is not None:
            barred = torch.ones_like(scores, dtype=torch.bool)
            _fill(barred, self.only, rows, False)
            scores.masked_fill_(barred, -torch.inf)
        if self.never is not None:
            _fill(scores, self.never, rows, -torch.inf)


def read_filters(n_users, n_items, names, items, filter_items):
    """Read the parameters `items` and `filter_items` of `recommend`; returns `Filters`.

    `names` are those of the columns, or None.
    """
    if items is None and filter_items is None:
        return Filters()
    of_each = {"items": None, "filter_items": None}
    for name, given in (("items", items), ("filter_items", filter_items)):
        if _is_of_each_user(given, n_items):
            of_each[name] = _cells_of_users(given, n_users, n_items, names, name)
    items = None if of_each["items"] is not None else items
    filter_items = None if of_each["filter_items"] is not None else filter_items
    barred = None
    if items is not None or filter_items is not None:
        allowed = np.full(n_items, items is None)
        if items is not None:
            columns = columns_of_items(items, n_items, names, "items")
            _refuse_repeats(columns)
            allowed[columns] = True
        if filter_items is not None:
            allowed[columns_of_items(filter_items, n_items, names, "filter_items")] = False
        barred = np.flatnonzero(~allowed)
    return Filters(barred, of_each["items"], of_each["filter_items"])


def read_user_filter(n_users, n_candidates, filter_users):
    """Read the parameter `filter_users` of `similar_users`; returns `Filters` of the candidates."""
    if filter_users is None:
        return Filters()
    if _is_of_each_user(filter_users, n_candidates):
        return Filters(never=_cells_of_users(filter_users, n_users, n_candidates, None, "filter_users"))
    return Filters(barred=columns_of_items(filter_users, n_candidates, None, "filter_users"))


def seen(X):
    """`Filters` that bar what each user of a CSR array already has."""
    return Filters(never=X)


def columns_of_items(items, n_items, names, name):
    """Numbers of the columns that a parameter names by number, by name or by a Boolean mask."""
    one, of = ("row", "rows of the candidates") if name.startswith("filter_users") else ("column", "columns of X")
    labels = getattr(items, "index", None)
    items = np.asarray(list(items) if isinstance(items, Set | Iterator) else items)
    if items.dtype.kind in "OU" and names is not None and items.ndim == 1:
        items = _numbers_of(items, names.tolist(), name)
    if items.dtype == bool and items.shape == (n_items,):
        _refuse_other_names(labels, names, name)
        return np.flatnonzero(items)
    if items.size == 0:
        return np.empty(0, dtype=np.int64)
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise ValueError(
            f"{name} takes {one} numbers or a mask of shape ({n_items},), but it has dtype {items.dtype} "
            f"and shape {items.shape}; {_remedy(items, names, one)}."
        )
    outside = items[(items < 0) | (items >= n_items)]
    if len(outside):
        raise ValueError(f"{name} holds {one} {outside[0]}, but the {of} run from 0 to {n_items - 1}.")
    if len(items) == n_items > 2 and items.max() <= 1:
        raise ValueError(
            f"{name} holds 0 and 1 only, as often as there are {one}s: a mask, which must be Boolean. Pass "
            "np.asarray(mask, dtype=bool)."
        )
    return items


def _remedy(items, names, one):
    """What to pass in place of an array that names no columns."""
    if items.ndim == 0:
        return f"pass a list, [{items.item()!r}]"
    if items.dtype.kind in "bf":
        return f"pass {one} numbers as integers, and a mask of that shape as Booleans"
    if names is None and one == "column":
        return (
            "fit saw no names, so map them to columns first: np.flatnonzero(np.isin(names, wanted)), or fit to a "
            "DataFrame whose columns are strings"
        )
    return f"map names to {one}s first: np.flatnonzero(np.isin(names, wanted))"


def _refuse_other_names(labels, names, name):
    """Complain of a mask whose own labels of the items, if they are strings, are not those of `fit` in their order."""
    if names is None or labels is None or callable(labels):  # lists have a method `index`
        return
    labels = list(labels)
    if not all(isinstance(label, str) for label in labels) or labels == list(names):
        return
    at = next((i for i, pair in enumerate(zip(labels, names)) if pair[0] != pair[1]), min(len(labels), len(names)))
    found = repr(labels[at]) if at < len(labels) else "missing"
    expected = repr(names[at]) if at < len(names) else "none"
    raise ValueError(
        f"{name} has labels that are not the items in their order: label {at} is {found}, but item {at} of fit is "
        f"{expected}. Bring them into the order of model.feature_names_in_, by reindex."
    )


def _is_of_each_user(items, n_items):
    """Whether a filter has something of its own for each user: a matrix, or lists in a list."""
    if items is None:
        return False
    if sp.issparse(items) or getattr(items, "ndim", 1) == 2 or hasattr(items, "columns"):
        return True
    return isinstance(items, list | tuple) and any(isinstance(part, list | tuple | set | np.ndarray) for part in items)


def _cells_of_users(items, n_users, n_items, names, name):
    """A filter of each user as a CSR array whose stored entries are its items."""
    boolean = isinstance(items, np.ndarray) and items.dtype.kind == "b"
    if sp.issparse(items) or boolean or hasattr(items, "columns"):
        _refuse_other_names(getattr(items, "columns", None), names, name)
        items = items if sp.issparse(items) else np.asarray(items)
        if items.dtype.kind not in "biu" and not _is_finite(items):
            raise ValueError(
                f"{name} is a matrix of dtype {items.dtype}, with cells that are neither numbers nor Booleans, or "
                f"missing; a mask for each user holds True and False: {name}.fillna(False).astype(bool)."
            )
        mask = sp.csr_array(items if sp.issparse(items) else items.astype(bool))
        if mask.shape != (n_users, n_items):
            raise ValueError(
                f"{name} is a matrix of {mask.shape}, but a mask for each user has the shape ({n_users}, {n_items})."
            )
        mask.eliminate_zeros()
        return mask
    if len(items) != n_users:
        raise ValueError(
            f"{name} holds {len(items)} lists, but X has {n_users} users; pass one list for each, or one flat list for "
            "all."
        )
    alone = next((user for user, part in enumerate(items) if isinstance(part, str) or not np.iterable(part)), None)
    if alone is not None:
        raise ValueError(
            f"{name} holds a list for some users, but {name}[{alone}] is {items[alone]!r}; pass a list for each user, "
            "[] for none."
        )
    lists = [columns_of_items(list(part), n_items, names, f"{name}[{user}]") for user, part in enumerate(items)]
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in lists])])
    indices = np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64)
    return sp.csr_array((np.ones(len(indices), bool), indices, indptr), shape=(n_users, n_items))


def _is_finite(matrix):
    """Whether all cells are finite numbers or Booleans; objects are only if they are Booleans."""
    if matrix.dtype.kind == "O":
        return all(isinstance(cell, bool | np.bool_) for cell in matrix.flat)
    return matrix.dtype.kind in "biuf" and bool(np.isfinite(matrix.data if sp.issparse(matrix) else matrix).all())


def _refuse_repeats(columns):
    """Complain of candidates that are given twice: a list ranks each item once."""
    candidates, times = np.unique(columns, return_counts=True)
    if len(candidates) < len(columns):
        raise ValueError(
            f"items names each candidate once, but column {candidates[times.argmax()]} is there {times.max()} times; "
            "pass np.unique(items). A mask of 0 and 1 must have a 0 or 1 for each column, and be Boolean."
        )


def _numbers_of(items, names, name):
    """Numbers of the columns with these names."""
    number = {known: column for column, known in enumerate(names)}
    unknown = [item for item in items.tolist() if not isinstance(item, Hashable) or item not in number]
    if unknown:
        raise ValueError(f"{name} holds {unknown[0]!r}, but fit saw no item of that name.")
    return np.array([number[item] for item in items.tolist()], dtype=np.int64)


def users_of(X, rows):
    """A slice of the rows of a CSR array; the very same object where that is all of them."""
    return X if rows.start == 0 and rows.stop >= X.shape[0] else X[rows]


def _fill(tensor, X, rows, value):
    """Overwrite a contiguous tensor by a value where a slice of the rows of a CSR array has entries."""
    some, n_columns = users_of(X, rows), tensor.shape[1]
    ends = some.indptr
    cell = np.arange(0, tensor.numel(), n_columns).repeat(ends[1:] - ends[:-1]) + some.indices
    if tensor.is_cpu:
        tensor.numpy().reshape(-1)[cell] = value
    else:
        tensor.view(-1).index_fill_(0, _placed(cell, tensor), value)


def _placed(index, scores):
    return torch.from_numpy(index.astype(np.int64, copy=False)).to(scores.device, non_blocking=True)
