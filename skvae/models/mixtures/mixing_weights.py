"""Posteriors of the weights of a mixture: a Dirichlet distribution, or sticks that are broken off.

Parameters are a Tensor (1, K) of one Dirichlet distribution, or (2, K) of the Beta distributions of the sticks. N (K,)
has the weight of the rows of each component.
"""

import abc

import torch


class MixingWeights(abc.ABC):
    """A prior of the weights and its conjugate posterior."""

    dim = 1  # along which lie the parameters of one distribution

    @abc.abstractmethod
    def prior(self, alpha_0, N):
        """Parameters of the prior of concentration `alpha_0`."""

    def posterior(self, alpha_0, N):
        """Parameters of q(pi)."""
        return self.prior(alpha_0, N) + N

    @abc.abstractmethod
    def mean(self, alpha):
        """E[pi_k], scaled to sum to 1."""

    def mean_log(self, alpha):
        """E[log pi_k]."""
        return self._mean_logs(alpha)[0]

    def divergence(self, alpha, alpha_0):
        """KL from the prior of concentration `alpha_0`."""
        prior = self.prior(alpha_0, alpha[0])
        logs = self._mean_logs(alpha)
        return self.log_normaliser(prior) - self.log_normaliser(alpha) + ((alpha - prior) * logs).sum()

    def log_normaliser(self, alpha):
        """Sum of the logarithms of the Beta functions of all distributions."""
        return (alpha.lgamma().sum(self.dim) - alpha.sum(self.dim).lgamma()).sum()

    def _mean_logs(self, alpha):
        return alpha.digamma() - alpha.sum(self.dim, keepdim=True).digamma()


class DirichletWeights(MixingWeights):
    """pi ~ Dir(alpha_0, ..., alpha_0) (Bishop 2006, eq. 10.39, 10.57, 10.58, 10.66)."""

    def prior(self, alpha_0, N):
        return torch.full_like(N[None], alpha_0)

    def mean(self, alpha):
        return alpha[0] / alpha.sum()


class StickWeights(MixingWeights):
    """pi_k = v_k prod_{j<k} (1 - v_j), v_k ~ Beta(1, alpha_0), of which the first K are used (Blei and Jordan 2006)."""

    dim = 0

    def prior(self, alpha_0, N):
        return torch.stack([torch.ones_like(N), torch.full_like(N, alpha_0)])

    def posterior(self, alpha_0, N):
        after = N.flip(0).cumsum(0).flip(0)[1:]  # the weight of all components behind each
        return self.prior(alpha_0, N) + torch.stack([N, torch.cat([after, N.new_zeros(1)])])

    def mean(self, alpha):
        v, rest = alpha / alpha.sum(0)
        pi = v * torch.cat([v.new_ones(1), rest[:-1].cumprod(0)])
        return pi / pi.sum()

    def mean_log(self, alpha):
        log_v, log_rest = self._mean_logs(alpha)
        return log_v + log_rest.cumsum(0) - log_rest
