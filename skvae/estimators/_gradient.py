"""The one road from X to fitted attributes for estimators whose model climbs by gradient.

check -> the engine climbs with a model -> NumPy attributes, set together at the end
"""

import math
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch

from skvae._tensors import Rows, resolve_device, to_device, to_numpy
from skvae.engines import gradient, schedules
from skvae.estimators._watching import FitWatcher


class Climb:
    """One gradient ascent of one estimator: where it starts, and the fitted attributes it leaves.

    Parameters
    ----------
    estimator : Estimator
        With `_architecture_of(X)` (a dict of what fixes shape and meaning of the parameters), `_build(architecture)`
        (the model) and `_validator(model, X_val)` (a function from parameters to a score).
    X : CSR array of shape (n_rows, n_columns)
        Checked training rows. Those without entries are left out where they add nothing to the bound.
    noise : Noise
    goes_on : bool
        Start from the estimator's fitted parameters.
    adds_rows : bool, default=False
        X comes on top of the rows that the estimator has seen.

    Raises
    ------
    ValueError
        If X has no entries, or the parameters to go on from are of another architecture.
    """

    def __init__(self, estimator, X, noise, goes_on, *, adds_rows=False):
        if not X.nnz:
            raise ValueError(f"{type(estimator).__name__} found no interaction in X: all {X.shape} cells are zero.")
        self.estimator, self.noise = estimator, noise
        self.architecture = estimator._architecture_of(X)
        self.model = estimator._build(self.architecture)
        X = self._informative(X)
        self.rows = Rows(X, resolve_device(estimator.device))
        self.n_seen = len(self.rows) + (estimator.n_samples_seen_ if goes_on and adds_rows else 0)
        if goes_on:
            self._go_on(estimator)
        else:
            self._start_afresh(X)

    def _informative(self, X):
        """The rows that say something of the parameters; X itself, not a copy, where all of them do."""
        stored = np.diff(X.indptr) > 0
        return X if self.model.likelihood.empty_rows_inform or stored.all() else X[np.flatnonzero(stored)]

    def _start_afresh(self, X):
        mean = torch.from_numpy(X.sum(axis=0, dtype=np.float64).astype(np.float32) / X.shape[0])
        share = torch.from_numpy(np.bincount(X.indices, minlength=X.shape[1]).astype(np.float32) / X.shape[0])
        self.params, self.moments = self.model.init(self.noise.fold("init"), mean, share), None
        self.params = {name: tensor.to(self.rows.device) for name, tensor in self.params.items()}
        self.n_iter, self.lower_bounds, self.validation_scores = 0, [], []

    def _go_on(self, estimator):
        changed = {name: value for name, value in self.architecture.items() if estimator._architecture[name] != value}
        if changed:
            fitted = {name: estimator._architecture[name] for name in changed}
            raise ValueError(
                f"{type(estimator).__name__} was fitted with {fitted} and cannot go on with {changed}; "
                "call fit with warm_start=False to begin anew."
            )
        device = self.rows.device
        self.params, self.moments = to_device(estimator.parameters_, device), to_device(estimator._moments, device)
        self.n_iter = estimator.n_iter_
        self.lower_bounds, self.validation_scores = list(estimator.lower_bounds_), list(estimator.validation_scores_)

    def ascend(self, plan, X_val=None, watcher=None):
        """Climb; returns the engine's `Fit`."""
        validate = None if X_val is None else self.estimator._validator(self.model, X_val)
        return gradient.ascend(
            self.model,
            self.params,
            self.rows,
            plan=plan,
            noise=self.noise,
            log_base=self._mean_log_base(plan.batch_size),
            validate=validate,
            watcher=watcher,
            moments=self.moments,
        )

    def _mean_log_base(self, batch_size):
        batches = self.rows.batches(batch_size)
        return sum(float(self.model.likelihood.log_base(batch).sum()) for batch in batches) / len(self.rows)

    def attributes(self, params):
        """What prediction needs."""
        return {
            "parameters_": to_numpy(params),
            "device_": str(self.rows.device),
            "_architecture": self.architecture,
        }

    def record(self, fit, *, keep_moments):
        """How the ascent went, after what went before; the moments, twice the weights in size, for those who go on."""
        return {
            "n_iter_": self.n_iter + fit.n_iter,
            "n_samples_seen_": self.n_seen,
            "lower_bounds_": np.array(self.lower_bounds + fit.lower_bounds),
            "validation_scores_": np.array(self.validation_scores + fit.validation_scores),
            "_moments": to_numpy(fit.moments) if keep_moments else {},
        }


class EpochWatcher(FitWatcher):
    """Watches the epochs of a network; `attributes` turns parameters into the fitted attributes."""

    task = "epoch"

    def fitted(self, report):
        return self.attributes(_copies(report.params))

    def line(self, report):
        score = "" if report.validation_score is None else f"  validation score {report.validation_score:.4f}"
        return (
            f"epoch {report.number + 1}/{self.max_iter}"
            f"  bound {report.lower_bound:.4g} nats a row (KL {report.kl:.3g}){score}"
        )


class NetworkWatcher(EpochWatcher):
    """The same for members that learn in units of their own, which `in_units` turns into those of the data."""

    def __init__(self, estimator, X, y, max_iter, attributes, in_units):
        super().__init__(estimator, X, y, max_iter, attributes)
        self.in_units = in_units

    def line(self, report):
        vote = "" if report.validation_score is None else f"  vote {np.max(report.validation_score):.4f}"
        bound, kl = self.in_units(np.mean(report.lower_bound)), np.mean(report.kl)  # over the copies
        return f"epoch {report.number + 1}/{self.max_iter}  bound {bound:.4g} nats a row (KL {kl:.3g}){vote}"


class ErrorWatcher(NetworkWatcher):
    """The same where the bound is minus a mean squared error."""

    def line(self, report):
        score = (
            "" if report.validation_score is None else f"  of rows held out {-self._mean(report.validation_score):.4g}"
        )
        return f"epoch {report.number + 1}/{self.max_iter}  squared error {-self._mean(report.lower_bound):.4g}{score}"

    def _mean(self, value):
        return float(self.in_units(np.mean(value)))


def _copies(params):
    return {name: tensor.detach().clone() for name, tensor in params.items()}


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


def checked_sizes(sizes):
    """`hidden_layer_sizes` as a tuple of int."""
    sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must hold whole numbers >= 1, such as (600,), but it is {sizes!r}.")
    return tuple(int(size) for size in sizes)
