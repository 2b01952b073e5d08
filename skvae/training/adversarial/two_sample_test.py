"""The quality of a generator over a fit, by the energy distance of its rows from real ones."""

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import placed
from skvae.metrics._energy import energy_distance, mean_within
from skvae.training.members import MemberNoise
from skvae.training.validation import Validation

_N_DRAWS = 1000  # rows generated for each comparison, and the most that they are compared with


class TwoSampleTest(Validation):
    """Minus the energy distance of rows and generated ones; greater is better, and 0 is the best.

    The noise is the same at every validation, so that what changes is the generator. Columns count as in
    `skvae.metrics.energy_distance`: each in standard deviations of the training rows.

    Parameters
    ----------
    model : GAN
    rows : TableRows
        Held-out rows or, where there are none, those of training. Of many, some are picked; all processes of a shared
        fit get them.
    squares : ndarray of shape (n_rows,) or None
        Sum of the squared weights of the observations of each row.
    noise : Noise
    n_kept : int
        How many of the generated rows are kept of each validation.

    Attributes
    ----------
    distances, accuracies : list of float
        Of each validation; the second are the discriminator's, mean of its shares of right answers for both samples.
    samples : list of ndarray of shape (n_kept, width)
        In the model layout.
    """

    def __init__(self, model, rows, squares, noise, n_kept):
        self.model, self.noise, self.n_kept = model, MemberNoise([noise]), n_kept
        first, n = _reduce.place(len(rows))
        if n > _N_DRAWS:
            picked = np.sort(noise.fold("compared").permutation(n)[:_N_DRAWS])
            here = picked[slice(*picked.searchsorted([first, first + len(rows)]))] - first
            rows, squares = rows.rows(here), None if squares is None else squares[here]
        weight = np.ones(len(rows)) if rows.count is None else rows.count
        whole = np.floor(weight)
        squares = whole + np.square(weight - whole) if squares is None else squares
        x, self.weight, self.squares = map(np.concatenate, zip(*_reduce.gathered((rows.x, weight, squares))))
        self.factor = _factors(rows.columns)
        self.x = x * self.factor
        self.within = mean_within(self.x, self.weight, self.squares)
        self.on_device = placed(x, rows.device, rows.dtype)[None]
        self.row = torch.arange(_N_DRAWS)[None].to(rows.device, non_blocking=True)
        self.forget()

    @property
    def distances(self):
        return [each[0] for each in self.record]

    @property
    def accuracies(self):
        return [each[1] for each in self.record]

    @property
    def samples(self):
        return [each[2:].reshape(self.n_kept, len(self.factor)) for each in self.record]

    @torch.no_grad()
    def measure(self, params):
        fake = self.model.generate(params, self.noise, self.row)
        logits = [self.model.logit(params, x)[0] for x in (self.on_device, fake)]
        return torch.cat([*logits, fake.flatten()])

    def score(self, measured):
        real, fake, y = np.split(measured, [len(self.x), len(self.x) + _N_DRAWS])
        y = y.reshape(_N_DRAWS, -1)
        y_scaled = y * self.factor.astype(np.float64)
        distance = energy_distance(self.x, y_scaled, self.weight, self.squares, within_x=self.within)
        accuracy = float(np.average(real > 0, weights=self.weight) + np.mean(fake <= 0)) / 2
        self.record.append(np.concatenate([[distance, accuracy], y[: self.n_kept].ravel()]))
        return -distance


def _factors(columns):
    """By what the columns of the layout are multiplied, so that each column of the table counts the same."""
    factor = np.ones(columns.width)
    for block in columns.blocks:
        if block.scaled:
            continue
        for start, size in zip(block.starts, block.sizes, strict=True):
            share = columns.statistics.mean[start : start + size]
            differ = share[0] * (1 - share[0]) if size == 1 and not block.nominal else 1 - np.square(share).sum()
            factor[start : start + size] = 1 / np.sqrt(differ if differ > 0 else 1.0)
    return factor
