"""A fit of a network to a matrix of clicks, users x items."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skvae._hash import combine
from skvae._tensors import Noise, Rows
from skvae.elbo import FitResult
from skvae.training.ascent import Ascent, Training


def informative_users(X, weight, likelihood):
    """Leave out users without entries where they say nothing of the parameters, with their weights (or None)."""
    stored = np.diff(X.indptr) > 0
    if likelihood.empty_rows_inform or stored.all():
        return X, weight
    kept = np.flatnonzero(stored)
    return X[kept], None if weight is None else weight[kept]


def initial_params(model, X, weight, noise, device, dtype):
    """Random weights, with the decoder's biases at the marginal maximum of the likelihood; of this dtype."""
    if weight is None:
        total, count = X.sum(axis=0, dtype=np.float64), np.bincount(X.indices, minlength=X.shape[1])
    else:
        total = weight @ X
        count = np.bincount(X.indices, np.repeat(weight, np.diff(X.indptr)), minlength=X.shape[1])
    mean, share = (torch.from_numpy(sums).to(dtype) / X.shape[0] for sums in (total, count))
    return {name: tensor.to(device, dtype) for name, tensor in model.init(noise.fold("init"), mean, share).items()}


def with_new_items(params, optimizer_state, initial):
    """Widen the parameters of a fit, and the state of its optimizer, by items that came last.

    Parameters
    ----------
    params, optimizer_state : dict of Tensor
        Of the known items; the state may be None.
    initial : dict of Tensor
        Parameters that a new fit would begin with. Those that belong to new items are kept.

    Returns
    -------
    params, optimizer_state : dict of Tensor
        The known part of every tensor is unchanged. The running averages of new items begin at zero, as in a new fit.
    """
    wide = {name: _in_corner(tensor, initial[name]) for name, tensor in params.items()}
    if optimizer_state is None:
        return wide, None
    shapes = {key: initial.get(key.rpartition(".")[0], average).shape for key, average in optimizer_state.items()}
    state = {key: _in_corner(average, average.new_zeros(shapes[key])) for key, average in optimizer_state.items()}
    return wide, state


def _in_corner(small, large):
    """A tensor in the place of the first entries of a larger one, along each axis."""
    large[tuple(slice(size) for size in small.shape)] = small
    return large


class UserStatistics(NamedTuple):
    """What the defaults of a fit read of the users.

    Attributes
    ----------
    items_per_user : float
        Mean number of items of the users with any.
    similarity : float
        As of `similarity_beyond_chance`.
    """

    items_per_user: float
    similarity: float

    @classmethod
    def of(cls, X, weight):
        """Statistics of the rows of X, CSR, by their weights if these are not None."""
        lengths = np.diff(X.indptr)
        some = lengths > 0
        if not some.any():
            return cls(0.0, 0.0)
        mean = float(np.average(lengths[some], weights=None if weight is None else weight[some]))
        return cls(mean, similarity_beyond_chance(X[np.flatnonzero(some)]))


def similarity_beyond_chance(X, n_users=1000):
    """How much more alike users are than if each had drawn items by their popularity.

    With s the mean cosine similarity of a user's items to those of the most similar user, and s_0 the same after the
    items of all users have been shuffled, it is (s - s_0) / (1 - s_0), as in Cohen's kappa. Users with equal items
    count once, and values do not count. So neither copies of users nor their order matter.

    Parameters
    ----------
    X : CSR array of shape (n_users, n_items)
        Without empty rows.
    n_users : int, default=1000
        Number of users to compare, chosen by a hash of their items.

    Returns
    -------
    similarity : float
        At most 1; about 0 for independent draws, and 0 for a single user.
    """
    keys = np.add.reduceat(combine(0, X.indices.astype(np.int64)), X.indptr[:-1])
    X = X[np.unique(keys, return_index=True)[1][:n_users]]
    items = X.indices[Noise(0).fold("similarity").permutation(X.nnz)]
    shuffled = sp.csr_array((np.ones(X.nnz), items, X.indptr.copy()), shape=X.shape)
    shuffled.sum_duplicates()  # changes indptr
    of_users, of_chance = mean_similarity_to_nearest(X), mean_similarity_to_nearest(shuffled)
    return (of_users - of_chance) / (1 - of_chance) if of_chance < 1 else 0.0


def mean_similarity_to_nearest(X):
    """Mean over the rows of CSR of the cosine similarity of their items to those of the most similar other row."""
    length = np.diff(X.indptr)
    unit = sp.csr_array((np.repeat(length**-0.5, length), X.indices, X.indptr), shape=X.shape)
    cosines = (unit @ unit.T).toarray()
    np.fill_diagonal(cosines, 0)
    return float(cosines.max(axis=1).mean())


class ClickTraining(Training):
    """One network, trained on the users of a click matrix.

    Parameters
    ----------
    model : object with bound(params, batch, noise) and a likelihood
    X : CSR array of shape (n_users, n_items)
        Informative users only.
    weight : float64 ndarray of shape (n_users,) or None
        Of the users, with mean 1; None: 1 each.
    noise : Noise
    plan : gradient.Plan
    params : dict of Tensor
        Where to begin.
    validation : Validation or None, default=None
    optimizer_state : dict of Tensor or None, default=None
        Of an earlier fit.
    """

    def __init__(self, model, X, weight, noise, plan, params, *, validation=None, optimizer_state=None):
        some = next(iter(params.values()))
        rows = Rows(X, some.device, some.dtype, weight=weight)
        batches = rows.batches(plan.batch_size)
        log_base = torch.stack([(batch.w * model.likelihood.log_base(batch)).sum() for batch in batches])
        log_base = sum(log_base.cpu().tolist()) / len(rows)
        self.ascent = Ascent(model, params, rows, plan, noise, log_base, validation, optimizer_state)

    def conclude(self, result):
        return result

    def snapshot(self, params):
        return FitResult(params, lower_bounds=[np.nan], validation_scores=[], n_iter=1)
