"""Factor analysis of rows in the model layout: the initial parameters of networks, and the model that they must beat.

It runs the same engine and model as `FactorAnalysisEM`, without that estimator.
"""

import contextlib
import math

import numpy as np
import torch

from skvae import _reduce
from skvae._rounding import is_constant
from skvae._tensors import Noise, Table, by_row
from skvae.engines import em
from skvae.models.decomposition import factor_analysis as fa
from skvae.tables.column_statistics import column_means_and_variances

_LEAST_BETA = 0.01  # for less, the noise of the posterior would vanish
_TOL = 1e-3  # nats, of all rows
_CPU, _FLOAT = torch.device("cpu"), torch.float64
_ROWS = 4096  # of a batch
_PATTERN_CELLS = 2**20  # of the K x K matrices of the patterns of missing cells in one batch


def factor_analysis(Z, weight, n_components, *, tied=False, floor=None, beta=1.0, init_params=None):
    """Fit factor analysis by maximum likelihood, or by the bound with weight `beta` of its KL term.

    The factors lie along the principal axes.

    Parameters
    ----------
    Z : ndarray of shape (n_rows, n_columns)
        NaN where a cell is missing.
    weight : ndarray of shape (n_rows,)
    n_components : int
    tied : bool
        One noise variance for all columns.
    floor : float or None
        Least noise variance, as a share of a column's variance; None: that of `FactorAnalysisEM`.
    beta : float
        Weight of the KL term; factors that explain less than they cost vanish.
    init_params : Params or None
        Where EM begins.

    Returns
    -------
    params : Params of float64 Tensors
    """
    Z, weight = Z[weight > 0], weight[weight > 0]
    seen = _seen(Z)
    mean, variance = column_means_and_variances(Z, weight, seen)
    constant = is_constant(variance, mean)
    variance = np.where(constant, 0.0, variance)  # without what rounding of the mean leaves
    model = _WeighedKL(min(n_components, Z.shape[1]), torch.from_numpy(variance), tied, floor)
    model.beta = beta
    complete = seen is None
    origin = torch.from_numpy(mean)
    mu = torch.zeros_like(origin) if complete else origin  # the statistics of complete rows are about the mean
    if init_params is None:
        init_params = model.init(mu, Noise(0))
    else:
        mu = mu if complete else init_params.mu
        where_constant = mu if complete else origin
        init_params = _of_other_rows(init_params, mu, where_constant, model.floor, torch.from_numpy(constant))
    total, known = float(_reduce.count(weight.sum())), contextlib.nullcontext()
    if not complete:
        batches = _batches(Table(Z, _CPU, _FLOAT, weight=weight), model.n_components)
    elif _reduce.count(len(Z)) < Z.shape[1]:  # a covariance would be larger than the rows
        batches = list(Table(Z - mean, _CPU, _FLOAT, weight=weight).batches(_ROWS))
    else:
        centred = (Z - mean) * np.sqrt(weight)[:, None]
        n = torch.tensor(total, dtype=_FLOAT)
        S = torch.from_numpy(_reduce.count(centred.T @ centred)) / n
        batches = [fa.SufficientStatistics(n, torch.zeros(Z.shape[1], dtype=_FLOAT), S)]
        known = _reduce.alone()  # by every process
    plan = em.Plan(1000, lambda step: step.gain * total < _TOL, total, accelerate=True)
    with known:
        found = em.ascend(model, batches, [init_params], plan=plan).params
    return fa.principal(found._replace(mu=origin + found.mu) if complete else found)


class _WeighedKL(fa.FactorAnalysis):
    """The steps of EM for E_q[log p(x | z)] - beta KL(q || p).

    The best q has the form of the posterior for noise of beta Psi. With it, the bound is beta log N(mu, W W' + beta
    Psi) and a term for each observed cell.
    """

    beta = 1.0

    def e_step(self, batch, params, memory=None):
        return super().e_step(batch, tempered(params, self.beta), memory)

    def bound(self, stats, params):
        if self.beta == 1:
            return stats.bound
        cells = stats.n.expand(len(params.psi)) @ _of_cells(params.psi, self.beta)
        return max(self.beta, _LEAST_BETA) * stats.bound + cells


def tempered(params, beta):
    """Parameters whose posterior is the best q for a KL term of weight `beta`."""
    return params if beta == 1 else params._replace(psi=max(beta, _LEAST_BETA) * params.psi)


def _of_cells(psi, beta):
    """By how much an observed cell raises the bound above beta log N(mu, W W' + beta Psi)."""
    beta = max(beta, _LEAST_BETA)
    return 0.5 * (beta * (2 * math.pi * beta * psi).log() - (2 * math.pi * psi).log())


def bound_of_rows(params, Z, beta):
    """Bound of each row with weight `beta` of its KL term, for the best q; at beta = 1 log p(x)."""
    bound = evaluate(fa.log_prob, tempered(params, beta), Z)
    return bound if beta == 1 else max(beta, _LEAST_BETA) * bound + ~np.isnan(Z) @ _of_cells(params.psi, beta).numpy()


