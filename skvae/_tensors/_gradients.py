"""Gradients that are kept and added to in place, and ways back that autograd is not asked for.

Autograd's bookkeeping takes longer than the arithmetic of a small network, so the parts of a plain one give a value
together with its way back, and a step chains these by hand:

    (value, back) = and_back(function, *inputs)      of one `torch.autograd.Function`
    networks.network_and_back, elbo.draw_and_kl_and_back, likelihoods' log_prob_and_back       of the parts of a bound
    Bound(..., by_hand=...)                          of the whole; `engines.gradient` calls it once a step

`back` takes the gradient of the value, returns that of the first input, and adds those of parameters to what they keep
(`keep_gradient`). It may use up what was held for it, and so is called once. A law holds each to autograd's answer.
"""

import inspect
from typing import NamedTuple

import torch


class Kept(NamedTuple):
    """A leaf and its gradient, out of autograd's sight; matrices where the leaf is a stack of one.

    Attributes
    ----------
    value, gradient : Tensor
    """

    value: torch.Tensor
    gradient: torch.Tensor


def keep_gradient(leaf, gradient):
    """Have operations that know of it add to this gradient of a leaf in place, and return none to autograd.

    A weight as wide as a catalogue has a gradient of tens of megabytes: to allocate it anew at every step, and have
    autograd add it to the old one, costs more than to compute it. And one matrix is multiplied faster than a stack of
    one.
    """
    leaf.grad = gradient
    parts = leaf.detach(), gradient
    leaf.kept = Kept(*(part.squeeze(0) for part in parts) if leaf.dim() == 3 and len(leaf) == 1 else parts)


def kept(tensor):
    """The `Kept` of a leaf that has one; None for any other tensor, whose gradient is returned as usual."""
    return getattr(tensor, "kept", None)


def kept_gradient(tensor):
    """The gradient of a leaf that keeps one; else None."""
    return tensor.kept.gradient if kept(tensor) else None


class _Context:
    """What a `torch.autograd.Function` keeps for its way back."""

    def __init__(self, to_input):
        self.needs_input_grad = (to_input,)

    def save_for_backward(self, *tensors):
        self.saved_tensors = tensors


def and_back(function, *inputs, to_input=True):
    """Apply a `torch.autograd.Function` without autograd, whose bookkeeping takes longer than small arithmetic.

    Returns
    -------
    value : Tensor, or tuple of Tensors
    back : callable
        Gradients of the values -> gradient of the first input, or None if that is not asked for by `to_input`. To be
        called once: it may use up what was kept for it.
    """
    ctx, backward = _Context(to_input), inspect.unwrap(function.backward)  # of what would guard it from autograd

    def back(*upstream):
        return backward(ctx, *upstream)[0]

    return function.forward(ctx, *inputs), back
