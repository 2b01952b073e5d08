"""The one seam between NumPy and torch: devices, keyed noise, rows and their batches.

Engines and models see tensors only, and never ask whether rows are sparse or where they live.
"""

import contextlib
import math
import warnings
from functools import cached_property
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from skvae._hash import combine
from skvae._topk import top_k as _numpy_top_k

_BLOCK_CELLS = 2**23  # rows x columns handled at once when scoring: 32 MB of float32


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


def _alias(array):
    # torch warns of arrays that it could write to but must not, such as read-only memory maps.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


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
        self._key, self._folded = int(seed), {}

    def fold(self, *path):
        """Noise of its own for a purpose, such as `noise.fold("dropout", epoch)`."""
        if path not in self._folded:  # remembered: a loop asks for the same one at every step
            key = np.array([self._key], dtype=np.int64)
            for step in path:
                key = combine(key, np.array([crc32(step.encode()) if isinstance(step, str) else step], dtype=np.int64))
            self._folded[path] = Noise(key[0])
        return self._folded[path]

    def keys(self, row):
        """A key for each row, from which its cells draw."""
        return combine(self._key, row)

    def uniform(self, row, n_columns, dtype=torch.float32):
        """Uniform on the open interval (0, 1), of shape (len(row), n_columns)."""
        return uniform_at(self.keys(row)[:, None], torch.arange(n_columns, device=row.device), dtype)

    def normal(self, row, n_columns, dtype=torch.float32):
        """Standard normal, of shape (len(row), n_columns); Box and Muller (1958) on two parts of the 64 bits."""
        bits = combine(self.keys(row)[:, None], torch.arange(n_columns, device=row.device))
        radius = _unit(bits >> 40, dtype).log_().mul_(-2).sqrt_()
        return radius.mul_(_unit(bits, dtype).mul_(2 * math.pi).cos_())

    def permutation(self, n):
        """An order of n rows, as an int64 array: the rows sorted by their own random bits."""
        return np.argsort(self.keys(np.arange(n, dtype=np.int64)), kind="stable")


def uniform_at(key, column, dtype=torch.float32):
    """Uniform on (0, 1) for single cells, by the `keys` of their rows and their columns, which broadcast."""
    return _unit(combine(key, column) >> 40, dtype)


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
    """

    def __init__(self, X, device, dtype=torch.float32):
        self.indptr, self.indices, self.data = X.indptr, X.indices, X.data
        self.shape, self.device, self.dtype = X.shape, device, dtype

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
        )

    def batches(self, batch_size, order=None):
        """All rows in ceil(n / batch_size) batches whose sizes differ by at most one: no small batch at the end."""
        order = np.arange(len(self)) if order is None else order
        for index in np.array_split(order, max(1, math.ceil(len(self) / batch_size))):
            yield self.batch(index)

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
    cell : int64 Tensor of shape (n_stored,)
        Place of each entry in a dense matrix of (n_rows, n_columns), row after row.
    """

    def __init__(self, row, user, item, value, offset, count, n_columns):
        self.row, self.user, self.item, self.value = row, user, item, value
        self.offset, self.count, self.n_columns = offset, count, n_columns

    @cached_property
    def cell(self):
        return self.user * self.n_columns + self.item

    def __len__(self):
        return len(self.row)

    def with_values(self, value):
        """The same cells holding other values."""
        return Batch(self.row, self.user, self.item, value, self.offset, self.count, self.n_columns)

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

    def transposed_times(self, f):
        """Rows of x.T @ f that are not empty, (n_stored_columns, n_out), and their numbers; f (n_rows, n_out)."""
        order = torch.argsort(self.item, stable=True)
        column, count = torch.unique_consecutive(self.item[order], return_counts=True)
        bags = {"offsets": count.cumsum(0) - count, "per_sample_weights": self.value[order], "mode": "sum"}
        return F.embedding_bag(self.user[order], f, **bags), column

    def inner(self, f):
        """sum_d x_d f_d for each row; f of shape (n_rows, n_columns), the result (n_rows,)."""
        return self.sum(self.value * self.take(f))

    def take(self, f):
        """f at the stored entries, of shape (n_stored,)."""
        return f.reshape(-1).index_select(0, self.cell)


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


def kept_gradient(weight):
    """The gradient of a leaf that asks, by an attribute `adds_in_place`, for additions to it in place of a new one.

    None for any other tensor, whose gradient is returned as usual. A weight as wide as a catalogue has a gradient of
    tens of megabytes: to allocate it anew at every step, and have autograd add it to the old one, costs more than to
    compute it.
    """
    return weight.grad if getattr(weight, "adds_in_place", False) else None


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
