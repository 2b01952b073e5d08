"""Rows and noise for members: networks of one shape that are trained together by `skvae.engines.gradient`.

Every tensor of members has a leading axis with one entry a member. A member reads a stream: the rows of one table, in
an order that the seed of the stream fixes. Members of one fit share a stream, and so do fits that differ in neither
rows nor seed. With a single stream, batches have a leading axis of length 1, which broadcasts.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae import _reduce
from skvae._hash import combine
from skvae._tensors import Cells, normal_at, uniform_at

_ROWS_AHEAD = 2048  # for which noise is drawn at once
_CELLS_AHEAD = 2**20


def one_member(tensors):
    """Give parameters, or an optimizer state, of one network a leading axis of members."""
    return {name: tensor if _counts_steps(name) else tensor[None] for name, tensor in tensors.items()}


def of_member(tensors, member):
    """Take one member's parameters, or its optimizer state, without the axis of members."""
    return {name: tensor if _counts_steps(name) else tensor[member] for name, tensor in tensors.items()}


def _counts_steps(name):
    """Whether an entry of an optimizer state counts the steps of a turn, which all members take together."""
    return name == "step" or name.endswith("/step")


class Encoded(NamedTuple):
    """Rows of a table as tensors: what the likelihood reads and what the encoder reads.

    Attributes
    ----------
    x : Tensor of shape (n_rows, n_columns)
        Zero where a cell is missing.
    observed : Tensor of shape (n_rows, n_columns) or None
        1 where a cell was seen, 0 where it is missing; None where all were seen.
    u : Tensor of shape (n_rows, n_inputs)
        What the encoder reads; may be `x` itself.
    """

    x: Tensor
    observed: Tensor | None
    u: Tensor

    def take(self, index):
        """Some of the rows."""
        return Encoded(*(None if part is None else part.index_select(0, index) for part in self))


class MemberBatch(NamedTuple):
    """A batch: some rows for each member.

    Attributes
    ----------
    x : Cells of shape (n_members or 1, n_rows, n_columns)
    u : Tensor of shape (n_members or 1, n_rows, n_inputs)
    w : Tensor of shape (n_members or 1, n_rows)
        Weights, with mean 1 over all rows.
    row : int64 Tensor of shape (n_streams, n_rows)
        Number of each row, the key of its noise.
    linear_heads : Tensor of shape (n_members or 1, n_rows, 2 * n_components) or None
        Means, then log-variances of the linear path beside the network, which the encoder's output is added to.
    raised : float or Tensor of shape (n_members, 1)
        Factor by which weights were raised to make up for rows that only fill up.
    n_rows : int or None
        Rows of the batch in all processes, where others have some; None: those here.
    """

    x: Cells
    u: Tensor
    w: Tensor
    row: Tensor
    linear_heads: Tensor | None = None
    raised: float | Tensor = 1.0
    n_rows: int | None = None

    @property
    def counted(self):
        """The weights by which the rows enter sums over batches."""
        return self.w / self.raised if isinstance(self.raised, Tensor) or self.raised != 1 else self.w


