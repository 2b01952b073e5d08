"""Runs K-means: places rows on the device, finds initial centres, iterates, and returns fitted attributes."""

import math

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import check_array

from skvae import _reduce
from skvae._compat import nearest_centres, warn
from skvae._tensors import MOST_CELLS, Noise, Rows, TableBatch, is_mapped, resolve_device, torch_dtype
from skvae.engines import em
from skvae.engines.watching import CONVERGED
from skvae.estimators._checks import draw_seed
from skvae.estimators._progress import FitWatcher, say
from skvae.models.clustering import kmeans
from skvae.models.clustering import kmeans_seeding as seeding
from skvae.models.clustering.kmeans_compiled import CompiledKMeans
from skvae.models.clustering.mapped_rows import MappedRows
from skvae.tables.checks import refuse_overflow
from skvae.tables.column_statistics import centred, far_from_zero
from skvae.tables.weights import checked_weight, weigh

_ROWS_A_BATCH = 2**18  # on the CPU
_FEW_CELLS = 2**18  # that are computed with in float64
_COLUMNS_HASHED = 2  # at a time, to sort rows by content
_LEAST_EXPONENT = -1074  # of a float64
_CELLS_AT_ONCE = 2**20  # rows x columns, or stored values, placed at once when predicting
_FEWEST_SAMPLED, _SAMPLED_A_CLUSTER = 5_000, 300  # rows of the sample from which large fits take initial centres
_WORTH_SAMPLING = 5  # times as many rows as the sample has, from which a sample saves time
_SAMPLE_RESTARTS, _SAMPLE_ITERATIONS = 3, (5, 100)  # on the sample: iterations of each restart, and of the best one


class InertiaWatcher(FitWatcher):
    """Watches the iterations of K-means and prints their inertia, in scikit-learn's words where scripts may read them.

    Parameters
    ----------
    estimator : KMeansLite
    X, y : array-like
    run : TrainingRun
    """

    def __init__(self, estimator, X, y, run):
        super().__init__(estimator, X, y, estimator.max_iter, run.attributes, n_restarts=run.n_restarts)
        self.limit = run.limit

    def begins(self, number):
        if self.verbose and number == 0:
            say(self.estimator, "Initialization complete")
        super().begins(number)

    def ends(self, report):
        self.last = report
        return super().ends(report)

    def concludes(self, reason):
        if self.verbose and reason == CONVERGED:
            shift = kmeans.squared_shift(self.last.before, self.last.params)
            how = "strict convergence" if shift == 0 else f"center shift {shift:g} within tolerance {self.limit:g}"
            reason = f"Converged at iteration {self.last.number + 1}: {how}"
        super().concludes(reason)

    def line(self, report):
        restart = f"start {report.restart + 1}, " if report.restart else ""
        return f"{restart}Iteration {report.number + 1}, inertia {-report.lower_bound:.6g} a sample"


