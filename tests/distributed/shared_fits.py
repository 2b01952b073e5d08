"""What each of the processes does in test_data_parallel.py: fit to its own rows, and compare with a fit to all of them.

    python shared_fits.py FOLDER

One process loads torch and forks those of each task: they start as by torchrun, from the variables that it sets, and
no other one loads torch. Every process writes what it found to FOLDER/TASK/RANK.json, the first one the exit codes.
"""

import datetime
import json
import multiprocessing
import os
import signal
import socket
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch.distributed as dist
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skvae import (
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    ProbabilisticPCA,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
    _reduce,
)
from skvae.estimators.clustering import _lloyd
from skvae.estimators.mixtures import _starts
from skvae.tables import weights

SHARES = {1: [0, 1], 2: [0, 0.65, 1], 3: [0, 0, 0.35, 1]}  # uneven; of three processes the first has no rows


def rows(n=1200, d=6, seed=0):
    rng = np.random.default_rng(seed)
    centres = 4 * rng.normal(size=(3, d))
    return centres[rng.integers(0, 3, n)] + rng.normal(size=(n, 3)) @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))


def with_gaps(X):
    return np.where(np.random.default_rng(1).random(X.shape) < 0.02, np.nan, X)


def cases():
    """Name, estimator, rows, attributes to compare, and whether to weigh the rows."""
    X, few = rows(), rows(200)
    many = rows(2500)
    answers = np.clip(np.round(X[:, :5] / 4), -1, 1)
    factors = ("components_", "noise_variance_", "mean_", "lower_bounds_")
    clusters = ("cluster_centers_", "lower_bounds_")
    mixture = ("weights_", "means_", "lower_bounds_")
    seeded = {"random_state": 0}
    yield "factor analysis", FactorAnalysisEM(3), X, factors, True
    yield "factor analysis, float32", FactorAnalysisEM(3), X.astype(np.float32), factors, False
    yield "factor analysis, gaps", FactorAnalysisEM(2, max_iter=10), with_gaps(X), factors, True
    yield "factor analysis, few rows", FactorAnalysisEM(3), few, factors, True
    yield "factor analysis, wide", FactorAnalysisEM(2, max_iter=10), rows(60, 100), factors[1:], False
    yield "probabilistic PCA", ProbabilisticPCA(3), X, factors, True
    yield "variational factor analysis", VariationalFactorAnalysis(), X, factors, False
    yield "k-means", KMeansLite(5, **seeded), X, clusters, True
    yield "k-means, of a sample", KMeansLite(5, **seeded), many, clusters, False
    yield "k-means, random", KMeansLite(5, init="random", n_init=2, max_iter=20, **seeded), X, clusters, True
    yield "k-means||", KMeansLite(5, init="k-means||", **seeded), X, clusters, False
    yield "k-means, given", KMeansLite(3, init=X[:3]), X, clusters, False
    yield "k-means, sparse", KMeansLite(4, **seeded), sp.csr_array(np.where(X > 4, X, 0)), clusters, False
    seeded_by_rounds = KMeansLite(4, init="k-means||", max_iter=5, **seeded)
    yield "k-means||, sparse", seeded_by_rounds, sp.csr_array(np.where(X > 4, X, 0)), clusters, False
    yield "k-means, few rows", KMeansLite(4, **seeded), few, clusters, True
    for kind in ("full", "tied", "diag", "spherical"):
        yield f"gaussian mixture, {kind}", GaussianMixtureEM(3, covariance_type=kind, **seeded), X, mixture, True
    yield "gaussian mixture, gaps", GaussianMixtureEM(2, max_iter=3, **seeded), with_gaps(X), mixture, False
    yield "gaussian mixture, of a sample", GaussianMixtureEM(3, covariance_type="diag", **seeded), many, mixture, True
    yield (
        "gaussian mixture, random",
        GaussianMixtureEM(2, init_params="random", max_iter=5, **seeded),
        X,
        mixture,
        False,
    )
    yield "gaussian mixture, few rows", GaussianMixtureEM(3, **seeded), few, mixture, True
    variational = VariationalGaussianMixture(4, covariance_type="diag", max_iter=10, **seeded)
    yield "variational mixture", variational, X, mixture, True
    yield "variational mixture, gaps", variational, with_gaps(X), mixture, False
    yield "bernoulli mixture", BernoulliMixtureEM(3, binarize=1.0, n_init=2, max_iter=4, **seeded), X, mixture, True
    levels = BernoulliMixtureEM(3, categorical_features="all", n_init=2, max_iter=4, **seeded)
    yield "bernoulli mixture, levels", levels, answers, mixture, True
    yield "in a pipeline", make_pipeline(FunctionTransformer(), ProbabilisticPCA(2)), X, (), False


def compare(name, estimator, X, attributes, weighs, own):
    """Largest difference of each attribute, relative to its largest value, and that of the score."""
    weight = np.random.default_rng(2).integers(0, 3, X.shape[0]).astype(float) if weighs else None
    given, all_given = (
        {} if w is None else {"sample_weight": w} for w in (None if weight is None else weight[own], weight)
    )
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    last.set_params(data_parallel=True)
    shared = clone(estimator).fit(X[own], **given)
    last.set_params(data_parallel=False)
    alone = clone(estimator).fit(X, **all_given)
    found = {"score": (shared.set_params(**{}).score(X[own], **given), alone.score(X, **all_given))}
    found |= {attribute: (getattr(shared, attribute), getattr(alone, attribute)) for attribute in attributes}
    gaps = {key: _gap(*pair) for key, pair in found.items()}
    if hasattr(alone, "labels_"):
        gaps["labels_"] = float(np.mean(shared.labels_ != alone.labels_[own])) if len(shared.labels_) else 0.0
    return gaps


