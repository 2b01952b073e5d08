"""How a network earns its place beside factor analysis: copies that each miss some rows vote on them.

Every start is trained as copies in lockstep. A copy judges the rows that it has not seen: by how much does its log p(x)
exceed that of factor analysis without the same rows? The step of the start whose mean gain less two standard errors is
highest wins; that must exceed 0.02 nats a row, or factor analysis stays. The first copy misses nothing where there are
few rows, and needs no refit.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from skvae._members import MemberBatch, Stream
from skvae._tensors import Cells, Noise
from skvae.estimators import _linear as linear
from skvae.estimators._climbing import Task
from skvae.estimators._encoding import base_of
from skvae.models.vae import PerRowVAE

START_FLOORS = (1e-3, 0.05)  # of the noise, as shares of a column's variance: two starts, since either can be a trap
_STANDARD_ERRORS = 2.0
_LEAST_GAIN = 0.02  # nats a row: for less, nobody gives up the exact model
_CELLS = 2**23  # draws x rows x columns judged at once


class Settled(NamedTuple):
    """What a fit comes to.

    Attributes
    ----------
    params : dict of Tensor
        Of one network, without an axis of members.
    start : factor_analysis.Params or None
        What its encoder adds to.
    linear : factor_analysis.Params or None
        The model, where it is factor analysis.
    lower_bounds, validation_scores : ndarray
        Nats a row in the model layout.
    n_iter : int
    moments : dict of Tensor
        Of the optimiser.
    """

    params: dict
    start: object
    linear: object
    lower_bounds: np.ndarray
    validation_scores: np.ndarray
    n_iter: int
    moments: dict


# ------------------------------------------------------------------------------------------------------- three ways
class Plain:
    """One network, trained on all rows to the end.

    Parameters
    ----------
    model : VAE
    training : Layout
    noise : Noise
    plan : gradient.Plan
    params : dict of Tensor or None
        To go on from, as `start` and `moments`; None: random weights.
    """

    def __init__(self, model, training, noise, plan, params=None, start=None, moments=None, dtype=torch.float32):
        self.model, self.start, self.goes_on = model, start, params is not None
        if params is None:
            params = one_member(model.init(noise.fold("init"), moments_of(training.columns)))
            if isinstance(model, PerRowVAE):
                params |= model.init_rows(len(training))
        table = training.encoded(start, dtype)
        weight = torch.from_numpy(training.weight)[None].to(device=training.device, dtype=dtype)
        base = None if start is None else base_of(start, training, model.n_components, dtype)[None]
        stream = Stream(table, noise, 1, weight, base)
        params = {name: tensor.to(training.device) for name, tensor in params.items()}
        self.task = Task(model, params, stream, plan, mean_log_base(model, table, weight), None, moments)

    def snapshot(self, params):
        """As if it stopped here."""
        return _passing({name: tensor[0] for name, tensor in params.items()}, self.start)

    def settled(self, outcome):
        """The network as the outcome left it."""
        params = {name: tensor[0] for name, tensor in outcome.params.items()}
        bounds, scores = outcome.lower_bounds[:, 0], outcome.validation_scores
        moments = outcome.moments
        return Settled(params, self.start, None, bounds, scores, outcome.n_iter, moments)


def _passing(params, start):
    params = {name: tensor.detach().clone() for name, tensor in params.items()}
    return Settled(params, start, None, np.array([np.nan]), np.empty(0), 1, {})


class Linear:
    """Factor analysis alone: no network could be told from it."""

    task, goes_on = None, False

    def __init__(self, model, training, noise, tied):
        self.model, self.training, self.noise = model, training, noise
        self.found = linear.factor_analysis(training.Z, training.weight, model.n_components, tied=tied)

    def settled(self, outcome=None):
        """Factor analysis, as a network whose layers add nothing."""
        return _as_settled(self.model, self.training, self.noise, self.found)


def _as_settled(model, training, noise, found):
    params = linear_network(model, training, noise, found, floor=0.0)
    log_prob = linear.at_work(found, training.Z, linear.log_prob)
    bound = np.average(log_prob, weights=training.weight)
    return Settled(params, found, found, np.array([bound]), np.empty(0), 1, {})


class Voted:
    """Copies from one random start, or from two of factor analysis, that vote on the step to stop at.

    Parameters
    ----------
    model : VAE
    training : Layout
        All rows, those that are only judged among them.
    noise : Noise
    plan : gradient.Plan
    copies : Copies
    linear_start : bool
        Whether to start from factor analysis, and fall back on it.
    fallback_weight : ndarray of shape (n_rows,)
        Of the rows that factor analysis then learns from.
    tied : bool
        One noise variance for all columns.
    n_draws : int
        By which log p(x) of a row is judged.
    """

    def __init__(self, model, training, noise, plan, copies, *, linear_start, fallback_weight, tied=False, n_draws=16):
        self.goes_on = False
        self.model, self.training, self.noise, self.copies, self.tied = model, training, noise, copies, tied
        self.fallback_weight = fallback_weight
        seen = (copies.weight > 0).any(0)
        self.seen = training if seen.all() else training.rows(np.flatnonzero(seen))
        weight = copies.weight[:, seen]
        self.weight = weight / weight.mean(1, keepdims=True)
        self.found = self._linear_models() if linear_start else None
        self.starts = self._starts() if linear_start else [None]
        first = self.starts[0][0] if linear_start else None
        table = self.seen.encoded(first)
        placed = torch.from_numpy(self.weight).float().to(training.device).repeat(len(self.starts), 1)
        n_members = len(placed)
        base = self._bases(self.seen) if linear_start else None
        self.vote = self._vote(first, n_draws)
        params = {name: tensor.to(training.device) for name, tensor in self._params().items()}
        stream = Stream(table, noise, n_members, placed, base)
        self.task = Task(model, params, stream, plan, mean_log_base(model, table, placed), self.vote)

    def _linear_models(self):
        """Factor analysis by each copy's rows; the first one's, which sees most, is where the others start."""
        Z, K = self.seen.Z, self.model.n_components
        found = []
        for weight in self.weight:
            start = found[0] if found else None
            found.append(linear.factor_analysis(Z, weight, K, tied=self.tied, start=start))
        return found

    def _starts(self):
        """For each start the copies' factor analyses, with the noise floored."""
        Z, K = self.seen.Z, self.model.n_components
        low, high = START_FLOORS
        clipped = [found._replace(psi=found.psi.clamp(min=low)) for found in self.found]
        floored = [
            linear.factor_analysis(Z, weight, K, tied=self.tied, floor=high, start=found)
            for weight, found in zip(self.weight, self.found, strict=True)
        ]
        return [clipped, floored]

    def _bases(self, training):
        """The posteriors under all of them, (n_members, n_rows, n_components, 2)."""
        K = self.model.n_components
        return torch.stack([base_of(found, training, K) for start in self.starts for found in start])

    def _params(self):
        if self.starts == [None]:
            one = self.model.init(self.noise.fold("init"), moments_of(self.training.columns))
            return {name: tensor.expand(len(self.weight), *tensor.shape).clone() for name, tensor in one.items()}
        every = [found for start in self.starts for found in start]
        networks = [linear_network(self.model, self.training, self.noise, found) for found in every]
        return {name: torch.stack([network[name] for network in networks]) for name in networks[0]}

    def _vote(self, first, n_draws):
        judges = [copy for copy, rows in enumerate(self.copies.held_out) if len(rows)]
        size = max(len(self.copies.held_out[copy]) for copy in judges)
        parts = [self._judged(copy, size, first) for copy in judges]
        tables, weights, baselines, bases = zip(*parts, strict=True)
        n_starts, n_copies = len(self.starts), len(self.weight)
        tiled = [torch.stack(part).repeat(n_starts, 1, 1) if part[0] is not None else None for part in zip(*tables)]
        w = torch.stack(weights).repeat(n_starts, 1)
        base = None if bases[0] is None else torch.cat([torch.stack(each) for each in zip(*bases, strict=True)])
        row = torch.arange(size, device=w.device)[None]
        batch = MemberBatch(Cells(tiled[0], tiled[1]), tiled[2], w, row, base)
        baseline = None if baselines[0] is None else torch.stack(baselines).repeat(n_starts, 1)
        members = [start * n_copies + copy for start in range(n_starts) for copy in judges]
        log_base = self.model.likelihood.log_base(batch.x)
        return Vote(self.model, batch, log_base, members, n_starts, baseline, n_draws)

    def _judged(self, copy, size, first):
        """What a copy judges: rows up to `size`, their weights, what factor analysis makes of them, and posteriors."""
        rows = self.copies.held_out[copy]
        held = self.training.rows(np.resize(rows, size))
        held.weight = np.where(np.arange(size) < len(rows), held.weight, 0.0)
        constant = _constant_in(self.seen.Z, self.weight[copy])
        if constant.any():  # nobody can know the spread of such a column: it must not decide
            observed = np.ones(held.x.shape, dtype=bool) if held.observed is None else held.observed
            held.observed = observed & ~constant
            held.x = np.where(constant, 0, held.x)
        elif held.observed is None and self._any_constant():
            held.observed = np.ones(held.x.shape, dtype=bool)
        weight = torch.from_numpy(held.weight).float().to(held.device)
        table = held.encoded(first)
        if self.found is None:
            return table, weight, None, None
        baseline = linear.at_work(self.found[copy], held.Z, linear.log_prob)
        bases = [base_of(start[copy], held, self.model.n_components) for start in self.starts]
        return table, weight, torch.from_numpy(baseline).float().to(held.device), bases

    def _any_constant(self):
        return any(_constant_in(self.seen.Z, weight).any() for weight in self.weight)

    def _settled_linear(self):
        rows = self.training.rows(np.flatnonzero(self.fallback_weight))
        weight = self.fallback_weight[self.fallback_weight > 0]
        found = self.found[0]
        if not np.array_equal(self.fallback_weight, self.copies.weight[0]):
            found = linear.factor_analysis(rows.Z, weight, self.model.n_components, tied=self.tied, start=found)
        return _as_settled(self.model, rows, self.noise, found)

    def snapshot(self, params):
        """As if it stopped here, and the first start had won."""
        start = None if self.found is None else self.starts[0][0]
        return _passing({name: tensor[0] for name, tensor in params.items()}, start)

    def settled(self, outcome):
        """The winner's first copy, or factor analysis."""
        start, significant = self.vote.winner(outcome.best)
        if self.found is not None and not significant:
            return self._settled_linear()
        member = start * len(self.weight)
        params = {name: tensor[member] for name, tensor in outcome.params.items()}
        moments = {name: tensor if tensor.dim() == 0 else tensor[member] for name, tensor in outcome.moments.items()}
        return Settled(
            params,
            None if self.found is None else self.starts[start][0],
            None,
            outcome.lower_bounds[:, member],
            self.vote.scores(start, len(outcome.validation_scores)),
            outcome.n_iter,
            moments,
        )


