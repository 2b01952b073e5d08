"""Arrays of the size of the parameters by NumPy where they lie on the CPU, by torch elsewhere."""

import numpy as np
import torch
from scipy.linalg import lapack


def on_host(*tensors):
    """Tensors as ndarrays where they lie on the CPU, else as they are."""
    return [tensor.numpy() for tensor in tensors] if tensors[0].is_cpu else tensors


def as_tensors(*arrays):
    """Undo `on_host`."""
    return [torch.from_numpy(array) if isinstance(array, np.ndarray) else array for array in arrays]


def concatenated(arrays):
    """Join ndarrays or Tensors along their second axis."""
    return np.concatenate(arrays, 1) if isinstance(arrays[0], np.ndarray) else torch.cat(arrays, 1)


def roots_of_precisions(sigma):
    """Upper triangular U with sigma^-1 = U U', of each of the ndarrays sigma (K, D, D)."""
    try:
        L = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        _, failed = torch.linalg.cholesky_ex(torch.tensor(sigma))
        raise torch.linalg.LinAlgError(f"{failed.nonzero()[:, 0].tolist()}") from None
    root = np.empty_like(L)
    for k, lower in enumerate(L):
        root[k] = lapack.dtrtri(lower.T)[0]
    return root
