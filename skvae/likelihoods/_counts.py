"""What the likelihoods of counts share: exp as the link, counts as the domain, log counts for the encoder."""

import numpy as np
import torch
from scipy import special

from skvae.likelihoods._base import LEAST_RATE, Likelihood, fine_uniform

STEEP = 30.0  # log-rate from which a rate goes on as a straight line
_MANY = 1e6  # events, above which their number is drawn from a normal


class CountDomain:
    """Mixin that says how counts are read: whole numbers from 0 on; the encoder reads log(1 + count)."""

    domain, remedy = "counts (0, 1, 2, ...)", "round"

    def outside(self, x):
        return (x < 0) | (np.floor(x) < x)

    def encoder_input(self, x):
        return np.log1p(x)


class CountLikelihood(CountDomain, Likelihood):
    """Base of the likelihoods of counts that are independent given f, with means exp(f_d)."""

    def log_base(self, x):
        return -x.sum((x.value + 1).lgamma())

    def mean(self, f, own=None):
        return f.clamp(max=STEEP).exp()

    def init_bias(self, mean, share):
        return mean.clamp(min=LEAST_RATE).log()


def draw_counts(rate, noise, row):
    """Draw Poisson counts with these rates, a float64 array (B, D), by noise that is keyed by the rows' numbers."""
    u = fine_uniform(noise, row, rate)
    # The least count whose cumulative probability reaches u; from a normal where the rate is huge.
    exact = np.ceil(special.pdtrik(u, np.minimum(rate, _MANY)))  # of a smooth extension: one may be too many
    exact = np.where(special.pdtr(np.maximum(exact - 1, 0), rate) >= u, np.maximum(exact - 1, 0), exact)
    return torch.from_numpy(np.where(rate < _MANY, exact, np.rint(rate + np.sqrt(rate) * special.ndtri(u))))
