"""Draws rows as initial centres for K-means.

Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007), k-means|| (Bahmani et al., VLDB 2012), or rows at random.
"""

import contextlib
import math

import numpy as np
import scipy.sparse as sp
import torch

from skvae import _reduce
from skvae._tensors import TableBatch, Workers, binned, threads_to_share, uniform_at
from skvae.models.clustering.kmeans import nearest_centre, squared_distances

_ROUNDING = 2.0**-46  # share of squared norms below which a squared distance is 0
_ROUNDS = 5  # rounds of k-means||
_CELLS_AT_ONCE = 2**17  # of rows and of their distances, that stay in the cache of the CPU
_FEW_ROWS, _DRAWN_AT_ONCE = 4096, 128  # a draw takes the running sum over all rows if they are few, else over these
_FEWEST_ROWS = 1024  # at once
_CELLS_KEPT = 2**20  # up to which float32 rows are turned into float64 once, not once a centre
_MOST_AHEAD, _CELLS_AHEAD = 64, 2**22  # rows, and cells of them and of their distances, to measure before their turn
_WIDEST_AHEAD = 2**12  # columns; wider rows are mostly sparse, and gain nothing
_WORTH_AHEAD = 4  # draws that have room in that number
_WORTH_A_THREAD = 2**22  # multiplications a centre, below which threads would wait for each other


def seed_centres(X, w, n_clusters, noise):
    """Draw rows of a matrix that lie far apart, by greedy k-means++.

    Parameters
    ----------
    X : Tensor of shape (n_rows, n_columns)
    w : Tensor of shape (n_rows,)
        Weights.
    n_clusters : int
    noise : Noise

    Returns
    -------
    centres : Tensor of shape (n_clusters, n_columns)
    """
    return spread_seeds(TableBatch(X, w, torch.arange(len(X), device=X.device)), n_clusters, noise)


def spread_seeds(batch, n_clusters, noise):
    """Draw rows of a batch that lie far apart, by greedy k-means++.

    Each centre is the best of 2 + log(n_clusters) rows, drawn with probabilities proportional to their squared
    distances to the nearest centre so far. Distances are computed in float64: rows draw the same whatever their dtype.
    """
    n_trials = 2 + int(math.log(n_clusters))
    keys = noise.fold("k-means++").keys(np.arange(n_clusters))
    n_ahead = _n_ahead(len(batch.row), batch.n_columns)
    if batch.w.is_cpu and n_ahead >= _WORTH_AHEAD * n_trials:
        chosen = torch.tensor(_spread_ahead(batch, keys, n_trials, n_ahead))
        return batch.part(chosen).dense()
    draws = uniform_at(keys[:, None], np.arange(n_trials))
    if batch.w.is_cpu:
        chosen = torch.tensor(_spread_on_cpu(batch, draws))
    else:
        chosen = _spread_on_device(batch, torch.from_numpy(draws).to(batch.w.device))
    return batch.part(chosen).dense()


