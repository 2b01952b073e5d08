"""Stochastic gradient ascent of a bound: the one loop of every model whose posterior a network amortises.

    batch -> bound -> step

The loop owns the schedules, early stopping and the guard against steps that are not finite. What it asks of a model and
of rows is declared by `Model` and `BatchSource`.

Networks of one shape may be trained together, as members: every tensor then has a leading axis of members, and one step
moves all. They see nothing of each other but a step that is not finite, which is left out for all. Members that share a
validation score are one fit.

All parameters move in every step, unless the plan has turns. A `Turn` is a run of steps in which some parameters move,
by an optimizer, an objective and batches of their own. Turns follow each other in rounds, by steps or by passes over
the rows:

    Turn("discriminator", moves="discriminator.", bound=model.bound_of_discriminator, n_steps=5)
    Turn("generator", moves="generator.", bound=model.bound_of_generator, n_steps=1)         Goodfellow et al. 2014

    Turn("encoder", moves="encoder.", bound=model.bound_of_dropped_rows, n_passes=3)
    Turn("decoder", moves="decoder.")                                                        RecVAE, Shenbin et al. 2020

A bound may look back at the parameters as they were when the epoch began (`keeps_old`): a prior that is the posterior
of the last epoch, say.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch

from skvae import _reduce
from skvae._compat import warn
from skvae._tensors import multiplying_by, products_of
from skvae.elbo import Bound, FitResult
from skvae.engines import checkpoints, schedules
from skvae.engines.checkpoints import checked_count, checked_records, copy_into, packed, unpacked
from skvae.engines.contracts import check_contract
from skvae.engines.optimizer import SGD, Adam, Optimizer
from skvae.engines.watching import EARLY, INTERRUPTED, LIMIT, STOPPED, Watcher

_STEPS_A_RECORD = 32  # of more, 20,000 steps of 512 rows x 512 columns scattered 1 GB of memory
REFUSED = "The bound or its gradient was not finite"  # how a warning of steps that were left out begins


class Model(Protocol):
    """What `ascend` asks of a model whose turns bring no bound of their own.

    An attribute `read_by_rows`, where there is one, holds the names of weights that only `Batch.linear` reads: of these
    a step needs the gradients of a few rows.
    """

    def bound(self, params, batch, noise) -> Bound:
        """The bound of each row of a batch. Random numbers are drawn from `noise`, by the rows' numbers."""


class BatchSource(Protocol):
    """What `ascend` asks of rows.

    A batch has `w`, the weights of its rows, of mean 1 over all rows, and `counted`, those by which the rows enter sums
    over batches. What else it has is between the rows and the model. In a fit that processes share, each has its own
    rows of every batch, perhaps none; `n_rows` is then how many the batch has in all processes.

    Where processes hold parts of the parameters, rows have a method `joined`: the sum of a Tensor over them all.
    """

    def n_batches(self, batch_size) -> int:
        """How many batches one pass takes."""

    def shuffled(self, batch_size, noise) -> Iterable:
        """The batches of one pass, in an order drawn from `noise`."""


@dataclass(frozen=True)
class Turn:
    """A run of steps in which some of the parameters move.

    Parameters that do not move are tensors without gradients: nothing is computed for them.

    Attributes
    ----------
    name : str
        Tells turns apart: in their noise, in reports, and in the optimizer's state, as "<turn>/<parameter>.<average>".
    moves : str, tuple of str, or callable
        What the names of the parameters begin with that move, or name -> bool. Other turns may move the same ones.
    optimizer : Adam, SGD or None
        None: Adam by the plan's learning rate and weight decay.
    bound : callable or None
        What is raised, (params, batch, noise) -> Bound; None: `bound` of the model.
    batch_size : int or None
        Rows a step; None: the plan's.
    n_steps : int or None
        Length in steps; None: in passes.
    n_passes : int
        Length in passes over the rows, where `n_steps` is None.
    keeps_old : str or tuple of str
        What the names of the parameters begin with whose values at the begin of each epoch the bound sees too, as
        "old.<name>"; none by default.

    Raises
    ------
    ValueError
        If it would take no step.
    """

    name: str = ""
    moves: str | tuple | Callable = ""
    optimizer: Adam | SGD | None = None
    bound: Callable | None = None
    batch_size: int | None = None
    n_steps: int | None = None
    n_passes: int = 1
    keeps_old: str | tuple = ()

    def __post_init__(self):
        if min(self.n_passes, 1 if self.n_steps is None else self.n_steps) < 1:
            raise ValueError(
                f"Turn({self.name!r}, n_steps={self.n_steps}, n_passes={self.n_passes}) would take no step; "
                "it needs at least one, or one pass."
            )


