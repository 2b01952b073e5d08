"""Scores on rows that training does not see, which decide when a fit stops and which network it keeps."""

import abc
import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import Cells, Noise
from skvae.elbo import kl_to_standard_normal
from skvae.models.autoencoders.vae_evaluation import balanced
from skvae.tables.weights import observations, weighted_mean
from skvae.training.members import MemberBatch
from skvae.training.rows import batches

# Standard errors taken off a gain: to choose the restart and the step, and to keep a network at all.
TO_CHOOSE, TO_KEEP = 1.0, 2.0
LEAST_GAIN = 0.02  # nats a row: for less, the exact model is worth more
# After random weights: where the rows are linear, a network that stops early beats factor analysis of the copies' few
# rows by up to 0.06, and loses to that of all rows.
LEAST_GAIN_AFTER_RANDOM = 0.1
_CELLS = 2**20  # draws x rows x columns at once: more leave the caches
_DISASTER = 10.0  # interquartile ranges below the first quartile, of at least one nat
_TINY = 1e-30
_MOST_OBSERVATIONS = 2**22  # dealt one by one; of more, each stands for several


class Validation(abc.ABC):
    """A score of parameters on held-out rows; greater is better.

    Attributes
    ----------
    record : sequence
        What calls leave behind for the end of the fit; most leave nothing. The ascent may run in another process, from
        where the record comes home with the result.
    """

    record = ()

    def __call__(self, params):
        """Score the parameters of all members of one fit.

        Parameters
        ----------
        params : dict of Tensor

        Returns
        -------
        score : float
        """
        return self.score(self.measure(params).cpu().numpy())

    @abc.abstractmethod
    def measure(self, params):
        """Do what is done on the device of the parameters; returns a tensor there, of any shape."""

    @abc.abstractmethod
    def score(self, measured):
        """The score of what was measured, an ndarray by now."""

    def forget(self):
        """Empty the record of earlier calls: the ascent begins anew."""
        self.record = []


class HeldOutError(Validation):
    """Minus the mean squared error of the observed cells of held-out rows, as a share of all columns.

    Parameters
    ----------
    model : Autoencoder
    rows : TableRows
    linear_path : LinearPath or None
    share : float
        Share of the cells of the training rows that were observed: their errors are means over all cells.
    """

    def __init__(self, model, rows, linear_path, share):
        self.model, self.weight = model, rows.weight
        self.batches = list(batches(rows, linear_path, model, rows.dtype))
        n_cells = rows.n_all * rows.x.shape[1]
        self.factor = share / max(observed_share(rows), 1 / n_cells)  # rows without any cell: an error of 0

    def measure(self, params):
        params = {name: tensor.detach() for name, tensor in params.items()}
        return _log_prob(self.model, params, self.batches)

    def score(self, measured):
        return -_mean_error(measured, self.batches, self.weight) * self.factor


def mean_error(model, params, rows, linear_path, dtype):
    """Weighted mean over rows of |x - f|^2 / D over the observed cells."""
    numbered = list(batches(rows, linear_path, model, dtype))
    return _mean_error(_log_prob(model, params, numbered).cpu().numpy(), numbered, rows.weight)


@torch.no_grad()
def _log_prob(model, params, numbered_batches):
    """Minus the error of each row, in one tensor, so that the host waits for the device once."""
    return torch.cat([model.log_prob(params, b.x, model.encode(params, b))[0] for _, b in numbered_batches])


def _mean_error(log_prob, numbered_batches, weight):
    places = [index.numpy() for index, _ in numbered_batches]
    by_batch = np.split(log_prob.astype(np.float64), np.cumsum([len(index) for index in places])[:-1])
    total = sum(weight[index] @ part for index, part in zip(places, by_batch, strict=True))
    total, n = _reduce.total((total, weight.sum()))
    return -total / n


def observed_share(rows):
    """Weighted share of the cells that were observed."""
    return 1.0 if rows.observed is None else float(weighted_mean(rows.observed.mean(1), rows.weight))


class HeldOutRows(NamedTuple):
    """Rows that score a copy of a network, and how many observations of each.

    Attributes
    ----------
    index : int64 ndarray of shape (n_held_out,)
    count : float64 ndarray of shape (n_held_out,)
        Observations of the row that are held out; the copy may learn from others that are equal to them.
    squares : float64 ndarray of shape (n_held_out,)
        Sum of squares of the weights of these observations.
    """

    index: np.ndarray
    count: np.ndarray
    squares: np.ndarray

    @classmethod
    def once(cls, index):
        """Rows that are one observation each."""
        return cls(index, np.ones(len(index)), np.ones(len(index)))


class Folds(NamedTuple):
    """Which rows each copy of a network learns from, and which are held out to score it.

    Attributes
    ----------
    weight : float64 ndarray of shape (n_copies, n_rows)
        0 where a copy does not learn from a row.
    held_out : list of HeldOutRows
        The rows that score each copy; empty for a copy that learns from all.
    """

    weight: np.ndarray
    held_out: list


