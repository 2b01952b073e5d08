"""Fits that are large enough to show what a device can do, and the least work that one pass over their rows takes."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator

from skvae import GaussianMixtureEM, KMeansLite, MultVAERecommender, VAETransformer

# Rows and columns of each workload; of the first, interactions too, of the last two, clusters or components.
SIZES = {
    "full": {  # the first has the shape of MovieLens-20M
        "Mult-VAE": (138_493, 27_278, 20_000_000),
        "VAE": (200_000, 100),
        "VAE, binary": (60_000, 784),
        "K-means": (2_000_000, 32, 64),
        "Gaussian mixture": (500_000, 64, 16),
    },
    "small": {
        "Mult-VAE": (4000, 3000, 300_000),
        "VAE": (20_000, 100),
        "VAE, binary": (6000, 784),
        "K-means": (100_000, 32, 64),
        "Gaussian mixture": (20_000, 64, 16),
    },
    "smoke": {
        "Mult-VAE": (1000, 300, 20_000),
        "VAE": (1500, 20),
        "VAE, binary": (1500, 50),
        "K-means": (5000, 8, 8),
        "Gaussian mixture": (2000, 8, 4),
    },
}
HIDDEN, K = 600, 200  # of the published Mult-VAE


class Work(NamedTuple):
    """What one pass over all rows cannot do without."""

    flops: float
    bytes: float


class Workload(NamedTuple):
    """One fit to measure.

    Attributes
    ----------
    name : str
    size : str
        In words.
    make : callable
        () -> X.
    estimator : estimator object
        Its `max_iter` is set to the passes of a short and of a long fit.
    passes : tuple of two int
    work : Work
        Of one pass.
    needs : float
        Seconds that it may take on the slowest device that it is meant for.
    then : callable or None
        (fitted estimator, X) -> (what was done, rows, function that does it), to be measured after the fit.
    """

    name: str
    size: str
    make: Callable
    estimator: BaseEstimator
    passes: tuple
    work: Work
    needs: float
    then: Callable | None = None


def workloads(size):
    """All of one of `SIZES`."""
    shapes = SIZES[size]
    needs = {"full": 40, "small": 10, "smoke": 1}[size]
    more = {"full": 5, "small": 1, "smoke": 1}[size]  # passes are short on a GPU, beside what is done once
    yield recommender(*shapes["Mult-VAE"], needs=2 * needs)
    yield table(*shapes["VAE"], needs=needs, more=more)
    yield binary_table(*shapes["VAE, binary"], needs=needs, more=more)
    yield clustering(*shapes["K-means"], needs=needs, more=more)
    yield mixture(*shapes["Gaussian mixture"], needs=needs, more=more)


# ------------------------------------------------------------------------------------------------------------ workloads
def recommender(n_users, n_items, n_clicks, needs):
    model = MultVAERecommender(
        K,
        hidden_layer_sizes=(HIDDEN,),
        dropout=0.5,
        beta=0.2,
        anneal_fraction=0.85,
        weight_decay=0,
        learning_rate=1e-3,
        learning_rate_schedule="constant",
        batch_size=500,
        early_stopping=False,
        random_state=0,
    )
    layers = ((n_items, HIDDEN, 0), (HIDDEN, 2 * K, 3), (K, HIDDEN, 3), (HIDDEN, n_items, 3))
    return Workload(
        "Mult-VAE 600-200-600, published setting",
        f"{n_users:,} users, {n_items:,} items, {n_clicks:,} clicks, batches of 500",
        lambda: clicks(n_users, n_items, n_clicks),
        model,
        (1, 4),
        of_network(n_users, 500, layers),
        needs,
        lists,
    )


def lists(model, X, n_users=10_000):
    X = X[:n_users]
    return "Mult-VAE, lists of 100 items", X.shape[0], lambda: model.recommend(X, k=100)


def table(n, d, needs, more, hidden=256, k=10, batch=512):
    model = VAETransformer(k, hidden_layer_sizes=(hidden,), batch_size=batch, early_stopping=False, random_state=0)
    return Workload(
        f"VAE {hidden}-{k}-{hidden}, Gaussian",
        f"{n:,} x {d}, batches of {batch}",
        lambda: normal_rows(n, d),
        model,
        (1, 1 + 2 * more),
        of_network(n, batch, dense_layers(d, hidden, k)),
        needs,
    )


def binary_table(n, d, needs, more, hidden=400, k=20, batch=512):
    model = VAETransformer(
        k,
        hidden_layer_sizes=(hidden,),
        likelihood="bernoulli",
        batch_size=batch,
        early_stopping=False,
        random_state=0,
    )
    return Workload(
        f"VAE {hidden}-{k}-{hidden}, Bernoulli",
        f"{n:,} x {d}, batches of {batch}",
        lambda: (normal_rows(n, d) > 0).astype(np.float32),
        model,
        (1, 1 + 2 * more),
        of_network(n, batch, dense_layers(d, hidden, k)),
        needs,
    )


def clustering(n, d, k, needs, more):
    return Workload(
        f"K-means, K = {k}",
        f"{n:,} x {d}, float32",
        lambda: normal_rows(n, d),
        KMeansLite(k, n_init=1, tol=0, random_state=0),
        (2, 2 + 20 * more),
        Work(2.0 * n * d * k, 4.0 * n * d),
        needs,
    )


def mixture(n, d, k, needs, more):
    return Workload(
        f"Gaussian mixture, full, K = {k}",
        f"{n:,} x {d}, float32",
        lambda: normal_rows(n, d),
        GaussianMixtureEM(k, tol=0, acceleration=None, random_state=0),
        (2, 2 + 8 * more),
        # A triangular product in the E-step, a symmetric one in the M-step: half of a full one each.
        Work(2.0 * n * k * d**2, 4.0 * n * (2 * d + 2 * k)),
        needs,
    )


# ----------------------------------------------------------------------------------------------------------- least work
def dense_layers(d, hidden, k):
    """(inputs, outputs, products a step) of each layer: values, gradient of the weights, gradient of the input.

    The first layer's input needs no gradient. A sparse input (none of the three) counts as nothing.
    """
    return ((d, hidden, 2), (hidden, 2 * k, 3), (k, hidden, 3), (hidden, d, 3))


def of_network(n, batch, layers):
    """Of an epoch: the matrix products, the matrices they read and write, and what Adam reads and writes.

    Adam reads parameters, gradients and two averages, and writes all but the gradients.
    """
    steps = -(-n // batch)
    flops = sum(2.0 * n * i * o * products for i, o, products in layers)
    matrices = sum((batch * i + i * o + batch * o) * products for i, o, products in layers)
    adam = 7 * sum(i * o for i, o, _ in layers)
    return Work(flops, 4.0 * steps * (matrices + adam))


# ----------------------------------------------------------------------------------------------------------------- data
def normal_rows(n, d, n_factors=8, seed=0):
    """Rows of a factor model, float32."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d), dtype=np.float32)
    X += rng.standard_normal((n, n_factors), dtype=np.float32) @ rng.standard_normal((n_factors, d), dtype=np.float32)
    return X


