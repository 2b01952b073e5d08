"""Which items may be recommended to whom: for all users alike, or for each user."""

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
    items = np.asarray(items)
    if items.dtype.kind in "OU" and names is not None and items.ndim == 1:
        items = _numbers_of(items, names.tolist(), name)
    if items.dtype == bool and items.shape == (n_items,):
        return np.flatnonzero(items)
    if items.size == 0:
        return np.empty(0, dtype=np.int64)
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise ValueError(
            f"{name} takes {one} numbers or a mask of shape ({n_items},), but it has dtype {items.dtype} "
            f"and shape {items.shape}; map names to {one}s first: np.flatnonzero(np.isin(names, wanted))."
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


def _is_of_each_user(items, n_items):
    """Whether a filter has something of its own for each user: a matrix, or lists in a list."""
    if items is None:
        return False
    if sp.issparse(items) or getattr(items, "ndim", 1) == 2:
        return True
    return isinstance(items, list | tuple) and any(isinstance(part, list | tuple | set | np.ndarray) for part in items)


def _cells_of_users(items, n_users, n_items, names, name):
    """A filter of each user as a CSR array whose stored entries are its items."""
    boolean = isinstance(items, np.ndarray) and items.dtype.kind == "b"
    if sp.issparse(items) or boolean or hasattr(items, "iloc"):
        mask = sp.csr_array(items if sp.issparse(items) else np.asarray(items))
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
    lists = [columns_of_items(list(part), n_items, names, f"{name}[{user}]") for user, part in enumerate(items)]
    indptr = np.concatenate([[0], np.cumsum([len(part) for part in lists])])
    indices = np.concatenate([np.empty(0, np.int64), *lists]).astype(np.int64)
    return sp.csr_array((np.ones(len(indices), bool), indices, indptr), shape=(n_users, n_items))


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
    unknown = [item for item in items.tolist() if item not in number]
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
