"""Recommendation by a linear model of items, in closed form."""

import os
from numbers import Real

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import clone

from skvae import _reduce
from skvae._compat import Interval, StrOptions, fit_context, warn
from skvae._tensors import Noise, Rows, inference_device, placed, resolve_device, torch_dtype
from skvae.estimators._base import Estimator
from skvae.estimators._checks import agree_in_state
from skvae.estimators.recommenders._input_checks import refuse_no_interaction
from skvae.estimators.recommenders._recommender import LIST_LENGTH, RecommenderMixin, rank, widened
from skvae.estimators.recommenders._users_of_all import first_by_key, gathered_rows
from skvae.metrics import content_holdout, ndcg_at_k
from skvae.models.recommenders.ease import item_weights
from skvae.tables.weights import drop_weightless

_L2 = (10.0, 50.0, 200.0, 500.0, 1000.0)  # that "auto" chooses from
_MOST_ASIDE = 2000  # users for the choice
_NOTICEABLE = 0.01  # share of the item weights by which rounding may change them
_CELLS_SENT = 2**22  # of a Gram matrix at once


class EASERecommender(RecommenderMixin, Estimator):
    """Recommend items by a linear model that predicts each item from the others.

    The score of item j is the sum over a user's items i of ``x_i * item_weights_[i, j]``. The weights are those with
    the least squared error on the training users, plus `l2` times their squares, where no item predicts itself. They
    are found at once, without epochs. EASE is a strong baseline for up to some ten thousand items. Read more in the
    :doc:`user guide </user_guide/recommender>`.

    Parameters
    ----------
    l2 : float or "auto", default="auto"
        Penalty of squared weights, in users: the weight of as many users with that one item each. "auto": the one of
        10, 50, 200, 500 and 1,000 with the best ``NDCG@100`` on a fifth of the users (2,000 at most), who are set aside
        for the choice only. Rows of a few items ask for little, rows of a hundred for 500.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with users of its own. See
        :doc:`/scaling`.

    Attributes
    ----------
    item_weights_ : ndarray of shape (n_items, n_items)
        Effect of item i (row) on the score of item j (column); zero on the diagonal. Of the dtype of X.
    l2_ : float
        The penalty that was used.
    n_samples_seen_ : float
        Weight of the users that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of items.
    feature_names_in_ : ndarray of shape (n_items,)
        Names of the items, where `fit` was given a DataFrame.

    See Also
    --------
    ELSARecommender : The same by matrices of low rank, for wide catalogues.
    MultVAERecommender : A non-linear model with an embedding of users.
    VotingRecommender : Adds the scores of several recommenders.

    Notes
    -----
    Time grows with the cube of the number of items, memory with its square: 20,000 items take about 3.2 GB in float32
    and twice as much in float64.

    References
    ----------
    Steck, *Embarrassingly Shallow Autoencoders for Sparse Data*, WWW 2019.

    Examples
    --------
    >>> from skvae import EASERecommender
    >>> from skvae.datasets import make_interactions
    >>> X = make_interactions(300, 100, random_state=0)
    >>> ease = EASERecommender(l2=50).fit(X)
    >>> ids, scores = ease.recommend(X[:2], k=3)
    >>> ids.shape
    (2, 3)
    """

    _parameter_constraints = {
        "l2": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "device": [str],
        "data_parallel": ["boolean"],
    }

    def __init__(self, l2="auto", *, device="auto", data_parallel=False):
        self.l2 = l2
        self.device = device
        self.data_parallel = data_parallel

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the item weights to the users of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions: counts, ratings or ones; non-negative, zero where there was none.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts.

        Returns
        -------
        self : object
            The estimator, fitted.

        Raises
        ------
        ValueError
            If X holds negative values, NaN or infinity, or no interaction at all; or if l2 is so small beside them that
            rounding leaves nothing of it.
        MemoryError
            If matrices of items x items do not fit into memory.

        Warns
        -----
        UserWarning
            If rounding may change the item weights by more than a hundredth.
        """
        with self._unchanged_on_error():
            return self._fit(X, sample_weight, fitted=False)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None, new_items=None):
        """Add users, and items if there are new ones.

        With a given l2, the result is that of one `fit` to all users so far, who are taken to have none of the items
        that came after them. With "auto", the first call chooses l2 by its own users.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of new users. Columns are the items of the earlier calls, and then `new_items`.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_users,) or None, default=None
            How often each user counts.
        new_items : array-like of int or str, default=None
            Items that no earlier call has seen, the last columns of X: their numbers, from `n_features_in_` on, or
            after a fit on a DataFrame their names. None: X has the items of the earlier calls.

        Returns
        -------
        self : object
            The estimator, fitted.
        """
        with self._unchanged_on_error():
            agree_in_state(self, "_item_gram", "_popularity", "l2_", "n_samples_seen_")
            if new_items is not None:
                self._take_in(new_items)
            return self._fit(X, sample_weight, fitted=hasattr(self, "item_weights_"))

    def _fit(self, X, sample_weight, *, fitted):
        X = self._check_to_fit(X, sample_weight, reset=not fitted)
        X, weight = drop_weightless(X, sample_weight)
        refuse_no_interaction(self, X)
        device = resolve_device(self.device)
        _refuse_too_many_items(X)
        n_seen = float(X.shape[0] if weight is None else weight.sum())
        popularity = (np.ones(X.shape[0]) if weight is None else weight) @ X
        n_seen, popularity = _reduce.total((n_seen, popularity))
        gram, l2 = _gram_of_all(_gram(X, weight)), self.l2
        if l2 == "auto":
            l2 = self.l2_ if fitted else _best_l2(X, weight, gram, device)
        if fitted:
            n_seen += self.n_samples_seen_
            gram = sp.csr_array(self._gram_so_far(X.shape[1]) + gram)
            popularity = popularity + widened(self._popularity, X.shape[1])
        weights, error = _weights(gram, l2, device)
        _refuse_rounded_away(error, l2, gram)
        return self._set(
            item_weights_=np.ascontiguousarray(weights.cpu().numpy()),  # else each call copies them
            _item_gram={name: getattr(gram, name) for name in ("data", "indices", "indptr")},
            _popularity=popularity,
            l2_=float(l2),
            n_samples_seen_=n_seen,
            device_=str(device),
        )

    def _for_some_users(self):
        return clone(self).set_params(l2=self.l2_)  # to choose again takes five times as long

    def _for_serving(self):
        return self._set(_item_gram={})  # up to as large as the weights

    def _gram_so_far(self, n_items):
        """X' W X of all users so far, a CSR array, with empty rows and columns for items that they did not know."""
        if not self._item_gram:
            raise ValueError("A local model of LOCARecommender keeps no sums that partial_fit could add to; use fit.")
        gram = sp.csr_array(tuple(self._item_gram.values()), shape=self.item_weights_.shape)
        gram.resize(n_items, n_items)
        return gram

    def _scorer(self, X):
        device, dtype = inference_device(self.device), torch_dtype(X.dtype)
        weights, read = self.item_weights_, None
        if 2 * X.nnz < X.shape[1] and (weights.dtype != X.dtype or device.type != "cpu"):  # they are copied: these only
            read = np.union1d(X.indices, 0)
            weights = weights[read]
        product = _product(placed(weights, device, dtype))

        def score(users):
            scores = product(users if read is None else users[:, read])
            empty = np.flatnonzero(users.indptr[1:] == users.indptr[:-1])
            if len(empty):
                scores[torch.from_numpy(empty).to(device)] = placed(self._popularity, device, dtype)
            return scores

        return score

    def _contributions(self, X, columns):
        user = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
        parts = X.data * self.item_weights_[X.indices, columns[user]].astype(X.dtype)
        return sp.csr_array((parts, X.indices.copy(), X.indptr.copy()), shape=X.shape)


