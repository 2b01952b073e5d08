"""Splits of interactions: hide a part of every user's row, to be ranked given the rest.

The hidden cells are those with the smallest keyed hashes in their row. This is vectorised and needs no loop over a
random generator.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state

from skvae._hash import combine
from skvae._sparse import canonical_csr


def holdout_split(X, test_size=0.2, *, random_state=None):
    """Hide a random part of every user's interactions.

    Together with a split of the users this is the protocol of strong generalisation: fit to some users, pass the
    visible part of the others to the model, and rank their hidden part.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. Duplicate entries are summed, stored zeros dropped.
    test_size : float, default=0.2
        Share to hide, inside (0, 1). In a row with n >= 2 interactions max(1, floor(test_size * n)) are hidden, but
        never all. In a row with fewer than 2, none is hidden.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice. None draws a fresh seed and does not use NumPy's global generator.

    Returns
    -------
    X_foldin, X_heldout : csr_matrix or csr_array of shape (n_users, n_items)
        The visible and the hidden part. They are disjoint, and their sum is X. Values, dtype and kind of container are
        those of X (csr_array for dense X).

    Raises
    ------
    ValueError
        If test_size is not inside (0, 1), or X is not a finite matrix of two dimensions.

    See Also
    --------
    content_holdout : Makes the same split with a choice that depends only on the content of each row.
    leave_one_out : Hides one interaction of each user.
    leave_last_out : Hides the latest interactions of each user.

    References
    ----------
    Liang, Krishnan, Hoffman and Jebara, *Variational autoencoders for collaborative filtering*, WWW 2018, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae.metrics import holdout_split
    >>> X_foldin, X_heldout = holdout_split(np.ones((2, 10)), test_size=0.3, random_state=0)
    >>> X_foldin.sum(axis=1), X_heldout.sum(axis=1)
    (array([7., 7.]), array([3., 3.]))
    """
    check_test_size(test_size)
    X = canonical_csr(X)
    return hide(X, _random_keys(X, random_state), share_of_rows(X, test_size))


def leave_one_out(X, *, random_state=None):
    """Hide one random interaction of every user.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. Duplicate entries are summed, stored zeros dropped.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice. None draws a fresh seed and does not use NumPy's global generator.

    Returns
    -------
    X_foldin, X_heldout : csr_matrix or csr_array of shape (n_users, n_items)
        The visible and the hidden part. They are disjoint, and their sum is X. In a row with fewer than 2 interactions
        none is hidden. Values, dtype and kind of container are those of X (csr_array for dense X).

    Raises
    ------
    ValueError
        If X is not a finite matrix of two dimensions.

    See Also
    --------
    holdout_split : Hides a share of each row.
    leave_last_out : Hides the latest interaction of each user.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae.metrics import leave_one_out
    >>> X_foldin, X_heldout = leave_one_out(np.ones((2, 10)), random_state=0)
    >>> X_foldin.sum(axis=1), X_heldout.sum(axis=1)
    (array([9., 9.]), array([1., 1.]))
    """
    X = canonical_csr(X)
    return hide(X, _random_keys(X, random_state), count_of_rows(X, 1))


def content_holdout(X, test_size=0.2, seed=0):
    """Hide a part of every user's interactions, by a choice that follows from the items of the rows.

    The choice in a row depends on `seed`, on the set of its non-zero items, and on its rank among the rows of X with
    the same set: the first of them, the second, and so on. So equal rows hide different items. All splits together do
    not depend on the order of the rows, and a row whose set occurs once keeps its split when other rows come or go. The
    values do not matter: ratings and the same ratings binarised are split in the same way.

    Split all rows in one call, before they are cut into batches. In each batch the ranks would begin anew.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. Duplicate entries are summed, stored zeros dropped.
    test_size : float, default=0.2
        Share to hide, inside (0, 1). In a row with n >= 2 interactions max(1, floor(test_size * n)) are hidden, but
        never all. In a row with fewer than 2, none is hidden.
    seed : int, default=0
        Seed of the choice. Another seed gives another split.

    Returns
    -------
    X_foldin, X_heldout : csr_matrix or csr_array of shape (n_users, n_items)
        The visible and the hidden part. They are disjoint, and their sum is X. Values, dtype and kind of container are
        those of X (csr_array for dense X).

    Raises
    ------
    ValueError
        If test_size is not inside (0, 1), seed is not an int, or X is not a finite matrix of two dimensions.

    See Also
    --------
    holdout_split : Makes a random split, which depends on the order of the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae.metrics import content_holdout
    >>> _, X_heldout = content_holdout(np.ones((1000, 4)), 0.25)
    >>> X_heldout.sum(axis=0)
    array([237., 253., 252., 258.])
    """
    check_seed(seed)
    check_test_size(test_size)
    X = canonical_csr(X)
    return hide(X, content_keys(X, seed), share_of_rows(X, test_size))


def content_keys(X, seed, ranks=None):
    """A key for each row of canonical CSR, from its items and its rank among rows with the same items.

    `ranks` computes these ranks from keys; None: among the rows of X.
    """
    hashed = combine(_key(seed), X.indices.astype(np.int64))
    # The key of a row is a sum over its items: it does not see their order. Where the total wraps around, so do the
    # differences.
    total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(hashed)])
    sums = total[X.indptr[1:]] - total[X.indptr[:-1]]
    keys = combine(sums, np.diff(X.indptr).astype(np.int64))
    rank = (ranks or rank_among_equals)(keys)
    # The first of equal rows keeps the key of a row that has no equals.
    return np.where(rank > 0, combine(keys, rank), keys)


def _random_keys(X, random_state):
    """A key for each row, from its number."""
    if random_state is None:
        seed = np.random.SeedSequence().generate_state(1, np.uint64)[0]
    else:
        seed = check_random_state(random_state).randint(2**31 - 1)
    return combine(_key(seed), np.arange(X.shape[0]))


def check_test_size(test_size, name="test_size"):
    """Raise unless `test_size` is a share inside (0, 1)."""
    if not isinstance(test_size, Real) or not 0 < test_size < 1:
        raise ValueError(f"{name} is the share to hide: a float inside (0, 1), but {name}={test_size!r} was given.")


def check_seed(seed):
    """Raise unless `seed` is a whole number."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise ValueError(f"seed must be an int, so that every call splits alike, but seed={seed!r} was given.")


