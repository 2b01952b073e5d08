"""What networks do by default, by the number of rows of a table: which fit, and what "auto" stands for.

With early stopping, a `VAETransformer` of Gaussian columns is of

    fewer than 50 rows     factor analysis: no network could be told from it
    up to 250              copies from factor analysis and from random weights, each of which misses a fifth of the rows
    fewer than 2,000       the same from factor analysis twice, the second time with more noise
    fewer than 10,000      one that misses `validation_fraction` of the rows and judges those, beside one on all rows
    more                   the former alone

The figures were chosen on the tables of ``benchmarks/bench_vae_quality.py``.
"""

import math

import numpy as np

FEW_ROWS = 50
FEW_ENOUGH_FOR_CHANCE = 250  # rows up to which random weights may lead where factor analysis does not
ALL_VOTE, CELLS_ALL_VOTE = 2000, 200_000  # rows and cells up to which a copy judges every row
PLENTY = 10_000  # rows
N_FOLDS = 5
_STEPS_A_VOTE = (20, 50)  # of few rows and of many
_MANY_ROWS = 1000


def n_folds(n, n_cells):
    """By how many copies the rows of a table are judged, each of them by one; 1: only a part of the rows is judged."""
    return min(N_FOLDS, n) if n < ALL_VOTE and n_cells <= CELLS_ALL_VOTE else 1


def draws_of_a_vote(n):
    """By how many draws log p(x) of a row that is held out is judged."""
    return 16 if n < PLENTY else 4


def validate_every(n, n_batches):
    """Epochs from one validation to the next."""
    return max(1, round(_STEPS_A_VOTE[n >= _MANY_ROWS] / n_batches))


def vae_defaults(n, votes, begins_linear):
    """What "auto" stands for: a network that begins as factor analysis has less far to go than one at random."""
    if votes and begins_linear:
        steps = 1000 if n <= 150 else 1500 if n <= 1000 else 5000
    else:
        steps = 5000 if votes else 2000
    if begins_linear:
        rate = 1e-3 if n <= FEW_ENOUGH_FOR_CHANCE else 3e-3
    else:
        rate = 1e-2 if n <= ALL_VOTE else 3e-3
    return _as_parameters(n, steps, rate)


def autoencoder_defaults(n, votes, linear):
    """What "auto" stands for; `linear`: without hidden layers."""
    steps = 4000 if votes else 2000 if n >= FEW_ROWS else 200
    return _as_parameters(n, steps, 1e-2 if linear else 1e-3 if n <= 250 else 3e-3)


def _as_parameters(n, steps, rate):
    batch_size = int(np.clip(n // 40, 128, 512))
    n_batches = math.ceil(n / batch_size)
    return {"batch_size": batch_size, "learning_rate": rate, "max_iter": max(10, math.ceil(steps / n_batches))}
