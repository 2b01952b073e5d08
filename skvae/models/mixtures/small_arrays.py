"""NumPy's arrays on the CPU, Tensors elsewhere, in one text.

NumPy begins an operation in a third of torch's time, and its products of thin matrices take less time too.
"""

import numpy as np
import torch
from scipy.linalg import lapack


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


def roots_of_precisions(sigma, n_components):
    """Upper triangular U with sigma^-1 = U U', of each of the ndarrays sigma (K, D, D), or of one for all components.

    Raises
    ------
    torch.linalg.LinAlgError
        If some are not positive definite; its text names the components.
    """
    try:
        L = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        _, failed = torch.linalg.cholesky_ex(torch.tensor(sigma))
        raise torch.linalg.LinAlgError(f"{failed.expand(n_components).nonzero()[:, 0].tolist()}") from None
    root = np.empty_like(L)
    for k, lower in enumerate(L):
        root[k] = lapack.dtrtri(lower.T)[0]
    return root
