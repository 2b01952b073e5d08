"""The k best columns of each row of a NumPy array, in a defined order: ties go to the lower column."""

import numpy as np


def top_k(scores, k):
    """Return the columns of the k largest entries of each row, best first.

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
    ascending = -scores
    if k >= scores.shape[1]:
        return np.argsort(ascending, axis=1, kind="stable")
    # One pivot, then a count: partitioning around k - 1 and k at once, to see a tie, takes three times as long.
    partitioned = np.argpartition(ascending, k - 1, axis=1)[:, :k]
    border = np.take_along_axis(ascending, partitioned[:, -1:], axis=1)
    chosen = np.sort(partitioned, axis=1)
    tied = np.count_nonzero(ascending <= border, axis=1) > k
    if tied.any():
        chosen[tied] = _lowest_of_ties(ascending[tied], border[tied], k)
    best_first = np.argsort(np.take_along_axis(ascending, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, best_first, axis=1)


def _lowest_of_ties(ascending, border, k):
    """Columns below each row's border and, of those that equal it, the first ones until there are k; ascending."""
    below, equal = ascending < border, ascending == border
    room = k - np.count_nonzero(below, axis=1)
    chosen = below | (equal & (np.cumsum(equal, axis=1) <= room[:, None]))
    return np.nonzero(chosen)[1].reshape(-1, k)