class TrainingRun:
    """One run of K-means: the rows on the device, initial centres, Lloyd's iterations, and fitted attributes.

    Parameters
    ----------
    estimator : KMeansLite
        Its parameters are read.
    X : {ndarray, CSR array or matrix} of shape (n_samples, n_features)
        Checked rows.
    sample_weight : array-like of shape (n_samples,) or None
    of_all : tuple (X, sample_weight) or None, default=None
        The rows to learn from, where these are more: those of all processes that share the fit, if they are few.
    """

    def __init__(self, estimator, X, sample_weight, of_all=None):
        self.estimator, self.X = estimator, X
        self.seed = draw_seed(estimator.random_state)
        self.noise = Noise(self.seed)
        self.device = resolve_device(estimator.device)
        if sample_weight is None:
            self.sample_weight = np.ones(X.shape[0])
        else:
            self.sample_weight = checked_weight(sample_weight, X)
        self.given_centres = None
        if not isinstance(estimator.init, str) and not callable(estimator.init):
            self.given_centres = self._checked(estimator.init)
        self.n_restarts = self._count_restarts()
        rows, weight = (X, sample_weight) if of_all is None else of_all
        weight = None if weight is None else checked_weight(weight, rows)
        # Only ratios of weights matter to the iterations; with the largest between 1 and 2, float32 holds them.
        self.exponent = _exponent(_reduce.largest(1.0 if weight is None else weight.max(initial=0.0)))
        weight = None if weight is None else np.ldexp(weight, -self.exponent)
        rows, weight = weigh(rows, weight, n_hashed=_COLUMNS_HASHED)
        self.weight = np.ones(rows.shape[0]) if weight is None else weight
        self.total = _reduce.count(float(self.weight.sum()))
        self.first, self.n = _reduce.place(rows.shape[0])
        self.cells_a_row = rows.shape[1]
        if sp.issparse(rows):
            self.cells_a_row = max(1, _reduce.count(rows.nnz) // self.n)
        if not sp.issparse(rows):
            refuse_overflow(rows)
        self.dtype = self._working_dtype(rows)
        self.host_rows, self.shift, self.mean_variance = centred(rows, self.weight, self.dtype)
        self.mapped = self.host_rows is None  # here or, of a shared fit, in another process
        if self.mapped:
            self.host_rows = MappedRows(rows, self.device, self.weight, self.dtype, self.shift, self.first)
            self.rows = self.host_rows
        else:
            self.rows = _placed(self.host_rows, self.device, self.weight, self.first)
        self.limit = estimator.tol * self.mean_variance  # of the squared shift of all centres
        alone = not (self.mapped or _reduce.is_shared())  # with all rows in memory: the sums of the kernel are means
        suits = alone and CompiledKMeans.suits(self.rows, estimator.n_clusters)
        self.compiled = estimator.batch_size == "auto" and suits

    def _working_dtype(self, rows):
        """float64 for few dense rows, which cost little, and for sparse rows far from 0; else that of the rows."""
        if sp.issparse(rows):
            return np.dtype(np.float64) if far_from_zero(rows) else rows.dtype
        few = self.device.type == "cpu" and self.n * rows.shape[1] <= _FEW_CELLS
        return np.dtype(np.float64) if few else rows.dtype

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

    def _count_restarts(self):
        n_init, init = self.estimator.n_init, self.estimator.init
        if self.given_centres is not None:
            if n_init not in ("auto", 1):
                warn(
                    "Explicit initial center position passed: performing only one init in "
                    f"{type(self.estimator).__name__} instead of n_init={n_init}.",
                    RuntimeWarning,
                )
            return 1
        if n_init == "auto":
            return 10 if callable(init) or init == "random" else 1
        return n_init

    # ------------------------------------------------------------------------------------------------------ iterations
    def ascend(self, watcher):
        """Iterate from each set of initial centres; return the `FitResult` of lowest inertia."""
        init_params = em.Restarts(self.n_restarts, lambda number: kmeans.Params(self._init_centres(number)))
        plan = self._plan(self.estimator.max_iter, self.total)
        n_clusters = self.estimator.n_clusters
        if self.compiled:
            model, batches = CompiledKMeans(self.rows, n_clusters), [self.rows]
        else:
            model, batches = kmeans.KMeans(n_clusters, remembers=not self.mapped), self._batches()
        return em.ascend(model, batches, init_params, plan=plan, watcher=watcher)

    def one_step(self, centres, weights):
        """Move centres once, each to the mean of its new rows and of those that it has had before.

        Parameters
        ----------
        centres : ndarray of shape (n_clusters, n_features) or None
            None: initial centres.
        weights : ndarray of shape (n_clusters,)
            Weight of the rows that each cluster has had before.

        Returns
        -------
        bound : float
            Minus the mean inertia of the new rows before the step.
        weights, centres : ndarray
            After the step.
        """
        before = self._init_centres(0) if centres is None else self._placed_centres(centres)
        model = kmeans.KMeans(len(before), relocate=False, remembers=not self.mapped)
        stats, _ = em.collect(model, self._batches(), kmeans.Params(before))
        bound = float(model.bound(stats, kmeans.Params(before))) / self.total
        exponent = max(self.exponent, _exponent(weights.max()))
        new = math.ldexp(1.0, self.exponent - exponent)
        N = torch.from_numpy(np.ldexp(weights, -exponent)).to(self.device)
        both = stats._replace(N=new * stats.N + N, S=new * stats.S + N[:, None] * before.double())
        after = self._fitted_centres(model.m_step(both, kmeans.Params(before)))
        if centres is not None:  # centres without new rows stay where they were, to the last digit
            after = np.where((stats.count > 0).cpu().numpy()[:, None], after, centres)
        return bound, np.ldexp(both.N.cpu().numpy(), exponent), after

    def _plan(self, max_iter, weight):
        def converged(report):
            return kmeans.squared_shift(report.before, report.params) <= self.limit

        return em.Plan(max_iter, converged, weight)

    def _batches(self):
        size, n = self.estimator.batch_size, len(self.weight)
        if self.mapped:
            return self.rows.batches(size, self.estimator.n_clusters)
        if size == "auto":  # an accelerator is waited for once a batch
            size = max(_ROWS_A_BATCH, 16 * self.estimator.n_clusters) if self.device.type == "cpu" else n
        return [self.rows.part(slice(start, start + size)) for start in range(0, n, size)]

    # -------------------------------------------------------------------------------------------------- initial centres
    def _init_centres(self, number):
        """Initial centres of one restart, as a tensor measured from the shift."""
        init, noise = self.estimator.init, self.noise.fold("start", number)
        if self.given_centres is not None:
            return self._placed_centres(self.given_centres)
        if callable(init) and _reduce.is_in_company():
            raise ValueError(
                "A callable init sees the rows of one process only, and data_parallel=True shares the fit; give the "
                "centres themselves."
            )
        if callable(init):
            random_state = np.random.RandomState((self.seed + number) % 2**32)
            found = init(self.X, self.estimator.n_clusters, random_state=random_state)
            return self._placed_centres(self._checked(found))
        n_clusters = self.estimator.n_clusters
        if init == "random":
            return seeding.random_seeds(self.rows, n_clusters, noise)
        # What is sampled has a size that memory maps and processes have room for, and so does what k-means++ reads.
        most, enough = max(n_clusters, MOST_CELLS // self.cells_a_row), _SAMPLED_A_CLUSTER * n_clusters
        n_sampled = max(_FEWEST_SAMPLED, enough, self.n // 10)
        if init == "k-means++" and self.n >= _WORTH_SAMPLING * n_sampled and enough <= most:
            return self._centres_of(self._sample(min(n_sampled, most), noise), noise)
        if init == "k-means||" or self.n > most:
            found = seeding.scalable_seeds(self.rows, n_clusters, noise)
            if found is not None:
                return found
        rows = self._sample(most, noise)
        with _reduce.alone():
            return seeding.spread_seeds(rows, n_clusters, noise)

    def _sample(self, n, noise):
        """At most n of the rows of all processes as one batch on the device."""
        if self.n <= n:
            return self._rows_of_all(np.arange(len(self.weight)))
        keys = noise.fold("sample").keys(self.first + np.arange(len(self.weight), dtype=np.int64))
        return self._rows_of_all(np.sort(_reduce.places_of_least(keys, n)))

    def _rows_of_all(self, index):
        """Some rows of this process, and of each of the others those that it names, as one batch on the device."""
        if not _reduce.is_shared():
            everything = not self.mapped and len(index) == len(self.weight)
            return self.rows if everything else self.rows.part(torch.from_numpy(index).to(self.device))
        rows, weight = zip(*_reduce.gathered((self.host_rows[index], self.weight[index])))
        return _placed(
            (sp.vstack if sp.issparse(rows[0]) else np.concatenate)(rows), self.device, np.concatenate(weight)
        )

    def _centres_of(self, sample, noise):
        """Centres by K-means of a sample, where iterations are cheap: the best of a few restarts."""
        n_clusters = self.estimator.n_clusters

        def init(number):
            return kmeans.Params(seeding.spread_seeds(sample, n_clusters, noise.fold("sample start", number)))

        init_params = em.Restarts(_SAMPLE_RESTARTS, init)
        weight, (few, more) = float(sample.w.sum()), _SAMPLE_ITERATIONS
        compiled = self.compiled or CompiledKMeans.suits(sample, n_clusters)
        model = CompiledKMeans(sample, n_clusters) if compiled else kmeans.KMeans(n_clusters)
        with _reduce.alone():
            best = em.ascend(model, [sample], init_params, plan=self._plan(few, weight)).params
            return em.ascend(model, [sample], [best], plan=self._plan(more, weight)).params.centres

    # ---------------------------------------------------------------------------------------- from and to the estimator
    def _placed_centres(self, centres):
        """Centres in the coordinates of X as a tensor measured from the shift."""
        return torch.from_numpy((centres - self.shift).astype(self.dtype)).to(self.device)

    def _fitted_centres(self, params):
        """Centres in the coordinates of X, as an array of its dtype."""
        return (params.centres.double().cpu().numpy() + self.shift).astype(self.X.dtype)

    def attributes(self, params):
        """Fitted attributes that follow from the centres."""
        centres = self._fitted_centres(params)
        labels, distances = nearest(self.X, centres, self.device)
        weights = np.bincount(labels, self.sample_weight, minlength=len(centres))
        inertia = float(distances @ self.sample_weight)
        return {"cluster_centers_": centres, "labels_": labels, "inertia_": inertia, "_weights": weights}


def _exponent(largest):
    """Exponent of the power of 2 at or below the largest weight; scaling by it rounds nothing."""
    return int(np.frexp(largest)[1]) - 1 if largest > 0 else _LEAST_EXPONENT


# ----------------------------------------------------------------------------------------------- rows and their centres
def _placed(X, device, weight=None, first=0):
    """Place all rows on the device as one batch; the numbers of dense ones begin with `first`."""
    n = X.shape[0]
    if sp.issparse(X):
        return Rows(X, device, torch_dtype(X.dtype), np.ones(n) if weight is None else weight).batch(np.arange(n))
    w = np.ones(n, X.dtype) if weight is None else weight.astype(X.dtype)  # NumPy starts sooner than torch
    return TableBatch(*(torch.from_numpy(array).to(device) for array in (X, w, first + np.arange(n))))


def placed_in_turn(X, centres, device):
    """Place some rows after the others, with the centres; dense rows are measured from the mean of the centres.

    Distances are the more precise the nearer the rows are to the origin.
    """
    size = max(256, _CELLS_AT_ONCE * X.shape[0] // max(1, X.nnz) if sp.issparse(X) else _CELLS_AT_ONCE // X.shape[1])
    size = max(1, size // 4) if is_mapped(X) else size
    middle = np.zeros(1) if sp.issparse(X) else centres.mean(axis=0, dtype=np.float64).astype(X.dtype)
    placed = torch.from_numpy(centres - middle).to(device)  # of sparse rows in float64: they may lie far from 0
    for start in range(0, X.shape[0], size):
        rows = X[start : start + size]
        yield _placed(rows.astype(np.float64, copy=False) if sp.issparse(X) else rows - middle, device), placed


def nearest(X, centres, device):
    """Find the nearest centre of each row: its number, int32, and the squared distance, float64.

    Call it in the context of `one_blas_thread`.
    """
    labels, distances = np.empty(X.shape[0], np.int32), np.empty(X.shape[0])
    if device.type == "cpu" and not sp.issparse(X) and X.size <= _FEW_CELLS:
        found = _nearest_by_kernel(X, centres)
        if found is not None:
            return found
    start = 0
    for batch, placed in placed_in_turn(X, centres, device):
        label = kmeans.nearest_centre(batch, placed)
        stop = start + len(label)
        distances[start:stop] = kmeans.squared_distances(batch, placed, label).cpu().numpy()
        labels[start:stop] = label.cpu().numpy()
        start = stop
    return labels, distances


def _nearest_by_kernel(X, centres):
    """What `nearest` finds, for few dense rows, in NumPy, which starts sooner; None without a compiled kernel."""
    middle = centres.mean(axis=0, dtype=np.float64).astype(X.dtype)
    rows, centres = X - middle, centres - middle
    labels = nearest_centres(rows, centres, torch.get_num_threads())
    if labels is None:
        return None
    rows -= centres.take(labels, 0)
    return labels, np.einsum("ij,ij->i", rows, rows).astype(np.float64)