def rank_among_equals(keys):
    """For each key, the number of equal keys before it."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    place = np.arange(len(keys))
    rank = np.empty(len(keys), dtype=np.int64)
    rank[order] = place - np.maximum.accumulate(np.where(is_first, place, 0))
    return rank


def share_of_rows(X, test_size):
    """How many interactions of each row are a share of it: at least one, if one remains visible."""
    n_stored = np.diff(X.indptr).astype(np.int64)
    share = np.floor(test_size * n_stored + 1e-9).astype(np.int64)  # 0.29 * 100 is a hair below 29
    return np.clip(share, np.minimum(1, n_stored - 1), n_stored - 1).clip(min=0)


def count_of_rows(X, n):
    """How many interactions of each row can be hidden if `n` are asked for: one remains visible."""
    return np.minimum(n, np.diff(X.indptr).astype(np.int64) - 1).clip(min=0)


def hide(X, row_keys, n_hidden, times=None):
    """Split canonical CSR: of each row the latest cells are held out, in the order of their hashes at equal times.

    Parameters
    ----------
    X : canonical CSR of shape (n_users, n_items)
    row_keys : int64 ndarray of shape (n_users,)
        A cell is hashed by (row key, item).
    n_hidden : int64 ndarray of shape (n_users,)
        How many to hide.
    times : ndarray of shape (X.nnz,) or None
        None: all are equal.

    Returns
    -------
    X_foldin, X_heldout : CSR of the kind of X
    """
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    hashed = combine(row_keys[rows], X.indices.astype(np.int64)) & 0xFFFFFFFF
    if times is None:
        # Row and half of the hash in one integer: one sort, many times faster than a sort by two keys.
        order = np.argsort(rows << 32 | hashed, kind="stable")
    else:
        order = np.lexsort((hashed, -np.unique(times, return_inverse=True)[1], rows))
    place = np.arange(X.nnz) - X.indptr[rows]  # of the cells in that order, within their row
    hidden = np.empty(X.nnz, dtype=bool)
    hidden[order] = place < n_hidden[rows]
    return parts(X, hidden)


def parts(X, hidden):
    """The visible and the hidden stored cells of X as two matrices of the same kind."""
    rows = np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))
    return _keep(X, ~hidden, rows), _keep(X, hidden, rows)


def _keep(X, mask, rows):
    """The stored cells of X where `mask`, as a matrix of the same kind; `rows` is the row of each stored cell."""
    indptr = np.zeros(X.shape[0] + 1, dtype=X.indptr.dtype)
    np.cumsum(np.bincount(rows[mask], minlength=X.shape[0]), out=indptr[1:])
    return type(X)((X.data[mask], X.indices[mask], indptr), shape=X.shape)


def _key(seed):
    return np.array([int(seed) % 2**64], dtype=np.uint64).view(np.int64)
