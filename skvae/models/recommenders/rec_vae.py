"""Variational autoencoder of clicks with a densely connected encoder and a linear decoder.

    h_1 = LN(s(V_1 x)),   h_i = LN(s(V_i h_{i-1} + h_1 + ... + h_{i-1})),   (mu, log sigma^2) = V h_L,
    L_u = E_q[log p(x_u | z)] - gamma N_u KL(q(z | x_u) || N(0, I)),   N_u = sum_i x_ui

s is the swish, LN layer normalisation. Encoder, decoder and the weight of the KL term are those of Shenbin, Alekseev,
Tutubalina, Malykh and Nikolenko, *RecVAE: a New Variational Autoencoder for Top-N Recommendations with Implicit
Feedback*, WSDM 2020, sections 3.2 and 3.4. The likelihood is that of `mult_vae`.
"""

import torch
import torch.nn.functional as F

from skvae.elbo import Bound
from skvae.likelihoods import Multinomial
from skvae.models.recommenders.mult_vae import MultVAE
from skvae.networks import layer


class RecVAE(MultVAE):
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_items, n_components : int
    hidden_size : int
        Width of each hidden layer of the encoder.
    n_layers : int
        Number of hidden layers of the encoder.
    dropout : float
        Share of the input's entries that training hides.
    """

    def __init__(self, n_items, n_components, hidden_size, n_layers, dropout):
        super().__init__(n_items, n_components, (), None, dropout, Multinomial())
        self.encoder_sizes = (n_items, *[hidden_size] * n_layers, 2 * n_components)
        self.hidden_size, self.n_layers = hidden_size, n_layers

    def init(self, noise, mean, share):
        params = super().init(noise, mean, share)
        for i in range(self.n_layers):
            params[f"encoder.{i}.scale"] = torch.ones(self.hidden_size)
            params[f"encoder.{i}.shift"] = torch.zeros(self.hidden_size)
        return params

    def bound(self, params, x, noise=None):
        """The bound by one draw of z; what is raised weighs the KL term of each user by the user's total N_u."""
        log_prob, kl = super().bound(params, x, noise)[:2]
        total = x.sum()
        return Bound(log_prob, kl, objective=lambda gamma: log_prob - gamma * total * kl.sum(-1))

    def _encoded(self, params, x, noise):
        f, before = self.normalise(x, noise).linear(*layer(params, "encoder", 0)), 0
        for i in range(self.n_layers):
            h = self._activated(params, i, f + before)
            before = before + h
            weight, bias = layer(params, "encoder", i + 1)
            f = torch.addmm(bias, h, weight)
        return f

    def _activated(self, params, i, f):
        scale, shift = params[f"encoder.{i}.scale"], params[f"encoder.{i}.shift"]
        return F.layer_norm(F.silu(f), (self.hidden_size,), scale, shift)
