"""Initial parameters of mixtures: first guesses of the posterior, a short K-means, checks of what the user gives."""

import numpy as np
import torch
from sklearn.utils import check_array

from skvae import _reduce
from skvae._tensors import TableBatch
from skvae.engines import em
from skvae.models.clustering import kmeans
from skvae.models.clustering import kmeans_seeding as seeding
from skvae.models.clustering.kmeans_compiled import CompiledKMeans

_SEEDING_ROWS = 20_000  # K-means that only gives initial parameters sees no more
_SEEDING_STEPS = 30


def initial_responsibilities(init_params, table, points, n_components, noise, scale=None):
    """First guesses of the posterior of the components.

    Parameters
    ----------
    init_params : {"kmeans", "k-means++", "random_from_data", "random"}
        Which centre claims the rows nearest to it, as for `initial_centres`; or random numbers that sum to 1.
    table : Table
    points : callable
        Numbers of rows -> float ndarray of shape (n_some, n_columns): these rows, none of their cells missing.
    n_components : int
    noise : Noise
    scale : ndarray of shape (n_columns,) or None, default=None
        Units of the columns in which distances are measured; None: those of the table.

    Returns
    -------
    responsibilities : callable
        Batch -> Tensor of shape (K, n_rows); they do not depend on how rows are put into batches.
    """
    if init_params == "random":
        first, _ = _reduce.place(len(table))

        def random(batch):
            share = noise.uniform(first + batch.row, n_components, torch.float64).mT
            return share / share.sum(0)

        return random
    scaled = points if scale is None else lambda index: points(index) / scale
    centres = initial_centres(init_params, table, scaled, n_components, noise)
    # In order of their coordinates, so that the order of the components depends on no draw.
    order = np.lexsort(centres.cpu().numpy().T[::-1])
    centres = centres[torch.from_numpy(order).to(centres.device)]
    weighted = centres if scale is None else centres / torch.as_tensor(scale, dtype=centres.dtype).to(centres.device)
    squares = centres.square()

    def nearest_takes_all(batch):  # by the observed cells of each row
        seen = squares.sum(1, keepdim=True) if batch.observed is None else squares @ batch.observed.mT
        score = torch.addmm(-0.5 * seen, weighted, batch.X.mT)
        # NumPy's argmax takes a fraction of torch's time
        best = torch.from_numpy(score.numpy().argmax(0)) if score.is_cpu else score.argmax(0)
        return torch.zeros_like(score).scatter_(0, best[None], 1)

    return nearest_takes_all


def initial_centres(init_params, table, points, n_components, noise):
    """Points that lie where rows do: seeds of K-means, the centres that it finds from them, or rows drawn at random.

    Parameters
    ----------
    init_params : {"kmeans", "k-means++", "random_from_data"}
    table, n_components, noise
        As for `initial_responsibilities`.
    points : callable
        Numbers of rows -> float ndarray of shape (n_some, n_coordinates).

    Returns
    -------
    centres : Tensor of shape (n_components, n_coordinates)
    """
    K, (first, n) = n_components, _reduce.place(len(table))
    from_data = init_params == "random_from_data"
    size = K if from_data else min(n, _SEEDING_ROWS)
    index = np.arange(len(table))
    if size < n:  # without replacement, in proportion to their weight
        arrival = seeding.arrival_times(noise.fold("rows"), first + torch.arange(len(table)), table.weight).numpy()
        index = np.sort(_reduce.places_of_least(arrival, size))
    parts = _reduce.gathered((points(index), table.weight[index].numpy()))
    some, weight = (np.concatenate(part) for part in zip(*parts))
    index = np.resize(np.arange(len(some)), max(K, len(some)))  # equal rows may be merged: some are taken twice
    some, weight = (torch.as_tensor(part[index], dtype=table.dtype) for part in (some, weight))
    if from_data:
        return some.to(table.device)
    if n > len(index):  # drawn in proportion to their weights, they count alike
        weight = torch.ones_like(weight)
    with _reduce.alone():
        centres = seeding.seed_centres(some, weight, K, noise)
        if init_params == "kmeans":
            centres = _means_of_clusters(some, weight, centres)
    return centres.to(table.device)


def _means_of_clusters(X, w, centres):
    """Centres of a short K-means of the rows of a Tensor X on the CPU, of weights `w`.

    Call it in the context of `one_blas_thread`.
    """

    def converged(step):
        return torch.equal(step.before.centres, step.params.centres)

    rows, K = TableBatch(X, w, torch.arange(len(X))), len(centres)
    plan = em.Plan(_SEEDING_STEPS, converged, float(w.sum()))
    model = CompiledKMeans(rows, K) if CompiledKMeans.suits(rows, K) else kmeans.KMeans(K)
    return em.ascend(model, [rows], [kmeans.Params(centres)], plan=plan).params.centres


def checked_shape(array, shape, name):
    """A parameter as a finite float array of a given shape."""
    if type(array) is not np.ndarray or array.dtype != np.float64 or not np.isfinite(array).all():
        array = check_array(array, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name=name)
    if array.shape != shape:
        raise ValueError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    return array


def checked_probabilities(array, shape, name):
    """A parameter as an array of a given shape with entries in [0, 1]."""
    array = checked_shape(array, shape, name)
    if array.min() < 0 or array.max() > 1:
        least, greatest = f"{array.min():.5f}", f"{array.max():.5f}"
        raise ValueError(  # scikit-learn's text, which takes max for min, up to the colon: scripts look for it
            f"The parameter '{name}' should be in the range [0, 1], but got max value {least}, min value {greatest}: "
            f"values from {least} to {greatest}."
        )
    return array


def checked_weights(weights, n_components):
    """`weights_init` as an array of proportions."""
    weights = checked_probabilities(weights, (n_components,), "weights")
    if abs(weights.sum() - 1.0) > 1.1e-5:  # scikit-learn's tolerance
        raise ValueError(f"The parameter 'weights' should be normalized, but got sum(weights) = {weights.sum():.5f}")
    return weights
