"""Networks of the user's own, made from a torch.nn.Module."""

import torch
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from skvae._tensors import Noise, products
from skvae.networks import glorot

_PLAIN = (bool, int, float, str, tuple)  # attributes of a module that its signature shows


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
        self.module = self._make(factory)
        self._check_tensors()
        self.keys = [key for key, _ in self.module.named_parameters()]
        self._check_output()

    @property
    def signature(self):
        """Text that tells this module from others: its layers with their plain settings and shapes of parameters."""
        return "; ".join(f"{name} {_described(module)}".strip() for name, module in self.module.named_modules())

    def _make(self, factory):
        """Call the factory on the meta device, and refuse what is no module."""
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

    def _check_output(self):
        """Refuse a module that draws random numbers, or does not map two rows as it should."""
        asked = (
            f"{self.name}(n_in={self.n_in}, n_out={self.n_out}) made a module that must map rows (n_rows, {self.n_in})"
        )
        try:
            with torch.no_grad(), _NothingDrawn():
                output = self._output_of_two_rows()
        except _DrawsError as drawn:
            raise ValueError(
                f"{self.name} made a module that draws random numbers (by {drawn}), as Dropout does, which no "
                "random_state reaches; leave it out."
            ) from None
        except Exception as error:
            raise ValueError(
                f"{asked} to (n_rows, {self.n_out}), but two rows failed: {_told(error)}. If that speaks of "
                "the meta device, the module holds tensors that are no parameters."
            ) from error
        if not isinstance(output, torch.Tensor):
            found = f"a {type(output).__name__}"
        elif output.shape != (2, self.n_out):
            found = f"shape {tuple(output.shape)}"
        else:
            return
        raise ValueError(f"{asked} to a tensor (n_rows, {self.n_out}), but two rows gave {found}.")

    def _output_of_two_rows(self):
        """Call the module on two rows, by shape alone where it needs no values."""
        try:
            return self.module(torch.ones(2, self.n_in, device="meta"))
        except _DrawsError:
            raise
        except Exception:
            weights = {key: self._draw(key, parameter, Noise(0)) for key, parameter in self.module.named_parameters()}
            return functional_call(self.module, weights, (torch.ones(2, self.n_in, device="cpu"),))

    def init(self, noise):
        """Draw the parameters: by Glorot and Bengio (2010) where there are two axes or more, else ones and zeros."""
        return {
            f"{self.name}.{key}": self._draw(key, parameter, noise.fold(self.name, key))
            for key, parameter in self.module.named_parameters()
        }

    def _draw(self, key, parameter, noise):
        if parameter.dim() < 2:  # a weight of one axis is the factor of a normalisation
            return torch.full(parameter.shape, float(key.endswith("weight")), dtype=torch.float32)
        n_out, n_in = parameter.shape[0], parameter[0].numel()
        return glorot(n_in, n_out, noise).mT.reshape(parameter.shape).contiguous()

    def __call__(self, params, h):
        """Run inputs (M or 1, n_rows, n_in) through the members (M, ...), one after another."""
        own = {key: params[f"{self.name}.{key}"] for key in self.keys}
        n_members = len(own[self.keys[0]])
        outputs = []
        for member in range(n_members):
            weights = {key: tensor[member] for key, tensor in own.items()}
            with products().around_module(h.device):
                output = functional_call(self.module, weights, (h[min(member, len(h) - 1)],))
            outputs.append(output.to(h.dtype))
        return torch.stack(outputs)


def _described(module):
    """The class of a module, its plain settings, and the shapes of its own parameters."""
    settings = {k: v for k, v in vars(module).items() if k != "training" and isinstance(v, _PLAIN)}
    shapes = {k: tuple(parameter.shape) for k, parameter in module.named_parameters(recurse=False)}
    listed = ", ".join(f"{key}={value}" for key, value in (settings | shapes).items())
    return f"{type(module).__module__}.{type(module).__qualname__}({listed})"


class _DrawsError(Exception):
    """Raised where random numbers are asked for."""


class _NothingDrawn(TorchDispatchMode):
    """Mode in which every operation is refused that would draw from torch's global generator."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _DrawsError(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _told(error):
    """Return type and first line of an error, to be quoted within another."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
