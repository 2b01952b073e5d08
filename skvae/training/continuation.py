"""Going on from an earlier fit of the same estimator: warm start and partial fit."""

import enum
from dataclasses import dataclass

import numpy as np

from skvae._tensors import to_device
from skvae.engines import schedules


class Continuation(enum.Enum):
    """How a fit relates to an earlier one of the same estimator."""

    FRESH = "fresh"
    WARM_START = "warm start"
    PARTIAL_FIT = "partial fit"

    @property
    def continues(self):
        """Whether an earlier fit goes on, if there is one."""
        return self is not Continuation.FRESH

    @property
    def single_pass(self):
        """Whether the fit makes one pass over the rows, without annealing or early stopping."""
        return self is Continuation.PARTIAL_FIT


@dataclass(frozen=True)
class Earlier:
    """Records of an earlier fit, which a fit adds its own to; empty for a fit that begins anew.

    Attributes
    ----------
    n_samples_seen : float
        Weight of the rows seen, those of the fit to come among them.
    may_go_on : bool
        Whether a later fit may go on from the fit to come, and needs its optimizer state.
    n_iter : int
        Epochs done.
    lower_bounds, validation_scores, validation_epochs, kl_weights : array-like
    parameters, optimizer_state : dict of ndarray or None
        None for a fit that begins anew.
    """

    n_samples_seen: float
    may_go_on: bool
    n_iter: int = 0
    lower_bounds: object = ()
    validation_scores: object = ()
    validation_epochs: object = ()
    kl_weights: object = ()
    parameters: dict | None = None
    optimizer_state: dict | None = None

    @classmethod
    def of(cls, estimator, n_new, *, adds_rows):
        """Records of a fitted estimator.

        Parameters
        ----------
        estimator : fitted estimator
        n_new : float
            Weight of the rows of the fit to come.
        adds_rows : bool
            Whether these come on top of the rows seen so far, or in their place.
        """
        return cls(
            (estimator.n_samples_seen_ if adds_rows else 0) + n_new,
            True,
            estimator.n_iter_,
            estimator.lower_bounds_,
            estimator.validation_scores_,
            estimator.validation_epochs_,
            getattr(estimator, "kl_weights_", ()),
            estimator.parameters_,
            estimator._optimizer_state,
        )

    def params_on(self, device, dtype):
        """Copies of the parameters as tensors, which an ascent may move."""
        return to_device(self.parameters, device, dtype)

    def optimizer_state_on(self, device, dtype):
        """Copies of the optimizer state as tensors; None if there is none."""
        return to_device(self.optimizer_state, device, dtype) or None

    def extended_by(self, kept, plan, in_units, *, has_kl=True):
        """Fitted attributes that record the earlier fit and a new one.

        Parameters
        ----------
        kept : FitResult
        plan : gradient.Plan or None
            Of the new fit; None if it took no step.
        in_units : callable
            Turns bounds and scores into the units of the data.
        has_kl : bool, default=True
            Whether the `beta` of the plan is the weight of a KL term.
        """
        n_scores = len(kept.validation_scores)
        every = 1 if plan is None else plan.validate_every
        epochs = np.minimum(every * np.arange(1, n_scores + 1), kept.n_iter)
        records = {}
        if has_kl and plan is not None and plan.beta is not schedules.constant:
            weights = np.array([np.asarray(plan.beta(epoch / plan.max_iter)) for epoch in range(kept.n_iter)])
            records["kl_weights_"] = np.concatenate([self.kl_weights, weights]) if len(self.kl_weights) else weights
        return records | {
            "n_iter_": self.n_iter + kept.n_iter,
            "n_samples_seen_": self.n_samples_seen,
            "lower_bounds_": np.append(self.lower_bounds, in_units(np.asarray(kept.lower_bounds))),
            "validation_scores_": np.append(self.validation_scores, in_units(np.asarray(kept.validation_scores))),
            "validation_epochs_": np.append(np.asarray(self.validation_epochs, int), self.n_iter + epochs),
        }
