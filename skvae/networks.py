"""Networks as pure functions of a dict of tensors: `{"decoder.0.weight": ..., "decoder.0.bias": ...}`.

A weight has shape (n_in, n_out), so that the first layer of a sparse row is a sum of rows of the weight. A leading axis
of parameters and inputs is that of members, networks of one shape that are computed together.
"""

import math
from itertools import chain

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from skvae._tensors import and_back, kept, products

_BLOCK_CELLS = 2**18  # of a weight drawn at once: random bits take several times its memory

ACTIVATIONS = {
    "identity": torch.positive,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": F.silu,
}
_DERIVATIVES = {  # gradient of the output, input, output -> gradient of the input
    torch.positive: lambda upstream, f, h: upstream,
    torch.sigmoid: lambda upstream, f, h: torch.ops.aten.sigmoid_backward(upstream, h),
    torch.tanh: lambda upstream, f, h: torch.ops.aten.tanh_backward(upstream, h),
    torch.relu: lambda upstream, f, h: torch.ops.aten.threshold_backward(upstream, h, 0),
    F.silu: lambda upstream, f, h: torch.ops.aten.silu_backward(upstream, f),
}


def known(activation):
    """Tell whether the derivative of an activation is known here; that of any other is left to autograd."""
    return activation in _DERIVATIVES


def _tanh(f):
    """Compute tanh by the sigmoid, in half the time of torch's, as exact in absolute terms; not for autograd."""
    s = (f + f).sigmoid_()
    return s.add_(s).sub_(1)


_FASTER = {torch.tanh: _tanh}


def init_mlp(name, sizes, noise):
    """Draw the parameters of a chain of linear layers: Glorot and Bengio's (2010) uniform weights, zero biases.

    Parameters
    ----------
    name : str
    sizes : sequence of int
        Widths, input first; one layer between each two.
    noise : Noise

    Returns
    -------
    params : dict of float32 Tensors
    """
    params = {}
    for layer, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        params[f"{name}.{layer}.weight"] = glorot(n_in, n_out, noise.fold(name, layer))
        params[f"{name}.{layer}.bias"] = torch.zeros(n_out, dtype=torch.float32)
    return params


