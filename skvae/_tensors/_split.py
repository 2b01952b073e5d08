"""Columns of a sparse matrix that are split over processes, each of which holds its own of all rows.

A network then has the first layer's rows and the last layer's columns of its own items only. All processes take the
same batches, and compute all that lies between, alike. Where the network meets the items, these travel:

    x W = sum_r x_r W_r                      `joined`: sums forward, nothing back        (n_rows, n_out of the layer)
    h -> h W_r                               `spread`: nothing forward, sums back        (n_rows, n_in of the layer)
    log sum_r exp(f_r) and other sums        `largest`, `joined`                         (n_rows,)

The conjugate pair `joined` and `spread` is that of Shoeybi, Patwary, Puri, LeGresley, Casper and Catanzaro,
*Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism*, 2019, section 3.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch.autograd.function import once_differentiable

from skvae._tensors._rows import Batch, Rows

_SENT_AT_ONCE = 2**22  # entries and lengths of rows


class Split:
    """Which columns each process holds, and the sums over processes.

    Parameters
    ----------
    processes : skvae._reduce.Processes
    n_columns : int
        Of all processes; at least one a process.

    Attributes
    ----------
    ends : int64 ndarray of shape (n_processes + 1,)
        Where each process's columns begin, and the last ones end.
    """

    def __init__(self, processes, n_columns):
        if n_columns < processes.size:
            raise ValueError(f"{processes.size} processes cannot split {n_columns} items; use fewer of them.")
        self.processes, self.n_columns = processes, n_columns
        self.ends = np.arange(processes.size + 1, dtype=np.int64) * n_columns // processes.size
        self.own = slice(*self.ends[processes.rank : processes.rank + 2].tolist())

    def largest(self, tensor):
        """Return the maxima of a tensor over the processes."""
        found = tensor.detach().to("cpu", copy=True)
        self.processes.largest_in_step(found)
        return found.to(tensor.device)

    def cut(self, tensors, axis_of):
        """Copy the own part of each tensor that has an axis of columns; `axis_of` gives that axis by name, or None."""
        return {
            name: tensor
            if axis_of(name) is None
            else tensor.narrow(axis_of(name), self.own.start, self.own.stop - self.own.start).clone()
            for name, tensor in tensors.items()
        }

    def whole(self, tensors, axis_of):
        """Put the parts of all processes together; what has no axis of columns is the first process's."""
        return {name: self._whole(tensor.detach(), axis_of(name)) for name, tensor in tensors.items()}

    def _whole(self, own, axis):
        if axis is None:
            found = own.to("cpu", copy=True).contiguous()
            self.processes.broadcast(found, 0)
            return found.to(own.device)
        shape = list(own.shape)
        shape[axis] = self.n_columns
        found = own.new_empty(shape)
        for rank, (start, stop) in enumerate(zip(self.ends[:-1].tolist(), self.ends[1:].tolist(), strict=True)):
            part = found.narrow(axis, start, stop - start)
            sent = (own if rank == self.processes.rank else part).to("cpu", copy=True).contiguous()
            self.processes.broadcast(sent, rank)
            part.copy_(sent)
        return found

    def columns_of_all(self, X):
        """Give each process its own columns of the rows of all, in the order of the processes.

        Each sends its rows in blocks, so that little more is in memory than what it has in the end.

        Parameters
        ----------
        X : CSR array of shape (n_own_rows, n_columns)
            Canonical, of the dtype of all processes.

        Returns
        -------
        columns : CSR array of shape (n_rows_of_all, n_own_columns)
        """
        found = [[] for _ in range(self.processes.size)]  # of each process, its blocks
        blocks = self._blocks(X)
        while True:
            start, stop = next(blocks, (X.shape[0], X.shape[0]))
            some = X[start:stop]
            received = self.processes.exchange(self._packed(some))
            for rank, message in enumerate(received):
                found[rank].append(_unpacked(message, X.dtype))
            if all(message.size == _header(0).nbytes for message in received):  # nobody had rows to send
                break
        counts, items, values = (np.concatenate(parts) for parts in zip(*sum(found, []), strict=True))
        ends = np.concatenate([np.zeros(1, np.int64), counts.cumsum(dtype=np.int64)])
        return sp.csr_array((values, items, ends), shape=(len(counts), self.own.stop - self.own.start))

    def _blocks(self, X):
        """Runs of rows, by their numbers of entries and of processes."""
        work = X.indptr[1:].astype(np.int64) + self.processes.size * np.arange(1, X.shape[0] + 1)
        start = 0
        while start < X.shape[0]:
            before = work[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(work, before + _SENT_AT_ONCE, side="right")))
            yield start, stop
            start = stop

    def _packed(self, X):
        """A message to each process with its columns of some rows: counts of the rows, then items, then values."""
        row = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
        owner = np.searchsorted(self.ends, X.indices, side="right") - 1
        order = np.argsort(owner, kind="stable")
        row, item, value, owner = row[order], X.indices[order], X.data[order], owner[order]
        ends = np.searchsorted(owner, np.arange(self.processes.size + 1))
        for rank in range(self.processes.size):
            own = slice(ends[rank], ends[rank + 1])
            parts = (
                _header(X.shape[0]),
                np.bincount(row[own], minlength=X.shape[0]).astype(np.int32),
                (item[own] - self.ends[rank]).astype(np.int32),
                value[own],
            )
            yield np.concatenate([part.view(np.uint8) for part in parts])


