"""Prepares the rows of a fit for EM: as sufficient statistics where a covariance is cheap, else as batches of rows."""

import contextlib
import functools
import math
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import assert_all_finite

from skvae import _reduce
from skvae._tensors import Table, rows_a_batch
from skvae.engines import em
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.checks import refuse_empty_columns
from skvae.tables.column_statistics import column_means_and_variances, without_rounding
from skvae.tables.weights import checked_weight, weigh

FLOAT = torch.float64  # of sufficient statistics and K x K systems, whatever the dtype of X
_COLUMNS_HASHED = 1  # at a time, to find equal rows
_PROBED_ROWS = 256
_OFF_CENTRE = 10.0  # standard deviations from 0 at which rows are centred before their products are summed
# Cells up to which the batches of a table are made once and kept. To make them, an accelerator must be waited for.
_HELD_CELLS = {"cpu": 2**24, "cuda": 2**28}
_FEW_COLUMNS = 2**11  # up to this many columns a covariance is cheap, however few the rows
_PATTERN_CELLS = 2**21  # cells of K x K matrices in memory at once, one matrix for each pattern of missing cells


class TrainingData(NamedTuple):
    """What EM needs to know of the rows of a fit.

    Attributes
    ----------
    batches : list or iterable
        Batches for the EM engine, measured from `origin`.
    origin : ndarray of shape (n_features,)
        Means of the columns. Where no cell is missing, the model's `mu`, measured from here, is 0.
    variance : ndarray of shape (n_features,)
        Variances of the columns; 0 for constant columns.
    n : float
        Total weight of the rows.
    n_rows : float
        Number of the rows, see `count_rows`.
    dtype : dtype
        Type of X, and of the fitted attributes.
    device : torch.device
    statistics : dict or None
        Sufficient statistics of all rows: "n", "n_rows", "mean" and "S"; None where only the rows themselves are known.
    complete : bool
        Whether no cell is missing.
    """

    batches: object
    origin: np.ndarray
    variance: np.ndarray
    n: float
    n_rows: float
    dtype: np.dtype
    device: torch.device
    statistics: dict | None = None
    complete: bool = True

    def ascent(self):
        """A block in which to fit: where all rows are known by their statistics, so they are to every process."""
        return contextlib.nullcontext() if self.statistics is None else _reduce.alone()


# ------------------------------------------------------------------------------------------------------- training data
def training_data(X, weight, n_rows, n_components, *, batch_size, device, name, names=None):
    """Prepare rows: their sufficient statistics if there are as many rows as columns, else batches of the rows.

    Rows with missing cells always become batches. So do wide tables that have many rows only by their weights: their
    D x D covariance would cost more. Cells that are not finite are refused here.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Equal rows merged; NaN where a cell is missing.
    weight : ndarray of shape (n_rows,) or None
    n_rows : float
        Number of rows before equal ones were merged, see `count_rows`.
    n_components : int
    batch_size : int or "auto"
    device : torch.device
    name : str
        Name of the estimator, for error messages.
    names : list of str or None, default=None
        Of the columns, for error messages.

    Returns
    -------
    data : TrainingData
    """
    if _reduce.count(len(X)) >= X.shape[1] or n_rows >= X.shape[1] <= _FEW_COLUMNS:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found next
            statistics = statistics_of_rows(X, weight, n_rows, batch_size, device)
        if np.isfinite(statistics["mean"]).all():  # one pass over the rows finds the rare cell that is not
            return from_statistics(statistics, X.dtype, device)
    assert_all_finite(X, allow_nan=True, estimator_name=name, input_name="X")
    missing = np.isnan(X)
    complete = not _reduce.largest(bool(missing.any()))
    if not complete:
        refuse_empty_columns(X, name, names=names)
    origin, variance = column_means_and_variances(X, weight, None if complete else ~missing)
    _refuse_overflow(variance, X.dtype)
    size = rows_a_batch(batch_size, X.shape[1], device)
    if not len(X):
        batches = []
    elif complete:
        batches = Table(X - origin, device, FLOAT, weight=weight, allow_missing=False).batches(size)
        if device.type != "cpu":  # the rows are placed there already: batches only name them
            batches = list(batches)
    else:
        batches = _batches_with_gaps(Table(X, device, FLOAT, weight=weight, shift=origin), size, n_components)
    n = _reduce.count(float(len(X) if weight is None else weight.sum()))
    return TrainingData(
        batches, origin, without_rounding(variance, origin), n, n_rows, X.dtype, device, complete=complete
    )


