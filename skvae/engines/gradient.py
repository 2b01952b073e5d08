"""Stochastic gradient ascent of a bound: the one loop of every model whose posterior a network amortises.

    batch -> bound -> step

The loop owns the schedules, early stopping and the guard against non-finite steps. A model is anything with
`bound(params, batch, noise) -> Bound`; the loop knows no more of it.

Networks of one shape may climb together, as members: every tensor then has a leading axis of them, and the bounds of
all are raised in one step. They see nothing of each other but a step that is not finite, which they refuse together.
Members that share a validation score are one fit.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import keep_gradient
from skvae.elbo import FitResult
from skvae.engines import schedules
from skvae.engines.watching import Watcher

REFUSED = "The bound or its gradient was not finite"  # how a warning of steps that were left out begins


@dataclass
class Plan:
    """How to climb.

    Attributes
    ----------
    max_iter : int
        Epochs.
    batch_size : int
        Rows a step.
    learning_rate : float, or sequence of float
        Of each member.
    rate_schedule, beta : callable
        Fraction of all steps done -> multiplier of the learning rate, weight of the KL term. The latter may be a
        Tensor of shape (n_members, 1).
    weight_decay : float, or sequence of float
        Coefficient of 0.5 * sum of squares of every weight matrix (biases are free).
    patience : int or None
        Stop after so many validations without a better score, and keep the best; None: keep the last.
    tol : float
        By how much a score must rise to count as better for the patience.
    validate_every : int
        Epochs from one validation to the next.
    earliest_stop : float
        Fraction of all steps before which no epoch counts as the best: the annealing ends there.
    first_epoch : int
        Number of the first epoch, a key of its noise.
    fit_of_member : ndarray of int or None
        The fit that each member belongs to; None: the tensors have no axis of members.
    """

    max_iter: int
    batch_size: int
    learning_rate: float | Sequence
    rate_schedule: Callable = schedules.constant
    beta: Callable = schedules.constant
    weight_decay: float | Sequence = 0.0
    patience: int | None = None
    tol: float = 0.0
    validate_every: int = 1
    earliest_stop: float = 0.0
    first_epoch: int = 0
    fit_of_member: np.ndarray | None = None


class Epoch(NamedTuple):
    """What is known when an epoch ends.

    Attributes
    ----------
    number : int
    lower_bound : float
        Mean bound per row at beta = 1, nats; of members, an array, as are the next two.
    log_prob, kl : float
        Its two terms.
    validation_score : float or None
        Of several fits, an array; None after epochs without a validation.
    params : dict of Tensor
        The live parameters: copy what you keep.
    """

    number: int
    lower_bound: float | np.ndarray
    log_prob: float | np.ndarray
    kl: float | np.ndarray
    validation_score: float | np.ndarray | None
    params: dict


def ascend(model, params, rows, *, plan, noise, log_base=0.0, validate=None, watcher=None, optimizer_state=None):
    """Raise the model's bound on `rows`.

    Parameters
    ----------
    model : object with a method bound(params, batch, noise)
    params : dict of Tensor
        Where to start. They are moved in place: a copy of the weights is memory that a wide catalogue feels.
    rows : Rows or MemberRows
        Whatever hands out `shuffled(batch_size, noise)` batches, `n_batches(batch_size)` of them, with weights `w`; in
        sums over batches the weights are `counted`.
    plan : Plan
    noise : Noise or MemberNoise
    log_base : float
        Mean over rows of the part of log p(x | z) that the bound leaves out; of members, an array.
    validate : callable or None
        params -> score, greater is better: one for each fit.
    watcher : Watcher or None
    optimizer_state : dict of Tensor or None
        Of an earlier call, to go on with its optimizer's state; changed in place too.

    Returns
    -------
    fit : FitResult

    Raises
    ------
    FloatingPointError
        If the bound is not finite in an epoch even at half the learning rate.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
        return _ascend(model, params, rows, plan, noise, log_base, validate, watcher or Watcher(), optimizer_state)


