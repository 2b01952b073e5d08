"""Ranking metrics for sparse held-out interactions.

Every metric is a short reduction of one Boolean matrix, which says for each user and rank whether the item there is a
hit. Users are processed in blocks, so at most one block of users x items is ranked at a time. Gains are summed from the
first rank to the last. So the result of a user depends only on that user, to the last bit. Rounded addition is
monotone, so no list ever scores higher than the ideal list.
"""

from numbers import Integral

import numpy as np
import scipy.sparse as sp

from skvae._sparse import canonical_csr
from skvae._topk import top_k

# Cells of users x items that are ranked at a time: 16 MB of scores, and as much twice over while they are sorted.
_BLOCK_CELLS = 2**21


def recall_at_k(y_true, y_score=None, *, ranked=None, k=20, per_user=False):
    """Compute the share of the held-out items that are in the top k.

    The divisor is min(k, number of held-out items). So a perfect list has a recall of 1 at every k.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=20
        Length of the list, in items. None takes the length of `ranked` or the number of items.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    recall : float in [0, 1], or ndarray of shape (n_users,) with `per_user`
        NaN for a user without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    precision_at_k : Divides the same hits by k.
    hit_rate_at_k : Counts only whether there is a hit.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, *Variational autoencoders for collaborative filtering*, WWW 2018, section 4.2.
    Some other work divides by the number of held-out items. The two definitions cannot be compared.

    Examples
    --------
    >>> from skvae.metrics import recall_at_k
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> recall_at_k(y_true, y_score, k=2)
    0.75
    >>> recall_at_k(y_true, ranked=[[0, 1], [3, 2]], k=2, per_user=True)
    array([0.5, 1. ])
    """
    return _evaluate(
        lambda hits, n_relevant, k: hits.sum(axis=1) / np.minimum(n_relevant, k), y_true, y_score, ranked, k, per_user
    )


def precision_at_k(y_true, y_score=None, *, ranked=None, k=20, per_user=False):
    """Compute the share of the top k that are held-out items.

    The divisor is always k, even if a user has fewer held-out items.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=20
        Length of the list, in items. None takes the length of `ranked` or the number of items.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    precision : float in [0, 1], or ndarray of shape (n_users,) with `per_user`
        NaN for a user without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    recall_at_k : Divides the same hits by the largest possible number of hits.

    References
    ----------
    Manning, Raghavan and Schuetze, *Introduction to Information Retrieval*, 2008, section 8.4.

    Examples
    --------
    >>> from skvae.metrics import precision_at_k
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> precision_at_k(y_true, y_score, k=2)
    0.5
    """
    return _evaluate(lambda hits, n_relevant, k: hits.sum(axis=1) / k, y_true, y_score, ranked, k, per_user)


def hit_rate_at_k(y_true, y_score=None, *, ranked=None, k=20, per_user=False):
    """Compute the share of users with at least one held-out item in the top k.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=20
        Length of the list, in items. None takes the length of `ranked` or the number of items.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    hit_rate : float in [0, 1], or ndarray of shape (n_users,) with `per_user`
        The value of a user is 1 or 0, and NaN without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    mrr : Uses the rank of the first hit.

    References
    ----------
    Deshpande and Karypis, *Item-based top-N recommendation algorithms*, ACM TOIS 22(1), 2004.

    Examples
    --------
    >>> from skvae.metrics import hit_rate_at_k
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> hit_rate_at_k([[0, 0, 1, 0], [0, 0, 0, 1]], y_score, k=2)
    0.5
    """
    return _evaluate(lambda hits, n_relevant, k: hits.any(axis=1).astype(float), y_true, y_score, ranked, k, per_user)


def mrr(y_true, y_score=None, *, ranked=None, k=100, per_user=False):
    """Compute the mean reciprocal rank of the first hit: 1 / rank, or 0 without a hit in the top k.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=100
        Length of the list, in items. None takes the length of `ranked` or the number of items.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    mrr : float in [0, 1], or ndarray of shape (n_users,) with `per_user`
        NaN for a user without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    average_precision_at_k : Uses the ranks of all hits.

    References
    ----------
    Voorhees, *The TREC-8 question answering track report*, 1999.

    Examples
    --------
    >>> from skvae.metrics import mrr
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> round(mrr([[0, 0, 1, 0], [0, 0, 0, 1]], y_score), 3)
    0.667
    """
    return _evaluate(
        lambda hits, n_relevant, k: hits.any(axis=1) / (hits.argmax(axis=1) + 1), y_true, y_score, ranked, k, per_user
    )


