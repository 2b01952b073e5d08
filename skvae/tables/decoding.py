"""From the model back to the user's table: values of the model layout as numbers, and numbers as cells."""

from numbers import Real

import numpy as np

from skvae.likelihoods import Mixed
from skvae.tables.frame_facts import dtype_of, empty_frame, not_plain
from skvae.tables.frames import as_table, filled_frame, is_frame, merged, series_like, words
from skvae.tables.polars_frames import is_polars, made, names_and_dtypes


def decode(values, columns):
    """Turn values of the model layout into numbers in the units of the table.

    Parameters
    ----------
    values : float ndarray of shape (n_samples, width)
        Means or samples; of nominal columns probabilities, or anything that is largest for the level meant.
    columns : Columns

    Returns
    -------
    numbers : ndarray of shape (n_samples, n_features)
        As `encoding.as_numbers` gives them, of the dtype of `values`; the most probable level in nominal columns.
    """
    numbers = np.empty((len(values), columns.n_features), dtype=values.dtype)
    for block in columns.blocks:
        if block.nominal:
            for j, start, size in zip(block.columns, block.starts, block.sizes):
                numbers[:, j] = values[:, start : start + size].argmax(axis=1)
        else:
            span = block.span
            numbers[:, block.of_table] = values[:, span] * columns.scale[span] + columns.location[span]
    for j, value in columns.constants.items():
        numbers[:, j] = value
    return numbers


def noise_variance(likelihood, own, columns):
    """Give the variance of each column given z, in the units of the table, where it does not depend on z.

    Parameters
    ----------
    likelihood : Likelihood
        From `model_likelihood`.
    own : dict of Tensor
        Its parameters, with an axis of one member.
    columns : Columns

    Returns
    -------
    variance : float64 ndarray of shape (n_features,) or None
        NaN in columns of other likelihoods and in those that were constant; None where no column has one.
    """
    variance = np.full(columns.n_features, np.nan)
    for number, block in enumerate(columns.blocks):
        mixed = isinstance(likelihood, Mixed)
        part, mine = (likelihood.parts[number][0], likelihood.own_of(number, own)) if mixed else (likelihood, own)
        psi = part.noise_variance(mine, block.stop - block.start)
        if psi is not None:
            psi = psi.reshape(-1).detach().cpu().double().numpy()
            variance[list(block.columns)] = psi * columns.scale[block.span] ** 2
    return None if np.isnan(variance).all() else variance


# --------------------------------------------------------------------------------------------- from numbers to tables
def restore(numbers, columns, like=None):
    """Turn numbers into the user's kind of table.

    Parameters
    ----------
    numbers : float ndarray of shape (n_samples, n_features)
        From `decode` or `encoding.as_numbers`.
    columns : Columns
    like : {DataFrame, array-like} or None, default=None
        A table of as many rows that gives the container and, if a frame, index and names of columns. None: what
        was fitted on.

    Returns
    -------
    table : {DataFrame, ndarray} of shape (n_samples, n_features)
        A frame has the dtypes that were fitted on (those of `like` after a fit on an array): integers are rounded,
        Booleans are whether a number exceeds 0.5. An array has the dtype of `numbers`, or holds objects if levels
        are no numbers, or Booleans among objects.
    """
    facts = columns.frame
    of_polars = isinstance(facts, list)
    if is_polars(like) or like is None and of_polars:
        described = facts if of_polars else names_and_dtypes(like)
        return made(described, lambda j, dtype: _words(numbers[:, j], dtype, j, columns))
    fitted = None if facts is None or of_polars else [dtype_of(each) for each in facts.dtypes]
    if like is None and fitted is not None:
        like = empty_frame(facts).reindex(range(len(numbers)))
    if not is_frame(like):
        return _as_array(numbers, columns)
    out = like.copy()
    for j, dtype in enumerate(like.dtypes if fitted is None else fitted):
        out.isetitem(j, series_like(like.iloc[:, j], _words(numbers[:, j], dtype, j, columns), dtype, out.index))
    return out


def fill_missing(X, numbers, values, columns):
    """Copy X, as it was given, with values in its missing cells.

    Parameters
    ----------
    X : {DataFrame, array-like} of shape (n_samples, n_features)
    numbers : float ndarray of shape (n_samples, n_features)
        `as_numbers(X, columns)`.
    values : float ndarray of shape (n_samples, n_features)
        As from `decode`; read where `numbers` is NaN.
    columns : Columns

    Returns
    -------
    X_filled : {DataFrame, ndarray} of shape (n_samples, n_features)
        A frame keeps its dtypes, which decide whether integers are rounded and Booleans are made; categories gain
        a level where they lack it. An array keeps the dtype of `numbers`, or holds objects if X does and levels
        are no numbers, or Booleans.
    """
    missing = np.isnan(numbers)
    if is_frame(X):
        return filled_frame(X, missing, lambda j, rows, dtype: _words(values[rows, j], dtype, j, columns))
    filled = _as_array(merged(missing, values, numbers), columns)
    if filled.dtype == object:  # what was observed stays as it is: True stays True
        filled[~missing] = as_table(X, columns.who)[~missing]
    return filled


def with_index_of(X, table, columns):
    """Give a table that was decoded from rows of X the index and labels of X, where that is a frame."""
    if is_polars(X):
        return type(X)(table, schema=X.columns, orient="row") if columns.all_numbers else table
    if not is_frame(X) or is_polars(table):
        return table
    return type(X)(table, index=X.index, columns=X.columns) if columns.all_numbers else table.set_axis(X.index, axis=0)


def _as_array(numbers, columns):
    worded = not all(isinstance(value, Real) for levels in columns.levels.values() for value in levels)
    out = numbers.astype(object) if worded or (columns.boolean_columns and columns.of_objects) else numbers.copy()
    for j in {*columns.levels, *columns.boolean_columns}:
        out[:, j] = _words(numbers[:, j], out.dtype, j, columns)
    return out


def _words(numbers, dtype, j, columns):
    """Turn numbers of column j into its cells."""
    levels = columns.levels.get(j)
    if j in columns.level_dtypes:
        levels = not_plain(levels, columns.level_dtypes[j])
    return words(numbers, dtype, levels, boolean=j in columns.boolean_columns)


def as_given(values, columns):
    """Turn values of the model layout into the units and, where they are not plain numbers, the types of the table.

    Parameters
    ----------
    values : float ndarray of shape (n_samples, width)
    columns : Columns

    Returns
    -------
    table : {ndarray, DataFrame} of shape (n_samples, n_features)
    """
    numbers = decode(values, columns).astype(values.dtype, copy=False)
    return numbers if columns.all_numbers else restore(numbers, columns)