def _ascend(model, params, rows, plan, noise, log_base, validate, watcher, optimizer_state):
    params = {name: _leaf(tensor) for name, tensor in params.items()}
    optimizer = _Adam(params, plan, optimizer_state)
    fit, best = FitResult(params), _Best(plan)
    n_steps = plan.max_iter * rows.n_batches(plan.batch_size)
    step = 0
    for number in range(plan.max_iter):
        watcher.begins(number)
        epoch_noise = noise.fold(plan.first_epoch + number)
        sums, refusals = [], []  # of each step, kept on the device until the epoch's end
        for batch in rows.shuffled(plan.batch_size, epoch_noise.fold("order")):
            fraction = step / n_steps
            bound = model.bound(params, batch, epoch_noise)
            bound.descend(plan.beta(fraction), batch.w)
            of_step, refused = optimizer.step(bound, batch.counted, plan.rate_schedule(fraction))
            sums.append(of_step)
            refusals.append(refused)
            step += 1
        log_prob, kl, weight, n_refused = _of_epoch(sums, refusals)
        optimizer.review(n_refused, plan.first_epoch + number)
        validates = (number + 1) % plan.validate_every == 0 or number + 1 == plan.max_iter
        score = validate(params) if validate and validates else None
        weight = np.where(weight, weight, math.nan)  # every step refused: there is no bound
        log_prob, kl = log_prob / weight + log_base, kl / weight
        fit.n_iter = number + 1
        fit.lower_bounds.append(log_prob - kl)
        if score is not None:
            fit.validation_scores.append(score)
        stop = watcher.ends(Epoch(number, log_prob - kl, log_prob, kl, score, params))
        if best.enough(params, score, (number + 1) / plan.max_iter) or stop:
            break
    fit.params = {name: tensor.detach() for name, tensor in (best.params or params).items()}
    fit.best, fit.n_validations, fit.optimizer_state = best.number, best.n_seen, optimizer.optimizer_state()
    return fit


def _of_epoch(sums, refusals):
    """The sums of all steps that were taken, as NumPy arrays, and how many were not."""
    sums, refused = torch.stack(sums), torch.stack(refusals)
    sums = torch.where(refused.reshape(-1, *(1,) * (sums.dim() - 1)) > 0, 0, sums).cpu().double().sum(0)
    sums, n_refused = _reduce.total(sums, refused.cpu().double().sum())
    return *sums.numpy(), int(n_refused)


def _leaf(tensor):
    # The fused step writes as if memory were contiguous, which a view of a larger tensor need not be.
    return (tensor.clone() if tensor.is_inference() else tensor.detach()).contiguous().requires_grad_()


class _Best:
    """The parameters of each fit at its best validation score so far, and when to give up on a better one."""

    def __init__(self, plan):
        self.patience, self.tol, self.earliest, self.fit_of_member = (
            plan.patience,
            plan.tol,
            plan.earliest_stop,
            plan.fit_of_member,
        )
        n_fits = 1 if self.fit_of_member is None else self.fit_of_member.max() + 1
        self.score, self.bar = np.full(n_fits, -np.inf), np.full(n_fits, -np.inf)
        self.waited, self.number, self.n_seen = np.zeros(n_fits, int), np.full(n_fits, -1), np.zeros(n_fits, int)
        self.params = None

    def enough(self, params, score, fraction):
        if self.patience is None or score is None:
            return False
        score, running = np.atleast_1d(score), self.waited < self.patience
        self.n_seen += running
        if fraction < self.earliest:
            return False
        better = running & (score > self.score)
        self._keep(params, better)
        self.score[better], self.number[better] = score[better], self.n_seen[better] - 1
        rose = running & (score > self.bar)
        self.bar[rose] = score[rose] + self.tol
        self.waited[rose] = 0
        self.waited[running & ~rose] += 1
        return bool((self.waited >= self.patience).all())

    def _keep(self, params, better):
        if self.params is None and better.any() or better.all():
            self.params = {name: tensor.detach().clone() for name, tensor in params.items()}
        elif better.any():
            for name, tensor in params.items():
                members = torch.from_numpy(better[self.fit_of_member]).to(tensor.device)
                self.params[name][members] = tensor.detach()[members]