def from_statistics(statistics, dtype, device):
    """Prepare rows of which only the sufficient statistics are known.

    Parameters
    ----------
    statistics : dict
        "n", "n_rows", "mean" and "S".
    dtype : dtype
    device : torch.device

    Returns
    -------
    data : TrainingData

    Raises
    ------
    ValueError
        If variances are not finite.
    """
    variance = statistics["S"].diagonal().copy()
    _refuse_overflow(variance, dtype)
    n, S = (torch.as_tensor(statistics[name], dtype=FLOAT, device=device) for name in ("n", "S"))
    batch = fa.SufficientStatistics(n, torch.zeros(len(variance), dtype=FLOAT, device=device), S)
    return TrainingData(
        [batch], statistics["mean"], variance, statistics["n"], statistics["n_rows"], dtype, device, statistics
    )


def _refuse_overflow(variance, dtype):
    """Complain of variances whose sum is not finite in the dtype of the fitted attributes."""
    if not variance.sum() < np.finfo(dtype).max:
        wider = " or give float64" if dtype == np.float32 else ""
        raise ValueError(f"X holds values whose squares overflow in {dtype}; scale it{wider}.")


def _batches_with_gaps(table, size, n_components):
    """Batches of rows with missing cells; the complete rows among them as one `SufficientStatistics` if they are many.

    An EM step then costs the same however many complete rows there are.
    """
    batches = table.batches(size, patterns_a_batch(n_components))
    if table.n_complete < table.shape[1]:
        kind = "cpu" if table.device.type == "cpu" else "cuda"
        return list(batches) if table.X.size <= _HELD_CELLS[kind] else batches
    complete, others = [], []
    for batch in batches:
        if batch.patterns is None:
            complete.append(fa.sums(batch))
        else:
            others.append(batch)
    total = functools.reduce(em.add, complete)
    no_shift = torch.zeros(len(total.x), dtype=FLOAT, device=table.device)
    return [fa.sufficient_statistics(total, no_shift), *others]


