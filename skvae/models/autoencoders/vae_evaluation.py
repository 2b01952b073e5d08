"""What a fitted VAE says of rows: their evidence, their bound, and their missing cells.

Expectations over the exact posterior p(z | x) are taken by importance weighting. The draws come from a mixture of three
proposals (Owen and Zhou, JASA 95, 2000): Laplace's approximation, the encoder's posterior, and the prior, which bounds
the weights. Each row has draws of its own, keyed by its content: errors average out over rows, and a row scores alike
in any table.
"""

import math

import torch

from skvae._tensors import Noise
from skvae.elbo import Posterior, kl_to_standard_normal
from skvae.models.autoencoders.encoder_decoder import own
from skvae.models.autoencoders.laplace import laplace

_LOG_2PI = math.log(2 * math.pi)
FEWEST_FOR_ERROR = 32  # draws, from which on there are two pairs from each proposal


def log_evidence(model, params, batch, epsilon):
    """Estimate log p(x) by importance weighting (Burda et al. 2016, eq. 8), (n_rows,).

    `epsilon`, standard normal draws of shape (n_draws, n_rows, K), is turned into draws of the proposals.
    """
    _, log_weight = _weighted_draws(model, params, batch, epsilon)
    return log_weight.logsumexp(0) - math.log(len(log_weight)) + model.likelihood.log_base(batch.x)[0]


