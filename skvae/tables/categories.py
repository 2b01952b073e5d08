"""Categories of columns: which values there are, and the way from values to their numbers.

Networks and mixtures number categories by the same functions. Networks keep the values of each nominal column in
`Columns.levels`; mixtures, whose tables hold numbers only, keep them and the binary columns in `Levels`.
"""

from numbers import Real
from typing import NamedTuple

import numpy as np

from skvae import _reduce
from skvae.tables.columns import listed
from skvae.tables.frame_facts import plain


def distinct(values):
    """List the distinct values of an array as plain Python objects, and for each cell the number of its own.

    Numbers are sorted; objects come in the order of their first cells.
    """
    if values.dtype != object:
        found, inverse = np.unique(values, return_inverse=True)
        return found.tolist(), inverse
    number = {}
    inverse = [number.setdefault(plain(value), len(number)) for value in values]
    return list(number), np.array(inverse, dtype=np.intp)


def sorted_values(values, label):
    """Sort the distinct values of a column.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Observed cells.
    label : str or int
        Of the column, for error messages.

    Raises
    ------
    ValueError
        If the values cannot be sorted, or one is infinite.
    """
    try:
        found = sorted(dict.fromkeys(values) if values.dtype == object else np.unique(values).tolist())
    except TypeError:
        types = sorted({type(value).__name__ for value in values})
        raise ValueError(
            f"the values of categorical column {label!r} cannot be sorted: it holds {' and '.join(types)}; make them "
            "all of one type, for example with astype(str)."
        ) from None
    infinite = [value for value in found if isinstance(value, Real) and value in (np.inf, -np.inf)]
    if infinite:
        raise ValueError(f"categorical column {label!r} holds {infinite[0]}; make such cells missing (NaN).")
    return found


def codes_of(values, missing, levels):
    """Number the cells of a column by their levels.

    Parameters
    ----------
    values : ndarray of shape (n,)
        Cells as numbers, Booleans or objects.
    missing : bool ndarray of shape (n,)
    levels : sequence
        Plain values; sorted or not.

    Returns
    -------
    codes : float64 ndarray of shape (n,)
        NaN where a cell is missing or its value is no level.
    unknown : bool ndarray of shape (n,)
        Which values are no levels.
    """
    codes, seen = np.full(len(values), np.nan), np.flatnonzero(~missing)
    known = np.asarray(levels)
    if values.dtype != object and len(known) and known.dtype.kind in "fiub":
        order = np.argsort(known, kind="stable")
        place = np.minimum(np.searchsorted(known, values[seen], sorter=order), len(known) - 1)
        found = np.where(known[order[place]] == values[seen], order[place], np.nan)
    else:
        code = {level: number for number, level in enumerate(levels)}
        each, inverse = distinct(values[seen])
        found = np.array([code.get(value, np.nan) for value in each], dtype=np.float64)[inverse]
    codes[seen] = found
    return codes, np.isnan(codes) & ~missing


class Levels(NamedTuple):
    """The categories of the columns of a table of numbers, as mixtures learn them.

    Attributes
    ----------
    categories : list of n_features ndarrays or None
        The values of each column, ascending; of a binary one, 0 and 1. None where no column is categorical.
    is_categorical : bool ndarray of shape (n_features,)
    """

    categories: list | None
    is_categorical: np.ndarray

    @classmethod
    def of(cls, X, columns):
        """Learn the categories of a table.

        Parameters
        ----------
        X : float ndarray of shape (n_samples, n_features)
            NaN where a cell is missing.
        columns : int ndarray or None
            The categorical ones.
        """
        is_categorical = np.zeros(X.shape[1], dtype=bool)
        if columns is None:
            return cls(None, is_categorical)
        is_categorical[columns] = True
        categories = [np.array([0.0, 1.0])] * X.shape[1]
        for column in np.flatnonzero(is_categorical):
            found, _ = distinct(X[~np.isnan(X[:, column]), column])
            if _reduce.is_shared():
                found, _ = distinct(np.concatenate(_reduce.gathered(np.array(found, dtype=np.float64))))
            categories[column] = np.array(found, dtype=np.float64)
        return cls(categories, is_categorical)

    @property
    def n_levels(self):
        """How many categories each column has; None: two each."""
        return None if self.categories is None else [len(categories) for categories in self.categories]

    def indicators(self):
        """List the column and the level of each mean that is reported: of a binary column level 1 only."""
        n_features = len(self.is_categorical)
        if self.categories is None:
            return np.arange(n_features), np.ones(n_features, dtype=np.int64)
        first, counts = np.where(self.is_categorical, 0, 1), self.n_levels
        column = np.concatenate([np.full(count - start, d) for d, (start, count) in enumerate(zip(first, counts))])
        level = np.concatenate([np.arange(start, count) for start, count in zip(first, counts)])
        return column, level

    def theta(self, means):
        """Pick the means that are free parameters of the model: the probabilities of the levels from 1 on."""
        _, level = self.indicators()
        return means[:, level > 0]

    def values(self):
        """Lay out the value of each level of each column, of shape (n_features, n_levels), padded with zeros."""
        n_features = len(self.is_categorical)
        if self.categories is None:
            return np.tile([0.0, 1.0], (n_features, 1))
        values = np.zeros((n_features, max(self.n_levels)))
        for row, categories in zip(values, self.categories):
            row[: len(categories)] = categories
        return values

    def coded(self, X, binarize, *, unknown_is_missing, who):
        """Number the level of every cell, NaN where it is missing; X itself where that is so already.

        Parameters
        ----------
        X : float ndarray of shape (n_samples, n_features)
        binarize : float or None
            Values of binary columns above it are 1; None: they are 0 and 1 already.
        unknown_is_missing : bool
            Whether to take a category that the column does not have for a missing cell, not for an error.
        who : str
            Name of the estimator, for error messages.
        """
        if self.categories is None:
            return _binary(X, np.arange(X.shape[1]), binarize, who)
        coded, binary = np.empty_like(X), ~self.is_categorical
        coded[:, binary] = _binary(X[:, binary], np.flatnonzero(binary), binarize, who)
        for column in np.flatnonzero(self.is_categorical):
            x, categories = X[:, column], self.categories[column]
            coded[:, column], unknown = codes_of(x, np.isnan(x), categories)
            if unknown.any() and not unknown_is_missing:
                row = np.flatnonzero(unknown)[0]
                raise ValueError(
                    f"X[{row}, {column}] = {x[row]:g} is a category that fit has not seen; the column has "
                    f"{listed([f'{value:g}' for value in categories], most=6)}. Pass handle_unknown='missing' to take "
                    "such cells for missing."
                )
        return coded


def _binary(X, columns, binarize, who):
    missing = np.isnan(X)
    ones = X == 1 if binarize is None else X > binarize
    other = (ones != X) & ~missing
    if not other.any():
        return X
    if binarize is None:
        row, column = np.argwhere(other)[0]
        raise ValueError(
            f"{who}(binarize=None) expects X in {{0, 1}}, but X[{row}, {columns[column]}] = {X[row, column]:g}; "
            "pass binarize=0.5 to threshold."
        )
    coded = ones.astype(X.dtype)
    coded[missing] = np.nan
    return coded
