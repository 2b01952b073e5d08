"""Optimizers that leave out steps which are not finite, without waiting for the device.

`Adam` and `SGD` are settings. An `Optimizer` holds the gradients and the state of some parameters, and takes the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from skvae._tensors import collect_gradient, forget_gradient, keep_gradient, keep_rows_of_gradient

_CELLS_AT_ONCE = 2**20  # of a weight whose gradient is kept by rows: the caches hold its gradient
_LARGE = 2**17  # cells of a gradient, from which to clear it takes longer than to mark it as old


@dataclass(frozen=True)
class Adam:
    """Settings of Adam (Kingma and Ba, ICLR 2015), with the weight decay in the gradient.

    Attributes
    ----------
    learning_rate : float, or sequence of float
        Of each member.
    weight_decay : float, or sequence of float
        Coefficient of 0.5 * sum of squares of every weight matrix (biases are free).
    betas : pair of float
        Decay of the running averages of the gradient and of its square.
    """

    learning_rate: float | Sequence = 1e-3
    weight_decay: float | Sequence = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    averages: ClassVar = ("exp_avg", "exp_avg_sq")  # names of what it remembers of each parameter

    def __post_init__(self):
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"Adam(betas={self.betas}) needs two numbers in [0, 1).")

    def update(self, params, gradients, averages, step_counts, rate, decay, refused):
        """Take a step along minus the gradients, in place; none where `refused` is 1.

        By the kernel of `torch.optim.Adam(fused=True)`, called directly: for small networks what is around it takes
        five times as long as the kernel.
        """
        means, squares = averages
        _fused_adam(
            params,
            gradients,
            means,
            squares,
            [],
            step_counts,
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            found_inf=refused,
        )


def plain_adam(params, gradients, means, squares, _, steps, *, lr, beta1, beta2, weight_decay, eps, found_inf, **__):
    """Do what the fused kernel does, for a torch that has none under that name."""
    taken = found_inf == 0
    for p, g, mean, square, step in zip(params, gradients, means, squares, steps, strict=True):
        g = g + weight_decay * p
        mean.copy_(torch.where(taken, mean.lerp(g, 1 - beta1), mean))
        square.copy_(torch.where(taken, square.lerp(g.square(), 1 - beta2), square))
        spread = (square / (1 - beta2**step)).sqrt() + eps
        p.copy_(torch.where(taken, p - lr * (mean / (1 - beta1**step)) / spread, p))


_fused_adam = getattr(torch, "_fused_adam_", plain_adam)  # not a public name of torch


@dataclass(frozen=True)
class SGD:
    """Settings of gradient steps with momentum (Polyak 1964), as in `torch.optim.SGD`.

    Attributes
    ----------
    learning_rate, weight_decay : float, or sequence of float
        As of `Adam`.
    momentum : float
        Share of the last step that is taken again. It may be negative, which helps in games (Gidel et al. 2019).
    """

    learning_rate: float | Sequence = 1e-2
    weight_decay: float | Sequence = 0.0
    momentum: float = 0.0

    averages: ClassVar = ("momentum_buffer",)

    def __post_init__(self):
        if not -1 < self.momentum < 1:
            raise ValueError(f"SGD(momentum={self.momentum}) needs a number in (-1, 1).")

    def update(self, params, gradients, averages, step_counts, rate, decay, refused):
        """Take a step along minus the gradients, in place; none where `refused` is 1."""
        taken = refused == 0
        for p, g, buffer in zip(params, gradients, *averages, strict=True):
            step = torch.add(g, p, alpha=decay).add_(buffer, alpha=self.momentum)
            buffer.copy_(torch.where(taken, step, buffer))
            p.copy_(torch.where(taken, p - rate * step, p))


class Optimizer:
    """Gradients and optimizer state of some parameters.

    All gradients lie in one piece of memory, so that to clear or to test them takes one operation; but for those of
    which a step needs a few rows, on the CPU.

    Parameters
    ----------
    settings : Adam or SGD
    params : dict of Tensor
        Leaves that require gradients; moved in place.
    state : dict of Tensor
        Of an earlier call; what it lacks begins at zero. Changed in place.
    has_members : bool
        Whether the tensors have a leading axis of members.
    by_rows : collection of str, default=()
        Names of weights (n, n_out) that only `Batch.linear` reads.

    Attributes
    ----------
    gradient : Tensor of shape (n_parameters,)
        Of minus what is raised, of all parameters but those that are kept by rows; complete after `collect`, until the
        next `step`.
    state : dict of Tensor
        "step", the number of steps taken, and the running averages, "<parameter>.<average>".
    """

    def __init__(self, settings, params, state, has_members, by_rows=()):
        first = next(iter(params.values()))
        by_rows = [name for name in params if name in by_rows and first.is_cpu]
        dense = {name: tensor for name, tensor in params.items() if name not in by_rows}
        sizes = [tensor.numel() for tensor in dense.values()]
        self.gradient = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        parts = {name: part.view(dense[name].shape) for name, part in zip(dense, self.gradient.split(sizes))}
        for name, part in parts.items():
            keep_gradient(dense[name], part)
        self.large = [tensor for tensor in dense.values() if tensor.numel() >= _LARGE]
        self.others = _pieces(self.gradient, sizes)
        self._clear()
        self.row_gradients = {name: keep_rows_of_gradient(params[name]) for name in by_rows}
        step = state["step"] if "step" in state else torch.zeros((), device=first.device)
        self.state = {"step": step.float()}  # which the kernel of a GPU asks for, whatever the parameters are
        for name, tensor in params.items():
            for key in (f"{name}.{average}" for average in settings.averages):
                self.state[key] = state[key] if key in state else torch.zeros_like(tensor, requires_grad=False)
        self.groups = _groups(settings, dense, parts, self.state, has_members)
        for name, gradient in self.row_gradients.items():
            self.groups.append(_RowGroup(settings, name, params[name], self.state, gradient))

    def collect(self):
        """Return the gradient, after the backward pass of a step."""
        for tensor in self.large:
            collect_gradient(tensor)
        return self.gradient

    def _clear(self):
        for tensor in self.large:
            forget_gradient(tensor)
        for piece in self.others:
            piece.zero_()

    def sum_of_gradients(self):
        """Sum of all gradients, finite where they are."""
        return sum((rows.sum() for rows in self.row_gradients.values()), self.gradient.sum())

    def step(self, multiplier, refused):
        """Take a step at this multiple of the learning rate, unless the Tensor `refused` is 1, and clear the gradient.

        A refused step leaves parameters, averages and the number of steps alone.
        """
        self.state["step"] += refused.new_ones(()) - refused
        for group in self.groups:
            group.step(self.state["step"], multiplier, refused)
        self._clear()
        for gradient in self.row_gradients.values():
            gradient.clear()

    @property
    def learning_rate(self):
        """The largest of the parameters' learning rates."""
        return max(group.rate for group in self.groups)


