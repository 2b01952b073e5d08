"""Gaussian clicks: cells that were clicked count more than the others."""

import math

import torch

from skvae.likelihoods._base import ClickLikelihood


class WeightedGaussian(ClickLikelihood):
    """x_ui ~ N(f_ui, 1 / c_ui), with confidence c_1 where a user clicked and c_0 < c_1 elsewhere (eq. 3).

    For sparse rows only.

    Parameters
    ----------
    confidence : tuple of two floats
        (c_0, c_1).
    """

    def __init__(self, confidence):
        self.confidence = confidence
        self.c0, self.c1 = confidence

    def log_prob(self, x, f, own=None):
        clicked = x.take(f)
        correction = self.c1 * (x.value - clicked).square() - self.c0 * clicked.square()
        return -0.5 * (self.c0 * x.over_cells(f.square()) + x.sum(correction))

    def log_base(self, x):
        n_clicked = x.sum(torch.ones_like(x.value))
        n_other = x.n_observed() - n_clicked
        return 0.5 * (n_clicked * math.log(self.c1 / (2 * math.pi)) + n_other * math.log(self.c0 / (2 * math.pi)))

    def init_bias(self, mean, share):
        """Compute the mean of each column, cells weighted by their confidence."""
        return self.c1 * mean / (self.c1 * share + self.c0 * (1 - share))
