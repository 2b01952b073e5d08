"""The k best columns of each row of a NumPy array, in a defined order: ties go to the lower column."""

import numpy as np

_SPARE = 4  # groups of columns for each item wanted: with more, fewer candidates are left but more maxima to sort
_FEWEST = 128  # groups, so that the maxima of a short list are taken over long runs of memory
_CROWDED = 8  # candidates for each item wanted, above which a row is sorted as a whole
_MOST_PACKED = 2**32  # columns whose number fits into one key with a float32 value


def top_k(scores, k, amax=np.max):
    """Return the columns of the k largest entries of each row, best first.

    The columns are dealt into groups. The k-th largest of the groups' maxima is no larger than the k-th largest entry,
    so nothing below it can be wanted: one pass leaves little more than k candidates to sort.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_columns)
        Floats or signed integers; no NaN. Entries of -inf rank last.
    k : int
        From 1 on; no more than n_columns are returned.
    amax : callable, default=numpy.max
        Array, axis -> its maxima along that axis.

    Returns
    -------
    columns : int64 ndarray of shape (n_rows, min(k, n_columns))
    """
    if k == 1 and scores.shape[1]:
        return scores.argmax(axis=1)[:, None]  # the first of equal ones
    n_groups = max(_FEWEST, _SPARE * k)
    if scores.shape[1] < 2 * n_groups:
        return _sort_rows(scores, k)
    depth = scores.shape[1] // n_groups
    maxima = amax(scores[:, : depth * n_groups].reshape(len(scores), depth, n_groups), 1)
    maxima.partition(n_groups - k, axis=1)
    candidate = scores >= maxima[:, n_groups - k, None]
    if len(scores) == 1:
        column = candidate[0].nonzero()[0]
        return column[_sort_rows(scores[:, column], k)]
    if np.count_nonzero(candidate) <= _CROWDED * k * len(scores):
        return _sort_candidates(scores, candidate, k)
    crowded = np.count_nonzero(candidate, axis=1) > _CROWDED * k  # many ties, as in a row of zeros
    candidate[crowded] = False
    columns = _sort_candidates(scores, candidate, k)
    columns[crowded] = _sort_rows(scores[crowded], k)
    return columns


def _sort_candidates(scores, candidate, k):
    """The k best candidates of each row; a row without any gets columns that mean nothing."""
    cell = np.flatnonzero(candidate)
    row, column = np.divmod(cell, scores.shape[1])
    count = np.bincount(row, minlength=len(scores))
    width = max(k, count.max(initial=0))
    # The candidates of a row stand in order of their columns, the padding after them.
    place = row * width + np.arange(len(cell)) - (np.cumsum(count) - count)[row]
    value = scores.reshape(-1)[cell]
    if value.dtype == np.float32 and scores.shape[1] <= _MOST_PACKED:
        packed = np.full(len(scores) * width, np.iinfo(np.int64).max)
        packed[place] = (_descending(value) << 32) | column
        packed = packed.reshape(len(scores), width)
        packed.sort(axis=1)  # several times faster than a stable sort, and no two keys of a row are equal
        return packed[:, :k] & (_MOST_PACKED - 1)
    ascending = np.zeros((len(scores), width), dtype=scores.dtype)
    padding = np.arange(width) >= count[:, None]
    ascending[padding] = np.inf if scores.dtype.kind == "f" else np.iinfo(scores.dtype).max
    columns = np.zeros(ascending.shape, dtype=np.int64)
    ascending.reshape(-1)[place] = -value
    columns.reshape(-1)[place] = column
    order = np.argsort(ascending, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(columns, order, axis=1)


def _descending(value):
    """Whole numbers of 32 bits, as int64, in the opposite order of float32 numbers; -0.0 and 0.0 are one number."""
    bits = (value + np.float32(0)).view(np.int32)
    return ~np.where(bits < 0, bits ^ np.int32(2**31 - 1), bits).astype(np.int64)


def _sort_rows(scores, k):
    return (-scores).argsort(axis=1, kind="stable")[:, :k]
