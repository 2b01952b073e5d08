"""Strong generalisation of Liang, Krishnan, Hoffman & Jebara (WWW 2018): the split, the data and the figures.

Users are divided, not interactions: a model is fitted on some users and judged on others. Of each held-out user four
fifths of the items are shown (the fold-in) and the model ranks all the rest, where the hidden fifth should come first.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from skvae import datasets
from skvae._topk import top_k
from skvae.metrics import ndcg_at_k, recall_at_k

SEED = 98765  # the authors' own, for the order of the users and again for the hidden items
DATA = ("ml-100k", "ml-1m", "api", "draw-100", "draw-100k")
DEALS = {"ml-100k": 3, "ml-1m": 1, "api": 3, "draw-100": 10, "draw-100k": 1}  # few held-out users: deal more often


class Split(NamedTuple):
    """CSR matrices of ones over the same items; rows i of `*_in` and `*_out` are one user's shown and hidden items."""

    train: sp.csr_matrix
    val_in: sp.csr_matrix
    val_out: sp.csr_matrix
    test_in: sp.csr_matrix
    test_out: sp.csr_matrix

    def __str__(self):
        rows = [X.shape[0] for X in (self.train, self.val_in, self.test_in)]
        return (
            f"{rows[0]:,} / {rows[1]:,} / {rows[2]:,} users to train / validate / test, {self.train.shape[1]:,} items, "
            f"{self.train.nnz:,} clicks; test: {self.test_in.nnz:,} shown, {self.test_out.nnz:,} hidden"
        )


class Figures(NamedTuple):
    """Means over the test users, and the standard error of each mean."""

    ndcg_100: float
    recall_20: float
    recall_50: float
    ndcg_100_se: float
    recall_20_se: float
    recall_50_se: float


def strong_generalisation(X, n_test=None, n_val=None, *, fraction=0.15, seed=SEED, min_items=5, hidden=0.2):
    """Divide the users of `X` and hide a part of each held-out user's items.

    Follows the authors' notebook step by step, with its generator and seeds: users with at least `min_items` items,
    permuted; the last `n_test` test, the `n_val` before them validate; only items of training users are kept; then,
    user by user in their order in `X`, `int(hidden * n)` random items of those with n >= 5 left are hidden. (The
    notebook draws from the lines of the ratings file, this from the columns of the row: other items, as many.)

    Parameters
    ----------
    X : sparse matrix of shape (n_users, n_items)
        A stored non-zero is a positive interaction; values are replaced by 1.
    n_test, n_val : int or None
        Held-out users; None takes `fraction` of all, at most 10,000.
    fraction : float, default=0.15
    seed : int, default=98765
    min_items : int, default=5
    hidden : float, default=0.2

    Returns
    -------
    split : Split
    """
    X = as_clicks(X)
    X = X[np.diff(X.indptr) >= min_items]
    default = min(round(fraction * X.shape[0]), 10_000)
    n_test, n_val = (default if n is None else n for n in (n_test, n_val))
    n_train = X.shape[0] - n_test - n_val
    if min(n_train, n_test, n_val) < 1:
        raise ValueError(
            f"a split into {n_test} test and {n_val} validation users leaves {n_train} of the {X.shape[0]} users with "
            f">= {min_items} items to train on; ask for fewer."
        )
    users = np.random.RandomState(seed).permutation(X.shape[0])
    parts = np.split(users, [n_train, n_train + n_val])
    train, val, test = (X[np.sort(part)] for part in parts)
    known = np.flatnonzero(train.getnnz(axis=0))
    return Split(train[:, known], *hide(val[:, known], seed, hidden), *hide(test[:, known], seed, hidden))


def hide(X, seed, hidden):
    """Move `int(hidden * n)` random items of each row with n >= 5 from the first matrix returned to the second."""
    rng = np.random.RandomState(seed)
    out = np.zeros(X.nnz, dtype=bool)
    for start, stop in zip(X.indptr[:-1], X.indptr[1:]):
        n = stop - start
        if n >= 5:
            out[start + rng.choice(n, size=int(hidden * n), replace=False)] = True
    return keep(X, ~out), keep(X, out)


def keep(X, mask):
    """The stored entries of CSR `X` where `mask` holds."""
    indptr = np.concatenate([[0], np.cumsum(mask)])[X.indptr]
    return sp.csr_matrix((X.data[mask], X.indices[mask], indptr), shape=X.shape)


def as_clicks(X):
    """Canonical float32 CSR with 1 where `X` is non-zero."""
    X = sp.csr_matrix(X, dtype=np.float32, copy=True)
    X.sum_duplicates()
    X.eliminate_zeros()
    X.data[:] = 1
    return X


def load_split(name, seed=0):
    """The split of one of `DATA`; `seed` > 0 deals (and for "draw-*" draws) anew."""
    if name == "ml-1m":
        return strong_generalisation(movielens("1m"), 1000, 1000, seed=SEED + seed)
    if name == "ml-100k":
        return strong_generalisation(movielens("100k"), seed=SEED + seed)
    if name == "api":
        return strong_generalisation(datasets.load_api_usage().data, seed=SEED + seed)
    n_users, n_items = {"draw-100": (100, 200), "draw-100k": (100_000, 3000)}[name]
    draw = datasets.make_interactions(n_users, n_items, random_state=seed)
    return strong_generalisation(draw, seed=SEED + seed)


def movielens(name):
    """Ratings of 4 and 5 stars as clicks, from the archive in the folder named by SKVAE_TEST_DATA."""
    ratings = datasets.fetch_movielens(name, data_home=os.environ.get("SKVAE_TEST_DATA") or None).data
    return ratings.multiply(ratings >= 4)


def evaluate(score, X_in, X_out):
    """Figures of `score(rows) -> ndarray (n, n_items)` on users with shown items `X_in` and hidden ones `X_out`."""
    return summary(measured(score, X_in, X_out))


def measured(score, X_in, X_out, block=1000):
    """The values of each of METRICS, of each user with something hidden."""
    parts = [X_in[start : start + block] for start in blocks(X_in, block)]
    return per_user(np.vstack([rank(score(part), part) for part in parts]), X_out)


def rank(scores, seen, k=100):
    """Columns of the `k` best unseen items of each row, best first; -1 pads rows with fewer."""
    scores = np.array(scores, dtype=np.float32)
    scores[seen.nonzero()] = -np.inf
    ids = top_k(scores, min(k, scores.shape[1]))
    ids[np.isneginf(np.take_along_axis(scores, ids, axis=1))] = -1
    return ids


def per_user(ranked, X_out):
    """The values of each of METRICS, of each user with something hidden."""
    found = [metric(X_out, ranked=ranked, k=k, per_user=True) for metric, k in METRICS]
    return [values[np.isfinite(values)] for values in found]


def summary(values):
    """Figures of the values of each user."""
    means = [float(found.mean()) for found in values]
    return Figures(*means, *(float(found.std(ddof=1) / np.sqrt(len(found))) for found in values))


METRICS = ((ndcg_at_k, 100), (recall_at_k, 20), (recall_at_k, 50))


def blocks(X, size):
    """Where blocks of `size` rows start."""
    return range(0, X.shape[0], size)


def timed(f, *args):
    """`f(*args)` and the wall seconds it took."""
    start = time.perf_counter()
    out = f(*args)
    return out, time.perf_counter() - start


def peak_memory():
    """Peak resident bytes of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux: there getrusage starts a child at its parent's peak
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def forget_peak():
    """Peak resident bytes of this process; where the system can, it is lowered first to what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux
    except OSError:
        pass
    return peak_memory()