@dataclass
class Plan:
    """Settings of an ascent.

    Attributes
    ----------
    max_iter : int
        Epochs. An epoch repeats the round of all turns until the first turn has gone through the rows: so one pass
        over the rows where there are no turns, and one round where the first turn counts in passes.
    batch_size : int
        Rows a step.
    learning_rate : float, or sequence of float
        Of each member.
    rate_schedule, beta : callable
        Fraction of all steps done -> multiplier of the learning rate, weight of the KL term. The latter may be a
        Tensor of shape (n_members, 1).
    weight_decay : float, or sequence of float
        Coefficient of 0.5 * sum of squares of every weight matrix (biases are free).
    patience : int or None
        Stop after so many validations without a better score, and keep the best; None: keep the last.
    tol : float
        By how much a score must rise to count as better for the patience.
    validate_every : int
        Epochs from one validation to the next.
    earliest_stop : float
        Fraction of all steps before which no epoch counts as the best: the annealing ends there.
    first_epoch : int
        Number of the first epoch, a key of its noise.
    fit_of_member : ndarray of int or None
        The fit that each member belongs to; None: the tensors have no axis of members.
    turns : tuple of Turn
        In their order; none: all parameters move in every step.
    precision : {"float32", "float64", "bfloat16"}
        Of the factors of matrix products; rows and parameters come in the dtype that goes with it.
    """

    max_iter: int
    batch_size: int
    learning_rate: float | Sequence = 1e-3
    rate_schedule: Callable = schedules.constant
    beta: Callable = schedules.constant
    weight_decay: float | Sequence = 0.0
    patience: int | None = None
    tol: float = 0.0
    validate_every: int = 1
    earliest_stop: float = 0.0
    first_epoch: int = 0
    fit_of_member: np.ndarray | None = None
    turns: tuple[Turn, ...] = ()
    precision: str = "float32"


class Epoch(NamedTuple):
    """What is known when an epoch ends.

    Attributes
    ----------
    number : int
    lower_bound : float
        Mean bound per row at beta = 1, nats; of members, an array, as are the next two. Of several turns, the first's.
    log_prob, kl : float
        Its two terms.
    validation_score : float or None
        Of several fits, an array; None after epochs without a validation.
    params : dict of Tensor
        The live parameters: copy what you keep.
    lower_bound_of_turn : dict of float
        By the names of the turns.
    """

    number: int
    lower_bound: float | np.ndarray
    log_prob: float | np.ndarray
    kl: float | np.ndarray
    validation_score: float | np.ndarray | None
    params: dict
    lower_bound_of_turn: dict


def ascend(model, params, rows, *, plan, noise, log_base=0.0, validate=None, watcher=None, optimizer_state=None):
    """Raise the model's bound on `rows`.

    Parameters
    ----------
    model : Model
    params : dict of Tensor
        To begin from. They are moved in place: a copy of the weights is memory that a wide catalogue feels.
    rows : BatchSource
    plan : Plan
    noise : Noise or MemberNoise
    log_base : float
        Mean over rows of the part of log p(x | z) that the bounds of all turns leave out; of members, an array.
    validate : callable or None
        params -> score, greater is better: one for each fit. Its attribute `record`, where there is one, is a list to
        which a call may add an array of float64.
    watcher : Watcher or None
        Told of every `Epoch`.
    optimizer_state : dict of Tensor or None
        Of an earlier call, to go on with its optimizers' state; changed in place too.

    Returns
    -------
    fit : FitResult

    Raises
    ------
    TypeError
        If the model or the rows lack what `Model` and `BatchSource` declare.
    ValueError
        If two turns share a name, or a turn moves no parameter.
    FloatingPointError
        If the bound is not finite in an epoch even at half the learning rate.
    """
    turns = plan.turns or (Turn(),)
    if any(turn.bound is None for turn in turns):
        check_contract(model, Model, "engines.gradient.ascend(model=...)")
    check_contract(rows, BatchSource, "engines.gradient.ascend(rows=...)")
    names = [turn.name for turn in turns]
    if len(set(names)) < len(names):
        raise ValueError(f"The turns of a plan must have different names, but theirs are {names}.")
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
        # Contiguous: the fused step writes as if memory were, which a view of a larger tensor need not be.
        plain = {name: (t.clone() if t.is_inference() else t.detach()).contiguous() for name, t in params.items()}
        turns = [_ActiveTurn(turn, model, plain, rows, plan, optimizer_state or {}) for turn in turns]
        with checkpoints.ascent() as kept:
            return _run_epochs(turns, plan, noise, log_base, validate, watcher or Watcher(), kept)