def average_precision_at_k(y_true, y_score=None, *, ranked=None, k=100, per_user=False):
    """Compute the average precision: the mean of the precisions at the ranks of the hits in the top k.

    The divisor is min(k, number of held-out items). The mean over users is known as MAP@k.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=100
        Length of the list, in items. None takes the length of `ranked` or the number of items.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    average_precision : float in [0, 1], or ndarray of shape (n_users,) with `per_user`
        NaN for a user without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    ndcg_at_k : Weights each hit by the logarithm of its rank.

    References
    ----------
    Manning, Raghavan and Schuetze, *Introduction to Information Retrieval*, 2008, section 8.4.

    Examples
    --------
    >>> from skvae.metrics import average_precision_at_k
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> average_precision_at_k(y_true, y_score, per_user=True).round(3)
    array([0.833, 1.   ])
    """

    def average_precision(hits, n_relevant, k):
        precisions = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
        return _sum_down(hits, precisions) / np.minimum(n_relevant, k)

    return _evaluate(average_precision, y_true, y_score, ranked, k, per_user)


def dcg_at_k(y_true, y_score=None, *, ranked=None, k=100, per_user=False):
    """Compute the discounted cumulative gain (DCG) of the top k: a hit at rank r = 1, 2, ... counts 1 / log2(r + 1).

    Gains are binary: only whether `y_true` is zero matters, not its value.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=100
        Length of the list, in items. None takes the length of `ranked` or the number of items.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    dcg : float, or ndarray of shape (n_users,) with `per_user`
        NaN for a user without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    ndcg_at_k : Divides the DCG by its largest possible value.

    References
    ----------
    Jarvelin and Kekalainen, *Cumulated gain-based evaluation of IR techniques*, ACM TOIS 20(4), 2002.

    Examples
    --------
    >>> from skvae.metrics import dcg_at_k
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> dcg_at_k(y_true, y_score)
    1.25
    """
    return _evaluate(_dcg, y_true, y_score, ranked, k, per_user)


def ndcg_at_k(y_true, y_score=None, *, ranked=None, k=100, per_user=False):
    """Compute the normalised DCG of the top k: the discounted gain, divided by its largest possible value.

    Gains are binary. Without ties the result equals scikit-learn's `ndcg_score` of the indicators, with one difference:
    `ndcg_score` counts users without held-out items as 0. With ties, `ndcg_score` averages over their orders.

    Parameters
    ----------
    y_true : {array-like, sparse matrix} of shape (n_users, n_items)
        Held-out interactions; non-zero means relevant. Users without any are left out of the mean.
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended, such as items that the user has seen. They are never a hit.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 (never a hit) where no item is left.
    k : int or None, default=100
        Length of the list, in items. None takes the length of `ranked` or the number of items. The ideal list has
        min(k, number of held-out items) hits.
    per_user : bool, default=False
        Return one value per user instead of the mean.

    Returns
    -------
    ndcg : float in [0, 1], or ndarray of shape (n_users,) with `per_user`
        NaN for a user without held-out items.

    Raises
    ------
    ValueError
        If no user has a held-out item, shapes differ, `y_score` holds NaN, `ranked` is too short, repeats an item or
        names one that does not exist, or not exactly one of `y_score` and `ranked` is given.

    See Also
    --------
    dcg_at_k : Does not divide.
    sklearn.metrics.ndcg_score : Takes dense labels and graded relevance.

    References
    ----------
    Jarvelin and Kekalainen, *Cumulated gain-based evaluation of IR techniques*, ACM TOIS 20(4), 2002; protocol of
    Liang et al., WWW 2018.

    Examples
    --------
    >>> from skvae.metrics import ndcg_at_k
    >>> y_true = [[1, 0, 1, 0], [0, 0, 0, 1]]
    >>> y_score = [[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]]
    >>> ndcg_at_k(y_true, y_score, per_user=True).round(3)
    array([0.92, 1.  ])
    """

    def ndcg(hits, n_relevant, k):
        # A list is narrower than k only where it is as wide as the catalogue: min(n_relevant, k) hits are attainable.
        ideal = np.cumsum(_discounts(hits.shape[1]))[np.minimum(n_relevant, hits.shape[1]) - 1]
        return _dcg(hits, n_relevant, k) / ideal

    return _evaluate(ndcg, y_true, y_score, ranked, k, per_user)


