"""Networks as pure functions of a dict of tensors: `{"decoder.0.weight": ..., "decoder.0.bias": ...}`.

A weight has shape (n_in, n_out), so that the first layer of a sparse row is a sum of rows of the weight. Tensors with a
leading axis are several members, networks of one shape that are computed together; their inputs have that axis too.
"""

import math
from itertools import chain

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skvae._tensors import Noise, and_back, kept

_BLOCK_CELLS = 2**18

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
    """Whether its derivative is known here; that of any other is left to autograd."""
    return activation in _DERIVATIVES


def _tanh(f):
    """tanh by the sigmoid, as good in absolute terms: torch's own takes twice as long. Not for autograd."""
    s = (f + f).sigmoid_()
    return s.add_(s).sub_(1)


_FASTER = {torch.tanh: _tanh}


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


def hidden(params, name, h, layers, activation):
    """Run h through `layers` (a range), each followed by the activation.

    Of one network, or of members (M, n_in, n_out) on inputs (M or 1, n_rows, n_in); so `network`.
    """
    leaves = list(chain.from_iterable(layer(params, name, index) for index in layers))
    return _run(leaves, h, [activation] * len(layers)) if leaves else h


def network(params, name, h, layers, activation):
    """Run h through `layers` (a range), the activation between them.

    Where there is "<name>.skip.weight", a linear path leads from h past them, to the first columns of the output.
    """
    leaves, activations = _parts(params, name, layers, activation)
    return _run(leaves, h, activations)


def network_and_back(params, name, h, layers, activation, *, to_input=True):
    """`network` of leaves that keep their gradients, by hand: see `skvae._tensors.and_back`."""
    leaves, activations = _parts(params, name, layers, activation)
    return and_back(_Chain, h, None, [kept(leaf) for leaf in leaves], activations, to_input=to_input)


def _parts(params, name, layers, activation):
    leaves = list(chain.from_iterable(layer(params, name, index) for index in layers))
    skip = params.get(f"{name}.skip.weight")
    return leaves if skip is None else [*leaves, skip], [activation] * (len(layers) - 1) + [None]


def _run(leaves, h, activations):
    pairs = [kept(leaf) for leaf in leaves]
    if None in pairs or not all(activation is None or known(activation) for activation in activations):
        return _values(leaves, h, activations)[-1]
    return _Chain.apply(h, leaves[0], pairs, activations)


def _values(tensors, h, activations):
    """h, and what it becomes before and after each activation, by weights and biases, and by the skip's weight if any.

    Without an activation the two are one.
    """
    values, first = [h], h
    for weight, bias, activation in zip(tensors[:-1:2], tensors[1::2], activations, strict=True):
        f = _affine(values[-1], weight, bias)
        apply = activation if f.requires_grad else _FASTER.get(activation, activation)
        values += [f, f if activation is None else apply(f)]
    if len(tensors) % 2:
        past = _times(first, tensors[-1])
        values[-1] = values[-1] + F.pad(past, (0, values[-1].shape[-1] - past.shape[-1]))
    return values


def _affine(h, weight, bias):
    if weight.dim() == 2:
        return torch.addmm(bias, h, weight)
    return torch.baddbmm(bias[:, None], h.expand(len(weight), -1, -1), weight)


def _times(h, weight):
    return torch.mm(h, weight) if weight.dim() == 2 else torch.bmm(h.expand(len(weight), -1, -1), weight)


def _add_product(total, h, upstream):
    """total += h.T @ upstream."""
    if total.dim() == 2:
        total.addmm_(h.mT, upstream)
    else:
        total.baddbmm_(h.expand(len(total), -1, -1).mT, upstream)