def _gap(found, wanted):
    """Largest difference, relative to the largest value; infinite between arrays of other lengths."""
    if np.shape(found) != np.shape(wanted):
        return np.inf
    return float(np.abs(np.subtract(found, wanted)).max() / np.abs(wanted).max())


def equal(rank, size):
    """All cases, and partial fits."""
    found = {}
    for name, estimator, X, attributes, weighs in cases():
        start, stop = (int(share * X.shape[0]) for share in SHARES[size][rank : rank + 2])
        found[name] = compare(name, estimator, X, attributes, weighs, slice(start, stop))
    X = rows()
    for estimator in (FactorAnalysisEM(2), KMeansLite(3, random_state=0), GaussianMixtureEM(2, random_state=0)):
        shared, alone = clone(estimator).set_params(data_parallel=True), clone(estimator)
        for part in (rows(), rows(seed=1)):
            start, stop = (int(share * len(part)) for share in SHARES[size][rank : rank + 2])
            shared.partial_fit(part[start:stop])
            alone.partial_fit(part)
        centres = [
            getattr(each, "cluster_centers_", getattr(each, "means_", getattr(each, "components_", None)))
            for each in (shared, alone)
        ]
        found[f"partial_fit of {type(estimator).__name__}"] = {"gap": float(np.abs(np.subtract(*centres)).max())}
    return found


def error_of(fit, *arguments):
    try:
        fit(*arguments)
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


class Interrupted(GaussianMixtureEM):
    """Ctrl-C in process 1, and there alone."""

    def _has_converged(self, iteration):
        if dist.get_rank() == 1:
            raise KeyboardInterrupt
        return False


def errors(rank, size):
    """What each process is told of the mistakes of one, and that a fit works after them."""
    X, own = rows(), slice(600 * rank, 600 * (rank + 1))
    bad = X[own].copy()
    if rank == 1:
        bad[3, 2] = np.inf
    estimator = GaussianMixtureEM(2, random_state=0, data_parallel=True)
    fitted = clone(estimator).fit(X[own])
    before = fitted.means_.copy()
    found = {
        "infinite cell": error_of(fitted.fit, bad),
        "as it was": bool((fitted.means_ == before).all()),
        "parameters": error_of(GaussianMixtureEM(2 + rank, data_parallel=True).fit, X[own]),
        "columns": error_of(estimator.fit, X[own][:, : 5 + rank]),
        "dtype": error_of(estimator.fit, X[own].astype([np.float64, np.float32][rank])),
        "weights": error_of(estimator.fit, X[own], None, [None, np.ones(600)][rank]),
        "too few": error_of(KMeansLite(8, data_parallel=True).fit, X[:3]),
        "callable init": error_of(KMeansLite(3, init=lambda X, k, random_state: X[:k], data_parallel=True).fit, X[own]),
        "seeds": clone(estimator).set_params(random_state=None).fit(X[own]).means_.tolist(),
        "after": clone(estimator).fit(X[own]).means_.tolist(),
    }
    new = KMeansLite(3, random_state=0)
    names = [f"{'ab'[rank]}{j}" for j in range(X.shape[1])]
    found |= {
        "parameter": error_of(GaussianMixtureEM(2, tol=[1e-3, -1][rank], data_parallel=True).fit, X[own]),
        "names": error_of(estimator.fit, pd.DataFrame(X[own], columns=names)),
        "layout": error_of(KMeansLite(3, data_parallel=True).fit, [X[own], sp.csr_array(X[own])][rank]),
        "state": error_of([new, clone(new).fit(X[own])][rank].set_params(data_parallel=True).partial_fit, X[own]),
        "interrupted": error_of(Interrupted(2, random_state=0, data_parallel=True).fit, X[own]),
        "after all": clone(estimator).fit(X[own]).means_.tolist(),
    }
    found["timeout"] = _reduce._timeout_of(next(iter(_reduce._own_groups.values()))).total_seconds()
    if rank == 0:  # who does not ask for a shared fit has none, whatever the others do
        found["alone"] = GaussianMixtureEM(2, random_state=0).fit(X[own]).n_samples_seen_
    return found


def killed(rank, size):
    """Process 1 dies in the middle of a fit."""

    class Mortal(GaussianMixtureEM):
        def _has_converged(self, iteration):
            if rank == 1 and iteration.number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

    Mortal.__name__ = "GaussianMixtureEM"
    return {"error": error_of(Mortal(2, random_state=0, data_parallel=True).fit, rows()[600 * rank : 600 * (rank + 1)])}


def perform(task, folder, port, rank, size):
    """What one of the processes does."""
    os.environ |= {"RANK": f"{rank}", "WORLD_SIZE": f"{size}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=40))
    (folder / task.__name__ / f"{rank}.json").write_text(json.dumps(task(rank, size)))
    if task is not killed:
        dist.destroy_process_group()


def launch(task, folder, size):
    """Exit codes of the processes of a task."""
    (folder / task.__name__).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=perform, args=(task, folder, port, rank, size)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    # What counts as few rows is less here, so that small tables take the way of large ones.
    weights._FEW_CELLS = 4096
    _starts._SEEDING_ROWS, _lloyd._FEWEST_SAMPLED, _lloyd._SAMPLED_A_CLUSTER = 1500, 300, 20
    folder = Path(sys.argv[1])
    sizes = {equal: 3, killed: 2, errors: 2}
    codes = {task.__name__: launch(task, folder, size) for task, size in sizes.items()}
    (folder / "codes.json").write_text(json.dumps(codes))
