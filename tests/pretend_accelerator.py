"""A pretend accelerator: tensors in the memory of the CPU that behave as if they lived on a device of their own.

    with accelerator() as device:
        VAETransformer(device="cuda").fit(X)
    device.waits, device.uploads, device.operations

Inside the block the device named "cuda" (or another name) exists. Its tensors refuse what those of a real one refuse:
arithmetic with tensors of the CPU, indices of the device into tensors of the CPU, and NumPy. And it counts how often
the host waits for the device. It does not show what a real one does otherwise: its speed, its memory, its rounding, and
types of numbers that it lacks.

The tensors say to torch's inner parts that they lie on "meta", which needs no driver, and to everybody else that they
lie on the device. The arithmetic is that of the CPU, so that results are equal to the last digit where both do the
same.
"""

import contextlib
import functools
import sys
from collections import Counter
from numbers import Number
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

# Errors of a factorisation are looked up on the host; torch does it inside the operation, or by one of its own.
_CHECKED = {
    aten._linalg_check_errors.default,
    aten._linalg_eigh.default,
    aten._linalg_svd.default,
    aten.linalg_eig.default,
    aten.linalg_pinv.atol_rtol_tensor,
}
_INDEX = {aten.index.Tensor, aten._unsafe_index.Tensor}
_INDEX_PUT = {
    aten.index_put_.default,
    aten.index_put.default,
    aten._index_put_impl_.default,
    aten._unsafe_index_put.default,
}
# Besides pointwise operations, these take a single number that lies on the CPU.
_TAKES_NUMBERS = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.fill_.Tensor}


class MixedError(RuntimeError):
    """What a real device would refuse."""


class DeviceTensor(torch.Tensor):
    """A tensor of the pretend accelerator, which holds one of the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",
        )

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def device(self):
        return _current().device

    @property
    def is_cuda(self):
        return _current().kind == "cuda"

    @property
    def is_meta(self):
        return False

    def numpy(self, **_):
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_, **__):
        self.numpy()

    def tolist(self):
        _current().wait("tolist")
        return self.held.tolist()

    def __repr__(self, **_):
        return f"DeviceTensor({self.held})"


class Record:
    """What happens on the accelerator.

    Attributes
    ----------
    kind : str
        Name of the device.
    waits : Counter of (str, str)
        How often the host waited, by what for and by the line that asked.
    uploads : Counter of (str, str)
        Blocking copies from the CPU; torch waits there, too, until the device has done what it was given before.
    operations : int
        Done on the device.
    device : torch.device
        What its tensors name as theirs.
    """

    def __init__(self, kind):
        self.kind, self.device = kind, torch.device(kind, 0)
        self.waits, self.uploads, self.operations = Counter(), Counter(), 0
        self.puts_number = self.is_really_meta = self.knows_meta = False

    def wait(self, what, times=1):
        self.waits[what, _place()] += times

    def upload(self, what):
        self.uploads[what, _place()] += 1

    @property
    def n_waits(self):
        return self.waits.total()

    @property
    def n_uploads(self):
        return self.uploads.total()


_records = []


def _current():
    if not _records:
        raise RuntimeError("A tensor of the pretend accelerator is used outside of the block in which it exists.")
    return _records[-1]


def _place():
    """The innermost line of the package that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("skvae."):
            return f"{name}:{frame.f_code.co_qualname}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@contextlib.contextmanager
def accelerator(kind="cuda"):
    """Let a device of this name exist; yields the `Record` of what happens on it."""
    record, calls, backward = Record(kind), _Calls(), torch.autograd._engine_run_backward

    def watched_backward(*args, **kwargs):  # torch leaves out of `calls` whatever one of them calls
        with calls:
            return backward(*args, **kwargs)

    _records.append(record)
    try:
        with mock.patch.object(torch.autograd, "_engine_run_backward", watched_backward), _Operations(), calls:
            yield record
    finally:
        _records.pop()


# ----------------------------------------------------------------------------------------------------------- operations
def _run(func, args, kwargs):
    """An operation with tensors of the device: refused or counted, and done."""
    record, about, plain = _current(), _about(func), []
    record.operations += 1
    if about.copies:
        return _copy(record, func, args, kwargs)
    held = [_held(value, plain) for value in args]
    held_by_name = {name: _held(value, plain) for name, value in kwargs.items()}
    if about.indexes:
        _check_indexing(record, func, args)
    else:
        for tensor in plain:
            _refuse_mixed(func, about, tensor)
        if about.waits is not None:
            about.waits(record, kwargs)
    if kwargs.get("device") is not None:
        held_by_name["device"] = torch.device("cpu")
    found = func(*held, **held_by_name)
    if about.writes is None:
        return _wrapped(found)
    if about.reshapes:  # such as squeeze_: the outer tensor gets its new shape, too
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)
    given = dict(zip(about.names, args)) | kwargs
    written = [given[name] for name in about.writes]  # they are returned as they were given
    for tensor in _tensors(written):
        if not isinstance(tensor, DeviceTensor) or tensor.shape != tensor.held.shape:
            raise MixedError(f"{func} wrote to a tensor of the CPU, or changed the shape of what it wrote to")
    return written[0] if len(written) == 1 else tuple(written)


