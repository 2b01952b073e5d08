"""One fit of K-means: rows placed and centred, initial centres, the rule for stopping, fitted attributes."""

import math
import warnings

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import check_array

from skvae._compat import check_sample_weight
from skvae._tensors import Noise, Rows, TableBatch, resolve_device, torch_dtype
from skvae.engines import em
from skvae.estimators._checks import draw_seed
from skvae.estimators._progress import FitWatcher
from skvae.models.clustering import kmeans
from skvae.models.clustering import kmeans_seeding as seeding
from skvae.tables.checks import refuse_overflow
from skvae.tables.weights import weigh

_ROWS_A_BATCH = 2**18
_LEAST_EXPONENT = -1074  # of a float64
_CELLS_AT_ONCE = 2**20  # rows x columns, or stored values, placed at once when predicting
_FEWEST_SAMPLED, _SAMPLED_A_CLUSTER = 10_000, 300  # rows on which to seek a start for a large fit
_SAMPLE_STARTS, _SAMPLE_ITERATIONS = 3, (5, 100)  # from each start on the sample, and from the best of them
_SEEDS = {"k-means++": seeding.spread_seeds, "k-means||": seeding.scalable_seeds, "random": seeding.random_seeds}


class LloydWatcher(FitWatcher):
    def line(self, report):
        start = f"start {report.start + 1}, " if report.start else ""
        return f"{start}iteration {report.number + 1}/{self.max_iter}  inertia {-report.lower_bound:.6g} a sample"