def _pieces(gradient, sizes):
    """What lies between the large parts of a gradient, of which the others come in as few pieces as there can be."""
    pieces, start, end = [], 0, 0
    for size in sizes:
        if size >= _LARGE:
            pieces.append(gradient[start:end])
            start = end + size
        end += size
    return [piece for piece in [*pieces, gradient[start:end]] if len(piece)]


def _groups(settings, params, gradients, state, has_members):
    """Parameters by learning rate and weight decay; of members with rates of their own, views of runs of them."""
    rate, decay = settings.learning_rate, settings.weight_decay
    one_for_all = np.ndim(rate) == np.ndim(decay) == 0
    runs = [(rate, decay, ...)] if one_for_all else _runs(*np.broadcast_arrays(rate, decay))
    groups = []
    for rate, decay, members in runs:
        matrices = [name for name, tensor in params.items() if tensor.dim() > 1 + has_members and decay]
        others = [name for name in params if name not in matrices]
        for names, own in ((matrices, decay), (others, 0.0)):
            if names:
                groups.append(_Group(settings, names, params, gradients, state, rate, own, members))
    return groups


def _runs(rates, decays):
    """(learning rate, weight decay, slice of members) of neighbours that share both."""
    first = 0
    for stop in range(1, len(rates) + 1):
        if stop == len(rates) or (rates[stop], decays[stop]) != (rates[first], decays[first]):
            yield float(rates[first]), float(decays[first]), slice(first, stop)
            first = stop


class _Group:
    """Parameters of one learning rate and weight decay, with their gradients and running averages."""

    def __init__(self, settings, names, params, gradients, state, rate, decay, members):
        self.settings, self.rate, self.decay = settings, rate, decay
        self.params = [params[name].detach()[members] for name in names]
        self.gradients = [gradients[name][members] for name in names]
        self.averages = [[state[f"{name}.{key}"][members] for name in names] for key in settings.averages]

    def step(self, step_count, multiplier, refused):
        step_counts = [step_count] * len(self.params)
        rate = self.rate * multiplier
        self.settings.update(self.params, self.gradients, self.averages, step_counts, rate, self.decay, refused)


class _RowGroup:
    """A weight whose gradient is kept by rows, with its running averages.

    All rows move in every step, as the averages and the weight decay ask, also those that the step did not read. The
    gradient is filled up with zeros for a block of rows at a time.
    """

    def __init__(self, settings, name, weight, state, gradient):
        self.settings, self.gradient = settings, gradient
        self.rate, self.decay = float(settings.learning_rate), float(settings.weight_decay)
        self.weight = weight.detach()
        self.averages = [state[f"{name}.{key}"] for key in settings.averages]
        size = max(64, _CELLS_AT_ONCE // self.weight.shape[1] // 64 * 64)
        self.of_block = self.weight.new_zeros(min(size, len(self.weight)), self.weight.shape[1])

    def step(self, step_count, multiplier, refused):
        rate = self.rate * multiplier
        for rows, number, gradient in self.gradient.in_blocks(len(self.weight), len(self.of_block)):
            own = self.of_block[: rows.stop - rows.start]
            if number is not None:
                own.index_copy_(0, number, gradient)
            averages = [[average[rows]] for average in self.averages]
            self.settings.update([self.weight[rows]], [own], averages, [step_count], rate, self.decay, refused)
            if number is not None:
                own.index_fill_(0, number, 0)