def without_noise(params, Z, weight, floor=None):
    """Numbers of the columns whose noise variance is at its floor (Heywood cases)."""
    mean, variance = column_means_and_variances(Z, weight, _seen(Z))
    low = params.psi.numpy() <= 2 * (floor or fa.UNIQUENESS_FLOOR) * variance
    return np.flatnonzero(low & ~is_constant(variance, mean))


def constant_columns(Z, weight):
    """Tell which columns vary by rounding only, or have no observed cell."""
    mean, variance = column_means_and_variances(Z, weight, _seen(Z))
    return is_constant(variance, mean)


def _seen(Z):
    """Which cells were seen; None where all were, in the rows of all processes."""
    missing = np.isnan(Z)
    return ~missing if _reduce.largest(bool(missing.any())) else None


def _of_other_rows(params, mu, mean, floor, constant):
    """Adapt parameters fitted to other rows: a column that is constant in these gets no loadings.

    The tiny noise of such a column would make its loadings infinite.
    """
    W = torch.where(constant[:, None], 0.0, params.W)
    return fa.Params(torch.where(constant, mean, mu), W, torch.where(constant, floor, params.psi.maximum(floor)))


def _batches(table, n_components):
    return table.batches(_ROWS, max(64, _PATTERN_CELLS // (n_components + 1) ** 2))


def evaluate(function, params, Z):
    """Apply `function(batch, params)` to the rows of Z; the results come as a float64 ndarray."""
    table = Table(Z, _CPU, _FLOAT)
    batches = _batches(table, params.W.shape[1]) if len(Z) else [table.whole]
    return by_row(batches, len(Z), lambda batch: function(batch, params))


def posterior(batch, params):
    """Best factorised posterior of each row: means, then log-variances, (n_rows, 2 K)."""
    q = fa.posterior(batch, params)
    log_variance = -torch.linalg.inv(q.V).diagonal(dim1=-2, dim2=-1).log()
    pattern = torch.zeros(len(batch.X), dtype=torch.int64) if batch.pattern is None else batch.pattern
    return torch.cat([q.mean, log_variance[pattern]], -1)


def expected(params, x, observed):
    """Replace the missing cells of x by their means given the others of the row."""
    mean = evaluate(posterior, params, np.where(observed, x.astype(np.float64), np.nan))[:, : params.W.shape[1]]
    return np.where(observed, x, mean @ params.W.numpy().T + params.mu.numpy())


def factor_analysis_network(model, rows, noise, found, floor=None):
    """Parameters of a network that is this factor analysis: its layers add zero to a linear path.

    Parameters
    ----------
    model : VAE
    rows : TableRows
        Of the columns that the model is of.
    noise : Noise
        Of the layers' random weights; those of each network's last layer are zero.
    found : factor_analysis.Params
    floor : float or None, default=None
        0: in float64, with the noise as it is. None: with the noise that the likelihood can learn.

    Returns
    -------
    params : dict of Tensor
        Of one network, on the device of the rows.
    """
    params = random_network(model, rows, noise) | zero_skips(model, rows)
    K, last = model.n_factors, model.last
    W = torch.nn.functional.pad(found.W.mT, (0, 0, 0, K - found.W.shape[1]))  # (K, D)
    for name in (f"encoder.{last}", f"decoder.{last}"):
        params[f"{name}.weight"] = torch.zeros_like(params[f"{name}.weight"])
        params[f"{name}.bias"] = torch.zeros_like(params[f"{name}.bias"])
    params[f"decoder.{last}.bias"] = found.mu
    params["decoder.skip.weight" if last else "decoder.0.weight"] = W
    psi = found.psi if len(params["likelihood.noise"]) > 1 else found.psi[:1]
    params["likelihood.noise"] = psi.log() if floor == 0 else model.likelihood.raw(psi)
    params = model.without_upper_layers(params) if floor == 0 else model.with_factors(params, W, found.mu, found.psi)
    dtype = torch.float64 if floor == 0 else rows.dtype
    return {name: tensor.to(device=rows.device, dtype=dtype) for name, tensor in params.items()}


def random_network(model, rows, noise):
    """Random weights of a network for the columns of some rows, in their dtype; the same draws in each dtype."""
    params = model.init(noise.fold("init"), statistics_of(rows.columns))
    return {name: tensor.to(rows.dtype) for name, tensor in params.items()}


def zero_skips(model, rows):
    """Parameters of linear paths past the layers that add nothing yet."""
    shapes = {"encoder.skip.weight": (model.encoder_sizes[0], model.n_components)}
    shapes |= {"decoder.skip.weight": (model.n_factors, model.n_outputs)} if model.last else {}
    return {name: torch.zeros(shape, dtype=rows.dtype) for name, shape in shapes.items()}


def statistics_of(columns):
    """The `ColumnStatistics` of the model layout as float64 tensors."""
    statistics = columns.statistics
    return type(statistics)(*(torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in statistics))
