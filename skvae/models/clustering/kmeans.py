"""K-means: the limit of a mixture of equal spherical Gaussians as their variance goes to 0; posteriors are 0 or 1.

    minimise  sum_n w_n min_k |x_n - c_k|^2  over the centres c_k; the bound is minus this sum

Both steps are Lloyd's (IEEE Trans. Information Theory 28(2), 1982). The bound needs no distances: with N_k and S_k the
weight and the sum of the rows of each cluster, it is 2 sum_k c_k S_k - sum_k N_k |c_k|^2 - sum_n w_n |x_n|^2.

The model remembers facts about each batch that make the next iteration cheaper and change no result. Only rows that
changed cluster are added to and subtracted from the sums. Only rows whose nearest centre may have changed are compared
with the centres again: bounds on distances that move with the centres tell which (Hamerly, SDM 2010). For wide rows, a
few coordinates are compared first (`kmeans_sketch`). Initial centres are drawn in `kmeans_seeding`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae._compat import nearest_centres
from skvae._tensors import binned
from skvae.models.clustering.kmeans_sketch import Sketch, differences, leading_directions, sketched

_CHUNK_CELLS = 2**19  # scores computed at once on the CPU: they stay in the cache until the smallest are found
_CHUNK_CELLS_GPU = 2**25
_COSTLY_ROW = 2**12  # multiplications to compare a row with all centres, below which bounds cost more than that
_SMALL_BATCH = 2**26  # the same of all rows of a batch
_WORTH_BOUNDS = 0.35  # share of rows whose bounds fail, above which it is as fast to compare all rows
_WORTH_UPDATING = 0.3  # share of rows that changed cluster above which it is as fast to sum up all rows
_FEW_CELLS = 2**17  # of a batch, so few that it is as fast to sum up all rows again
_MANY_CLUSTERS = 1024  # number of clusters from which distances between all centres cost more than they save
_CHANGED_ROWS = 2**14  # rows to add and subtract at once
_WIDE_ROW = 128  # cells a row from which a sketch may pay
_PASSES_BEFORE_SKETCH = 2  # a sketch costs as much as two or three passes; a fit of few iterations would lose time
_ROWS_OF_A_SAMPLE = 512  # rows with bounds, from which it is seen whether bounds for all rows would pay
_CELLS_OF_ONE_THREAD = 2**15  # up to which torch computes in the thread that asks
_ROWS_OF_A_TRIAL = 1024  # rows that are sketched first, to see whether a sketch of all would pay
_WORTH_SKETCH = 0.35  # share of the rows of a trial that the sketch may leave undecided
_WORTH_ASKING = 0.25  # share of rows whose bounds fail, above which the sketch goes first; distances bound tighter
_CANCELLED = 1e-10  # share of squared norms below which a squared distance is computed again, from differences
_SLACK = 1e-12  # relative allowance for the rounding of bounds that move


class Params(NamedTuple):
    centres: Tensor  # (K, D)


class Stats(NamedTuple):
    """Sums over samples, so the statistics of a union are the sums of the statistics."""

    count: Tensor  # (K,)    number of rows of each cluster; exactly 0 for empty ones, where N has rounding errors
    N: Tensor  # (K,)    their weight
    S: Tensor  # (K, D)  their weighted sum
    squares: Tensor  # ()      weighted sum of |x|^2 over all rows
    farthest: "Farthest"  # rows for empty clusters


@dataclass
class Farthest:
    """The rows farthest from their centres, one for each cluster that may be empty; `+` keeps those of a union.

    A cluster that is empty in a union is empty in each part: the smaller of the parts' numbers of empty clusters is
    enough for the union.
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
        """Keep as many rows as `capacity` says, the farthest first."""
        order = self.row.argsort()
        order = order[(-self.distance[order]).argsort(stable=True)][: self.capacity]
        return Farthest(
            self.capacity, self.distance[order], self.row[order], self.w[order], self.label[order], self.X[order]
        )


_SAVED = ("centres", "count", "N", "S", "nearest", "other")  # of a memory; the rest follows from the rows


class Memory(NamedTuple):
    """What the model remembers of a batch."""

    centres: Tensor  # (K, D)  the centres under which all else was found
    label: Tensor  # (n,)    number of the nearest centre of each row
    count: Tensor  # (K,)    statistics of the batch
    N: Tensor  # (K,)
    S: Tensor  # (K, D)
    norms: Tensor  # (n,)    squared norms of the rows
    squares: Tensor  # ()      their weighted sum
    summing: Callable  # labels -> weighted sums of the rows
    nearest: Tensor | None = None  # (m,)    upper bounds on the distances of the first m rows to their own centres
    other: Tensor | None = None  # (m,)    lower bounds on their distances to any other centre
    sketch: Sketch | None = None  # finds new bounds at less cost
    passes: int = 1  # number of E-steps so far


