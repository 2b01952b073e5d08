"""Networks as pure functions of a dict of tensors: `{"decoder.0.weight": ..., "decoder.0.bias": ...}`.

A weight has shape (n_in, n_out), so that the first layer of a sparse row is a sum of rows of the weight. Tensors with a
leading axis are several members, networks of one shape that are computed together; their inputs have that axis too.
"""

import math

import torch
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from skvae._tensors import kept_gradient

_BLOCK_CELLS = 2**18

ACTIVATIONS = {
    "identity": lambda h: h,
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "silu": torch.nn.functional.silu,
}
_DERIVATIVES = {  # gradient of the output, output -> gradient of the input, where the output is enough to know it
    torch.sigmoid: torch.ops.aten.sigmoid_backward,
    torch.tanh: torch.ops.aten.tanh_backward,
    torch.relu: lambda upstream, h: torch.ops.aten.threshold_backward(upstream, h, 0),
}


def init_mlp(name, sizes, noise):
    """Parameters of a chain of linear layers: Glorot and Bengio's (2010) uniform weights, zero biases.

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
        params[f"{name}.{layer}.weight"] = _glorot(n_in, n_out, noise.fold(name, layer))
        params[f"{name}.{layer}.bias"] = torch.zeros(n_out, dtype=torch.float32)
    return params


def _glorot(n_in, n_out, noise):
    weight = torch.empty(n_in, n_out, dtype=torch.float32)
    for rows in torch.arange(n_in).split(max(1, _BLOCK_CELLS // n_out)):  # random bits take several times the room
        weight[rows[0] : rows[-1] + 1] = noise.uniform(rows, n_out)
    return weight.mul_(2).sub_(1).mul_(math.sqrt(6 / (n_in + n_out)))


def layer(params, name, index):
    """Weight and bias of one layer."""
    return params[f"{name}.{index}.weight"], params[f"{name}.{index}.bias"]


def affine(h, weight, bias, activation=None):
    """h @ weight + bias: of one network, or of members (M, n_in, n_out) on inputs (M or 1, n_rows, n_in).

    Then the activation, if one is given.
    """
    if kept_gradient(weight) is not None and kept_gradient(bias) is not None:
        if activation is None or activation in _DERIVATIVES:
            return _Affine.apply(h, weight, bias, activation)
        return activation(_Affine.apply(h, weight, bias, None))
    f = _affine(h, weight, bias)
    return f if activation is None else activation(f)


def _affine(h, weight, bias):
    if weight.dim() == 2:
        return torch.addmm(bias, h, weight)
    return torch.baddbmm(bias[:, None], h.expand(weight.shape[0], -1, -1), weight)


class _Affine(torch.autograd.Function):
    """`affine` of leaves that keep their gradients: the products are added to these at once.

    Autograd would put each product into fresh memory, which costs nearly as much again, and add it from there.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, activation):
        f = _affine(h, weight, bias)
        if activation is not None:
            f = activation(f)
        ctx.activation = activation
        ctx.save_for_backward(h, weight, bias, None if activation is None else f)
        return f

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        h, weight, bias, activated = ctx.saved_tensors
        if activated is not None:
            upstream = _DERIVATIVES[ctx.activation](upstream, activated)
        if weight.dim() == 2:
            bias.grad.add_(upstream.sum(0))
            weight.grad.addmm_(h.T, upstream)
        else:
            bias.grad.add_(upstream.sum(1))
            weight.grad.baddbmm_(h.expand(weight.shape[0], -1, -1).mT, upstream)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        of_input = upstream @ weight.mT
        return of_input if h.shape == of_input.shape else of_input.sum(0, keepdim=True), None, None, None


def hidden(params, name, h, layers, activation):
    """Run h through `layers` (a range), each followed by the activation."""
    for index in layers:
        h = affine(h, *layer(params, name, index), activation)
    return h


class Module:
    """A network of the user's own, a `torch.nn.Module`, as a pure function of a dict of tensors.

    Parameters
    ----------
    name : str
        Prefix of its parameters.
    factory : callable
        (n_in, n_out) -> Module that maps rows (n_rows, n_in) to (n_rows, n_out). It is called on torch's "meta" device:
        what it draws is never used.
    n_in, n_out : int

    Raises
    ------
    ValueError
        If the factory does not make a module, or one with buffers, such as the running means of a batch norm: they
        would make the result depend on the order of calls.
    """

    def __init__(self, name, factory, n_in, n_out):
        with torch.device("meta"):
            self.module = factory(n_in, n_out)
        if not isinstance(self.module, torch.nn.Module):
            raise ValueError(f"{name} must make a torch.nn.Module, but it made {self.module!r}.")
        buffers = [key for key, _ in self.module.named_buffers()]
        if buffers:
            raise ValueError(f"{name} made a module with buffers {buffers}, which no fit keeps; leave them out.")
        self.name = name
        self.keys = [key for key, _ in self.module.named_parameters()]

    def init(self, noise):
        """Glorot and Bengio's (2010) uniform weights where there are two axes or more, else ones and zeros."""
        return {
            f"{self.name}.{key}": self._drawn(key, parameter, noise.fold(self.name, key))
            for key, parameter in self.module.named_parameters()
        }

    def _drawn(self, key, parameter, noise):
        if parameter.dim() < 2:  # a weight of one axis is the factor of a normalisation
            return torch.full(parameter.shape, float(key.endswith("weight")), dtype=torch.float32)
        n_out, n_in = parameter.shape[0], parameter[0].numel()
        return _glorot(n_in, n_out, noise).mT.reshape(parameter.shape).contiguous()

    def __call__(self, params, h):
        """Of one network, or of members one after another."""
        own = {key: params[f"{self.name}.{key}"] for key in self.keys}
        n_members = len(own[self.keys[0]])
        outputs = []
        for member in range(n_members):
            weights = {key: tensor[member] for key, tensor in own.items()}
            outputs.append(functional_call(self.module, weights, (h[min(member, len(h) - 1)],)))
        return torch.stack(outputs)
