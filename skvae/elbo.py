"""The bound that every model raises, and the record of an ascent.

L(q, theta) = E_q[log p(x | z, theta)] - beta KL(q(z | x) || p(z))   <=   log p(x | theta)      (beta = 1)
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Bound(NamedTuple):
    """Evidence lower bound of a batch, its two terms kept apart.

    All axes but the last two are those of members, networks that are trained together; most models have none.

    Attributes
    ----------
    log_prob : Tensor of shape (..., n_rows)
        One-sample or exact value of E_q[log p(x | z)], less its part that is constant in the parameters; nats.
    kl : Tensor of shape (..., n_rows, n_components)
        KL(q(z_k | x) || p(z_k)) in closed form; nats.
    """

    log_prob: Tensor
    kl: Tensor

    def value(self, beta=1.0):
        """What an engine raises: the bound of each row with its second term weighted by beta, (..., n_rows)."""
        return self.log_prob - beta * self.kl.sum(-1)


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


def draw_and_kl(mean, log_variance, epsilon, lowest, highest):
    """A draw from N(mean, exp(log_variance)) and the KL from it to N(0, 1), elementwise.

    The log-variance is held between `lowest` and `highest`; outside, it has no gradient. `epsilon` is standard normal.
    The same as by `kl_to_standard_normal`, in a third of the operations.
    """
    return _DrawAndKL.apply(mean, log_variance, epsilon, lowest, highest)


class _DrawAndKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean, log_variance, epsilon, lowest, highest):
        held = log_variance.clamp(lowest, highest)
        std = (0.5 * held).exp_()
        above = torch.addcmul(held, std, std, value=-1).add_(1).neg_()  # var - 1 - log var
        noise = std * epsilon
        ctx.save_for_backward(mean, std, noise, log_variance == held)
        return mean + noise, above.addcmul_(mean, mean).mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_z, of_kl):
        mean, std, noise, inside = ctx.saved_tensors
        of_log_variance = (std * std).sub_(1).mul_(of_kl).addcmul_(noise, of_z).mul_(0.5).mul_(inside)
        return torch.addcmul(of_z, of_kl, mean), of_log_variance, None, None, None


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
