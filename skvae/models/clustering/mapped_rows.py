"""The rows of a memory map, where K-means has one batch of all rows in memory: made batch by batch, each time anew."""

import numpy as np
import scipy.sparse as sp
import torch

from skvae._tensors import Rows, TableBatch, torch_dtype

_CELLS_A_BATCH, _ENTRIES_A_BATCH = 2**20, 2**17  # a stored entry takes many times the memory of a cell


class MappedRows:
    """Rows of a memory map, less a shift.

    Parameters
    ----------
    X : {ndarray, CSR array or matrix} of shape (n_rows, n_columns)
    device : torch.device
    weight : float64 ndarray of shape (n_rows,)
    dtype : dtype
        Of the batches.
    shift : float64 ndarray of shape (n_columns,)
        Subtracted from dense rows.
    first : int, default=0
        Number of the first row, among the rows of all processes.
    """

    def __init__(self, X, device, weight, dtype, shift, first=0):
        self.X, self.device, self.weight, self.first = X, device, weight, first
        self.dtype, self.shift, self.n_columns = dtype, shift.astype(dtype), X.shape[1]
        self.sparse = sp.issparse(X)

    def __len__(self):
        return self.X.shape[0]

    def __getitem__(self, index):
        """Some of the rows as an array; `index` is a slice or an array of places."""
        rows = self.X[index].astype(self.dtype, copy=False)
        return rows if self.sparse else rows - self.shift

    @property
    def row(self):
        return self.first + torch.arange(len(self), device=self.device)

    @property
    def w(self):
        return torch.from_numpy(self.weight.astype(self.dtype)).to(self.device)

    @property
    def cells_a_row(self):
        """How many cells of a row there are to handle, on average."""
        return max(1, self.X.nnz // max(1, len(self))) if self.sparse else self.n_columns

    def part(self, index):
        """Some of the rows as a batch; `index` is a slice or an int64 Tensor of places."""
        index = index if isinstance(index, slice) else index.cpu().numpy()
        rows, w = self[index], self.weight[index]
        if self.sparse:
            return Rows(rows, self.device, torch_dtype(self.dtype), w).whole()
        row = self.first + (np.arange(*index.indices(len(self))) if isinstance(index, slice) else index)
        return TableBatch(*(torch.from_numpy(each).to(self.device) for each in (rows, w.astype(self.dtype), row)))

    def batches(self, size="auto", n_clusters=1):
        """All rows in batches of so many, for `engines.em`."""
        if size == "auto":
            at_once = _ENTRIES_A_BATCH if self.sparse else _CELLS_A_BATCH
            size = max(1, at_once // self.cells_a_row, 16 * n_clusters)
        return _Batches(self, [slice(start, min(start + size, len(self))) for start in range(0, len(self), size)])


class _Batches:
    """Batches of mapped rows."""

    def __init__(self, rows, bounds):
        self.rows, self.bounds = rows, bounds

    @property
    def on_cpu(self):
        """Whether the batches lie on the CPU."""
        return self.rows.device.type == "cpu"

    def __len__(self):
        return len(self.bounds)

    def __iter__(self):
        return self.part(0, len(self))

    def part(self, start, stop):
        """An iterator over the batches from number `start` to `stop`."""
        return (self.rows.part(bounds) for bounds in self.bounds[start:stop])
