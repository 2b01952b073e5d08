"""The function that turns a long table into a matrix of users by items."""

import numpy as np

from ._long_table import Catalogue, LongTable, Rules, encode


def to_interactions(
    users,
    items,
    values=None,
    *,
    times=None,
    duplicates="sum",
    user_ids=None,
    item_ids=None,
    unknown="error",
    negative="keep",
    dtype=np.float32,
):
    """Turn a long table with one interaction per row into a users x items matrix.

    Parameters
    ----------
    users, items : array-like of shape (n_interactions,)
        Ids of any one sortable type: integers, strings, dates, the columns of a DataFrame (categorical ones too).
    values : array-like of shape (n_interactions,), default=None
        Strength of each interaction, for instance a rating or a play count. None counts every interaction as 1.
    times : array-like of shape (n_interactions,), default=None
        When each interaction took place: numbers, dates or datetimes, in any order. Datetimes with a time zone are
        taken to UTC.
    duplicates : {"sum", "last"}, default="sum"
        What to store if a pair of user and item occurs more than once: the sum of the values, or the last value. With
        `times` the last is the latest one, and among equal times the one that is given last.
    user_ids, item_ids : array-like of unique ids, default=None
        Ids of the rows and of the columns, in their order, as an earlier call returned them. None takes the ids that
        occur, sorted. To pass new users to a fitted recommender, give `item_ids` and leave `user_ids` out.
    unknown : {"error", "ignore"}, default="error"
        What to do with interactions whose id is not in the given `user_ids` or `item_ids`: raise an error, or leave
        these interactions out. If all items of a user are left out, the user has a row of zeros. If not a single id is
        known, "ignore" warns, because ids of another type are the usual reason: "1" is not 1.
    negative : {"keep", "error", "ignore", "mask"}, default="keep"
        What to do with negative values, such as dislikes, after duplicates are merged: store them like the others
        (recommenders refuse such a matrix), raise an error, leave them out, or leave them out and return them as
        `disliked`.
    dtype : numeric dtype, default=numpy.float32
        Dtype of the matrix. An integer type that cannot hold the values is an error.

    Returns
    -------
    interactions : Bunch
        With the attributes

        - data : csr_array of shape (n_users, n_items), sorted indices, no duplicates. Interactions of value (or sum)
          0 are not stored.
        - user_ids : ndarray of shape (n_users,), the id of each row
        - item_ids : ndarray of shape (n_items,), the id of each column; ``item_ids[data.indices]`` leads back
        - times : csr_array with the same stored cells as `data`, or None without times. Of several interactions of a
          user with an item it holds the time of the latest. Whole numbers are int64 and others float64; datetimes are
          seconds since 1970-01-01, float64, exact to a microsecond. A time of 0 is stored.
        - disliked : csr_array of bool, of the shape of `data`, where values were negative, or None if not asked for by
          ``negative="mask"``. ``recommend(X, filter_items=disliked)`` keeps them out of the lists.

    Raises
    ------
    ValueError
        If the lengths differ, an input is empty or not one-dimensional, an id, a value or a time is missing, times are
        neither numbers nor datetimes, given ids repeat, ids are unknown (the first few are named), values are negative
        against `negative`, or `duplicates`, `unknown`, `negative` or `dtype` is none of the above.
    TypeError
        If ids are of several types that have no common order, or cannot be hashed.

    See Also
    --------
    InteractionEncoder : Does the same, remembers the ids, and encodes later tables on the same columns.
    skvae.metrics.leave_last_out : Hides the latest interactions of each user.

    Examples
    --------
    >>> from skvae.datasets import to_interactions
    >>> table = to_interactions(["ann", "bob", "ann", "ann"], ["tea", "tea", "rice", "tea"])
    >>> table.data.toarray()
    array([[1., 2.],
           [0., 1.]], dtype=float32)
    >>> table.user_ids.tolist(), table.item_ids.tolist()
    (['ann', 'bob'], ['rice', 'tea'])

    New users, on the same columns:

    >>> new = to_interactions(["eve", "eve"], ["tea", "soap"], item_ids=table.item_ids, unknown="ignore")
    >>> new.data.toarray()
    array([[0., 1.]], dtype=float32)

    Times and dislikes:

    >>> opinions = to_interactions(
    ...     ["ann", "ann", "bob"], ["rice", "tea", "tea"], [-1, 1, 1], times=[1999, 2001, 2000], negative="mask"
    ... )
    >>> opinions.times.toarray()
    array([[   0, 2001],
           [   0, 2000]])
    >>> opinions.disliked.toarray()
    array([[ True, False],
           [False, False]])
    """
    rules = Rules(unknown, duplicates, negative, dtype).check()
    table = LongTable.of(users, items, values, times)
    known = Catalogue.of("user_ids", user_ids), Catalogue.of("item_ids", item_ids)
    return encode(table, *known, rules)
