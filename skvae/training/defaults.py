"""Defaults of networks by the number of rows: which fit is made, and what "auto" stands for.

With early stopping, a `VAETransformer` of Gaussian columns is fitted to

    fewer than 50 rows     by factor analysis, since no network could be told from it
    up to 250              by copies from factor analysis and from random weights, each without a fifth of the rows
    fewer than 2,000       by copies from factor analysis twice, the second time with more noise
    fewer than 10,000      by a copy without `validation_fraction` of the rows, scored on them; one on all rows is kept
    more                   by the first of these copies alone, which is kept

The figures were chosen on the tables of ``benchmarks/bench_vae_quality.py`` and, for recommenders, on the data sets of
``doc/user_guide/recommender.rst``.
"""

import math

import numpy as np

FEW_ROWS = 50
RANDOM_RESTART_ROWS = 250  # up to so many rows random weights may lead where factor analysis does not
MANY_ROWS = 10_000
LEAST_BATCH = 128  # rows a step, where a table has as many observations
MANY_USERS = 10_000  # from here on, early_stopping="auto" can spare a tenth of them
LONG_ROW = 50  # items of the mean user, from which on a linear decoder ranks best, where users are not alike
ALIKE = 0.33  # similarity of users beyond chance, from which on they are
_ELSA_STEPS = 320
_N_FOLDS = 5
_FOLD_ROWS, _FOLD_CELLS = 2000, 200_000  # up to which every row is held out by one copy
_STEPS_PER_VALIDATION = (20, 50)  # of few rows and of many
_ROWS_OF_MANY_STEPS = 1000
_GAN_FEW_ROWS = 300  # up to so many rows the penalty on the discriminator's slope is 1
_GAN_BATCH, _GAN_STEPS, _GAN_STEPS_A_ROW, _GAN_VALIDATIONS = 256, 8000, 10, 30


def n_folds(n_rows, n_cells, n_observations):
    """How many folds are held out, each by one copy; 1: only a part of the rows is ever held out.

    The limits are those of a copy's time, so they count a row once, however many observations it stands for.
    """
    return min(_N_FOLDS, n_observations) if n_rows < _FOLD_ROWS and n_cells <= _FOLD_CELLS else 1


def n_validation_draws(n_rows):
    """How many draws estimate log p(x) of a held-out row."""
    return 16 if n_rows < MANY_ROWS else 4


def validate_every(n_rows, batch_size):
    """Epochs from one validation to the next."""
    n_batches = math.ceil(n_rows / min(batch_size, n_rows))
    return max(1, round(_STEPS_PER_VALIDATION[n_rows >= _ROWS_OF_MANY_STEPS] / n_batches))


def vae_defaults(n_rows, *, validates, from_factor_analysis):
    """Values of "auto" for `VAETransformer`; a network that begins as factor analysis has less far to go."""
    if validates and from_factor_analysis:
        steps = 1000 if n_rows <= 150 else 1500 if n_rows <= 1000 else 5000
    else:
        steps = 5000 if validates else 2000
    if from_factor_analysis:
        rate = 1e-3 if n_rows <= RANDOM_RESTART_ROWS else 3e-3
    else:
        rate = 1e-2 if n_rows <= _FOLD_ROWS else 3e-3
    return _by_steps(n_rows, steps, rate)


def autoencoder_defaults(n_rows, *, validates, linear):
    """Values of "auto" for `AutoencoderTransformer`; `linear`: without hidden layers."""
    steps = 4000 if validates else 2000 if n_rows >= FEW_ROWS else 200
    return _by_steps(n_rows, steps, 1e-2 if linear else 1e-3 if n_rows <= 250 else 3e-3)


def gan_defaults(n_rows, *, batch_size, n_discriminator_steps, with_adam):
    """Values of "auto" for `GANGenerator`; `batch_size` may be "auto" too."""
    batch_size = _GAN_BATCH if batch_size == "auto" else batch_size
    rounds = _rounds(n_rows, batch_size, n_discriminator_steps)
    steps = min(_GAN_STEPS, _GAN_STEPS_A_ROW * n_rows)
    rate = 1e-3 if with_adam else 2e-2
    return {"batch_size": batch_size, "learning_rate": rate, "max_iter": max(10, math.ceil(steps / rounds))}


def gan_gradient_penalty(n_rows):
    """Weight of the penalty on the discriminator's slope, which keeps it from learning few rows by heart."""
    return min(1.0, (_GAN_FEW_ROWS / n_rows) ** 2)


def gan_validate_every(max_iter):
    """Epochs from one comparison of generated rows to the next."""
    return math.ceil(max_iter / _GAN_VALIDATIONS)


def _rounds(n_rows, batch_size, n_discriminator_steps):
    """Steps of the generator in an epoch."""
    return math.ceil(math.ceil(n_rows / min(batch_size, n_rows)) / n_discriminator_steps)


def _by_steps(n_rows, steps, rate):
    batch_size = int(np.clip(n_rows // 40, LEAST_BATCH, 512))
    n_batches = math.ceil(n_rows / batch_size)
    return {"batch_size": batch_size, "learning_rate": rate, "max_iter": max(10, math.ceil(steps / n_batches))}


def decoder_units(users):
    """Value of "auto" for `decoder_units` beside a linear decoder, given `UserStatistics`.

    The linear decoder suffices where users have many items and tastes of their own.
    """
    return 300 if users.items_per_user < LONG_ROW or users.similarity >= ALIKE else 0


def recommender_defaults(n_users, n_seen, users, *, has_units):
    """Values of "auto" for `MultVAERecommender`.

    `n_seen` is the number of users of this fit or, after calls of `partial_fit`, of all of them. `users` are
    `UserStatistics`. The bound of a user grows with the user's items, and the penalty of the weights with it. A decoder
    with a hidden layer (`has_units`) needs more steps, and where users are alike, longer ones.
    """
    batch_size = n_users // 16
    if has_units:
        batch_size = max(n_users // 32, min(batch_size, 100))
    batch_size = int(np.clip(batch_size, 8, 500))
    steps = math.ceil(n_users / batch_size)  # an epoch
    fast = has_units and users.similarity >= ALIKE
    return {
        "beta": float(np.clip(n_seen / 400_000, 0.02, 0.2)),
        "weight_decay": float(np.clip(1e-5 * users.items_per_user, 2e-5, 1e-3)) * (2 if fast else 1),
        "learning_rate": 1e-2 if fast else 5e-3,
        "batch_size": batch_size,
        "max_iter": max(math.ceil(240 / steps), int(np.clip(1500 // steps, 10, 35 if fast else 30))),
    }


def elsa_discount(users):
    """Power of popularity by which `ELSARecommender` divides interactions, given `UserStatistics`."""
    return 0.3 if users.similarity >= ALIKE else 0.0


def elsa_dropout(discount):
    """Value of "auto" for `dropout` of `ELSARecommender`: less where users are alike, who have a discount."""
    return 0.2 if discount else 0.5


def elsa_defaults(n_users, users):
    """Values of "auto" for `ELSARecommender`, given `UserStatistics`."""
    steps = _ELSA_STEPS * (2 if users.similarity >= ALIKE else 1)
    batch_size = int(np.clip(n_users // 16, 8, 500))
    return {
        "learning_rate": 0.1,
        "batch_size": batch_size,
        "max_iter": max(5, math.ceil(steps / math.ceil(n_users / batch_size))),
    }
