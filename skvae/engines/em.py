"""Coordinate ascent of a bound whose posterior is exact: the one loop of every EM model.

    e_step of each batch -> add -> reduce -> bound -> m_step -> stop?

The loop owns restarts, stopping, the trace, the guard against bounds that are not finite, acceleration, and the sums
over batches, threads and processes. A model is an `EMModel`: three pure functions, whatever it is a model of.

Parameters and statistics are NamedTuples. Statistics add: those of a union of rows are the sums of the statistics,
field by field. A field that is no plain sum (the k farthest rows) brings its own `+`, which must be commutative and
associative.
"""

import contextlib
import copy
import math
import queue
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple, Protocol

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import Workers, threads_to_share
from skvae.elbo import FitResult
from skvae.engines import checkpoints
from skvae.engines.checkpoints import checked_count, checked_records, packed, tensors_of, unpacked
from skvae.engines.contracts import check_contract
from skvae.engines.watching import CONVERGED, INTERRUPTED, LIMIT, STOPPED, Watcher

_GROUPS = 16  # of consecutive batches, each summed by one thread; on how many threads changes no digit of the sums
_FEWEST_BATCHES = 4  # of fewer the threads would wait for each other longer than they save
_LONGEST_STEP = 4.0  # the first bound on the length of an extrapolation, in EM steps; it adapts by this factor


class EMModel(Protocol):
    """What `ascend` wants of a model.

    A model holds its settings, and at most memory to work in, of which it returns nothing. Parameters and statistics
    are passed in and returned. Where several threads take E-steps, each has a deep copy of the model.
    """

    def e_step(self, batch, params, memory=None):
        """Sum over the rows of one batch what the M-step needs of them, under these parameters.

        Returns (stats, memory). `memory` is what the model remembers of the batch until the next iteration, which hands
        it in again; None in the first iteration, and always for a model that remembers nothing.
        """

    def bound(self, stats, params):
        """Weighted sum of log p(x) over all rows under `params`, plus any log-prior of `params`; a Tensor ()."""

    def m_step(self, stats, params):
        """Parameters that raise the bound most, given the statistics of all rows under `params`."""


class RememberingEMModel(EMModel, Protocol):
    """What a model adds whose results depend on what it remembers, so that an interrupted ascent can go on."""

    def saved_memory(self, memory):
        """Return what a file must hold of the memory of a batch: a dict of Tensors, numbers and None."""

    def loaded_memory(self, batch, saved):
        """Return the memory of a batch, given what `saved_memory` returned, with tensors on the CPU."""


class AcceleratedEMModel(EMModel, Protocol):
    """What `ascend` wants of a model that is to be accelerated."""

    def to_free(self, params):
        """Parameters as a vector of unconstrained reals."""

    def from_free(self, vector, params):
        """Parameters from the vector of `to_free`, of the shapes of `params`."""


class Iteration(NamedTuple):
    """Report of one iteration.

    Attributes
    ----------
    restart, number : int
        Number of the restart, and of the iteration within it; both from 0.
    lower_bound : float
        Mean bound per unit of weight under `before`, nats.
    gain : float
        By how much the last EM step raised it; infinite in the first iteration, NaN after an extrapolation.
    before, params : NamedTuple of Tensor
        Parameters that the iteration began with, and those that it found.
    """

    restart: int
    number: int
    lower_bound: float
    gain: float
    before: tuple
    params: tuple


@dataclass
class Plan:
    """Settings of an ascent.

    Attributes
    ----------
    max_iter : int
        Largest number of EM steps of one restart.
    converged : callable
        Iteration -> bool, asked after every plain EM step.
    weight : float
        Total weight of the rows, over all processes.
    accelerate : bool
        Extrapolate by SQUAREM.
    lower_bound : float
        Bound of the step which led to the initial parameters, for an ascent that continues another.
    """

    max_iter: int
    converged: Callable
    weight: float
    accelerate: bool = False
    lower_bound: float = -math.inf


class Restarts:
    """Initial parameters of restarts, which are computed when their restart begins.

    Parameters
    ----------
    n : int
        Number of restarts.
    init : callable
        Number of a restart -> NamedTuple of Tensor.
    """

    def __init__(self, n, init):
        self.n, self.init = n, init

    def __len__(self):
        return self.n

    def __getitem__(self, restart):
        return self.init(restart)


