"""How the weight of the KL term rises during a fit."""

import math
from functools import partial
from numbers import Real

import numpy as np

from skvae.engines import schedules


class AnnealingMixin:
    """The parameters `annealing`, `anneal_fraction` and `n_cycles`, for estimators whose bound has a KL term."""

    def _annealing(self):
        """The multiplier of beta over the fit, and what tells the fraction of the fit at which it is done rising."""
        ramp = self.anneal_fraction
        if self.annealing is None:
            return schedules.constant, lambda: 0.0
        if self.annealing == "cyclical":
            last_cycle = (self.n_cycles - 1 + ramp) / self.n_cycles
            return partial(schedules.cyclical, ramp=ramp, n_cycles=self.n_cycles), lambda: last_cycle
        if callable(self.annealing):
            return partial(_called, self.annealing), partial(_settled, self.annealing)
        return partial(getattr(schedules, self.annealing), ramp=ramp), lambda: ramp


def _settled(annealing, n_points=400):
    """The fraction of the fit from which on a user's schedule no longer changes, to within a grid."""
    weights = np.array([_called(annealing, point / n_points) for point in range(n_points)])
    changing = np.flatnonzero(weights != weights[-1])
    return (changing[-1] + 1) / n_points if len(changing) else 0.0


def _called(annealing, fraction):
    """A user's schedule, held to what a weight must be."""
    weight = annealing(fraction)
    if not isinstance(weight, Real) or not 0 <= weight < math.inf:
        raise ValueError(f"annealing({fraction:g}) returned {weight!r}; it must return a finite weight >= 0.")
    return float(weight)