def _run_epochs(turns, plan, noise, log_base, validate, watcher, kept):
    params = turns[0].params  # all turns see the same memory
    fit, best = FitResult(params, lower_bounds_of_turn={turn.name: [] for turn in turns}), _Best(plan)
    fit.lower_bounds = fit.lower_bounds_of_turn[turns[0].name]
    round_of_turns = [turn for turn in turns for _ in range(turn.n_steps)]
    order = round_of_turns * math.ceil(turns[0].n_batches / turns[0].n_steps)  # of the steps of an epoch
    n_steps = plan.max_iter * len(order)
    begun = _restored(kept.saved, turns, fit, best, validate, plan)
    step = begun * len(order)
    for number in range(begun, plan.max_iter):
        watcher.begins(number)
        for turn in turns:
            turn.begin_epoch(noise.fold(plan.first_epoch + number))
        for turn in order:
            fraction = step / n_steps
            turn.step(plan.beta(fraction), plan.rate_schedule(fraction))
            step += 1
        terms = []  # log_prob and kl of each turn
        for turn, (log_prob, kl, weight, n_refused) in zip(turns, _sums_of_epoch(turns), strict=True):
            turn.review(n_refused, plan.first_epoch + number)
            weight = np.where(weight, weight, math.nan)  # every step refused: there is no bound
            terms.append((log_prob / weight + log_base, kl / weight))
            fit.lower_bounds_of_turn[turn.name].append(terms[-1][0] - terms[-1][1])
        validates = (number + 1) % plan.validate_every == 0 or number + 1 == plan.max_iter
        score = validate(params) if validate and validates else None
        fit.n_iter = number + 1
        if score is not None:
            fit.validation_scores.append(score)
        of_turn = {name: bounds[-1] for name, bounds in fit.lower_bounds_of_turn.items()}
        stop = _reduce.of_first(watcher.ends(Epoch(number, fit.lower_bounds[-1], *terms[0], score, params, of_turn)))
        early = best.should_stop(params, score, (number + 1) / plan.max_iter)
        ends = early or stop or number + 1 == plan.max_iter
        if kept.reached(partial(_state, turns, copy.copy(fit), best, validate, ends)) or ends:
            watcher.concludes(EARLY if early else STOPPED if stop else LIMIT if ends else INTERRUPTED)
            break
    fit.params = {name: tensor.detach() for name, tensor in (best.params or params).items()}
    fit.best, fit.n_validations = best.number, best.n_seen
    fit.optimizer_state = {key: tensor for turn in turns for key, tensor in turn.optimizer_state().items()}
    return fit


# --------------------------------------------------------------------------------------------------- interrupted fits
def _state(turns, fit, best, validate, ends):
    """State of an ascent after an epoch, as a tree; `ends`: it was the last one."""
    own = {
        "params": packed(fit.params),
        "optimizers": [packed(turn.optimizer.state) for turn in turns],
        "best_params": None if best.params is None else packed(best.params),
    }
    with _whose(turns):
        of_processes = _reduce.gathered_at_first(own)
    return {
        "n_iter": fit.n_iter,
        "ended": bool(ends),
        "of_processes": of_processes,
        "factors": [turn.factor for turn in turns],
        "lower_bounds": [np.array(bounds) for bounds in fit.lower_bounds_of_turn.values()],
        "validation_scores": np.array(fit.validation_scores, dtype=np.float64),
        "validation_record": np.array(getattr(validate, "record", ())),
        "best": {name: packed(getattr(best, name)) for name in best.records},
    }


def _whose(turns):
    """A block that sees all processes where each holds its part of the parameters, and this one where all are equal."""
    return _reduce.together() if hasattr(turns[0].rows, "joined") else _reduce.alone()


