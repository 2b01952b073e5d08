"""What a row looks like given its natural parameters: one small object a likelihood.

Each gives `log_prob + log_base`, the normalised log-probability in nats; `log_base` is constant in the parameters and
left out of training. `x` is a `Batch` of sparse rows, `f` the decoder's output, one number for each of its cells.
"""

import math

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from skvae._sparse import entry
from skvae._tensors import kept_gradient


class Multinomial:
    """x_u ~ Mult(N_u, softmax(f_u)): a row of clicks as N_u draws of items (Liang et al. 2018, eq. 2)."""

    empty_rows_inform = False  # no draws, no evidence

    def log_prob(self, x, f):
        return x.inner(f) - x.sum() * f.logsumexp(-1)

    def log_prob_of_linear(self, x, h, weight, bias):
        """log_prob(x, h @ weight + bias), with one buffer of users x items for loss and gradient together."""
        return _MultinomialOfLinear.apply(h, weight, bias, x)

    def log_base(self, x):
        return (x.sum() + 1).lgamma() - x.sum((x.value + 1).lgamma())

    def init_bias(self, mean, share):
        """Biases at the marginal maximum likelihood, from the mean of each column and its share of stored entries.

        Items that nobody has get a hundredth of the rarest one's.
        """
        floor = 0.01 * mean[mean > 0].min() if (mean > 0).any() else 1.0
        mean = mean.clamp(min=floor)
        return (mean / mean.sum()).log()

    def check(self, X):
        """Any non-negative matrix will do."""


class Bernoulli:
    """x_ui ~ Bern(sigmoid(f_ui)), the logistic likelihood (Liang et al. 2018, eq. 4)."""

    empty_rows_inform = True

    def log_prob(self, x, f):
        return x.inner(f) - F.softplus(f).sum(-1)

    def log_prob_of_linear(self, x, h, weight, bias):
        return self.log_prob(x, h @ weight + bias)

    def log_base(self, x):
        return x.value.new_zeros(len(x))

    def init_bias(self, mean, share):
        mean = mean.clamp(1e-4, 1 - 1e-4)
        return (mean / (1 - mean)).log()

    def check(self, X):
        if X.nnz and X.data.max() > 1:
            raise ValueError(
                f"likelihood='bernoulli' expects X in [0, 1], but {entry(X, X.data.argmax())}; "
                "binarise it, for example with sklearn.preprocessing.Binarizer(), or use likelihood='multinomial'."
            )


class WeightedGaussian:
    """x_ui ~ N(f_ui, 1 / c_ui), with confidence c_1 where a user clicked and c_0 < c_1 elsewhere (eq. 3).

    Parameters
    ----------
    confidence : tuple of two floats
        (c_0, c_1).
    """

    empty_rows_inform = True

    def __init__(self, confidence):
        self.c0, self.c1 = confidence

    def log_prob(self, x, f):
        clicked = x.take(f)
        correction = self.c1 * (x.value - clicked).square() - self.c0 * clicked.square()
        return -0.5 * (self.c0 * f.square().sum(-1) + x.sum(correction))

    def log_prob_of_linear(self, x, h, weight, bias):
        return self.log_prob(x, h @ weight + bias)

    def log_base(self, x):
        n_clicked = x.sum(torch.ones_like(x.value))
        n_other = x.n_columns - n_clicked
        return 0.5 * (n_clicked * math.log(self.c1 / (2 * math.pi)) + n_other * math.log(self.c0 / (2 * math.pi)))

    def init_bias(self, mean, share):
        """The mean of each column, cells weighted by their confidence."""
        return self.c1 * mean / (self.c1 * share + self.c0 * (1 - share))

    def check(self, X):
        """Any non-negative matrix will do."""


class _MultinomialOfLinear(torch.autograd.Function):
    """Multinomial log-likelihood of a linear last layer.

    Written out plainly, f, its log-softmax, the gradients of both and the dense x are five arrays of users x items.
    Here f becomes its own softmax in place, and that its own gradient, N_u pi_ui - x_ui: one array. That is what
    leaves room for wide catalogues, and the passes over memory saved are time saved as well.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, x):
        f = torch.addmm(bias, h, weight)
        total = x.sum()
        linear = x.inner(f)
        top = f.amax(1, keepdim=True)
        norm = f.sub_(top).exp_().sum(1)
        ctx.save_for_backward(h, weight, f, total / norm)
        ctx.x = x
        return linear - total * (top[:, 0] + norm.log())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        h, weight, softmax, scale = ctx.saved_tensors
        x = ctx.x
        gradient = softmax.mul_((-scale * upstream)[:, None])
        gradient.view(-1).index_add_(0, x.cell, x.value * upstream[x.user])
        kept = kept_gradient(weight)
        of_weight = h.T @ gradient if kept is None else kept.addmm_(h.T, gradient)
        return gradient @ weight.T, of_weight if kept is None else None, gradient.sum(0), None
