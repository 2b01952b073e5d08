"""An encoder of long tables that remembers the ids of users and items."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from skvae._sparse import canonical_csr

from ._long_table import Catalogue, LongTable, Rules, as_ids, check_choice, encode, entries, factorize, on_types, quoted


class InteractionEncoder(BaseEstimator):
    """Encoder of long tables, with one interaction per row, as users x items matrices with remembered ids.

    `fit` remembers the ids of users and items. Later tables are put on the same rows and columns, without indexing the
    ids anew. `to_interactions` does the same once, without remembering.

    The columns of a table are passed one by one, as arrays, lists, or columns of a DataFrame of pandas or polars.

    Parameters
    ----------
    handle_unknown : {"error", "ignore"}, default="error"
        What `transform` does with interactions whose user or item is not known: raise an error, or leave them out. If
        not a single id is known, "ignore" warns.
    duplicates : {"sum", "last"}, default="sum"
        What to store if a pair of user and item occurs more than once: the sum of the values, or the last value. With
        times the last is the latest one.
    negative : {"keep", "error", "ignore", "mask"}, default="keep"
        What to do with negative values, such as dislikes, after duplicates are merged: store them like the others
        (recommenders refuse such a matrix), raise an error, leave them out, or leave them out and return them as
        `disliked`.
    user_ids, item_ids : array-like of unique ids, default=None
        Ids of the rows and of the columns, if they are known beforehand, in their order. `fit` then treats other ids
        as unknown, and `partial_fit` appends them. None takes the ids that occur, sorted.
    dtype : numeric dtype, default=numpy.float32
        Dtype of the matrices. An integer type that cannot hold the values is an error.

    Attributes
    ----------
    user_ids_ : ndarray of shape (n_users,)
        Id of each row.
    item_ids_ : ndarray of shape (n_items,)
        Id of each column.

    See Also
    --------
    to_interactions : Encodes one table.

    Examples
    --------
    >>> from skvae.datasets import InteractionEncoder
    >>> encoder = InteractionEncoder()
    >>> encoder.fit_transform(["ann", "bob", "ann"], ["tea", "tea", "rice"]).data.toarray()
    array([[1., 1.],
           [0., 1.]], dtype=float32)
    >>> new = encoder.transform(["eve", "dan", "eve"], ["tea", "rice", "tea"], rows="given")
    >>> new.user_ids.tolist(), new.data.toarray().tolist()
    (['dan', 'eve'], [[1.0, 0.0], [0.0, 2.0]])

    Names in and out of a recommender:

    >>> from skvae import PopularityRecommender
    >>> X = encoder.transform(["ann", "bob", "ann"], ["tea", "tea", "rice"]).data
    >>> ids, _ = PopularityRecommender().fit(X).recommend(new.data, k=2)
    >>> encoder.decode_items(ids)
    array([['tea', None],
           ['rice', None]], dtype=object)
    >>> encoder.encode_items(["tea"])
    array([1])

    New items come behind the known ones:

    >>> encoder.partial_fit(["ann"], ["milk"]).item_ids_.tolist()
    ['rice', 'tea', 'milk']
    """

    def __init__(
        self,
        *,
        handle_unknown="error",
        duplicates="sum",
        negative="keep",
        user_ids=None,
        item_ids=None,
        dtype=np.float32,
    ):
        self.handle_unknown = handle_unknown
        self.duplicates = duplicates
        self.negative = negative
        self.user_ids = user_ids
        self.item_ids = item_ids
        self.dtype = dtype

    def fit(self, users, items, values=None, *, times=None):
        """Remember the ids of a table, and forget earlier ones.

        Parameters
        ----------
        users, items : array-like of shape (n_interactions,)
            Ids of any one sortable type each.
        values : array-like of shape (n_interactions,), default=None
            Strength of each interaction. Only checked here.
        times : array-like of shape (n_interactions,), default=None
            When each interaction took place. Only checked here.

        Returns
        -------
        self : object
            The encoder, fitted.
        """
        self.fit_transform(users, items, values, times=times)
        return self

    def fit_transform(self, users, items, values=None, *, times=None):
        """Remember the ids of a table, and encode it.

        Parameters
        ----------
        users, items : array-like of shape (n_interactions,)
            Ids of any one sortable type each.
        values : array-like of shape (n_interactions,), default=None
            Strength of each interaction. None counts every interaction as 1.
        times : array-like of shape (n_interactions,), default=None
            When each interaction took place.

        Returns
        -------
        interactions : Bunch
            As `transform` returns it.
        """
        table, rules = LongTable.of(users, items, values, times), self._rules()
        interactions = encode(table, *self._given(), rules)
        self._remember(interactions.user_ids, interactions.item_ids)
        return interactions

    def partial_fit(self, users, items, values=None, *, times=None):
        """Append the new ids of a table to the known ones, which keep their rows and columns.

        Parameters
        ----------
        users, items : array-like of shape (n_interactions,)
            Ids, of the type of the known ones. The new ones of one call are sorted among themselves.
        values : array-like of shape (n_interactions,), default=None
            Strength of each interaction. Only checked here.
        times : array-like of shape (n_interactions,), default=None
            When each interaction took place. Only checked here.

        Returns
        -------
        self : object
            The encoder, fitted.
        """
        table = LongTable.of(users, items, values, times)
        self._rules()
        known = self._known() if hasattr(self, "item_ids_") else self._given()
        grown = [
            Catalogue.of(name, factorize(name, column)[0]) if ids is None else ids.extended(name, column)
            for name, column, ids in zip(("users", "items"), table, known)
        ]
        return self._remember(*grown)

    def transform(self, users, items, values=None, *, times=None, rows="fitted"):
        """Encode a table on the known columns.

        Parameters
        ----------
        users, items : array-like of shape (n_interactions,)
            Ids.
        values : array-like of shape (n_interactions,), default=None
            Strength of each interaction. None counts every interaction as 1.
        times : array-like of shape (n_interactions,), default=None
            When each interaction took place.
        rows : {"fitted", "given"}, default="fitted"
            The rows of the result: the known users, whether they occur in the table or not; or the users of the table,
            sorted, whether they are known or not.

        Returns
        -------
        interactions : Bunch
            With the attributes `data`, `user_ids`, `item_ids`, `times` and `disliked`, as `to_interactions` returns
            them.
        """
        check_is_fitted(self)
        check_choice("rows", rows, ("fitted", "given"))
        table, rules = LongTable.of(users, items, values, times), self._rules()
        known_users, known_items = self._known()
        return encode(table, known_users if rows == "fitted" else None, known_items, rules)

    def inverse_transform(self, X, *, user_ids=None):
        """Make a long table of a matrix.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_rows, n_items)
            Interactions on the known columns.
        user_ids : array-like of shape (n_rows,), default=None
            Id of each row. None: X has the rows of the known users.

        Returns
        -------
        table : Bunch
            With the attributes `users`, `items` and `values`, arrays with one entry for each stored cell of X, by row
            and column. ``transform(**table)`` leads back.
        """
        check_is_fitted(self)
        X = canonical_csr(X)
        user_ids = self.user_ids_ if user_ids is None else as_ids("user_ids", user_ids)
        shape = (len(user_ids), len(self.item_ids_))
        if X.shape != shape:
            raise ValueError(
                f"X has shape {X.shape}, but there are {shape[0]} users and {shape[1]} items; for other rows than "
                "those of the known users pass user_ids=..."
            )
        users = user_ids[np.repeat(np.arange(shape[0]), np.diff(X.indptr))]
        return Bunch(users=users, items=self.item_ids_[X.indices], values=X.data)

    def encode_items(self, items):
        """Find the columns of items.

        Parameters
        ----------
        items : array-like of shape (n,)
            Ids.

        Returns
        -------
        columns : int64 ndarray of shape (n,)
            An unknown item is an error, or -1 if `handle_unknown` is "ignore".
        """
        return self._places("items", items)

    def encode_users(self, users):
        """Find the rows of users.

        Parameters
        ----------
        users : array-like of shape (n,)
            Ids.

        Returns
        -------
        rows : int64 ndarray of shape (n,)
            An unknown user is an error, or -1 if `handle_unknown` is "ignore".
        """
        return self._places("users", users)

    def decode_items(self, columns):
        """Name the items of columns, for instance those that `recommend` returns.

        Parameters
        ----------
        columns : array-like of int, of any shape
            Columns; -1 stands for none.

        Returns
        -------
        items : object ndarray of the shape of `columns`
            Ids; None in place of -1.
        """
        check_is_fitted(self)
        return _named("columns", columns, self.item_ids_)

    def decode_users(self, rows):
        """Name the users of rows, for instance those that `similar_users` returns.

        Parameters
        ----------
        rows : array-like of int, of any shape
            Rows; -1 stands for none.

        Returns
        -------
        users : object ndarray of the shape of `rows`
            Ids; None in place of -1.
        """
        check_is_fitted(self)
        return _named("rows", rows, self.user_ids_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # it takes the columns of a table one by one
        return tags

    def _rules(self):
        return Rules(self.handle_unknown, self.duplicates, self.negative, self.dtype, "handle_unknown").check()

    def _given(self):
        return Catalogue.of("user_ids", self.user_ids), Catalogue.of("item_ids", self.item_ids)

    def _known(self):
        return Catalogue(self.user_ids_, self._row_of_user), Catalogue(self.item_ids_, self._column_of_item)

    def _places(self, name, ids):
        check_is_fitted(self)
        rules, known = self._rules(), self._known()[name == "items"]
        if np.size(ids) == 0:
            return np.empty(0, dtype=np.int64)
        ids = as_ids(name, ids)
        places = known.places(ids)
        unknown = ids[places < 0]
        if len(unknown) and rules.unknown == "error":
            raise ValueError(
                f"{len(unknown)} of {len(ids)} {name} are not known, the first being {quoted(entries(unknown))}; with "
                f"handle_unknown='ignore' their place is -1.{on_types(name, unknown, f'the known {name}', known.ids)}"
            )
        return places

    def _remember(self, users, items):
        users, items = (
            ids if isinstance(ids, Catalogue) else Catalogue.of(name, ids)
            for name, ids in (("user_ids", users), ("item_ids", items))
        )
        self.user_ids_, self._row_of_user = users
        self.item_ids_, self._column_of_item = items
        return self


def _named(what, places, ids):
    """Ids at places, None at -1, as an array of objects."""
    places = np.asarray(places)
    if places.size and places.dtype.kind not in "iu":
        raise ValueError(f"{what} must be whole numbers, but have dtype {places.dtype}.")
    outside = places[(places < -1) | (places >= len(ids))]
    if len(outside):
        raise ValueError(f"{what} hold {outside[0]}, but run from 0 to {len(ids) - 1}, and -1 stands for none.")
    named = np.empty(len(ids) + 1, dtype=object)  # the last is the one at -1
    named[:-1] = entries(ids)
    return named[places.astype(np.int64)]