def ascend(model, batches, init_params, *, plan, watcher=None):
    """Raise the model's bound on the rows of `batches`, once in each restart; keep the best.

    Parameters
    ----------
    model : EMModel or AcceleratedEMModel
    batches : iterable
        Whatever the model's `e_step` takes; gone through once an iteration. Many batches of a `Table` on the CPU are
        shared out to threads.
    init_params : list of NamedTuple of Tensor, or Restarts
        Parameters that each restart begins from.
    plan : Plan
    watcher : Watcher or None
        Told of every `Iteration`.

    Returns
    -------
    fit : FitResult
        `lower_bounds` has the bound before each M-step, `memory` what the model remembers of each batch.

    Raises
    ------
    TypeError
        If the model lacks a method.
    FloatingPointError
        If a bound is not finite.
    """
    check_contract(model, AcceleratedEMModel if plan.accelerate else EMModel, "engines.em.ascend(model=...)")
    watcher, n_restarts = watcher or Watcher(), len(init_params)
    with checkpoints.ascent() as kept, _crew_for(model, batches) as crew:
        best, first, run = _restored(kept, model, batches, init_params, plan)
        for number in range(first, n_restarts):
            if run is None:
                with kept.finding(number):
                    params = init_params[number]
                run = _Run(number, FitResult(params), _path_of(model, plan))
            _climb(model, batches, run, plan, watcher, crew, kept, best)
            best, run = run.fit if best is None or _height(run.fit) > _height(best) else best, None
            # A copy: the caller may set other records of the result before its state is written.
            if kept.reached(partial(_state, copy.copy(best), number + 1)) or kept.stopped:
                break
    return best


def _height(fit):
    return fit.lower_bounds[-1] if fit.lower_bounds else -math.inf


@dataclass
class _Run:
    """One restart on its way: all that its next iteration reads.

    Attributes
    ----------
    number : int
    fit : FitResult
        So far; its `params` are those of the next E-step.
    path : _PlainPath or _Squarem
    """

    number: int
    fit: FitResult
    path: object


def _climb(model, batches, run, plan, watcher, crew, kept, best):
    """Iterate until a restart has converged, or is stopped."""
    fit, path = run.fit, run.path
    last_bound = fit.lower_bounds[-1] if fit.lower_bounds else plan.lower_bound
    for number in range(fit.n_iter, plan.max_iter):
        watcher.begins(number)
        params = fit.params
        try:
            stats, fit.memory, bound = _evaluate(model, batches, params, fit.memory, plan.weight, crew)
        except torch.linalg.LinAlgError:
            if not path.extrapolated:
                raise
            bound = math.nan
        if path.refuses(bound, last_bound):
            params = path.plain
            stats, fit.memory, bound = _evaluate(model, batches, params, fit.memory, plan.weight, crew)
        if not math.isfinite(bound):
            raise FloatingPointError(
                f"The bound of {type(model).__name__} was {bound} in iteration {number} of start {run.number}; "
                "look for huge values or duplicated columns in X, or scale it."
            )
        gain = math.nan if path.extrapolated else bound - last_bound
        found = model.m_step(stats, params)
        report = Iteration(run.number, number, bound, gain, params, found)
        fit.n_iter, last_bound = number + 1, bound
        fit.lower_bounds.append(bound)
        fit.converged = not path.extrapolated and bool(plan.converged(report))
        stop = _reduce.of_first(watcher.ends(report))
        ends = fit.converged or stop or number + 1 == plan.max_iter
        fit.params = found if ends else path.next(params, found)
        if not ends and kept.reached(partial(_state, best, run.number, run, model)):
            fit.params, ends = found, True
        if ends:
            watcher.concludes(
                CONVERGED if fit.converged else STOPPED if stop else INTERRUPTED if kept.stopped else LIMIT
            )
            break


def _evaluate(model, batches, params, memory, weight, crew):
    """Statistics and memory of one E-step, and the mean bound under its parameters."""
    stats, memory = collect(model, batches, params, memory, crew=crew)
    return stats, memory, float(model.bound(stats, params)) / weight


