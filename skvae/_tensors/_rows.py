"""The rows of a sparse matrix in batches, and dense cells with the same methods."""

import math
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from skvae._tensors._block_sizes import is_mapped
from skvae._tensors._devices import placed
from skvae._tensors._gradients import kept_gradient


class SomeRows:
    """Some rows of a CSR matrix, without a copy of them.

    Parameters
    ----------
    X : CSR matrix or array
        It may be a memory map.
    number : int64 ndarray of shape (n_rows,)
        Numbers of the rows in X.

    Attributes
    ----------
    data : ndarray
        Values of all rows of X.
    indptr : int64 ndarray of shape (n_rows + 1,)
        Where each row would begin, and the last one end, in a copy.
    """

    def __init__(self, X, number):
        self.X, self.number, self.data = X, number, X.data
        self.shape, self.dtype = (len(number), X.shape[1]), X.dtype
        self.indptr = np.append(0, (X.indptr[number + 1] - X.indptr[number]).cumsum(dtype=np.int64))

    @property
    def nnz(self):
        return int(self.indptr[-1])

    def __getitem__(self, index):
        """Some of the rows, as a CSR matrix of their own."""
        return self.X[self.number[index]]

    def some(self, index):
        """Some of the rows, without a copy."""
        return SomeRows(self.X, self.number[index])


def some_rows(X, index):
    """Rows of a CSR matrix: a copy or, of a memory map, `SomeRows`."""
    if isinstance(X, SomeRows):
        return X.some(index)
    return SomeRows(X, index) if is_mapped(X) else X[index]


class Rows:
    """The rows of a CSR matrix, handed out in batches of tensors.

    The matrix stays where it is (it may be a read-only memory map); a batch copies its own rows only.

    Parameters
    ----------
    X : {CSR matrix or array, SomeRows} of shape (n_rows, n_columns)
        Canonical: indices sorted, no duplicates, no stored zeros.
    device : torch.device
    dtype : torch.dtype, default=torch.float32
    weight : ndarray of shape (n_rows,) or None, default=None
        None: 1 for every row.
    """

    def __init__(self, X, device, dtype=torch.float32, weight=None):
        stored, self.number = (X.X, X.number) if isinstance(X, SomeRows) else (X, None)
        self.indptr, self.indices, self.data = stored.indptr, stored.indices, stored.data
        self.shape, self.device, self.dtype, self.weight = X.shape, device, dtype, weight

    def __len__(self):
        return self.shape[0]

    def batch(self, index):
        """Return the rows numbered `index` (int array), in that order."""
        stored = np.asarray(index) if self.number is None else self.number[index]
        start = self.indptr[stored].astype(np.int64)
        count = self.indptr[stored + 1] - start
        offset = np.cumsum(count) - count
        position = np.repeat(start - offset, count) + np.arange(count.sum())
        ends = np.append(offset, count.sum())
        return self._batch(index, self.indices[position], self.data[position], count, ends)

    def whole(self):
        """Return all rows in one batch, without the cost of picking them."""
        if self.number is not None:
            return self.batch(np.arange(len(self)))
        count = self.indptr[1:] - self.indptr[:-1]
        return self._batch(np.arange(len(self)), self.indices, self.data, count, self.indptr)

    def _batch(self, index, item, value, count, ends):
        place = self._place
        return self._batch_of(
            index,
            row=place(index, torch.int64),
            user=place(np.arange(len(index)).repeat(count), torch.int64),
            item=place(item, torch.int64),
            value=place(value, self.dtype),
            offset=place(ends[:-1], torch.int64),
            count=place(count, torch.int64),
            n_columns=self.shape[1],
            w=None if self.weight is None else place(self.weight[index], self.dtype),
            ends=ends,
        )

    def _batch_of(self, index, **entries):
        return Batch(**entries)

    def batches(self, batch_size, order=None):
        """Yield all rows in ceil(n / batch_size) batches whose sizes differ by at most one."""
        if order is None and len(self) <= batch_size:
            yield self.whole()
            return
        order = np.arange(len(self)) if order is None else order
        for index in np.array_split(order, self.n_batches(batch_size)):
            yield self.batch(index)

    def shuffled(self, batch_size, noise):
        """Yield the batches of one pass, in an order drawn from `noise`."""
        return self.batches(batch_size, noise.permutation(len(self)))

    def n_batches(self, batch_size):
        """Return how many batches one pass takes."""
        return max(1, math.ceil(len(self) / batch_size))

    def _place(self, array, dtype):
        return placed(array, self.device, dtype)


