"""The one seam between NumPy and torch: devices, keyed noise, rows and their batches.

Engines and models see tensors only, and never ask whether rows are sparse or where they live.
"""

import contextlib
import inspect
import math
import sys
import warnings
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from skvae._hash import combine
from skvae._topk import top_k as _numpy_top_k

_BLOCK_CELLS = 2**23  # rows x columns handled at once when scoring: 32 MB of float32
_FEW_COLUMNS = 32  # of a product with a tall matrix
_ROWS_A_SUM = 4096  # summed in the dtype of the rows, before float64 takes over


# ---------------------------------------------------------------------------------------------------------- devices
def resolve_device(device):
    """Turn a `device` parameter into a `torch.device` that exists here.

    Parameters
    ----------
    device : str
        "auto" (a CUDA GPU when there is one, else the CPU) or any name torch knows: "cpu", "cuda", "cuda:1".

    Raises
    ------
    ValueError
        If torch does not know the name or the device is not on this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} cannot be used here: {reason}. Use 'auto', 'cpu', or a device this machine has."
        ) from error
    if resolved.type == "meta":
        raise ValueError("device='meta' holds no numbers. Use 'auto', 'cpu', or a device this machine has.")
    return resolved


def inference_device(device):
    """As `resolve_device`, but fall back on the CPU: what was fitted on a GPU must predict without one."""
    try:
        return resolve_device(device)
    except ValueError as error:
        warnings.warn(f"Predicting on the CPU: {error}", UserWarning, stacklevel=3)
        return torch.device("cpu")


@contextlib.contextmanager
def explain_out_of_memory(advice):
    """Re-raise a GPU's out-of-memory error with what the user can do about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"The GPU ran out of memory; {advice}. ({str(error).splitlines()[0]})") from error


def to_device(arrays, device, dtype=torch.float32):
    """Place a dict of arrays on a device, as tensors of one dtype; never an alias of the arrays."""
    return {name: torch.tensor(array, dtype=dtype, device=device) for name, array in arrays.items()}


def to_read(arrays, device, dtype):
    """As `to_device`, for who only reads: what need not be converted is not copied, so that one row costs no more."""
    return {name: _alias(array).to(device=device, dtype=dtype) for name, array in arrays.items()}


def placed(array, device, dtype):
    """One array as a tensor, of its own memory only where it must be converted: for who only reads."""
    return _alias(np.ascontiguousarray(array)).to(device=device, dtype=dtype)


def _alias(array):
    # torch warns of arrays that it could write to but must not, such as read-only memory maps.
    # It refuses arrays that run backwards.
    aliased = array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if aliased else array.copy())


