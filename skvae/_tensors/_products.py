"""Matrix products of training in the precision of the fit: the one place that makes them.

    own = products_of("bfloat16")      the gradient engine, once
    with multiplying_by(own):          around each step
        products().times(a, b)         networks and likelihoods within

With "bfloat16" only factors of products change their dtype: weights, gradients, sums and the sparse first layer stay
as they are. With "float64" (`dtype_of`) all of the ascent has that dtype, and products are made as they are. A
`torch.autograd.Function` keeps the object of its forward pass for the backward pass, which torch may run in another
thread.
"""

import contextlib
import threading

import torch

from skvae._compat import warn

_of_thread = threading.local()
_CELLS_ADDED = 2**20  # of a product that is added to a total: more leave the caches on their way


class Products:
    """Products in the dtype of the tensors: of matrices, or of stacks of them where h may be one for all."""

    def begin_step(self):
        """Forget what was made of weights, which move between steps."""

    def factor(self, tensor):
        """Return a tensor as it enters products: to be called once for several of them."""
        return tensor

    def weight(self, tensor):
        """Return the same of a tensor that does not change during a step of training."""
        return tensor

    def times(self, a, b):
        """Return a @ b."""
        return torch.mm(a, b) if b.dim() == 2 else torch.bmm(a.expand(len(b), -1, -1), b)

    def affine(self, h, weight, bias):
        """Return h @ weight + bias."""
        if weight.dim() == 2:
            return torch.addmm(bias, h, weight)
        return torch.baddbmm(bias[:, None], h.expand(len(weight), -1, -1), weight)

    def add_to(self, total, a, b, *, adds=True):
        """Add a @ b to a total in place; if not `adds`, write it there."""
        beta = float(adds)
        if total.dim() == 2:
            total.addmm_(a, b, beta=beta)
        else:
            total.baddbmm_(a.expand(len(total), -1, -1), b, beta=beta)

    def around_module(self, device):
        """Return a context for calls of a user's module."""
        return contextlib.nullcontext()


class _LowerProducts(Products):
    """Products of factors in a narrower dtype, whose terms are summed in float32; each result is rounded once."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.lowered = {}  # id -> the tensor (so that its id stays its own) and its copy, in memory that is kept
        self.current = set()  # ids of those that were copied in this step

    def begin_step(self):
        self.current.clear()

    def factor(self, tensor):
        return tensor.to(self.dtype)

    def weight(self, tensor):
        if tensor.requires_grad and torch.is_grad_enabled():
            return self.factor(tensor)  # autograd must see it
        key = id(tensor)
        if key not in self.lowered:
            self.lowered[key] = tensor, torch.empty_like(tensor, dtype=self.dtype)
        copy = self.lowered[key][1]
        if key not in self.current:
            self.current.add(key)
            copy.copy_(tensor)
        return copy

    def times(self, a, b):
        return torch.matmul(self.factor(a), self.factor(b)).float()

    def affine(self, h, weight, bias):
        product = torch.matmul(self.factor(h), self.factor(weight)).float()
        return product.add_(bias if weight.dim() == 2 else bias[:, None])

    def add_to(self, total, a, b, *, adds=True):
        a, b = self.factor(a), self.factor(b)
        put = torch.Tensor.add_ if adds else torch.Tensor.copy_
        if total.dim() > 2:
            put(total, torch.matmul(a, b))
            return
        width = max(64, _CELLS_ADDED // len(total) // 64 * 64)
        for own, part in zip(total.split(width, 1), b.split(width, 1), strict=True):
            put(own, torch.mm(a, part))

    def around_module(self, device):
        return torch.autocast(device.type, self.dtype)


_AS_THEY_ARE = Products()


def products():
    """Return the `Products` of the step that this thread is in; outside of steps, those in the tensors' own dtype."""
    return getattr(_of_thread, "products", _AS_THEY_ARE)


def dtype_of(precision):
    """Return the torch.dtype of rows, parameters, noise and sums of an ascent in a precision."""
    return torch.float64 if precision == "float64" else torch.float32


def products_of(precision):
    """Return the `Products` of an ascent, for factors in "float32", "bfloat16" or "float64"."""
    return _LowerProducts(torch.bfloat16) if precision == "bfloat16" else _AS_THEY_ARE


@contextlib.contextmanager
def multiplying_by(own):
    """Begin a step of training, of which this thread makes the products by some `Products`."""
    before = products()
    own.begin_step()
    _of_thread.products = own
    try:
        yield
    finally:
        _of_thread.products = before


def resolve_precision(precision, device, *, pays):
    """Turn a `precision` parameter into what products are made in on a device.

    Parameters
    ----------
    precision : {"float32", "float64", "bfloat16", "auto"}
    device : torch.device
    pays : bool
        Whether bfloat16 is faster in this fit: what "auto" goes by.

    Returns
    -------
    precision : {"float32", "float64", "bfloat16"}

    Warns
    -----
    UserWarning
        If bfloat16 was asked for and the device has no instructions for it: it would be slower than float32.
    """
    if precision == "auto" and not pays:
        return "float32"
    if precision in ("float32", "float64"):
        return precision
    if multiplies_bfloat16(device):
        return "bfloat16"
    if precision == "bfloat16":
        warn(
            f"precision='bfloat16' has no effect: the device {str(device)!r} has no instructions for such products. "
            "float32 is used, as precision='auto' does without a warning.",
            UserWarning,
        )
    return "float32"


def multiplies_bfloat16(device):
    """Whether a device multiplies matrices of bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
