"""Fits of a network to a table: one network, factor analysis alone, or copies that vote on what they have not seen.

A fit has a `task` for the ascent, or None where there is nothing to climb, and says by `settled` what it comes to.
"""

import abc
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from skvae._tensors import Cells
from skvae.models.autoencoders.vae import PerRowVAE
from skvae.models.decomposition import factor_analysis as fa
from skvae.training import factor_analysis_start as linear
from skvae.training.layout import Start, base_for, base_of
from skvae.training.members import MemberBatch, Stream
from skvae.training.tasks import Task
from skvae.training.validation import LEAST_GAIN, LEAST_GAIN_AT_RANDOM, Vote

START_FLOORS = (1e-3, 0.05)  # of the noise of factor analysis as a start, as shares of a column's variance


class Settled(NamedTuple):
    """What a fit comes to.

    Attributes
    ----------
    params : dict of Tensor
        Of one network, without an axis of members.
    start : Start or None
        The linear models beside it.
    linear : factor_analysis.Params or None
        The model, where it is factor analysis.
    lower_bounds, validation_scores : ndarray
        Nats a row in the model layout.
    n_iter : int
    optimizer_state : dict of Tensor
        Of the optimiser.
    """

    params: dict
    start: object
    linear: object
    lower_bounds: np.ndarray
    validation_scores: np.ndarray
    n_iter: int
    optimizer_state: dict


class NetworkFit(abc.ABC):
    """What all fits have; those with a task also have `snapshot(params)`, what they would come to on the way.

    Attributes
    ----------
    task : Task or None
        For the ascent; None where there is nothing to climb.
    """

    task = None

    @abc.abstractmethod
    def settled(self, outcome=None):
        """What the fit comes to, a `Settled`, given the outcome of its task if it has one."""


# ----------------------------------------------------------------------------------------------------------- three ways
class Plain(NetworkFit):
    """One network, trained on all rows to the end.

    Parameters
    ----------
    model : VAE
    training : Layout
    noise : Noise
    plan : gradient.Plan
    params : dict of Tensor or None
        To go on from, as `start` and `optimizer_state`; None: random weights.
    vote : callable or None, default=None
        Parameters -> score of rows that are held out; the best are kept, be they those of the beginning.
    """

    def __init__(
        self,
        model,
        training,
        noise,
        plan,
        params=None,
        start=None,
        optimizer_state=None,
        dtype=torch.float32,
        vote=None,
    ):
        self.model, self.start = model, start
        if params is None:
            params = one_member(model.init(noise.fold("init"), statistics_of(training.columns)))
            if isinstance(model, PerRowVAE):
                params |= model.init_rows(len(training))
        table = training.encoded(start, dtype)
        weight = torch.from_numpy(training.weight)[None].to(device=training.device, dtype=dtype)
        base = base_for(start, training, model.n_components, dtype)
        stream = Stream(table, noise, 1, weight, base)
        params = {name: tensor.to(training.device) for name, tensor in params.items()}
        self.beginning = None if vote is None else _Beginning(params, vote)
        self.task = Task(model, params, stream, plan, mean_log_base(model, table, weight), vote, optimizer_state)

    def snapshot(self, params):
        """The network as it is."""
        return _passing(of_member(params, 0), self.start)

    def settled(self, outcome):
        """The network as the outcome left it, or as it began if no vote was higher."""
        params, optimizer_state = outcome.params, outcome.optimizer_state
        if self.beginning is not None and not self.beginning.beaten_by(outcome):
            params, optimizer_state = self.beginning.params, {}
        bounds, scores = outcome.lower_bounds[:, 0], outcome.validation_scores
        params, optimizer_state = of_member(params, 0), of_member(optimizer_state, 0)
        return Settled(params, self.start, None, bounds, scores, outcome.n_iter, optimizer_state)