class Stream(NamedTuple):
    """The rows that some members read, and the seed of their order.

    Attributes
    ----------
    table : Encoded
    noise : Noise
        Its seed orders the rows.
    n_members : int
    weight : Tensor of shape (n_members or 1, n_rows)
        With mean 1 for each member.
    linear_heads : Tensor of shape (n_members or 1, n_rows, 2 * n_components) or None
        As of `MemberBatch`.
    first : int
        Number of the first row among those of all processes.
    n_rows : int or None
        Rows of all processes, where others have some; None: those of the table.
    """

    table: Encoded
    noise: object
    n_members: int
    weight: Tensor
    linear_heads: Tensor | None = None
    first: int = 0
    n_rows: int | None = None

    def among_all(self):
        """The same rows, numbered among those of all processes that share the fit."""
        first, n_rows = _reduce.place(len(self.table.x))
        return self._replace(first=first, n_rows=n_rows) if _reduce.is_shared() else self

    @property
    def n_all(self):
        """Rows of all processes."""
        return len(self.table.x) if self.n_rows is None else self.n_rows

    def here(self, order, n_batches):
        """Of an order of all rows those that are here.

        Returns
        -------
        order : int64 ndarray
            Places in the table.
        cuts : int or list of int
            What `torch.tensor_split` cuts it into batches by.
        sizes : list of (int or None)
            Rows of each batch in all processes, as of `MemberBatch`.
        """
        if self.n_rows is None:
            return order, n_batches, [None] * n_batches
        is_here = (order >= self.first) & (order < self.first + len(self.table.x))
        sizes = [len(part) for part in np.array_split(order, n_batches)]
        ends = is_here.cumsum()[np.cumsum(sizes) - 1]
        return order[is_here] - self.first, ends[:-1].tolist(), sizes

    def batch(self, index, n_rows=None):
        """The rows at some places of the table."""
        table = self.table
        x = table.x.index_select(0, index)[None]
        observed = None if table.observed is None else table.observed.index_select(0, index)[None]
        u = x if table.u is table.x else table.u.index_select(0, index)[None]
        linear_heads = None if self.linear_heads is None else self.linear_heads.index_select(1, index)
        w = self.weight.index_select(1, index)
        return MemberBatch(Cells(x, observed), u, w, self.numbers(index)[None], linear_heads, n_rows=n_rows)

    def numbers(self, index):
        """The numbers of the rows at some places of the table, among those of all processes."""
        return index + self.first if self.first else index


