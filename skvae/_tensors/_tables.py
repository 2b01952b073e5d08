"""The rows of a dense matrix, cells of which may be missing, in batches."""

import functools
import math
import sys
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skvae._tensors._block_sizes import any_nan, is_mapped, row_slices
from skvae._tensors._devices import alias

_FEW_COLUMNS = 32  # of a product with a tall matrix
_FEW_PRODUCTS = 2**24  # multiplications that NumPy's one thread ends before torch has woken up others
_ROWS_A_SUM = 4096  # summed in the dtype of the rows, before float64 takes over


class Table:
    """The rows of a dense matrix with weights and, where cells are NaN, without them; handed out in batches.

    The matrix stays where it is and is not copied as a whole (on the CPU): a batch copies its own rows only, and is
    made anew each time it is asked for. Complete rows come first, then the others sorted by which cells they miss, so
    that few patterns meet in one batch. On another device the rows are placed as a whole, those of a memory map batch
    by batch.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
        float32 or float64; NaN where a cell is missing.
    device : torch.device
    dtype : torch.dtype, default=torch.float64
        Of what the batches hold.
    weight : ndarray of shape (n_rows,) or None, default=None
        None: 1 for every row.
    shift : ndarray of shape (n_columns,) or None, default=None
        Subtracted from every row.
    allow_missing : bool, default=True
        False spares the search for NaN.
    """

    def __init__(self, X, device, dtype=torch.float64, *, weight=None, shift=None, allow_missing=True):
        self.X, self.shape, self.device, self.dtype = X, X.shape, device, dtype
        self.shift = None if shift is None else torch.tensor(shift, dtype=dtype, device=device)
        self.weight = torch.ones(1, dtype=dtype).expand(len(X)) if weight is None else alias(np.asarray(weight))
        self.order = self.pattern = self.patterns = None
        self.n_complete = len(X)
        if allow_missing:
            self._sort_by_pattern()
        self.placed = None if device.type == "cpu" or is_mapped(X) else self._place()

    def __len__(self):
        return self.shape[0]

    @functools.cached_property
    def whole(self):
        """All rows as one batch, made once."""
        return self.batch(0, len(self))

    def _sort_by_pattern(self):
        if not any_nan(self.X):
            return
        incomplete = np.concatenate(
            [part.start + np.flatnonzero(np.isnan(self.X[part]).any(axis=1)) for part in row_slices(self.X)]
        )
        patterns, which = np.unique(np.isnan(self.X[incomplete]), axis=0, return_inverse=True)
        which = which.reshape(-1)
        by_pattern = np.argsort(which, kind="stable")
        complete = np.delete(np.arange(len(self)), incomplete)
        self.order = np.concatenate([complete, incomplete[by_pattern]])
        self.n_complete = len(complete)
        self.patterns, self.pattern = torch.from_numpy(~patterns).to(self.device), which[by_pattern]

    def _place(self):
        """Rows, weights, numbers and patterns on a device, in the order of this table: batches are parts of them."""

        def send(tensor):  # without waiting until the device has done what it was given before
            return tensor.to(self.device, non_blocking=True)

        X, w = send(alias(self.X)).to(self.dtype), send(self.weight).to(self.dtype)
        if self.order is None:
            return X, w, torch.arange(len(self), device=self.device), None
        row = send(torch.from_numpy(self.order))
        return X[row], w[row], row, send(torch.from_numpy(self.pattern))

    def batches(self, batch_size, incomplete=sys.maxsize, *, in_turn=False):
        """Return all rows in batches of at most `batch_size`, those with missing cells of at most `incomplete`.

        With `in_turn`, each batch may overwrite the one before.
        """
        return _Batches(self, batch_size, min(batch_size, incomplete), in_turn)

    def batch(self, start, stop, space=None):
        """Return the rows from place `start` to place `stop` in the order of this table, in a `Workspace` if given."""
        if self.placed is not None:
            X, w, row = (part[start:stop] for part in self.placed[:3])
        else:
            index = slice(start, stop) if self.order is None else self.order[start:stop]
            X = alias(self.X[index])
            X = X.to(self.dtype) if self.shift is None else X
            w = self.weight[index].to(self.dtype)
            row = torch.arange(start, stop) if self.order is None else torch.from_numpy(index)
            X, w, row = (part.to(self.device) for part in (X, w, row))
        if self.shift is not None:
            X = torch.sub(X, self.shift, out=None if space is None else space.empty("X", X.shape, self.shift))
        if stop <= self.n_complete:
            return TableBatch(X, w, row)
        places = slice(start - self.n_complete, stop - self.n_complete)
        which = self.pattern[places]
        first, last = int(which[0]), int(which[-1]) + 1
        which = torch.from_numpy(which - first) if self.placed is None else self.placed[3][places] - first
        which = which.to(self.device)
        patterns = self.patterns[first:last]
        return TableBatch(X.nan_to_num(nan=0.0), w, row, patterns[which].to(self.dtype), patterns, which)


