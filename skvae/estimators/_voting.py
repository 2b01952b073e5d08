"""How a network earns its place beside factor analysis: copies that each miss some rows vote on them.

Every start is trained as copies in lockstep. A copy judges the rows that it has not seen: by how much does its log p(x)
exceed that of factor analysis without the same rows? The best step of the best start wins; its gain must exceed two
standard errors, or factor analysis stays. The first copy misses nothing where there are few rows, and needs no refit.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from skvae._members import MemberBatch
from skvae._tensors import Cells, Noise, Table
from skvae.engines import em
from skvae.models import factor_analysis as fa

START_FLOORS = (1e-3, 0.05)  # of the noise, as shares of a column's variance: two starts, since either can be a trap
_TOL = 1e-3  # nats, of all rows
_FLOAT = torch.float64
_STANDARD_ERRORS = 2.0
_CELLS = 2**23  # draws x rows x columns judged at once


class Copies(NamedTuple):
    """Which rows each copy of a network sees, and which it judges.

    Attributes
    ----------
    weight : float64 ndarray of shape (n_copies, n_rows)
        0 where a copy does not see a row.
    held_out : list of int64 ndarray
        The rows that each copy judges; empty for one that sees all.
    """

    weight: np.ndarray
    held_out: list


def fold_copies(weight, noise, n_folds, fraction):
    """One copy on all rows, and one for each fold that misses it; of one fold, `fraction` of the rows.

    Parameters
    ----------
    weight : ndarray of shape (n_rows,)
    noise : Noise
    n_folds : int
    fraction : float
        Share of the rows in the fold, where there is one.

    Returns
    -------
    copies : Copies
    """
    n = len(weight)
    order = noise.permutation(n)
    folds = np.array_split(order, n_folds) if n_folds > 1 else [order[: max(1, math.ceil(fraction * n))]]
    weights = np.tile(weight, (1 + len(folds), 1))
    for copy, fold in enumerate(folds, start=1):
        weights[copy, fold] = 0
    return Copies(weights, [np.empty(0, dtype=np.int64), *(np.sort(fold) for fold in folds)])


# ------------------------------------------------------------------------------------------------- factor analysis
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
    seen = weight > 0
    Z, weight = Z[seen], weight[seen]
    table = Table(Z, torch.device("cpu"), _FLOAT, weight=weight)
    mean, variance = _column_moments(Z, weight)
    K = min(n_components, Z.shape[1])
    floors = {} if floor is None else {"floor": floor}
    model = fa.FactorAnalysis(K, torch.from_numpy(variance), tied, **floors)
    batches = (
        [_moments(Z, weight, mean)] if table.patterns is None else table.batches(4096, max(64, 2**20 // (K + 1) ** 2))
    )
    origin = torch.from_numpy(mean)
    shift = torch.zeros_like(origin) if table.patterns is None else origin
    if start is None:
        start = model.init(shift, Noise(0))
    else:
        start = start._replace(mu=shift if table.patterns is None else start.mu, psi=start.psi.maximum(model.floor))
    total = float(weight.sum())
    plan = em.Plan(1000, lambda step: step.gain * total < _TOL, total, accelerate=True)
    found = em.ascend(model, batches, [start], plan=plan).params
    return fa.principal(found._replace(mu=origin + found.mu if table.patterns is None else found.mu))


def _column_moments(Z, weight):
    """Mean and variance of the observed cells of each column."""
    seen = ~np.isnan(Z)
    filled = np.where(seen, Z, 0.0)
    mass = np.maximum(weight @ seen, 1e-300)
    mean = weight @ filled / mass
    return mean, weight @ (np.where(seen, filled - mean, 0.0) ** 2) / mass


def _moments(Z, weight, mean):
    centred = (Z - mean) * np.sqrt(weight)[:, None]
    n = torch.tensor(weight.sum(), dtype=_FLOAT)
    return fa.Moments(n, torch.zeros(Z.shape[1], dtype=_FLOAT), torch.from_numpy(centred.T @ centred) / n)


def at_work(params, Z, function):
    """`function(model, batch, params)`, a row's result each, gathered over batches of Z, as a float64 ndarray."""
    model = fa.FactorAnalysis(params.W.shape[1], params.psi)
    table = Table(Z, torch.device("cpu"), _FLOAT)
    out = None
    for batch in table.batches(4096, max(64, 2**20 // (params.W.shape[1] + 1) ** 2)):
        values = function(model, batch, params).numpy()
        out = np.empty((len(Z), *values.shape[1:])) if out is None else out
        out[batch.row.numpy()] = values
    return out


def log_prob(model, batch, params):
    """log p(x) of the observed cells."""
    return model.log_prob(batch, params)


def posterior(model, batch, params):
    """Mean and log-variance of the best factorised posterior, (n_rows, K, 2)."""
    q = model.posterior(batch, params)
    log_variance = -torch.linalg.inv(q.V).diagonal(dim1=-2, dim2=-1).log()
    pattern = torch.zeros(len(batch.X), dtype=torch.int64) if batch.pattern is None else batch.pattern
    return torch.stack([q.mean, log_variance[pattern]], -1)


# ----------------------------------------------------------------------------------------------------------- voting
class Vote:
    """Mean gain, in nats a row, of the best start over factor analysis on rows that the copies have not seen.

    Parameters
    ----------
    model : VAE
    batch : MemberBatch
        Of one member for each start and judging copy, starts first; weight 0 for rows that only fill up.
    log_base : Tensor
        Of each row of the batch.
    members : list of int
        Which members these are.
    n_starts : int
    baseline : Tensor or None
        log p(x) of each row under factor analysis without it, of the shape of the batch's weights.
    n_draws : int
    """

    def __init__(self, model, batch, log_base, members, n_starts, baseline, n_draws):
        self.model, self.batch, self.log_base = model, batch, log_base
        self.members, self.n_starts, self.baseline = members, n_starts, baseline
        row = torch.arange(n_draws)
        self.epsilon = Noise(0).fold("vote").normal(row, model.n_components)[None, :, None].to(batch.w.device)
        self.gains, self.errors = [], []

    @torch.no_grad()
    def __call__(self, params):
        judges = {name: tensor[self.members] for name, tensor in params.items()}
        gain = self._log_prob(judges) + self.log_base
        gain = gain if self.baseline is None else gain - self.baseline
        gain, w = (
            part.reshape(self.n_starts, -1) for part in (gain.double(), self.batch.w.expand(gain.shape).double())
        )
        share = w / w.sum(1, keepdim=True)
        mean = (share * gain).sum(1)
        error = (share.square() * (gain - mean[:, None]).square()).sum(1).sqrt()
        self.gains.append(mean.cpu().numpy())
        self.errors.append(error.cpu().numpy())
        return float(mean.max())

    def _log_prob(self, judges):
        n_rows = self.batch.w.shape[1]
        width = self.batch.x.value.shape[-1] * self.epsilon.shape[1] * len(self.members)
        parts = torch.arange(n_rows, device=self.batch.w.device).split(max(1, _CELLS // max(1, width)))
        weights = [self.model.log_weights(judges, part_of(self.batch, index), self.epsilon) for index in parts]
        return torch.cat([each.logsumexp(1) for each in weights], -1) - math.log(self.epsilon.shape[1])

    def winner(self, best):
        """The start that won the given validation, and whether its gain exceeds two standard errors."""
        start = int(np.argmax(self.gains[best]))
        gain = self.gains[best][start]
        return start, bool(gain > _STANDARD_ERRORS * self.errors[best][start])


def part_of(batch, index):
    """Some rows of all members of a batch."""
    take = lambda part: None if part is None else part.index_select(1, index)  # noqa: E731
    x = Cells(take(batch.x.value), take(batch.x.observed))
    return MemberBatch(x, take(batch.u), take(batch.w), take(batch.row), take(batch.base))