def _held(value, plain):
    """The tensors of the CPU in place of those of the device, also within lists; `plain` gets those of the CPU."""
    if isinstance(value, DeviceTensor):
        return value.held
    if isinstance(value, torch.Tensor):
        plain.append(value)
    elif isinstance(value, (list, tuple)):
        return [_held(part, plain) for part in value]
    return value


def _wrapped(value):
    if isinstance(value, torch.Tensor):
        return DeviceTensor(value)
    return type(value)(map(_wrapped, value)) if isinstance(value, (list, tuple)) else value


def _tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


class _About:
    """What is known of an operation.

    Attributes
    ----------
    copies, indexes : bool
    takes_numbers : bool
        Whether a single number that lies on the CPU may stand beside tensors of the device.
    names : list of str
        Its arguments.
    writes : list of str or None
        The arguments that it writes to and returns; None where it returns something new.
    reshapes : bool
        Whether it gives what it writes to another shape.
    waits : callable or None
        Record, arguments by name -> None: counts how often the host waits for it; None where it does not.
    """

    def __init__(self, func):
        self.copies = func in (aten._to_copy.default, aten.copy_.default)
        self.indexes = func in _INDEX or func in _INDEX_PUT
        self.takes_numbers = torch.Tag.pointwise in func.tags or func in _TAKES_NUMBERS
        self.names = [argument.name for argument in func._schema.arguments]
        returned = {_written(found) for found in func._schema.returns} - {None}
        self.writes = [a.name for a in func._schema.arguments if _written(a) in returned] or None
        self.reshapes = torch.Tag.inplace_view in func.tags
        self.waits = _waits_of(func)


def _waits_of(func):
    # The host must know a number or a shape that only the device knows; so say the tags of most such operations.
    asks = any(tag in func.tags for tag in (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape))
    if func in _CHECKED:
        return lambda record, given: record.wait("errors of linear algebra")
    if func is aten.bincount.default:
        return lambda record, given: record.wait("bincount", 2)  # its least and its largest value
    if func is aten.repeat_interleave.Tensor:  # its total, and whether a count is negative
        return lambda record, given: (
            given.get("output_size") is None and record.wait("repeat_interleave without output_size", 2)
        )
    if func is aten.segment_reduce.default:
        return lambda record, given: given.get("unsafe") or record.wait("segment_reduce that is not unsafe")
    return (lambda record, given: record.wait(func.overloadpacket.__name__)) if asks else None


_about = functools.lru_cache(maxsize=None)(_About)


def _written(argument):
    """The mark of memory that is written to, in the signature of an operation."""
    alias = argument.alias_info
    return frozenset(alias.before_set) if alias is not None and alias.is_write else None


def _refuse_mixed(func, about, tensor):
    """Complain of a tensor of the CPU among the arguments, if it is no number or the operation takes none."""
    if tensor.is_meta:
        raise NotImplementedError(f"{func} got a tensor that torch itself made on 'meta', without values")
    if tensor.dim() or not about.takes_numbers:
        raise MixedError(
            f"Expected all tensors to be on the same device, but {func} got one of the CPU, of shape "
            f"{tuple(tensor.shape)}, beside others of {_current().device}."
        )


def _check_indexing(record, func, args):
    target, indices, puts = args[0], [index for index in args[1] if index is not None], func in _INDEX_PUT
    if not isinstance(target, DeviceTensor):
        raise MixedError("indices should be on the same device as the indexed tensor (cpu).")
    for index in indices:
        if not isinstance(index, DeviceTensor):
            if index.is_meta:
                raise NotImplementedError("an index that torch itself made on 'meta', without values")
            record.upload("index of the CPU")
        if index.dtype in (torch.bool, torch.uint8) and not (puts and record.puts_number):
            record.wait("mask as index")
    if puts and not isinstance(args[2], DeviceTensor):
        if args[2].dim():
            raise MixedError(f"{func} puts values of the CPU, of shape {tuple(args[2].shape)}, into the device.")
        record.upload("value of the CPU")


def _copy(record, func, args, kwargs):
    if func is aten.copy_.default:
        into, source = args[:2]
        blocks = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if not isinstance(into, DeviceTensor):
            record.wait("copy into the CPU")
        elif not isinstance(source, DeviceTensor) and blocks:
            record.upload("copy into the device")
        _held(into, []).copy_(_held(source, []))
        return into
    goal, others = kwargs.get("device"), {name: value for name, value in kwargs.items() if name != "device"}
    if not isinstance(args[0], DeviceTensor):
        record.upload("copy into the device")
    elif goal is not None and torch.device(goal).type == "cpu":
        record.wait("copy to the CPU")
        return func(args[0].held, **others)
    return DeviceTensor(func(_held(args[0], []), **others))


