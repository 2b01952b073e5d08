"""The plan of an ascent: parameters that are "auto" settled, and the schedules of learning rate and KL weight."""

import math
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import NamedTuple

import numpy as np

from skvae.engines import gradient, schedules

_GRID = 400  # points at which a user's schedule is looked at


class KLWeight(NamedTuple):
    """Weight of the KL term over a fit.

    Attributes
    ----------
    schedule : callable
        Fraction of all steps done -> weight.
    constant_from : callable
        () -> fraction of the steps after which the weight is constant.
    """

    schedule: Callable = schedules.constant
    constant_from: Callable = lambda: 0.0


CONSTANT_WEIGHT = KLWeight()


def settle(estimator, auto):
    """Values of an estimator's parameters by name, with those of `auto` in the place of "auto"."""
    given = {name: getattr(estimator, name) for name in auto}
    return {name: auto[name] if isinstance(value, str) and value == "auto" else value for name, value in given.items()}


def make_plan(
    estimator,
    settled,
    n_rows,
    *,
    continuation,
    kl=CONSTANT_WEIGHT,
    validates=False,
    validate_every=1,
    first_epoch=0,
    precision="float32",
):
    """The plan of one fit.

    Parameters
    ----------
    estimator : estimator object
        With the parameters learning_rate_schedule and n_iter_no_change; tol is optional.
    settled : dict
        Its learning_rate, batch_size, max_iter and weight_decay, none of them "auto".
    n_rows : int
    continuation : Continuation
        A partial fit is one epoch at a constant learning rate, whatever max_iter says.
    kl : KLWeight, default=CONSTANT_WEIGHT
    validates : bool, default=False
        Whether held-out rows decide when to stop.
    validate_every : int, default=1
        Epochs from one validation to the next.
    first_epoch : int, default=0
        Number of the first epoch, a key of its noise.
    precision : {"float32", "float64", "bfloat16"}, default="float32"
        As of `gradient.Plan`.

    Returns
    -------
    plan : gradient.Plan
    """
    return gradient.Plan(
        max_iter=1 if continuation.single_pass else settled["max_iter"],
        batch_size=min(settled["batch_size"], n_rows),
        learning_rate=settled["learning_rate"],
        rate_schedule=getattr(schedules, "constant" if continuation.single_pass else estimator.learning_rate_schedule),
        beta=kl.schedule,
        weight_decay=settled["weight_decay"],
        patience=estimator.n_iter_no_change if validates else None,
        tol=getattr(estimator, "tol", 0.0),
        validate_every=validate_every,
        earliest_stop=kl.constant_from() if validates else 0.0,
        first_epoch=first_epoch,
        precision=precision,
    )


def kl_weight(estimator, beta, continuation):
    """The `KLWeight` that rises to `beta` as the parameters annealing, anneal_fraction and n_cycles say.

    In a single pass over the rows it is constant.
    """
    if continuation.single_pass or estimator.annealing is None:
        return KLWeight(partial(_scaled, beta, schedules.constant))
    annealing, ramp = estimator.annealing, estimator.anneal_fraction
    if annealing == "cyclical":
        last_ramp_ends = (estimator.n_cycles - 1 + ramp) / estimator.n_cycles
        multiplier, constant_from = partial(schedules.cyclical, ramp=ramp, n_cycles=estimator.n_cycles), last_ramp_ends
    elif callable(annealing):
        return KLWeight(partial(_scaled, beta, partial(_checked, annealing)), partial(_constant_from, annealing))
    else:
        multiplier, constant_from = partial(getattr(schedules, annealing), ramp=ramp), ramp
    return KLWeight(partial(_scaled, beta, multiplier), lambda: constant_from)


def _scaled(beta, multiplier, fraction):
    return beta * multiplier(fraction)


def _constant_from(annealing):
    """Fraction of the steps after which a user's schedule is constant, to within a grid."""
    weights = np.array([_checked(annealing, point / _GRID) for point in range(_GRID)])
    changing = np.flatnonzero(weights != weights[-1])
    return (changing[-1] + 1) / _GRID if len(changing) else 0.0


def _checked(annealing, fraction):
    """Value of a user's schedule; complain of one that is no weight."""
    weight = annealing(fraction)
    if not isinstance(weight, Real) or not 0 <= weight < math.inf:
        raise ValueError(f"annealing({fraction:g}) returned {weight!r}; it must return a finite weight >= 0.")
    return float(weight)
