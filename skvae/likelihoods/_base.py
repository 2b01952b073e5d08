"""What a row looks like given its natural parameters: one small object a likelihood.

Each gives `log_prob + log_base`, the normalised log-probability in nats; `log_base` is constant in the parameters and
left out of training. `x` is a `Batch` of sparse rows or the `Cells` of dense ones, `f` the decoder's output, one number
for each of their columns.
"""

import torch

LEAST_RATE = 1e-6  # of a count, at which biases of columns of zeros start


class Likelihood:
    """What all likelihoods share.

    Each has these methods; shapes are those of dense rows, whose leading axes (members, draws) broadcast. `own` holds
    the likelihood's own parameters by name: Tensors of shape (D,) or, with a leading axis of members, (M, D).

    - `log_prob(x, f, own=None)`, (..., B): log p(x | f) over the observed cells less `log_base(x)`, nats.
    - `log_prob_and_back(x, f, own=None)`: the same in training, where `own` keeps its gradients, and a function, to be
      called once, from the gradient of the result to that of f, which adds to those of `own`.
    - `log_base(x)`, (..., B): what is constant in f and `own`.
    - `mean(f, own=None)`, (..., B, D): E[x | f], in the layout of x.
    - `sample(f, own, noise, row)`, (B, D): a draw for each row, keyed by the row's number in `row` (B,).
    - `init_bias(mean, share)`, (D,): the f at the maximum of the marginal likelihood, from the mean of each column over
      its observed cells and the share of them that is not zero.
    - `init_own(mean, variance)`: `own` at about the same maximum, from means and variances (D,).

    Attributes
    ----------
    empty_rows_inform : bool
        Whether a row of zeros says anything about f.
    """

    empty_rows_inform = True

    def init_own(self, mean, variance):
        """No parameters of its own."""
        return {}

    def log_prob_and_back(self, x, f, own=None):
        """log_prob, and a function from its gradient to that of f: see `skvae._tensors.and_back`."""
        f = f.detach().requires_grad_()
        log_prob = self.log_prob(x, f, own)

        def back(upstream):
            log_prob.backward(upstream)
            return f.grad

        return log_prob.detach(), back


def beside(parameter, f):
    """Give a parameter (D,) or (M, D) the axes between members and columns that f has, and its dtype."""
    between = (1,) * (f.dim() - parameter.dim())
    return parameter.reshape(*parameter.shape[:-1], *between, parameter.shape[-1]).to(f)


def quantile(probability, u):
    """The level at which the sum of the probabilities (..., D) passes u (..., n): int64 of shape (..., n)."""
    below = probability.double().cumsum(-1)
    u = u * below[..., -1:]  # the last sum is 1 to rounding only
    return torch.searchsorted(below, u).clamp_(max=probability.shape[-1] - 1)


def fine_uniform(noise, row, f):
    """Uniform on (0, 1) to 46 bits, as a float64 array of the shape of f: rare counts need the ends of the interval."""
    high, low = (noise.fold(name).uniform(row, f.shape[-1], torch.float64) for name in ("high", "low"))
    return (high + (low - 0.5) * 2.0**-23).cpu().numpy()
