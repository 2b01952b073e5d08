"""What every recommender does with scores, whatever model they come from."""

import abc

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae._sparse import merged
from skvae._tensors import block_rows, explain_out_of_memory, top_k_of_blocks
from skvae.estimators.recommenders._input_checks import explained
from skvae.metrics import make_ranking_scorer

LIST_LENGTH = 100  # of the NDCG that scores and validates
_PADDING = -1  # in place of an item where none is left


class RecommenderMixin(abc.ABC):
    """Scores, lists and their quality, for any estimator that can score a block of users."""

    @abc.abstractmethod
    def _scorer(self, X):
        """A function that scores some users.

        Parameters
        ----------
        X : CSR array of shape (n_users, n_items)
            All users that will be asked about, checked.

        Returns
        -------
        scorer : callable
            CSR array of some users -> Tensor of their scores, (n_users, n_items), of the dtype of X. It must be fresh
            memory: what may not be listed is overwritten by -inf.
        """

    def _check_X(self, X, *, reset):
        form = {"accept_sparse": "csr", "dtype": [np.float32, np.float64], "ensure_non_negative": True}
        if sp.issparse(X) and X.ndim == 2:  # a purchase and its refund in one cell are what is left of both
            X = merged(X, sp.csr_array)
        try:
            X = validate_data(self, X, reset=reset, **form)
        except ValueError as error:
            raise explained(error) from None
        return merged(X, sp.csr_array)

    def _check_fitted_X(self, X):
        check_is_fitted(self)
        return self._check_X(X, reset=False)

    def decision_function(self, X):
        """Score every item for every user.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        scores : ndarray of shape (n_users, n_items)
            Higher ranks first. Items of X are scored like the others: masking them is the work of `recommend`,
            `predict` and the scorers. This array holds all users by all items; `recommend` never builds it.
        """
        X = self._check_fitted_X(X)
        scores = np.empty(X.shape, dtype=X.dtype)
        for rows, block in _score_blocks(self._scorer(X), X):
            scores[rows] = block.cpu().numpy()
        return scores

    def recommend(self, X, k=10, *, exclude_seen=True, items=None, filter_items=None):
        """List the k best items of each user.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.
        k : int, default=10
            Length of the lists.
        exclude_seen : bool, default=True
            Leave out what a user's row of X already holds.
        items : array-like of int or str, or bool mask of shape (n_items,), default=None
            Recommend these columns only, by number or, after a fit on a DataFrame, by name; each of them once.
        filter_items : array-like of int or str, or bool mask of shape (n_items,), default=None
            Never recommend these columns.

        Returns
        -------
        ids : int64 ndarray of shape (n_users, k)
            Columns of X, best first; -1 where fewer than k items are left to recommend.
        scores : ndarray of shape (n_users, k)
            Their `decision_function`; -inf where `ids` is -1.

        Raises
        ------
        ValueError
            If k is not a positive integer, an item is not a column of X, `items` repeats an item, or a mask holds 0 and
            1 in place of Booleans.
        """
        X = self._check_fitted_X(X)
        if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
            raise ValueError(f"recommend needs a whole number k >= 1, but k={k!r} was given.")
        names = getattr(self, "feature_names_in_", None)
        barred = _barred(X.shape[1], names, items, filter_items)
        return rank(self._scorer(X), X, k, exclude_seen=exclude_seen, barred=barred)

    def predict(self, X):
        """Name the one best item that each user has not seen.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.

        Returns
        -------
        item : int64 ndarray of shape (n_users,)
            Columns of X; -1 for a user who has seen every item.
        """
        X = self._check_fitted_X(X)
        return rank(self._scorer(X), X, 1)[0][:, 0]

    def score(self, X, y=None):
        """Mean ``NDCG@100`` of what the model cannot see.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users.
        y : {array-like, sparse matrix} of shape (n_users, n_items) or None, default=None
            Held-out interactions, to be ranked given X. With None, or a y of one dimension (as scikit-learn's tools
            may pass), a fifth of each row of X is hidden and ranked given the rest. Which fifth depends on the items
            of that row and, among equal rows, on its rank, as in `skvae.metrics.content_holdout`. Two calls with the
            same X hide the same items.

        Returns
        -------
        score : float in [0, 1]
            Users without held-out interactions are left out of the mean.

        Raises
        ------
        ValueError
            If y has two dimensions but not the shape of X, or no user has a held-out interaction.
        """
        check_is_fitted(self)
        validate_data(self, X, reset=False, skip_check_array=True)  # the items' names and number, before any is hidden
        return make_ranking_scorer("ndcg", k=LIST_LENGTH)(self, X, y)


