"""Multipliers over the course of a fit: each maps the fraction of all steps done, in [0, 1), to a number in [0, 1].

They take a fraction, not a count of steps: a count that suits a large data set leaves a small one at almost zero.
"""

import math

_STEEPNESS = 12  # of the sigmoid: it covers 0.0025 to 0.9975 before it is stretched to [0, 1]


def linear(fraction, ramp):
    """Rise from 0 to 1 over the first `ramp` of the steps, then stay (Bowman et al. 2016; Liang et al. 2018)."""
    return min(1.0, fraction / ramp) if ramp else 1.0


def sigmoid(fraction, ramp):
    """Rise from 0 to 1 over the first `ramp` of the steps along a logistic curve, then stay (Bowman et al. 2016)."""
    t = linear(fraction, ramp)
    low = 1 / (1 + math.exp(_STEEPNESS / 2))
    return (1 / (1 + math.exp(_STEEPNESS * (0.5 - t))) - low) / (1 - 2 * low)


def cyclical(fraction, ramp, n_cycles):
    """Rise from 0 to 1 over the first `ramp` of each of `n_cycles` cycles, then stay (Fu et al. 2019, eq. 6-7)."""
    return linear(fraction * n_cycles % 1, ramp)


def cosine(fraction, last=0.02):
    """Fall from 1 to `last` along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * fraction))


def constant(fraction):
    """Return 1 throughout."""
    return 1.0
