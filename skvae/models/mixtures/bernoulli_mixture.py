"""Mixture of independent Bernoullis or categoricals:  z ~ Cat(pi),  x_d | z = k ~ Cat(theta_kd).

Notation and steps of Bishop, *Pattern Recognition and Machine Learning* (2006), section 9.3.3; with more levels
it is the latent class model of Lazarsfeld and Henry (1968), whose EM steps are Goodman's (1974). A Dirichlet prior with
parameters 1 + alpha, of two levels a Beta, keeps every probability above 0. Missing cells leave the sums: both steps
stay exact.

A cell holds the number of its level. Level 0 is the reference: a column with C levels has C - 1 indicators, of levels 1
to C - 1, so that of a binary column x itself is the one indicator, and log p(x | z = k) is linear in the indicators:

    log theta_kd0 + sum_c x_dc log(theta_kdc / theta_kd0)
"""

from typing import NamedTuple

import torch
from torch import Tensor

from skvae.models.mixtures.posterior import log_ratios, mixing_proportions, posterior

_LONGEST_ODDS = 80.0  # of the logits that an extrapolation may reach: float32 holds exp of it


class Params(NamedTuple):
    """Parameters, with functions of them that the E-step reads: computed once an iteration, not once a batch.

    Attributes
    ----------
    pi : Tensor of shape (K,)
        Mixing proportions.
    theta : Tensor of shape (K, P)
        Probability of each column's levels from 1 on, P = sum_d (C_d - 1); of binary columns the means, P = D.
    log_rest : Tensor of shape (K, D)
        Log-probability of each column's level 0, kept for itself: 1 - theta would cost digits.
    log_odds : Tensor of shape (K, P)
        log theta_kdc - log theta_kd0.
    """

    pi: Tensor
    theta: Tensor
    log_rest: Tensor
    log_odds: Tensor


class Stats(NamedTuple):
    """Sums over rows, by weight and responsibility.

    Attributes
    ----------
    bound : Tensor ()
        sum_n w_n log p(x_n)
    N : Tensor of shape (K,)
        Weight of each component.
    S : Tensor of shape (K, P)
        Weight of its cells at each level from 1 on.
    M : Tensor of shape (K, D)
        Weight of its observed cells.
    """

    bound: Tensor
    N: Tensor
    S: Tensor
    M: Tensor


