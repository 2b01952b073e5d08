"""Scores of many columns: how many rows at once, and the best of each."""

import numpy as np

from skvae._topk import top_k as _numpy_top_k

_BLOCK_CELLS = 2**23  # rows x columns handled at once when scoring: 32 MB of float32


def block_rows(n_columns):
    """How many rows of this width to score at once."""
    return max(1, min(4096, _BLOCK_CELLS // max(1, n_columns)))


def top_k(scores, k):
    """Columns and values of the k largest entries of each row, best first, as NumPy arrays.

    Ties go to the lower column on the CPU; a GPU does not say which of two equal scores comes first.
    """
    if scores.device.type == "cpu":
        scores = scores.numpy()
        columns = _numpy_top_k(scores, k)
        return columns, np.take_along_axis(scores, columns, axis=1)
    values, columns = scores.topk(k, dim=1)
    return columns.cpu().numpy(), values.cpu().numpy()