# --------------------------------------------------------------------------------------------------------------- calls
class _Operations(TorchDispatchMode):
    """Makes tensors that torch's inner parts ask for on the device, such as the number in `torch.where(mask, 0, x)`."""

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # what would keep a compiler out takes as long as the rest

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        on_meta = device is not None and torch.device(device).type == "meta" and not _current().is_really_meta
        return _run(func, args, kwargs) if on_meta or DeviceTensor in types else func(*args, **kwargs)


_CALLS = {
    torch.Tensor.to,
    torch.Tensor.cuda,
    torch.Tensor.__getitem__,
    torch.Tensor.__setitem__,
    torch.Tensor.new_tensor,
}


class _Calls(TorchFunctionMode):
    """Calls of torch that name the device: it makes their results there, and hides the device from torch itself."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if not kwargs and func not in _CALLS and not _current().knows_meta:
            return func(*args)
        kwargs, record = kwargs or {}, _current()
        if func is torch.Tensor.to:
            return _to(record, *args, **kwargs)
        if func is torch.Tensor.cuda:
            return _to(record, args[0], record.kind)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], DeviceTensor):
            args = (args[0], _as_index(args[1]), *args[2:])
            if len(args) > 2 and isinstance(args[2], Number):
                return _flagged(record, "puts_number", func, args, kwargs)
            return func(*args)
        if func is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor):
            return _new_tensor(record, *args, **kwargs)
        device = kwargs.get("device")
        if device is None:
            if record.knows_meta and any(isinstance(arg, torch.Tensor) and arg.is_meta for arg in args):
                return _flagged(record, "is_really_meta", func, args, kwargs)
            return func(*args, **kwargs)
        device = torch.device(device)
        if device.type == "meta":
            record.knows_meta = True
            return _flagged(record, "is_really_meta", func, args, kwargs)
        if device.type != record.kind:
            return func(*args, **kwargs)
        return _made(record, func, args, {name: value for name, value in kwargs.items() if name != "device"})


def _flagged(record, name, func, args, kwargs):
    before = getattr(record, name)
    setattr(record, name, True)
    try:
        return func(*args, **kwargs)
    finally:
        setattr(record, name, before)


def _as_index(index):
    """An index with its lists and arrays as tensors of the CPU: torch would put them on "meta", without values."""
    if isinstance(index, (list, np.ndarray)):
        return torch.from_numpy(np.asarray(index))
    return tuple(map(_as_index, index)) if isinstance(index, tuple) else index


def _made(record, func, args, kwargs):
    """The result of a call that was asked for a tensor on the device."""
    if any(isinstance(arg, DeviceTensor) for arg in args):
        return func(*args, **kwargs)  # it is there already
    if func in (torch.tensor, torch.as_tensor, torch.asarray):
        record.upload(func.__name__)
    elif any(isinstance(arg, torch.Tensor) for arg in args):
        if func.__name__.endswith("_like") or func.__name__.startswith("new_"):
            args = [_held(arg, []) for arg in args]
        else:
            raise NotImplementedError(f"{func} from the CPU to the device")
    with torch._C.DisableTorchFunction():
        found = func(*args, **{**kwargs, "device": "cpu"})
        if func in (torch.as_tensor, torch.asarray):
            found = found.clone()  # never the memory of an array
        return DeviceTensor(found.detach()).requires_grad_(found.requires_grad)


def _new_tensor(record, like, data, *, dtype=None, device=None, requires_grad=False):
    record.upload("new_tensor")
    with torch._C.DisableTorchFunction():
        return DeviceTensor(torch.tensor(data, dtype=like.dtype if dtype is None else dtype))


def _to(record, tensor, *args, device=None, dtype=None, non_blocking=False, copy=False, memory_format=None):
    """Tensor.to, with its three ways to say where."""
    for arg in args:
        if isinstance(arg, torch.Tensor):
            device, dtype = arg.device, arg.dtype
        elif isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, (str, torch.device)):
            device = arg
        elif arg is not None:
            raise NotImplementedError(f"Tensor.to({arg!r})")
    goal = tensor.device if device is None else torch.device(device)
    with torch._C.DisableTorchFunction():
        if isinstance(tensor, DeviceTensor):
            if goal.type == record.kind:
                return tensor.to(dtype=dtype or tensor.dtype, copy=copy)
            return tensor.to(device=goal, dtype=dtype or tensor.dtype)
        if goal.type != record.kind:
            return tensor.to(device=goal, dtype=dtype or tensor.dtype, copy=copy)
        if tensor.requires_grad:
            raise NotImplementedError("a copy to the device that gradients would go through")
        if not non_blocking:
            record.upload("to")
        return DeviceTensor(tensor.detach().to(dtype or tensor.dtype).clone())