def coverage(y_score=None, *, ranked=None, k=100, n_items=None):
    """Compute the share of all items that are in the top k of at least one user.

    Parameters
    ----------
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended. They are not counted.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 where no item is left.
    k : int or None, default=100
        Length of the lists, in items. None takes the length of `ranked` or the number of items.
    n_items : int, default=None
        Number of items in the catalogue; required with `ranked`.

    Returns
    -------
    coverage : float in [0, 1]

    Raises
    ------
    ValueError
        If `ranked` comes without `n_items` or disagrees with it, `y_score` holds NaN, or not exactly one of `y_score`
        and `ranked` is given.

    References
    ----------
    Herlocker, Konstan, Terveen and Riedl, *Evaluating collaborative filtering recommender systems*, ACM TOIS 22(1),
    2004, section 4.2 (catalogue coverage).

    Examples
    --------
    >>> from skvae.metrics import coverage
    >>> coverage(ranked=[[0, 1], [1, -1]], k=2, n_items=4)
    0.5
    """
    if n_items is not None and (not isinstance(n_items, Integral) or isinstance(n_items, bool) or n_items < 1):
        raise ValueError(f"n_items is the size of the catalogue: an int >= 1, but n_items={n_items!r} was given.")
    if ranked is not None:
        if n_items is None:
            raise ValueError("coverage of ranked lists needs n_items: lists do not show what was never listed.")
        shape = len(ranked), n_items
    else:
        shape = np.shape(y_score)
        if y_score is not None and (len(shape) != 2 or shape[1] != (n_items or shape[1]) or 0 in shape):
            raise ValueError(f"y_score must have shape (n_users, n_items={n_items or 'any'}), but it has {shape}.")
    _, lists = lists_of(y_score, ranked, shape, k)
    covered = np.zeros(shape[1], dtype=bool)
    for _, ids in lists:
        covered[ids[ids >= 0]] = True
    return float(covered.mean())


# --- sums of gains --------------------------------------------------------------------------------------------------


def _dcg(hits, n_relevant, k):
    return _sum_down(hits, _discounts(hits.shape[1]))


def _discounts(width):
    return 1 / np.log2(np.arange(2, width + 2))


def _sum_down(hits, gains):
    return np.where(hits, gains, 0.0).cumsum(axis=1)[:, -1]


# --- from truth and scores or lists to hits -------------------------------------------------------------------------


def _evaluate(reduction, y_true, y_score, ranked, k, per_user):
    """Reduce the hits of each user: hits (n_users, width) bool, n_relevant (n_users,) >= 1, k -> (n_users,)."""
    truth = canonical_csr(y_true, "y_true", sp.csr_array)
    n_relevant = np.diff(truth.indptr)
    k, lists = lists_of(y_score, ranked, truth.shape, k)
    if not n_relevant.any():
        raise ValueError(
            f"A ranking metric needs a user with a held-out item, but y_true, of shape {truth.shape}, has no non-zero."
        )
    values = np.empty(truth.shape[0])
    for rows, ids in lists:
        # Users without held-out items pass through as if they had one: nothing divides by zero, and they drop out.
        values[rows] = reduction(_hits(truth[rows], ids), np.maximum(n_relevant[rows], 1), k)
    values[n_relevant == 0] = np.nan
    return values if per_user else float(values[n_relevant > 0].mean())


