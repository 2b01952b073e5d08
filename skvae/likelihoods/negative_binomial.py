"""Negative binomial columns: counts that vary more than Poisson's."""

import torch
import torch.nn.functional as F
from scipy import special

from skvae.likelihoods._base import LEAST_RATE, beside, fine_uniform
from skvae.likelihoods._counts import CountLikelihood, draw_counts, in_float64

_LOG_DISPERSION = 15.0  # largest size of a log-dispersion; a negative binomial is Poisson long before
_LARGE_DISPERSION = 50.0  # from which Stirling's series is exact to rounding


class NegativeBinomial(CountLikelihood):
    """x_d ~ NB with mean mu_d = exp(f_d) and variance mu_d + mu_d^2 / r_d: counts that vary more than Poisson's.

    own["dispersion"] is log r, of shape (D,); its size is held below 15.
    """

    name = "negative_binomial"

    def log_prob(self, x, f, own=None):
        x, f = in_float64(x, f)
        s = self._log_dispersion(own, f)
        r = s.exp()
        above = _log_rising(x.value, r, s) - (x.value + r) * F.softplus(f - s)
        return x.inner(f) + x.over_cells(above)

    def sample(self, f, own, noise, row):
        r = self._log_dispersion(own, f).double().exp().cpu().numpy()  # a Poisson whose rate is a gamma
        gamma = special.gammaincinv(r, fine_uniform(noise.fold("rate"), row, f)) / r
        rate = self.mean(f).double().cpu().numpy() * gamma
        return draw_counts(rate, noise.fold("count"), row).to(f)

    def init_own(self, mean, variance):
        """Find log-dispersions by the method of moments, r = mean^2 / (variance - mean), within 0.01 and 10,000."""
        dtype, mean, variance = mean.dtype, mean.double(), variance.double()
        r = mean.square() / (variance - mean).clamp(min=LEAST_RATE**2)
        return {"dispersion": r.clamp(1e-2, 1e4).log().to(dtype)}

    def _log_dispersion(self, own, f):
        return beside(own["dispersion"], f).clamp(-_LOG_DISPERSION, _LOG_DISPERSION)


def _log_rising(x, r, s):
    """Compute log(Gamma(x + r) / Gamma(r)) - x log r, with s = log r.

    Where r is large, the first is a difference of huge numbers: there by Stirling's series, so that float32 will do.
    """
    big = r.clamp(min=_LARGE_DISPERSION)
    y = x + big
    by_series = (y - 0.5) * (x / big).log1p() - x + _beyond_stirling(y) - _beyond_stirling(big)
    return torch.where(r > _LARGE_DISPERSION, by_series, (x + r).lgamma() - r.lgamma() - x * s)


def _beyond_stirling(y):
    """Compute log Gamma(y) less (y - 1/2) log y - y + log(2 pi) / 2, to 1e-12 for y >= 50."""
    inverse = 1 / y
    return inverse * (1 / 12 - inverse.square() / 360)