def _gram(X, weight):
    """X' W X, a CSR array."""
    return sp.csr_array(X.T @ (X if weight is None else X * weight[:, None].astype(X.dtype)))


def _weights(gram, l2, device):
    return item_weights(torch.from_numpy(gram.toarray()).to(device), l2)


def _gram_of_all(gram):
    """The sum of the Gram matrices of all processes, which travel in dense blocks of rows: what is solved is dense."""
    if not _reduce.is_shared():
        return gram
    n = gram.shape[1]
    size = max(1, _CELLS_SENT // n)
    blocks = [sp.csr_array(_reduce.count(gram[start : start + size].toarray())) for start in range(0, n, size)]
    return sp.csr_array(sp.vstack(blocks, format="csr"))


def _best_l2(X, weight, gram, device):
    """The penalty by which the other users' model ranks hidden interactions of some users best."""
    rankable = np.flatnonzero(np.diff(X.indptr) >= 2)
    n_aside = min(_MOST_ASIDE, _reduce.count(len(rankable)) // 5)
    if not n_aside:
        return _L2[len(_L2) // 2]
    chosen, keys = first_by_key(Noise(0).fold("l2"), len(rankable), n_aside)
    own = rankable[chosen]
    in_order = np.argsort(np.concatenate(_reduce.gathered(keys)), kind="stable")
    aside = gathered_rows(X[own])[in_order]
    if weight is not None:
        weight = np.concatenate(_reduce.gathered(weight[own]))[in_order]
    shown, hidden = content_holdout(aside)
    rest = sp.csr_array(gram - _gram(aside, weight))

    def quality(l2):
        model, error = _weights(rest, l2, device)
        if not error < 1:
            return -1.0
        return ndcg_at_k(hidden, ranked=rank(_product(model), shown, LIST_LENGTH)[0], k=LIST_LENGTH)

    return _reduce.of_first(max(_L2, key=quality))  # rounding may differ from machine to machine


def _refuse_rounded_away(error, l2, gram):
    """Complain of item weights of which rounding leaves nothing; warn of those it changes."""
    if error < _NOTICEABLE:
        return
    largest = float(gram.diagonal().max())
    if l2 > float(np.finfo(gram.dtype).max):
        raise ValueError(f"EASERecommender: l2={l2:g} is beyond the largest number of {gram.dtype}, of X. Lower it.")
    found = f"l2={l2:g} is too small beside X'X, whose largest entry is {largest:.3g}: "
    remedy = (
        "pass X as float64, " if gram.dtype == np.float32 else ""
    ) + "raise l2, or make the values of X or sample_weight smaller, as by np.log1p or Binarizer()."
    if not error < 1:
        raise ValueError(f"EASERecommender: {found}in {gram.dtype} nothing is left of it. To mend it, {remedy}")
    warn(f"{found}rounding in {gram.dtype} may change item_weights_ by {error:.0%} of themselves. To mend it, {remedy}")


def _product(weight):
    """A function from users, a CSR array, to their product with item weights."""
    no_bias = weight.new_zeros(())

    @torch.no_grad()
    def product(users):
        return Rows(users, weight.device, weight.dtype).whole().linear(weight, no_bias)

    return product


def _refuse_too_many_items(X):
    """Complain before two matrices of items x items take more than the machine has."""
    needed, there = 2 * X.shape[1] ** 2 * X.dtype.itemsize, _memory()
    if needed > there:
        raise MemoryError(
            f"EASERecommender keeps two matrices of items x items, which for {X.shape[1]:,} items take "
            f"{needed / 1e9:,.0f} GB of {X.dtype}, but this machine has {there / 1e9:,.0f} GB. Use float32, leave out "
            "rare items, or use ELSARecommender, a model of low rank whose memory grows with the number of items only."
        )


def _memory():
    """Bytes of main memory; infinite where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return float("inf")