class TableBatch(NamedTuple):
    """Some rows of a table.

    Attributes
    ----------
    X : Tensor of shape (n_rows, n_columns)
        Zero where a cell is missing. It may share the caller's memory: read it, do not write.
    w : Tensor of shape (n_rows,)
        Weight of each row.
    row : int64 Tensor of shape (n_rows,)
        Number of each row in the matrix, the key of its noise.
    observed : Tensor of shape (n_rows, n_columns) or None
        1 where a cell was seen, 0 where it is missing; None where all were seen.
    patterns : bool Tensor of shape (n_patterns, n_columns) or None
        The distinct rows of `observed`.
    pattern : int64 Tensor of shape (n_rows,) or None
        Which of them each row has; ascending.
    """

    X: torch.Tensor
    w: torch.Tensor
    row: torch.Tensor
    observed: torch.Tensor | None = None
    patterns: torch.Tensor | None = None
    pattern: torch.Tensor | None = None

    @property
    def n_columns(self):
        return self.X.shape[1]

    @property
    def cells_a_row(self):
        """How many cells of a row there are to handle."""
        return self.n_columns

    @property
    def array(self):
        """The rows as an array that shares their memory; on the CPU only."""
        return self.X.numpy()

    def part(self, index):
        """Return some of the rows, all complete: a slice of them, or an int64 Tensor of their places."""
        if isinstance(index, slice) or not self.X.is_cpu:
            return TableBatch(self.X[index], self.w[index], self.row[index])
        # NumPy stays in the thread that asks; its `take` needs a third of the time of its indexing.
        parts = (torch.from_numpy(array.numpy().take(index.numpy(), 0)) for array in (self.X, self.w, self.row))
        return TableBatch(*parts)

    def double(self):
        """Return the same rows in float64."""
        return self._replace(X=self.X.double(), w=self.w.double())

    def dense(self):
        """Return the rows as a dense matrix."""
        return self.X

    def squared_norms(self):
        """Return the sum of squares of each row, of shape (n_rows,)."""
        return torch.from_numpy(_squared_norms(self.X.numpy())) if self.X.is_cpu else self.X.square().sum(1)

    def squared_distances(self, centres, label):
        """Return the squared distance of each row to its own of some centres (n_centres, n_columns), in float64."""
        if not self.X.is_cpu:
            return (self.X.double() - centres.double()[label]).square().sum(1)
        away = self.X.numpy() - centres.numpy().take(label.numpy(), 0)
        return torch.from_numpy(_squared_norms(away).astype(np.float64))

    def linear(self, weight, bias):
        """Return X @ weight + bias."""
        return _affine(self.X, weight, bias)

    def linear_by_part(self, weight, bias, size):
        """Return a function from rows, as for `part`, at most `size` of them, to their X @ weight + bias.

        The results share memory: use one before the next.
        """
        space, shape = Workspace(), (size, weight.shape[1])
        if self.X.is_cpu and size * weight.numel() <= _FEW_PRODUCTS:

            def linear_in_this_thread(rows):
                x = self.X.numpy()[rows] if isinstance(rows, slice) else self.X.numpy().take(rows.numpy(), 0)
                return torch.from_numpy(x @ weight.numpy() + bias.numpy())

            return linear_in_this_thread

        def linear(rows):
            if isinstance(rows, slice):
                x = self.X[rows]
            else:
                out = space.empty("rows", (len(rows), self.n_columns), self.X)
                x = torch.index_select(self.X, 0, rows, out=out)
            return _affine(x, weight, bias, space.empty("out", (len(x), shape[1]), x))

        return linear

    def sums(self, label, n_labels):
        """Return the weighted sum of the rows of each label: float64 Tensor of shape (n_labels, n_columns)."""
        return self.summing(n_labels)(label)

    def summing(self, n_labels):
        """Return a function from labels, int64, to what `sums` returns; what it needs is prepared once."""
        size = max(_ROWS_A_SUM if self.X.is_cpu else 16 * _ROWS_A_SUM, n_labels)
        if self.X.is_cpu:  # where torch's index_add and embedding_bag take two to five times as long
            return _ProductSums(self.X.numpy(), self.w.numpy(), n_labels, size)

        def sums(label):
            total = torch.zeros(n_labels, self.n_columns, dtype=torch.float64, device=self.X.device)
            for X, own, mass in zip(self.X.split(size), label.split(size), self.w.split(size)):
                total.index_add_(0, own, (mass[:, None] * X).double())
            return total

        return sums


