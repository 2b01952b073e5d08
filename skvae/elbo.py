"""The bound that every model raises, and the record of an ascent.

L(q, theta) = E_q[log p(x | z, theta)] - beta KL(q(z | x) || p(z))   <=   log p(x | theta)      (beta = 1)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skvae._tensors import and_back


class Bound(NamedTuple):
    """Evidence lower bound of a batch, its two terms kept apart.

    All axes but the last two are those of members, networks that are trained together; most models have none.

    Attributes
    ----------
    log_prob : Tensor of shape (..., n_rows)
        One-sample or exact value of E_q[log p(x | z)], less its part that is constant in the parameters; nats.
    kl : Tensor of shape (..., n_rows, n_components)
        KL(q(z_k | x) || p(z_k)) in closed form; nats.
    by_hand : callable or None
        Gradients of the two -> None: adds to those that the parameters keep, where autograd has not followed.
    """

    log_prob: Tensor
    kl: Tensor
    by_hand: Callable | None = None

    def value(self, beta=1.0):
        """What an engine raises: the bound of each row with its second term weighted by beta, (..., n_rows)."""
        return self.log_prob - beta * self.kl.sum(-1)

    def back(self, of_log_prob, of_kl):
        """Add to the gradients of the parameters what these gradients of the two terms come to."""
        if self.by_hand is not None:
            self.by_hand(of_log_prob, of_kl)
        elif self.kl.requires_grad:
            torch.autograd.backward((self.log_prob, self.kl), (of_log_prob, of_kl))
        else:
            self.log_prob.backward(of_log_prob)


class FreeBits(NamedTuple):
    """A bound whose KL term costs a latent dimension at least `least` nats, so that none gains by switching off.

    The floor holds for the mean over the rows of the batch (Kingma et al., NeurIPS 2016, appendix C.8).

    Attributes
    ----------
    log_prob, kl : Tensor
        As of `Bound`.
    least : float
    w : Tensor of shape (..., n_rows)
        Weights of the rows, with mean 1.
    """

    log_prob: Tensor
    kl: Tensor
    least: float
    w: Tensor

    def value(self, beta=1.0):
        """The bound of each row, its KL term replaced by that of the whole batch, of shape (..., n_rows)."""
        of_batch = (self.w[..., None] * self.kl).mean(-2).clamp(min=self.least).sum(-1, keepdim=True)
        return self.log_prob - beta * of_batch


class ImportanceWeighted(NamedTuple):
    """The tighter bound of several draws, log mean_s p(x, z_s) / q(z_s | x) (Burda et al. 2016, eq. 8).

    Attributes
    ----------
    log_prob, kl : Tensor
        As of `Bound`, with the mean over the draws.
    objective : Tensor of shape (..., n_rows)
    """

    log_prob: Tensor
    kl: Tensor
    objective: Tensor

    def value(self, beta=1.0):
        """The bound of each row; it has no KL term of its own to weigh."""
        return self.objective


class Penalised(NamedTuple):
    """A bound less a penalty on the rows of a batch together.

    Attributes
    ----------
    log_prob, kl : Tensor
        As of `Bound`.
    penalty : Tensor of shape (..., 1)
    """

    log_prob: Tensor
    kl: Tensor
    penalty: Tensor

    def value(self, beta=1.0):
        """The bound of each row less the penalty, (..., n_rows)."""
        return self.log_prob - beta * self.kl.sum(-1) - self.penalty


def kl_to_standard_normal(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)) elementwise (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def draw_and_kl(heads, epsilon, lowest, highest):
    """A draw from N(mean, exp(log_variance)) and the KL from it to N(0, 1), elementwise.

    `heads` (..., 2 K) holds means, then log-variances. These are held between `lowest` and `highest`; outside, they
    have no gradient. `epsilon` (..., K) is standard normal. The same as by `kl_to_standard_normal`, in a third of the
    operations.
    """
    return _DrawAndKL.apply(heads, epsilon, lowest, highest)


def draw_and_kl_and_back(heads, epsilon, lowest, highest):
    """The same by hand: see `skvae._tensors.and_back`."""
    return and_back(_DrawAndKL, heads, epsilon, lowest, highest)


class _DrawAndKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, heads, epsilon, lowest, highest):
        mean, log_variance = heads.chunk(2, -1)
        held = log_variance.clamp(lowest, highest)
        variance = held.exp()
        noise = variance.sqrt().mul_(epsilon)
        minus_half = held.new_full((), -0.5)  # a plain number is converted at each use, which takes twice as long
        excess = torch.add(minus_half, variance, alpha=0.5)  # (var - 1) / 2
        kl = torch.add(excess, held, alpha=-0.5).addcmul_(mean, mean, value=0.5)
        ctx.save_for_backward(mean, excess, noise, log_variance == held)
        return mean + noise, kl

    @staticmethod
    @once_differentiable
    def backward(ctx, of_z, of_kl):
        mean, excess, noise, inside = ctx.saved_tensors
        of_log_variance = (excess * of_kl).addcmul_(noise, of_z, value=0.5).mul_(inside)
        return torch.cat([torch.addcmul(of_z, of_kl, mean), of_log_variance], -1), None, None, None


@dataclass
class Fit:
    """What an engine returns.

    Attributes
    ----------
    params : dict of Tensor, or NamedTuple of Tensor
        The parameters to keep: the last, or the best on the validation rows. A network's are a dict, an EM model's
        its own NamedTuple.
    lower_bounds : list of float
        Mean bound per row at beta = 1, one per iteration; nats. Of members, arrays of a number each.
    validation_scores : list of float
        One per validation where validation rows were given. Of several fits, arrays of a number each.
    n_iter : int
        Iterations done.
    best, n_validations : ndarray of int
        Of each fit, the number of the validation whose parameters were kept (-1: the last parameters are), and how
        many it went through until it stopped.
    moments : dict of Tensor
        State of the optimiser, from which a later call may go on.
    converged : bool
        Whether the rule for stopping was met.
    memory : list
        What an EM model remembers of each batch.
    """

    params: dict | tuple
    lower_bounds: list = field(default_factory=list)
    validation_scores: list = field(default_factory=list)
    n_iter: int = 0
    best: np.ndarray | None = None
    n_validations: np.ndarray | None = None
    moments: dict = field(default_factory=dict)
    converged: bool = False
    memory: list | None = None
