"""From a user's table to the model: cells as numbers, with errors that name them, and numbers in the model layout."""

import numpy as np

from skvae._rounding import CONSTANT_VARIANCE
from skvae.tables.categories import codes_of
from skvae.tables.checks import is_date, no_dates
from skvae.tables.column_likelihoods import likelihood_of
from skvae.tables.column_statistics import slices
from skvae.tables.columns import label, listed
from skvae.tables.frame_facts import plain
from skvae.tables.frames import all_numbers, as_table, cells_of, common_dtype

_CELLS_AT_ONCE = 2**18  # in float64, where cells are scaled


# ------------------------------------------------------------------------------------------------- from X to numbers
def as_numbers(X, columns, custom=None):
    """Turn a table into an array of numbers; refuse cells that their likelihood cannot have.

    Parameters
    ----------
    X : {DataFrame, array-like} of shape (n_samples, n_features)
    columns : Columns
    custom : dict or None, default=None
        The user's own likelihoods, from `fitted_likelihoods`.

    Returns
    -------
    numbers : ndarray of shape (n_samples, n_features)
        NaN where a cell is missing; the numbers of their levels, from 0, in nominal columns. float32 if all of X is
        float32, else float64. X itself, not a copy, where nothing had to change.

    Raises
    ------
    ValueError
        If a value is infinite, outside the domain of its likelihood, an unknown level of a nominal column or a string
        in any other; names the cell. And if X is no table, in scikit-learn's words.
    TypeError
        If a cell is of a type that is no number.
    """
    table = as_table(X, columns.who)
    if table.shape[1] != columns.n_features:
        raise ValueError(
            f"X has {table.shape[1]} features, but {columns.who} is expecting {columns.n_features} features as input."
        )
    if all_numbers(table) and not columns.levels:
        numbers = np.asarray(table, dtype=common_dtype(table))
    else:
        numbers = np.empty(table.shape, dtype=common_dtype(table))
        for j in range(columns.n_features):
            values, missing = cells_of(table, j)
            if j in columns.levels:
                values = _codes(values, missing, j, columns)
            numbers[:, j] = _floats(values, missing, j, columns, custom) if values.dtype == object else values
    asked = "expects finite values, NaN where a cell is missing"
    _refuse(columns, numbers, np.isinf(numbers), asked, "correct it, or make such cells missing")
    for block in columns.blocks:
        likelihood = likelihood_of(block, columns, custom)
        if likelihood.outside is not None and len(numbers):
            x = numbers[:, block.of_table]
            asked = f"with likelihood '{likelihood.label}' expects {likelihood.domain}"
            remedy = f"{likelihood.remedy} it, or give this column another likelihood"
            _refuse(columns, x, likelihood.outside(x), asked, remedy, block.columns)
    return numbers


def _codes(values, missing, j, columns):
    """Number the cells of a nominal column by their levels."""
    codes, unknown = codes_of(values, missing, columns.levels[j])
    if unknown.any():
        row = np.flatnonzero(unknown)[0]
        raise ValueError(
            f"{columns.cell(row, j)} = {plain(values[row])!r}, but the levels of this column that {columns.who} was "
            f"fitted on are {listed(list(map(repr, columns.levels[j])))}; make the cell missing (NaN or None), or fit "
            "on rows with this level too."
        )
    return codes


def _floats(values, missing, j, columns, custom):
    """Read cells of objects as floats, NaN where missing; refuse strings."""
    numbers = np.full(len(values), np.nan)
    for row in np.flatnonzero(~missing):
        value = values[row]
        if isinstance(value, str | bytes):
            block = next(block for block in columns.blocks if j in block.columns)
            raise ValueError(
                f"a {likelihood_of(block, columns, custom).label} column holds numbers, but {columns.cell(row, j)} = "
                f"{value!r} is a string; convert the column to numbers, for example by OneHotEncoder, or let "
                "VAETransformer read it as 'categorical', by a list of (likelihood, columns) or by likelihood='auto'."
            )
        if is_date(value):
            raise TypeError(no_dates(columns.who, label(columns.names, j), type(value).__name__))
        try:
            numbers[row] = value
        except TypeError as error:
            raise TypeError(f"{columns.cell(row, j)}: {error}") from error
    return numbers


def _refuse(columns, x, bad, asked, remedy, numbers=None):
    """Complain of the first bad cell of x, if there is one; `numbers` has those of its columns in the table."""
    if bad is None or not bad.any():
        return
    row, place = np.unravel_index(bad.argmax(), bad.shape)
    cell = columns.cell(row, place if numbers is None else numbers[place])
    raise ValueError(f"{columns.who} {asked}, but {cell} = {x[row, place]:g}; {remedy}.")


