"""A fit of a network to a matrix of clicks, users x items."""

import numpy as np
import torch

from skvae._tensors import Rows
from skvae.elbo import FitResult
from skvae.training.ascent import Ascent, Training


def informative_users(X, weight, likelihood):
    """Leave out users without entries where they say nothing of the parameters, with their weights (or None)."""
    stored = np.diff(X.indptr) > 0
    if likelihood.empty_rows_inform or stored.all():
        return X, weight
    kept = np.flatnonzero(stored)
    return X[kept], None if weight is None else weight[kept]


def initial_params(model, X, weight, noise, device):
    """Random weights, with the decoder's biases at the marginal maximum of the likelihood."""
    if weight is None:
        total, count = X.sum(axis=0, dtype=np.float64), np.bincount(X.indices, minlength=X.shape[1])
    else:
        total = weight @ X
        count = np.bincount(X.indices, np.repeat(weight, np.diff(X.indptr)), minlength=X.shape[1])
    mean, share = (torch.from_numpy(sums.astype(np.float32) / X.shape[0]) for sums in (total, count))
    return {name: tensor.to(device) for name, tensor in model.init(noise.fold("init"), mean, share).items()}


class ClickTraining(Training):
    """One network, trained on the users of a click matrix.

    Parameters
    ----------
    model : object with bound(params, batch, noise) and a likelihood
    X : CSR array of shape (n_users, n_items)
        Informative users only.
    weight : float64 ndarray of shape (n_users,) or None
        Of the users, with mean 1; None: 1 each.
    noise : Noise
    plan : gradient.Plan
    params : dict of Tensor
        Where to begin.
    validation : Validation or None, default=None
    optimizer_state : dict of Tensor or None, default=None
        Of an earlier fit.
    """

    def __init__(self, model, X, weight, noise, plan, params, *, validation=None, optimizer_state=None):
        rows = Rows(X, next(iter(params.values())).device, weight=weight)
        batches = rows.batches(plan.batch_size)
        log_base = torch.stack([(batch.w * model.likelihood.log_base(batch)).sum() for batch in batches])
        log_base = sum(log_base.cpu().tolist()) / len(rows)
        self.ascent = Ascent(model, params, rows, plan, noise, log_base, validation, optimizer_state)

    def conclude(self, result):
        return result

    def snapshot(self, params):
        return FitResult(params, lower_bounds=[np.nan], validation_scores=[], n_iter=1)