def to_numpy(tensors):
    """Bring a dict of tensors home as NumPy arrays; tensors of the CPU keep their memory and share it."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


# ------------------------------------------------------------------------------------------------------------ noise
class Noise:
    """Random numbers as a pure function of (seed, path, row, column).

    No state and no stream to advance: a row draws the same numbers whatever batch, shard or order it comes in, and
    a column the same whatever the number of columns asked for.

    Parameters
    ----------
    seed : int
    """

    def __init__(self, seed):
        self.key, self._folded = int(seed), {}

    def fold(self, *path):
        """Noise of its own for a purpose, such as `noise.fold("dropout", epoch)`."""
        if path not in self._folded:  # remembered: a loop asks for the same one at every step
            key = np.array([self.key], dtype=np.int64)
            for step in path:
                key = combine(key, np.array([crc32(step.encode()) if isinstance(step, str) else step], dtype=np.int64))
            self._folded[path] = Noise(key[0])
        return self._folded[path]

    def keys(self, row):
        """A key for each row, from which its cells draw."""
        return combine(self.key, row)

    def uniform(self, row, n_columns, dtype=torch.float32):
        """Uniform on the open interval (0, 1), of shape (len(row), n_columns)."""
        return uniform_at(self.keys(row)[:, None], torch.arange(n_columns, device=row.device), dtype)

    def normal(self, row, n_columns, dtype=torch.float32):
        """Standard normal, of shape (len(row), n_columns); Box and Muller (1958) on two parts of the 64 bits."""
        return normal_at(self.keys(row)[:, None], torch.arange(n_columns, device=row.device), dtype)

    def permutation(self, n):
        """An order of n rows, as an int64 array: the rows sorted by their own random bits."""
        return np.argsort(self.keys(np.arange(n, dtype=np.int64)), kind="stable")


def uniform_at(key, column, dtype=torch.float32):
    """Uniform on (0, 1) for single cells, by the `keys` of their rows and their columns, which broadcast."""
    return _unit(combine(key, column) >> 40, dtype)


def normal_at(key, column, dtype=torch.float32):
    """Standard normal for single cells, by the `keys` of their rows and their columns, which broadcast."""
    bits = combine(key, column)
    radius = _unit(bits >> 40, dtype).log_().mul_(-2).sqrt_()
    return radius.mul_(_unit(bits, dtype).mul_(2 * math.pi).cos_())


def _unit(bits, dtype):
    """Map the lowest 23 bits to the midpoints of 2**23 equal parts of (0, 1): float32 holds each of them exactly."""
    return (bits & 0x7FFFFF).to(dtype).add_(0.5).mul_(2.0**-23)


# ------------------------------------------------------------------------------------------------------------- rows
class Rows:
    """The rows of a CSR matrix, handed out in batches of tensors.

    The matrix stays where it is (it may be a read-only memory map); a batch copies its own rows only.

    Parameters
    ----------
    X : CSR matrix or array of shape (n_rows, n_columns)
        Canonical: indices sorted, no duplicates, no stored zeros.
    device : torch.device
    dtype : torch.dtype, default=torch.float32
    weight : ndarray of shape (n_rows,) or None, default=None
        None: 1 for every row.
    """

    def __init__(self, X, device, dtype=torch.float32, weight=None):
        self.indptr, self.indices, self.data = X.indptr, X.indices, X.data
        self.shape, self.device, self.dtype, self.weight = X.shape, device, dtype, weight

    def __len__(self):
        return self.shape[0]

    def batch(self, index):
        """The rows numbered `index` (int array), in that order."""
        start = self.indptr[index].astype(np.int64)
        count = self.indptr[np.asarray(index) + 1] - start
        offset = np.cumsum(count) - count
        position = np.repeat(start - offset, count) + np.arange(count.sum())
        place = self._place
        return Batch(
            row=place(index, torch.int64),
            user=place(np.repeat(np.arange(len(index)), count), torch.int64),
            item=place(self.indices[position], torch.int64),
            value=place(self.data[position], self.dtype),
            offset=place(offset, torch.int64),
            count=place(count, torch.int64),
            n_columns=self.shape[1],
            w=None if self.weight is None else place(self.weight[index], self.dtype),
        )

    def batches(self, batch_size, order=None):
        """All rows in ceil(n / batch_size) batches whose sizes differ by at most one: no small batch at the end."""
        order = np.arange(len(self)) if order is None else order
        for index in np.array_split(order, self.n_batches(batch_size)):
            yield self.batch(index)

    def shuffled(self, batch_size, noise):
        """The batches of one pass in an order of its own."""
        return self.batches(batch_size, noise.permutation(len(self)))

    def n_batches(self, batch_size):
        """Of one pass."""
        return max(1, math.ceil(len(self) / batch_size))

    def _place(self, array, dtype):
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=self.device, dtype=dtype)


class Batch:
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

    def __init__(self, row, user, item, value, offset, count, n_columns, w=None):
        self.row, self.user, self.item, self.value = row, user, item, value
        self.offset, self.count, self.n_columns, self._w = offset, count, n_columns, w

    @cached_property
    def w(self):
        return self.value.new_ones(len(self.row)) if self._w is None else self._w

    @property
    def counted(self):
        """The weights by which the rows enter sums over batches."""
        return self.w

    @cached_property
    def cell(self):
        return self.user * self.n_columns + self.item

    def __len__(self):
        return len(self.row)

    def with_values(self, value):
        """The same cells holding other values."""
        return Batch(self.row, self.user, self.item, value, self.offset, self.count, self.n_columns, self._w)

    @property
    def cells_a_row(self):
        """How many cells of a row there are to handle, on average."""
        return max(1, len(self.value) // max(1, len(self.row)))

    def part(self, index):
        """Some of the rows: a slice of them, or an int64 Tensor of their places."""
        offset, count = self.offset[index], self.count[index]
        if isinstance(index, slice):  # neighbours: their entries are too
            start = int(offset[0]) if len(offset) else 0
            entries = slice(start, start + int(count.sum()))
        else:
            shift = offset - (count.cumsum(0) - count)
            entries = torch.arange(int(count.sum()), device=shift.device) + shift.repeat_interleave(count)
        user = torch.arange(len(count), device=count.device).repeat_interleave(count)
        w = None if self._w is None else self._w[index]
        item, value = self.item[entries], self.value[entries]
        return Batch(self.row[index], user, item, value, count.cumsum(0) - count, count, self.n_columns, w)

    def double(self):
        """The same rows in float64."""
        w = None if self._w is None else self._w.double()
        value = self.value.double()
        return Batch(self.row, self.user, self.item, value, self.offset, self.count, self.n_columns, w)

    def dense(self):
        """The rows as a dense matrix."""
        X = self.value.new_zeros(len(self.row) * self.n_columns)
        X[self.cell] = self.value
        return X.reshape(len(self.row), self.n_columns)

    def squared_norms(self):
        """Sum of squares of each row, of shape (n_rows,)."""
        return self.sum(self.value.square())

    def squared_distances(self, centres, label):
        """Squared distance of each row to its own of some centres (n_centres, n_columns), in float64."""
        centres, value = centres.double(), self.value.double()
        own = centres.reshape(-1)[label[self.user] * self.n_columns + self.item]
        away = self.sum((value - own).square() - own.square()) + centres.square().sum(1)[label]
        return away.clamp_(min=0)

    def sums(self, label, w, n_labels):
        """Sum of the rows of each label, weighted by `w`: float64 Tensor of shape (n_labels, n_columns)."""
        cell = label[self.user] * self.n_columns + self.item
        mass = w[self.user].double() * self.value.double()
        return torch.bincount(cell, mass, minlength=n_labels * self.n_columns).reshape(n_labels, self.n_columns)

    def sum(self, value=None):
        """Sum over each row of its values (or of others in their place), of shape (n_rows,)."""
        value = self.value if value is None else value
        return torch.segment_reduce(value, "sum", lengths=self.count, unsafe=True)

    def max(self):
        """Largest value of each row, 0 for a row without entries, of shape (n_rows,)."""
        return torch.segment_reduce(self.value, "max", lengths=self.count, unsafe=True, initial=0)

    def linear(self, weight, bias):
        """x @ weight + bias, touching only the rows of `weight` (n_columns, n_out) that x stores."""
        return _SparseLinear.apply(weight, bias, self)

    def linear_by_part(self, weight, bias, size):
        """A function from rows, as for `part`, at most `size` of them, to their x @ weight + bias."""
        if not self.value.is_cpu or self.value.dtype != torch.float64:
            return lambda rows: self.part(rows).linear(weight, bias)
        # SciPy's product takes half the time of torch's, but in float64 only.
        ends = np.append(self.offset.numpy(), len(self.value))
        stored = sp.csr_array((self.value.numpy(), self.item.numpy(), ends), shape=(len(self.row), self.n_columns))
        array = weight.numpy()
        return lambda rows: torch.from_numpy(stored[rows if isinstance(rows, slice) else rows.numpy()] @ array).add_(
            bias
        )

    def transposed_times(self, f):
        """Rows of x.T @ f that are not empty, (n_stored_columns, n_out), and their numbers; f (n_rows, n_out)."""
        order = torch.argsort(self.item, stable=True)
        column, count = torch.unique_consecutive(self.item[order], return_counts=True)
        bags = {"offsets": count.cumsum(0) - count, "per_sample_weights": self.value[order], "mode": "sum"}
        return F.embedding_bag(self.user[order], f, **bags), column

    def inner(self, f, beside=None):
        """sum_d x_d f_d for each row; f of shape (n_rows, n_columns), the result (n_rows,).

        And the sum of `beside`, of the shape of f, over all cells that were seen, if it is given.
        """
        inner = self.sum(self.value * self.take(f))
        return inner if beside is None else inner + self.over_cells(beside)

    def take(self, f):
        """f at the stored entries, of shape (n_stored,)."""
        return f.reshape(-1).index_select(0, self.cell)

    # What follows lets one likelihood serve sparse rows and `Cells` alike.
    def n_observed(self):
        """How many cells each row has, of shape (n_rows,): zeros count as seen."""
        return self.value.new_full((len(self),), self.n_columns)

    def over_cells(self, g):
        """Sum over each row of g (n_rows, n_columns), zeros of x included; of shape (n_rows,)."""
        return g.sum(-1)

    def logsumexp(self, f):
        """log sum_d exp(f_d) for each row, of shape (n_rows,)."""
        return f.logsumexp(-1)

    def minus(self, g):
        """x - g as a dense matrix, which takes the memory of g (n_rows, n_columns)."""
        difference = g.neg_()
        difference.view(-1).index_add_(0, self.cell, self.value)
        return difference


class Cells:
    """Dense rows of which cells may be missing, with the verbs of a `Batch` that likelihoods ask for.

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
        """With one more axis, of length 1."""
        return Cells(self.value.unsqueeze(axis), None if self.observed is None else self.observed.unsqueeze(axis))

    def part(self, start, stop):
        """Some of the columns."""
        observed = None if self.observed is None else self.observed[..., start:stop]
        return Cells(self.value[..., start:stop], observed)

    def n_observed(self):
        """How many cells of each row were seen, of shape (..., B)."""
        if self.observed is None:
            return self.value.new_full(self.value.shape[:-1], self.value.shape[-1])
        return self.observed.sum(-1)

    def sum(self, value=None):
        """Sum over each row of its values, or of others in their place that are zero wherever x is; (..., B)."""
        return (self.value if value is None else value).sum(-1)

    def inner(self, f, beside=None):
        """sum_d x_d f_d for each row; f of shape (..., B, D), the result (..., B).

        And the sum of `beside`, of the shape of f, over all cells that were seen, if it is given.
        """
        return (self.value * f).sum(-1) if beside is None else self.over_cells(torch.addcmul(beside, self.value, f))

    def over_cells(self, g):
        """Sum over each row of g (..., B, D) where x was seen, zeros of x included; of shape (..., B)."""
        return g.sum(-1) if self.observed is None else (g * self.observed).sum(-1)

    def logsumexp(self, f):
        """log sum_d exp(f_d) over the cells seen, of shape (..., B); 0, without gradient, for a row without any."""
        if self.observed is None:
            return f.logsumexp(-1)
        missing = self.observed == 0
        return f.masked_fill(missing, -math.inf).logsumexp(-1).masked_fill(missing.all(-1), 0.0)

    def minus(self, g):
        """x - g where x was seen, 0 elsewhere, of shape (..., B, D)."""
        return self.only_seen(self.value - g)

    def only_seen(self, g):
        """g (..., B, D), or of any shape that broadcasts to it, where x was seen, 0 elsewhere."""
        return g if self.observed is None else g * self.observed


