"""Squared error, which an autoencoder has in the place of a log-likelihood."""

import torch

from skvae.likelihoods._base import ReconstructionTerm


class SquaredError(ReconstructionTerm):
    """-|x - f|^2 / D over the cells that were seen, in the place of a log-likelihood."""

    def log_prob(self, x, f, own=None):
        return -x.over_cells((x.value - f).square()) / f.shape[-1]

    def log_prob_and_back(self, x, f, own=None):
        r, D = x.minus(f), f.shape[-1]
        return r.square().sum(-1).div_(-D), lambda upstream: r.mul_((upstream * (2 / D)).unsqueeze(-1))

    def log_base(self, x):
        return torch.zeros_like(x.value[..., 0])

    def init_bias(self, mean, share):
        return mean.clone()