def _header(n_rows):
    return np.array([n_rows], dtype=np.int64)


def _unpacked(message, dtype):
    """Counts of rows, items and values of a message; copies, since a part of the message need not be aligned."""
    n_rows = int(message[:8].view(np.int64)[0])
    counts = np.frombuffer(message[8 : 8 + 4 * n_rows].tobytes(), np.int32)
    first, n = 8 + 4 * n_rows, int(counts.sum(dtype=np.int64))
    items = np.frombuffer(message[first : first + 4 * n].tobytes(), np.int32)
    return counts, items, np.frombuffer(message[first + 4 * n :].tobytes(), dtype)


class WholeRows(NamedTuple):
    """What a process must know of rows of whose columns it holds a part.

    Attributes
    ----------
    total, top, length : ndarrays of shape (n_rows,)
        Sum and maximum of the values of each row, and its length once the maximum is 1.
    """

    total: np.ndarray
    top: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, X, dtype, size=2**16):
        """Read them from whole rows, a CSR array."""
        parts = [[np.empty(0, dtype=str(dtype).removeprefix("torch."))] * 3]
        for start in range(0, X.shape[0], size):
            batch = Rows(X[start : start + size], torch.device("cpu"), dtype).whole()
            top = batch.top
            length = batch.sum((batch.value / top[batch.user]).square()).sqrt()
            parts.append([tensor.numpy() for tensor in (batch.sum(), top, length)])
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


class SplitRows(Rows):
    """The rows of a matrix of whose columns this process holds a part, handed out in batches.

    Parameters
    ----------
    X : CSR array of shape (n_rows, n_own_columns)
    split : Split
    whole : WholeRows
        Of the same rows.
    device, dtype, weight
        As of `Rows`.
    """

    def __init__(self, X, split, whole, device, dtype=torch.float32, weight=None):
        super().__init__(X, device, dtype, weight)
        self.split, self.of_rows = split, whole

    def _batch_of(self, index, **entries):
        batch = SplitBatch(**entries)
        batch.split, batch.whole = self.split, WholeRows(*(self._place(of[index], self.dtype) for of in self.of_rows))
        return batch

    def joined(self, own):
        """Return the sum of a Tensor over the processes."""
        return self.split.processes.sums_in_step(own)[0]


class SplitBatch(Batch):
    """Some rows of a matrix of whose columns this process holds a part.

    Attributes
    ----------
    split : Split
    whole : WholeRows
        Of these rows, as Tensors.
    """

    def with_values(self, value):
        batch = super().with_values(value)
        batch.split, batch.whole = self.split, self.whole
        return batch

    @property
    def column(self):
        return self.item + self.split.own.start

    def joined(self, *own):
        found = _Joined.apply(self.split, *own)
        return found[0] if len(own) == 1 else found

    def largest(self, own):
        return self.split.largest(own)

    def spread(self, h):
        return _Spread.apply(h, self.split)

    def at_unit_length(self):
        return self.value / self.whole.top[self.user] / self.whole.length[self.user]

    def sum(self, value=None):
        return self.whole.total if value is None else super().sum(value)

    @property
    def top(self):
        return self.whole.top

    def n_observed(self):
        return self.value.new_full((len(self),), self.split.n_columns)

    def linear(self, weight, bias):
        return self.joined(super().linear(weight, torch.zeros_like(bias))) + bias

    def logsumexp(self, f):
        top = self.largest(f.detach().amax(-1))
        return top + self.joined((f - top[:, None]).exp().sum(-1)).log()


class _Joined(torch.autograd.Function):
    """Sums over the processes, all of which go on with them alike."""

    @staticmethod
    def forward(ctx, split, *own):
        return tuple(split.processes.sums_in_step(*own))

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream):
        return None, *upstream


class _Spread(torch.autograd.Function):
    """What all processes have alike, on its way into computations that differ."""

    @staticmethod
    def forward(ctx, h, split):
        ctx.split = split
        return h.view_as(h)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return ctx.split.processes.sums_in_step(upstream)[0], None