def rank(scorer, X, k, *, exclude_seen=True, barred=None):
    """List the k best allowed items of each row of X, block by block: `(ids, scores)` as `recommend` returns them."""
    ids = np.full((X.shape[0], k), _PADDING, dtype=np.int64)
    scores = np.full((X.shape[0], k), -np.inf, dtype=X.dtype)
    width = min(k, X.shape[1])
    columns, values = top_k_of_blocks(_allowed_blocks(scorer, X, exclude_seen, barred), width)
    ids[:, :width] = np.where(values == -np.inf, _PADDING, columns)
    scores[:, :width] = values
    return ids, scores


def _allowed_blocks(scorer, X, exclude_seen, barred):
    """Yield the scores of consecutive blocks of users, -inf for items that may not be listed."""

    def place(index):
        return torch.from_numpy(index.astype(np.int64, copy=False)).to(block.device, non_blocking=True)

    for rows, block in _score_blocks(scorer, X):
        if exclude_seen:
            seen = X[rows]
            user = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr))
            block[place(user), place(seen.indices)] = -torch.inf
        if barred is not None:
            block[:, place(barred)] = -torch.inf
        yield block


def _score_blocks(scorer, X):
    """Yield (rows, scores) for consecutive blocks of users, so that users x items never stand in memory at once."""
    size = block_rows(X.shape[1])
    for start in range(0, X.shape[0], size):
        rows = slice(start, start + size)
        with explain_out_of_memory("score fewer users at a time"):
            block = scorer(X[rows])
        if not isinstance(block, torch.Tensor) or not block.is_floating_point():
            raise TypeError(
                f"`_scorer` must return a function to a Tensor of floats, but got {type(block).__name__}"
                f"{f' of {block.dtype}' if isinstance(block, torch.Tensor) else ''}."
            )
        # An expanded tensor has one memory for all users.
        yield rows, block.contiguous()


def _barred(n_items, names, items, filter_items):
    """Columns that may not be recommended, or None where all may."""
    if items is None and filter_items is None:
        return None
    allowed = np.full(n_items, items is None)
    if items is not None:
        columns = _columns(items, n_items, names, "items")
        _refuse_repeats(columns)
        allowed[columns] = True
    if filter_items is not None:
        allowed[_columns(filter_items, n_items, names, "filter_items")] = False
    return np.flatnonzero(~allowed)


def _columns(items, n_items, names, name):
    """Numbers of the columns that a parameter names by number, by name or by a Boolean mask."""
    try:
        items = np.asarray(items)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"{name} takes one list of columns for all users, but it holds lists of its own.") from error
    if items.dtype.kind in "OU" and names is not None and items.ndim == 1:
        items = _numbers_of(items, names.tolist(), name)
    if items.dtype == bool and items.shape == (n_items,):
        return np.flatnonzero(items)
    if items.size == 0:
        return np.empty(0, dtype=np.int64)
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise ValueError(
            f"{name} takes column numbers or a mask of shape ({n_items},), but it has dtype {items.dtype} "
            f"and shape {items.shape}; map names to columns first: np.flatnonzero(np.isin(names, wanted))."
        )
    outside = items[(items < 0) | (items >= n_items)]
    if len(outside):
        raise ValueError(f"{name} holds column {outside[0]}, but the columns of X run from 0 to {n_items - 1}.")
    if len(items) == n_items > 2 and items.max() <= 1:
        raise ValueError(
            f"{name} holds 0 and 1 only, as often as there are columns: a mask, which must be Boolean. Pass "
            "np.asarray(mask, dtype=bool)."
        )
    return items


def _refuse_repeats(columns):
    """Complain of candidates that are given twice: a list ranks each item once."""
    candidates, times = np.unique(columns, return_counts=True)
    if len(candidates) < len(columns):
        raise ValueError(
            f"items names each candidate once, but column {candidates[times.argmax()]} is there {times.max()} times; "
            "pass np.unique(items). A mask of 0 and 1 must have a 0 or 1 for each column, and be Boolean."
        )


def _numbers_of(items, names, name):
    """Numbers of the columns with these names."""
    number = {known: column for column, known in enumerate(names)}
    unknown = [item for item in items.tolist() if item not in number]
    if unknown:
        raise ValueError(f"{name} holds {unknown[0]!r}, but fit saw no item of that name.")
    return np.array([number[item] for item in items.tolist()], dtype=np.int64)
