"""Simulated interactions with known true scores, from the model of the Mult-VAE with a linear decoder."""

import numbers

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils import check_random_state, check_scalar

_SPREAD = 0.8  # standard deviation of log E[N_u] over users; MovieLens-1M has about 0.9
_GRID = 2**40  # cumulative probabilities are integers of this grid: exact whatever the block, 1e-12 of resolution
_BLOCK_CELLS = 2**19  # cells of one block of users: 4 MB of float64, near the size of a cache


def make_interactions(
    n_users=1000,
    n_items=500,
    *,
    n_factors=10,
    mean_interactions=60,
    popularity=1.5,
    strength=2.0,
    binary=True,
    return_factors=False,
    random_state=None,
):
    """Draw a sparse users x items matrix from the generative model of the Mult-VAE.

    Each user u has a taste z_u ~ N(0, I) and item probabilities pi_u = softmax(b + V z_u). The row is x_u ~ Mult(N_u,
    pi_u). The number of interactions N_u varies between users: N_u - 1 is Poisson with a log-normal rate, and the
    logarithm of the rate has a standard deviation of 0.8. The item biases are b_i ~ N(0, popularity**2), and the
    loadings are V_ik ~ N(0, strength**2 / n_factors). So ``popularity`` and ``strength`` are the standard deviations of
    the two parts of a score.

    Parameters
    ----------
    n_users, n_items : int, default=1000 and 500
        Number of rows and columns. The rows of a short draw are the first rows of a longer one.
    n_factors : int, default=10
        Dimension of the taste z_u.
    mean_interactions : float, default=60
        Mean of N_u, at least 1. N_u counts an item as often as it is drawn, so a row has somewhat fewer distinct items.
    popularity : float, default=1.5
        Standard deviation of the item biases, at least 0. With 0 all items are equally popular.
    strength : float, default=2.0
        Standard deviation of the personal part of the scores, at least 0. With 0 all users have the same taste.
    binary : bool, default=True
        Whether to store 1 for every drawn item, however often it was drawn. This is the default because implicit
        feedback is usually binary (clicked or not), and because the ranking metrics use only whether an item occurs.
        False stores the counts.
    return_factors : bool, default=False
        Whether to return the tastes, loadings and biases as well. The true scores are ``b + Z @ V.T``. No recommender
        can be expected to rank better than the true scores.
    random_state : int, RandomState instance or None, default=None
        An int gives the same matrix at every call. None draws a new matrix and does not use NumPy's global generator.

    Returns
    -------
    X : csr_array of shape (n_users, n_items), float32
        Interactions.
    Z : ndarray of shape (n_users, n_factors), float64
        Tastes. Z, V and b are returned only with ``return_factors=True``.
    V : ndarray of shape (n_items, n_factors), float64
        Loadings.
    b : ndarray of shape (n_items,), float64
        Item biases.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of its range or of another type.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative filtering", WWW 2018, section 2.1.

    Examples
    --------
    >>> from skvae.datasets import make_interactions
    >>> X, Z, V, b = make_interactions(200, 50, return_factors=True, random_state=0)
    >>> X.shape, Z.shape, V.shape, b.shape
    ((200, 50), (200, 10), (50, 10), (50,))
    """
    for name, count in (("n_users", n_users), ("n_items", n_items), ("n_factors", n_factors)):
        check_scalar(count, name, numbers.Integral, min_val=1)
    for name, number, least in (
        ("mean_interactions", mean_interactions, 1),
        ("popularity", popularity, 0),
        ("strength", strength, 0),
    ):
        check_scalar(number, name, numbers.Real, min_val=least)
        if not np.isfinite(number):  # check_scalar lets NaN pass
            raise ValueError(f"{name} must be finite, not {number}.")
    # Five streams, each used in the order of the users: neither the block nor the number of users shifts a draw.
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    seeds = rng.randint(2**31 - 1, size=5)
    decoder, taste, spread, activity, draw = map(np.random.RandomState, seeds)
    b = popularity * decoder.standard_normal(n_items)
    V = strength / np.sqrt(n_factors) * decoder.standard_normal((n_items, n_factors))
    Z = taste.standard_normal((n_users, n_factors))
    rate = (mean_interactions - 1) * np.exp(_SPREAD * spread.standard_normal(n_users) - _SPREAD**2 / 2)
    N = 1 + activity.poisson(rate)  # draws of each user
    X = _draw_rows(Z, V, b, N, draw, block_size=max(1, _BLOCK_CELLS // n_items))
    if binary:
        X.data[:] = 1
    return (X, Z, V, b) if return_factors else X


def _draw_rows(Z, V, b, N, rng, block_size):
    """Return x_u ~ Mult(N_u, softmax(b + V z_u)) for all users, as a CSR matrix of counts."""
    n_users, n_items = len(Z), len(b)
    columns, counts, lengths = [], [], []
    for start in range(0, n_users, block_size):
        block = slice(start, start + block_size)
        cell, count = np.unique(_draw_cells(_scores(Z[block], V, b), N[block], rng), return_counts=True)
        columns.append(cell % n_items)
        counts.append(count.astype(np.float32))
        lengths.append(np.bincount(cell // n_items, minlength=len(Z[block])))
    indptr = np.r_[0, np.cumsum(np.concatenate(lengths))]
    index = np.int32 if max(n_items, indptr[-1]) < 2**31 else np.int64
    indices = np.concatenate(columns, dtype=index, casting="same_kind")
    return csr_array((np.concatenate(counts), indices, indptr.astype(index)), shape=(n_users, n_items))


def _scores(Z, V, b):
    # Not a matrix product: BLAS rounds a row by the shape of the block that it stands in, and by the thread count.
    scores = np.tile(b, (len(Z), 1))
    part = np.empty_like(scores)
    for z, v in zip(Z.T, V.T, strict=True):
        scores += np.multiply(z[:, None], np.ascontiguousarray(v), out=part)
    return scores


def _draw_cells(scores, N, rng):
    """Return the flat cell (row * n_items + item) of every draw, by the inverse of the distribution function."""
    n_rows, n_items = scores.shape
    scores -= scores.max(1, keepdims=True)
    weight = np.cumsum(np.exp(scores, out=scores), axis=1, out=scores)
    weight *= (_GRID / weight[:, -1])[:, None]
    # One sorted array of integers for all rows: row r holds the borders r * _GRID < ... <= (r + 1) * _GRID.
    row = np.arange(n_rows)[:, None] * _GRID
    border = weight.astype(np.int64) + row
    border[:, -1] = row[:, 0] + _GRID
    at = (rng.random_sample(N.sum()) * _GRID).astype(np.int64) + np.repeat(row[:, 0], N)
    return np.searchsorted(border.ravel(), at, side="right")
