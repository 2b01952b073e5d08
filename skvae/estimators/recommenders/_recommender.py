"""What every recommender does with scores, whatever model they come from."""

import abc

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae._sparse import merged
from skvae._tensors import block_rows, explain_out_of_memory, top_k_of_blocks
from skvae.estimators.recommenders._filters import columns_of_items, read_filters, seen
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

    def _for_some_users(self):
        """An unfitted copy, to fit to some of the users that this one was fitted to."""
        return clone(self)

    def _for_serving(self):
        """The same without what only further training needs."""
        return self

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

    def recommend(self, X, k=10, *, exclude_seen=True, items=None, filter_items=None, names=False):
        """List the k best items of each user.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.
        k : int, default=10
            Length of the lists.
        exclude_seen : bool, default=True
            Leave out what a user's row of X already holds.
        items : array-like of int or str, bool mask of shape (n_items,), or one for each user, default=None
            Recommend these columns only, by number or, after a fit on a DataFrame, by name; each of them once. For
            each user: a list of such lists, or a matrix of shape (n_users, n_items), sparse or Boolean, whose non-zero
            cells are allowed.
        filter_items : array-like of int or str, bool mask of shape (n_items,), or one for each user, default=None
            Never recommend these columns; for each user as above.
        names : bool, default=False
            Whether to return names of items in place of numbers; after a fit on a DataFrame.

        Returns
        -------
        ids : ndarray of shape (n_users, k)
            Columns of X, best first; -1 where fewer than k items are left to recommend. Of names, None there.
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
        filters = read_filters(*X.shape, getattr(self, "feature_names_in_", None), items, filter_items)
        ids, scores = rank(self._scorer(X), X, k, exclude_seen=exclude_seen, filters=filters)
        return (self._names_of(ids) if names else ids), scores

    def _names_of(self, ids):
        """Names of columns, None for a padding."""
        if not hasattr(self, "feature_names_in_"):
            raise ValueError(
                f"{type(self).__name__} knows no names of items: fit it to a DataFrame, or use names=False."
            )
        return np.append(self.feature_names_in_, None)[ids]  # -1 is the last

    def similar_items(self, items, k=10, *, filter_items=None, names=False):
        """List the items that the model recommends to a user who has one item only.

        Parameters
        ----------
        items : array-like of int or str of shape (n,)
            Columns of X, by number or, after a fit on a DataFrame, by name.
        k : int, default=10
            Length of the lists.
        filter_items, names
            As of `recommend`.

        Returns
        -------
        ids : ndarray of shape (n, k)
            Columns, best first, without the item itself; -1 (or None) where fewer than k are left.
        scores : ndarray of shape (n, k)
            Their `decision_function` for that user.
        """
        check_is_fitted(self)
        known, n_items = getattr(self, "feature_names_in_", None), self.n_features_in_
        columns = columns_of_items(np.atleast_1d(items), n_items, known, "items")
        n, ones = len(columns), np.ones(len(columns), dtype=np.float32)
        X = sp.csr_array((ones, columns.astype(np.int64), np.arange(n + 1)), shape=(n, n_items))
        filters = read_filters(n, n_items, known, None, filter_items)
        ids, scores = rank(self._scorer(X), X, k, filters=filters)
        return (self._names_of(ids) if names else ids), scores

    def explain(self, X, items):
        """Say which of a user's items raised the score of an item.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users.
        items : int, str, or array-like of shape (n_users,)
            The item to explain, by number or, after a fit on a DataFrame, by name; one for all users or one for each.

        Returns
        -------
        contributions : csr_array of shape (n_users, n_items)
            For each of a user's items, by how much the score falls if it is left out of the row. In a linear model
            without biases, such as EASE, they sum to the score.
        """
        X = self._check_fitted_X(X)
        items = np.asarray(items)
        columns = columns_of_items(np.atleast_1d(items), X.shape[1], getattr(self, "feature_names_in_", None), "items")
        if len(columns) not in (1, X.shape[0]):
            raise ValueError(f"items names {len(columns)} items for {X.shape[0]} users; it takes one, or one for each.")
        return self._contributions(X, np.broadcast_to(columns, X.shape[0]))

    def _contributions(self, X, columns):
        """What each stored entry of X adds to the score of its user's column: the loss without it."""
        user = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
        whole = _scores_at(self._scorer(X), X, columns)
        without = X[user]  # a row for each entry, which is taken out of it
        own = without.indptr[:-1] + np.arange(X.nnz) - X.indptr[user]
        without.data[own] = 0
        without.eliminate_zeros()
        loss = whole[user] - _scores_at(self._scorer(without), without, columns[user])
        return sp.csr_array((loss, X.indices.copy(), X.indptr.copy()), shape=X.shape)

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

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags


def rank(scorer, X, k, *, exclude_seen=True, filters=None):
    """List the k best allowed items of each row of X, block by block: `(ids, scores)` as `recommend` returns them."""
    ids = np.full((X.shape[0], k), _PADDING, dtype=np.int64)
    scores = np.full((X.shape[0], k), -np.inf, dtype=X.dtype)
    width = min(k, X.shape[1])
    every = [seen(X)] if exclude_seen else []
    columns, values = top_k_of_blocks(_allowed_blocks(scorer, X, every + ([filters] if filters else [])), width)
    ids[:, :width] = np.where(values == -np.inf, _PADDING, columns)
    scores[:, :width] = values
    return ids, scores


def scorer_of(estimator, X):
    """A function from a block of users of X to a Tensor of their scores, of any recommender that is fitted."""
    if isinstance(estimator, RecommenderMixin):
        return estimator._scorer(X)
    return lambda users: torch.from_numpy(np.array(estimator.decision_function(users), dtype=X.dtype))


def _allowed_blocks(scorer, X, filters):
    """Yield the scores of consecutive blocks of users, -inf for items that may not be listed."""
    for rows, block in _score_blocks(scorer, X):
        for each in filters:
            each.apply(block, rows)
        yield block


def _scores_at(scorer, X, columns):
    """Score of one column for each row of X."""
    found = np.empty(X.shape[0], dtype=X.dtype)
    for rows, block in _score_blocks(scorer, X):
        at = torch.from_numpy(np.array(columns[rows])).to(block.device)
        found[rows] = block.gather(1, at[:, None])[:, 0].cpu().numpy()
    return found


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
