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

import torch


class Kept:
    """A leaf and its gradient, unknown to autograd; matrices where the leaf is a stack of one.

    A large gradient is not cleared between steps, which takes as long as to write it. It is marked as old, and what is
    found first in a step replaces it.

    Attributes
    ----------
    value : Tensor
    gradient : Tensor or RowGradient
    is_old : bool
        Whether the gradient is that of an earlier step, and counts as 0.
    """

    __slots__ = ("value", "gradient", "is_old")

    def __init__(self, value, gradient):
        self.value, self.gradient, self.is_old = value, gradient, False

    def to_add(self):
        """Return the gradient, to add to it."""
        if self.is_old:
            self.gradient.zero_()
            self.is_old = False
        return self.gradient

    def to_fill(self):
        """Return the gradient and whether to add to it; if not, the caller must write all of it."""
        adds, self.is_old = not self.is_old, False
        return self.gradient, adds

    def add_product(self, products, a, b):
        """Add a @ b to the gradient."""
        total, adds = self.to_fill()
        products.add_to(total, a, b, adds=adds)


class RowGradient:
    """Gradient of a weight of which a step reads a few rows: only these are in memory, those of all others are 0."""

    def __init__(self):
        self.parts = []  # (numbers of rows, ascending; their gradients)

    def index_add_(self, axis, row, gradient):
        """Add gradients (n, n_out) to rows with these numbers, which ascend, as `torch.Tensor.index_add_` does."""
        self.parts.append((row, gradient))

    def sum(self):
        """Sum over all cells."""
        return sum(gradient.sum() for _, gradient in self.parts)

    def in_blocks(self, n_rows, size):
        """Yield (slice of `size` rows, numbers of rows within it, their gradients) in the order of the rows.

        A block without any comes with None twice; one to which several passes have added comes with each row once.
        """
        row, gradient = self._joined()
        starts = range(0, n_rows, size)
        ends = torch.searchsorted(row, torch.tensor([*starts, n_rows])).tolist()
        for start, first, last in zip(starts, ends[:-1], ends[1:], strict=True):
            own = (None, None) if first == last else (row[first:last] - start, gradient[first:last])
            yield slice(start, min(start + size, n_rows)), *own

    def _joined(self):
        if len(self.parts) == 1:
            return self.parts[0]
        if not self.parts:
            return torch.empty(0, dtype=torch.int64), None
        rows, gradients = map(torch.cat, zip(*self.parts, strict=True))
        row, place = rows.unique(return_inverse=True)
        return row, gradients.new_zeros(len(row), gradients.shape[1]).index_add_(0, place, gradients)

    def clear(self):
        """Begin anew, at 0."""
        self.parts.clear()


def keep_gradient(leaf, gradient):
    """Give a leaf a gradient that operations of this package add to in place, past autograd.

    A weight as wide as a catalogue has a gradient of tens of megabytes. To allocate it at every step, and have autograd
    add it to the old one, costs more than to compute it. And one matrix is multiplied faster than a stack of one.
    """
    leaf.grad = gradient
    parts = leaf.detach(), gradient
    leaf.kept = Kept(*(part.squeeze(0) for part in parts) if leaf.dim() == 3 and len(leaf) == 1 else parts)


def forget_gradient(leaf):
    """Mark the gradient that a leaf keeps as old. From then on autograd, if it finds one, has a tensor of its own."""
    leaf.grad, leaf.kept.is_old = None, True


def collect_gradient(leaf):
    """Bring the gradient that a leaf keeps up to date, after `forget_gradient` and a backward pass."""
    total = leaf.kept.to_add()
    if leaf.grad is not None:
        total.add_(leaf.grad.view(total.shape))
        leaf.grad = None


def keep_rows_of_gradient(leaf):
    """Give a leaf (n, n_out) that only `Batch.linear` reads a `RowGradient`, and return that."""
    leaf.kept = Kept(leaf.detach(), RowGradient())
    return leaf.kept.gradient


def kept(tensor):
    """Return the `Kept` of a leaf that keeps its gradient, else None."""
    return getattr(tensor, "kept", None)


def kept_gradient(tensor):
    """Return the gradient of a leaf that keeps it, to add to it, else None."""
    return tensor.kept.to_add() if kept(tensor) else None


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
