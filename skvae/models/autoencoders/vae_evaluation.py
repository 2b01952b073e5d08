"""What a fitted VAE says of rows: their evidence, their bound, and their missing cells.

`epsilon`, of shape (1, n_draws, 1, n_components), holds the standard normal draws of z that stand for an expectation.
"""

import math

import torch

from skvae.elbo import kl_to_standard_normal
from skvae.models.autoencoders.encoder_decoder import own
from skvae.models.autoencoders.vae import at


def log_evidence(model, params, batch, epsilon):
    """Estimate log p(x) by importance weighting (Burda et al. 2016, eq. 8), (n_rows,)."""
    weights = model.log_weights(params, batch, epsilon)[0]
    return weights.logsumexp(0) - math.log(len(weights)) + model.likelihood.log_base(batch.x)[0]


def expected_bound(model, params, batch, epsilon):
    """Compute the ELBO, its expectation over draws or in closed form, (n_rows,)."""
    q = model.encode(params, batch)
    if model.closed_form:
        log_prob = model.expected_log_prob(params, batch.x, q)
    else:
        log_prob = model.log_prob(params, batch.x, at(q, epsilon)).mean(1)
    return (log_prob - kl_to_standard_normal(*q).sum(-1) + model.likelihood.log_base(batch.x))[0]


def expected_cells(model, params, batch, epsilon):
    """Estimate E[x | what was observed of it] by importance weighting, (n_rows, width)."""
    z = at(model.encode(params, batch), epsilon)
    share = model.log_weights(params, batch, epsilon).softmax(1)
    means = model.likelihood.mean(model.decode(params, z), own(params))
    return (share[..., None] * means).sum(1)[0]


def balanced(epsilon):
    """Make twice as many draws with mean 0 and covariance I to rounding, (1, 2 S, 1, K); S must be at least K.

    An expectation over them is exact for functions of second degree, such as the log-likelihood of a linear decoder.
    """
    q, _ = torch.linalg.qr(epsilon[0, :, 0])
    draws = q * math.sqrt(len(q))
    return torch.cat([draws, -draws])[None, :, None]
