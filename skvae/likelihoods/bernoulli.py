"""Bernoulli columns: cells in [0, 1]."""

import torch
from torch.autograd.function import once_differentiable

from skvae._sparse import entry
from skvae._tensors import and_back
from skvae.likelihoods._base import ClickLikelihood, Likelihood


class Bernoulli(Likelihood, ClickLikelihood):
    """x_d ~ Bern(sigmoid(f_d)), the logistic likelihood (Liang et al. 2018, eq. 4)."""

    name, auto_for = "bernoulli", "booleans"
    measure = "probability"
    domain, remedy = "values in [0, 1]", "binarise"  # values between are taken as probabilities

    def outside(self, x):
        if x.min() >= 0 and x.max() <= 1:  # neither where a cell is missing: then cell by cell
            return None
        return (x < 0) | (x > 1)

    def log_prob(self, x, f, own=None):
        return _BernoulliOfLogits.apply(f, x)

    def log_prob_and_back(self, x, f, own=None):
        return and_back(_BernoulliOfLogits, f, x)

    def log_base(self, x):
        return torch.zeros_like(x.n_observed())

    def mean(self, f, own=None):
        return f.sigmoid()

    def sample(self, f, own, noise, row):
        return (noise.uniform(row, f.shape[-1], f.dtype) < f.sigmoid()).to(f.dtype)

    def init_bias(self, mean, share):
        mean = mean.clamp(1e-4, 1 - 1e-4)
        return (mean / (1 - mean)).log()

    def check(self, X):
        if X.nnz and X.data.max() > 1:
            raise ValueError(
                f"likelihood='bernoulli' expects X in [0, 1], but {entry(X, X.data.argmax())}; "
                "binarise it, for example with sklearn.preprocessing.Binarizer(), or use likelihood='multinomial'."
            )


class _BernoulliOfLogits(torch.autograd.Function):
    """sum_d x_d f_d - log(1 + exp(f_d)) over the observed cells.

    The sigmoid is the gradient and, by log(1 + exp(f)) = max(f, 0) - log sigmoid(|f|), half of the loss: one
    exponential and one cheap logarithm, where softplus and its gradient take two and a dear one.
    """

    @staticmethod
    def forward(ctx, f, x):
        p = f.sigmoid()
        larger = torch.maximum(p, p.new_ones(()) - p)
        ctx.save_for_backward(p)
        ctx.x = x
        return x.inner(f, beside=larger.log_().sub_(f.relu()))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (p,) = ctx.saved_tensors
        return ctx.x.minus(p).mul_(upstream[..., None]), None
