"""A fit of a network to a matrix of clicks, users x items."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch

from skvae import _reduce
from skvae._hash import combine
from skvae._tensors import Noise, Rows, Split, SplitRows, WholeRows, is_mapped, row_slices, some_rows
from skvae.elbo import FitResult
from skvae.engines.watching import Watcher
from skvae.training.ascent import Ascent, Training


def informative_users(X, weight, likelihood):
    """Leave out users without entries where they say nothing of the parameters, with their weights (or None)."""
    stored = np.diff(X.indptr) > 0
    if likelihood.empty_rows_inform or stored.all():
        return X, weight
    kept = np.flatnonzero(stored)
    return some_rows(X, kept), None if weight is None else weight[kept]


def initial_params(model, X, weight, noise, device, dtype):
    """Random weights, with the decoder's biases at the marginal maximum of the likelihood; of this dtype."""
    mean, share = _means_of_items(X, weight, dtype)
    return {name: tensor.to(device, dtype) for name, tensor in model.init(noise.fold("init"), mean, share).items()}


def add_to_means(model, params, X, weight, share_of_all):
    """Move the parameters that are means over users, if a model has such, towards those of new users, in place.

    These are the names in its attribute `means_over_users`. `share_of_all` is the part of all users that is new.
    """
    names = getattr(model, "means_over_users", ())
    if names:
        mean, _ = _means_of_items(X, weight, torch.float64)
    for name in names:
        params[name].lerp_(mean.to(params[name]), share_of_all)


def _means_of_items(X, weight, dtype):
    """The weighted mean of each column, and the weighted share of the users who have the item; of all processes."""
    mapped, total, count = is_mapped(X), 0, 0
    for part in row_slices(X) if mapped else [slice(None)]:
        of_items, n_of_items = _sums_of_items(X[part] if mapped else X, None if weight is None else weight[part])
        total, count = total + of_items, count + n_of_items
    total, count, n = _reduce.total((total, count, X.shape[0]))
    return tuple(torch.from_numpy(sums).to(dtype) / n for sums in (total, count))


def _sums_of_items(X, weight):
    """The weighted sum of the values of each item, and of the users who have it."""
    if weight is None:
        return X.sum(axis=0, dtype=np.float64), np.bincount(X.indices, minlength=X.shape[1])
    count = np.bincount(X.indices, np.repeat(weight, np.diff(X.indptr)), minlength=X.shape[1])
    return weight @ X, count


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
        if not _reduce.largest(bool(some.any())):
            return cls(0.0, 0.0)
        lengths, weight = lengths[some], None if weight is None else weight[some]
        X = X if some.all() else some_rows(X, np.flatnonzero(some))
        return cls(_mean(lengths, weight), similarity_beyond_chance(X))


def similarity_beyond_chance(X, n_users=1000):
    """How much more alike users are than if each had drawn items by their popularity; in a shared fit, those of all.

    With s the mean cosine similarity of a user's items to those of the most similar user, and s_0 the same after the
    items of all users have been shuffled, it is (s - s_0) / (1 - s_0), as in Cohen's kappa. Users with equal items
    count once, and values do not count. So neither copies of users nor their order matter.

    Parameters
    ----------
    X : {CSR array, SomeRows} of shape (n_users, n_items)
        Without empty rows.
    n_users : int, default=1000
        Number of users to compare, chosen by a hash of their items.

    Returns
    -------
    similarity : float
        At most 1; about 0 for independent draws, and 0 for a single user.
    """
    parts = (X[part] for part in row_slices(X)) if is_mapped(X) else [X]
    keys = np.concatenate([_keys_of_items(part) for part in parts])
    keys, X = _first_of_each(keys, X, n_users)
    if _reduce.is_shared():
        parts, rows = zip(*_reduce.gathered((keys, X)))
        _, X = _first_of_each(np.concatenate(parts), sp.csr_array(sp.vstack(rows, format="csr")), n_users)
    items = X.indices[Noise(0).fold("similarity").permutation(X.nnz)]
    shuffled = sp.csr_array((np.ones(X.nnz), items, X.indptr.copy()), shape=X.shape)
    shuffled.sum_duplicates()  # changes indptr
    of_users, of_chance = mean_similarity_to_nearest(X), mean_similarity_to_nearest(shuffled)
    return (of_users - of_chance) / (1 - of_chance) if of_chance < 1 else 0.0


def _keys_of_items(X):
    """A hash of the items of each row."""
    return np.add.reduceat(combine(0, X.indices.astype(np.int64)), X.indptr[:-1]) if X.nnz else X.indptr[:0]


def _first_of_each(keys, X, n):
    """The n least different keys, and the first row of each."""
    keys, index = np.unique(keys, return_index=True)
    return keys[:n], X[index[:n]]


