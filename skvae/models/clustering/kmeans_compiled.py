"""Lloyd's steps by scikit-learn's compiled kernel, where comparing all rows with all centres takes no time to save.

The kernel moves the centres in the same pass over the rows that compares them, so that nothing is remembered from one
iteration to the next. It runs on one thread or two: the sums of more would be added in an order left to chance.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skvae._compat import lloyd_kernels, lloyd_threads
from skvae.models.clustering import kmeans

_MOST_THREADS = 2


class Stats(NamedTuple):
    """What a step finds of all rows, in one batch."""

    inertia: float
    means: np.ndarray  # (K, D)  of the rows of each cluster, after empty clusters were given far rows


class CompiledKMeans:
    """Steps of Lloyd's algorithm for `engines.em.ascend`, on one batch of all rows.

    Parameters
    ----------
    batch : TableBatch or Batch
        Rows on the CPU, to work for.
    n_clusters : int
    """

    def __init__(self, batch, n_clusters):
        self.n_clusters, self.heaviest = n_clusters, float(batch.w.max())
        n_rows = len(batch.row)
        self.kernel = lloyd_kernels()[sp.issparse(batch.array)]
        self.w = batch.w.numpy().astype(batch.array.dtype, copy=False)
        X, w = batch.array, batch.w.numpy().astype(np.float64, copy=False)  # torch's threads would be in the way
        norms = X.multiply(X).sum(axis=1) if sp.issparse(X) else np.einsum("ij,ij->i", X, X)
        self.squares = float(w @ norms)
        self.label, self.shift = np.empty(n_rows, np.int32), np.empty(n_clusters, self.w.dtype)
        self.n_threads = lloyd_threads(n_rows * batch.cells_a_row * n_clusters, torch.get_num_threads())

    @staticmethod
    def suits(batch, n_clusters):
        """Whether there is a kernel, and rows are few or compared at so little cost that bounds would not pay."""
        if not batch.w.is_cpu or len(batch.row) < n_clusters or not lloyd_kernels():
            return False
        cost = len(batch.row) * batch.cells_a_row * n_clusters
        few_threads = lloyd_threads(cost, torch.get_num_threads()) <= _MOST_THREADS
        return few_threads and not kmeans.bounds_may_pay(batch, n_clusters)

    def e_step(self, batch, params, memory=None):
        """Assign each row to its nearest centre; return the inertia and the means of the clusters."""
        C = params.centres.numpy()
        means, N = np.empty_like(C), np.empty(len(C), C.dtype)
        self.kernel(batch.array, self.w, C, means, N, self.label, self.shift, self.n_threads)
        # A cluster that was empty has one row now, or none.
        if N.min() <= self.heaviest and np.bincount(self.label, minlength=len(C)).min() == 0:
            return self._with_empty_clusters(batch, params), None
        inertia = self.squares + N @ np.einsum("ij,ij->i", C, C - 2 * means, dtype=np.float64)
        return Stats(max(0.0, float(inertia)), means), None

    def _with_empty_clusters(self, batch, params):
        model = kmeans.KMeans(self.n_clusters)
        stats, _ = model.e_step(batch, params)
        return Stats(-float(model.bound(stats, params)), model.m_step(stats, params).centres.numpy())

    def bound(self, stats, params):
        """Minus the inertia under the centres of the E-step."""
        return -stats.inertia

    def m_step(self, stats, params):
        """Move each centre to the mean of its rows."""
        return kmeans.Params(torch.from_numpy(stats.means))