class LloydFit:
    """One fit: X placed and centred, the starts, the rule for stopping, and the way back to attributes."""

    def __init__(self, estimator, X, sample_weight):
        self.estimator, self.X = estimator, X
        self.seed = draw_seed(estimator.random_state)
        self.noise = Noise(self.seed)
        self.device = resolve_device(estimator.device)
        self.sample_weight = check_sample_weight(sample_weight, X, dtype=np.float64)
        self.centres = self._given_centres()
        self.n_starts = self._count_starts()
        # Only ratios of weights matter to the ascent; with the largest between 1 and 2, float32 holds them.
        self.exponent = _exponent(self.sample_weight)
        rows, weight = weigh(X, None if sample_weight is None else np.ldexp(self.sample_weight, -self.exponent))
        self.weight = np.ones(rows.shape[0]) if weight is None else weight
        if not sp.issparse(rows):
            refuse_overflow(rows)
        self.shift, self.variance = _moments(rows, weight)
        self.whole = _placed(_centred(rows, self.shift), self.device, self.weight)
        self.model = kmeans.KMeans(estimator.n_clusters)

    def _given_centres(self):
        init = self.estimator.init
        return None if isinstance(init, str) or callable(init) else self._checked(init)

    def _checked(self, centres):
        centres = check_array(centres, dtype=self.X.dtype, order="C")
        n_clusters, n_features = self.estimator.n_clusters, self.X.shape[1]
        if centres.shape[0] != n_clusters:
            raise ValueError(
                f"The shape of the initial centers {centres.shape} does not match the number of clusters {n_clusters}."
            )
        if centres.shape[1] != n_features:
            raise ValueError(
                f"The shape of the initial centers {centres.shape} does not match the number of features of the data "
                f"{n_features}."
            )
        return centres

    def _count_starts(self):
        n_init, init = self.estimator.n_init, self.estimator.init
        if self.centres is not None:
            if n_init not in ("auto", 1):
                warnings.warn(
                    "Explicit initial center position passed: performing only one init in "
                    f"{type(self.estimator).__name__} instead of n_init={n_init}.",
                    RuntimeWarning,
                    stacklevel=5,
                )
            return 1
        if n_init == "auto":
            return 10 if callable(init) or init == "random" else 1
        return n_init

    # ---------------------------------------------------------------------------------------------------- the ascent
    def ascend(self, watcher):
        starts = (kmeans.Params(self._start(number)) for number in range(self.n_starts))
        plan = self._plan(self.estimator.max_iter, float(self.weight.sum()))
        return em.ascend(self.model, self._batches(), starts, plan=plan, watcher=watcher)

    def one_step(self, before, seen):
        """The bound at the centres before, the weight that each has had since, and where the rows have pulled them."""
        start = self._start(0) if before is None else self._inward(before)
        model = kmeans.KMeans(len(start), relocate=False)
        stats, _ = em.collect(model, self._batches(), kmeans.Params(start))
        bound = float(model.bound(stats, kmeans.Params(start))) / float(self.weight.sum())
        exponent = max(self.exponent, _exponent(seen))
        new = math.ldexp(1.0, self.exponent - exponent)
        N = torch.from_numpy(np.ldexp(seen, -exponent)).to(self.device)
        pulled = stats._replace(N=new * stats.N + N, S=new * stats.S + N[:, None] * start.double())
        centres = self._outward(model.m_step(pulled, kmeans.Params(start)))
        if before is not None:  # what nothing pulls stays where it was, to the last digit
            centres = np.where((stats.count > 0).cpu().numpy()[:, None], centres, before)
        return bound, np.ldexp(pulled.N.cpu().numpy(), exponent), centres

    def _plan(self, max_iter, weight):
        limit = self.estimator.tol * self.variance

        def converged(report):
            return float((report.params.centres.double() - report.before.centres.double()).square().sum()) <= limit

        return em.Plan(max_iter, converged, weight)

    def _batches(self):
        size, n = self.estimator.batch_size, len(self.weight)
        if size == "auto":  # on a device the host waits once a batch, and there is no cache to suit
            size = max(_ROWS_A_BATCH, 16 * self.estimator.n_clusters) if self.device.type == "cpu" else n
        return [self.whole.part(slice(start, start + size)) for start in range(0, n, size)]

    # --------------------------------------------------------------------------------------------------------- starts
    def _start(self, number):
        init, noise = self.estimator.init, self.noise.fold("start", number)
        if self.centres is not None:
            return self._inward(self.centres)
        if callable(init):
            random_state = np.random.RandomState((self.seed + number) % 2**32)
            return self._inward(self._checked(init(self.X, self.estimator.n_clusters, random_state=random_state)))
        n = len(self.weight)
        n_sampled = max(_FEWEST_SAMPLED, _SAMPLED_A_CLUSTER * self.estimator.n_clusters, n // 10)
        if init != "k-means++" or n < 2 * n_sampled:
            return _SEEDS[init](self.whole, self.estimator.n_clusters, noise)
        return self._start_from_sample(n_sampled, noise)

    def _start_from_sample(self, n_sampled, noise):
        """The centres of a sample of the rows: the first iterations, made cheap."""
        keys = noise.fold("sample").keys(np.arange(len(self.weight), dtype=np.int64))
        index = np.sort(np.argpartition(keys, n_sampled)[:n_sampled])
        sample = self.whole.part(torch.from_numpy(index).to(self.device))
        seeds = (
            kmeans.Params(seeding.spread_seeds(sample, self.estimator.n_clusters, noise.fold("sample start", number)))
            for number in range(_SAMPLE_STARTS)
        )
        weight, (few, more) = float(sample.w.sum()), _SAMPLE_ITERATIONS
        best = em.ascend(self.model, [sample], seeds, plan=self._plan(few, weight)).params
        return em.ascend(self.model, [sample], [best], plan=self._plan(more, weight)).params.centres

    # --------------------------------------------------------------------------------------------------- coordinates
    def _inward(self, centres):
        return torch.from_numpy((centres - self.shift).astype(self.X.dtype)).to(self.device)

    def _outward(self, params):
        return (params.centres.double().cpu().numpy() + self.shift).astype(self.X.dtype)

    def attributes(self, params):
        centres = self._outward(params)
        labels, distances = nearest(self.X, centres, self.device)
        weights = np.bincount(labels, self.sample_weight, minlength=len(centres))
        inertia = total(distances, self.sample_weight)
        return {"cluster_centers_": centres, "labels_": labels, "inertia_": inertia, "_weights": weights}


def _exponent(weight):
    """Of the power of 2 at or below the largest of some weights; by it they are scaled without rounding."""
    largest = weight.max()
    return int(np.frexp(largest)[1]) - 1 if largest > 0 else _LEAST_EXPONENT


def total(distances, weight):
    return float(distances @ weight)


def _placed(X, device, weight=None):
    """All rows as one batch, of which parts are views."""
    dtype = torch_dtype(X.dtype)
    weight = np.ones(X.shape[0]) if weight is None else weight
    if sp.issparse(X):
        return Rows(X, device, dtype, weight).batch(np.arange(X.shape[0]))
    w = torch.tensor(weight, dtype=dtype, device=device)
    return TableBatch(torch.from_numpy(X).to(device), w, torch.arange(X.shape[0], device=device))


def placed_in_turn(X, centres, device):
    """Some rows after the others as batches, with the centres beside them; dense ones about the middle of the centres.

    Distances are the more precise the nearer the rows are to the origin.
    """
    size = max(256, _CELLS_AT_ONCE * X.shape[0] // max(1, X.nnz) if sp.issparse(X) else _CELLS_AT_ONCE // X.shape[1])
    middle = np.zeros(1, X.dtype) if sp.issparse(X) else centres.mean(axis=0, dtype=np.float64).astype(X.dtype)
    placed = torch.from_numpy(centres - middle).to(device)
    for start in range(0, X.shape[0], size):
        rows = X[start : start + size]
        yield _placed(rows if sp.issparse(X) else rows - middle, device), placed


def nearest(X, centres, device):
    """Label of each row, int32, and its squared distance to that centre, float64."""
    labels, distances = np.empty(X.shape[0], np.int32), np.empty(X.shape[0])
    start = 0
    for batch, placed in placed_in_turn(X, centres, device):
        label = kmeans.nearest_centre(batch, placed)
        stop = start + len(label)
        distances[start:stop] = kmeans.squared_distances(batch, placed, label).cpu().numpy()
        labels[start:stop] = label.cpu().numpy()
        start = stop
    return labels, distances


def _moments(X, weight):
    """What to subtract from each row before computing (nothing of sparse rows), and the mean variance of a column.

    Neither needs more digits than X has: rows are read in their own dtype and order, unlike `column_statistics`.
    """
    weight = np.ones(X.shape[0]) if weight is None else weight
    if sp.issparse(X):
        mean, squares = X.T @ weight / weight.sum(), X.multiply(X).T @ weight / weight.sum()
        return np.zeros(1), float((squares - mean**2).mean())
    size = max(256, _CELLS_AT_ONCE // X.shape[1])
    parts = [(X[start : start + size], weight[start : start + size]) for start in range(0, len(X), size)]
    mean = sum(w.astype(X.dtype) @ x for x, w in parts) / weight.sum()
    squares = sum(w @ np.einsum("ij,ij->i", x - mean.astype(X.dtype), x - mean.astype(X.dtype)) for x, w in parts)
    return mean.astype(X.dtype).astype(np.float64), float(squares / weight.sum() / X.shape[1])


def _centred(X, shift):
    return X if sp.issparse(X) else X - shift.astype(X.dtype)