class _Chain(torch.autograd.Function):
    """Layers of leaves that keep their gradients: the products are added to these at once.

    Autograd would put each product into fresh memory, which costs nearly as much again, and add it from there; and each
    of its nodes takes longer than a small product. One leaf is an input of the node, and tells autograd that there is
    something to go back to.
    """

    @staticmethod
    def forward(ctx, h, leaf, pairs, activations):
        ctx.pairs, ctx.activations = pairs, activations
        ctx.alone = pairs[0].value.dim() < h.dim()  # a stack of one network
        values = _values([pair.value for pair in pairs], h.squeeze(0) if ctx.alone else h, activations)
        ctx.save_for_backward(*values)
        return values[-1].unsqueeze(0) if ctx.alone else values[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        values, goes_back = ctx.saved_tensors, ctx.needs_input_grad[0]
        of_h = upstream = upstream.squeeze(0) if ctx.alone else upstream
        for i in reversed(range(len(ctx.activations))):
            h, before, after = values[2 * i : 2 * i + 3]
            if ctx.activations[i] is not None:
                of_h = _DERIVATIVES[ctx.activations[i]](of_h, before, after)
            weight, bias = ctx.pairs[2 * i : 2 * i + 2]
            _add_product(weight.gradient, h, of_h)
            bias.gradient.add_(of_h.sum(-2))
            if i or goes_back:
                of_h = _times(of_h, weight.value.mT)
        if len(ctx.pairs) % 2:
            skip = ctx.pairs[-1]
            of_past = upstream[..., : skip.value.shape[-1]]
            _add_product(skip.gradient, values[0], of_past)
            of_h = of_h + _times(of_past, skip.value.mT) if goes_back else of_h
        of_h = of_h.unsqueeze(0) if ctx.alone else of_h
        return of_h if goes_back else None, None, None, None  # autograd sums it for members of one input


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
        If the factory does not make a module; if that has no parameters, or does not map rows as it should; if it has
        buffers, such as the running means of a batch norm, which would make the result depend on the order of calls,
        or other tensors that are no parameters; or if it draws random numbers, as Dropout does, which nothing seeds.
    """

    def __init__(self, name, factory, n_in, n_out):
        self.name, self.n_in, self.n_out = name, n_in, n_out
        self.module = self._made(factory)
        self._check_tensors()
        self.keys = [key for key, _ in self.module.named_parameters()]
        self._check_output(self._output())

    def _made(self, factory):
        if isinstance(factory, torch.nn.Module):
            raise ValueError(
                f"{self.name} must be a function (n_in, n_out) -> torch.nn.Module, but it is a module itself, "
                f"{type(factory).__name__}; give one that makes it anew, such as lambda n_in, n_out: "
                f"torch.nn.Linear(n_in, n_out)."
            )
        try:
            with torch.device("meta"):
                module = factory(self.n_in, self.n_out)
        except Exception as error:
            raise ValueError(
                f"{self.name}(n_in={self.n_in}, n_out={self.n_out}) must make a torch.nn.Module, but it failed: "
                f"{_told(error)}. It is called on torch's meta device, where tensors have no values."
            ) from error
        if not isinstance(module, torch.nn.Module):
            raise ValueError(f"{self.name} must make a torch.nn.Module, but it made {module!r}.")
        return module

    def _check_tensors(self):
        """Refuse tensors that are no parameters of a known shape."""
        buffers = [key for key, _ in self.module.named_buffers()]
        if buffers:
            raise ValueError(f"{self.name} made a module with buffers {buffers}, which no fit keeps; leave them out.")
        registered = {id(parameter) for parameter in self.module.parameters()}
        plain = [
            f"{prefix}.{key}" if prefix else key
            for prefix, module in self.module.named_modules()
            for key, value in vars(module).items()
            if any(isinstance(leaf, torch.Tensor) and id(leaf) not in registered for leaf in tree_leaves(value))
        ]
        if plain:
            raise ValueError(
                f"{self.name} made a module with tensors {plain} that are no parameters, which no fit keeps; make them "
                "torch.nn.Parameter attributes, keep plain numbers, or create them in forward."
            )
        parameters = dict(self.module.named_parameters())
        lazy = [key for key, parameter in parameters.items() if is_lazy(parameter)]
        if lazy:
            raise ValueError(f"{self.name} made a lazy module: {lazy} have no shape yet; build it from n_in and n_out.")
        if not parameters:
            raise ValueError(f"{self.name} made a module without parameters: there is nothing to fit in it.")

    def _output(self):
        try:
            with torch.no_grad(), _NothingDrawn():
                return self._of_two_rows()
        except _DrawsError as drawn:
            raise ValueError(
                f"{self.name} made a module that draws random numbers (by {drawn}), as Dropout does, which no "
                "random_state reaches; leave it out."
            ) from None
        except Exception as error:
            raise ValueError(
                f"{self._asked()} to (n_rows, {self.n_out}), but two rows failed: {_told(error)}. If that speaks of "
                "the meta device, the module holds tensors that are no parameters."
            ) from error

    def _of_two_rows(self):
        """What they become, by shape alone where no values are needed for it."""
        try:
            return self.module(torch.ones(2, self.n_in, device="meta"))
        except _DrawsError:
            raise
        except Exception:
            weights = {key: self._drawn(key, parameter, Noise(0)) for key, parameter in self.module.named_parameters()}
            return functional_call(self.module, weights, (torch.ones(2, self.n_in, device="cpu"),))

    def _asked(self):
        return (
            f"{self.name}(n_in={self.n_in}, n_out={self.n_out}) made a module that must map rows (n_rows, {self.n_in})"
        )

    def _check_output(self, output):
        if not isinstance(output, torch.Tensor):
            found = f"a {type(output).__name__}"
        elif output.shape != (2, self.n_out):
            found = f"shape {tuple(output.shape)}"
        else:
            return
        raise ValueError(f"{self._asked()} to a tensor (n_rows, {self.n_out}), but two rows gave {found}.")

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


class _DrawsError(Exception):
    """Random numbers were asked for."""


class _NothingDrawn(TorchDispatchMode):
    """Refuses every operation that would draw from torch's global generator, before it does."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _DrawsError(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _told(error):
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
