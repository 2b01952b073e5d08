"""Rows of counts with a total: draws from one distribution over the columns."""

import math

import numpy as np
import torch
from scipy import stats
from torch.autograd.function import once_differentiable

from skvae._tensors import column_blocks, kept, products
from skvae.likelihoods._base import ClickLikelihood, Likelihood, fine_uniform, quantile
from skvae.likelihoods._counts import CountDomain, in_float64, log_factorials

_MANY_DRAWS = 1000  # of one row, which are then no longer made one by one


class Multinomial(CountDomain, Likelihood, ClickLikelihood):
    """x_u ~ Mult(N_u, softmax(f_u)): a row of clicks as N_u draws of items (Liang et al. 2018, eq. 2).

    Where columns are missing, the others are multinomial given their own total.

    Parameters
    ----------
    total : float or None, default=None
        Average total of a row, for `mean` and `sample`; None counts as 1. A sample has the whole number below or above
        it, at random.
    """

    name, joint = "multinomial", True
    empty_rows_inform = False  # no draws, no evidence

    def __init__(self, total=None):
        self.total = total

    def for_columns(self, sizes, mean, scale):
        return Multinomial(float(mean.sum())) if self.total is None else self

    def log_prob(self, x, f, own=None):
        x, f = in_float64(x, f)
        return x.inner(f) - x.sum() * x.logsumexp(f)

    def log_prob_of_linear(self, x, h, weight, bias):
        """Compute log_prob(x, h @ weight + bias) with one buffer of users x items for loss and gradient together.

        Where that would be large, a block of items at a time.
        """
        blocks, h = column_blocks(len(x), x.n_columns, h.device), x.spread(h)
        if len(blocks) == 1:
            return _MultinomialOfLinear.apply(h, weight, bias, x)
        return _MultinomialInBlocks.apply(h, weight, bias, x, blocks)

    def log_base(self, x):
        of_total, of_cells = log_factorials(x)
        return of_total - of_cells

    def mean(self, f, own=None):
        return self._total() * f.softmax(-1)

    def sample(self, f, own, noise, row):
        whole, rest = divmod(self._total(), 1)
        if whole > _MANY_DRAWS:
            total = whole + (noise.fold("total").uniform(row, 1)[:, 0] < rest).double()
            split = _multinomial_split(total, f.double().softmax(-1), fine_uniform(noise.fold("item"), row, f))
            return split.to(f)
        n_draws = int(whole) + (rest > 0)
        counted = torch.ones(len(f), n_draws, dtype=f.dtype, device=f.device)
        if rest:
            counted[:, -1:] = (noise.fold("total").uniform(row, 1) < rest).to(f.dtype)
        drawn = quantile(f.softmax(-1), noise.fold("item").uniform(row, n_draws, torch.float64))
        return torch.zeros_like(f).scatter_add_(-1, drawn, counted)

    def _total(self):
        return 1.0 if self.total is None else float(self.total)

    def init_bias(self, mean, share):
        """Find the biases at the marginal maximum likelihood, from the means of the columns.

        Items that nobody has get a hundredth of the rarest one's.
        """
        floor = 0.01 * mean[mean > 0].min() if (mean > 0).any() else 1.0
        mean = mean.clamp(min=floor)
        return (mean / mean.sum()).log()


def _multinomial_split(total, probability, u):
    """Split totals (B,) into counts (B, D), column by column: each is binomial given what those before it left."""
    left, p = total.cpu().numpy(), probability.cpu().numpy()
    rest = p[:, ::-1].cumsum(1)[:, ::-1]
    share, counts = np.divide(p, rest, out=np.ones_like(p), where=rest > 0), np.empty_like(p)
    for column in range(p.shape[1]):
        counts[:, column] = stats.binom.ppf(u[:, column], left, share[:, column])
        left = left - counts[:, column]
    return torch.from_numpy(counts)


