"""Where tensors live, and how arrays get there and back."""

import contextlib
from functools import cache

import numpy as np
import torch

from skvae._compat import warn


def resolve_device(device):
    """Turn a `device` parameter into a `torch.device` that exists here.

    Parameters
    ----------
    device : str
        "auto" (a CUDA GPU when there is one, else the CPU) or any name torch knows: "cpu", "cuda", "cuda:1".

    Raises
    ------
    ValueError
        If torch does not know the name or the device is not on this machine.
    """
    if device == "cpu":
        return torch.device(device)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={device!r} cannot be used here: {reason}. Use 'auto', 'cpu', or a device this machine has."
        ) from error
    if resolved.type == "meta":
        raise ValueError("device='meta' holds no numbers. Use 'auto', 'cpu', or a device this machine has.")
    return resolved


def inference_device(device):
    """Resolve a device, or fall back on the CPU with a warning: what was fitted on a GPU must predict without one."""
    try:
        return resolve_device(device)
    except ValueError as error:
        warn(f"Predicting on the CPU: {error}", UserWarning)
        return torch.device("cpu")


@contextlib.contextmanager
def explain_out_of_memory(advice):
    """Re-raise a GPU's out-of-memory error with what the user can do about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"The GPU ran out of memory; {advice}. ({str(error).splitlines()[0]})") from error


@cache
def torch_dtype(dtype):
    """Return the torch.dtype of a NumPy dtype."""
    return torch.from_numpy(np.empty(0, dtype)).dtype


def to_device(arrays, device, dtype=torch.float32):
    """Place a dict of arrays on a device, as tensors of one dtype; never an alias of the arrays."""
    return {name: torch.tensor(array, dtype=dtype, device=device) for name, array in arrays.items()}


def to_read(arrays, device, dtype):
    """Place a dict of arrays on a device for reading only: arrays of the right dtype are not copied."""
    return {name: alias(array).to(device, dtype, non_blocking=True) for name, array in arrays.items()}


def placed(array, device, dtype):
    """Place an array on a device for reading only: it is copied only where it must be converted."""
    # A copy that blocks would wait until the device has done what it was given before.
    return alias(np.ascontiguousarray(array)).to(device, dtype, non_blocking=True)


def alias(array):
    """Return a tensor that shares the memory of an array, or a copy where torch would warn or refuse."""
    # torch warns of arrays that it could write to but must not, such as read-only memory maps.
    # It refuses arrays that run backwards.
    aliased = array.flags.writeable and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if aliased else array.copy())


def to_numpy(tensors):
    """Bring a dict of tensors home as NumPy arrays; tensors of the CPU keep their memory and share it."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
