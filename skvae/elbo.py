"""The bound that every model raises, and the result of an ascent.

L(q, theta) = E_q[log p(x | z, theta)] - beta KL(q(z | x) || p(z))   <=   log p(x | theta)      (beta = 1)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from skvae import _reduce
from skvae._tensors import and_back


class Posterior(NamedTuple):
    """q(z | x), factorised.

    Attributes
    ----------
    mean, log_variance : Tensors of shape (..., n_rows, n_components)
    """

    mean: Tensor
    log_variance: Tensor


class Bound(NamedTuple):
    """Evidence lower bound of a batch, its two terms kept apart.

    Axes before the ones named are those of members, networks that are trained together; most models have none.

    Attributes
    ----------
    log_prob : Tensor of shape (..., n_rows)
        One-sample or exact value of E_q[log p(x | z)], less its part that is constant in the parameters; nats.
    kl : Tensor of shape (..., n_rows, n_components)
        KL(q(z_k | x) || p(z_k)) in closed form; nats.
    by_hand : callable or None
        Gradients of the two terms -> None. It adds to the gradients that the parameters keep, and replaces autograd.
    objective : callable or None
        beta -> what is raised in place of log_prob - beta * kl, (..., n_rows).
    """

    log_prob: Tensor
    kl: Tensor
    by_hand: Callable | None = None
    objective: Callable | None = None

    def value(self, beta=1.0):
        """Return what an engine raises: the bound of each row with its KL term weighted by beta, (..., n_rows)."""
        return self.log_prob - beta * self.kl.sum(-1) if self.objective is None else self.objective(beta)

    def descend(self, beta, w, n=None):
        """Add to the parameters' gradients those of minus the mean of `value` over rows of weights w (..., n_rows).

        Of several members the means are summed. The mean is over n rows, where others are in other processes.
        """
        n = n or w.shape[-1]
        if self.objective is not None:
            value = self.objective(beta)
            value.backward(_weights(w, -1 / n, value))
            return
        # straight to the terms, past their sum
        of_log_prob, of_kl = _weights(w, -1 / n, self.log_prob), _weights(w, beta / n, self.kl)
        if self.by_hand is not None:
            self.by_hand(of_log_prob, of_kl)
        elif self.log_prob.requires_grad and self.kl.requires_grad:
            torch.autograd.backward((self.log_prob, self.kl), (of_log_prob, of_kl))
        elif self.kl.requires_grad:
            self.kl.backward(of_kl)
        else:
            self.log_prob.backward(of_log_prob)


def _weights(w, factor, tensor):
    """Return the weights of the rows times a factor, in the shape of a tensor."""
    if not isinstance(factor, Tensor):
        factor = w.new_full((), factor)  # a plain number is converted at each use, which takes twice as long
    each = w * factor
    return (each if each.dim() == tensor.dim() else each.unsqueeze(-1)).expand(tensor.shape)


def with_free_bits(log_prob, kl, least, w, weighted=lambda kl: kl, n=None):
    """Return a bound in which each latent dimension costs at least `least` nats, so that none gains by switching off.

    The floor holds for the mean over the rows of the batch, by their weights w of mean 1 (Kingma et al., NeurIPS 2016,
    appendix C.8); the KL term of every row is that of the whole batch. `weighted` weighs the dimensions. The mean is
    over n rows, where others are in other processes.
    """
    n = n or w.shape[-1]

    def objective(beta):
        of_batch = weighted((_reduce.summed((w[..., None] * kl).sum(-2)) / n).clamp(min=least)).sum(-1, keepdim=True)
        return log_prob - beta * of_batch

    return Bound(log_prob, kl, objective=objective)


def importance_weighted(log_prob, kl, log_mean_weight):
    """Return the tighter bound of several draws, log mean_s p(x, z_s) / q(z_s | x) (Burda et al. 2016, eq. 8).

    `log_prob` and `kl` are means over the draws, for the record; the bound has no KL term of its own to weigh.
    """
    return Bound(log_prob, kl, objective=lambda beta: log_mean_weight)


def penalised(log_prob, kl, penalty):
    """Return a bound less a penalty (..., 1) on the rows of a batch together."""
    return Bound(log_prob, kl, objective=lambda beta: log_prob - beta * kl.sum(-1) - penalty)


class EvidenceTerms(NamedTuple):
    """log p(x) of each row and its bound, the two terms of the bound kept apart; nats of the data as given.

    Attributes
    ----------
    log_evidence, standard_error : ndarrays of shape (n_rows,)
        log p(x), and the standard error of its estimate; 0 where it is exact.
    expected_log_prob, kl : ndarrays of shape (n_rows,)
        E_q[log p(x | z)] and KL(q(z | x) || p(z)).
    best_bound : ndarray of shape (n_rows,)
        The highest bound by a posterior of the family of q; NaN where it was not asked for.
    """

    log_evidence: np.ndarray
    standard_error: np.ndarray
    expected_log_prob: np.ndarray
    kl: np.ndarray
    best_bound: np.ndarray

    @classmethod
    def of_exact_posterior(cls, terms, find_best):
        """Make the terms of a model whose q is the exact posterior, from columns log p(x), E_q[log p(x | z)], KL."""
        log_evidence, expected_log_prob, kl = terms.T
        best = expected_log_prob - kl if find_best else np.full_like(kl, np.nan)
        return cls(log_evidence, np.zeros_like(log_evidence), expected_log_prob, kl, best)


def kl_to_standard_normal(mean, log_variance):
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) elementwise (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def draw_and_kl(heads, epsilon, lowest, highest):
    """Draw from N(mean, exp(log_variance)), and return the draw and the KL from that to N(0, 1), elementwise.

    `heads` (..., 2 K) holds means, then log-variances. The latter are clamped to [lowest, highest]; outside, they have
    no gradient. `epsilon` (..., K) is standard normal. The numbers are those of `kl_to_standard_normal`, in a third of
    the operations.
    """
    return _DrawAndKL.apply(heads, epsilon, lowest, highest)


def draw_and_kl_and_back(heads, epsilon, lowest, highest):
    """Return what `draw_and_kl` does, and its backward pass as a function: see `skvae._tensors.and_back`."""
    return and_back(_DrawAndKL, heads, epsilon, lowest, highest)


class _DrawAndKL(torch.autograd.Function):
    """`draw_and_kl` with its derivatives written out."""

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


def draw_from_product_and_back(terms, epsilon, lowest, highest):
    """Draw z ~ N(m, v) N(mu, sigma^2), normalised, and return it, its KL to N(mu, sigma^2), and the backward pass.

    `terms` (..., 4 K) holds m, log v, mu and log sigma^2; the logs are clamped to [lowest, highest]. `epsilon` (..., K)
    is standard normal. The backward pass is a function: see `skvae._tensors.and_back`.
    """
    return and_back(_DrawFromProduct, terms, epsilon, lowest, highest)


class _DrawFromProduct(torch.autograd.Function):
    """With r = sigma^2 / (sigma^2 + v): z = mu + r (m - mu) + sigma sqrt(1 - r) epsilon."""

    @staticmethod
    def forward(ctx, terms, epsilon, lowest, highest):
        m, log_v, mu, log_variance = terms.chunk(4, -1)
        held_v, held = log_v.clamp(lowest, highest), log_variance.clamp(lowest, highest)
        log_ratio = held - held_v
        r, off = log_ratio.sigmoid(), m - mu
        log_rest = F.logsigmoid(-log_ratio)  # log(1 - r)
        noise = (0.5 * (held + log_rest)).exp() * epsilon
        shift = (r * off).square() * (-held).exp()  # square of the mean, in standard deviations of the prior
        ctx.save_for_backward(r, off, noise, shift, (-held).exp(), log_v == held_v, log_variance == held)
        return torch.addcmul(mu + noise, r, off), 0.5 * (shift - r - log_rest)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_z, of_kl):
        r, off, noise, shift, precision, inside_v, inside = ctx.saved_tensors
        rest, from_kl = 1 - r, of_kl * r.square()
        of_m = torch.addcmul(of_z * r, from_kl, off * precision)
        of_ratio = of_z * (r * (rest * off - 0.5 * noise)) + of_kl * shift * rest + 0.5 * from_kl
        of_log_variance = (of_ratio + 0.5 * (of_z * noise - of_kl * shift)) * inside
        return torch.cat([of_m, -of_ratio * inside_v, of_z - of_m, of_log_variance], -1), None, None, None


@dataclass
class FitResult:
    """Result of an ascent: the parameters, and how it went.

    Attributes
    ----------
    params : dict of Tensor, or NamedTuple of Tensor
        The parameters to keep: the last, or the best on the validation rows. A network's are a dict, an EM model's
        its own NamedTuple.
    lower_bounds : list of float
        Mean bound per row at beta = 1, one per iteration; nats. Of members, arrays of a number each. Of several turns,
        those of the first.
    lower_bounds_of_turn : dict of list
        The same of each turn of the gradient engine, by the turns' names.
    validation_scores : list of float
        One per validation where validation rows were given. Of several fits, arrays of a number each.
    n_iter : int
        Iterations done.
    best, n_validations : ndarray of int
        For each fit the number of the validation whose parameters were kept (-1: the last parameters were), and how
        many validations it went through until it stopped.
    optimizer_state : dict of Tensor
        State of the optimizer, from which a later call may go on.
    converged : bool
        Whether the rule for stopping was met.
    memory : list
        What an EM model remembers of each batch.
    """

    params: dict | tuple
    lower_bounds: list = field(default_factory=list)
    lower_bounds_of_turn: dict = field(default_factory=dict)
    validation_scores: list = field(default_factory=list)
    n_iter: int = 0
    best: np.ndarray | None = None
    n_validations: np.ndarray | None = None
    optimizer_state: dict = field(default_factory=dict)
    converged: bool = False
    memory: list | None = None