class _Entries:
    """Some rows of a sparse matrix as stored entries: their places and values, whole or in parts."""

    def __init__(self, row, user, item, value, offset, count, n_columns, w=None, ends=None):
        self.row, self.user, self.item, self.value = row, user, item, value
        self.offset, self.count, self.n_columns, self._w, self._ends = offset, count, n_columns, w, ends

    @cached_property
    def w(self):
        return self.value.new_ones(len(self.row)) if self._w is None else self._w

    @cached_property
    def cell(self):
        return self.user * self.n_columns + self.item

    @cached_property
    def by_item(self):
        """The places of the entries in the order of their columns, and these columns."""
        order = torch.argsort(self.item, stable=True)
        return order, self.item[order]

    @cached_property
    def ends(self):
        """Where each row starts among the entries, and where the last one ends: an array, known without the device."""
        return np.append(self.offset.cpu().numpy(), len(self.value)) if self._ends is None else self._ends

    def __len__(self):
        return len(self.row)

    def with_values(self, value):
        """Return the same cells with other values."""
        return type(self)(
            self.row, self.user, self.item, value, self.offset, self.count, self.n_columns, self._w, self._ends
        )

    @property
    def cells_a_row(self):
        """How many cells of a row there are to handle, on average."""
        return max(1, len(self.value) // max(1, len(self.row)))

    def part(self, index):
        """Return some of the rows: a slice of them, or an int64 Tensor of their places."""
        count, ends = self.count[index], None
        offset = count.cumsum(0) - count
        if isinstance(index, slice):  # neighbours: their entries are too
            start, stop, _ = index.indices(len(self))
            ends = self.ends[start : max(start, stop) + 1]
            entries, n = slice(int(ends[0]), int(ends[-1])), int(ends[-1] - ends[0])
            ends = ends - ends[0]
        else:
            n = int(count.sum())
            shift = (self.offset[index] - offset).repeat_interleave(count, output_size=n)
            entries = torch.arange(n, device=shift.device) + shift
        user = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=n)
        w = None if self._w is None else self._w[index]
        item, value = self.item[entries], self.value[entries]
        return type(self)(self.row[index], user, item, value, offset, count, self.n_columns, w, ends)

    def double(self):
        """Return the same rows in float64."""
        if self.value.dtype == torch.float64:
            return self
        w = None if self._w is None else self._w.double()
        value = self.value.double()
        return type(self)(self.row, self.user, self.item, value, self.offset, self.count, self.n_columns, w, self._ends)

    def dense(self):
        """Return the rows as a dense matrix."""
        X = self.value.new_zeros(len(self.row) * self.n_columns)
        X[self.cell] = self.value
        return X.reshape(len(self.row), self.n_columns)

    @cached_property
    def array(self):
        """The rows as a CSR array with indices of int32 where they fit; on the CPU only."""
        ends = np.append(self.offset.numpy(), len(self.value))
        if max(len(self.value), self.n_columns) < 2**31:
            ends, item = ends.astype(np.int32), self.item.numpy().astype(np.int32)
        else:
            item = self.item.numpy()
        return sp.csr_array((self.value.numpy(), item, ends), shape=(len(self.row), self.n_columns))


