"""Laplace's approximation of the exact posterior of a row: a normal at its mode, with the curvature there.

    p(z | x) ~ N(z*, P^-1),   z* = argmax log p(x, z),   P = - d^2 log p(x, z*) / dz^2

It needs the decoder and the cells that were observed, but no encoder: it is as good for a row with gaps, of whatever
pattern, as for a complete one. Tierney and Kadane, JASA 81, 1986; MacKay, *Neural Computation* 4, 1992.

Tensors have no axis of members; z is of shape (n_draws, n_rows, K).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_STEPS = 4  # of Newton's method, all with the curvature of the first; more brought the mode no nearer on real tables
_STEP_SIZES = (0.0, 0.03, 0.125, 0.35, 1.0)
_DIFFERENCE = 1e-2  # between two gradients, in standard deviations of the prior
_FLATTEST = 0.5  # precision that is taken at least: no approximation is wider than 1.4 times the prior


class Laplace(NamedTuple):
    """N(mode, P^-1) with P = V diag(precision) V'.

    Attributes
    ----------
    mode : Tensor of shape (n_rows, K)
    precision : Tensor of shape (n_rows, K)
        Eigenvalues of P.
    axes : Tensor of shape (n_rows, K, K)
        Its eigenvectors V, in columns.
    """

    mode: Tensor
    precision: Tensor
    axes: Tensor

    def draw(self, epsilon):
        """Turn standard normal draws into draws of z, (n_draws, n_rows, K)."""
        return self.mode + times(self.axes, epsilon * self.precision.rsqrt())

    def log_prob(self, z):
        """Compute the log-density at z, (n_draws, n_rows)."""
        squares = times(self.axes.mT, z - self.mode).square() * self.precision
        return 0.5 * (self.precision.log() - squares - math.log(2 * math.pi)).sum(-1)

    def kl_to_standard_normal(self):
        """Compute KL(q || N(0, I)) of each row, (n_rows,)."""
        excess = 1 / self.precision - 1 + self.precision.log()
        return 0.5 * (self.mode.square().sum(-1) + excess.sum(-1))

    def factorised(self):
        """The closest factorised normal in KL(q || p): means and log-variances, each (n_rows, K)."""
        diagonal = (self.axes.square() * self.precision[:, None]).sum(-1)
        return self.mode, -diagonal.log()


@torch.no_grad()
def laplace(model, params, x, guess):
    """Find the mode and the curvature of the posterior of each row.

    Parameters
    ----------
    model : VAE
    params : dict of Tensor
    x : Cells of shape (1, n_rows, n_columns)
    guess : Tensor of shape (n_rows, K)
        Where to begin; the mean of the prior takes its place in rows where it is better.

    Returns
    -------
    approximation : Laplace
    """

    def best(candidates):
        log_joint = _log_joint(model, params, x, candidates).nan_to_num(nan=-math.inf)
        return torch.take_along_dim(candidates, log_joint.argmax(0)[None, :, None], 0)[0]

    mode = best(torch.stack([torch.zeros_like(guess), guess]))
    sizes = mode.new_tensor(_STEP_SIZES)[:, None, None]
    gradient, precision, axes = _curvature(model, params, x, mode)
    for step in range(_STEPS):
        if step:
            gradient = _gradient(model, params, x, mode[None])[0]
        mode = best(mode + sizes * times(axes, times(axes.mT, gradient) / precision.abs().clamp(min=1.0)))
    _, precision, axes = _curvature(model, params, x, mode)
    return Laplace(mode, precision.clamp(min=_FLATTEST), axes)


def n_gradients(n_components):
    """How many gradients a row takes at once."""
    return 2 * n_components + 1


def times(matrix, vector):
    """Multiply matrices (n_rows, K, K) by vectors (..., n_rows, K)."""
    return (matrix @ vector[..., None])[..., 0]


def _log_joint(model, params, x, z):
    """log p(x, z) less what is constant in z, (n_draws, n_rows)."""
    return model.log_prob(params, x, z[None])[0] - 0.5 * z.square().sum(-1)


@torch.enable_grad()
def _gradient(model, params, x, z):
    """Gradient of log p(x, z) in z, of its shape; 0 where it overflows."""
    z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(_log_joint(model, params, x, z).sum(), z)
    return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _curvature(model, params, x, z):
    """Gradient (n_rows, K), and the eigenvalues and eigenvectors of P, by differences of gradients."""
    K = z.shape[1]
    shifts = _DIFFERENCE * torch.eye(K, dtype=z.dtype, device=z.device)[:, None]
    gradients = _gradient(model, params, x, torch.cat([z + shifts, z - shifts, z[None]]))
    P = (gradients[K : 2 * K] - gradients[:K]).transpose(0, 1) / (2 * _DIFFERENCE)
    return gradients[-1], *torch.linalg.eigh(0.5 * (P + P.mT))