class KMeans:
    """Steps of Lloyd's algorithm for `engines.em.ascend`, on batches of a complete Table or of Rows.

    Parameters
    ----------
    n_clusters : int
    relocate : bool, default=True
        Move the rows farthest from their centres to clusters without any row.
    remembers : bool, default=True
        Whether to remember facts about the rows, up to 32 bytes of each; else all rows are compared each time.
    """

    def __init__(self, n_clusters, relocate=True, remembers=True):
        self.n_clusters, self.relocate, self.remembers = n_clusters, relocate, remembers

    def e_step(self, batch, params, memory=None):
        """Assign each row of a batch to its nearest centre; return the statistics, and what to remember."""
        if memory is None:
            found = self._assigned(batch, params.centres, self._of_rows(batch), self._n_bounded(batch))
            sums = self._sums(batch, found.label, found.summing)
            n_empty = self._n_empty(sums)
        else:
            found = self._assigned_again(batch, params.centres, memory)
            found = found._replace(passes=memory.passes + 1)
            sums, n_empty = self._updated(batch, memory, found.label)
        memory = found._replace(**sums)
        farthest = self._farthest(batch, memory, n_empty) if self.relocate and n_empty else Farthest(0)
        stats = Stats(memory.count, memory.N, memory.S, memory.squares, farthest)
        return stats, memory if self.remembers else None

    def _of_rows(self, batch):
        """What there is to remember of a batch before its rows are assigned."""
        norms = batch.squared_norms().double()
        squares, summing = batch.w.double() @ norms, batch.summing(self.n_clusters)
        return Memory(None, None, None, None, None, norms, squares, summing)

    def saved_memory(self, memory):
        """What a file must hold of a memory: sums that are updated depend on their history, and bounds too."""
        kept = {name: getattr(memory, name) for name in _SAVED}
        basis = None if memory.sketch is None else memory.sketch.basis
        return kept | {"label": memory.label.int(), "passes": memory.passes, "basis": basis}

    def loaded_memory(self, batch, saved):
        """The memory of a batch from what `saved_memory` returned.

        Raises
        ------
        ValueError
            If it is not of such a batch.
        """
        saved = {name: each.to(batch.w.device) if torch.is_tensor(each) else each for name, each in saved.items()}
        of_clusters, (n, K) = {"centres": batch.n_columns, "S": batch.n_columns}, (len(batch.w), self.n_clusters)
        for name in _SAVED[:4]:
            if saved[name].shape != (K, *([of_clusters[name]] if name in of_clusters else [])):
                raise ValueError(f"{name} is not of {K} clusters of these columns")
        label = saved["label"].long()
        if label.shape != (n,) or n and not 0 <= label.min() <= label.max() < K:
            raise ValueError("labels are not those of these rows")
        kept = {name: saved[name] for name in _SAVED}
        memory = self._of_rows(batch)._replace(**kept, label=label, passes=int(saved["passes"]))
        if saved["basis"] is None:
            return memory
        return memory._replace(sketch=sketched(batch, saved["basis"], memory.norms))

    def bound(self, stats, params):
        """Minus the inertia under `params`, given the statistics of an E-step with them."""
        C = params.centres.double()
        inertia = stats.squares + torch.sub(stats.N[:, None] * C, stats.S, alpha=2).mul_(C).sum()
        return -inertia.clamp_(min=0)

    def m_step(self, stats, params):
        """Move each centre to the mean of its rows; that of an empty cluster to a far row, or leave it."""
        N, S = _relocated(stats)
        N, C = N[:, None], params.centres.double()
        still = (N == 0) | (S == N * C)  # a centre that is its only row stays so, to the last digit
        return Params(torch.where(still, params.centres, (S / N).to(params.centres.dtype)))

    # ------------------------------------------------------------------------------------------------ nearest centres
    def _n_bounded(self, batch):
        """For how many rows to keep bounds at first: a sample, to see whether all would pay, or none."""
        return _ROWS_OF_A_SAMPLE if self.remembers and bounds_may_pay(batch, self.n_clusters) else 0

    def _assigned(self, batch, centres, memory, n_bounded):
        """Assign all rows to their nearest centres, with bounds for the first `n_bounded`."""
        before = memory.label
        if not n_bounded:
            return memory._replace(centres=centres, label=nearest_centre(batch, centres, before), nearest=None)
        n = len(memory.norms)
        n_bounded = min(n, n_bounded)
        label, nearest, other = nearest_two(batch, centres, memory.norms, slice(0, n_bounded), before)
        if n_bounded < n:
            rest = slice(n_bounded, n)
            found = nearest_centre(batch.part(rest), centres, None if before is None else before[rest])
            label = torch.cat([label, found])
        return memory._replace(centres=centres, label=label, nearest=nearest, other=other)

    def _assigned_again(self, batch, centres, memory):
        """Assign again those rows whose bounds leave the nearest centre open; the others keep their label."""
        if memory.nearest is None:
            return self._assigned(batch, centres, memory, 0)
        norms, before = memory.norms, memory.label
        n, n_bounded = len(before), len(memory.nearest)
        label = before.clone()
        nearest, other = _moved_bounds(memory, centres)
        active = (nearest >= other).nonzero()[:, 0]
        many = _WORTH_BOUNDS * n_bounded
        sketch = memory.sketch
        if sketch is None and len(active) > many:
            sketch = self._worthwhile_sketch(batch, centres, memory)
        if sketch is not None and n_bounded < n:
            return self._assigned(batch, centres, memory._replace(sketch=sketch), n)
        if sketch is not None and len(active) > _WORTH_ASKING * n:
            *found, unsure = nearest_two_by_sketch(sketch, centres, norms, active, before)
            label[active], nearest[active], other[active] = found
            active = active[unsure]
        if len(active) > many:
            return self._assigned(batch, centres, memory, self._n_bounded(batch))
        if n_bounded < n:
            return self._assigned(batch, centres, memory, n)
        if len(active):
            label[active], nearest[active], other[active] = nearest_two(batch, centres, norms, active, before)
        return memory._replace(centres=centres, label=label, nearest=nearest, other=other, sketch=sketch)

    def _worthwhile_sketch(self, batch, centres, memory):
        """Sketch many wide dense rows after 2, 4, 8, ... passes; None for others, or where a trial decides too few."""
        wide = _WIDE_ROW <= batch.n_columns == batch.cells_a_row
        due = memory.passes >= _PASSES_BEFORE_SKETCH and memory.passes.bit_count() == 1
        if not (wide and due and len(batch.row) >= 16 * _ROWS_OF_A_TRIAL):
            return None
        width = min(batch.n_columns // 8, batch.n_columns // 16 + self.n_clusters)
        basis = leading_directions(batch, centres, width // 16 * 16)  # products of matrices are fast in multiples of 16
        step = math.ceil(len(batch.row) / _ROWS_OF_A_TRIAL)
        some = torch.arange(step // 2, len(batch.row), step)
        trial = sketched(batch.part(some), basis, memory.norms[some])
        every = slice(0, len(some))
        *_, unsure = nearest_two_by_sketch(trial, centres, memory.norms[some], every, memory.label[some])
        return sketched(batch, basis, memory.norms) if unsure.sum() <= _WORTH_SKETCH * len(some) else None

    # --------------------------------------------------------------------------------------------------------- sums
    def _sums(self, batch, label, summing=None):
        """Sum up the rows of each cluster."""
        return {
            "count": binned(label, self.n_clusters),
            "N": binned(label, self.n_clusters, batch.w.double()),
            "S": summing(label) if summing else batch.sums(label, self.n_clusters),
        }

    def _updated(self, batch, before, label):
        """Update the sums by the rows that changed cluster; return them and the number of empty clusters."""
        if label.is_cpu:
            few = len(label) * batch.cells_a_row <= _FEW_CELLS
            changed = None if few else (label != before.label).nonzero()[:, 0]
            sums = self._updated_sums(batch, before, label, changed)
        elif batch.cells_a_row < batch.n_columns:  # to pick out sparse rows, the host would have to wait
            sums = self._sums(batch, label)
        else:  # the host waits once, for two numbers
            changed = label != before.label
            n_changed, n_empty = torch.stack([changed.sum(), (binned(label, self.n_clusters) == 0).sum()]).tolist()
            places = changed.byte().argsort(descending=True, stable=True)[:n_changed]
            return self._updated_sums(batch, before, label, places), n_empty
        return sums, self._n_empty(sums)

    def _n_empty(self, sums):
        return self.n_clusters - int(sums["count"].count_nonzero())

    def _updated_sums(self, batch, before, label, changed):
        """Sums under new labels; `changed` are the places of the rows to add and subtract, None to sum up all rows."""
        if changed is None or len(changed) > _WORTH_UPDATING * len(label):
            return self._sums(batch, label, before.summing)
        sums = {name: getattr(before, name) for name in ("count", "N", "S")}
        for index in changed.split(_CHANGED_ROWS) if len(changed) else ():
            part = batch.part(index)
            gained, lost = self._sums(part, label[index]), self._sums(part, before.label[index])
            sums = {name: sums[name] + gained[name] - lost[name] for name in sums}
        occupied = sums["count"] > 0
        return sums | {"N": sums["N"] * occupied, "S": sums["S"] * occupied[:, None]}

    def _farthest(self, batch, memory, n_empty):
        """Find the rows farthest from their centres, one for each empty cluster."""
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
    """Weights and sums of the clusters after the farthest rows have moved to the empty ones."""
    far = stats.farthest
    if not far.capacity:
        return stats.N, stats.S
    N, S = stats.N.clone(), stats.S.clone()
    numbers = torch.cat([stats.count, far.label, (far.distance > 0).long()]).tolist()  # in one copy from the device
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
def bounds_may_pay(batch, n_clusters):
    """Whether comparing a row with all centres, and all rows with them, takes long enough; it never does on a GPU."""
    row = n_clusters * batch.cells_a_row
    return batch.w.is_cpu and row >= _COSTLY_ROW and len(batch.row) * row >= _SMALL_BATCH


def squared_shift(before, after):
    """Squared distance between parameters."""
    if not after.centres.is_cpu:
        return float((after.centres - before.centres).double().square().sum())
    away = (after.centres.numpy() - before.centres.numpy()).ravel().astype(np.float64, copy=False)
    return float(away @ away)


def _moved_bounds(memory, centres):
    """Widen bounds by how far the centres have moved, and tighten them by the distances between centres."""
    label = memory.label[: len(memory.nearest)]
    C, before = (array.numpy().astype(np.float64, copy=False) for array in (centres, memory.centres))
    moved = torch.from_numpy(np.sqrt(np.square(C - before).sum(axis=1))) * (1 + _SLACK)
    nearest = memory.nearest + moved[label]
    other = memory.other - _greatest_of_others(moved)[label]
    if 1 < len(C) <= _MANY_CLUSTERS:
        other = torch.maximum(other, torch.from_numpy(_half_ways(C))[label])
    return nearest, other


def _half_ways(C):
    """Lower bounds on half the distance from each centre to the nearest other one; an array like C, in float64."""
    squares = np.einsum("ij,ij->i", C, C)
    scale = squares[:, None] + squares
    apart = scale - 2 * (C @ C.T) - 2 * C.shape[1] * np.finfo(C.dtype).eps * scale  # rounding makes no bound too large
    np.fill_diagonal(apart, math.inf)
    return np.sqrt(apart.min(axis=1).clip(0)) * (0.5 * (1 - _SLACK))


def _greatest_of_others(values):
    """Greatest of all other values, for each value; 0 where there are no others."""
    if len(values) == 1:
        return torch.zeros_like(values)
    (first, second), (place, _) = values.topk(2)
    greatest = first.expand(len(values)).clone()
    greatest[place] = second
    return greatest


def _chunk_rows(batch, n_clusters, n_rows=math.inf):
    """How many of `n_rows` rows to compare with all centres at once."""
    if batch.w.is_cpu and n_rows <= _ROWS_OF_A_SAMPLE:
        # torch's threads would wait for those of the compiled kernel, which look out for more work for milliseconds.
        return max(1, _CELLS_OF_ONE_THREAD // n_clusters)
    if not batch.w.is_cpu:
        return max(256, _CHUNK_CELLS_GPU // n_clusters)
    return max(256, min(_CHUNK_CELLS // n_clusters, 4 * _CHUNK_CELLS // batch.cells_a_row))


def nearest_centre(batch, centres, before=None):
    """Find the number of the centre nearest to each row; int64 Tensor of shape (n_rows,).

    Of several nearest centres the first counts. With labels from `before`, which makes it faster where most rows keep
    theirs, a row also keeps its label if its centre is one of the nearest.
    """
    label = nearest_centres(batch.array, centres.numpy(), torch.get_num_threads()) if batch.w.is_cpu else None
    if label is not None:
        return torch.from_numpy(label).long()

    def find(rows, scores):
        return _least(scores, None if before is None else before[rows])[:1]

    return _by_chunk(find, batch, centres)[0]


def nearest_two(batch, centres, norms, index=None, before=None):
    """Find the nearest centre as `nearest_centre` does, and bounds on distances.

    Parameters
    ----------
    batch : TableBatch or Batch
    centres : Tensor of shape (K, D)
    norms : float64 Tensor of shape (n_rows,)
        Squared norms of all rows.
    index : slice from 0, int64 Tensor or None, default=None
        Rows to look at; None: all.
    before : int64 Tensor of shape (n_rows,) or None, default=None
        Labels of all rows from before.

    Returns
    -------
    label : int64 Tensor
    nearest, other : float64 Tensor
        An upper bound on the distance of each row to its centre, and a lower bound on that to any other centre. Both
        allow for the rounding of the distances.
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


def nearest_two_by_sketch(sketch, centres, norms, index, before):
    """Find what `nearest_two` finds, by a sketch: wider bounds, and also whether another centre may be nearer."""
    coordinates, apart, left = differences(sketch, centres)
    squares = centres.square().sum(1)
    widest, slack = float(squares.max()), sketch.slack

    def find(rows, scores):
        label, first = _least(scores, before[rows])
        rest, own = sketch.rest[rows], norms[rows]
        # In the memory layout of the scores, which are stored by column where there are few.
        doubt = apart.index_select(1, label).mT if scores.stride(0) == 1 else apart[label]
        second = torch.addcmul(scores, doubt, rest[:, None], value=-1).scatter_(1, label[:, None], math.inf).amin(1)
        error = slack * (own + widest)
        unsure = second.double() <= first.double() + error
        error += rest.double() * left[label]
        nearest = (own + first.double() + error).clamp_(min=0).sqrt_()
        return label, nearest, (own + second.double() - error).clamp_(min=0).sqrt_(), unsure

    return _by_chunk(find, sketch.rows, coordinates, index, squares)


def _by_chunk(find, batch, centres, index=None, squares=None):
    """Call `find(rows, scores)` on chunks of rows and join what it returns.

    A score is the squared distance to a centre, less the squared norm of the row. `squares` are the squared norms of
    the centres, where `centres` holds only some of their coordinates.
    """
    squares = centres.square().sum(1) if squares is None else squares
    if index is None or isinstance(index, slice):
        index, n = None, len(batch.row) if index is None else index.stop
    else:
        n = len(index)
    size = _chunk_rows(batch, len(centres), n)
    scores = batch.linear_by_part((-2 * centres.T).contiguous(), squares, size)
    found = []
    for start in range(0, max(n, 1), size):
        stop = min(n, start + size)
        rows = slice(start, stop) if index is None else index[start:stop]
        found.append(find(rows, scores(rows)))
    return tuple(torch.cat(parts) for parts in zip(*found))


def _least(scores, before=None):
    """Place and value of the smallest score of each row; of equal scores, at the place from before.

    The CPU finds the smallest value in a fraction of the time that its place takes, and most rows keep theirs. To pick
    out the other rows, the host would have to wait for an accelerator.
    """
    if before is None or not scores.is_cpu:
        if scores.is_cpu:  # where torch's argmin takes longer than the product before it
            label = torch.from_numpy(np.ascontiguousarray(scores.numpy()).argmin(1))
        else:
            label = scores.argmin(1)
        first = scores.gather(1, label[:, None])[:, 0]
        if before is not None:
            label = torch.where(scores.gather(1, before[:, None])[:, 0] > first, label, before)
        return label, first
    first = scores.amin(1)
    stale = scores.gather(1, before[:, None])[:, 0] > first
    label = before.clone()
    places = np.flatnonzero(stale.numpy())  # NumPy finds and copies few rows in half of torch's time
    label.numpy()[places] = scores.numpy().take(places, 0).argmin(1)
    return label, first


def squared_distances(batch, centres, label):
    """Squared distance of each row to its own centre, computed without cancellation; float64, of shape (n_rows,)."""
    size = _chunk_rows(batch, batch.cells_a_row)
    parts = [
        batch.part(slice(start, start + size)).squared_distances(centres, label[start : start + size])
        for start in range(0, max(1, len(batch.row)), size)
    ]
    return torch.cat(parts)


def distances(batch, centres):
    """Distance of each row to each centre; float64 Tensor of shape (n_rows, n_centres)."""
    C = centres.double()
    batch = batch.double()
    norms, squares = batch.squared_norms()[:, None], C.square().sum(1)
    distance = batch.linear((-2 * C.T).contiguous(), squares).add_(norms)
    row, centre = (distance < _CANCELLED * (norms + squares)).nonzero().unbind(1)
    if len(row):  # of which rounding has left few digits
        distance[row, centre] = (batch.part(row).dense() - C[centre]).square().sum(1)
    return distance.clamp_(min=0).sqrt_()
