"""The fit of a recommender that is a network."""

import numpy as np
import torch

from skvae._tensors import Rows, resolve_device, to_device, to_numpy
from skvae.engines import gradient
from skvae.estimators._checks import refuse_another_architecture


class RecommenderFit:
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
        self.params, self.optimizer_state = self.model.init(self.noise.fold("init"), mean, share), None
        self.params = {name: tensor.to(self.rows.device) for name, tensor in self.params.items()}
        self.n_iter, self.lower_bounds, self.validation_scores = 0, [], []

    def _go_on(self, estimator):
        refuse_another_architecture(estimator, self.architecture)
        device = self.rows.device
        self.params, self.optimizer_state = (
            to_device(estimator.parameters_, device),
            to_device(estimator._optimizer_state, device),
        )
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
            optimizer_state=self.optimizer_state,
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

    def record(self, fit, *, keep_optimizer_state):
        """How the ascent went, after what went before; the optimizer state is kept for those who go on."""
        return {
            "n_iter_": self.n_iter + fit.n_iter,
            "n_samples_seen_": self.n_seen,
            "lower_bounds_": np.array(self.lower_bounds + fit.lower_bounds),
            "validation_scores_": np.array(self.validation_scores + fit.validation_scores),
            "_optimizer_state": to_numpy(fit.optimizer_state) if keep_optimizer_state else {},
        }