class _SparseLinear(torch.autograd.Function):
    """x @ weight + bias for a sparse x. Forward and backward cost what x stores, not what it could."""

    @staticmethod
    def forward(ctx, weight, bias, x):
        ctx.save_for_backward(weight)
        ctx.x = x
        return F.embedding_bag(x.item, weight, x.offset, mode="sum", per_sample_weights=x.value) + bias

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (weight,) = ctx.saved_tensors
        rows, column = ctx.x.transposed_times(upstream)
        kept = kept_gradient(weight)
        gradient = torch.zeros_like(weight) if kept is None else kept
        gradient.index_add_(0, column, rows)
        return gradient if kept is None else None, upstream.sum(0), None


class Kept(NamedTuple):
    """A leaf and its gradient, out of autograd's sight; matrices where the leaf is a stack of one.

    Attributes
    ----------
    value, gradient : Tensor
    """

    value: torch.Tensor
    gradient: torch.Tensor


def keep_gradient(leaf, gradient):
    """Have operations that know of it add to this gradient of a leaf in place, and return none to autograd.

    A weight as wide as a catalogue has a gradient of tens of megabytes: to allocate it anew at every step, and have
    autograd add it to the old one, costs more than to compute it. And one matrix is multiplied faster than a stack of
    one.
    """
    leaf.grad = gradient
    parts = leaf.detach(), gradient
    leaf.kept = Kept(*(part.squeeze(0) for part in parts) if leaf.dim() == 3 and len(leaf) == 1 else parts)