# ---------------------------------------------------------------------------------------------------------- networks
def one_member(params):
    """With an axis of members."""
    return {name: tensor[None] for name, tensor in params.items()}


def moments_of(columns):
    """The moments of the columns as tensors."""
    return type(columns.moments)(*(torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in columns.moments))


def linear_network(model, training, noise, found, floor=None):
    """A network that is this factor analysis: its layers' last weights are zero, and a linear path leads past them."""
    params = model.init(noise.fold("init"), moments_of(training.columns))
    K, last = model.n_components, model.last
    W = torch.nn.functional.pad(found.W.mT, (0, 0, 0, K - found.W.shape[1]))  # (K, D)
    for name in ("mean.0", "log_variance.0", f"decoder.{last}"):
        params[f"{name}.weight"] = torch.zeros_like(params[f"{name}.weight"])
        params[f"{name}.bias"] = torch.zeros_like(params[f"{name}.bias"])
    params[f"decoder.{last}.bias"] = found.mu
    params["decoder.skip.weight" if last else "decoder.0.weight"] = W
    params["mean.skip.weight"] = torch.zeros(model.encoder_sizes[0], K)
    psi = found.psi if len(params["likelihood.noise"]) > 1 else found.psi[:1]
    params["likelihood.noise"] = psi.log() if floor == 0 else model.likelihood.raw(psi)
    dtype = torch.float64 if floor == 0 else torch.float32
    return {name: tensor.to(dtype) for name, tensor in params.items()}