class Batch(_Entries):
    """Some rows of a sparse matrix x, as its stored entries x[user, item] = value.

    Attributes
    ----------
    row : int64 Tensor of shape (n_rows,)
        Global number of each row, the key of its noise.
    user, item : int64 Tensors of shape (n_stored,)
        Row within the batch, and column, of each stored entry; ordered by row.
    value : Tensor of shape (n_stored,)
    offset, count : int64 Tensors of shape (n_rows,)
        Where each row starts among the entries, and how many are its own.
    n_columns : int
    w : Tensor of shape (n_rows,)
        Weight of each row.
    cell : int64 Tensor of shape (n_stored,)
        Place of each entry in a dense matrix of (n_rows, n_columns), row after row.
    """

    @property
    def counted(self):
        """The weights by which the rows enter sums over batches."""
        return self.w

    # What follows asks other processes where they hold a part of the columns: see `_split`.
    @property
    def column(self):
        """Global number of the column of each stored entry, the key of its noise."""
        return self.item

    def joined(self, *own):
        """Return sums over the columns, a Tensor or several, given those over the columns that are here."""
        return own[0] if len(own) == 1 else own

    def largest(self, own):
        """Return maxima over the columns, given those over the columns that are here."""
        return own

    def spread(self, h):
        """Return h (n_rows, n_in) as it enters a layer to the columns."""
        return h

    def at_unit_length(self):
        """Return the values divided by the length of their row."""
        # The largest first, so that no square leaves the range of the dtype.
        value = self.value / self.top.index_select(0, self.user)
        return value / self.sum(value.square()).sqrt().index_select(0, self.user)

    def squared_norms(self):
        """Return the sum of squares of each row, of shape (n_rows,)."""
        return self.sum(self.value.square())

    def squared_distances(self, centres, label):
        """Return the squared distance of each row to its own of some centres (n_centres, n_columns), in float64."""
        centres, value = centres.double(), self.value.double()
        own = centres.reshape(-1)[label[self.user] * self.n_columns + self.item]
        away = self.sum((value - own).square() - own.square()) + centres.square().sum(1)[label]
        return away.clamp_(min=0)

    def sums(self, label, n_labels):
        """Return the weighted sum of the rows of each label: float64 Tensor of shape (n_labels, n_columns)."""
        cell = label[self.user] * self.n_columns + self.item
        mass = self.w[self.user].double() * self.value.double()
        return binned(cell, n_labels * self.n_columns, mass).reshape(n_labels, self.n_columns)

    def summing(self, n_labels):
        """Return a function from labels to what `sums` returns."""
        return lambda label: self.sums(label, n_labels)

    def sum(self, value=None):
        """Sum over each row of its values (or of others in their place), of shape (n_rows,)."""
        return self.joined(self.own_sum(self.value if value is None else value))

    def own_sum(self, value):
        """Sum over each row of values in the places of the stored entries that are here, of shape (n_rows,)."""
        return torch.segment_reduce(value, "sum", lengths=self.count, unsafe=True)

    @cached_property
    def top(self):
        """The largest value of each row, 0 for a row without entries, of shape (n_rows,)."""
        return torch.segment_reduce(self.value, "max", lengths=self.count, unsafe=True, initial=0)

    def linear(self, weight, bias):
        """Return x @ weight + bias, reading only the rows of `weight` (n_columns, n_out) that x stores."""
        return _SparseLinear.apply(weight, bias, self) if torch.is_grad_enabled() else self._linear(weight, bias)

    def _linear(self, weight, bias):
        return F.embedding_bag(self.item, weight, self.offset, mode="sum", per_sample_weights=self.value) + bias

    def linear_by_part(self, weight, bias, size):
        """Return a function from rows, as for `part`, at most `size` of them, to their x @ weight + bias."""
        if not self.value.is_cpu or self.value.dtype != torch.float64:
            return lambda rows: self.part(rows).linear(weight, bias)
        # SciPy's product takes half the time of torch's, but in float64 only.
        stored, array = self.array, weight.numpy()

        def linear(rows):
            part = stored if rows == slice(None) else stored[rows if isinstance(rows, slice) else rows.numpy()]
            return torch.from_numpy(part @ array).add_(bias)

        return linear

    def inner(self, f, beside=None):
        """Sum x_d f_d over the columns of each row; f of shape (n_rows, n_columns), the result (n_rows,).

        The sum of `beside`, of the shape of f, over all cells that were seen is added, if it is given.
        """
        inner = self.own_inner(f)
        return self.joined(inner if beside is None else inner + beside.sum(-1))

    def own_inner(self, f):
        """Sum x_d f_d over the columns that are here, of shape (n_rows,)."""
        return self.own_sum(self.value * self.take(f))

    def take(self, f):
        """Return f at the stored entries, of shape (n_stored,)."""
        return f.reshape(-1).index_select(0, self.cell)

    def in_columns(self, blocks):
        """Yield (slice of columns, places of the entries in them, cells of these in an array of the slice's width)."""
        order, item = self.by_item
        starts = torch.tensor([block.start for block in blocks] + [self.n_columns], device=item.device)
        ends = torch.searchsorted(item, starts).tolist()
        for block, first, last in zip(blocks, ends[:-1], ends[1:], strict=True):
            entries = order[first:last]
            yield block, entries, self.user[entries] * (block.stop - block.start) + item[first:last] - block.start

    # What follows lets one likelihood serve sparse rows and `Cells` alike.
    def n_observed(self):
        """Return how many cells each row has, of shape (n_rows,): zeros count as seen."""
        return self.value.new_full((len(self),), self.n_columns)

    def over_cells(self, g):
        """Sum over each row of g (n_rows, n_columns), zeros of x included; of shape (n_rows,)."""
        return self.joined(g.sum(-1))

    def logsumexp(self, f):
        """Return log sum_d exp(f_d) for each row, of shape (n_rows,)."""
        return f.logsumexp(-1)

    def minus(self, g):
        """Return x - g as a dense matrix, which takes the memory of g (n_rows, n_columns)."""
        difference = g.neg_()
        difference.view(-1).index_add_(0, self.cell, self.value)
        return difference