def _restored(saved, turns, fit, best, validate, plan):
    """Go on from a saved state, in place; returns how many epochs are done with."""
    if saved is None:
        return 0
    with checkpoints.reading():
        fit.n_iter = checked_count(saved["n_iter"], plan.max_iter, "n_iter")
        with _whose(turns):
            own = _reduce.own_of(saved["of_processes"])
        copy_into(fit.params, own["params"], "params")
        for turn, state, factor in zip(turns, own["optimizers"], saved["factors"], strict=True):
            copy_into(turn.optimizer.state, state, "optimizer_state")
            turn.factor = unpacked(factor, 1.0, "the factor of the learning rate")
        for bounds, record in zip(fit.lower_bounds_of_turn.values(), saved["lower_bounds"], strict=True):
            bounds[:] = checked_records(record, fit.n_iter, "lower_bounds")
        scores, record = saved["validation_scores"], saved["validation_record"]
        fit.validation_scores[:] = checked_records(scores, len(scores), "validation_scores")
        if hasattr(validate, "record"):
            validate.record = checked_records(record, len(scores) if len(record) else 0, "validation_record")
        for name in best.records:
            setattr(best, name, unpacked(saved["best"][name], getattr(best, name), name))
        if own["best_params"] is not None:
            like = {name: tensor.detach() for name, tensor in fit.params.items()}
            best.params = unpacked(own["best_params"], like, "best_params")
    return plan.max_iter if saved["ended"] is True else fit.n_iter


def _sums_of_epoch(turns):
    """Sum log_prob, kl and weight over the steps of each turn that were taken, and count those that were not.

    The host waits for the device here, and elsewhere in an epoch only to validate.
    """
    parts = [part for turn in turns for part in turn.record_of_epoch()]
    on_host = torch.cat([part.flatten() for part in parts]).cpu().double().split([part.numel() for part in parts])
    for sums, refused, like in zip(on_host[::2], on_host[1::2], parts[::2], strict=True):
        sums = torch.where(refused[:, None] > 0, 0, sums.view(len(refused), -1)).reshape(like.shape).sum(0)
        yield *sums.numpy(), int(refused.sum())


