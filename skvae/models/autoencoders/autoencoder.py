"""Autoencoder: the variational one with a point for a posterior, so that nothing is drawn and the KL term is dropped.

    z = g_phi(x~),   minimise  |x - f_theta(z)|^2 / D

x~ is x, or x corrupted afresh in every epoch: the network then learns to undo it (Vincent, Larochelle, Lajoie, Bengio
and Manzagol, JMLR 11, 2010). A linear one finds the subspace of principal component analysis (Baldi and Hornik, Neural
Networks 2, 1989). The code may be held to a mean activation by a penalty (Ng, *Sparse Autoencoder*, 2011).
"""

import torch

from skvae import _reduce
from skvae.elbo import Bound, penalised
from skvae.likelihoods import SquaredError
from skvae.models.autoencoders.encoder_decoder import EncoderDecoder

_LEAST = 1e-12  # of a mean activation, whose logarithm is taken


class Autoencoder(EncoderDecoder):
    """The model of one architecture; parameters are passed in and returned.

    Parameters
    ----------
    n_inputs, n_components, n_outputs, hidden_layer_sizes, activation, encoder, decoder
        As of `EncoderDecoder`; a module's output is the code itself.
    corruption : {None, "gaussian", "masking", "salt_and_pepper"}, default=None
    level : float, default=0.0
        Standard deviation of the noise that is added, or share of the cells that are replaced.
    sparsity : (float, float) or None, default=None
        Mean activation rho that a unit of the code should have, and weight of the penalty. The code is then logistic.
    """

    def __init__(
        self,
        n_inputs,
        n_components,
        n_outputs,
        hidden_layer_sizes,
        activation,
        *,
        corruption=None,
        level=0.0,
        sparsity=None,
        encoder=None,
        decoder=None,
    ):
        sizes = (n_inputs, n_components, n_outputs, hidden_layer_sizes, activation)
        super().__init__(*sizes, SquaredError(), encoder=encoder, decoder=decoder)
        self.corruption, self.level, self.sparsity = corruption, level, sparsity

    def _settings(self):
        # A logistic code has no room for further dimensions, which would not stay at zero.
        return self.corruption, self.level, self.sparsity, self.sparsity and self.n_components

    def bound(self, params, batch, noise):
        """Minus the squared error of each row by what its corrupted cells tell, and the penalty if there is one."""
        u = self.corrupted(params, batch, noise)
        if self.sparsity is None and self._trained_by_hand(params):
            z, to_weights = self._encoded_and_back(params, u)
            log_prob, to_z = self._log_prob_and_back(params, batch.x, z)
            no_kl = log_prob.new_zeros(*log_prob.shape, 0)
            return Bound(log_prob, no_kl, lambda of_log_prob, of_kl: to_weights(to_z(of_log_prob)))
        z = self.encode(params, batch._replace(u=u))
        log_prob = self.log_prob(params, batch.x, z)
        no_kl = log_prob.new_zeros(*log_prob.shape, 0)
        if self.sparsity is None:
            return Bound(log_prob, no_kl)
        return penalised(log_prob, no_kl, penalty(z, batch.w, *self.sparsity))

    def encode(self, params, batch):
        """The code, (M, B, K)."""
        z = self._encoded(params, batch)
        return z.sigmoid() if self.sparsity else z

    def mean(self, params, z):
        """The row that is decoded: the squared error has no other."""
        return self.decode(params, z)

    def corrupted(self, params, batch, noise):
        """What the encoder reads in training: the observed cells corrupted by noise that is the row's own.

        What follows the cells, which of them were seen, stays as it is.
        """
        if self.corruption is None:
            return batch.u
        cells, rest = batch.u.split([self.n_outputs, batch.u.shape[-1] - self.n_outputs], -1)
        chance = noise.fold("corruption").uniform(batch.row, self.n_outputs, cells.dtype)
        if self.corruption == "gaussian":  # normal noise would be that of latent dimensions, of which some may be idle
            changed = cells + self.level * torch.special.ndtri(chance)
        elif self.corruption == "masking":
            changed = torch.where(chance < self.level, 0.0, cells)
        else:
            low, high = (params[f"corruption.{end}"].detach()[..., None, :] for end in ("low", "high"))
            salted = torch.where(chance < 0.5 * self.level, high, low)
            changed = torch.where(chance < self.level, salted, cells)
        if batch.x.observed is not None:
            changed = torch.where(batch.x.observed > 0, changed, cells)
        rest = rest.expand(len(changed), -1, -1)
        return torch.cat([changed, rest], -1) if rest.shape[-1] else changed


def penalty(z, w, rho, weight):
    """weight * sum_k KL(rho || mean activation of unit k), over the rows of a batch by their weights; (M, 1)."""
    w = w[..., None] / _reduce.summed(w.sum(-1))[..., None, None]
    mean = _reduce.summed((w * z).sum(-2)).clamp(min=_LEAST, max=1 - 1e-6)
    kl = rho * (rho / mean).log() + (1 - rho) * ((1 - rho) / (1 - mean)).log()
    return weight * kl.sum(-1, keepdim=True)