class BernoulliMixture:
    """The steps of EM for tables of levels, binary or more.

    Parameters
    ----------
    n_components : int
    alpha : float, default=1e-3
        Above 0: pseudo-count of every level of every column in every component.
    n_levels : sequence of int or None, default=None
        Number of levels of each column; None: two.
    """

    def __init__(self, n_components, alpha=1e-3, n_levels=None):
        self.n_components, self.alpha = n_components, alpha
        self.n_levels = None if n_levels is None or all(count == 2 for count in n_levels) else tuple(n_levels)
        if self.n_levels:
            places = [(d, c) for d, count in enumerate(self.n_levels) for c in range(1, count)]
            self._column, self._level = torch.tensor(places, dtype=torch.int64).reshape(-1, 2).T
            self._sent = {}

    def params(self, pi, theta):
        """Parameters from proportions (K,) and probabilities (K, P) in [0, 1]; zeros among them become tiny."""
        least = torch.finfo(theta.dtype).eps
        rest = self._of_columns(theta).neg().add(1) if self.n_levels else 1 - theta
        return self._params(mixing_proportions(pi), theta.clamp(min=least), rest.clamp(min=least))

    def stats_from_responsibilities(self, batch, R):
        """Statistics of a batch given the responsibilities R (K, n_rows)."""
        return self._sums(self.indicators(batch.X), batch.observed, R * batch.w, R.new_zeros(()))

    def stats_from_params(self, params, weight):
        """Statistics of rows of this total weight from which the M-step finds these parameters."""
        N = weight * params.pi
        M = N[:, None].expand_as(params.log_rest)
        total = self.to_levels(M + self.alpha * self._counts(M))
        return Stats(N.new_zeros(()), N, (params.theta * total - self.alpha).clamp(min=0), M)

    def e_step(self, batch, params, memory=None):
        """Sums of a batch (Bishop 2006, eq. 9.56 to 9.58)."""
        x = self.indicators(batch.X)
        log_px, R = posterior(_log_joint(x, batch.observed, params), batch.w)
        return self._sums(x, batch.observed, R, batch.w @ log_px), None

    def bound(self, stats, params):
        """Log-likelihood of all rows plus the log-prior of the parameters, which the smoothed M-step raises."""
        log_prior = (params.log_odds + self.to_levels(params.log_rest)).sum() + params.log_rest.sum()
        return stats.bound + self.alpha * log_prior

    def m_step(self, stats, params):
        """Eq. 9.59 and 9.60 of Bishop (2006), with the prior."""
        total = stats.M + self.alpha * self._counts(stats.M)
        theta = (stats.S + self.alpha) / self.to_levels(total)
        rest = ((stats.M - self._of_columns(stats.S)).clamp(min=0) + self.alpha) / total
        return self._params(mixing_proportions(stats.N), theta, rest)

    def log_joint(self, batch, params):
        """log p(x_n, z_n = k) of the observed cells, of shape (K, n_rows)."""
        return _log_joint(self.indicators(batch.X), batch.observed, params)

    def probabilities(self, params):
        """Probability of every level, of shape (K, D, C); 0 for levels that a column of fewer than C does not have."""
        K, D = params.log_rest.shape
        n_levels = self.n_levels or [2] * D
        table = params.theta.new_zeros(K, D, max(n_levels))
        table[:, :, 0] = params.log_rest.exp()
        if self.n_levels:
            column, level, _ = self._numbers(table.device)
            table[:, column, level] = params.theta
        else:
            table[:, :, 1] = params.theta
        return table

    def predict(self, batch, params):
        """p(x_nd = c | observed cells of x_n) of every level, of shape (n_rows, D, C)."""
        _, R = posterior(self.log_joint(batch, params))
        table = self.probabilities(params)
        return (R.mT @ table.flatten(1)).unflatten(1, table.shape[1:])

    def row_width(self, n_columns):
        """How many numbers the E-step computes of a row."""
        return max(sum(self.n_levels) if self.n_levels else n_columns, self.n_components)

    def n_indicators(self, n_columns):
        """Number of indicators of all columns."""
        return sum(self.n_levels) - n_columns if self.n_levels else n_columns

    def n_parameters(self, n_columns):
        """Number of free parameters."""
        return self.n_components * self.n_indicators(n_columns) + self.n_components - 1

    def to_free(self, params):
        """log pi and the log-odds against level 0: unconstrained reals."""
        return torch.cat([log_ratios(params.pi), params.log_odds.reshape(-1)])

    def from_free(self, vector, params):
        """Parameters from the vector of `to_free`, of the shapes of `params`."""
        log_pi, eta = vector.split([len(params.pi), params.theta.numel()])
        odds = eta.clamp(-_LONGEST_ODDS, _LONGEST_ODDS).exp().reshape(params.theta.shape)
        total = 1 + self._of_columns(odds)
        return self._params(log_pi.softmax(0), odds / self.to_levels(total), 1 / total)

    def _sums(self, x, observed, R, bound):
        N = R.sum(1)
        M = (
            N[:, None].expand(-1, len(self.n_levels) if self.n_levels else x.shape[1])
            if observed is None
            else R @ observed
        )
        return Stats(bound, N, R @ x, M)

    def _params(self, pi, theta, rest):
        log_rest = rest.log()
        return Params(pi, theta, log_rest, theta.log() - self.to_levels(log_rest))

    # Where all columns are binary, the indicators are the columns themselves.
    def indicators(self, X):
        """(n, D) numbers of levels -> (n, P) zeros and ones; a missing cell, a zero, has none."""
        if not self.n_levels:
            return X
        column, level, _ = self._numbers(X.device)
        return (X[:, column] == level).to(X.dtype)

    def _of_columns(self, values):
        """(K, P) -> (K, D): the sum over each column's levels from 1 on."""
        if not self.n_levels:
            return values
        sums = values.new_zeros(len(values), len(self.n_levels))
        return sums.index_add_(1, self._numbers(values.device)[0], values)

    def to_levels(self, values):
        """(n, D) -> (n, P): each column's value at each of its levels from 1 on."""
        return values[:, self._numbers(values.device)[0]] if self.n_levels else values

    def _counts(self, like):
        """Number of levels of each column: a Tensor, or 2 for all."""
        return self._numbers(like.device)[2].to(like.dtype) if self.n_levels else 2

    def _numbers(self, device):
        """Column and level of each indicator, and number of levels of each column; sent to a device only once."""
        if device not in self._sent:
            parts = self._column, self._level, torch.tensor(self.n_levels)
            self._sent[device] = tuple(part.to(device) for part in parts)
        return self._sent[device]


def _log_joint(x, observed, params):
    constant = params.pi.log()[:, None]
    if observed is None:
        constant = constant + params.log_rest.sum(1, keepdim=True)
    else:
        constant = torch.addmm(constant, params.log_rest, observed.mT)
    return torch.addmm(constant, params.log_odds, x.mT)