def mean_log_base(model, table, weight):
    """Mean over rows of what the bound leaves out, of each member or of all."""
    log_base = model.likelihood.log_base(Cells(table.x, table.observed)).double()
    return (weight.double() @ log_base / weight.double().sum(1)).cpu().numpy()


def _constant_in(Z, weight):
    """Columns that do not vary among the rows of positive weight."""
    Z = Z[weight > 0]
    with np.errstate(all="ignore"):
        return ~(np.fmax.reduce(Z, axis=0) > np.fmin.reduce(Z, axis=0))


# ------------------------------------------------------------------------------------------------------------ voting
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


class Vote:
    """What the best start surely gains over factor analysis on rows that the copies have not seen, in nats a row.

    That is the mean gain less two standard errors: the mean alone would wait for the step at which a few odd rows
    outweigh all others. Where there is nothing to compare with, the mean log p(x).

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
        self.means, self.limits = [], []

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
        surely = mean if self.baseline is None else mean - _STANDARD_ERRORS * error
        self.means.append(mean.cpu().numpy())
        self.limits.append(surely.cpu().numpy())
        return float(surely.max())

    def _log_prob(self, judges):
        n_rows = self.batch.w.shape[1]
        width = self.batch.x.value.shape[-1] * self.epsilon.shape[1] * len(self.members)
        parts = torch.arange(n_rows, device=self.batch.w.device).split(max(1, _CELLS // max(1, width)))
        weights = [self.model.log_weights(judges, part_of(self.batch, index), self.epsilon) for index in parts]
        return torch.cat([each.logsumexp(1) for each in weights], -1) - math.log(self.epsilon.shape[1])

    def scores(self, start, n):
        """log p(x) of the judged rows by one start, nats a row, at each of the first n validations."""
        gains = np.array([mean[start] for mean in self.means[:n]])
        if self.baseline is None:
            return gains
        w = self.batch.w.double()
        return gains + float((w * self.baseline).sum() / w.sum())

    def winner(self, best):
        """The start that won the given validation, and whether its gain counts."""
        start = int(np.argmax(self.limits[best]))
        return start, bool(self.limits[best][start] > _LEAST_GAIN)


def part_of(batch, index):
    """Some rows of all members of a batch."""
    take = lambda part: None if part is None else part.index_select(1, index)  # noqa: E731
    x = Cells(take(batch.x.value), take(batch.x.observed))
    return MemberBatch(x, take(batch.u), take(batch.w), take(batch.row), take(batch.base))
