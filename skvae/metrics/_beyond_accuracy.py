"""Measures of lists beside their accuracy: how popular, how new and how evenly spread the recommended items are."""

import numpy as np
import scipy.sparse as sp

from skvae.metrics._ranking import lists_of


def novelty(y_score=None, *, ranked=None, popularity, k=100):
    """Compute the mean self-information of the recommended items, in bits: how few users know them.

    The self-information of an item that a share p of the users has is -log2 p. An item that nobody has counts as if one
    user had it.

    Parameters
    ----------
    y_score : array-like of shape (n_users, n_items), default=None
        Scores; the highest score ranks first, and ties go to the item with the lower number. -inf marks items that must
        not be recommended. They are not counted.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, best first, without repetition; -1 where no item is left.
    popularity : {array-like, sparse matrix}
        Interactions of the training users, of shape (n_training_users, n_items).
    k : int or None, default=100
        Length of the lists, in items. None takes the length of `ranked` or the number of items.

    Returns
    -------
    novelty : float
        Bits; mean over all places of all lists.

    Raises
    ------
    ValueError
        If not exactly one of `y_score` and `ranked` is given, they disagree with `popularity`, or no item is
        recommended.

    References
    ----------
    Zhou, Kuscsik, Liu, Medo, Wakeling and Zhang, *Solving the apparent diversity-accuracy dilemma of recommender
    systems*, PNAS 107, 2010.

    Examples
    --------
    >>> from skvae.metrics import novelty
    >>> novelty(ranked=[[0, 1]], popularity=[[1, 0], [1, 1], [1, 0], [1, 0]])
    1.0
    """
    n_users, counts = _users_of_items(popularity)
    bits = -np.log2(np.maximum(counts, 1) / n_users)
    recommended = _recommended(y_score, ranked, len(counts), k)
    return float(bits @ recommended / recommended.sum())


def popularity_bias(y_score=None, *, ranked=None, popularity, k=100):
    """Compute how much more popular the recommended items are than an item of the training data on average.

    Parameters
    ----------
    y_score : array-like of shape (n_users, n_items), default=None
        Scores, as of `novelty`.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, as of `novelty`.
    popularity : {array-like, sparse matrix}
        Interactions of the training users, of shape (n_training_users, n_items).
    k : int or None, default=100
        Length of the lists, in items. None takes the length of `ranked` or the number of items.

    Returns
    -------
    bias : float
        Mean number of training users of the recommended items, divided by that of a random interaction's item: 1 if
        lists are as popular as what the users chose, above 1 if the recommender exaggerates popularity.

    Raises
    ------
    ValueError
        As of `novelty`.

    References
    ----------
    Abdollahpouri, Mansoury, Burke and Mobasher, *The unfairness of popularity bias in recommendation*, RMSE workshop at
    RecSys 2019.

    Examples
    --------
    >>> from skvae.metrics import popularity_bias
    >>> popularity_bias(ranked=[[0]], popularity=[[1, 0], [1, 1], [1, 0]], k=1)
    1.2
    """
    _, counts = _users_of_items(popularity)
    recommended = _recommended(y_score, ranked, len(counts), k)
    chosen = counts @ counts / counts.sum()
    return float(counts @ recommended / recommended.sum() / chosen)


def gini_index(y_score=None, *, ranked=None, k=100, n_items=None):
    """Compute the Gini index of how often items are recommended: 0 if all equally, near 1 if only few.

    Parameters
    ----------
    y_score : array-like of shape (n_users, n_items), default=None
        Scores, as of `novelty`.
    ranked : array-like of int of shape (n_users, >= min(k, n_items)), default=None
        Ranked items in place of `y_score`, as of `novelty`.
    k : int or None, default=100
        Length of the lists, in items. None takes the length of `ranked` or the number of items.
    n_items : int, default=None
        Number of items in the catalogue; required with `ranked`.

    Returns
    -------
    gini : float in [0, 1]

    Raises
    ------
    ValueError
        If `ranked` comes without `n_items`, not exactly one of `y_score` and `ranked` is given, or no item is
        recommended.

    References
    ----------
    Gunawardana and Shani, *Evaluating recommender systems*, in the *Recommender Systems Handbook*, 2015, section 8.3.8.

    Examples
    --------
    >>> from skvae.metrics import gini_index
    >>> gini_index(ranked=[[0], [0], [1]], k=1, n_items=2)
    0.16666666666666666
    """
    if ranked is not None and n_items is None:
        raise ValueError("gini_index of ranked lists needs n_items: lists do not show what was never listed.")
    n_items = np.shape(y_score)[-1] if n_items is None else n_items
    often = np.sort(_recommended(y_score, ranked, n_items, k))
    place = np.arange(1, n_items + 1)
    return float(((2 * place - n_items - 1) @ often) / (n_items * often.sum()))


def _users_of_items(popularity):
    """Number of training users, and of each item's, from their interactions."""
    X = sp.csr_array(popularity)
    X.eliminate_zeros()
    if not X.nnz:
        raise ValueError("popularity holds no interaction: pass the users x items matrix that the fit saw.")
    return X.shape[0], np.bincount(X.indices, minlength=X.shape[1]).astype(np.float64)


def _recommended(y_score, ranked, n_items, k):
    """How often each item is in a list."""
    often, given = np.zeros(n_items), ranked if y_score is None else y_score
    shape = 0 if given is None else len(given), n_items
    for _, ids in lists_of(y_score, ranked, shape, k)[1]:
        often += np.bincount(ids[ids >= 0], minlength=n_items)
    if not often.any():
        raise ValueError("No item is recommended to anybody: every place of every list is empty.")
    return often