def collect(model, batches, params, memory=None, *, crew=None):
    """Take one E-step over all batches: the statistics of all rows, and what the model remembers of each batch."""

    def of_group(group):
        with contextlib.nullcontext(model) if crew is None else crew.own_model() as own:
            total, kept = None, []
            for number, batch in group():
                stats, remembered = own.e_step(batch, params, memory[number] if memory else None)
                kept.append(remembered)
                total = stats if total is None else add(total, stats)
            return total, kept

    found = (map if crew is None else crew.workers.map)(of_group, _groups(batches))
    total, kept = reduce(lambda some, others: (_joined(some[0], others[0]), some[1] + others[1]), found)
    return _reduce.total(total), kept


def summed(function, batches):
    """Sum a function that returns a NamedTuple over all batches, here and in other processes.

    Several threads may call the function at once.
    """
    n_threads = _n_threads(batches)
    with contextlib.nullcontext() if n_threads == 1 else Workers(n_threads) as workers:

        def of_group(group):
            return reduce(_joined, (function(batch) for _, batch in group()), None)

        total = reduce(_joined, (map if workers is None else workers.map)(of_group, _groups(batches)), None)
    return _reduce.total(total)


def add(some, others):
    """Add statistics field by field: those of the union of the rows."""
    return type(some)(*(a + b for a, b in zip(some, others)))


def _joined(some, others):
    """Statistics of the union of rows, where None stands for none."""
    if some is None or others is None:
        return others if some is None else some
    return add(some, others)


# ------------------------------------------------------------------------------------------------------------- threads
class _Crew:
    """Worker threads that take E-steps, and as many copies of a model, each used by one thread at a time."""

    def __init__(self, workers, model, n_copies):
        self.workers, self._models = workers, queue.SimpleQueue()
        for _ in range(n_copies):
            self._models.put(copy.deepcopy(model))

    @contextlib.contextmanager
    def own_model(self):
        model = self._models.get()
        try:
            yield model
        finally:
            self._models.put(model)


@contextlib.contextmanager
def _crew_for(model, batches):
    """A `_Crew` where several threads are faster than one, else None."""
    n_threads = _n_threads(batches)
    if n_threads == 1:
        yield None
    else:
        with Workers(n_threads) as workers:
            yield _Crew(workers, model, n_threads)


def _n_threads(batches):
    """How many threads to share batches out to."""
    if not getattr(batches, "on_cpu", False) or len(batches) < _FEWEST_BATCHES:
        return 1
    return min(threads_to_share(), _GROUPS, len(batches))