def clicks(n_users, n_items, n_clicks, n_tastes=20, seed=0):
    """About `n_clicks` ones, by users of very different activity, on items of very different popularity.

    Users of one taste prefer the same items. `datasets.make_interactions` gives every user a taste of their own, which
    takes minutes for so many.
    """
    rng = np.random.default_rng(seed)
    activity = np.exp(rng.normal(size=n_users))
    n_drawn = rng.poisson(1.07 * n_clicks * activity / activity.sum()) + 1  # some are drawn more than once
    popularity = 1.2 * rng.normal(size=n_items)
    found = []
    for users in np.array_split(np.arange(n_users), n_tastes):
        weight = np.cumsum(np.exp(popularity + rng.normal(size=n_items)))
        row = np.repeat(users, n_drawn[users])
        column = np.searchsorted(weight, weight[-1] * rng.random(len(row)), side="right")
        cell = np.sort(row * n_items + np.minimum(column, n_items - 1))
        found.append(cell[np.diff(cell, prepend=-1) > 0])
    cell = np.concatenate(found)
    indptr = np.r_[0, np.cumsum(np.bincount(cell // n_items, minlength=n_users))]
    ones = np.ones(len(cell), dtype=np.float32)
    return sp.csr_array((ones, (cell % n_items).astype(np.int32), indptr.astype(np.int32)), shape=(n_users, n_items))
