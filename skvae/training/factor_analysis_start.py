"""Factor analysis of rows in the model layout: where networks start from, and what they must beat.

By its one engine and model, as `FactorAnalysisEM`, without the face.
"""

import numpy as np
import torch

from skvae._rounding import is_constant
from skvae._tensors import Noise, Table, by_row
from skvae.engines import em
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.column_statistics import column_means_and_variances

_TOL = 1e-3  # nats, of all rows
_CPU, _FLOAT = torch.device("cpu"), torch.float64
_ROWS = 4096  # of a batch
_PATTERN_CELLS = 2**20  # of the K x K matrices of the patterns of missing cells in one batch


def factor_analysis(Z, weight, n_components, *, tied=False, floor=None, start=None):
    """Maximum likelihood, along its principal axes.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    weight : ndarray of shape (n_rows,)
    n_components : int
    tied : bool
        One noise variance for all columns.
    floor : float or None
        Of the noise, as a share of a column's variance; None: that of `FactorAnalysisEM`.
    start : Params or None

    Returns
    -------
    params : Params of float64 Tensors
    """
    Z, weight = Z[weight > 0], weight[weight > 0]
    mean, variance = column_means_and_variances(Z, weight, _seen(Z))
    constant = is_constant(variance, mean)
    variance = np.where(constant, 0.0, variance)  # without what rounding of the mean leaves
    model = fa.FactorAnalysis(min(n_components, Z.shape[1]), torch.from_numpy(variance), tied, floor)
    table = Table(Z, _CPU, _FLOAT, weight=weight)
    complete = table.patterns is None
    origin = torch.from_numpy(mean)
    mu = torch.zeros_like(origin) if complete else origin  # moments are central
    if start is None:
        start = model.init(mu, Noise(0))
    else:
        still = torch.from_numpy(constant)
        start = _adapted(start, mu if complete else start.mu, mu if complete else origin, model.floor, still)
    batches = [_moments(Z, weight, mean)] if complete else _batches(table, model.n_components)
    total = float(weight.sum())
    plan = em.Plan(1000, lambda step: step.gain * total < _TOL, total, accelerate=True)
    found = em.ascend(model, batches, [start], plan=plan).params
    return fa.principal(found._replace(mu=origin + found.mu) if complete else found)


def constant_columns(Z, weight):
    """Which columns do not vary but by rounding, or have no cell observed."""
    mean, variance = column_means_and_variances(Z, weight, _seen(Z))
    return is_constant(variance, mean)


def _seen(Z):
    missing = np.isnan(Z)
    return ~missing if missing.any() else None


def _adapted(start, mu, mean, floor, constant):
    """A start from other rows: what is constant here has no loadings, which its tiny noise would make infinite."""
    W = torch.where(constant[:, None], 0.0, start.W)
    return fa.Params(torch.where(constant, mean, mu), W, torch.where(constant, floor, start.psi.maximum(floor)))


def _batches(table, n_components):
    return table.batches(_ROWS, max(64, _PATTERN_CELLS // (n_components + 1) ** 2))


def _moments(Z, weight, mean):
    centred = (Z - mean) * np.sqrt(weight)[:, None]
    n = torch.tensor(weight.sum(), dtype=_FLOAT)
    return fa.SufficientStatistics(n, torch.zeros(Z.shape[1], dtype=_FLOAT), torch.from_numpy(centred.T @ centred) / n)


def at_work(params, Z, function):
    """What `function(batch, params)` says of each row of Z, as a float64 ndarray."""
    batches = _batches(Table(Z, _CPU, _FLOAT), params.W.shape[1])
    return by_row(batches, len(Z), lambda batch: function(batch, params))


def posterior(batch, params):
    """Means, then log-variances of the best factorised posterior, (n_rows, 2 K)."""
    q = fa.posterior(batch, params)
    log_variance = -torch.linalg.inv(q.V).diagonal(dim1=-2, dim2=-1).log()
    pattern = torch.zeros(len(batch.X), dtype=torch.int64) if batch.pattern is None else batch.pattern
    return torch.cat([q.mean, log_variance[pattern]], -1)


def expected(params, x, observed):
    """x with its missing cells replaced by their means given the others of the row."""
    mean = at_work(params, np.where(observed, x.astype(np.float64), np.nan), posterior)[:, : params.W.shape[1]]
    return np.where(observed, x, mean @ params.W.numpy().T + params.mu.numpy())
