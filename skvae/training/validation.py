"""How a network earns its place beside factor analysis: copies that each miss some rows vote on them.

Every start is trained as copies in lockstep. A copy judges the rows that it has not seen: by how much does its log p(x)
exceed that of factor analysis without the same rows? The step of the start whose mean gain less one standard error is
highest wins; less two, it must exceed 0.02 nats a row (0.1 of a start at random), or factor analysis stays. The first
copy misses nothing where there are few rows, and needs no refit.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from skvae._tensors import Cells, Noise
from skvae.training.members import MemberBatch

_TO_CHOOSE, _TO_KEEP = 1.0, 2.0  # standard errors taken off a gain, to choose a step and to keep a network
LEAST_GAIN = 0.02  # nats a row: for less, nobody gives up the exact model
# Of a start at random: where the rows are linear, a network that stops early beats factor analysis of the copies' few
# rows by up to 0.06, and loses to that of all rows.
LEAST_GAIN_AT_RANDOM = 0.1
_CELLS = 2**20  # draws x rows x columns judged at once: more leave the caches


class Copies(NamedTuple):
    """Which rows each copy of a network sees, and which it judges.

    Attributes
    ----------
    weight : float64 ndarray of shape (n_copies, n_rows)
        0 where a copy does not see a row.
    held_out : list of int64 ndarray
        The rows that each copy judges; empty for one that sees all.
    """

    weight: np.ndarray
    held_out: list


def fold_copies(weight, noise, n_folds, fraction):
    """One copy on all rows, and one for each fold that misses it; of one fold, `fraction` of the rows.

    Parameters
    ----------
    weight : ndarray of shape (n_rows,)
    noise : Noise
    n_folds : int
    fraction : float
        Share of the rows in the fold, where there is one.

    Returns
    -------
    copies : Copies
    """
    n = len(weight)
    order = noise.permutation(n)
    folds = np.array_split(order, n_folds) if n_folds > 1 else [order[: max(1, math.ceil(fraction * n))]]
    weights = np.tile(weight, (1 + len(folds), 1))
    for copy, fold in enumerate(folds, start=1):
        weights[copy, fold] = 0
    return Copies(weights, [np.empty(0, dtype=np.int64), *(np.sort(fold) for fold in folds)])


class Vote:
    """What the best start surely gains over factor analysis on rows that the copies have not seen, in nats a row.

    That is the mean gain less a standard error: the mean alone would wait for the step at which a few odd rows outweigh
    all others. Where there is nothing to compare with, the mean log p(x).

    Parameters
    ----------
    model : VAE
    batch : MemberBatch
        Of one member for each start and judging copy, starts first; weight 0 for rows that only fill up.
    log_base : Tensor
        Of each row of the batch.
    members : list of int
        Which members these are.
    least_gains : list of float
        Of each start, by how much it must exceed factor analysis for sure.
    baseline : Tensor or None
        log p(x) of each row under factor analysis without it, of the shape of the batch's weights.
    n_draws : int
    """

    def __init__(self, model, batch, log_base, members, least_gains, baseline, n_draws):
        self.model, self.batch, self.log_base = model, batch, log_base
        self.members, self.least_gains, self.baseline = members, least_gains, baseline
        row = torch.arange(n_draws)
        self.epsilon = Noise(0).fold("vote").normal(row, model.n_components)[None, :, None].to(batch.w.device)
        self.begins()

    def begins(self):
        """Forget all votes: the ascent begins anew."""
        self.means, self.errors = [], []

    @torch.no_grad()
    def __call__(self, params):
        judges = {name: tensor[self.members] for name, tensor in params.items()}
        gain = self._log_prob(judges) + self.log_base
        gain = gain if self.baseline is None else gain - self.baseline
        w = self.batch.w.expand(gain.shape)
        gain, w = (part.double().reshape(len(self.least_gains), -1) for part in (gain, w))
        share = w / w.sum(1, keepdim=True)
        mean = (share * gain).sum(1)
        error = (share.square() * (gain - mean[:, None]).square()).sum(1).sqrt()
        error = torch.zeros_like(mean) if self.baseline is None else error
        self.means.append(mean.cpu().numpy())
        self.errors.append(error.cpu().numpy())
        return float((mean - _TO_CHOOSE * error).max())

    def _log_prob(self, judges):
        n_rows = self.batch.w.shape[1]
        width = self.batch.x.value.shape[-1] * self.epsilon.shape[1] * len(self.members)
        parts = torch.arange(n_rows, device=self.batch.w.device).split(max(1, _CELLS // max(1, width)))
        weights = [self.model.log_weights(judges, part_of(self.batch, index), self.epsilon) for index in parts]
        return torch.cat([each.logsumexp(1) for each in weights], -1) - math.log(self.epsilon.shape[1])

    def scores(self, start, n):
        """log p(x) of the judged rows by one start, nats a row, at each of the first n validations."""
        gains = np.array([mean[start] for mean in self.means[:n]])
        if self.baseline is None:
            return gains
        w = self.batch.w.double()
        return gains + float((w * self.baseline).sum() / w.sum())

    def winner(self, best):
        """The start that won the given validation, and whether its gain counts."""
        mean, error = self.means[best], self.errors[best]
        start = int(np.argmax(mean - _TO_CHOOSE * error))
        return start, bool(mean[start] - _TO_KEEP * error[start] > self.least_gains[start])


def part_of(batch, index):
    """Some rows of all members of a batch."""
    take = lambda part: None if part is None else part.index_select(1, index)  # noqa: E731
    x = Cells(take(batch.x.value), take(batch.x.observed))
    return MemberBatch(x, take(batch.u), take(batch.w), take(batch.row), take(batch.base))
