"""Draws rows as initial centres for K-means.

Greedy k-means++ (Arthur and Vassilvitskii, SODA 2007), k-means|| (Bahmani et al., VLDB 2012), or rows at random.
"""

import math

import numpy as np
import torch

from skvae._tensors import TableBatch, binned
from skvae.models.clustering.kmeans import nearest_centre, squared_distances

_ROUNDS = 5  # rounds of k-means||


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
    distances to the nearest centre so far.
    """
    n_trials = 2 + int(math.log(n_clusters))
    w, norms = batch.w.double(), batch.squared_norms().double()
    draws = noise.fold("k-means++").uniform(torch.arange(n_clusters), n_trials, torch.float64).to(w.device)
    chosen = [_drawn(w, draws[0, :1])]
    distance = _distances_to(batch, norms, chosen[0])[0]
    for draw in draws[1:]:
        trial = _drawn(w * distance, draw)
        reach = torch.minimum(_distances_to(batch, norms, trial), distance)
        left = reach @ w
        # NumPy's is the first of several; on a device the host must not wait for the number.
        best = torch.from_numpy(left.numpy().argmin(keepdims=True)) if w.is_cpu else left.argmin(keepdim=True)
        chosen.append(trial[best])
        distance = reach[best][0]
    return batch.part(torch.cat(chosen)).dense()


def _drawn(mass, draw):
    """Draw places by uniform numbers, with probabilities proportional to `mass`; with equal ones if it is 0."""
    reached = mass.cumsum(0)
    if not mass.is_cpu or reached[-1] <= 0:  # on a device, to ask would be to wait
        evenly = torch.arange(1, len(mass) + 1, device=mass.device, dtype=mass.dtype)
        reached = torch.where(reached[-1] > 0, reached, evenly)
    return torch.searchsorted(reached, draw * reached[-1], right=True).clamp_(max=len(mass) - 1)


def _distances_to(batch, norms, index):
    """Squared distances of all rows to the rows `index`, of shape (len(index), n_rows)."""
    seeds = batch.part(index).dense()
    products = batch.linear(seeds.T.contiguous(), seeds.new_zeros(len(seeds))).double().T
    distance = (norms - 2 * products + norms[index][:, None]).clamp_(min=0)
    distance[torch.arange(len(index), device=index.device), index] = 0
    return distance


def random_seeds(batch, n_clusters, noise):
    """Draw rows without replacement, with probabilities proportional to their weights (Efraimidis and Spirakis 2006).

    If there are fewer rows than clusters, all of them in turn, more than once.
    """
    arrival = arrival_times(noise.fold("random"), batch.row, batch.w)
    n = min(n_clusters, len(arrival))
    order = torch.from_numpy(np.argsort(arrival.cpu().numpy(), kind="stable")[:n]).to(arrival.device)
    return batch.part(order[torch.arange(n_clusters, device=arrival.device) % n]).dense()


def arrival_times(noise, row, w):
    """Exponential times at which rows arrive, of rates `w`: the first n are a draw of n rows without replacement."""
    return -noise.uniform(row, 1, torch.float64)[:, 0].log() / w.double()


def scalable_seeds(batch, n_clusters, noise):
    """Draw rows by k-means||: each round draws about 2 K rows at once; k-means++ then chooses K of them."""
    w, noise = batch.w.double(), noise.fold("k-means||")
    chosen = _drawn(w, noise.uniform(torch.zeros(1, dtype=torch.int64), 1, torch.float64)[0].to(w.device))
    seeds = batch.part(chosen).dense()
    distance = _distance_to_nearest(batch, seeds)
    for number in range(_ROUNDS):
        mass = w * distance
        luck = noise.fold(number).uniform(batch.row, 1, torch.float64)[:, 0]
        found = (luck * mass.sum() < 2 * n_clusters * mass).nonzero()[:, 0]
        if len(found):
            fresh = batch.part(found).dense()
            seeds, distance = torch.cat([seeds, fresh]), torch.minimum(distance, _distance_to_nearest(batch, fresh))
    if len(seeds) < n_clusters:  # few distinct rows
        return spread_seeds(batch, n_clusters, noise)
    weight = binned(nearest_centre(batch, seeds), len(seeds), w)
    return seed_centres(seeds, weight.to(seeds.dtype), n_clusters, noise)


def _distance_to_nearest(batch, centres):
    return squared_distances(batch, centres, nearest_centre(batch, centres))