def glorot(n_in, n_out, noise):
    """Draw a weight (n_in, n_out) as Glorot and Bengio (2010) do, uniform with variance 2 / (n_in + n_out)."""
    weight = torch.empty(n_in, n_out, dtype=torch.float32)
    for rows in torch.arange(n_in).split(max(1, _BLOCK_CELLS // n_out)):
        weight[rows[0] : rows[-1] + 1] = noise.uniform(rows, n_out)
    return weight.mul_(2).sub_(1).mul_(math.sqrt(6 / (n_in + n_out)))


def layer(params, name, index):
    """Return weight and bias of one layer."""
    return params[f"{name}.{index}.weight"], params[f"{name}.{index}.bias"]


def hidden(params, name, h, layers, activation):
    """Run h through `layers` (a range), each followed by the activation.

    Weights are those of one network (n_in, n_out), or of members (M, n_in, n_out) for inputs (M or 1, n_rows, n_in).
    """
    leaves = list(chain.from_iterable(layer(params, name, index) for index in layers))
    return _run(leaves, h, [activation] * len(layers)) if leaves else h


def network(params, name, h, layers, activation):
    """Run h, of a shape as for `hidden`, through `layers` (a range), with the activation between them.

    Where there is "<name>.skip.weight", h times it is added to the first columns of the output.
    """
    leaves, activations = _parts(params, name, layers, activation)
    return _run(leaves, h, activations)


def network_and_back(params, name, h, layers, activation, *, to_input=True):
    """Return what `network` does, and its backward pass as a function: see `skvae._tensors.and_back`.

    All parameters must keep their gradients.
    """
    leaves, activations = _parts(params, name, layers, activation)
    return and_back(_Chain, h, None, [kept(leaf) for leaf in leaves], activations, to_input=to_input)


def network_and_slope(params, name, h, layers, activation):
    """Return what `network` gives, and the gradient of its sum with respect to h; autograd goes through both.

    So the slope may be part of what is trained: see the gradient penalty of `models.autoencoders.gan`.
    """
    leaves, activations = _parts(params, name, layers, activation)
    h = h.detach().requires_grad_()
    output = _values(leaves, h, activations, products())[-1]
    return output, torch.autograd.grad(output.sum(), h, create_graph=True)[0]


def _parts(params, name, layers, activation):
    """Weights and biases, with the skip's weight if there is one, and what follows each layer."""
    leaves = list(chain.from_iterable(layer(params, name, index) for index in layers))
    skip = params.get(f"{name}.skip.weight")
    return leaves if skip is None else [*leaves, skip], [activation] * (len(layers) - 1) + [None]


def _run(leaves, h, activations):
    """Run h through the layers: as one node of autograd where all keep their gradients, else as many."""
    pairs = [kept(leaf) for leaf in leaves]
    if None in pairs or not all(activation is None or known(activation) for activation in activations):
        return _values(leaves, h, activations, products())[-1]
    return _Chain.apply(h, leaves[0], pairs, activations)


def _values(tensors, h, activations, products):
    """Return h, and what it becomes before and after each activation, which are the same where there is none.

    `tensors` holds weights and biases in turn, and at the end the skip's weight if there is one.
    """
    values, first = [h], h
    for weight, bias, activation in zip(tensors[:-1:2], tensors[1::2], activations, strict=True):
        f = products.affine(values[-1], products.weight(weight), bias)
        apply = activation if f.requires_grad else _FASTER.get(activation, activation)
        values += [f, f if activation is None else apply(f)]
    if len(tensors) % 2:
        past = products.times(first, products.weight(tensors[-1]))
        values[-1] = values[-1] + F.pad(past, (0, values[-1].shape[-1] - past.shape[-1]))
    return values


class _Chain(torch.autograd.Function):
    """All layers as one node of autograd, whose backward pass adds to the gradients that the leaves keep.

    Autograd would put each product into fresh memory, which costs nearly as much again, and add it from there; and each
    of its nodes takes longer than a small product. One leaf is an input of the node only to tell autograd that a
    gradient is asked for.
    """

    @staticmethod
    def forward(ctx, h, leaf, pairs, activations):
        ctx.pairs, ctx.activations, ctx.products = pairs, activations, products()
        ctx.alone = pairs[0].value.dim() < h.dim()  # a stack of one network
        h = h.squeeze(0) if ctx.alone else h
        values = _values([pair.value for pair in pairs], h, activations, ctx.products)
        ctx.save_for_backward(*values)
        return values[-1].unsqueeze(0) if ctx.alone else values[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        values, goes_back, products = ctx.saved_tensors, ctx.needs_input_grad[0], ctx.products
        of_h = upstream = upstream.squeeze(0) if ctx.alone else upstream
        for i in reversed(range(len(ctx.activations))):
            h, before, after = values[2 * i : 2 * i + 3]
            if ctx.activations[i] is not None:
                of_h = _DERIVATIVES[ctx.activations[i]](of_h, before, after)
            weight, bias = ctx.pairs[2 * i : 2 * i + 2]
            bias.to_add().add_(of_h.sum(-2))
            of_h = products.factor(of_h)
            weight.add_product(products, h.mT, of_h)
            if i or goes_back:
                of_h = products.times(of_h, products.weight(weight.value).mT)
        if len(ctx.pairs) % 2:
            skip = ctx.pairs[-1]
            of_past = upstream[..., : skip.value.shape[-1]]
            skip.add_product(products, values[0].mT, of_past)
            of_h = of_h + products.times(of_past, products.weight(skip.value).mT) if goes_back else of_h
        of_h = of_h.unsqueeze(0) if ctx.alone else of_h
        return of_h if goes_back else None, None, None, None  # autograd sums it for members of one input