def deal_folds(rows, noise, n_folds, fraction):
    """Deal observations to one copy that learns from all of them, and to one copy for each fold held out from it.

    A row of weight w is w observations, the last of which may weigh less than one. They are dealt one by one, as if
    equal rows had never been merged: a copy may learn from a row and be scored on an equal one.

    Parameters
    ----------
    rows : TableRows
    noise : Noise
    n_folds : int
    fraction : float
        Share of the observations in the fold, where there is one.

    Returns
    -------
    folds : Folds
    """
    n_rows = len(rows)
    row_of, weight_of = observations(np.ones(n_rows) if rows.count is None else rows.count, _MOST_OBSERVATIONS)
    first, n = _reduce.place(len(row_of))
    order = noise.permutation(n)
    parts = np.array_split(order, n_folds) if n_folds > 1 else [order[: max(1, math.ceil(fraction * n))]]
    total = np.bincount(row_of, weight_of, n_rows)
    weights, held_out = [rows.weight], [HeldOutRows.once(np.empty(0, dtype=np.int64))]
    for part in map(np.sort, parts):
        part = part[slice(*part.searchsorted([first, first + len(row_of)]))] - first  # of the rows here
        count = np.bincount(row_of[part], weight_of[part], n_rows)
        index = np.flatnonzero(count)
        squares = np.bincount(row_of[part], weight_of[part] ** 2, n_rows)
        weights.append(rows.weight * ((total - count) / total))
        held_out.append(HeldOutRows(index, count[index], squares[index]))
    return Folds(np.stack(weights), held_out)


def split_off(rows, noise, fraction):
    """Hold a share of the observations out.

    Parameters
    ----------
    rows : TableRows
    noise : Noise
    fraction : float

    Returns
    -------
    training, held_out : TableRows
    squares : float64 ndarray
        Of the held-out rows, as of `HeldOutRows`.
    """
    folds = deal_folds(rows, noise.fold("validation"), 1, fraction)
    learnt, held_out = np.flatnonzero(folds.weight[1]), folds.held_out[1]
    if not _reduce.count(len(learnt)):
        raise ValueError(
            f"validation_fraction={fraction} of {rows.n_observations} rows leaves none to learn from; lower it, or use "
            "early_stopping=False."
        )
    training = rows.rows(learnt).with_weight(folds.weight[1][learnt])
    others = replace(rows.rows(held_out.index).with_weight(held_out.count), count=held_out.count)
    return training, others, held_out.squares


class LinearScore(NamedTuple):
    """What factor analysis of the other rows gives the held-out rows, which a network must exceed.

    Attributes
    ----------
    value : Tensor
        Of each row, in the shape of the batch's weights.
    least : float
        Below it a row counts as a disaster of factor analysis. A network gains no more there than it lies above this
        value: else a few disasters would decide alone, and make the gain look uncertain.
    """

    value: torch.Tensor
    least: float

    @classmethod
    def of(cls, value, w):
        """The score, with disasters told by the quartiles of the values, each of weight w."""
        value_of, w_of = (torch.cat(_reduce.gathered(part.cpu().double().flatten())) for part in (value, w))
        order = value_of.argsort()
        share = w_of[order].cumsum(0) / w_of.sum()
        first, third = (value_of[order[int((share < at).sum())]].item() for at in (0.25, 0.75))
        return cls(value, first - _DISASTER * max(third - first, 1.0))

    def gain(self, value):
        """By how much other values exceed these."""
        return torch.minimum(value - self.value, (value - self.least).clamp(min=0))


def mean_and_error(gain, w, squares):
    """Weighted mean over the last axis, that of the rows, and its standard error; `squares` as of `HeldOutRows`."""
    share = w / _reduce.count(w.sum(-1, keepdim=True))
    mean = _reduce.count((share * gain).sum(-1))
    of_one = squares / w.square().clamp(min=_TINY)
    return mean, _reduce.count((share.square() * of_one * (gain - mean[..., None]).square()).sum(-1)).sqrt()