def _mean(values, weight):
    """Weighted mean over the rows of all processes."""
    if not _reduce.is_shared():
        return float(np.average(values, weights=weight))
    weight = np.ones(len(values)) if weight is None else weight
    total, n = _reduce.total((float(values @ weight), float(weight.sum())))
    return total / n


def mean_similarity_to_nearest(X):
    """Mean over the rows of CSR of the cosine similarity of their items to those of the most similar other row."""
    length = np.diff(X.indptr)
    unit = sp.csr_array((np.repeat(length**-0.5, length), X.indices, X.indptr), shape=X.shape)
    cosines = (unit @ unit.T).toarray()
    np.fill_diagonal(cosines, 0)
    return float(cosines.max(axis=1).mean())


class ClickTraining(Training):
    """One network, trained on the users of a click matrix.

    In a fit that processes share, each has rows of its own here. For the ascent, each gets the columns of its own items
    of the users of all (`skvae._tensors.Split`), and the parameters that belong to these items.

    Parameters
    ----------
    model : object with bound(params, batch, noise), a likelihood and, if processes are to split its items, item_axes
    X : {CSR array, SomeRows} of shape (n_users, n_items)
        Informative users only.
    weight : float64 ndarray of shape (n_users,) or None
        Of the users, with mean 1 over those of all processes; None: 1 each.
    noise : Noise
    plan : gradient.Plan
    params : dict of Tensor
        Where to begin.
    validation : callable or None, default=None
        `Split` or None -> Validation.
    optimizer_state : dict of Tensor or None, default=None
        Of an earlier fit.
    keeps_state : bool, default=True
        Whether a later fit may ask for the optimizer's state.
    """

    def __init__(
        self, model, X, weight, noise, plan, params, *, validation=None, optimizer_state=None, keeps_state=True
    ):
        some = next(iter(params.values()))
        self.split, self.axes, self.keeps_state = None, getattr(model, "item_axes", {}), keeps_state
        if _reduce.is_shared():
            if not self.axes:
                raise ValueError(
                    f"The items of {type(model).__name__} cannot be split over processes: it has no item_axes. Use "
                    "data_parallel=False."
                )
            self.split = Split(_reduce.company(), X.shape[1])
            rows = rows_of_all(X, weight, self.split, some.device, some.dtype)
            params = self.split.cut(params, self.axes.get)
            optimizer_state = (
                None if optimizer_state is None else self.split.cut(optimizer_state, self._axis_of_average)
            )
        else:
            rows = Rows(X, some.device, some.dtype, weight)
        batches = rows.batches(plan.batch_size)
        log_base = torch.zeros((), dtype=torch.float64, device=some.device)
        for batch in batches:
            log_base += (batch.w * model.likelihood.log_base(batch)).sum()
        log_base = log_base.item() / len(rows)
        validation = None if validation is None else validation(self.split)
        ascent = Ascent(model, params, rows, plan, noise, log_base, validation, optimizer_state)
        self.ascent = ascent if _reduce.company() is None else TogetherAscent(**vars(ascent), whole=self._whole)

    def _axis_of_average(self, key):
        return self.axes.get(key.rpartition(".")[0])

    def _whole(self, params):
        """The parameters of all items."""
        return params if self.split is None else self.split.whole(params, self.axes.get)

    def conclude(self, result):
        if self.split is None:
            return result
        state = self.split.whole(result.optimizer_state, self._axis_of_average) if self.keeps_state else {}
        return replace(result, params=self._whole(result.params), optimizer_state=state)

    def snapshot(self, params):
        return FitResult(params, lower_bounds=[np.nan], validation_scores=[], n_iter=1)


@dataclass
class TogetherAscent(Ascent):
    """An ascent that all processes of a shared fit make alike, each with what it has of the parameters.

    Attributes
    ----------
    whole : callable
        Own parameters -> those of all.
    """

    whole: Callable = None

    def run(self, watcher=None):
        if _reduce.of_first(getattr(watcher, "heard", False)):
            watcher = _ToldAll(watcher, self.whole)
        with _reduce.alone():
            return super().run(watcher)


class _ToldAll(Watcher):
    """Tells callbacks, of which only the first process has any, of the parameters of all processes."""

    def __init__(self, watcher, whole):
        self.watcher, self.whole = watcher, whole
        self.begins, self.concludes = watcher.begins, watcher.concludes

    def ends(self, report):
        return self.watcher.ends(report._replace(params=self.whole(report.params)))


def rows_of_all(X, weight, split, device, dtype):
    """`SplitRows` of the users of all processes, who are in the order of these."""
    whole = WholeRows(*map(np.concatenate, zip(*_reduce.gathered(WholeRows.of(X, dtype)))))
    weight = None if weight is None else np.concatenate(_reduce.gathered(weight))
    return SplitRows(split.columns_of_all(X), split, whole, device, dtype, weight)
