"""The k best columns of each row of a NumPy array, in a defined order: ties go to the lower column."""

import numpy as np


def top_k(scores, k):
    """Return the columns of the k largest entries of each row, best first.

    Parameters
    ----------
    scores : ndarray of shape (n_rows, n_columns)
        No NaN. Entries of -inf rank last.
    k : int
        At most n_columns.

    Returns
    -------
    columns : int64 ndarray of shape (n_rows, k)
    """
    n_columns = scores.shape[1]
    if k >= n_columns:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    # Positions k - 1 and k are both put in place, so that a tie across the border shows itself.
    order = np.argpartition(-scores, (k - 1, k), axis=1)
    chosen = np.sort(order[:, :k], axis=1)
    border = np.take_along_axis(scores, order[:, k - 1 : k + 1], axis=1)
    tied = np.flatnonzero((border[:, 0] == border[:, 1]) & (border[:, 0] > -np.inf))
    if len(tied):
        chosen[tied] = np.sort(np.argsort(-scores[tied], axis=1, kind="stable")[:, :k], axis=1)
    best_first = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, best_first, axis=1)