class _Beginning:
    """Where an ascent starts, and the vote on it: the engine asks only about what its epochs come to."""

    def __init__(self, params, vote):
        self.params = {name: tensor.clone() for name, tensor in params.items()}  # the ascent moves its own
        self.score = vote(params)

    def beaten_by(self, outcome):
        return outcome.best >= 0 and outcome.validation_scores[outcome.best] > self.score


def _passing(params, start):
    params = {name: tensor.detach().clone() for name, tensor in params.items()}
    return Settled(params, start, None, np.array([np.nan]), np.empty(0), 1, {})


class Linear(NetworkFit):
    """Factor analysis alone: no network could be told from it."""

    def __init__(self, model, training, noise, tied):
        self.model, self.training, self.noise = model, training, noise
        self.found = linear.factor_analysis(training.Z, training.weight, model.n_components, tied=tied)

    def settled(self, outcome=None):
        """Factor analysis, as a network whose layers add nothing."""
        return _as_settled(self.model, self.training, self.noise, self.found)


def _as_settled(model, training, noise, found):
    params = linear_network(model, training, noise, found, floor=0.0)
    log_prob = linear.at_work(found, training.Z, fa.log_prob)
    bound = np.average(log_prob, weights=training.weight)
    return Settled(params, Start(found, found), found, np.array([bound]), np.empty(0), 1, {})


