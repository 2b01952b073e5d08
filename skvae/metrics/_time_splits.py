"""Splits of interactions by time: the later ones are hidden, to be ranked given the earlier ones."""

from numbers import Integral

import numpy as np

from skvae._compat import warn
from skvae._sparse import canonical_csr
from skvae._times import as_times, missing_entries, stored_times
from skvae.metrics._holdout import (
    check_seed,
    check_test_size,
    content_keys,
    count_of_rows,
    hide,
    parts,
    share_of_rows,
)


def leave_last_out(X, times, test_size=1, *, seed=0):
    """Hide the latest interactions of every user.

    No hidden interaction is earlier than a visible one of the same user. It may be earlier than a visible one of
    another user: only `time_split` hides the future of all.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. Duplicate entries are summed, stored zeros dropped.
    times : {array-like, sparse matrix} of shape (n_users, n_items)
        When each interaction took place: numbers, of which greater is later. A sparse matrix needs an entry for each
        interaction of X, of value 0 too, as ``to_interactions(..., times=...).times`` has it.
    test_size : int or float, default=1
        An int is how many to hide in each row, a float inside (0, 1) the share. In a row with n >= 2 interactions at
        least one is hidden, and at least one remains visible. In a row with fewer than 2, none is hidden.
    seed : int, default=0
        Seed of the choice among interactions of the same time. It follows from the items of the row and, among rows
        with the same items, from their rank, as in `content_holdout`; the order of the columns does not matter.

    Returns
    -------
    X_foldin, X_heldout : csr_matrix or csr_array of shape (n_users, n_items)
        The visible and the hidden part. They are disjoint, and their sum is X. Values, dtype and kind of container are
        those of X (csr_array for dense X).

    Raises
    ------
    ValueError
        If times has another shape, lacks the time of an interaction, or has one that is no finite number; if test_size
        is neither an int >= 1 nor inside (0, 1); or if X is not a finite matrix of two dimensions.

    See Also
    --------
    time_split : Hides all interactions from one point in time on.
    leave_one_out : Hides one interaction of each user at random.

    Examples
    --------
    >>> from skvae.datasets import to_interactions
    >>> from skvae.metrics import leave_last_out
    >>> table = to_interactions(["ann", "ann", "bob", "ann"], [0, 1, 1, 2], times=[1999, 2003, 2000, 2001])
    >>> X_foldin, X_heldout = leave_last_out(table.data, table.times)
    >>> X_heldout.toarray()
    array([[0., 1., 0.],
           [0., 0., 0.]], dtype=float32)
    """
    counted = isinstance(test_size, Integral) and not isinstance(test_size, bool)
    if counted and test_size < 1:
        raise ValueError(
            f"test_size must be at least 1, or a share inside (0, 1), but test_size={test_size} was given."
        )
    if not counted:
        check_test_size(test_size)
    check_seed(seed)
    X = canonical_csr(X)
    n_hidden = count_of_rows(X, int(test_size)) if counted else share_of_rows(X, test_size)
    return hide(X, content_keys(X, seed), n_hidden, stored_times(X, times))


def time_split(X, times, at):
    """Hide all interactions from one point in time on.

    No hidden interaction is earlier than a visible one of any user. So a model that is fitted to the visible part knows
    nothing of the future.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_users, n_items)
        Interactions. Duplicate entries are summed, stored zeros dropped.
    times : {array-like, sparse matrix} of shape (n_users, n_items)
        When each interaction took place: numbers, of which greater is later. A sparse matrix needs an entry for each
        interaction of X, of value 0 too, as ``to_interactions(..., times=...).times`` has it.
    at : number, date or datetime
        Interactions at this time or later are hidden. ``np.quantile(times.data, 0.8)`` hides about a fifth. A datetime
        stands for the seconds since 1970-01-01, as in `to_interactions`.

    Returns
    -------
    X_before, X_after : csr_matrix or csr_array of shape (n_users, n_items)
        The visible and the hidden part. They are disjoint, and their sum is X. Values, dtype and kind of container are
        those of X (csr_array for dense X).

    Raises
    ------
    ValueError
        If times has another shape, lacks the time of an interaction, or has one that is no finite number; if at is no
        time; if nothing lies before it, or nothing after it; or if X is not a finite matrix of two dimensions.

    Warns
    -----
    UserWarning
        If users with hidden interactions have no visible ones, with their number. A recommender ranks for such a user
        without knowing anything. To leave them out, take the rows with ``np.diff(X_before.indptr) > 0`` of both parts.

    See Also
    --------
    leave_last_out : Hides the latest interactions of each user.

    Notes
    -----
    Where a user met an item several times, `to_interactions` keeps the time of the last, so that the visible part holds
    nothing from after the split; an item that was met before and after it counts as hidden. To keep what was known of
    it, split the long table by time, and encode both parts by `skvae.datasets.InteractionEncoder`.

    Examples
    --------
    >>> from skvae.datasets import to_interactions
    >>> from skvae.metrics import time_split
    >>> table = to_interactions(["ann", "ann", "bob", "bob"], [0, 1, 1, 2], times=[1999, 2003, 2000, 2001])
    >>> X_before, X_after = time_split(table.data, table.times, at=2001)
    >>> X_before.toarray()
    array([[1., 0., 0.],
           [0., 1., 0.]], dtype=float32)
    """
    X = canonical_csr(X)
    times, at = stored_times(X, times), _point_in_time(at)
    hidden = times >= at
    if hidden.all() or not hidden.any():
        ends = f"they run from {times.min()} to {times.max()}" if len(times) else "there is no interaction"
        raise ValueError(
            f"at={at} leaves nothing {'before' if len(times) and hidden.all() else 'after'} it in times: {ends}."
        )
    X_before, X_after = parts(X, hidden)
    with_hidden = np.diff(X_after.indptr) > 0
    strangers = with_hidden & (np.diff(X_before.indptr) == 0)
    if strangers.any():
        warn(
            f"{strangers.sum()} of the {with_hidden.sum()} users with hidden interactions have no visible ones: their "
            f"first interaction is at {at} or later. To leave them out, take the rows with "
            "np.diff(X_before.indptr) > 0 of both parts.",
            UserWarning,
        )
    return X_before, X_after


def _point_in_time(at):
    """A number from a number, date or datetime."""
    given = np.asarray(at)
    if given.ndim or len(missing_entries(given[None])) or (given.dtype.kind == "f" and np.isinf(given)):
        raise ValueError(f"at must be one finite number, date or datetime, but at={at!r} was given.")
    return as_times([at], "at")[0]
