"""Gaussian columns: numbers, with a noise that is learned or given."""

import math

import numpy as np
import torch

from skvae._tensors import kept_gradient
from skvae.likelihoods._base import Likelihood, beside

NOISES = ("diag", "isotropic")
LEAST_NOISE_VARIANCE = 1e-3  # that is learned, where columns are scaled to variance 1


class Gaussian(Likelihood):
    """x_d ~ N(f_d, psi_d), with psi = floor + exp(own["noise"]) where it is learned.

    Parameters
    ----------
    noise : {"diag", "isotropic"}, float or array-like of shape (D,), default="diag"
        A variance for each column, one for all, or fixed variances, which are not learned.
    floor : float, default=1e-3
        Least variance that can be learned: without one, a column explained in full has no maximum (Heywood case).

    Raises
    ------
    ValueError
        If `noise` is another word, or not positive.
    """

    name, auto_for = "gaussian", "numbers"

    def __init__(self, noise="diag", floor=LEAST_NOISE_VARIANCE):
        self.learned = isinstance(noise, str)
        if self.learned and noise not in NOISES:
            raise ValueError(f"noise={noise!r} is not known; use 'diag', 'isotropic' or a positive number.")
        if not self.learned:
            noise = np.atleast_1d(np.asarray(noise, dtype=np.float64))
            if not (noise > 0).all():
                raise ValueError(f"noise must be positive, but its least is {noise.min()}; it is a variance.")
        self.noise, self.floor = noise, floor

    @classmethod
    def named(cls, noise):
        return cls(noise)

    @property
    def scaling(self):
        """Choose one scale for all unless each column has a noise of its own: equal noise variances stay equal."""
        return "each" if self.learned and self.noise == "diag" else "shared"

    def for_columns(self, sizes, mean, scale):
        return self if self.learned else Gaussian(self.noise / float(scale[0]) ** 2, self.floor)

    def without_floor(self):
        return Gaussian(self.noise, 0.0)

    def noise_variance(self, own, n_columns):
        return self.variance(own, n_columns)

    def variance(self, own, n_columns):
        """Compute psi, of shape (D,), or (M, D) for members."""
        psi = self.floor + own["noise"].exp() if self.learned else torch.from_numpy(self.noise)
        return psi.expand(*psi.shape[:-1], n_columns)

    def raw(self, psi):
        """Find the own parameter of this psi, kept a hundredth of the floor above the floor: there gradients vanish."""
        return (psi - self.floor).clamp(min=0.01 * self.floor).log()

    def log_prob(self, x, f, own=None):
        psi = beside(self.variance(own, f.shape[-1]), f)
        return -0.5 * (x.over_cells(((x.value - f) * psi.rsqrt()).square()) + x.over_cells(psi.log()))

    def log_prob_and_back(self, x, f, own=None):
        raw = own["noise"] if self.learned else None
        with torch.no_grad():
            psi = beside(self.variance(own, f.shape[-1]), f)
            scale = psi.rsqrt()
            r = (x.value - f).mul_(scale)  # residuals by their standard deviations
            squares = r.square()
            log_prob = (x.over_cells(squares) + x.over_cells(psi.log())).mul_(-0.5)

        def back(upstream):
            each = x.only_seen(upstream.unsqueeze(-1))
            if raw is not None:
                share = (psi - self.floor) / psi  # of the learned part
                of_raw = (squares - 1).mul_(each).sum(-2).mul_(0.5 * share.squeeze(-2))
                kept_gradient(raw).add_(of_raw if raw.shape[-1] > 1 else of_raw.sum(-1, keepdim=True))
            return r.mul_(scale).mul_(each)

        return log_prob, back

    def expected_log_prob(self, x, f, spread, own=None):
        """Compute E[log_prob] where the cells of f are normal with this mean and variance `spread`."""
        psi = beside(self.variance(own, f.shape[-1]), f)
        return self.log_prob(x, f, own) - 0.5 * x.over_cells(spread / psi)

    def log_base(self, x):
        return -0.5 * math.log(2 * math.pi) * x.n_observed()

    def mean(self, f, own=None):
        return f

    def sample(self, f, own, noise, row):
        return f + beside(self.variance(own, f.shape[-1]), f).sqrt() * noise.normal(row, f.shape[-1], f.dtype)

    def init_bias(self, mean, share):
        return mean.clone()

    def init_own(self, mean, variance):
        if not self.learned:
            return {}
        psi = variance if self.noise == "diag" else variance.mean(-1, keepdim=True)
        return {"noise": self.raw(psi.double()).to(psi)}
