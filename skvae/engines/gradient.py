"""Stochastic gradient ascent of a bound: the one loop of every model whose posterior a network amortises.

    batch -> bound -> step

The loop owns the order of the rows, the schedules, early stopping and the guard against non-finite steps. A model is
anything with `bound(params, batch, noise) -> Bound`; the loop knows no more of it.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from skvae import _reduce
from skvae.elbo import Fit
from skvae.engines import schedules
from skvae.engines.watching import Watcher


@dataclass
class Plan:
    """How to climb.

    Attributes
    ----------
    max_iter : int
        Epochs.
    batch_size : int
        Rows a step.
    learning_rate : float
    rate_schedule, beta : callable
        Fraction of all steps done -> multiplier of the learning rate, weight of the KL term.
    weight_decay : float
        Coefficient of 0.5 * sum of squares of every weight matrix (biases are free).
    patience : int or None
        Stop after so many epochs without a better validation score, and keep the best; None: keep the last.
    earliest_stop : float
        Fraction of all steps before which no epoch counts as the best: the annealing ends there.
    first_epoch : int
        Number of the first epoch, a key of its noise.
    """

    max_iter: int
    batch_size: int
    learning_rate: float
    rate_schedule: Callable = schedules.constant
    beta: Callable = schedules.constant
    weight_decay: float = 0.0
    patience: int | None = None
    earliest_stop: float = 0.0
    first_epoch: int = 0


class Epoch(NamedTuple):
    """What is known when an epoch ends.

    Attributes
    ----------
    number : int
    lower_bound : float
        Mean bound per row at beta = 1, nats.
    log_prob, kl : float
        Its two terms.
    validation_score : float or None
    params : dict of Tensor
        The live parameters: copy what you keep.
    """

    number: int
    lower_bound: float
    log_prob: float
    kl: float
    validation_score: float | None
    params: dict


def ascend(model, params, rows, *, plan, noise, log_base=0.0, validate=None, watcher=None, moments=None):
    """Raise the model's bound on `rows`.

    Parameters
    ----------
    model : object with a method bound(params, batch, noise)
    params : dict of Tensor
        Where to start. They are moved in place: a copy of the weights is memory that a wide catalogue feels.
    rows : Rows
    plan : Plan
    noise : Noise
    log_base : float
        Mean over rows of the part of log p(x | z) that the bound leaves out.
    validate : callable or None
        params -> score, greater is better; called after every epoch.
    watcher : Watcher or None
    moments : dict of Tensor or None
        Of an earlier call, to go on with its optimiser's state; changed in place too.

    Returns
    -------
    fit : Fit

    Raises
    ------
    FloatingPointError
        If the bound is not finite in an epoch even at half the learning rate.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
        return _ascend(model, params, rows, plan, noise, log_base, validate, watcher or Watcher(), moments)


