"""Poisson columns: counts."""

import torch
from torch.autograd.function import once_differentiable

from skvae.likelihoods._counts import STEEP, CountLikelihood, draw_counts, in_float64


class Poisson(CountLikelihood):
    """x_d ~ Poisson(exp(f_d)): counts.

    Above exp(30) the rate goes on as a straight line, so that a wild step of training has a finite gradient.
    """

    name = "poisson"

    def log_prob(self, x, f, own=None):
        x, f = in_float64(x, f)
        return x.inner(f) - x.over_cells(_Rate.apply(f))

    def sample(self, f, own, noise, row):
        return draw_counts(self.mean(f).double().cpu().numpy(), noise, row).to(f)


class _Rate(torch.autograd.Function):
    """exp(f), from `STEEP` on its tangent there: the gradient stays finite."""

    @staticmethod
    def forward(ctx, f):
        rate = f.clamp(max=STEEP).exp_()
        ctx.save_for_backward(rate)
        return torch.addcmul(rate, rate, (f - STEEP).relu_())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (rate,) = ctx.saved_tensors
        return upstream * rate