class MemberRows:
    """Batches of the rows of all members.

    Parameters
    ----------
    streams : list of Stream
        As many batches of any size for each of them.
    """

    def __init__(self, streams):
        self.streams = streams
        device = streams[0].table.x.device
        counts = [stream.n_members for stream in streams]
        self.stream_of_member = torch.from_numpy(np.repeat(np.arange(len(streams)), counts)).to(device)

    def __len__(self):
        return max(stream.n_all for stream in self.streams)

    def n_batches(self, batch_size):
        """How many batches one pass takes."""
        return math.ceil(len(self) / batch_size)

    def shuffled(self, batch_size, noise):
        """The batches of one pass, each stream in an order of its own."""
        n_batches = self.n_batches(batch_size)
        orders = [own.permutation(stream.n_all) for own, stream in zip(noise.streams, self.streams, strict=True)]
        if len(orders) == 1:
            yield from self._of_one_stream(orders[0], n_batches, noise.ahead)
            return
        orders = [self._sent(torch.from_numpy(order)) for order in orders]
        for parts in zip(*(order.tensor_split(n_batches) for order in orders), strict=True):
            yield self._batch(parts)

    def _of_one_stream(self, order, n_batches, ahead):
        """The same where all members share the rows: with noise for some batches at once."""
        (stream,) = self.streams
        order, cuts, sizes = stream.here(order, n_batches)
        batches = self._sent(torch.from_numpy(order)).tensor_split(cuts)
        at_once = max(1, _ROWS_AHEAD * n_batches // max(1, len(order)))
        for first in range(0, n_batches, at_once):
            some, start = batches[first : first + at_once], 0
            rows, drawn = stream.numbers(torch.cat(some))[None], {}
            for index, n_rows in zip(some, sizes[first : first + at_once], strict=True):
                batch = stream.batch(index, n_rows)
                ahead.hand_out(batch.row, rows, start, drawn)
                start += index.shape[0]
                yield batch

    def _batch(self, parts):
        size = max(map(len, parts))
        batches = [_padded(stream.batch(part), size) for stream, part in zip(self.streams, parts, strict=True)]
        member = self.stream_of_member
        linear_heads = [batch.linear_heads for batch in batches]
        return MemberBatch(
            Cells(torch.cat([batch.x.value for batch in batches])[member], self._observed(batches)),
            torch.cat([batch.u for batch in batches])[member],
            self._of_members([batch.w for batch in batches]),
            torch.cat([batch.row for batch in batches]),
            None if linear_heads[0] is None else self._of_members(linear_heads),
            self._sent(torch.tensor([[batch.raised] for batch in batches], dtype=batches[0].w.dtype))[member],
        )

    def _sent(self, tensor):
        """A tensor of the host on the device of the rows, without waiting for the device."""
        return tensor.to(self.stream_of_member.device, non_blocking=True)

    def _observed(self, batches):
        if all(batch.x.observed is None for batch in batches):
            return None
        cells = (batch.x for batch in batches)
        seen = [torch.ones_like(x.value) if x.observed is None else x.observed for x in cells]
        return torch.cat(seen)[self.stream_of_member]

    def _of_members(self, parts):
        return torch.cat(
            [part.expand(stream.n_members, *part.shape[1:]) for part, stream in zip(parts, self.streams, strict=True)]
        )


def _padded(batch, size):
    """Pad the batch to `size` with repeated rows of weight 0; the others weigh more, so that the mean is unchanged."""
    n = batch.row.shape[1]
    if n == size:
        return batch
    again = torch.arange(size, device=batch.row.device) % n
    w = batch.w.index_select(1, again) * (size / n) * (torch.arange(size, device=again.device) < n)
    x, seen = batch.x.value.index_select(1, again), batch.x.observed
    return MemberBatch(
        Cells(x, None if seen is None else seen.index_select(1, again)),
        batch.u.index_select(1, again),
        w,
        batch.row.index_select(1, again),
        None if batch.linear_heads is None else batch.linear_heads.index_select(1, again),
        size / n,
    )


class MemberNoise:
    """The noise of all members: as `Noise`, of a row number in each stream.

    Parameters
    ----------
    streams : list of Noise
    stream_of_member : int64 Tensor of shape (n_members,) or None, default=None
        None: one stream, whose noise broadcasts to all.
    live : Tensor of shape (n_members, 1, n_columns) or None, default=None
        Normal noise is multiplied by it: 0 for a latent dimension that a smaller member does not have.
    """

    def __init__(self, streams, stream_of_member=None, live=None, ahead=None):
        self.streams, self.stream_of_member, self.live = streams, stream_of_member, live
        self.ahead = ahead or _Ahead()

    def fold(self, *path):
        """Noise of its own for a purpose."""
        return MemberNoise([noise.fold(*path) for noise in self.streams], self.stream_of_member, self.live, self.ahead)

    def normal(self, row, n_columns, dtype=torch.float32):
        """Standard normal, of shape (n_members or 1, n_rows, n_columns); `row` of shape (n_streams, n_rows)."""
        draws = self.ahead.part(row, (*(noise.key for noise in self.streams), n_columns, dtype), self._normal)
        draws = self._spread(self._normal(row, n_columns, dtype) if draws is None else draws)
        return draws if self.live is None else draws * self.live

    def uniform(self, row, n_columns, dtype=torch.float32):
        """Uniform on (0, 1), of shape (n_members or 1, n_rows, n_columns); `row` of shape (n_streams, n_rows)."""
        return self._spread(uniform_at(self._keys(row), torch.arange(n_columns, device=row.device), dtype))

    def _normal(self, row, n_columns, dtype):
        return normal_at(self._keys(row), torch.arange(n_columns, device=row.device), dtype)

    def _keys(self, row):
        if len(self.streams) == 1:
            return combine(self.streams[0].key, row)[..., None]
        own = torch.tensor([noise.key for noise in self.streams]).to(row.device, non_blocking=True)
        return combine(own[:, None], row)[..., None]

    def _spread(self, draws):
        return draws if self.stream_of_member is None else draws[self.stream_of_member]


class _Ahead:
    """Noise of the batches to come, drawn for all of them when the first one asks.

    A draw is some fifty small operations, which on a batch of a few rows take longer than the arithmetic in them. The
    numbers are the same either way.
    """

    def __init__(self):
        self.rows = self.handed_out = None
        self.start, self.drawn = 0, {}

    def hand_out(self, row, rows, start, drawn):
        """These rows are handed out now: from place `start` among `rows` (1, n_rows), for which `drawn` is kept.

        Passes over the rows that take turns each bring their own.
        """
        self.handed_out, self.rows, self.start, self.drawn = row, rows, start, drawn

    def part(self, row, key, draw):
        """What draw(rows, n_columns, dtype) gives for the rows handed out; None if it should be drawn for them alone.

        `key` is (what to draw from, n_columns, dtype).
        """
        if row is not self.handed_out:
            return None
        if key not in self.drawn:
            if (len(self.drawn) + 1) * self.rows.numel() * key[-2] > _CELLS_AHEAD:
                return None
            self.drawn[key] = draw(self.rows, *key[-2:])
        return self.drawn[key][:, self.start : self.start + row.shape[1]]