class _Adam:
    """Adam (Kingma and Ba 2015) that refuses steps which are not finite without waiting for the device.

    By the kernel of `torch.optim.Adam(fused=True)`, called directly: for small networks what is around it takes five
    times as long as the kernel. All gradients lie in one piece of memory, so that to clear or to test them takes one
    operation.
    """

    def __init__(self, params, plan, optimizer_state):
        self.params, self.factor = params, 1.0
        self.gradient = _shared_gradient(params)
        state = _state(params, optimizer_state or {})
        self.step_count = state["step"]
        self.groups = _groups(params, state, plan)
        self.state = state

    def step(self, bound, w, multiplier):
        """Take the step if the bounds and all gradients are finite.

        Returns the sums over the rows of the batch of log_prob and kl, and their weight, each with the axes of members;
        and 1 if the step was refused, else 0.
        """
        log_prob, kl = bound.log_prob.detach(), bound.kl.detach().sum(-1)
        sums = (torch.stack([log_prob, kl, torch.ones_like(kl)]) * w).sum(-1)
        total = sums.sum() + self.gradient.sum()
        # 1 where that is not finite, else 0: the kernel leaves parameters and averages alone then
        refused = (total - total).nan_to_num_(1.0).float()
        self.step_count += refused.new_ones(()) - refused
        for group in self.groups:
            group.step(self.step_count, self.factor * multiplier, refused)
        self.gradient.zero_()
        return sums, refused

    def review(self, refused, epoch):
        """Halve the rate once if steps were refused; then give up."""
        if not refused:
            return
        if self.factor < 1:
            raise FloatingPointError(
                f"{REFUSED} in {int(refused)} steps of epoch {epoch}, though the "
                f"learning rate had been halved to {self.rate:g}; lower learning_rate, or look for outliers in X."
            )
        self.factor = 0.5
        warnings.warn(
            f"{REFUSED} in {int(refused)} steps of epoch {epoch}. They were left out, "
            f"and the learning rate is now {self.rate:g}.",
            RuntimeWarning,
            stacklevel=2,
        )

    @property
    def rate(self):
        return max(group.rate for group in self.groups) * self.factor

    def optimizer_state(self):
        """Number of steps, and two running averages of each gradient, from which another ascent may go on."""
        return self.state


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _shared_gradient(params):
    """The gradients of all parameters, cleared, as one vector, of which each `grad` is a part."""
    first = next(iter(params.values()))
    gradient = torch.zeros(sum(tensor.numel() for tensor in params.values()), dtype=first.dtype, device=first.device)
    parts = gradient.split([tensor.numel() for tensor in params.values()])
    for tensor, part in zip(params.values(), parts, strict=True):
        keep_gradient(tensor, part.view(tensor.shape))
    return gradient


def _state(params, known):
    """What the optimizer remembers: what is known from before, and zeros."""
    step = known.get("step")
    state = {
        "step": torch.zeros((), dtype=torch.float32, device=next(iter(params.values())).device)
        if step is None
        else step
    }
    for name, tensor in params.items():
        for key in (f"{name}.{moment}" for moment in _MOMENTS):
            state[key] = known[key] if key in known else torch.zeros_like(tensor, requires_grad=False)
    return state


class _Group:
    """Parameters of one learning rate and weight decay, with their gradients and running averages."""

    def __init__(self, names, params, state, rate, decay, members):
        self.rate, self.decay = rate, decay
        self.params = [_of(params[name].detach(), members) for name in names]
        self.gradients = [_of(params[name].grad, members) for name in names]
        self.means, self.squares = ([_of(state[f"{name}.{key}"], members) for name in names] for key in _MOMENTS)

    def step(self, step_count, multiplier, refused):
        _fused_adam(
            self.params,
            self.gradients,
            self.means,
            self.squares,
            [],
            [step_count] * len(self.params),
            lr=self.rate * multiplier,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            found_inf=refused,
        )


def plain_adam(params, gradients, means, squares, _, steps, *, lr, beta1, beta2, weight_decay, eps, found_inf, **__):
    """What the fused kernel does, for a torch that has none under that name."""
    taken = found_inf == 0
    for p, g, mean, square, step in zip(params, gradients, means, squares, steps, strict=True):
        g = g + weight_decay * p
        mean.copy_(torch.where(taken, mean.lerp(g, 1 - beta1), mean))
        square.copy_(torch.where(taken, square.lerp(g.square(), 1 - beta2), square))
        spread = (square / (1 - beta2**step)).sqrt() + eps
        p.copy_(torch.where(taken, p - lr * (mean / (1 - beta1**step)) / spread, p))


_fused_adam = getattr(torch, "_fused_adam_", plain_adam)  # not a public name of torch


def _groups(params, state, plan):
    """Parameters by learning rate and weight decay; of members with rates of their own, views of runs of them."""
    if np.ndim(plan.learning_rate) == np.ndim(plan.weight_decay) == 0:
        runs = [(plan.learning_rate, plan.weight_decay, None)]
    else:
        runs = list(_runs(*np.broadcast_arrays(plan.learning_rate, plan.weight_decay)))
    n_axes = 1 if plan.fit_of_member is None else 2  # of a vector
    groups = []
    for rate, decay, members in runs:
        matrices = [name for name, tensor in params.items() if tensor.dim() > n_axes and decay]
        others = [name for name in params if name not in matrices]
        for names, own in ((matrices, decay), (others, 0.0)):
            if names:
                groups.append(_Group(names, params, state, rate, own, members))
    return groups


def _runs(rates, decays):
    """(learning rate, weight decay, slice of members) of neighbours that share both."""
    start = 0
    for stop in range(1, len(rates) + 1):
        if stop == len(rates) or (rates[stop], decays[stop]) != (rates[start], decays[start]):
            yield float(rates[start]), float(decays[start]), slice(start, stop)
            start = stop


def _of(tensor, members):
    return tensor if members is None else tensor[members]
