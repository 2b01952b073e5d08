"""How many rows or columns to handle at once, also of files that are mapped; results of batches put together."""

import mmap

import numpy as np
import torch

from skvae._topk import top_k as _numpy_top_k

_LEAST_BYTES = 2**25  # of a file that is read in blocks; smaller ones are handled as arrays
_CELLS_AT_ONCE = 2**20  # of a block: they stay in the caches while they are gone through
_MEMORY_OF_AN_ENTRY = 4  # in cells: a stored entry has a place, and copies of both are made
MOST_CELLS = 2**25  # of the rows of a map that are kept in memory, such as held-out ones: 128 MB of float32
_BLOCK_CELLS = 2**23  # rows x columns handled at once when scoring: 32 MB of float32


def is_mapped(X):
    """Tell whether the cells of an array, a CSR matrix, `SomeRows` or `MappedCells` are those of a large memory map.

    To copy them as a whole may take more memory than there is: they are read in blocks, each time they are needed.
    """
    array = X.data if hasattr(X, "nnz") else getattr(X, "numbers", X)
    if not isinstance(array, np.ndarray) or array.nbytes < _LEAST_BYTES:
        return False
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def row_slices(X):
    """Cut the rows of an array, CSR matrix or `SomeRows` of one into slices that are handled at once; at least one."""
    n_rows, cells_a_row = X.shape
    if hasattr(X, "nnz"):
        cells_a_row = _MEMORY_OF_AN_ENTRY * X.nnz // max(1, n_rows)
    size = max(1, _CELLS_AT_ONCE // max(1, cells_a_row))
    return [slice(start, min(start + size, n_rows)) for start in range(0, max(1, n_rows), size)]


def entry_slices(n):
    """Cut `range(n)`, places of stored entries, into slices that are handled at once."""
    return [slice(start, min(start + _CELLS_AT_ONCE, n)) for start in range(0, n, _CELLS_AT_ONCE)]


def any_nan(X):
    """Tell whether a cell of an array is NaN, without a copy of it."""
    return any(bool(np.isnan(X[part]).any()) for part in row_slices(X))


def block_rows(n_columns):
    """Return how many rows of this width to score at once."""
    return max(1, min(4096, _BLOCK_CELLS // max(1, n_columns)))


def top_k(scores, k):
    """Columns and values of the k largest entries of each row, best first, as NumPy arrays.

    Ties go to the lower column on the CPU; a GPU does not say which of two equal scores comes first.
    """
    return top_k_of_blocks([scores], k)


def top_k_of_blocks(blocks, k):
    """`top_k` of consecutive blocks of rows, put together. A device is waited for once, at the end."""
    found = [_top_k_where_it_is(scores, k) for scores in blocks]
    if isinstance(found[0][0], np.ndarray):
        if len(found) == 1:
            return found[0]
        return tuple(map(np.concatenate, zip(*found, strict=True)))
    dtype = found[0][1].dtype
    both = torch.cat([torch.stack([columns.double(), values.double()]) for columns, values in found], 1).cpu()
    return both[0].long().numpy(), both[1].to(dtype).numpy()


def _top_k_where_it_is(scores, k):
    if scores.is_cpu:
        scores = scores.numpy()
        columns = _numpy_top_k(scores, k, _amax)
        return columns, scores[np.arange(len(scores))[:, None], columns]
    values, columns = scores.topk(k, dim=1)
    return columns, values


def _amax(array, axis):
    """Maxima of an array along an axis, by torch, which takes a tenth of NumPy's time for many rows."""
    return array.max(axis) if len(array) == 1 else torch.from_numpy(array).amax(axis).numpy()


_CELLS_A_BATCH = {"cpu": 2**19, "cuda": 2**26}


def rows_a_batch(batch_size, n_columns, device):
    """Return `batch_size`, or as many rows as suit the caches of this kind of device."""
    if batch_size != "auto":
        return batch_size
    return max(256, _CELLS_A_BATCH["cpu" if device.type == "cpu" else "cuda"] // n_columns)


# Numbers of a step of training: of so many the whole array is kept, of more a block of columns at a time.
_WHOLE_CELLS = {"cpu": 2**25, "cuda": 2**28}  # 128 MB and 1 GB of float32
_CELLS_OF_A_BLOCK = {"cpu": 2**20, "cuda": 2**26}  # what the caches hold; what keeps a GPU busy


def column_blocks(n_rows, n_columns, device):
    """Cut the columns of an array (n_rows, n_columns) into slices, so that memory holds one of them at a time.

    There is one slice where the whole array is small.
    """
    kind = "cpu" if device.type == "cpu" else "cuda"
    if n_rows * n_columns <= _WHOLE_CELLS[kind]:
        return [slice(0, n_columns)]
    width = max(64, _CELLS_OF_A_BLOCK[kind] // n_rows // 64 * 64)
    return [slice(start, min(start + width, n_columns)) for start in range(0, n_columns, width)]


def by_row(batches, n_rows, function, dtype=None):
    """Apply a function to each batch, and put its rows together in the order of the table.

    Parameters
    ----------
    batches : iterable
        Of a table, with the number of each row as `row`.
    n_rows : int
    function : callable
        Batch -> Tensor of shape (n_rows_of_the_batch, ...).
    dtype : dtype or None, default=None
        Of what is returned, unless it is integers; None: as it comes. What it cannot hold becomes infinite.

    Returns
    -------
    values : ndarray of shape (n_rows, ...)
    """
    out = None
    for batch in batches:
        values = function(batch).cpu().numpy()
        if out is None:
            as_it_comes = dtype is None or values.dtype.kind == "i"
            out = np.empty((n_rows, *values.shape[1:]), dtype=values.dtype if as_it_comes else dtype)
        with np.errstate(over="ignore"):
            out[batch.row.cpu().numpy()] = values
    return np.empty(0, dtype) if out is None else out


def rounded(values, dtype):
    """Give an array of floats in another dtype; what that cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)
