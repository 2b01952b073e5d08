"""Lloyd's algorithm for few rows: a step takes ten operations, since each costs more than the rows do.

It finds the clusters of `kmeans.KMeans`, without bounds, memory or the relocation of clusters that become empty.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skvae.models.clustering.kmeans import Params

FEW_DISTANCES = 2**17  # rows x centres up to which a matrix of zeros and weights adds up the rows fastest


class SmallBatch(NamedTuple):
    """Rows on the CPU, in the memory of one batch.

    Attributes
    ----------
    X : Tensor of shape (n_rows, D)
    w : Tensor of shape (n_rows,)
        Weights.
    squares : Tensor of shape (n_rows,)
        Squared norms of the rows.
    """

    X: Tensor
    w: Tensor
    squares: Tensor


class Stats(NamedTuple):
    """Sums over rows.

    Attributes
    ----------
    inertia : Tensor ()
    N : Tensor of shape (K,)
        Weight of each cluster.
    S : Tensor of shape (K, D)
        Sum of its rows.
    """

    inertia: Tensor
    N: Tensor
    S: Tensor


class SmallKMeans:
    """The steps of Lloyd's algorithm on one batch; the centre of a cluster without rows becomes NaN."""

    def __init__(self):
        self._share = self._label = None  # weights by cluster and row, and which of them are not 0

    def e_step(self, batch, params, memory=None):
        """Sums of the rows of each cluster."""
        C = params.centres
        scores = torch.addmm(C.square().sum(1), batch.X, C.mT, alpha=-2)
        label = scores.numpy().argmin(1)
        rows = np.arange(len(label))
        least = torch.from_numpy(scores.numpy()[rows, label])
        if self._share is None:
            self._share = np.zeros((len(C), len(label)))
        else:
            self._share[self._label, rows] = 0
        self._share[label, rows] = batch.w.numpy()
        self._label, share = label, torch.from_numpy(self._share)
        return Stats(batch.w @ (least + batch.squares), share.sum(1), share @ batch.X), None

    def bound(self, stats, params):
        """Minus the inertia."""
        return -stats.inertia

    def m_step(self, stats, params):
        """Move each centre to the mean of its rows."""
        return Params(stats.S / stats.N[:, None])
