"""Initial parameters of mixtures: rows drawn at random, a short K-means, and checks of what the user gives."""

import numpy as np
import torch
from sklearn.utils import check_array

from skvae._tensors import Table
from skvae.engines import em
from skvae.models.clustering import kmeans
from skvae.tables.column_statistics import column_means_and_variances

SEEDING_ROWS = 20_000  # k-means that only gives a start sees no more
_SEEDING_STEPS = 30


def keyed_sample(noise, weight, size):
    """Rows drawn without replacement in proportion to their weight: the first arrivals of an exponential race.

    All rows, in their own order, where that many are wanted.
    """
    if size >= len(weight):
        return np.arange(len(weight))
    u = noise.uniform(torch.arange(len(weight)), 1, torch.float64)[:, 0].numpy()
    return np.sort(np.argpartition(-np.log(u) / weight, size - 1)[:size])


def nearest_takes_all(X, centres):
    """One-hot responsibilities (K, n): the nearest centre takes all."""
    score = torch.addmm(-0.5 * centres.square().sum(1, keepdim=True), centres, X.mT)
    return torch.zeros_like(score).scatter_(0, score.argmax(0, keepdim=True), 1)


def few_lloyd_steps(points, weight, centres):
    """A few steps of k-means: all it gives is a start."""
    plan = em.Plan(
        _SEEDING_STEPS, lambda step: torch.equal(step.before.centres, step.params.centres), float(weight.sum())
    )
    table = Table(points.numpy(), points.device, weight=weight.numpy(), allow_missing=False)
    batches = table.batches(len(table))
    return em.ascend(kmeans.KMeans(len(centres)), batches, [kmeans.Params(centres)], plan=plan).params.centres


def column_variance(table):
    """Variance of the observed cells of each column, by weight; asked for only where cells are missing."""
    if table.patterns is None:
        return torch.zeros(table.shape[1], dtype=table.dtype, device=table.device)
    _, variance = column_means_and_variances(table.X, table.weight.numpy(), ~np.isnan(table.X))
    return torch.as_tensor(variance, dtype=table.dtype, device=table.device)


def checked_shape(array, shape, name):
    """A parameter as a finite float array of a given shape."""
    array = check_array(array, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name=name)
    if array.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    return array


def checked_weights(weights, n_components):
    """Proportions to start from."""
    weights = checked_shape(weights, (n_components,), "weights")
    if weights.min() < 0 or weights.max() > 1:
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got min value "
            f"{weights.min():.5f}, max value {weights.max():.5f}"
        )
    if not np.isclose(weights.sum(), 1.0, atol=1e-6):
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")
    return weights
