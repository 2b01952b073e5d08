"""Log-densities of full Gaussians by distances from the means, and sums measured from there.

They keep digits where components lie far from the origin, and cost less than features where columns are many.
"""

import numpy as np
import torch
from scipy.linalg import lapack

_TRIANGLE_ROWS = 16  # of triangular factors at once: of fewer, products are thin; of more, much of them is zero
_WORTH_A_WAIT = 2**30  # multiplications from which a GPU takes longer than to answer which rows matter
NEGLIGIBLE = 1e-20  # responsibilities that no sum of doubles would feel


def triangular_log_joint(X, params, space):
    """log_norm - |U' (x - mu)|**2 / 2. U' is lower triangular: its first rows need the first columns only."""
    K, D = params.mu.shape
    lower, distance = params.root.mT, 0.0
    for start in range(0, D, _TRIANGLE_ROWS):
        stop = min(D, start + _TRIANGLE_ROWS)
        rows = lower[:, start:stop, :stop]
        offset = (rows @ params.mu[:, :stop, None]).reshape(-1, 1)
        y = space.empty("y", (K * (stop - start), len(X)), X)
        torch.mm(rows.reshape(-1, stop), X[:, :stop].mT, out=y)
        distance = distance + y.sub_(offset).square_().reshape(K, stop - start, -1).sum(1)
    return torch.sub(params.log_norm[:, None], distance, alpha=0.5)


def centred_sums(X, R, mu, space):
    """Weights, sums and sums of squares measured from mu, each component's over the rows that belong to it at all."""
    K, D = mu.shape
    S, SS = X.new_empty(K, D), X.new_empty(K, D, D)
    for k, rows in enumerate(_members(R, D)):
        share = R[k] if rows is None else R[k][rows]
        share = share.sqrt()
        x = space.empty("members", (len(share), D), X)
        x = torch.sub(X, mu[k], out=x) if rows is None else torch.index_select(X, 0, rows, out=x).sub_(mu[k])
        x.mul_(share[:, None])
        if x.is_cpu:  # NumPy sees that the product is symmetric, and computes half of it
            np.matmul(x.mT.numpy(), x.numpy(), out=SS[k].numpy())
        else:
            torch.mm(x.mT, x, out=SS[k])
        S[k] = share @ x
    return R.sum(1), S, SS


def _members(R, D):
    """For each component the rows that belong to it at all, None for all of them.

    On a device the host waits to know them: only where that spares products of some size.
    """
    if not R.is_cpu and R.numel() * D**2 < _WORTH_A_WAIT:
        return [None] * len(R)
    belongs = R > NEGLIGIBLE * R.max()
    if R.is_cpu:
        return (rows.nonzero()[:, 0] for rows in belongs)
    return belongs.nonzero()[:, 1].split(belongs.sum(1).tolist())


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
