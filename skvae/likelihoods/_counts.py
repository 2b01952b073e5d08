"""What the likelihoods of counts share: exp as the link, counts as the domain, log counts for the encoder."""

import numpy as np
import torch
from scipy import special

from skvae._tensors import Cells
from skvae.likelihoods._base import LEAST_RATE, Likelihood, fine_uniform

STEEP = 30.0  # log-rate from which a rate goes on as a straight line
_MANY = 1e6  # events, above which their number is drawn from a normal


class CountDomain:
    """Mixin that says how counts are read: whole numbers from 0 on; the encoder reads log(1 + count)."""

    domain, remedy = "counts (0, 1, 2, ...)", "round"
    measure = "probability"
    in_float64 = True

    def outside(self, x):
        return (x < 0) | (np.floor(x) < x)

    def encoder_input(self, x):
        return np.log1p(x)


class CountLikelihood(CountDomain, Likelihood):
    """Base of the likelihoods of counts that are independent given f, with means exp(f_d)."""

    def log_base(self, x):
        return log_factorials(x)[1].neg()

    def mean(self, f, own=None):
        return f.clamp(max=STEEP).exp()

    def init_bias(self, mean, share):
        return mean.clamp(min=LEAST_RATE).log()


def log_factorials(x):
    """Compute log N! of the total N of each row, and the sum of log x_d! over its cells; of a table in float64."""
    x = x.double() if isinstance(x, Cells) else x
    return (x.sum() + 1).lgamma(), x.sum((x.value + 1).lgamma())


def in_float64(x, f):
    """Give the cells of a table and what the decoder says of them in float64, unless a gradient is wanted.

    log p(x) of a large count is a small difference of numbers of its size; its gradient is none. Clicks stay as they
    are: their counts are small, and there are many of them.
    """
    if torch.is_grad_enabled() or not isinstance(x, Cells):
        return x, f
    return x.double(), f.double()


def draw_counts(rate, noise, row):
    """Draw Poisson counts with these rates, a float64 array (B, D), by noise that is keyed by the rows' numbers."""
    u = fine_uniform(noise, row, rate)
    # The least count whose cumulative probability reaches u; from a normal where the rate is huge.
    exact = np.ceil(special.pdtrik(u, np.minimum(rate, _MANY)))  # of a smooth extension: one may be too many
    exact = np.where(special.pdtr(np.maximum(exact - 1, 0), rate) >= u, np.maximum(exact - 1, 0), exact)
    return torch.from_numpy(np.where(rate < _MANY, exact, np.rint(rate + np.sqrt(rate) * special.ndtri(u))))
