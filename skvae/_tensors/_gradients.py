"""Gradients that are kept and added to in place, and backward passes without autograd.

Autograd's bookkeeping takes longer than the arithmetic of a small network. So the parts of a plain network return their
backward pass beside their value, and a step of training chains these:

    (value, back) = and_back(function, *inputs)      of one `torch.autograd.Function`
    networks.network_and_back, elbo.draw_and_kl_and_back, likelihoods' log_prob_and_back       of the parts of a bound
    Bound(..., by_hand=...)                          of the whole; `engines.gradient` calls it once a step

`back` takes the gradient of the value and returns that of the first input. Gradients of parameters are added to those
that they keep (`keep_gradient`). `back` may overwrite what was kept for it, so it is called once. Tests compare each
with autograd.
"""

import inspect
from typing import NamedTuple

import torch


class Kept(NamedTuple):
    """A leaf and its gradient, unknown to autograd; matrices where the leaf is a stack of one.

    Attributes
    ----------
    value, gradient : Tensor
    """

    value: torch.Tensor
    gradient: torch.Tensor


def keep_gradient(leaf, gradient):
    """Give a leaf a gradient that operations of this package add to in place, past autograd.

    A weight as wide as a catalogue has a gradient of tens of megabytes. To allocate it at every step, and have autograd
    add it to the old one, costs more than to compute it. And one matrix is multiplied faster than a stack of one.
    """
    leaf.grad = gradient
    parts = leaf.detach(), gradient
    leaf.kept = Kept(*(part.squeeze(0) for part in parts) if leaf.dim() == 3 and len(leaf) == 1 else parts)


def kept(tensor):
    """Return the `Kept` of a leaf that keeps its gradient, else None."""
    return getattr(tensor, "kept", None)


def kept_gradient(tensor):
    """Return the gradient of a leaf that keeps it, else None."""
    return tensor.kept.gradient if kept(tensor) else None


class _Context:
    """Stand-in for the context of a `torch.autograd.Function`."""

    def __init__(self, to_input):
        self.needs_input_grad = (to_input,)

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def and_back(function, *inputs, to_input=True):
    """Apply a `torch.autograd.Function` without autograd, and return its backward pass as a function.

    Returns
    -------
    value : Tensor, or tuple of Tensors
    back : callable
        Gradients of the values -> gradient of the first input, or None if `to_input` is False. To be called once: it
        may overwrite what was kept for it.
    """
    ctx, backward = _Context(to_input), inspect.unwrap(function.backward)  # of what would guard it from autograd

    def back(*upstream):
        return backward(ctx, *upstream)[0]

    return function.forward(ctx, *inputs), back