class CrossValidatedGain(Validation):
    """What the best restart gains over factor analysis on held-out rows, less a standard error; nats a row.

    The mean alone would wait for the step at which a few odd rows outweigh all others. Without factor analysis to
    compare with, the score is the mean alone. A row's value is log p(x) or, where the fit trains another bound (beta
    other than 1, free bits), that bound.

    Parameters
    ----------
    model : VAE
    batch : MemberBatch
        The held-out rows of one member for each restart and scored copy, restarts first. Their weights are numbers of
        observations; 0 for rows that only fill up.
    squares : Tensor
        Sum of squares of the weights of each row's observations, in the shape of the batch's weights.
    log_base : Tensor
        Of each row of the batch.
    members : list of int
        Places of these members among all members of the fit.
    least_gains : list of float
        For each restart, the least gain for which the network is kept.
    linear : LinearScore or None
    n_draws : int
        Draws of z that estimate a row's value.
    beta : float, default=1.0
        Weight of the KL term.
    """

    def __init__(self, model, batch, squares, log_base, members, least_gains, linear, n_draws, beta=1.0):
        self.model, self.batch, self.squares, self.log_base = model, batch, squares, log_base
        self.members = torch.tensor(members, device=batch.w.device)
        self.least_gains, self.linear, self.beta = least_gains, linear, beta
        draws = Noise(0).fold("vote").normal(torch.arange(n_draws), model.n_components)
        self.epsilon = draws[None, :, None].to(batch.w.device)
        if self._is_evidence:
            self._values = self._log_prob
        else:
            self._values = self._bound
            if model.n_components <= n_draws:
                self.epsilon = balanced(self.epsilon)
        self.forget()

    @property
    def _is_evidence(self):
        return self.beta == 1 and not self.model.free_bits and self.model.kl_weights is None

    @torch.no_grad()
    def measure(self, params):
        scored = {name: tensor.detach().index_select(0, self.members) for name, tensor in params.items()}
        value = self._values(scored) + self.log_base
        gain = value if self.linear is None else self.linear.gain(value)
        parts = (part.expand(gain.shape) for part in (value, gain, self.batch.w, self.squares))
        shape = len(self.least_gains), gain.numel() // len(self.least_gains)
        value, gain, w, squares = (part.double().reshape(shape) for part in parts)
        mean, error = mean_and_error(gain, w, squares)
        error = torch.zeros_like(mean) if self.linear is None else error
        total, n = _reduce.total(((w * value).sum(1), w.sum(1)))
        return torch.stack([mean, error, total / n])

    def score(self, measured):
        mean, error, _ = measured
        self.record.append(measured)
        return float((mean - TO_CHOOSE * error).max())

    def _log_prob(self, scored):
        """log p(x) of the held-out rows by importance weighting, less `log_base`."""
        weights = [self.model.log_weights(scored, part, self.epsilon) for part in self._parts()]
        return torch.cat([each.logsumexp(1) for each in weights], -1) - math.log(self.epsilon.shape[1])

    def _bound(self, scored):
        """The bound that is trained, of each held-out row, less `log_base`.

        A latent dimension that costs less than its free bits, on average over the rows, costs every row as much.
        """
        log_prob, kl = [], []
        for part in self._parts():
            z, q = self.model.draw(scored, self.model.encode(scored, part), self.epsilon)
            log_prob.append(self.model.log_prob(scored, part.x, z).mean(1))
            kl.append(kl_to_standard_normal(*q).mean(1))
        cost = cost_of_rows(self.model, torch.cat(kl, 1), self.batch.w)
        return torch.cat(log_prob, 1) - self.beta * cost

    def _parts(self):
        """The batch, some rows at a time."""
        cells_a_row = self.batch.x.value.shape[-1] * self.epsilon.shape[1] * len(self.members)
        index = torch.arange(self.batch.w.shape[1], device=self.batch.w.device)
        return [_part_of(self.batch, part) for part in index.split(max(1, _CELLS // max(1, cells_a_row)))]

    def scores(self, restart, n):
        """Mean value of the held-out rows by one restart, nats a row, at each of the first n validations."""
        return np.array([value[restart] for _, _, value in self.record[:n]])

    def best_restart(self, number):
        """The restart with the highest score at a validation, and whether its gain is large enough to keep it.

        `number` is that of the validation; -1 is the last one. Without any (a callback stopped the fit before), the
        first restart has gained nothing.
        """
        if not self.record:
            return 0, False
        mean, error, _ = self.record[number]
        restart = int(np.argmax(mean - TO_CHOOSE * error))
        return restart, bool(mean[restart] - TO_KEEP * error[restart] > self.least_gains[restart])

    def in_words(self, number, restart):
        """Say what a restart gained over factor analysis at a validation, and what it must gain to be kept."""
        if not self.record:
            return "the network was not scored on held-out rows"
        (mean, error, _), least = self.record[number][:, restart], self.least_gains[restart]
        return (
            f"on held-out rows the network gains {mean:.3g} nats a row (standard error {error:.2g}); it is kept where "
            f"the gain less {TO_KEEP:g} standard errors exceeds {least:g}"
        )


def cost_of_rows(model, kl, w):
    """KL term of each row (M, B), from that of each dimension (M, B, K), with its free bits and its layer's weight."""
    if model.free_bits:
        total, n = _reduce.total(((w[..., None] * kl).sum(-2, keepdim=True), w.sum(-1)[..., None, None]))
        mean = total / n
        kl = torch.where(mean < model.free_bits, model.free_bits, kl)
    return model.weighted(kl).sum(-1)


def _part_of(batch, index):
    """Some rows of all members of a batch."""
    take = lambda part: None if part is None else part.index_select(1, index)  # noqa: E731
    x = Cells(take(batch.x.value), take(batch.x.observed))
    return MemberBatch(x, take(batch.u), take(batch.w), take(batch.row), take(batch.linear_heads))