def _ascend(model, params, rows, plan, noise, log_base, validate, watcher, moments):
    params = {name: _leaf(tensor) for name, tensor in params.items()}
    optimiser = _Adam(params, plan, moments)
    fit, best = Fit(params), _Best(plan)
    n_steps = plan.max_iter * max(1, -(-len(rows) // plan.batch_size))
    step = 0
    for number in range(plan.max_iter):
        watcher.begins(number)
        epoch_noise = noise.fold(plan.first_epoch + number)
        sums = []  # of each step, kept on the device until the epoch's end
        for batch in rows.batches(plan.batch_size, epoch_noise.fold("order").permutation(len(rows))):
            fraction = step / n_steps
            bound = model.bound(params, batch, epoch_noise)
            (-bound.value(plan.beta(fraction)).mean()).backward()
            sums.append(optimiser.step(bound, plan.rate_schedule(fraction)))
            step += 1
        (sums,) = _reduce.total(torch.stack(sums).cpu().double().sum(0))
        log_prob, kl, n_rows, refused = sums.tolist()
        optimiser.review(refused, plan.first_epoch + number)
        score = None if validate is None else validate(params)
        n_rows = n_rows or math.nan  # every step refused: there is no bound
        log_prob, kl = log_prob / n_rows + log_base, kl / n_rows
        fit.n_iter = number + 1
        fit.lower_bounds.append(log_prob - kl)
        if score is not None:
            fit.validation_scores.append(score)
        stop = watcher.ends(Epoch(number, log_prob - kl, log_prob, kl, score, params))
        if best.enough(params, score, (number + 1) / plan.max_iter) or stop:
            break
    fit.params = {name: tensor.detach() for name, tensor in (best.params or params).items()}
    fit.moments = optimiser.moments()
    return fit


def _leaf(tensor):
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).requires_grad_()


class _Best:
    """The parameters of the best validation score so far, and when to give up on a better one."""

    def __init__(self, plan):
        self.patience, self.earliest = plan.patience, plan.earliest_stop
        self.score, self.params, self.waited = -np.inf, None, 0

    def enough(self, params, score, fraction):
        if self.patience is None or score is None or fraction < self.earliest:
            return False
        if score > self.score:
            self.score, self.waited = score, 0
            self.params = {name: tensor.detach().clone() for name, tensor in params.items()}
        else:
            self.waited += 1
        return self.waited >= self.patience


class _Adam:
    """Adam (Kingma and Ba 2015), fused, that refuses steps which are not finite without waiting for the device."""

    def __init__(self, params, plan, moments):
        self.params, self.rate, self.halved = params, plan.learning_rate, False
        matrices = [tensor for tensor in params.values() if tensor.dim() > 1]
        vectors = [tensor for tensor in params.values() if tensor.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": vectors}]
        self.adam = torch.optim.Adam(groups, lr=plan.learning_rate, fused=True)
        for tensor in params.values():  # kept from the first step on: see `kept_gradient`
            tensor.grad, tensor.adds_in_place = torch.zeros_like(tensor), True
        for name, tensor in params.items():
            if moments:
                self.adam.state[tensor] = {key: moments[f"{name}.{key}"] for key in _MOMENTS}

    def step(self, bound, multiplier):
        """Take the step if the bound and all gradients are finite.

        Returns the sums over the rows of the batch of log_prob and kl, their number, and how many steps were refused:
        a refused one counts as 1 there and as nothing in the other three.
        """
        sums = torch.stack([bound.log_prob.detach().sum(), bound.kl.detach().sum()])
        gradients = torch.stack([tensor.grad.sum() for tensor in self.params.values()])
        taken = torch.isfinite(sums).all() & torch.isfinite(gradients).all()
        refused = (~taken).float()
        for group in self.adam.param_groups:
            group["lr"] = self.rate * multiplier
        self.adam.found_inf = refused  # the fused kernel leaves parameters and moments alone where this is 1
        self.adam.step()
        self.adam.zero_grad(set_to_none=False)
        n_rows = sums.new_full((1,), len(bound.log_prob))
        return torch.cat([torch.where(taken, torch.cat([sums, n_rows]), 0), refused[None]])

    def review(self, refused, epoch):
        """Halve the rate once if steps were refused; then give up."""
        if not refused:
            return
        if self.halved:
            raise FloatingPointError(
                f"The bound or its gradient was not finite in {int(refused)} steps of epoch {epoch}, though the "
                f"learning rate had been halved to {self.rate:g}; lower learning_rate, or look for outliers in X."
            )
        self.rate, self.halved = self.rate / 2, True
        warnings.warn(
            f"The bound or its gradient was not finite in {int(refused)} steps of epoch {epoch}. They were left out, "
            f"and the learning rate is now {self.rate:g}.",
            RuntimeWarning,
            stacklevel=2,
        )

    def moments(self):
        return {
            f"{name}.{key}": self.adam.state[tensor][key].detach()
            for name, tensor in self.params.items()
            if tensor in self.adam.state
            for key in _MOMENTS
        }


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