class Voted(NetworkFit):
    """Copies that vote on the step to stop at, from random weights or from two starts, one of them factor analysis.

    The other is factor analysis with more noise, or random weights: a factor that explains one column in full is a
    place that gradients do not lead out of.

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
    random_rate : float or None, default=None
        Learning rate of a random start beside factor analysis; None: no such start, but one with more noise.
    """

    def __init__(
        self,
        model,
        training,
        noise,
        plan,
        copies,
        *,
        linear_start,
        fallback_weight,
        tied=False,
        n_draws=16,
        random_rate=None,
    ):
        self.model, self.training, self.noise, self.copies, self.tied = model, training, noise, copies, tied
        self.fallback_weight = fallback_weight
        seen = (copies.weight > 0).any(0)
        self.seen = training if seen.all() else training.rows(np.flatnonzero(seen))
        weight = copies.weight[:, seen]
        self.weight = weight / weight.mean(1, keepdims=True)
        Z = self.seen.Z
        self.constant = [linear.constant_columns(Z, weight) for weight in self.weight]
        self.found = self._linear_models() if linear_start else None
        self.starts = self._starts(linear_start, random_rate is not None)
        first = self.starts[0][0]
        self.first = None if first is None else Start(first, first)
        self.vote = self._vote(n_draws)
        self.task = self._task(self._plan_of_members(plan, random_rate))

    def _linear_models(self):
        """Factor analysis by each copy's rows; the first one's, which sees most, is where the others start."""
        Z, K = self.seen.Z, self.model.n_components
        found = []
        for weight in self.weight:
            start = found[0] if found else None
            found.append(linear.factor_analysis(Z, weight, K, tied=self.tied, start=start))
        return found

    def _starts(self, linear_start, beside_random):
        """For each start the copies' factor analyses with the noise floored, or None for random weights."""
        random = [None] * len(self.weight)
        if not linear_start:
            return [random]
        low, high = START_FLOORS
        clipped = [found._replace(psi=found.psi.clamp(min=low)) for found in self.found]
        if beside_random:
            return [clipped, random]
        Z, K = self.seen.Z, self.model.n_components
        floored = [
            linear.factor_analysis(Z, weight, K, tied=self.tied, floor=high, start=found)
            for weight, found in zip(self.weight, self.found, strict=True)
        ]
        return [clipped, floored]

    def _plan_of_members(self, plan, random_rate):
        """With the learning rate of each start."""
        if self.found is None or random_rate in (None, plan.learning_rate):
            return plan
        n_copies = len(self.weight)
        return replace(plan, learning_rate=(plan.learning_rate,) * n_copies + (random_rate,) * n_copies)

    def _base(self, found, rows):
        """The posterior under a factor analysis; of a random start the prior."""
        K = self.model.n_components
        if found is None:
            return torch.zeros(len(rows), 2 * K, dtype=torch.float32, device=rows.device)
        return base_of(found, rows, K)

    def _task(self, plan):
        """All copies of all starts, on the rows that some copy sees."""
        device = self.training.device
        table = self.seen.encoded(self.first)
        weight = torch.from_numpy(self.weight).float().to(device).repeat(len(self.starts), 1)
        base = None
        if self.found is not None:
            base = torch.stack([self._base(found, self.seen) for start in self.starts for found in start])
        params = {name: tensor.to(device) for name, tensor in self._params().items()}
        stream = Stream(table, self.noise, len(weight), weight, base)
        return Task(self.model, params, stream, plan, mean_log_base(self.model, table, weight), self.vote)

    def _params(self):
        statistics = statistics_of(self.training.columns)
        random = self.model.init(self.noise.fold("init"), statistics)
        if self.found is not None:
            random |= no_skips(self.model)
        networks = [
            random if found is None else linear_network(self.model, self.training, self.noise, found)
            for start in self.starts
            for found in start
        ]
        return {name: torch.stack([network[name] for network in networks]) for name in networks[0]}

    def _vote(self, n_draws):
        """The judge of all copies that miss rows, of every start."""
        judges = [copy for copy, rows in enumerate(self.copies.held_out) if len(rows)]
        size = max(len(self.copies.held_out[copy]) for copy in judges)
        held = [self._held_out(copy, size) for copy in judges]
        batch = self._judged(judges, held)
        members = [start * len(self.weight) + copy for start in range(len(self.starts)) for copy in judges]
        log_base = self.model.likelihood.log_base(batch.x)
        least = [LEAST_GAIN_AT_RANDOM if start[0] is None else LEAST_GAIN for start in self.starts]
        return Vote(self.model, batch, log_base, members, least, self._baseline(judges, held), n_draws)

    def _held_out(self, copy, size):
        """The rows that a copy judges, up to `size` with some of no weight."""
        rows = self.copies.held_out[copy]
        held = self.training.rows(np.resize(rows, size))
        held.weight = np.where(np.arange(size) < len(rows), held.weight, 0.0)
        constant = self.constant[copy]
        if constant.any():  # nobody can know the spread of such a column: it must not decide
            observed = np.ones(held.x.shape, dtype=bool) if held.observed is None else held.observed
            held.observed = observed & ~constant
            held.x = np.where(constant, 0, held.x)
        elif held.observed is None and np.any(self.constant):
            held.observed = np.ones(held.x.shape, dtype=bool)
        return held

    def _judged(self, judges, held):
        """The rows that the copies judge, for each start and copy."""
        parts = [rows.encoded(self.first) for rows in held]
        x, observed, u = (None if part[0] is None else self._of_starts(part) for part in zip(*parts, strict=True))
        w = self._of_starts([torch.from_numpy(rows.weight).float().to(rows.device) for rows in held])
        row = torch.arange(w.shape[1], device=w.device)[None]
        return MemberBatch(Cells(x, observed), u, w, row, self._bases_of_judges(judges, held))

    def _bases_of_judges(self, judges, held):
        if self.found is None:
            return None
        each = [self._base(start[copy], rows) for start in self.starts for copy, rows in zip(judges, held, strict=True)]
        return torch.stack(each)

    def _baseline(self, judges, held):
        """What factor analysis makes of the rows that it has not seen, or None."""
        if self.found is None:
            return None
        of_copy = [linear.at_work(self.found[copy], rows.Z, fa.log_prob) for copy, rows in zip(judges, held)]
        return self._of_starts([torch.from_numpy(part).float().to(held[0].device) for part in of_copy])

    def _of_starts(self, parts):
        """One tensor of the parts of the copies, the same for every start."""
        stacked = torch.stack(list(parts))
        return stacked.repeat(len(self.starts), *[1] * (stacked.dim() - 1))

    def _settled_linear(self):
        rows = self.training.rows(np.flatnonzero(self.fallback_weight))
        weight = self.fallback_weight[self.fallback_weight > 0]
        found = self.found[0]
        if not np.array_equal(self.fallback_weight, self.copies.weight[0]):
            found = linear.factor_analysis(rows.Z, weight, self.model.n_components, tied=self.tied, start=found)
        return _as_settled(self.model, rows, self.noise, found)

    def snapshot(self, params):
        """The network as if the first start had won."""
        return _passing(of_member(params, 0), self.first)

    def settled(self, outcome):
        """The winner's first copy, or factor analysis."""
        start, significant = self.vote.winner(outcome.best)
        if self.found is not None and not significant:
            return self._settled_linear()
        member = start * len(self.weight)
        params, optimizer_state = of_member(outcome.params, member), of_member(outcome.optimizer_state, member)
        scores = self.vote.scores(start, len(outcome.validation_scores))
        bounds = outcome.lower_bounds[:, member]
        return Settled(params, self._start_of(start), None, bounds, scores, outcome.n_iter, optimizer_state)

    def _start_of(self, start):
        """What stands beside its network: whichever start it is, the first one has filled missing cells."""
        return self.first and self.first._replace(base=self.starts[start][0])


