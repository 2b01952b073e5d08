"""Factorisations that do not make the host wait for a device."""

import math

import torch


def cholesky(A):
    """Lower triangular L with A = L L', of shape (..., n, n).

    Where A is not positive definite, an error on the CPU. On a device the host would have to wait to know: there L is
    NaN, and so is every bound that follows from it.
    """
    if A.is_cpu:
        return torch.linalg.cholesky(A)
    L, failed = torch.linalg.cholesky_ex(A)
    return L.masked_fill((failed > 0)[..., None, None], math.nan)
