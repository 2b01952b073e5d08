"""Fits of networks as members of one ascent: a single fit, the copies of one that vote, or all fits of a search.

Every fit is a `Task`. `climb` puts the networks of all tasks side by side, lets the gradient engine raise their bounds
together, and gives each task its own `Outcome`: the same, to rounding, as if it had climbed alone.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import joblib
import numpy as np
import torch

from skvae.engines import gradient
from skvae.models.autoencoders.encoder_decoder import with_heads
from skvae.training.members import MemberNoise, MemberRows, Stream

_STACK_CELLS = 2**19  # members x rows of a batch x columns in one step: more leave the cache, and gain nothing


@dataclass
class Task:
    """One fit.

    Attributes
    ----------
    model : object with bound(params, batch, noise)
        In `climb_all` also with likeness(): what models have in common that may climb together, or None. Where tasks
        differ in the number of latent dimensions, with widened(params, n) and narrowed(params).
    params : dict of Tensor
        Where to start, with a leading axis of the members of this fit.
    stream : Stream
    plan : gradient.Plan
        With one weight decay, and one learning rate or a tuple of its members'; `beta` gives a float.
    log_base : float or ndarray of shape (n_members,)
        Mean over rows of the part of log p(x | z) that the bound leaves out.
    vote : callable or None
        params -> score, greater is better. If it remembers what it was asked, `begins()` makes it forget.
    optimizer_state : dict of Tensor or None
        To go on from.
    """

    model: object
    params: dict
    stream: Stream
    plan: gradient.Plan
    log_base: float | np.ndarray = 0.0
    vote: Callable | None = None
    optimizer_state: dict | None = field(default=None)


class Outcome(NamedTuple):
    """What became of a task.

    Attributes
    ----------
    params : dict of Tensor
        Of all its members.
    lower_bounds : ndarray of shape (n_epochs, n_members)
    validation_scores : ndarray of shape (n_validations,)
    best : int
        Number of the validation whose parameters were kept; -1: the last parameters were.
    n_iter : int
        Epochs.
    optimizer_state : dict of Tensor
        Of the optimiser; empty unless the task climbed alone.
    """

    params: dict
    lower_bounds: np.ndarray
    validation_scores: np.ndarray
    best: int
    n_iter: int
    optimizer_state: dict


def climb(tasks, watcher=None):
    """Raise the bounds of all tasks together.

    Parameters
    ----------
    tasks : list of Task
        Alike in all but parameters, rows, seed, latent dimensions, beta, learning rate and weight decay; with equal
        numbers of batches.
    watcher : Watcher or None

    Returns
    -------
    outcomes : list of Outcome

    Raises
    ------
    FloatingPointError
        If a bound is not finite in an epoch even at half the learning rate.
    """
    order, rows = _side_by_side(tasks)
    tasks = [tasks[place] for place in order]
    slices = _slices(tasks)
    n_latent = max(getattr(task.model, "n_components", 0) for task in tasks)
    widest = next(task.model for task in tasks if getattr(task.model, "n_components", 0) == n_latent)
    fit = gradient.ascend(
        widest,
        _joined([_widened(task, n_latent) for task in tasks]),
        rows,
        plan=_joint_plan(tasks),
        noise=_noise(tasks, rows, n_latent),
        log_base=np.concatenate([np.broadcast_to(task.log_base, task.stream.n_members) for task in tasks]),
        validate=_validator(tasks, slices),
        watcher=watcher,
        optimizer_state=tasks[0].optimizer_state if len(tasks) == 1 else None,
    )
    outcomes = [_outcome(fit, task, number, members) for number, (task, members) in enumerate(zip(tasks, slices))]
    return [outcomes[order.index(place)] for place in range(len(tasks))]


# ------------------------------------------------------------------------------------------------------- any tasks
def climb_all(tasks):
    """Raise the bounds of any tasks, those together that are alike.

    Parameters
    ----------
    tasks : list of Task

    Returns
    -------
    outcomes : list of Outcome or None
        None where a fit must be made by itself: its steps were not finite, or none of its votes counted.
    """
    tables = {}
    for task in tasks:  # those that read equal rows read them once
        table = task.stream.table
        key = joblib.hash([None if part is None else part.cpu().numpy() for part in table])
        task.stream = task.stream._replace(table=tables.setdefault(key, table))
    outcomes = [None] * len(tasks)
    for places in _stacks(tasks):
        for place, outcome in zip(places, _finite_outcomes([tasks[place] for place in places]), strict=True):
            outcomes[place] = outcome if outcome is None or tasks[place].vote is None or outcome.best >= 0 else None
    return outcomes


def _stacks(tasks):
    """Places of tasks that climb together: alike, those of one stream side by side, and not too many."""
    kinds = {}
    for place, task in enumerate(tasks):
        likeness = _likeness(task)
        streams = kinds.setdefault((place,) if likeness is None else likeness, {})
        streams.setdefault(_stream_key(task.stream), []).append(place)
    for streams in kinds.values():
        stack, used = [], 0
        for places in streams.values():
            cells = [_cells(tasks[place]) for place in places]
            if stack and used + sum(cells) > _STACK_CELLS:
                yield stack
                stack, used = [], 0
            for place, own in zip(places, cells, strict=True):
                if stack and used + own > _STACK_CELLS:
                    yield stack
                    stack, used = [], 0
                stack, used = [*stack, place], used + own
        yield stack


def _likeness(task):
    """What tasks have in common that may climb together; None for one that must climb alone."""
    model, plan, stream = task.model, task.plan, task.stream
    alike = model.likeness() if task.optimizer_state is None else None
    return alike and (
        alike,
        tuple(task.params),
        tuple(None if part is None else (part.dtype, part.device) for part in (stream.table.x, stream.base)),
        MemberRows([stream]).n_batches(plan.batch_size),
        task.vote is None,
        plan.rate_schedule,
        *(plan.max_iter, plan.patience, plan.tol, plan.validate_every, plan.earliest_stop, plan.first_epoch),
    )


def _stream_key(stream):
    return id(stream.table), stream.noise.key


def _cells(task):
    """Of all members in a step."""
    width = max(task.stream.table.x.shape[1], *(max(tensor.shape[1:]) for tensor in task.params.values()))
    return task.stream.n_members * task.plan.batch_size * width


def _finite_outcomes(tasks):
    """Of tasks that are alike; where a step is not finite, of each half by itself.

    Members refuse a step together, so that those with finite steps must go on without the others.
    """
    for task in tasks:
        if hasattr(task.vote, "begins"):
            task.vote.begins()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", gradient.REFUSED, RuntimeWarning)
            return climb(tasks)
    except (FloatingPointError, RuntimeWarning, torch.OutOfMemoryError):
        half = len(tasks) // 2
        return [*_finite_outcomes(tasks[:half]), *_finite_outcomes(tasks[half:])] if half else [None]


# -------------------------------------------------------------------------------------------------------- one ascent
def _side_by_side(tasks):
    """The tasks in an order in which those of one stream are neighbours, and the rows of all members."""
    streams = {}
    for place, task in enumerate(tasks):
        streams.setdefault(_stream_key(task.stream), []).append(place)
    n_latent = max(0 if task.stream.base is None else task.stream.base.shape[2] // 2 for task in tasks)
    rows = [
        _shared([_widened_stream(tasks[place].stream, n_latent) for place in places]) for places in streams.values()
    ]
    return [place for places in streams.values() for place in places], MemberRows(rows)


def _shared(streams):
    """One stream for all members of several that read the same rows in the same order."""
    if len(streams) == 1:
        return streams[0]
    weight = torch.cat([stream.weight.expand(stream.n_members, -1) for stream in streams])
    base = None
    if streams[0].base is not None:
        base = torch.cat([stream.base.expand(stream.n_members, -1, -1) for stream in streams])
    return streams[0]._replace(n_members=len(weight), weight=weight, base=base)


def _widened_stream(stream, n_latent):
    """With a base of so many latent dimensions, those added as in the prior."""
    return stream if stream.base is None else stream._replace(base=with_heads(stream.base, n_latent))


def _slices(tasks):
    ends = np.cumsum([task.stream.n_members for task in tasks]).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends], ends)]


def _widened(task, n_latent):
    return task.params if len(task.params) == 0 or not n_latent else task.model.widened(task.params, n_latent)


def _joined(params):
    return params[0] if len(params) == 1 else {name: torch.cat([each[name] for each in params]) for name in params[0]}


def _joint_plan(tasks):
    counts = [task.stream.n_members for task in tasks]
    longest = max(tasks, key=lambda task: len(task.stream.table.x)).plan  # its batches are as many as all others'
    plan = replace(longest, fit_of_member=np.repeat(np.arange(len(tasks)), counts))
    for name in ("learning_rate", "weight_decay"):
        values = [getattr(task.plan, name) for task in tasks]
        if len(set(values)) > 1 or np.ndim(values[0]):
            of_members = [np.broadcast_to(value, count) for value, count in zip(values, counts, strict=True)]
            plan = replace(plan, **{name: np.concatenate(of_members)})
    betas = [task.plan.beta for task in tasks]
    if len(tasks) == 1:
        return plan

    def beta(fraction):
        values = np.repeat([float(own(fraction)) for own in betas], counts)
        return torch.from_numpy(values.astype(np.float32))[:, None].to(tasks[0].stream.weight.device)

    return replace(plan, beta=beta)


def _noise(tasks, rows, n_latent):
    own = [getattr(task.model, "n_components", 0) for task in tasks]
    live = None
    if min(own) < n_latent:
        live = tasks[0].stream.weight.new_zeros(len(rows.stream_of_member), 1, n_latent)
        for members, n in zip(_slices(tasks), own, strict=True):
            live[members, :, :n] = 1
    streams = [stream.noise for stream in rows.streams]
    return MemberNoise(streams, rows.stream_of_member if len(streams) > 1 else None, live)


def _validator(tasks, slices):
    if tasks[0].vote is None:
        return None

    def validate(params):
        return np.array([task.vote(_own(params, task, members)) for task, members in zip(tasks, slices, strict=True)])

    return validate


def _own(params, task, members):
    """The parameters of one task among those of all."""
    own = {name: tensor.detach()[members] for name, tensor in params.items()}
    return task.model.narrowed(own) if getattr(task.model, "n_components", 0) else own


def _outcome(fit, task, number, members):
    alone = len(fit.best) == 1
    n_validations = int(fit.n_validations[number])
    n_iter = min(fit.n_iter, n_validations * task.plan.validate_every) if _gave_up(fit, number) else fit.n_iter
    return Outcome(
        _own(fit.params, task, members),
        np.array(fit.lower_bounds)[:n_iter, members],
        np.array([scores[number] for scores in fit.validation_scores[:n_validations]]),
        int(fit.best[number]),
        n_iter,
        fit.optimizer_state if alone else {},
    )


def _gave_up(fit, number):
    return 0 < fit.n_validations[number] < len(fit.validation_scores)