# ------------------------------------------------------------------------------------------------------------- networks
_OF_ALL_MEMBERS = {"step"}  # of an optimiser's state


def one_member(tensors):
    """Parameters, or what an optimiser remembers of them, with an axis of members."""
    return {name: tensor if name in _OF_ALL_MEMBERS else tensor[None] for name, tensor in tensors.items()}


def of_member(tensors, member):
    """Those of one member, without the axis."""
    return {name: tensor if name in _OF_ALL_MEMBERS else tensor[member] for name, tensor in tensors.items()}


def statistics_of(columns):
    """The statistics of the columns as tensors."""
    return type(columns.statistics)(
        *(torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in columns.statistics)
    )


def linear_network(model, training, noise, found, floor=None):
    """A network that is this factor analysis: its layers' last weights are zero, and a linear path leads past them."""
    params = model.init(noise.fold("init"), statistics_of(training.columns)) | no_skips(model)
    K, last = model.n_components, model.last
    W = torch.nn.functional.pad(found.W.mT, (0, 0, 0, K - found.W.shape[1]))  # (K, D)
    for name in (f"encoder.{last}", f"decoder.{last}"):
        params[f"{name}.weight"] = torch.zeros_like(params[f"{name}.weight"])
        params[f"{name}.bias"] = torch.zeros_like(params[f"{name}.bias"])
    params[f"decoder.{last}.bias"] = found.mu
    params["decoder.skip.weight" if last else "decoder.0.weight"] = W
    psi = found.psi if len(params["likelihood.noise"]) > 1 else found.psi[:1]
    params["likelihood.noise"] = psi.log() if floor == 0 else model.likelihood.raw(psi)
    dtype = torch.float64 if floor == 0 else torch.float32
    return {name: tensor.to(dtype) for name, tensor in params.items()}


def no_skips(model):
    """Linear paths past the layers that add nothing yet."""
    K = model.n_components
    shapes = {"encoder.skip.weight": (model.encoder_sizes[0], K)}
    shapes |= {"decoder.skip.weight": (K, model.n_outputs)} if model.last else {}
    return {name: torch.zeros(shape, dtype=torch.float32) for name, shape in shapes.items()}


def mean_log_base(model, table, weight):
    """Mean over rows of what the bound leaves out, of each member or of all."""
    log_base = model.likelihood.log_base(Cells(table.x, table.observed)).double()
    return (weight.double() @ log_base / weight.double().sum(1)).cpu().numpy()
