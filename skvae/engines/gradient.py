"""Stochastic gradient ascent of a bound: the one loop of every model whose posterior a network amortises.

    batch -> bound -> step

The loop owns the order of the rows, the schedules, early stopping and the guard against non-finite steps. A model is
anything with `bound(params, batch, noise) -> Bound`; the loop knows no more of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from skvae import _reduce
from skvae.elbo import Fit
from skvae.engines import schedules


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


class Watcher:
    """Told of every epoch; stops the ascent by returning True. This one sees nothing."""

    def begins(self, number):
        """Before an epoch."""

    def ends(self, epoch):
        """After an epoch, with its `Epoch`; return True to stop here."""
        return False


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
    params = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    optimiser = _Adam(params, plan, moments)
    watcher = watcher or Watcher()
    fit, best = Fit(params), _Best(plan)
    n_steps = plan.max_iter * max(1, -(-len(rows) // plan.batch_size))
    step = 0
    for number in range(plan.max_iter):
        watcher.begins(number)
        epoch_noise = noise.fold(plan.first_epoch + number)
        sums = []  # of each batch: log_prob, kl, steps refused; they stay on the device until the epoch's end
        for batch in rows.batches(plan.batch_size, epoch_noise.fold("order").permutation(len(rows))):
            fraction = step / n_steps
            bound = model.bound(params, batch, epoch_noise)
            (-bound.value(plan.beta(fraction)).mean()).backward()
            refused = optimiser.step(bound, plan.rate_schedule(fraction))
            sums.append(torch.stack([bound.log_prob.detach().sum(), bound.kl.detach().sum(), refused]))
            step += 1
        (sums,) = _reduce.total(torch.stack(sums).cpu().double().sum(0))  # the epoch's one wait for the device
        log_prob, kl, refused = sums.tolist()
        optimiser.review(refused, plan.first_epoch + number)
        score = None if validate is None else validate(params)
        n_rows = max(1, len(rows))
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
        for tensor in matrices:  # kept and added to in place from the first step on: see `kept_gradient`
            tensor.grad = torch.zeros_like(tensor)
        self.checked = [tensor for name, tensor in params.items() if name.endswith("bias")]
        for name, tensor in params.items():
            if moments:
                self.adam.state[tensor] = {key: moments[f"{name}.{key}"] for key in _MOMENTS}

    def step(self, bound, multiplier):
        """Take the step if loss and gradients are finite; return 1 where it was refused, a tensor.

        A bias's gradient is the sum over rows of its layer's, so the biases stand for all gradients of their layers.
        """
        witness = bound.log_prob.detach().sum() + bound.kl.detach().sum()
        witness = witness + sum(tensor.grad.sum() for tensor in self.checked)
        refused = (~torch.isfinite(witness)).float()
        for group in self.adam.param_groups:
            group["lr"] = self.rate * multiplier
        self.adam.found_inf = refused  # the fused kernel leaves parameters and moments alone where this is 1
        self.adam.step()
        self.adam.zero_grad(set_to_none=False)
        return refused

    def review(self, refused, epoch):
        """Halve the rate once if steps were refused; then give up."""
        if not refused:
            return
        if self.halved:
            raise FloatingPointError(
                f"The bound or its gradient was not finite in {int(refused)} steps of epoch {epoch}, though the "
                f"learning rate had been halved to {self.rate:g}; lower learning_rate or scale X down."
            )
        self.rate, self.halved = self.rate / 2, True

    def moments(self):
        return {
            f"{name}.{key}": self.adam.state[tensor][key].detach()
            for name, tensor in self.params.items()
            if tensor in self.adam.state
            for key in _MOMENTS
        }


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