def log_evidence_and_error(model, params, batch, epsilon):
    """Estimate log p(x) as `log_evidence` does, and its standard error, in columns: (n_rows, 2).

    The error is that of a mean over draws from several proposals, a draw and its opposite counting as one, divided by
    the mean (the delta method).
    """
    _, log_weight = _weighted_draws(model, params, batch, epsilon)
    n = len(log_weight)
    log_mean = log_weight.logsumexp(0) - math.log(n)
    weight = (log_weight - log_mean).exp()
    squared_error = torch.zeros_like(log_mean)
    for part in weight.split(_numbers_of_draws(n)):
        pairs = part[: len(part) // 2 * 2].unflatten(0, (-1, 2)).mean(1)
        squared_error += (len(part) / n) ** 2 * pairs.var(0) / len(pairs)
    return torch.stack([log_mean + model.likelihood.log_base(batch.x)[0], squared_error.sqrt()], 1)


def expected_cells(model, params, batch, epsilon):
    """Estimate E[x | what was observed of it] by importance weighting, (n_rows, width); `epsilon` as above."""
    z, log_weight = _weighted_draws(model, params, batch, epsilon)
    means = model.likelihood.mean(model.decode(params, z[None]), own(params))[0]
    overflow = (log_weight == -math.inf).all(0)  # no draw is better than another
    share = log_weight.masked_fill(overflow, 0.0).softmax(0)
    return (share[..., None] * means).sum(0)


def posterior(model, params, batch, *, exact):
    """q(z | x), factorised, with an axis of one member: the encoder's, but of rows with missing cells Laplace's.

    The encoder may not know how much it does not see. It is asked of all rows where it is `exact`, as that of factor
    analysis is, and where it is a posterior of each row's own.
    """
    q = model.encode(params, batch)
    if exact or not model.amortised or batch.x.observed is None:
        return q
    mean, log_variance = laplace(model, params, batch.x, q.mean[0]).factorised()
    gaps = (batch.x.observed == 0).any(-1)[..., None]
    return Posterior(torch.where(gaps, mean, q.mean), torch.where(gaps, log_variance, q.log_variance))


def bound_terms(model, params, batch, epsilon, *, exact):
    """Compute the terms of the ELBO of `posterior`, the first in closed form or over draws, in columns: (n_rows, 3).

    They are E_q[log p(x | z)] less its base, the KL to the prior, and the base. `epsilon`, standard normal, is of shape
    (1, n_draws, 1, n_components).
    """
    if len(model.layer_sizes) > 1:
        z, kl = _draws_and_kl(model, params, batch, epsilon, exact=exact)
        log_prob = model.log_prob(params, batch.x, z).mean(1)
        return _columns(log_prob, kl, model.likelihood.log_base(batch.x))
    q = posterior(model, params, batch, exact=exact)
    kl = kl_to_standard_normal(*q).sum(-1)
    if model.closed_form:
        log_prob = model.expected_log_prob(params, batch.x, q)
    else:
        log_prob = model.log_prob(params, batch.x, model.draw(params, q, epsilon)[0]).mean(1)
    return _columns(log_prob, kl, model.likelihood.log_base(batch.x))


def _columns(*terms):
    """Put terms of shape (1, n_rows) side by side."""
    return torch.stack([term[0] for term in terms], 1)


def layer_moments(model, params, batch, epsilon, *, exact):
    """Means and standard deviations of z_1, ..., z_L of every row, side by side, (n_rows, 2, K).

    `epsilon` as of `bound_terms`.
    """
    xi, _ = _draws_and_kl(model, params, batch, epsilon, exact=exact)
    z = torch.cat(model.values(params, xi), -1)[0]
    return torch.stack([z.mean(0), z.var(0, correction=0).sqrt()], 1)


def _draws_and_kl(model, params, batch, epsilon, *, exact):
    """Draws of the posterior of several layers, (1, n_draws, n_rows, K), and its KL to the prior, (1, n_rows).

    As of `posterior`, but Laplace's approximation keeps its correlations: a layer's noise and the layer above explain
    one another.
    """
    q = model.encode(params, batch)
    z, each = model.draw(params, q, epsilon)
    kl = kl_to_standard_normal(*each).sum(-1).mean(1)
    if exact or not model.amortised or batch.x.observed is None:
        return z, kl
    approximation = laplace(model, params, batch.x, _guess(model, params, q))
    gaps = (batch.x.observed == 0).any(-1)
    z = torch.where(gaps[:, None, :, None], approximation.draw(epsilon[0])[None], z)
    return z, torch.where(gaps, approximation.kl_to_standard_normal(), kl)


def _guess(model, params, q):
    """Where the mode of the posterior may be: the means of q, (n_rows, K)."""
    mean, _ = model.draw(params, q, torch.zeros_like(q.mean[:, None]))
    return mean[0, 0]


def sample(model, params, noise, row):
    """Draw rows from the model, by noise keyed to their numbers, (n_rows, width)."""
    z = noise.fold("z").normal(row, model.n_components)
    f = model.decode(params, z[None])[0]
    return model.likelihood.sample(f, {name: part[0] for name, part in own(params).items()}, noise.fold("x"), row)


def draws_of_rows(key, n_draws, n_components, dtype, seed=0):
    """Standard normal draws of each row, keyed by its `key` and a seed, (n_draws, n_rows, n_components).

    Every other one is minus the one before it: what is linear in z comes out without error.
    """
    n_pairs = (n_draws + 1) // 2
    drawn = Noise(seed).fold("score").normal(key, n_pairs * n_components, dtype)
    drawn = drawn.unflatten(1, (n_pairs, n_components)).transpose(0, 1)
    return torch.stack([drawn, -drawn], 1).flatten(0, 1)[:n_draws]


def draws_for_means(model, dtype, n_draws=32):
    """Draws (1, S, 1, K) over which what a posterior is of is averaged: one where a single layer has one posterior."""
    if len(model.layer_sizes) == 1:
        return torch.zeros(1, 1, 1, model.n_components, dtype=dtype)
    return balanced_draws(model.n_components, n_draws, dtype)


def balanced_draws(n_components, n_draws, dtype):
    """`balanced` draws, the same in every call; at least 2 K."""
    rows = torch.arange(max(n_draws // 2, n_components))
    return balanced(Noise(0).fold("score").normal(rows, n_components, dtype)[None, :, None])


def balanced(epsilon):
    """Turn draws (1, S, 1, K) into twice as many with mean 0 and covariance I to rounding; S must be at least K.

    An expectation over them is exact for functions of second degree, such as the log-likelihood of a linear decoder.
    """
    q, _ = torch.linalg.qr(epsilon[0, :, 0])
    draws = q * math.sqrt(len(q))
    return torch.cat([draws, -draws])[None, :, None]


def _numbers_of_draws(n):
    """How many of n draws come from each proposal: Laplace's approximation, the encoder's posterior, the prior."""
    n_others = n // 16 * 2  # pairs stay together
    return [n - 2 * n_others, n_others, n_others]


def _weighted_draws(model, params, batch, epsilon):
    """Draws of z from the proposals, (n_draws, n_rows, K), and their log importance weights less log_base."""
    q = Posterior(*(part.nan_to_num() for part in model.encode(params, batch)))
    approximation = laplace(model, params, batch.x, _guess(model, params, q))
    n = len(epsilon)
    numbers = _numbers_of_draws(n)
    from_laplace, from_encoder, from_prior = epsilon.split(numbers)
    encoded, _ = model.draw(params, q, from_encoder[None])
    z = torch.cat([approximation.draw(from_laplace), encoded[0], from_prior])
    log_prior = -0.5 * (z.square() + _LOG_2PI).sum(-1)
    mean, log_variance = (part[0] for part in model.at(params, q, z[None]))
    log_encoder = -0.5 * ((z - mean).square() * (-log_variance).exp() + log_variance + _LOG_2PI).sum(-1)
    proposals = torch.stack([approximation.log_prob(z), log_encoder, log_prior], -1)
    shares = z.new_tensor([number / n for number in numbers]).log()
    log_weight = model.log_prob(params, batch.x, z[None])[0] + log_prior - (proposals + shares).logsumexp(-1)
    return z, log_weight.masked_fill(log_weight.isnan(), -math.inf)