def _hits(truth, ids):
    """Whether the item at each rank is relevant: truth canonical CSR (n_users, n_items), ids (n_users, width)."""
    n_users, n_items = truth.shape
    users = np.arange(n_users, dtype=np.int64)
    relevant = np.repeat(users, np.diff(truth.indptr)) * n_items + truth.indices  # ascending, as truth is canonical
    if not len(relevant):
        return np.zeros(ids.shape, dtype=bool)
    listed = users[:, None] * n_items + ids
    position = np.minimum(np.searchsorted(relevant, listed), len(relevant) - 1)
    return (relevant[position] == listed) & (ids >= 0)


def lists_of(y_score, ranked, shape, k):
    """The k asked for and an iterator of (rows, ids): ids (n_rows, min(k, n_items)), best first, -1 for none."""
    if (y_score is None) == (ranked is None):
        raise ValueError(f"Give exactly one of y_score and ranked; {'neither' if ranked is None else 'both'} came.")
    if k is not None:
        check_k(k)
    if ranked is None:
        scores = _check_scores(y_score, shape)
        k = shape[1] if k is None else k
        width = min(k, shape[1])
        return k, ((rows, best_items(scores[rows], width, rows.start)) for rows in row_blocks(*shape))
    ranked = _check_ranked(ranked, shape, k)
    k = ranked.shape[1] if k is None else k
    width = min(k, shape[1], ranked.shape[1])
    return k, ((rows, ranked[rows, :width]) for rows in row_blocks(shape[0], width))


def row_blocks(n_rows, n_columns):
    """Slices of consecutive rows, each of about `_BLOCK_CELLS` cells."""
    size = max(1, _BLOCK_CELLS // max(1, n_columns))
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def best_items(scores, k, first_row=0):
    """The k best columns of each row, best first; -1 in place of those at -inf. `first_row` is for the error."""
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        raise ValueError(
            f"Scores must be numbers, but that of user {first_row + row}, item {column} is NaN; "
            "give -inf to what must not be recommended."
        )
    ids = top_k(scores, min(k, scores.shape[1]))
    return np.where(np.take_along_axis(scores, ids, axis=1) == -np.inf, -1, ids)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_k(k):
    """Raise unless k is a whole number of items."""
    if not isinstance(k, Integral) or isinstance(k, bool) or k < 1:
        raise ValueError(f"k is the length of the list: an int >= 1, but k={k!r} was given.")


def _check_scores(y_score, shape):
    if sp.issparse(y_score):
        raise ValueError(
            "y_score must be dense: in a sparse matrix an item without an entry would score 0. Give y_score.toarray(), "
            "or the lists themselves as ranked=."
        )
    scores = np.asarray(y_score)
    if scores.dtype.kind not in "fiub":
        raise ValueError(f"y_score must hold real numbers, but its dtype is {scores.dtype}.")
    if scores.shape != shape:
        raise ValueError(f"y_score must have the shape of y_true, {shape}, but it has {scores.shape}.")
    return scores


def _check_ranked(ranked, shape, k):
    n_users, n_items = shape
    ranked = np.asarray(ranked)
    if ranked.dtype.kind not in "iu":
        raise ValueError(f"ranked must hold column numbers of y_true, but its dtype is {ranked.dtype}.")
    needed = 1 if k is None else min(k, n_items)
    if ranked.ndim != 2 or len(ranked) != n_users or ranked.shape[1] < needed:
        raise ValueError(
            f"ranked must have shape ({n_users}, {needed} or more), but it has {ranked.shape}; "
            "pad short lists with -1, or lower k."
        )
    ranked = ranked.astype(np.int64, copy=False)
    outside = (ranked < -1) | (ranked >= n_items)
    if outside.any():
        user, rank = np.argwhere(outside)[0]
        raise ValueError(
            f"ranked[{user}, {rank}] = {ranked[user, rank]}, but items run from 0 to {n_items - 1}, and -1 is padding."
        )
    ascending = np.sort(ranked, axis=1)
    twice = (ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] >= 0)
    if twice.any():
        user, place = np.argwhere(twice)[0]
        raise ValueError(f"ranked lists item {ascending[user, place]} of user {user} twice; list each item once.")
    return ranked
