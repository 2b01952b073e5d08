"""The k best columns of each row of a NumPy array, in a defined order: ties go to the lower column."""

import numpy as np

_SPARE = 4  # groups of columns for each item wanted: with more, fewer candidates are left but more maxima to sort
_FEWEST = 128  # groups, so that the maxima of a short list are taken over long runs of memory
_CROWDED = 8  # candidates for each item wanted, above which a row is sorted as a whole


def top_k(scores, k):
    """Return the columns of the k largest entries of each row, best first.

    The columns are dealt into groups. The k-th largest of the groups' maxima is no larger than the k-th largest entry,
    so nothing below it can be wanted: one pass leaves little more than k candidates to sort.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_columns)
        Floats or signed integers; no NaN. Entries of -inf rank last.
    k : int
        From 1 on; no more than n_columns are returned.

    Returns
    -------
    columns : int64 ndarray of shape (n_rows, min(k, n_columns))
    """
    n_groups = max(_FEWEST, _SPARE * k)
    if scores.shape[1] < 2 * n_groups:
        return _sort_rows(scores, k)
    depth = scores.shape[1] // n_groups
    maxima = scores[:, : depth * n_groups].reshape(len(scores), depth, n_groups).max(axis=1)
    candidate = scores >= np.partition(maxima, n_groups - k, axis=1)[:, n_groups - k, None]
    crowded = np.count_nonzero(candidate, axis=1) > _CROWDED * k  # many ties, as in a row of zeros
    candidate[crowded] = False
    columns = _sort_candidates(scores, candidate, k)
    if crowded.any():
        columns[crowded] = _sort_rows(scores[crowded], k)
    return columns


def _sort_candidates(scores, candidate, k):
    """The k best candidates of each row; a row without any gets columns that mean nothing."""
    cell = np.flatnonzero(candidate)
    row, column = np.divmod(cell, scores.shape[1])
    count = np.bincount(row, minlength=len(scores))
    width = max(k, count.max(initial=0))
    # The candidates of a row stand in order of their columns, the padding after them: a stable sort keeps ties so.
    place = row * width + np.arange(len(cell)) - (np.cumsum(count) - count)[row]
    ascending = np.zeros((len(scores), width), dtype=scores.dtype)
    padding = np.arange(width) >= count[:, None]
    ascending[padding] = np.inf if scores.dtype.kind == "f" else np.iinfo(scores.dtype).max
    columns = np.zeros(ascending.shape, dtype=np.int64)
    ascending.reshape(-1)[place] = -scores.reshape(-1)[cell]
    columns.reshape(-1)[place] = column
    order = np.argsort(ascending, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(columns, order, axis=1)


def _sort_rows(scores, k):
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