def kept(tensor):
    """The `Kept` of a leaf that has one; None for any other tensor, whose gradient is returned as usual."""
    return getattr(tensor, "kept", None)


def kept_gradient(tensor):
    """The gradient of a leaf that keeps one; else None."""
    return tensor.kept.gradient if kept(tensor) else None


class _Context:
    """What a `torch.autograd.Function` keeps for its way back."""

    def __init__(self, to_input):
        self.needs_input_grad = (to_input,)

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def and_back(function, *inputs, to_input=True):
    """Apply a `torch.autograd.Function` without autograd, whose bookkeeping takes longer than small arithmetic.

    Returns
    -------
    value : Tensor, or tuple of Tensors
    back : callable
        Gradients of the values -> gradient of the first input, or None if that is not asked for by `to_input`. To be
        called once: it may use up what was kept for it.
    """
    ctx, backward = _Context(to_input), inspect.unwrap(function.backward)  # of what would guard it from autograd

    def back(*upstream):
        return backward(ctx, *upstream)[0]

    return function.forward(ctx, *inputs), back


class Table:
    """The rows of a dense matrix with weights and, where cells are NaN, without them; handed out in batches.

    The matrix stays where it is and is not copied as a whole (on the CPU): a batch copies its own rows only, and is
    made anew each time it is asked for. Complete rows come first, then the others sorted by which cells they miss, so
    that few patterns meet in one batch.

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
        self.weight = torch.ones(1, dtype=dtype).expand(len(X)) if weight is None else _alias(np.asarray(weight))
        self.order = self.pattern = self.patterns = None
        self.n_complete = len(X)
        if allow_missing:
            self._sort_by_pattern()
        self.placed = None if device.type == "cpu" else _alias(X).to(device=device, dtype=dtype)

    def __len__(self):
        return self.shape[0]

    def _sort_by_pattern(self):
        missing = np.isnan(self.X)
        incomplete = np.flatnonzero(missing.any(axis=1))
        if not len(incomplete):
            return
        patterns, which = np.unique(missing[incomplete], axis=0, return_inverse=True)
        which = which.reshape(-1)
        by_pattern = np.argsort(which, kind="stable")
        complete = np.delete(np.arange(len(self)), incomplete)
        self.order = np.concatenate([complete, incomplete[by_pattern]])
        self.n_complete = len(complete)
        self.patterns, self.pattern = torch.from_numpy(~patterns).to(self.device), which[by_pattern]

    def batches(self, batch_size, incomplete=sys.maxsize, *, in_turn=False):
        """All rows in batches of at most `batch_size`, those with missing cells of at most `incomplete`.

        `in_turn`: each batch may overwrite the one before.
        """
        return _Batches(self, batch_size, min(batch_size, incomplete), Workspace() if in_turn else None)

    def batch(self, start, stop, space=None):
        """The rows from place `start` to place `stop` in the order of this table; in a `Workspace`, if one is given."""
        index = slice(start, stop) if self.order is None else self.order[start:stop]
        if self.placed is not None:
            X = self.placed[index if self.order is None else torch.from_numpy(index).to(self.device)]
        else:
            X = _alias(self.X[index])
            X = X.to(self.dtype) if self.shift is None else X
        if self.shift is not None:
            X = torch.sub(X, self.shift, out=None if space is None else space.empty("X", X.shape, self.shift))
        row = torch.arange(start, stop) if self.order is None else torch.from_numpy(index)
        w = self.weight[index].to(device=self.device, dtype=self.dtype)
        if stop <= self.n_complete:
            return TableBatch(X, w, row.to(self.device))
        which = self.pattern[start - self.n_complete : stop - self.n_complete]
        first, last = which[0], which[-1] + 1
        patterns, which = self.patterns[first:last], torch.from_numpy(which - first).to(self.device)
        return TableBatch(
            X.nan_to_num(nan=0.0), w, row.to(self.device), patterns[which].to(self.dtype), patterns, which
        )


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

    def part(self, index):
        """Some of the rows, all complete: a slice of them, or an int64 Tensor of their places."""
        if isinstance(index, slice) or not self.X.is_cpu:
            return TableBatch(self.X[index], self.w[index], self.row[index])
        # NumPy stays in the thread that asks; its `take` needs a third of the time of its indexing.
        parts = (torch.from_numpy(array.numpy().take(index.numpy(), 0)) for array in (self.X, self.w, self.row))
        return TableBatch(*parts)

    def double(self):
        """The same rows in float64."""
        return self._replace(X=self.X.double(), w=self.w.double())

    def dense(self):
        """The rows as a dense matrix."""
        return self.X

    def squared_norms(self):
        """Sum of squares of each row, of shape (n_rows,)."""
        return torch.from_numpy(_squared_norms(self.X.numpy())) if self.X.is_cpu else self.X.square().sum(1)

    def squared_distances(self, centres, label):
        """Squared distance of each row to its own of some centres (n_centres, n_columns), in float64."""
        if not self.X.is_cpu:
            return (self.X.double() - centres.double()[label]).square().sum(1)
        away = self.X.numpy() - centres.numpy()[label.numpy()]
        return torch.from_numpy(_squared_norms(away).astype(np.float64))

    def linear(self, weight, bias):
        """X @ weight + bias."""
        return _affine(self.X, weight, bias)

    def linear_by_part(self, weight, bias, size):
        """A function from rows, as for `part`, at most `size` of them, to their X @ weight + bias.

        The results share memory: use one before the next.
        """
        space, shape = Workspace(), (size, weight.shape[1])

        def linear(rows):
            if isinstance(rows, slice):
                x = self.X[rows]
            else:
                out = space.empty("rows", (len(rows), self.n_columns), self.X)
                x = torch.index_select(self.X, 0, rows, out=out)
            return _affine(x, weight, bias, space.empty("out", (len(x), shape[1]), x))

        return linear

    def sums(self, label, w, n_labels):
        """Sum of the rows of each label, weighted by `w`: float64 Tensor of shape (n_labels, n_columns)."""
        total = torch.zeros(n_labels, self.n_columns, dtype=torch.float64, device=self.X.device)
        size = max(_ROWS_A_SUM if self.X.is_cpu else 16 * _ROWS_A_SUM, n_labels)
        for X, own, mass in zip(self.X.split(size), label.split(size), w.split(size)):
            if not X.is_cpu:
                total.index_add_(0, own, (mass[:, None] * X).double())
            else:  # where torch's index_add and embedding_bag take two to five times as long
                entries = mass.to(X.dtype).numpy(), own.numpy(), np.arange(len(X) + 1)
                total += torch.from_numpy(sp.csc_array(entries, shape=(n_labels, len(X))) @ X.numpy())
        return total


def _squared_norms(X):
    return np.einsum("ij,ij->i", X, X)


def _affine(X, weight, bias, out=None):
    """X @ weight + bias; where few columns come out, the other way round, which is some times as fast."""
    if weight.shape[1] >= _FEW_COLUMNS:
        return torch.addmm(bias, X, weight, out=out)
    out = None if out is None else out.view(weight.shape[1], len(X))
    return torch.addmm(bias[:, None], weight.mT, X.mT, out=out).mT


class _Batches:
    """A table's batches, to be gone through as often as needed; complete and incomplete rows never share one."""

    def __init__(self, table, batch_size, incomplete, space):
        self.table, self.space = table, space
        complete, n = table.n_complete, len(table)
        self.bounds = [*_equal_parts(0, complete, batch_size), *_equal_parts(complete, n, incomplete)]

    def __len__(self):
        return len(self.bounds)

    def __iter__(self):
        return (self.table.batch(start, stop, self.space) for start, stop in self.bounds)


def _equal_parts(start, stop, size):
    """Bounds of the fewest parts of at most `size` that differ by at most one."""
    n_parts = math.ceil((stop - start) / size)
    edges = [start + (stop - start) * part // n_parts for part in range(n_parts + 1)] if n_parts else []
    return list(zip(edges[:-1], edges[1:]))


class Workspace:
    """Memory for large temporaries that a loop needs again and again.

    To get fresh megabytes from the system costs more, page by page, than to fill them. What is handed out under a name
    is overwritten when that name is asked for again.
    """

    def __init__(self):
        self._kept = {}

    def empty(self, name, shape, like):
        """An uninitialised tensor of this shape, with the dtype and device of `like`."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.numel() < size or kept.dtype != like.dtype or kept.device != like.device:
            kept = self._kept[name] = like.new_empty(size)
        return kept[:size].view(shape)


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