def binned(label, n_labels, weights=None):
    """How many there are of each label, or the sum of their weights, of shape (n_labels,)."""
    if label.is_cpu:
        return torch.bincount(label, weights, minlength=n_labels)
    weights = torch.ones_like(label) if weights is None else weights  # bincount would wait for the largest label
    return weights.new_zeros(n_labels).index_add_(0, label, weights)


class Cells:
    """Dense rows of which cells may be missing, with the methods of a `Batch` that likelihoods call.

    Leading axes (draws, members) broadcast: rows of shape (M, 1, B, D) meet an f of (M, S, B, D).

    Parameters
    ----------
    value : Tensor of shape (..., B, D)
        Zero where a cell is missing.
    observed : Tensor of the same shape and dtype or None, default=None
        1 where a cell was seen, 0 where it is missing; None where all were seen.
    """

    def __init__(self, value, observed=None):
        self.value, self.observed = value, observed

    def unsqueeze(self, axis):
        """Return the same cells with one more axis, of length 1."""
        return Cells(self.value.unsqueeze(axis), None if self.observed is None else self.observed.unsqueeze(axis))

    def double(self):
        """Return the same cells in float64."""
        return Cells(self.value.double(), None if self.observed is None else self.observed.double())

    def columns(self, start, stop):
        """Return the columns from `start` to `stop`."""
        observed = None if self.observed is None else self.observed[..., start:stop]
        return Cells(self.value[..., start:stop], observed)

    def n_observed(self):
        """Return how many cells of each row were seen, of shape (..., B)."""
        if self.observed is None:
            return self.value.new_full(self.value.shape[:-1], self.value.shape[-1])
        return self.observed.sum(-1)

    def sum(self, value=None):
        """Sum over each row of its values, or of others in their place that are zero wherever x is; (..., B)."""
        return (self.value if value is None else value).sum(-1)

    def inner(self, f, beside=None):
        """Sum x_d f_d over the columns of each row; f of shape (..., B, D), the result (..., B).

        The sum of `beside`, of the shape of f, over all cells that were seen is added, if it is given.
        """
        return (self.value * f).sum(-1) if beside is None else self.over_cells(torch.addcmul(beside, self.value, f))

    def over_cells(self, g):
        """Sum over each row of g (..., B, D) where x was seen, zeros of x included; of shape (..., B)."""
        return g.sum(-1) if self.observed is None else (g * self.observed).sum(-1)

    def logsumexp(self, f):
        """Return log sum_d exp(f_d) over the cells seen, of shape (..., B); 0 for a row without any."""
        if self.observed is None:
            return f.logsumexp(-1)
        missing = self.observed == 0
        return f.masked_fill(missing, -math.inf).logsumexp(-1).masked_fill(missing.all(-1), 0.0)

    def minus(self, g):
        """Return x - g where x was seen, 0 elsewhere, of shape (..., B, D)."""
        return self.only_seen(self.value - g)

    def only_seen(self, g):
        """Return g (..., B, D), or of any shape that broadcasts to it, where x was seen, 0 elsewhere."""
        return g if self.observed is None else g * self.observed


def _transposed_times(x, f):
    """Rows of x.T @ f, on the CPU those that are not empty, (n, n_out), and their numbers; f (n_rows, n_out)."""
    order, item = x.by_item
    if item.is_cpu:
        column, count = torch.unique_consecutive(item, return_counts=True)
        offsets = count.cumsum(0) - count
    else:  # the host would have to wait for the number of columns that are not empty
        column = torch.arange(x.n_columns, device=item.device)
        offsets = torch.searchsorted(item, column)
    bags = {"offsets": offsets, "per_sample_weights": x.value[order], "mode": "sum"}
    return F.embedding_bag(x.user[order], f, **bags), column


class _SparseLinear(torch.autograd.Function):
    """x @ weight + bias for a sparse x, at a cost in proportion to what x stores."""

    @staticmethod
    def forward(ctx, weight, bias, x):
        ctx.save_for_backward(weight)
        ctx.x = x
        return x._linear(weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (weight,) = ctx.saved_tensors
        kept, of_weight = kept_gradient(weight), None
        if ctx.needs_input_grad[0]:
            rows, column = _transposed_times(ctx.x, upstream)
            gradient = torch.zeros_like(weight) if kept is None else kept
            gradient.index_add_(0, column, rows)
            of_weight = gradient if kept is None else None
        return of_weight, upstream.sum(0), None