def _n_ahead(n_rows, n_columns):
    """To how many rows to measure the distances of all rows at once, in memory that is small beside the rows."""
    if n_rows * n_columns <= _CELLS_KEPT or n_columns > _WIDEST_AHEAD:
        return 0
    return min(_MOST_AHEAD, n_columns // 8, _CELLS_AHEAD // (n_rows + n_columns))


def _spread_on_cpu(batch, draws):
    """Places of the rows drawn. NumPy takes a fraction of torch's time for many small steps."""
    with _measuring(batch, draws.shape[1]) as (distances, urn):
        chosen = _first(distances, urn, draws[0, :1])
        for draw in draws[1:]:
            trial = urn.draw(draw)
            left = distances.to(trial, urn.mass)
            best = left.argmin()
            chosen.append(trial[best])
            distances.keep(best, trial[best], urn.mass)
    return chosen


def _spread_ahead(batch, keys, n_trials, n_ahead):
    """Places of rows drawn in the same way, but measured several draws ahead.

    A product of wide rows with many seeds takes little longer than one with few. Rows are drawn by the mass that there
    is. When their turn comes, there is less; each is taken with probability new over old mass, so that those taken are
    draws by the new mass (rejection sampling).
    """
    with _measuring(batch, n_ahead) as (distances, urn):
        chosen, n_draws = _first(distances, urn, uniform_at(keys[0], np.arange(1))), 2
        while (begun := len(chosen)) < len(keys):
            n = min(n_ahead, n_draws * (n_trials + 1))
            uniform, luck = uniform_at(keys[begun], np.arange(2 * n)).reshape(2, n)
            ahead = urn.draw(uniform)
            luck *= urn.mass[ahead]
            distances.to(ahead, urn.mass)
            place = np.arange(n)
            while len(chosen) < len(keys):
                trial = place[luck[place] <= urn.mass[ahead[place]]][:n_trials]
                if len(trial) < n_trials:
                    break
                place = place[place > trial[-1]]
                best = trial[distances.lessened(trial, urn.mass).argmin()]
                chosen.append(ahead[best])
                distances.keep(best, ahead[best], urn.mass)
            n_draws = 2 * (len(chosen) - begun)
    return chosen


@contextlib.contextmanager
def _measuring(batch, n_seeds):
    """Distances to at most `n_seeds` rows at once, on all threads where that pays, and an urn of the rows."""
    n_threads = 1  # SciPy's products of sparse rows run in turn
    if not sp.issparse(batch.array):
        n_threads = max(1, min(threads_to_share(), batch.array.size * n_seeds // _WORTH_A_THREAD))
    with contextlib.nullcontext() if n_threads == 1 else Workers(n_threads - 1) as workers:
        distances = _Distances(batch, n_seeds, n_threads, workers)
        yield distances, _Urn(distances.w)


def _first(distances, urn, draw):
    """Draw the first row and measure the distances to it."""
    first = urn.draw(draw)[0]
    urn.mass[:] = np.inf
    distances.to([first], urn.mass)
    distances.keep(0, first, urn.mass)
    return [first]


class _Urn:
    """Draws places with probabilities proportional to weight times mass, without a running sum over all of them.

    Parameters
    ----------
    w : float64 ndarray of shape (n,)
    """

    def __init__(self, w):
        self.n = n = len(w)
        self.size = _DRAWN_AT_ONCE if n > _FEW_ROWS else n
        shape = (-(-n // self.size), self.size)
        self.w, self.blocks = np.zeros(shape), np.zeros(shape)
        self.w.ravel()[:n] = w
        self.mass = self.blocks.ravel()[:n]  # to be written to
        self.mass[:] = 1

    def draw(self, uniform):
        """Draw a place by each of some uniform numbers below 1; evenly if all mass is 0."""
        one_block = len(self.blocks) == 1
        reached = (self.w[0] * self.mass if one_block else np.einsum("ij,ij->i", self.w, self.blocks)).cumsum()
        if reached[-1] <= 0:
            return (uniform * self.n).astype(np.int64)
        target = uniform * reached[-1]
        found = reached.searchsorted(target, side="right")
        if one_block:
            return found
        block = np.minimum(found, len(reached) - 1)
        inner = (self.w[block] * self.blocks[block]).cumsum(axis=1)
        inner += (reached[block] - inner[:, -1])[:, None]
        place = np.minimum((inner <= target[:, None]).sum(axis=1), self.size - 1)
        return np.minimum(block * self.size + place, self.n - 1)


class _Distances:
    """Squared distances of the rows of a batch to a few of them, in float64, block after block in memory that is kept.

    Parameters
    ----------
    batch : TableBatch or Batch
        On the CPU.
    n_seeds : int
        Largest number of rows to measure distances to.
    n_groups : int, default=1
        Number of groups of consecutive blocks. How many there are changes no digit.
    workers : Workers or None, default=None
        Work on all groups but the first, which the caller takes. It uses NumPy only: torch would use all threads.
    """

    def __init__(self, batch, n_seeds, n_groups=1, workers=None):
        self.rows, self.w = batch.array, batch.w.numpy().astype(np.float64, copy=False)
        self.map = map if workers is None else workers.map
        n, n_columns = self.rows.shape
        self.sparse = sp.issparse(self.rows)
        self.kept = not self.sparse and n * n_columns <= _CELLS_KEPT
        if self.sparse:
            self.rows = self.rows.astype(np.float64, copy=False)
            self.by_column = self.rows.tocsc()
        size = n if self.sparse else max(_FEWEST_ROWS, _CELLS_AT_ONCE // (n_columns + n_seeds))
        self.parts = [slice(start, start + size) for start in range(0, n, size)]
        edges = [len(self.parts) * group // n_groups for group in range(n_groups + 1)]
        shape = (size, n_columns) if self.rows.dtype == np.float32 else (0, 0)
        self.groups = [(range(*pair), np.empty(shape)) for pair in zip(edges[:-1], edges[1:])]
        self.norms = np.concatenate([self._squared_norms(part) for part in self.parts])
        self.blocks = [self._block(part) for part in self.parts] if self.kept else None
        self.rounding = _ROUNDING * self.norms
        self.reach, self.weights = np.empty((n_seeds, n)), np.ones((n_seeds, n_columns + 2))

    def _squared_norms(self, part):
        if self.sparse:
            return self.rows.multiply(self.rows).sum(axis=1)
        rows = self._wide_rows(part, self.groups[0][1])
        return np.einsum("ij,ij->i", rows, rows)

    def _wide_rows(self, part, space):
        """Rows in float64; those in float32 are copied to `space`."""
        rows = self.rows[part]
        if rows.dtype == np.float64:
            return rows
        space = space[: len(rows)]
        np.copyto(space, rows)
        return space

    def _block(self, part):
        """Some rows, ones and squared norms, by column: one product makes distances of them."""
        norms = self.norms[part]
        block = np.empty((self.rows.shape[1] + 2, len(norms)))
        block[:-2], block[-2], block[-1] = self.rows[part].T, 1, norms
        return block

    def to(self, index, most):
        """Compute squared distances of all rows to the rows `index`, or `most` where that is less.

        Returns
        -------
        total : ndarray of shape (len(index),)
            Their weighted sums.
        """
        own = self.rows[index] if self.sparse else self.rows.take(index, 0)
        reach, weights, columns = self.reach[: len(index)], self.weights[: len(index)], None
        if self.sparse:
            columns, own = np.unique(own.indices), own.toarray()
        np.multiply(own, -2.0, out=weights[:, :-2])
        weights[:, -2] = self.norms.take(index)

        def totals(group):
            found, (numbers, space) = [], group
            for number in numbers:
                part = self.parts[number]
                out = reach[:, part]
                self._compute(weights, columns, number, space, out)
                np.minimum(out, most[part], out=out)
                found.append(out @ self.w[part])
            return found

        others, total = self.map(totals, self.groups[1:]), 0
        for found in (totals(self.groups[0]), *others):
            for each in found:  # in the same order on any number of threads
                total += each
        return np.maximum(total, 0)

    def lessened(self, numbers, most):
        """Lessen distances to some of the rows last asked for to what is less in `most` by now; return their sums."""
        reach = np.minimum(self.reach[numbers], most)
        self.reach[numbers] = reach
        return reach @ self.w

    def keep(self, number, row, out):
        """Write the distances to one of the rows last asked for, which is `row`; 0 where only rounding is left."""
        reach = self.reach[number]
        np.multiply(reach, reach >= self.rounding + self.rounding[row], out=out)
        out[row] = 0

    def _compute(self, weights, columns, number, space, out):
        """Write the squared distances of the rows of one block; sparse seeds have values in some columns only."""
        if self.kept:
            np.matmul(weights, self.blocks[number], out=out)
            return
        part, seeds, squares = self.parts[number], weights[:, :-2], weights[:, -2:-1]
        if self.sparse:
            products = (self.by_column[:, columns] @ seeds.take(columns, 1).T).T
        else:
            products = seeds @ self._wide_rows(part, space).T
        np.add(products, self.norms[part], out=out)
        out += squares


def _spread_on_device(batch, draws):
    """Places of the rows drawn. The host never waits for a number."""
    w, norms = batch.w.double(), batch.double().squared_norms()
    chosen = [_drawn(w, draws[0, :1])]
    distance = _distances_to(batch, norms, chosen[0])[0]
    for draw in draws[1:]:
        trial = _drawn(w * distance, draw)
        reach = torch.minimum(_distances_to(batch, norms, trial), distance)
        best = (reach @ w).argmin(keepdim=True)
        chosen.append(trial[best])
        distance = reach[best][0]
    return torch.cat(chosen)


def _drawn(mass, draw):
    """Draw places by uniform numbers, with probabilities proportional to `mass`; with equal ones if it is 0."""
    reached = mass.cumsum(0)
    evenly = torch.arange(1, len(mass) + 1, device=mass.device, dtype=mass.dtype)
    reached = torch.where(reached[-1] > 0, reached, evenly)
    return torch.searchsorted(reached, draw * reached[-1], right=True).clamp_(max=len(mass) - 1)


def _distances_to(batch, norms, index):
    """Squared distances of all rows to the rows `index`, in float64, of shape (len(index), n_rows)."""
    seeds = batch.part(index).dense().double()
    products = batch.double().linear(seeds.T.contiguous(), seeds.new_zeros(len(seeds))).T
    scale = norms + norms[index][:, None]
    distance = scale - 2 * products
    distance[distance < _ROUNDING * scale] = 0
    distance[torch.arange(len(index), device=index.device), index] = 0
    return distance


def random_seeds(batch, n_clusters, noise):
    """Draw rows without replacement, with probabilities proportional to their weights (Efraimidis and Spirakis 2006).

    If there are fewer rows than clusters, all of them in turn, more than once.
    """
    arrival = arrival_times(noise.fold("random"), _numbers(batch), batch.w).cpu().numpy()
    _, n = _reduce.place(len(arrival))
    index = np.sort(_reduce.places_of_least(arrival, min(n_clusters, n)))
    order = np.concatenate(_reduce.gathered(arrival[index])).argsort(kind="stable")
    rows = _rows_of_all(batch, torch.from_numpy(index).to(batch.w.device))
    return rows[torch.from_numpy(np.resize(order, n_clusters)).to(rows.device)]


def arrival_times(noise, row, w):
    """Exponential times at which rows arrive, of rates `w`: the first n are a draw of n rows without replacement."""
    return -noise.uniform(row, 1, torch.float64)[:, 0].log() / w.double()


def scalable_seeds(batch, n_clusters, noise):
    """Draw rows by k-means||: each round draws about 2 K rows at once; k-means++ then chooses K of them.

    None where rounds found fewer than K, as among few distinct rows.
    """
    w, noise = batch.w.double(), noise.fold("k-means||")
    draw = noise.uniform(torch.zeros(1, dtype=torch.int64), 1, torch.float64)[0].to(w.device)
    seeds = _rows_of_all(batch, _drawn_of_all(w, draw))
    distance = _distance_to_nearest(batch, seeds)
    for number in range(_ROUNDS):
        mass = w * distance
        luck = noise.fold(number).uniform(_numbers(batch), 1, torch.float64)[:, 0]
        found = (luck * _reduce.count(mass.sum()) < 2 * n_clusters * mass).nonzero()[:, 0]
        fresh = _rows_of_all(batch, found)
        if len(fresh):
            seeds, distance = torch.cat([seeds, fresh]), torch.minimum(distance, _distance_to_nearest(batch, fresh))
    if len(seeds) < n_clusters:
        return None
    weight = _reduce.count(binned(_by_part(lambda part: nearest_centre(part, seeds), batch), len(seeds), w))
    with _reduce.alone():
        return seed_centres(seeds, weight.to(seeds.dtype), n_clusters, noise)


def _numbers(batch):
    """Numbers of the rows among those of all processes."""
    if not _reduce.is_shared():
        return batch.row
    first, _ = _reduce.place(len(batch.row))
    return first + torch.arange(len(batch.row), device=batch.row.device)


def _rows_of_all(batch, index):
    """Some rows of this process, and those that the others name, as a Tensor."""
    own = batch.part(index).dense()
    return own if not _reduce.is_shared() else torch.cat(_reduce.gathered(own.cpu())).to(own.device)


def _drawn_of_all(mass, draw):
    """What `_drawn` draws among the rows of all processes: the places of those that are this process's own."""
    if not _reduce.is_shared():
        return _drawn(mass, draw)
    before, _ = _reduce.place(float(mass.sum()))
    found = torch.searchsorted(mass.cumsum(0), draw * _reduce.count(float(mass.sum())) - before, right=True)
    begins = draw * _reduce.count(float(mass.sum())) >= before
    return found[begins & (found < len(mass))]


def _distance_to_nearest(batch, centres):
    return _by_part(lambda part: squared_distances(part, centres, nearest_centre(part, centres)), batch)


def _by_part(function, batch):
    """Numbers of all rows: of a batch in memory at once, of `MappedRows` batch by batch."""
    return torch.cat([function(part) for part in batch.batches()]) if hasattr(batch, "batches") else function(batch)