class _MultinomialOfLinear(torch.autograd.Function):
    """Multinomial log-likelihood of a linear last layer.

    Written out plainly, f, its log-softmax, the gradients of both and the dense x are five arrays of users x items.
    Here f becomes its own softmax in place, and that its own gradient, N_u pi_ui - x_ui: one array. That is what
    leaves room for wide catalogues, and the passes over memory saved are time saved as well.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, x):
        ctx.products = products()
        f = ctx.products.affine(h, ctx.products.weight(weight), bias)
        total = x.sum()
        linear = x.own_inner(f)
        top = x.largest(f.amax(1, keepdim=True))
        linear, norm = x.joined(linear, f.sub_(top).exp_().sum(1))
        ctx.save_for_backward(h, weight, f, total / norm)
        ctx.x = x
        return linear - total * (top[:, 0] + norm.log())

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        h, weight, softmax, scale = ctx.saved_tensors
        x, products = ctx.x, ctx.products
        gradient = softmax.mul_((-scale * upstream)[:, None])
        gradient.view(-1).index_add_(0, x.cell, x.value * upstream[x.user])
        of_bias, gradient = gradient.sum(0), products.factor(gradient)
        own, of_weight = kept(weight), None
        if own is not None:
            own.add_product(products, h.T, gradient)
        elif ctx.needs_input_grad[1]:
            of_weight = products.times(h.T, gradient)
        return products.times(gradient, products.weight(weight).T), of_weight, of_bias, None


class _MultinomialInBlocks(torch.autograd.Function):
    """The same without any array of users x items, for catalogues where even one is too large.

    The forward pass keeps the log of each user's normaliser, which it sums up block by block of items, each relative to
    the largest score so far. The backward pass makes the scores of a block again, a third more products in all.
    """

    @staticmethod
    def forward(ctx, h, weight, bias, x, blocks):
        ctx.products = products()
        factor, of_weight = ctx.products.factor(h), ctx.products.weight(weight)
        log_norm = h.new_full((len(h), 1), -math.inf)
        scores = torch.empty_like(x.value)  # of the entries of x
        for columns, entries, cells in x.in_columns(blocks):
            f = ctx.products.affine(factor, of_weight[:, columns], bias[columns])
            scores[entries] = f.view(-1)[cells]
            top = f.amax(1, keepdim=True)
            log_norm = torch.logaddexp(log_norm, f.sub_(top).exp_().sum(1, keepdim=True).log_().add_(top))
        top = x.largest(log_norm)
        linear, norm = x.joined(x.own_sum(x.value * scores), (log_norm - top).exp_())
        log_norm = top + norm.log_()
        ctx.save_for_backward(h, weight, bias, log_norm)
        ctx.x, ctx.blocks = x, blocks
        return linear - x.sum() * log_norm[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        h, weight, bias, log_norm = ctx.saved_tensors
        x, products, own = ctx.x, ctx.products, kept(weight)
        if own is None:
            total, adds = torch.empty_like(weight) if ctx.needs_input_grad[1] else None, False
        else:
            total, adds = own.to_fill()
        of_h, of_bias = torch.zeros_like(h), torch.empty_like(bias)
        h, factor = products.factor(h), products.weight(weight)
        scale, of_entries = (-x.sum() * upstream)[:, None], x.value * upstream[x.user]
        for columns, entries, cells in x.in_columns(ctx.blocks):
            of_columns = factor[:, columns]
            gradient = torch.sub(bias[columns], log_norm)
            products.add_to(gradient, h, of_columns)
            gradient.exp_().mul_(scale)
            gradient.view(-1).index_add_(0, cells, of_entries[entries])
            torch.sum(gradient, 0, out=of_bias[columns])
            gradient = products.factor(gradient)
            if total is not None:
                products.add_to(total[:, columns], h.T, gradient, adds=adds)
            products.add_to(of_h, gradient, of_columns.T)
        return of_h, total if own is None else None, of_bias, None, None