class _ProductSums:
    """Weighted sums of the rows of each label, as products with a sparse matrix; float32 rows are summed in parts."""

    def __init__(self, X, w, n_labels, size):
        size = len(X) if X.dtype == np.float64 else size
        w, parts = w.astype(X.dtype, copy=False), range(0, max(1, len(X)), max(1, size))
        self.parts, self.shape = [], (n_labels, X.shape[1])
        for part in (slice(start, start + size) for start in parts):
            rows = X[part]
            entries = w[part], np.zeros(len(rows), np.int64), np.arange(len(rows) + 1)
            self.parts.append((part, rows, sp.csc_array(entries, shape=(n_labels, len(rows)))))

    def __call__(self, label):
        total, label = np.zeros(self.shape), label.numpy()
        for part, rows, member in self.parts:
            member.indices[:] = label[part]
            total += member @ rows
        return torch.from_numpy(total)


def _squared_norms(X):
    return np.einsum("ij,ij->i", X, X)


def _affine(X, weight, bias, out=None):
    """Return X @ weight + bias; where few columns come out, computed transposed, which is faster."""
    if weight.shape[1] >= _FEW_COLUMNS:
        return torch.addmm(bias, X, weight, out=out)
    out = None if out is None else out.view(weight.shape[1], len(X))
    return torch.addmm(bias[:, None], weight.mT, X.mT, out=out).mT


class _Batches:
    """Batches of a table; complete and incomplete rows never share one."""

    def __init__(self, table, batch_size, incomplete, in_turn):
        self.table, self.in_turn = table, in_turn
        complete, n = table.n_complete, len(table)
        self.bounds = [*_equal_parts(0, complete, batch_size), *_equal_parts(complete, n, incomplete)]

    @property
    def on_cpu(self):
        """Whether the batches lie on the CPU."""
        return self.table.device.type == "cpu"

    def __len__(self):
        return len(self.bounds)

    def __iter__(self):
        return self.part(0, len(self))

    def part(self, start, stop):
        """Return an iterator over the batches from number `start` to `stop`, in memory of its own.

        Where there is only one batch, it is the same each time.
        """
        if len(self) == 1 and self.in_turn:
            return iter([self.table.whole])
        space = Workspace() if self.in_turn else None
        return (self.table.batch(*bounds, space) for bounds in self.bounds[start:stop])


def _equal_parts(start, stop, size):
    """Return the bounds of the fewest parts of at most `size` that differ by at most one."""
    n_parts = math.ceil((stop - start) / size)
    edges = [start + (stop - start) * part // n_parts for part in range(n_parts + 1)] if n_parts else []
    return list(zip(edges[:-1], edges[1:]))


class Workspace:
    """Memory for large temporaries of a loop.

    Fresh megabytes from the system cost more, page by page, than to fill them. What is returned under a name is
    overwritten when that name is asked for again.
    """

    def __init__(self):
        self._kept = {}

    def empty(self, name, shape, like):
        """Return an uninitialised array of this shape, of the dtype and device of a Tensor or ndarray."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or len(kept) < size or not _alike(kept, like):
            of_numpy = isinstance(like, np.ndarray)
            kept = self._kept[name] = np.empty(size, like.dtype) if of_numpy else like.new_empty(size)
        return kept[:size].reshape(shape)


def _alike(some, others):
    """Whether two arrays are of one kind, dtype and device."""
    return type(some) is type(others) and some.dtype == others.dtype and some.device == others.device
