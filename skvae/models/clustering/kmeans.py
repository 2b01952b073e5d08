"""K-means: the mixture of equal spherical Gaussians in the limit of no variance, where posteriors are 0 or 1.

    sum_n w_n min_k |x_n - c_k|^2   is minimised over the centres c_k; the bound is minus that sum

Both steps are Lloyd's (IEEE Trans. Information Theory 28(2), 1982). The bound needs no distances: with N_k and S_k the
weight and the sum of the rows of each cluster, it is 2 sum_k c_k S_k - sum_k N_k |c_k|^2 - sum_n w_n |x_n|^2.

What is remembered of a batch makes the next iteration cheap without changing what it finds: to its statistics only the
rows that changed cluster are added, and only rows whose nearest centre may have changed are looked at again, by bounds
that move with the centres (Hamerly, SDM 2010). Of wide rows a few coordinates are looked at first (`models.sketch`).
Where centres start is drawn in `models.seeding`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._tensors import binned
from skvae.models.clustering.kmeans_sketch import Sketch, differences, leading_directions, sketched

_CHUNK_CELLS = 2**19  # of scores at once on the CPU: they stay in the cache until their least is found
_CHUNK_CELLS_GPU = 2**25
_WORTH_BOUNDS = {False: 0.35, True: 0.5}  # share of rows to look at from which all are as fast, where each is dear
_DEAR_ROW = 2**12  # multiplications a row from which bounds cost little beside the distances
_SMALL_BATCH = 2**21  # multiplications a batch below which bounds cost more than all distances
_WORTH_UPDATING = 0.3  # share of rows that changed cluster from which new sums are as fast
_MANY_CLUSTERS = 1024  # from here on, distances between all centres are too dear for what they spare
_CHANGED_ROWS = 2**14  # to add and subtract at once
_WIDE_ROW = 128  # cells a row from which a few coordinates may stand for them
_PASSES_BEFORE_SKETCH = 2  # it takes the time of two or three, which few iterations would not earn back
_ROWS_OF_A_SAMPLE = 2048  # whose bounds tell whether it would pay to have those of all rows
_ROWS_OF_A_TRIAL = 1024  # of a sketch, before all rows are sketched
_WORTH_SKETCH = 0.35  # share of the rows of a trial that it may leave unsure
_WORTH_ASKING = 0.25  # share of rows to look at from which it is asked first: distances make tighter bounds
_SLACK = 1e-12  # relative, for the rounding of bounds that move


class Params(NamedTuple):
    centres: Tensor  # (K, D)


class Stats(NamedTuple):
    """Sums over samples, so the statistics of a union are the sums of the statistics."""

    count: Tensor  # (K,)    number of rows of each cluster: 0 where weights that come and go leave a rounding error
    N: Tensor  # (K,)    their weight
    S: Tensor  # (K, D)  their weighted sum
    squares: Tensor  # ()      weighted sum of |x|^2 over all rows
    farthest: "Farthest"  # rows that empty clusters may have


@dataclass
class Farthest:
    """The rows farthest from their centres, as many as there may be empty clusters; `+` keeps those of a union.

    A cluster that is empty in a union is empty in each part: of two parts, the smaller number of empty clusters is
    enough for both.
    """

    capacity: int
    distance: Tensor | None = None  # (n,)    squared; descending
    row: Tensor | None = None  # (n,)    number of each row, which settles ties
    w: Tensor | None = None  # (n,)
    label: Tensor | None = None  # (n,)
    X: Tensor | None = None  # (n, D)

    def __add__(self, other):
        capacity = min(self.capacity, other.capacity)
        if not capacity:
            return Farthest(0)
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("distance", "row", "w", "label", "X"))
        return Farthest(capacity, *(torch.cat(pair) for pair in pairs)).cut()

    def cut(self):
        order = self.row.argsort()
        order = order[(-self.distance[order]).argsort(stable=True)][: self.capacity]
        return Farthest(
            self.capacity, self.distance[order], self.row[order], self.w[order], self.label[order], self.X[order]
        )


class Memory(NamedTuple):
    """What the model remembers of a batch."""

    centres: Tensor  # (K, D)  those that the rest was found under
    label: Tensor  # (n,)
    count: Tensor  # (K,)   the statistics of the batch
    N: Tensor  # (K,)
    S: Tensor  # (K, D)
    norms: Tensor  # (n,)   squared norms of the rows
    nearest: Tensor  # (m,)    for the first m rows, an upper bound on the distance to the row's own centre
    other: Tensor  # (m,)    and a lower bound on that to any other
    sketch: Sketch | None = None  # to find both at less cost
    passes: int = 1  # how often the batch was gone through


class KMeans:
    """Steps of Lloyd's algorithm for `engines.em.ascend`, on batches of a complete Table or of Rows.

    Parameters
    ----------
    n_clusters : int
    relocate : bool, default=True
        Give clusters without any row the rows farthest from their centres, whose clusters lose them.
    """

    def __init__(self, n_clusters, relocate=True):
        self.n_clusters, self.relocate = n_clusters, relocate

    def e_step(self, batch, params, memory=None):
        """Statistics of the rows of a batch, each given to its nearest centre; and what to remember."""
        if memory is None:
            norms = batch.squared_norms().double()
            found = self._assigned(batch, params.centres, norms, self._n_sampled(batch))
            sums = self._sums(batch, found.label)
        else:
            found = self._assigned_again(batch, params.centres, memory)
            found = found._replace(passes=memory.passes + 1)
            sums = self._updated(batch, memory, found.label)
        memory = found._replace(**sums)
        squares = batch.w.double() @ memory.norms
        return Stats(memory.count, memory.N, memory.S, squares, self._farthest(batch, memory)), memory

    def bound(self, stats, params):
        """Minus the inertia under `params`, given the statistics that they led to."""
        C = params.centres.double()
        inertia = stats.squares - 2 * (C * stats.S).sum() + (stats.N * C.square().sum(1)).sum()
        return -inertia.clamp(min=0)

    def m_step(self, stats, params):
        """Each centre the mean of its rows; that of an empty cluster a row far from all, or where it was."""
        N, S = _relocated(stats)
        means = S / torch.where(N > 0, N, 1)[:, None]
        return Params(torch.where((N > 0)[:, None], means.to(params.centres.dtype), params.centres))

    # ------------------------------------------------------------------------------------------------ nearest centres
    def _dear(self, batch):
        return self.n_clusters * batch.n_columns >= _DEAR_ROW

    def _n_sampled(self, batch):
        """Of how many rows to keep bounds, to see whether it would pay for all. A GPU is as fast without."""
        n = len(batch.row)
        if not batch.w.is_cpu or n * self.n_clusters * batch.n_columns < _SMALL_BATCH:
            return 0
        return n if self._dear(batch) else _ROWS_OF_A_SAMPLE

    def _assigned(self, batch, centres, norms, n_bounded, before=None):
        """Labels of all rows, and bounds for the first `n_bounded`."""
        n = len(norms)
        n_bounded = min(n, n_bounded)
        label, nearest, other = nearest_two(batch, centres, norms, slice(0, n_bounded), before)
        if n_bounded < n:
            rest = slice(n_bounded, n)
            found = nearest_centre(batch.part(rest), centres, None if before is None else before[rest])
            label = torch.cat([label, found])
        return Memory(centres, label, None, None, None, norms, nearest, other)

    def _assigned_again(self, batch, centres, memory):
        """`_assigned` for those rows only whose bounds meet: the others have their label still."""
        norms, before = memory.norms, memory.label
        n, n_bounded = len(before), len(memory.nearest)
        if not n_bounded:
            return self._assigned(batch, centres, norms, 0, before)
        label = before.clone()
        nearest, other = _moved_bounds(memory, centres)
        active = (nearest >= other).nonzero()[:, 0]
        many = _WORTH_BOUNDS[self._dear(batch)] * n_bounded
        sketch = memory.sketch
        if sketch is None and len(active) > many and self._may_sketch(batch, memory):
            sketch = self._worthwhile_sketch(batch, centres, memory)
        if sketch is not None and len(active) > _WORTH_ASKING * n:
            *found, unsure = surely_nearest(sketch, centres, norms, active, before)
            label[active], nearest[active], other[active] = found
            active = active[unsure]
        if len(active) > many:
            return self._assigned(batch, centres, norms, self._n_sampled(batch), before)
        if n_bounded < n:
            return self._assigned(batch, centres, norms, n, before)
        if len(active):
            label[active], nearest[active], other[active] = nearest_two(batch, centres, norms, active, before)
        return memory._replace(centres=centres, label=label, nearest=nearest, other=other, sketch=sketch)

    def _may_sketch(self, batch, memory):
        """Whether to try one: of many wide dense rows on the CPU only, and the more seldom the later."""
        wide = _WIDE_ROW <= batch.n_columns == batch.cells_a_row
        due = memory.passes >= _PASSES_BEFORE_SKETCH and memory.passes.bit_count() == 1
        return wide and due and batch.w.is_cpu and self._dear(batch) and len(batch.row) >= 16 * _ROWS_OF_A_TRIAL

    def _worthwhile_sketch(self, batch, centres, memory):
        """A sketch that leaves few rows unsure; None where a trial says that there is none."""
        width = min(batch.n_columns // 8, batch.n_columns // 16 + self.n_clusters)
        basis = leading_directions(batch, centres, width // 16 * 16)  # products are fast in sixteens
        step = math.ceil(len(batch.row) / _ROWS_OF_A_TRIAL)
        some = torch.arange(step // 2, len(batch.row), step)
        trial = sketched(batch.part(some), basis, memory.norms[some])
        every = slice(0, len(some))
        *_, unsure = surely_nearest(trial, centres, memory.norms[some], every, memory.label[some])
        return sketched(batch, basis, memory.norms) if unsure.sum() <= _WORTH_SKETCH * len(some) else None

    # --------------------------------------------------------------------------------------------------------- sums
    def _sums(self, batch, label):
        return {
            "count": binned(label, self.n_clusters),
            "N": binned(label, self.n_clusters, batch.w.double()),
            "S": batch.sums(label, batch.w, self.n_clusters),
        }

    def _updated(self, batch, before, label):
        """Count, weight and sum of each cluster: from those before and the rows that changed cluster."""
        if not label.is_cpu:  # to find the rows that changed, the host would have to wait for the device
            return self._sums(batch, label)
        changed = (label != before.label).nonzero()[:, 0]
        if len(changed) > _WORTH_UPDATING * len(label):
            return self._sums(batch, label)
        sums = {name: getattr(before, name) for name in ("count", "N", "S")}
        for index in changed.split(_CHANGED_ROWS) if len(changed) else ():
            part = batch.part(index)
            gained, lost = self._sums(part, label[index]), self._sums(part, before.label[index])
            sums = {name: sums[name] + gained[name] - lost[name] for name in sums}
        occupied = sums["count"] > 0
        return sums | {"N": sums["N"] * occupied, "S": sums["S"] * occupied[:, None]}

    def _farthest(self, batch, memory):
        n_empty = int((memory.count == 0).sum()) if self.relocate else 0
        if not n_empty:
            return Farthest(0)
        distance = squared_distances(batch, memory.centres, memory.label)
        n = min(n_empty, len(distance))
        if distance.is_cpu:
            index = torch.from_numpy(np.argpartition(-distance.numpy(), n - 1)[:n])
        else:
            index = distance.topk(n).indices
        part = batch.part(index)
        found = Farthest(
            n_empty, distance[index], part.row, part.w.double(), memory.label[index], part.dense().double()
        )
        return found.cut()


def _relocated(stats):
    """Weights and sums after the farthest rows have left their clusters for the empty ones."""
    far = stats.farthest
    if not far.capacity:
        return stats.N, stats.S
    N, S = stats.N.clone(), stats.S.clone()
    numbers = torch.cat([stats.count, far.label, (far.distance > 0).long()]).tolist()  # in one copy
    count, labels = numbers[: len(N)], numbers[len(N) : -len(far.label)]
    empty = [cluster for cluster, rows in enumerate(count) if not rows]
    away = np.flatnonzero(numbers[-len(far.label) :]).tolist()  # none where there are more clusters than distinct rows
    for new, row in zip(empty, away):
        old, w, x = labels[row], far.w[row], far.X[row]
        count[old] -= 1
        N[new], S[new] = w, w * x
        N[old], S[old] = (N[old] - w, S[old] - w * x) if count[old] else (0.0, 0.0)
    return N, S


# -------------------------------------------------------------------------------------------------------------- kernels
def _moved_bounds(memory, centres):
    """Bounds on distances to centres that have moved since, and, for rows near their own centre, to any other."""
    label = memory.label[: len(memory.nearest)]
    moved = (centres.double() - memory.centres.double()).norm(dim=1) * (1 + _SLACK)
    nearest = memory.nearest + moved[label]
    other = memory.other - _greatest_of_others(moved)[label]
    if 1 < len(centres) <= _MANY_CLUSTERS:
        other = torch.maximum(other, _half_way(centres)[label])
    return nearest, other


def _greatest_of_others(values):
    """For each value the greatest of all others; 0 where there are none."""
    if len(values) == 1:
        return torch.zeros_like(values)
    (first, second), (place, _) = values.topk(2)
    greatest = first.expand(len(values)).clone()
    greatest[place] = second
    return greatest


def _half_way(centres):
    """Half the distance of each centre to the next."""
    C = centres.double()
    apart = torch.cdist(C, C, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.fill_diagonal_(math.inf).amin(1) * (0.5 * (1 - _SLACK))


def _chunk_rows(batch, n_clusters):
    if not batch.w.is_cpu:
        return max(256, _CHUNK_CELLS_GPU // n_clusters)
    return max(256, min(_CHUNK_CELLS // n_clusters, 4 * _CHUNK_CELLS // batch.cells_a_row))


def nearest_centre(batch, centres, before=None):
    """The number of the centre nearest to each row, the first of several; int64 Tensor of shape (n_rows,).

    With labels from `before`, which is faster where most of them hold: of several nearest, one that a row had.
    """

    def find(rows, scores):
        return _least(scores, None if before is None else before[rows])[:1]

    return _by_chunk(find, batch, centres)[0]


def nearest_two(batch, centres, norms, index=None, before=None):
    """As `nearest_centre`, with bounds on distances: from above that to it, from below that to any other centre.

    The bounds are float64 and allow for the rounding of the distances. `norms` are the squared norms of all rows, and
    `before` their labels; `index` has those to look at: a slice from 0, or an int64 Tensor.
    """
    widest = centres.square().sum(1).max()
    slack = 8 * torch.finfo(centres.dtype).eps

    def find(rows, scores):
        label, first = _least(scores, None if before is None else before[rows])
        second = scores.scatter_(1, label[:, None], math.inf).amin(1)
        own = norms[rows]
        error = slack * (own + widest)
        nearest = (own + first.double() + error).clamp_(min=0).sqrt_()
        return label, nearest, (own + second.double() - error).clamp_(min=0).sqrt_()

    return _by_chunk(find, batch, centres, index)


def surely_nearest(sketch, centres, norms, index, before):
    """As `nearest_two`, but by what a sketch tells: with wider bounds, and whether another centre may be nearer."""
    coordinates, apart, left = differences(sketch, centres)
    squares = centres.square().sum(1)
    widest, slack = float(squares.max()), sketch.slack

    def find(rows, scores):
        label, first = _least(scores, before[rows])
        rest, own = sketch.rest[rows], norms[rows]
        # Laid out as the scores are, whose columns lie together where they are few.
        doubt = apart.index_select(1, label).mT if scores.stride(0) == 1 else apart[label]
        second = torch.addcmul(scores, doubt, rest[:, None], value=-1).scatter_(1, label[:, None], math.inf).amin(1)
        error = slack * (own + widest)
        unsure = second.double() <= first.double() + error
        error += rest.double() * left[label]
        nearest = (own + first.double() + error).clamp_(min=0).sqrt_()
        return label, nearest, (own + second.double() - error).clamp_(min=0).sqrt_(), unsure

    return _by_chunk(find, sketch.rows, coordinates, index, squares)


def _by_chunk(find, batch, centres, index=None, squares=None):
    """Join what `find` returns of chunks of rows and their scores.

    A score is the squared distance to a centre, less the squared norm of the row; `squares` are the squared norms of
    centres that have other coordinates, too.
    """
    squares = centres.square().sum(1) if squares is None else squares
    if index is None or isinstance(index, slice):
        index, n = None, len(batch.row) if index is None else index.stop
    else:
        n = len(index)
    size = _chunk_rows(batch, len(centres))
    scores = batch.linear_by_part((-2 * centres.T).contiguous(), squares, size)
    found = []
    for start in range(0, max(n, 1), size):
        stop = min(n, start + size)
        rows = slice(start, stop) if index is None else index[start:stop]
        found.append(find(rows, scores(rows)))
    return tuple(torch.cat(parts) for parts in zip(*found))


def _least(scores, before=None):
    """Place and value of the least score of each row: the place from before where that is still among the least.

    To find a least value takes a fraction of the time that it takes to find its place, and most rows keep theirs.
    """
    if before is None:
        label = _argmin(scores)
        return label, scores.gather(1, label[:, None])[:, 0]
    if not scores.is_cpu:  # to pick the stale rows, the host would have to wait for the device
        label = scores.argmin(1)
        first = scores.gather(1, label[:, None])[:, 0]
        return torch.where(scores.gather(1, before[:, None])[:, 0] > first, label, before), first
    first = scores.amin(1)
    stale = scores.gather(1, before[:, None])[:, 0] > first
    label = before.clone()
    places = np.flatnonzero(stale.numpy())  # NumPy finds and copies few rows in half the time
    label.numpy()[places] = scores.numpy().take(places, 0).argmin(1)
    return label, first


def _argmin(scores):
    # torch's argmin takes longer on the CPU than the product that it follows.
    return torch.from_numpy(np.ascontiguousarray(scores.numpy()).argmin(1)) if scores.is_cpu else scores.argmin(1)


def squared_distances(batch, centres, label):
    """Squared distance between each row and its own centre, free of cancellation; float64 Tensor of shape (n_rows,)."""
    size = _chunk_rows(batch, batch.n_columns)
    parts = [
        batch.part(slice(start, start + size)).squared_distances(centres, label[start : start + size])
        for start in range(0, max(1, len(batch.row)), size)
    ]
    return torch.cat(parts)


def distances(batch, centres):
    """Distance of each row to each centre; float64 Tensor of shape (n_rows, n_centres)."""
    C = centres.double()
    batch = batch.double()
    squares = batch.linear((-2 * C.T).contiguous(), C.square().sum(1))
    return squares.add_(batch.squared_norms()[:, None]).clamp_(min=0).sqrt_()
