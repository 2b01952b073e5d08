"""What all mixtures share: from log p(x, z = k) to log p(x) and the posterior p(z = k | x)."""

import numpy as np
import torch

from skvae._tensors import library, on_host

# exp of less than this is 2e-35 of the largest term: lost in any sum. Below -708 it would underflow, and both exp and
# every product with what comes out are then tens of times slower.
_LOWEST = -80.0
_NEGLIGIBLE = 1e-34  # a share that may have been raised to exp(_LOWEST)


def posterior(log_joint, w=None):
    """Log-evidence and posterior of each row.

    Parameters
    ----------
    log_joint : {ndarray, Tensor} of shape (K, n_rows)
        log p(x_n, z_n = k); overwritten. Components first: then every pass is over contiguous rows.
    w : {ndarray, Tensor} of shape (n_rows,) or None
        Weights for the posterior to be multiplied by: in one pass with its normalisation.

    Returns
    -------
    log_px : {ndarray, Tensor} of shape (n_rows,)
    R : {ndarray, Tensor} of shape (K, n_rows)
        p(z_n = k | x_n), times w_n where weights are given; in the memory of `log_joint`.
    """
    if isinstance(log_joint, np.ndarray):
        highest = np.maximum.reduce(log_joint, 0)
        R = np.maximum(np.subtract(log_joint, highest, out=log_joint), _LOWEST, out=log_joint)
    else:
        highest = log_joint.amax(0)
        R = log_joint.sub_(highest).clamp_(min=_LOWEST)
    (exponents,) = on_host(R)  # NumPy takes half of torch's time
    library(exponents).exp(exponents, out=exponents)
    total = R.sum(0)
    share = 1 / total if w is None else w / total
    R *= share
    return library(total).log(total) + highest, R


def bound_terms(log_joint, pi):
    """Take the evidence of each row apart, in columns: log p(x), E_q[log p(x | z)] and KL(q || pi), (n_rows, 3).

    q is the posterior p(z | x). `log_joint` is a Tensor as of `posterior`; `pi` (K,) are the mixing proportions.
    """
    log_prior = pi.log()[:, None].to(log_joint.dtype)
    log_px, R = posterior(log_joint.clone())
    # The log of R as it is: with that of a share which `posterior` raised, the terms would not add up.
    log_R = log_joint - log_px
    expected = torch.where(R > _NEGLIGIBLE, R * (log_joint - log_prior), 0.0).sum(0)
    kl = torch.where(R > _NEGLIGIBLE, R * (log_R - log_prior), 0.0).sum(0)
    return torch.stack([log_px, expected, kl], 1)


def mixing_proportions(N):
    """pi of the M-step, and the log-ratios that SQUAREM extrapolates stay finite: no proportion is quite zero."""
    N = N + 10 * (np if isinstance(N, np.ndarray) else torch).finfo(N.dtype).eps * N.sum()
    return N / N.sum()


def log_ratios(pi):
    """Free reals for a point of the simplex; `torch.softmax` leads back."""
    return pi.log()
