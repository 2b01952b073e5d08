"""NumPy's arrays on the CPU, Tensors elsewhere, in one text.

NumPy begins an operation in a third of torch's time, and its products of thin matrices take less time too.
"""

import numpy as np
import torch


def on_host(*tensors):
    """Tensors as ndarrays where they lie on the CPU, else as they are; what is an ndarray stays so."""
    return [tensor.numpy() if isinstance(tensor, torch.Tensor) and tensor.is_cpu else tensor for tensor in tensors]


def as_tensors(*arrays):
    """Undo `on_host`."""
    return [torch.from_numpy(array) if isinstance(array, np.ndarray) else array for array in arrays]


def library(array):
    """NumPy or torch, whichever the array is of; log, exp, sqrt, multiply and matmul are called the same in both."""
    return np if isinstance(array, np.ndarray) else torch


def concatenated(arrays):
    """Join ndarrays or Tensors along their second axis."""
    return np.concatenate(arrays, 1) if isinstance(arrays[0], np.ndarray) else torch.cat(arrays, 1)


def at_least(array, least):
    """The larger of each entry and a number."""
    return np.maximum(array, least) if isinstance(array, np.ndarray) else array.clamp(min=least)
