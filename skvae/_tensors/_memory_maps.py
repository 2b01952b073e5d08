"""Rows of a file that is mapped into memory: told apart from arrays, and read in blocks."""

import mmap

import numpy as np
import scipy.sparse as sp

_LEAST_BYTES = 2**25  # of a file that is read in blocks; smaller ones are handled as arrays
_CELLS_AT_ONCE = 2**20  # of a block: they stay in the caches while they are gone through
MOST_CELLS = 2**25  # of the rows of a map that are kept in memory, such as held-out ones: 128 MB of float32


def is_mapped(X):
    """Tell whether the cells of an array, or of a CSR matrix, are those of a large memory map.

    To copy them as a whole may take more memory than there is: they are read in blocks, each time they are needed.
    """
    array = X.data if sp.issparse(X) else X
    if not isinstance(array, np.ndarray) or array.nbytes < _LEAST_BYTES:
        return False
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def row_slices(X):
    """Cut the rows of a matrix, dense or CSR, into slices that are handled at once."""
    n_rows, cells_a_row = X.shape
    if sp.issparse(X):
        cells_a_row = X.nnz // max(1, n_rows)
    size = max(1, _CELLS_AT_ONCE // max(1, cells_a_row))
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def entry_slices(n):
    """Cut `range(n)`, places of stored entries, into slices that are handled at once."""
    return [slice(start, min(start + _CELLS_AT_ONCE, n)) for start in range(0, n, _CELLS_AT_ONCE)]


def any_nan(X):
    """Tell whether a cell of an array is NaN, without a copy of it."""
    return any(bool(np.isnan(X[part]).any()) for part in row_slices(X))
