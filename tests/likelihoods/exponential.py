"""The example of doc/developer/add_a_likelihood.rst, word for word: a test compares them."""

import numpy as np
import torch

from skvae.likelihoods import Likelihood


class Exponential(Likelihood):
    """x_d ~ Exp(exp(f_d)): positive numbers; f is the logarithm of the rate."""

    domain, remedy = "positive numbers", "shift"

    def outside(self, x):
        return x <= 0

    def encoder_input(self, x):
        return np.log(x)

    def log_prob(self, x, f, own=None):
        f = bounded(f)
        return x.over_cells(f - x.value * f.exp())

    def log_base(self, x):
        return torch.zeros_like(x.n_observed())

    def mean(self, f, own=None):
        return (-bounded(f)).exp()

    def sample(self, f, own, noise, row):
        return -noise.uniform(row, f.shape[-1], f.dtype).log() * self.mean(f)

    def init_bias(self, mean, share):
        return -mean.clamp(min=1e-6).log()


def bounded(f):
    """Log-rates that neither overflow nor underflow, however wild a step."""
    return f.clamp(-30, 30)
