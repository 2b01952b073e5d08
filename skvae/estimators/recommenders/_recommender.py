"""What every recommender does with scores, whatever model they come from."""

import abc

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae import _reduce
from skvae._compat import refuse_masked
from skvae._sparse import merged
from skvae._tensors import block_rows, explain_out_of_memory, inference_device, placed, top_k_of_blocks, torch_dtype
from skvae.estimators._checks import agree_in_columns
from skvae.estimators.recommenders._filters import columns_of_items, read_filters, read_user_filter, seen, users_of
from skvae.estimators.recommenders._input_checks import (
    check_new_items,
    explained,
    is_in_form,
    refuse_long_table,
    warn_of_long_table,
)
from skvae.estimators.recommenders._users_of_all import mean_ranking
from skvae.metrics import make_ranking_scorer

LIST_LENGTH = 100  # of the NDCG that scores and validates
_PADDING = -1  # in place of an item where none is left


def _embeds_users(estimator):
    """Whether a recommender has `similar_users`; say why not, where it has not."""
    if hasattr(estimator, "transform") or hasattr(estimator, "embedding"):
        return True
    raise AttributeError(
        f"{type(estimator).__name__} has no embedding of users, so it cannot tell who is alike. Recommenders with "
        "`transform`, such as MultVAERecommender, have similar_users."
    )


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

    def _check_X(self, X, *, reset, name="X"):
        if not reset and is_in_form(self, X):
            return X if type(X) is sp.csr_array else sp.csr_array(X)
        form = {"accept_sparse": "csr", "dtype": [np.float32, np.float64], "ensure_non_negative": True}
        form["ensure_min_samples"] = 0 if _reduce.is_shared() else 1
        if sp.issparse(X) and X.ndim == 2:  # a purchase and its refund in one cell are what is left of both
            X = merged(X, sp.csr_array)
        refuse_masked(X, name)
        try:
            X = validate_data(self, X, reset=reset, **form)
        except (TypeError, ValueError) as error:
            raise explained(error, name) from None
        return merged(X, sp.csr_array)

    def _check_to_fit(self, X, sample_weight=None, *, reset):
        """Check users to learn from; refuse a shared fit whose processes differ in items, dtype or weights."""
        refuse_long_table(X)
        X = self._check_X(X, reset=reset)
        warn_of_long_table(X)
        agree_in_columns(self, X)
        _reduce.agree(
            weights="sample_weight" if sample_weight is not None else "no sample_weight",
            start="a new fit" if reset else "an earlier fit",
        )
        return X

    def _check_fitted_X(self, X, name="X"):
        if "n_features_in_" not in vars(self):
            check_is_fitted(self)
        return self._check_X(X, reset=False, name=name)

    def _take_in(self, new_items):
        """Extend the number and the names of the items by those that `partial_fit` is to add."""
        known = getattr(self, "feature_names_in_", None)
        check_new_items(self, known, new_items)
        self.n_features_in_ += len(new_items)
        if known is not None:
            self.feature_names_in_ = np.append(known, np.array(new_items, dtype=object))

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
        _check_k(k, "recommend")
        filters = read_filters(*X.shape, getattr(self, "feature_names_in_", None), items, filter_items)
        ids, scores = rank(self._scorer(X), X, k, exclude_seen=exclude_seen, filters=filters)
        return (self._names_of(ids) if names else ids), scores

    def _names_of(self, ids):
        """Names of columns, None for a padding."""
        if not hasattr(self, "feature_names_in_"):
            raise ValueError(
                f"{type(self).__name__} knows no names of items: fit it to a DataFrame whose columns are strings, as "
                "after X.columns = X.columns.astype(str), or use names=False."
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
        _check_k(k, "similar_items")
        known, n_items = getattr(self, "feature_names_in_", None), self.n_features_in_
        columns = columns_of_items(np.atleast_1d(items), n_items, known, "items")
        n, ones = len(columns), np.ones(len(columns), dtype=np.float32)
        if not n:
            raise ValueError("similar_items needs one item at least, but items names none.")
        X = sp.csr_array((ones, columns.astype(np.int64), np.arange(n + 1)), shape=(n, n_items))
        filters = read_filters(n, n_items, known, None, filter_items)
        ids, scores = rank(self._scorer(X), X, k, filters=filters)
        return (self._names_of(ids) if names else ids), scores

    def _embedding(self, X):
        """Vectors of some users, whose angles say who is alike; only of recommenders that embed users."""
        return self.transform(X)

    @available_if(_embeds_users)
    def similar_users(self, X, candidates=None, k=10, *, filter_users=None):
        """List the users whose embeddings have the smallest angles to that of each user.

        A fitted recommender keeps no users. So those to choose from are given as rows, and listed by the number of
        their row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_users, n_items)
            Interactions of the users, whether `fit` saw them or not.
        candidates : {array-like, sparse matrix} of shape (n_candidates, n_items) or None, default=None
            Interactions of the users to choose from. None: the users of X, and nobody is in the own list. If they are
            given, everybody is listed who is near, so a user who is among them too.
        k : int, default=10
            Length of the lists.
        filter_users : array-like of int, bool mask of shape (n_candidates,), or one for each user, default=None
            Never list these rows of the candidates; for each user as in `recommend`.

        Returns
        -------
        rows : int64 ndarray of shape (n_users, k)
            Rows of the candidates, most similar first; -1 where fewer than k are left. Equal ones come in any order.
        similarity : ndarray of shape (n_users, k)
            Cosine of the angle between the embeddings, of `transform`; -inf where `rows` is -1. 0 for a user without
            interactions, whose embedding is 0.

        Raises
        ------
        ValueError
            If k is not a positive integer, or `filter_users` has a row that is not there.
        """
        _check_k(k, "similar_users")
        X = self._check_fitted_X(X)
        others = X if candidates is None else self._check_fitted_X(candidates, "candidates")
        filters = [read_user_filter(X.shape[0], others.shape[0], filter_users)]
        if candidates is None:
            filters.append(seen(sp.eye_array(X.shape[0], format="csr")))
        device = inference_device(self.device) if hasattr(self, "device") else torch.device("cpu")
        users = _directions(self._embedding(X), device)
        towards = users if candidates is None else _directions(self._embedding(others), device)
        towards = towards.T.to(users)
        # Rounding leaves a user at more than 1 from itself, of which no angle can be taken.
        blocks = ((rows, (users[rows] @ towards).clamp_(-1, 1)) for rows in _blocks_of(X.shape[0], others.shape[0]))
        return best(blocks, filters, k, others.shape[0], X.dtype)

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
            Users without held-out interactions are left out of the mean. With `data_parallel`, where a recommender has
            that parameter, the mean is over the users of all processes.

        Raises
        ------
        ValueError
            If y has two dimensions but not the shape of X, or no user has a held-out interaction.
        """
        with self._shared():
            check_is_fitted(self)
            validate_data(self, X, reset=False, skip_check_array=True)  # before any is hidden: the items' names, number
            scorer = make_ranking_scorer("ndcg", k=LIST_LENGTH)
            return mean_ranking(scorer, self, X, y, LIST_LENGTH) if _reduce.is_shared() else scorer(self, X, y)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags


def rank(scorer, X, k, *, exclude_seen=True, filters=None):
    """List the k best allowed items of each row of X, block by block: `(ids, scores)` as `recommend` returns them."""
    every = [seen(X)] if exclude_seen else []
    return best(_score_blocks(scorer, X), every + ([filters] if filters else []), k, X.shape[1], X.dtype)


def best(blocks, filters, k, n_columns, dtype):
    """List the k best allowed columns of each row: their numbers, and their scores in a dtype.

    Parameters
    ----------
    blocks : iterable of (slice, Tensor of shape (n_rows_of_the_block, n_columns))
        Consecutive rows and their scores, which are overwritten.
    filters : list of Filters
    k, n_columns : int
    dtype : dtype
    """
    width = min(k, n_columns)
    columns, values = top_k_of_blocks(_allowed(blocks, filters), width)
    values = values.astype(dtype, copy=False)
    ids = np.where(values == -np.inf, _PADDING, columns)
    if width < k:
        beyond = [(0, 0), (0, k - width)]
        ids, values = np.pad(ids, beyond, constant_values=_PADDING), np.pad(values, beyond, constant_values=-np.inf)
    return ids, values


def _allowed(blocks, filters):
    """Yield the scores of blocks of rows, -inf for columns that may not be listed."""
    for rows, block in blocks:
        for each in filters:
            each.apply(block, rows)
        yield block


def _check_k(k, who):
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool) or k < 1:
        raise ValueError(f"{who} needs a whole number k >= 1, but k={k!r} was given.")


def widened(totals, n_items):
    """Sums for each item, with zeros for items that came later."""
    return np.pad(totals, (0, n_items - len(totals)))


def _directions(embedding, device):
    """Unit vectors of embeddings (n_users, K), on a device; a vector of length zero stays."""
    vectors = placed(embedding, device, torch_dtype(embedding.dtype))
    length = vectors.norm(dim=1, keepdim=True)
    return vectors / torch.where(length > 0, length, 1.0)


def scorer_of(estimator, X):
    """A function from a block of users of X to a Tensor of their scores, of any recommender that is fitted."""
    if isinstance(estimator, FrozenEstimator) and getattr(estimator, "n_features_in_", None) == X.shape[1]:
        estimator = estimator.estimator  # `_scorer` has no words about the names of items, which `fit` has compared
    if isinstance(estimator, RecommenderMixin):
        return estimator._scorer(X)
    return lambda users: torch.from_numpy(_finite_scores(estimator, users, X.dtype))


def embedded_by(estimator, X):
    """Vectors of the users of X, which is checked, by any transformer that is fitted."""
    if isinstance(estimator, FrozenEstimator) and getattr(estimator, "n_features_in_", None) == X.shape[1]:
        estimator = estimator.estimator  # as in `scorer_of`
    return estimator._embedding(X) if isinstance(estimator, RecommenderMixin) else estimator.transform(X)


def _finite_scores(estimator, users, dtype):
    """Scores of a recommender of another make, which are to be averaged with those of others; a fresh array."""
    name, scores = type(estimator).__name__, np.array(estimator.decision_function(users), dtype=dtype)
    if scores.shape != users.shape:
        raise ValueError(f"{name}.decision_function gave scores of {scores.shape} for users x items of {users.shape}.")
    wrong = np.argwhere(~np.isfinite(scores))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"{name}.decision_function gave the score {scores[row, column]} to item {column}, but its scores are "
            "averaged with those of others and must be finite. Items that must not be listed are for recommend to "
            "leave out, by filter_items."
        )
    return scores


def _scores_at(scorer, X, columns):
    """Score of one column for each row of X."""
    found = np.empty(X.shape[0], dtype=X.dtype)
    for rows, block in _score_blocks(scorer, X):
        at = torch.from_numpy(np.array(columns[rows])).to(block.device)
        found[rows] = block.gather(1, at[:, None])[:, 0].cpu().numpy()
    return found


def _score_blocks(scorer, X):
    """Yield (rows, scores) for consecutive blocks of users, so that users x items never stand in memory at once."""
    for rows in _blocks_of(*X.shape):
        with explain_out_of_memory("score fewer users at a time"):
            block = scorer(users_of(X, rows))
        if not isinstance(block, torch.Tensor) or not block.is_floating_point():
            raise TypeError(
                f"`_scorer` must return a function to a Tensor of floats, but got {type(block).__name__}"
                f"{f' of {block.dtype}' if isinstance(block, torch.Tensor) else ''}."
            )
        # An expanded tensor has one memory for all users.
        yield rows, block.contiguous()


def _blocks_of(n_rows, n_columns):
    """Yield slices of rows that are scored at once."""
    size = block_rows(n_columns)
    for start in range(0, n_rows, size):
        yield slice(start, start + size)
