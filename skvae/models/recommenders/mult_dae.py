"""Denoising autoencoder with a multinomial likelihood: the limit of `mult_vae` where the posterior is a point.

    z_u = g_phi(x_u),   x_u ~ Mult(N_u, softmax(f_theta(z_u))),   part of x_u hidden from g in training

Mult-DAE of Liang, Krishnan, Hoffman and Jebara, *Variational Autoencoders for Collaborative Filtering*, WWW 2018,
section 2.3: no noise on z and no KL term. The activation acts on z too, as in the authors' code.
"""

import math

import torch

from skvae.elbo import Bound, Posterior
from skvae.models.recommenders.mult_vae import MultVAE


class MultDAE(MultVAE):
    """The model of one architecture; parameters are passed in and returned. Its settings are those of `MultVAE`."""

    n_heads = 1

    def encode(self, params, x, noise=None):
        """The code of each row, as a posterior of no width; zero for a row without entries."""
        z = self.activation(self._encoded(params, x, noise)) * x.top.sign().unsqueeze(1)
        return Posterior(z, torch.full_like(z, -math.inf))

    def bound(self, params, x, noise=None):
        """log p(x | z), with a KL term of no dimensions."""
        z = self.encode(params, x, noise).mean
        return Bound(self.log_prob(params, x, z), z.new_zeros(len(z), 0))