def _groups(batches):
    """Functions that return the numbered batches of a group, all together those of `batches`.

    Where the groups begin and end does not depend on the number of threads.
    """
    if not hasattr(batches, "part") or len(batches) <= 1:
        return [lambda: enumerate(batches)]
    n, n_groups = len(batches), min(_GROUPS, len(batches))
    edges = [n * group // n_groups for group in range(n_groups + 1)]
    return [
        lambda start=start, stop=stop: enumerate(batches.part(start, stop), start)
        for start, stop in zip(edges[:-1], edges[1:])
    ]


# --------------------------------------------------------------------------------------------------- interrupted fits
def _state(best, restart, run=None, model=None):
    """State of an ascent: the best fit so far, the restart that is next, and how far it is, as a tree."""
    now = None
    if run is not None:
        now = {"fit": _packed_fit(run.fit), "path": run.path.state(), "memory": None}
        if hasattr(model, "saved_memory") and run.fit.memory is not None:  # of this process's rows
            now["memory"] = _reduce.gathered_at_first([packed(model.saved_memory(each)) for each in run.fit.memory])
    return {"best": None if best is None else _packed_fit(best), "restart": restart, "run": now}


def _packed_fit(fit):
    records = {"lower_bounds": np.array(fit.lower_bounds), "n_iter": fit.n_iter, "converged": fit.converged}
    return records | {"params": packed(fit.params)}


def _restored(kept, model, batches, init_params, plan):
    """The best fit so far, the restart that is next, and its `_Run` if it is on its way."""
    saved, n = kept.saved, len(init_params)
    if saved is None:
        return None, 0, None
    with checkpoints.reading():
        first, now = checked_count(saved["restart"], n, "the restart"), saved["run"]
        if first == n and saved["best"] is None:
            raise checkpoints.UnusableState("it ends without a result")
    with kept.finding(min(first, n - 1)):
        like = init_params[min(first, n - 1)]
    with checkpoints.reading():
        best = None if saved["best"] is None else _unpacked_fit(saved["best"], like, plan)
        if now is None:
            return best, first, None if first == n else _Run(first, FitResult(like), _path_of(model, plan))
        run = _Run(first, _unpacked_fit(now["fit"], like, plan), _path_of(model, plan))
        run.path.restore(now["path"], like)
        if now["memory"] is not None:
            pairs = zip(batches, _reduce.own_of(now["memory"]), strict=True)
            run.fit.memory = [model.loaded_memory(batch, tensors_of(each, "memory")) for batch, each in pairs]
    return best, first, run


def _unpacked_fit(saved, like, plan):
    n_iter = checked_count(saved["n_iter"], plan.max_iter, "n_iter")
    bounds = checked_records(saved["lower_bounds"], n_iter, "lower_bounds")
    params = unpacked(saved["params"], like, "params")
    return FitResult(params, [float(bound) for bound in bounds], n_iter=n_iter, converged=saved["converged"] is True)


# -------------------------------------------------------------------------------------------------------- acceleration
def _path_of(model, plan):
    return _Squarem(model) if plan.accelerate else _PlainPath()


class _PlainPath:
    """Ascent without acceleration."""

    extrapolated = False

    def state(self):
        return None

    def restore(self, saved, like):
        pass

    def refuses(self, bound, last_bound):
        return False

    def next(self, before, found):
        return found


class _Squarem:
    """Guarded extrapolation from two EM steps in a row (Varadhan and Roland 2008, SQUAREM, step length S3).

    With r the first step and v the change from the first to the second, the next point is theta_0 - 2 a r + a^2 v,
    where a = -|r| / |v|; a = -1 is where two EM steps lead. A point whose bound is below the last one, or no finite
    number, or whose covariances cannot be factorised, is refused, and the ascent continues from the second EM step: the
    trace never falls.
    """

    def __init__(self, model):
        self.model, self.length, self.longest = model, 1.0, _LONGEST_STEP
        self.begin, self.plain, self.extrapolated = None, None, False

    def state(self):
        return packed(vars(self) | {"model": None})

    def restore(self, saved, like):
        """Go on from a saved state; `like` is a template of the parameters."""
        self.length, self.longest = (unpacked(saved[name], 1.0, name) for name in ("length", "longest"))
        self.begin, self.plain = (
            None if saved[name] is None else unpacked(saved[name], like, name) for name in ("begin", "plain")
        )
        self.extrapolated = saved["extrapolated"] is True

    def refuses(self, bound, last_bound):
        """Whether the extrapolated point must be given up for `plain`, given the bounds there and before it."""
        if not self.extrapolated:
            return False
        refused = not last_bound <= bound < math.inf
        if self.length == self.longest:  # grown here only: a bound that grew when it was tried would never shrink
            self.longest = max(1.0, self.longest / _LONGEST_STEP) if refused else self.longest * _LONGEST_STEP
        self.extrapolated = not refused
        return refused

    def next(self, before, found):
        """Parameters of the next E-step: `found` after the first step of a pair, the extrapolation after the second."""
        if self.begin is None or self.extrapolated:
            self.begin, self.extrapolated = before, False
            return found
        origin, middle, end = (self.model.to_free(params) for params in (self.begin, before, found))
        r, v = middle - origin, end - 2 * middle + origin
        ratio = float(torch.linalg.vector_norm(r) / torch.linalg.vector_norm(v))  # of a fixed point 0 / 0
        self.length = length = min(self.longest, max(1.0, ratio)) if math.isfinite(ratio) else 1.0
        self.begin, self.plain = None, found
        if length == 1.0:
            self.longest = max(self.longest, _LONGEST_STEP)
            return found
        self.extrapolated = True
        return self.model.from_free(origin + 2 * length * r + length**2 * v, found)