def patterns_a_batch(n_components):
    """How many rows with missing cells, of as many patterns, to handle at once."""
    return max(1, _PATTERN_CELLS // (n_components + 1) ** 2)


# ------------------------------------------------------------------------------------------------------------ weights
def merged_rows(X, sample_weight, name, min_rows=1):
    """Check weights, merge equal rows (in small tables), and count the rows.

    Returns
    -------
    rows : ndarray of shape (n_distinct, n_features)
    weight : ndarray of shape (n_distinct,) or None
        None where every row counts once.
    n_rows : float
        See `count_rows`.
    """
    weight = sample_weight
    if weight is not None:
        weight = checked_weight(weight, X)
        n_weighted = _reduce.count(np.count_nonzero(weight))
        if n_weighted < min_rows:
            raise ValueError(
                f"{name} needs at least {min_rows} rows, but sample_weight is zero for all but {n_weighted} sample."
            )
    return *weigh(X, weight, n_hashed=_COLUMNS_HASHED), count_rows(X, weight)


def count_rows(X, weight):
    """Count rows: a row of some weight is one row, or as many as its weight says, if that is more.

    A row given twice thus counts like a row of weight 2, the counts of parts add up to the count of the whole, and
    weights that sum to 1 do not make many rows few. The count does not depend on whether equal rows are merged, which
    the size of the table decides.
    """
    return _reduce.count(float(len(X)) if weight is None else float(np.maximum(weight, 1.0)[weight > 0].sum()))


# ------------------------------------------------------------------------------------------------ sufficient statistics
def statistics_of_rows(X, weight, n_rows, batch_size, device):
    """Sum up complete rows: a dict of "n", "n_rows", "mean" and "S"; not finite if a cell is not."""
    D = X.shape[1]
    shift = _reduce.of_first(_rough_centre(X))
    size = rows_a_batch(batch_size, D, device)
    if batch_size == "auto":  # each batch adds D x D products to the sums
        size = max(size, 3 * D)
    if device.type == "cpu":
        batches = _blocks(X, weight, shift, size)
    else:
        batches = Table(X, device, FLOAT, weight=weight, shift=shift, allow_missing=False).batches(size)
    shift = 0.0 if shift is None else shift if device.type == "cpu" else torch.as_tensor(shift, device=device)
    n, mean, S = fa.mean_and_covariance(em.summed(fa.sums, batches), shift)
    mean, S = (array if isinstance(array, np.ndarray) else array.cpu().numpy() for array in (mean + shift, S))
    return {"n": float(n), "n_rows": n_rows, "mean": mean, "S": S}


def _blocks(X, weight, shift, size):
    """Batches of complete rows in float64 less `shift`, each of which overwrites the one before.

    They are made by NumPy, as are the sums: when the threads of NumPy and torch take turns, each waits for the other.
    """
    as_it_is = shift is None and X.dtype == np.float64
    memory = None if as_it_is else np.empty((min(size, len(X)), X.shape[1]))
    weight = np.ones(len(X)) if weight is None else weight.astype(np.float64, copy=False)
    shift = 0.0 if shift is None else shift
    for start in range(0, len(X), size):
        rows = X[start : start + size]
        if not as_it_is:
            rows = np.subtract(rows, shift, out=memory[: len(rows)])
        yield fa.Block(rows, weight[start : start + size])


def _rough_centre(X):
    """About the means of columns that lie far from 0 for their spread, 0 for others; None where there are none."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found in the sums
        probe = X[:: max(1, len(X) // _PROBED_ROWS)].astype(np.float64)
        mean = probe.sum(axis=0) / len(probe)
        probe -= mean
        far = np.abs(mean) > _OFF_CENTRE * np.sqrt((probe * probe).sum(axis=0) / len(probe))
    return np.where(far, mean, 0.0) if far.any() else None


def statistics_of_both(some, others):
    """Sufficient statistics of two sets of rows together; dicts like those of `statistics_of_rows`."""
    both = fa.union(*(fa.SufficientStatistics(part["n"], part["mean"], part["S"]) for part in (some, others)))
    return {"n": both.n, "n_rows": some["n_rows"] + others["n_rows"], "mean": both.mean, "S": both.S}


def statistics_of_covariance(S, n_samples, mean):
    """Check a covariance matrix, number of rows and mean (None: zeros); return them as sufficient statistics."""
    matrix = S.astype(np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError("S must be a covariance matrix, but it holds NaN or infinity.")
    scale = np.abs(matrix).max()
    if matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix, matrix.T, rtol=0, atol=1e-6 * scale):
        raise ValueError(f"S must be a symmetric matrix, but its shape is {matrix.shape} or it equals no transpose.")
    lowest = np.linalg.eigvalsh(matrix)[0]
    if lowest < -1e-6 * scale:
        raise ValueError(f"S must be a covariance matrix, but it has the eigenvalue {lowest:.3g} < 0.")
    if not isinstance(n_samples, Real) or isinstance(n_samples, bool) or not 0 < n_samples < math.inf:
        raise ValueError(f"n_samples must be a positive number of rows, but it is {n_samples!r}.")
    mean = np.zeros(len(matrix)) if mean is None else np.array(mean, dtype=np.float64)
    if mean.shape != (len(matrix),) or not np.isfinite(mean).all():
        raise ValueError(f"mean must hold {len(matrix)} finite numbers, one a column, but it is {mean!r}.")
    n = float(n_samples)
    return {"n": n, "n_rows": n, "mean": mean, "S": (matrix + matrix.T) / 2}