class _ActiveTurn:
    """A turn during an ascent: parameters, optimizer and batches, and the guard against steps that are not finite."""

    def __init__(self, turn, model, params, rows, plan, state):
        self.name, self.rows, self.bound = turn.name, rows, turn.bound or model.bound
        moves = turn.moves if callable(turn.moves) else lambda name: name.startswith(turn.moves)
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items() if moves(name)}
        if not leaves:
            raise ValueError(f"Turn {turn.name!r} moves={turn.moves!r} none of the parameters {list(params)}.")
        self.params = {name: leaves.get(name, tensor) for name, tensor in params.items()}
        self.old = [name for name in params if name.startswith(turn.keeps_old)]
        self.prefix = f"{turn.name}/" if turn.name else ""
        own = {key.removeprefix(self.prefix): t for key, t in state.items() if key.startswith(self.prefix)}
        settings = turn.optimizer or Adam(plan.learning_rate, plan.weight_decay)
        by_rows = getattr(model, "read_by_rows", ())
        self.optimizer = Optimizer(settings, leaves, own, has_members=plan.fit_of_member is not None, by_rows=by_rows)
        self.batch_size = turn.batch_size or plan.batch_size
        self.n_batches = rows.n_batches(self.batch_size)
        self.n_steps = turn.n_steps or turn.n_passes * self.n_batches  # of a round
        self.products = products_of(plan.precision)
        self.joined = getattr(rows, "joined", lambda total: total)
        self.factor = 1.0  # of the learning rate

    def begin_epoch(self, noise):
        """Start the batches, copy what the bound looks back at, and clear the step records of an epoch."""
        self.batches = self._batches_of_passes(noise.fold("turn", self.name) if self.name else noise)
        self.seen = self.params | {f"old.{name}": self.params[name].detach().clone() for name in self.old}
        self.records, self.steps = [], []  # sums and refusals, kept on the device until the epoch's end

    def _batches_of_passes(self, noise):
        """Yield batches without end, pass after pass, each with the noise of its pass."""
        for number in itertools.count():
            of_pass = noise.fold("pass", number) if number else noise
            for batch in self.rows.shuffled(self.batch_size, of_pass.fold("order")):
                yield batch, of_pass

    def step(self, beta, multiplier):
        """Take a step at this multiple of the learning rate if the bounds and all gradients are finite.

        The sums over the rows of log_prob and kl, and the rows' weight, are kept, each with the axes of members.
        """
        batch, noise = next(self.batches)
        with multiplying_by(self.products):
            bound = self.bound(self.seen, batch, noise)
            bound.descend(beta, batch.w, getattr(batch, "n_rows", None))
        log_prob, kl = bound.log_prob.detach(), bound.kl.detach().sum(-1)
        sums = (torch.stack([log_prob, kl, torch.ones_like(kl)]) * batch.counted).sum(-1)
        gradient, sums = _reduce.total((self.optimizer.collect(), sums))  # so that all refuse the same steps
        self.optimizer.gradient.copy_(gradient)
        total = self.joined(sums.sum() + self.optimizer.sum_of_gradients())
        refused = (total - total).nan_to_num_(1.0).float()  # 1 where that is not finite, else 0
        self.optimizer.step(self.factor * multiplier, refused)
        self.steps.append((sums, refused))
        if len(self.steps) == _STEPS_A_RECORD:
            self._record_steps()

    def _record_steps(self):
        """Join what is kept of the last steps: among the large tensors of a step, small ones would scatter memory."""
        if self.steps:
            self.records.append(tuple(map(torch.stack, zip(*self.steps, strict=True))))
            self.steps = []

    def record_of_epoch(self):
        """Return the sums of each step, of shape (n_steps, ...), and 1 if it was refused, of shape (n_steps,)."""
        self._record_steps()
        return map(torch.cat, zip(*self.records, strict=True))

    def review(self, n_refused, epoch):
        """Halve the learning rate if steps were refused, and raise an error if they were once before."""
        if not n_refused:
            return
        steps = f"{n_refused} steps of epoch {epoch}" + (f" of turn {self.name!r}" if self.name else "")
        if self.factor < 1:
            raise FloatingPointError(
                f"{REFUSED} in {steps}, though the learning rate had been halved to {self.learning_rate:g}; "
                "lower learning_rate, or look for outliers in X."
            )
        self.factor = 0.5
        warn(
            f"{REFUSED} in {steps}. They were left out, and the learning rate is now {self.learning_rate:g}.",
            RuntimeWarning,
        )

    @property
    def learning_rate(self):
        return self.optimizer.learning_rate * self.factor

    def optimizer_state(self):
        """Return the optimizer's state, from which another ascent may go on, under the name of the turn."""
        return {self.prefix + key: tensor for key, tensor in self.optimizer.state.items()}


class _Best:
    """Early stopping, and the parameters of each fit at its best validation score so far."""

    records = ("score", "bar", "waited", "number", "n_seen")  # its arrays

    def __init__(self, plan):
        self.patience, self.tol, self.earliest = plan.patience, plan.tol, plan.earliest_stop
        self.fit_of_member = plan.fit_of_member
        n_fits = 1 if self.fit_of_member is None else self.fit_of_member.max() + 1
        self.score, self.bar = np.full(n_fits, -np.inf), np.full(n_fits, -np.inf)
        self.waited, self.number, self.n_seen = np.zeros(n_fits, int), np.full(n_fits, -1), np.zeros(n_fits, int)
        self.params = None

    def should_stop(self, params, score, fraction):
        """Keep the parameters of fits with a better score, and tell whether all fits have waited in vain for one."""
        if self.patience is None or score is None:
            return False
        score, running = np.atleast_1d(score), self.waited < self.patience
        self.n_seen += running
        if fraction < self.earliest:
            return False
        better = running & (score > self.score)
        self._keep(params, better)
        self.score[better], self.number[better] = score[better], self.n_seen[better] - 1
        rose = running & (score > self.bar)
        self.bar[rose] = score[rose] + self.tol
        self.waited[rose] = 0
        self.waited[running & ~rose] += 1
        return bool((self.waited >= self.patience).all())

    def _keep(self, params, better):
        if self.params is None and better.any() or better.all():
            self.params = {name: tensor.detach().clone() for name, tensor in params.items()}
        elif better.any():
            device = next(iter(params.values())).device
            better = torch.from_numpy(better[self.fit_of_member]).to(device, non_blocking=True)
            for name, kept in self.params.items():
                own = better.view(-1, *[1] * (kept.dim() - 1))
                torch.where(own, params[name].detach(), kept, out=kept)  # by a mask as an index, the host would wait
