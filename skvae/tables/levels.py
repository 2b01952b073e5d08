"""Binary and categorical columns: which levels each has, and the way from values to the numbers of levels and back."""

from typing import NamedTuple

import numpy as np


class Levels(NamedTuple):
    """What a fit learns of the columns before it climbs.

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
        """Those of a table.

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
            categories[column] = np.unique(X[~np.isnan(X[:, column]), column]).astype(np.float64)
        return cls(categories, is_categorical)

    @property
    def n_levels(self):
        """Of each column; None: two of each."""
        return None if self.categories is None else [len(categories) for categories in self.categories]

    def indicators(self):
        """For each mean that is reported, the column and the level that it is of: of a binary column level 1 only."""
        n_features = len(self.is_categorical)
        if self.categories is None:
            return np.arange(n_features), np.ones(n_features, dtype=np.int64)
        first, counts = np.where(self.is_categorical, 0, 1), self.n_levels
        column = np.concatenate([np.full(count - start, d) for d, (start, count) in enumerate(zip(first, counts))])
        level = np.concatenate([np.arange(start, count) for start, count in zip(first, counts)])
        return column, level

    def theta(self, means):
        """What the model knows of the means: the probabilities of the levels from 1 on."""
        _, level = self.indicators()
        return means[:, level > 0]

    def values(self):
        """The value of each level of each column, of shape (n_features, n_levels), padded with zeros."""
        n_features = len(self.is_categorical)
        if self.categories is None:
            return np.tile([0.0, 1.0], (n_features, 1))
        values = np.zeros((n_features, max(self.n_levels)))
        for row, categories in zip(values, self.categories):
            row[: len(categories)] = categories
        return values

    def coded(self, X, binarize, *, unknown_is_missing, who):
        """X with the number of its level in every cell, NaN where it is missing; X itself where that is so already.

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
            coded[:, column] = self._numbered(X[:, column], column, unknown_is_missing)
        return coded

    def _numbered(self, x, column, unknown_is_missing):
        categories = self.categories[column]
        if not len(categories):  # refused elsewhere: nothing was observed
            return x
        number = np.minimum(np.searchsorted(categories, x), len(categories) - 1)
        unknown = (categories[number] != x) & ~np.isnan(x)
        if unknown.any() and not unknown_is_missing:
            row = np.flatnonzero(unknown)[0]
            raise ValueError(
                f"X[{row}, {column}] = {x[row]:g} is a category that fit has not seen; the column has "
                f"{_shortened(categories)}. Pass handle_unknown='missing' to take such cells for missing."
            )
        return np.where(np.isnan(x) | unknown, np.nan, number)


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


def _shortened(categories, n_shown=6):
    shown = ", ".join(f"{value:g}" for value in categories[:n_shown])
    return shown if len(categories) <= n_shown else f"{shown}, ... ({len(categories)} in all)"