def refuse_changed_constants(numbers, columns):
    """Complain of columns that were constant when they were measured, and are no longer."""
    for j, value in columns.constants.items():
        away = np.flatnonzero(np.abs(numbers[:, j].astype(np.float64) - value) > 1e-6 * max(1.0, abs(value)))
        if len(away):
            raise ValueError(
                f"{columns.who} left out column {label(columns.names, j)!r}, which was constant ({value:g}) in its "
                f"first rows, but X[{away[0]}] has {numbers[away[0], j]:g} there; begin anew with rows in which it "
                "varies."
            )


# -------------------------------------------------------------------------------------------------- to the model
def encode(numbers, columns):
    """Lay numbers out as the model reads them.

    Parameters
    ----------
    numbers : float ndarray of shape (n_samples, n_features)
        From `as_numbers`.
    columns : Columns

    Returns
    -------
    x : ndarray of shape (n_samples, width)
        Of the dtype of `numbers`, and `numbers` itself, not a copy, where nothing changes; zero where a cell is
        missing.
    observed : bool ndarray of shape (n_samples, width) or None
        None where every cell was observed. A missing nominal cell misses in all columns of its levels.
    """
    missing = np.isnan(numbers)
    some = bool(missing.any())
    if not some and len(columns.blocks) == 1 and not (columns.blocks[0].nominal or columns.blocks[0].scaled):
        return numbers, None
    x = np.zeros((len(numbers), columns.width), dtype=numbers.dtype)
    for block in columns.blocks:
        if block.nominal:
            for j, start in zip(block.columns, block.starts):
                rows = np.flatnonzero(~missing[:, j])
                x[rows, start + numbers[rows, j].astype(np.intp)] = 1
            continue
        part, given = x[:, block.span], numbers[:, block.of_table]
        if block.scaled:
            location, scale = columns.location[block.span], columns.scale[block.span]
            for rows in slices(len(given), _CELLS_AT_ONCE // len(location)):
                shifted = np.subtract(given[rows], location, dtype=np.float64)
                part[rows] = np.divide(shifted, scale, out=shifted)
        else:
            part[:] = given
        if some:
            part[missing[:, block.of_table]] = 0
    return x, ~missing[:, columns.source] if some else None


def encoder_inputs(x, observed, columns, custom=None):
    """Give what the encoder reads: each column on a scale that suits a network.

    Parameters
    ----------
    x, observed : ndarray of shape (n_samples, width); observed may be None
        From `encode`.
    columns : Columns
    custom : dict or None, default=None
        The user's own likelihoods, from `fitted_likelihoods`.

    Returns
    -------
    inputs : ndarray of shape (n_samples, width)
        Zero where a cell is missing. What a likelihood gives to read (counts as log(1 + count)), standardised as of the
        fit, the others as they are. x itself where nothing changes.
    """
    inputs = x
    for block in columns.blocks:
        encoder_input = likelihood_of(block, columns, custom).encoder_input
        if encoder_input is not None:
            inputs = x.copy() if inputs is x else inputs
            part = inputs[:, block.span]
            with np.errstate(divide="ignore", invalid="ignore"):  # missing cells hold 0 until all is done
                part[:] = encoder_input(part)
            part -= columns.input_mean[block.span].astype(x.dtype)
            part /= columns.input_scale[block.span].astype(x.dtype)
            if observed is not None:
                part[~observed[:, block.span]] = 0
    return inputs


def log_jacobian(numbers, columns):
    """Compute what turns the model's log-density into nats of the data as given.

    Parameters
    ----------
    numbers : float ndarray of shape (n_samples, n_features)
        From `as_numbers`.
    columns : Columns

    Returns
    -------
    log_jacobian : float64 ndarray of shape (n_samples,)
        Minus the sum of the log scales of the scaled cells that were observed, and the log-densities of columns that
        were constant.
    """
    log_scale = np.zeros(columns.n_features)
    for block in columns.blocks:
        if block.scaled:
            log_scale[block.of_table] = np.log(columns.scale[block.span])
    total = np.full(len(numbers), -log_scale.sum())
    for j in np.flatnonzero(np.isnan(numbers).any(axis=0)):
        total += np.isnan(numbers[:, j]) * log_scale[j]
    for j, value in columns.constants.items():
        away = (numbers[:, j].astype(np.float64) - value) ** 2 / CONSTANT_VARIANCE
        total -= 0.5 * np.nan_to_num(away + np.log(2 * np.pi * CONSTANT_VARIANCE), nan=0.0)
    return total
