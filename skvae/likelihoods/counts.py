"""Columns of counts."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special
from torch.autograd.function import once_differentiable

from skvae.likelihoods._base import LEAST_RATE, Likelihood, beside, fine_uniform

_STEEP = 30.0  # log-rate from which a rate goes on as a straight line
_LOG_DISPERSION = 15.0  # largest size of a log-dispersion; a negative binomial is Poisson long before
_LARGE_DISPERSION = 50.0  # from which Stirling's series is exact to rounding
_MANY = 1e6  # events, above which their number is drawn from a normal


class Poisson(Likelihood):
    """x_d ~ Poisson(exp(f_d)): counts.

    Above exp(30) the rate goes on as a straight line, so that a wild step of training has a finite gradient.
    """

    def log_prob(self, x, f, own=None):
        return x.inner(f) - x.over_cells(_Rate.apply(f))

    def log_base(self, x):
        return -x.sum((x.value + 1).lgamma())

    def mean(self, f, own=None):
        return f.clamp(max=_STEEP).exp()

    def sample(self, f, own, noise, row):
        rate = self.mean(f).double().cpu().numpy()
        return torch.from_numpy(_poisson_quantile(fine_uniform(noise, row, f), rate)).to(f)

    def init_bias(self, mean, share):
        return mean.clamp(min=LEAST_RATE).log()


class NegativeBinomial(Likelihood):
    """x_d ~ NB with mean mu_d = exp(f_d) and variance mu_d + mu_d^2 / r_d: counts that vary more than Poisson's.

    own["dispersion"] is log r, of shape (D,); its size is held below 15.
    """

    def log_prob(self, x, f, own=None):
        s = self._log_dispersion(own, f)
        r = s.exp()
        above = _log_rising(x.value, r, s) - (x.value + r) * F.softplus(f - s)
        return x.inner(f) + x.over_cells(above)

    def log_base(self, x):
        return -x.sum((x.value + 1).lgamma())

    def mean(self, f, own=None):
        return f.clamp(max=_STEEP).exp()

    def sample(self, f, own, noise, row):
        r = self._log_dispersion(own, f).double().exp().cpu().numpy()  # a Poisson whose rate is a gamma
        gamma = special.gammaincinv(r, fine_uniform(noise.fold("rate"), row, f)) / r
        rate = self.mean(f).double().cpu().numpy() * gamma
        return torch.from_numpy(_poisson_quantile(fine_uniform(noise.fold("count"), row, f), rate)).to(f)

    def init_bias(self, mean, share):
        return mean.clamp(min=LEAST_RATE).log()

    def init_own(self, mean, variance):
        """Log-dispersions by the method of moments, r = mean^2 / (variance - mean), within 0.01 and 10,000."""
        mean, variance = mean.double(), variance.double()
        r = mean.square() / (variance - mean).clamp(min=LEAST_RATE**2)
        return {"dispersion": r.clamp(1e-2, 1e4).log().float()}

    def _log_dispersion(self, own, f):
        return beside(own["dispersion"], f).clamp(-_LOG_DISPERSION, _LOG_DISPERSION)


def _poisson_quantile(u, rate):
    """Least count whose cumulative probability reaches u; from a normal where the rate is huge."""
    exact = np.ceil(
        special.pdtrik(u, np.minimum(rate, _MANY))
    )  # the inverse of a smooth extension: one may be too many
    exact = np.where(special.pdtr(np.maximum(exact - 1, 0), rate) >= u, np.maximum(exact - 1, 0), exact)
    return np.where(rate < _MANY, exact, np.rint(rate + np.sqrt(rate) * special.ndtri(u)))


def _log_rising(x, r, s):
    """log(Gamma(x + r) / Gamma(r)) - x log r, with s = log r.

    Where r is large, the first is a difference of huge numbers: there by Stirling's series, so that float32 will do.
    """
    big = r.clamp(min=_LARGE_DISPERSION)
    y = x + big
    by_series = (y - 0.5) * (x / big).log1p() - x + _beyond_stirling(y) - _beyond_stirling(big)
    return torch.where(r > _LARGE_DISPERSION, by_series, (x + r).lgamma() - r.lgamma() - x * s)


def _beyond_stirling(y):
    """log Gamma(y) less (y - 1/2) log y - y + log(2 pi) / 2, to 1e-12 for y >= 50."""
    inverse = 1 / y
    return inverse * (1 / 12 - inverse.square() / 360)


class _Rate(torch.autograd.Function):
    """exp(f), from `_STEEP` on its tangent there: the gradient stays finite."""

    @staticmethod
    def forward(ctx, f):
        rate = f.clamp(max=_STEEP).exp_()
        ctx.save_for_backward(rate)
        return torch.addcmul(rate, rate, (f - _STEEP).relu_())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (rate,) = ctx.saved_tensors
        return upstream * rate
