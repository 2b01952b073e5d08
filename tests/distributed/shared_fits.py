"""What each of the processes does in test_data_parallel.py: fit to its own rows, and compare with a fit to all of them.

    torchrun --nproc-per-node=3 shared_fits.py TASK FOLDER

Every process writes what it found to FOLDER/RANK.json.
"""

import contextlib
import datetime
import importlib
import json
import os
import pickle
import signal
import sys
import warnings
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch.distributed as dist
from shared_tables import errors_of_networks, networks_go_on, networks_of_tables
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    Checkpoint,
    EASERecommender,
    ELSARecommender,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    LOCARecommender,
    MultDAERecommender,
    MultVAERecommender,
    PopularityRecommender,
    ProbabilisticPCA,
    RecVAERecommender,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
    VotingRecommender,
    _reduce,
)
from skvae._tensors import _block_sizes, _split
from skvae.datasets import make_interactions
from skvae.engines import checkpoints
from skvae.estimators.clustering import _lloyd
from skvae.estimators.mixtures import _starts
from skvae.model_selection import StackedGridSearchCV
from skvae.tables import weights
from skvae.training import defaults

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
    yield "k-means, many rows and clusters", KMeansLite(40, max_iter=5, **seeded), many, clusters, True
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
    clicks = sp.csr_array(make_interactions(400, 60, random_state=0)).astype(np.float64)
    ease = ("item_weights_", "l2_", "n_samples_seen_")
    yield "EASE", EASERecommender(), clicks, ease, True
    yield "EASE, float32", EASERecommender(20.0), clicks.astype(np.float32), ease, False
    yield "popularity", PopularityRecommender(), clicks, ("popularity_",), True
    yield from networks_of_clicks(clicks)
    yield from networks_of_tables(X, with_gaps(rows(2100, 3)), rows(60, 100))
    yield "in a pipeline", make_pipeline(FunctionTransformer(), ProbabilisticPCA(2)), X, (), False


def networks_of_clicks(clicks):
    """Networks whose items are split: each likelihood, each architecture, whole and in blocks, with users held out."""
    given = {"batch_size": 40, "max_iter": 2, "precision": "float64", "random_state": 0}
    found = ("lower_bounds_", "n_samples_seen_", "items_per_user_", "similarity_")
    yield "Mult-VAE", MultVAERecommender(4, early_stopping=True, **given), clicks, (*found, "validation_scores_"), True
    yield "Mult-VAE, float32", MultVAERecommender(4, max_iter=1, random_state=0), clicks, found, False
    yield "Mult-VAE, few users", MultVAERecommender(4, early_stopping=True, **given), clicks[:60], found, True
    binary = MultVAERecommender(4, hidden_layer_sizes=(6,), likelihood="bernoulli", **given)
    yield "Mult-VAE, bernoulli", binary, clicks, found, False
    yield "Mult-DAE, gaussian", MultDAERecommender(4, likelihood="gaussian", **given), clicks, found, True
    yield "ELSA", ELSARecommender(4, early_stopping=True, **given), clicks, (*found, "validation_scores_"), True
    network, ease = MultDAERecommender(3, decoder_units=0, **given), EASERecommender(10.0)
    yield "voting", VotingRecommender([("dae", network), ("ease", ease)]), clicks, ("weights_",), False
    anchors = ("anchor_embeddings_", "training_bandwidths_", "bandwidths_", "coverage_")
    yield "LOCA", LOCARecommender(ease, embedding=network, n_anchors=2, random_state=0), clicks, anchors, True
    wide = sp.csr_array(make_interactions(100, 200, random_state=0))  # 66 items a process: two blocks of them
    yield "RecVAE, blocks", RecVAERecommender(4, hidden_size=6, n_layers=2, **given), wide, found, False


def compare(name, estimator, X, attributes, weighs, own):
    """Largest difference of each attribute, relative to its largest value, and that of the score."""
    weight = np.random.default_rng(2).integers(0, 3, X.shape[0]).astype(float) if weighs else None
    given, all_given = (
        {} if w is None else {"sample_weight": w} for w in (None if weight is None else weight[own], weight)
    )
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    last.set_params(data_parallel=True)
    mine = X.iloc[own] if hasattr(X, "iloc") else X[own]
    shared = clone(estimator).fit(mine, **given)
    last.set_params(data_parallel=False)
    alone = of_one_process(name, lambda: clone(estimator).fit(X, **all_given))
    if hasattr(alone, "recommend"):  # their scores take no weights
        given = all_given = {}
    found = {}
    if hasattr(alone, "score"):
        wanted = of_one_process(name, lambda: alone.score(X, **all_given))
        found = {"score": (shared.score(mine, **given), wanted)}
    found |= {attribute: (getattr(shared, attribute), getattr(alone, attribute)) for attribute in attributes}
    gaps = {key: _gap(*pair) for key, pair in found.items()}
    if hasattr(alone, "parameters_"):
        gaps |= _gaps_of_networks(shared, alone)
    if hasattr(alone, "labels_"):
        gaps["labels_"] = float(np.mean(shared.labels_ != alone.labels_[own])) if len(shared.labels_) else 0.0
    return gaps


def of_one_process(name, make):
    """What one of the processes makes, in its turn: they share the cores of one machine."""
    rank = len(name) % dist.get_world_size()
    made = [make() if dist.get_rank() == rank else None]
    dist.broadcast_object_list(made, src=rank)
    return made[0]


def _gap(found, wanted):
    """Largest difference, relative to the largest value; infinite between arrays of other lengths."""
    if np.shape(found) != np.shape(wanted):
        return np.inf
    if not np.size(wanted):
        return 0.0
    found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
    largest = max(np.abs(wanted).max(), 1e-3)  # less is rounding: of the means of centred columns, say
    return float(np.abs(found - wanted).max() / largest)


def equal(rank, size, folder):
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
    found["partial_fit of recommenders"] = recommenders_go_on(rank, size)

    def share(part):
        return part[slice(*(int(share * len(part)) for share in SHARES[size][rank : rank + 2]))]

    found |= {f"{name} goes on": gaps for name, gaps in networks_go_on([X[:300], X], share, _gaps_of_networks)}
    return found


def recommenders_go_on(rank, size):
    """Gaps after new users with new items, and of counts that decay with time; the networks are told of all epochs."""
    clicks = sp.csr_array(make_interactions(400, 50, random_state=0))
    times = clicks.copy()
    times.data = np.random.default_rng(3).uniform(1, 100, clicks.nnz)
    ease, counts = EASERecommender(10.0), PopularityRecommender(half_life=20.0)
    network = MultVAERecommender(4, decoder_units=5, batch_size=40, precision="float64", random_state=0)
    pairs = [(clone(each).set_params(data_parallel=True), clone(each)) for each in (ease, network, counts)]
    for users, n_items, new in ((slice(0, 200), 40, None), (slice(200, 400), 50, range(40, 50))):
        X, when = clicks[users, :n_items], times[users, :n_items]
        own = slice(*(int(share * X.shape[0]) for share in SHARES[size][rank : rank + 2]))
        for (shared, alone), given in zip(pairs, ({}, {}, {"times": when})):
            shared.partial_fit(X[own], new_items=new, **{name: each[own] for name, each in given.items()})
            alone.partial_fit(X, new_items=new, **given)
    names = ("item_weights_", "popularity_", "last_time_")
    found = [(name, *pair) for pair in pairs for name in names if hasattr(pair[0], name)]
    gaps = {name: _gap(getattr(shared, name), getattr(alone, name)) for name, shared, alone in found}
    shared, alone = (each.set_params(warm_start=True, max_iter=2) for each in pairs[1])
    told = Told(), Told()
    own = slice(*(int(share * 300) for share in SHARES[size][rank : rank + 2]))
    shared.set_callbacks(told[0]).fit(clicks[:300][own], X_val=clicks[300:][rank::size])
    alone.set_callbacks(told[1]).fit(clicks[:300], X_val=sp.vstack([clicks[300:][part::size] for part in range(size)]))
    both = [(getattr(shared, name), getattr(alone, name)) for name in ("lower_bounds_", "validation_scores_")]
    if rank == 0:  # the one whose callbacks are asked
        both.append([each.weights for each in told])
    return gaps | {"warm start": max(_gap(*pair) for pair in both)} | _gaps_of_networks(shared, alone)


class Told:
    """A callback that keeps the encoder's weight after each epoch."""

    def __init__(self):
        self.weights = []

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.weights.append(fitted_estimator.parameters_["encoder.0.weight"])


def _gaps_of_networks(shared, alone):
    return {name: _gap(shared.parameters_[name], value) for name, value in alone.parameters_.items()}


HELD = []  # errors with all that their frames know, as a notebook keeps them: connections close all the same


def error_of(fit, *arguments):
    try:
        fit(*arguments)
    except (Exception, KeyboardInterrupt) as error:
        HELD.append(error)
        return f"{type(error).__name__}: {error}"
    return "no error"


class Interrupted(GaussianMixtureEM):
    """Ctrl-C in process 1, and there alone."""

    def _has_converged(self, iteration):
        if dist.get_rank() == 1:
            raise KeyboardInterrupt
        return False


class InterruptedAndFailing(GaussianMixtureEM):
    """Ctrl-C in process 1 at the same time as an error in process 0."""

    def _has_converged(self, iteration):
        raise KeyboardInterrupt if dist.get_rank() == 1 else ValueError("no more")


MORTAL = {"tol": 0, "max_iter": 9, "random_state": 0, "data_parallel": True}


def resumed(rank, folder):
    """That the fit of the job whose process has died goes on, and so does one that fails on all processes at once."""
    own, begun = rows()[600 * rank : 600 * (rank + 1)], []

    class Recorded(GaussianMixtureEM):
        def _has_converged(self, iteration):
            begun.append(iteration.number)
            return False

    Recorded.__name__ = "GaussianMixtureEM"
    whole = GaussianMixtureEM(2, **MORTAL).fit(own)
    went_on = Recorded(2, checkpoint=Path(folder, "fit.npz"), **MORTAL).fit(own)
    same = np.array_equal(went_on.means_, whole.means_) and went_on.lower_bounds_ == whole.lower_bounds_
    found = {"begun at": begun[0], "equal": bool(same)}

    clicks = make_interactions(300, 40, random_state=0)[150 * rank : 150 * (rank + 1)]
    small = {"random_state": 0, "data_parallel": True}
    cases = [  # rows of which K-means remembers labels; items that are split; a network that all have
        (KMeansLite(6, max_iter=6, tol=0, n_init=1, init="random", **small), own, 4, "cluster_centers_"),
        (MultVAERecommender(3, max_iter=4, early_stopping=True, **small), clicks, 2, "parameters_"),
        (AutoencoderTransformer(2, hidden_layer_sizes=(4,), max_iter=4, **small), own, 2, "parameters_"),
    ]
    for estimator, X, n, attribute in cases:
        whole, name = clone(estimator).fit(X), type(estimator).__name__
        estimator.set_params(checkpoint=Checkpoint(Path(folder, f"{name}.npz"), interval=0))
        with failing_after(n):
            failed = error_of(estimator.fit, X)
        files, went_on = len(list(folder.glob("*.npz"))), estimator.fit(X)
        same = pickle.dumps(getattr(went_on, attribute)) == pickle.dumps(getattr(whole, attribute))
        found[name] = [failed, files, same and np.array_equal(went_on.lower_bounds_, whole.lower_bounds_)]
    return found | {"files": [path.name for path in folder.glob("*.npz")]}


@contextlib.contextmanager
def failing_after(n):
    """Fits with a checkpoint fail on all processes after so many iterations."""
    reached, left = checkpoints.Journal.reached, [n]

    def fails(journal, place, state):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("for the test")
        return reached(journal, place, state)

    checkpoints.Journal.reached = fails
    yield
    checkpoints.Journal.reached = reached


def errors(rank, size, folder):
    """What each process is told of the mistakes of one, and that a fit works after them."""
    resumption = resumed(rank, folder)
    X, own = rows(), slice(600 * rank, 600 * (rank + 1))
    bad = X[own].copy()
    if rank == 1:
        bad[3, 2] = np.inf
    estimator = GaussianMixtureEM(2, random_state=0, data_parallel=True)
    fitted = clone(estimator).fit(X[own])
    before = fitted.means_.copy()
    found = {
        "resumed": resumption,
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
    clicks = abs(np.round(X[own, :4]))
    network = MultVAERecommender(2, max_iter=1, random_state=rank).fit(clicks).set_params(random_state=0)
    names = [f"{'ab'[rank]}{j}" for j in range(X.shape[1])]
    found |= {
        "parameter": error_of(GaussianMixtureEM(2, tol=[1e-3, -1][rank], data_parallel=True).fit, X[own]),
        "names": error_of(estimator.fit, pd.DataFrame(X[own], columns=names)),
        "layout": error_of(KMeansLite(3, data_parallel=True).fit, [X[own], sp.csr_array(X[own])][rank]),
        "items": error_of(EASERecommender(data_parallel=True).fit, pd.DataFrame(abs(X[own]), columns=names)),
        "other counts": error_of(
            PopularityRecommender().fit(abs(X[own])).set_params(data_parallel=True).partial_fit, abs(X[own])
        ),
        "other network": error_of(network.set_params(data_parallel=True).partial_fit, clicks),
        "score": error_of(EASERecommender(5.0, data_parallel=True).fit(abs(X[own])).score, abs(X[own])[:, : 6 - rank]),
        "no clicks": error_of(EASERecommender(data_parallel=True).fit, np.zeros_like(X[own])),
        "interrupted": error_of(Interrupted(2, random_state=0, data_parallel=True).fit, X[own]),
        "and failing": error_of(InterruptedAndFailing(2, random_state=0, data_parallel=True).fit, X[own]),
        "after all": clone(estimator).fit(X[own]).means_.tolist(),
    }
    found |= {"networks": errors_of_networks(X[own], rank, error_of)}
    found |= {"unfitted": {}, "search": searches(X, own)}
    seeded = {"max_iter": 1, "random_state": 0}
    tables = KMeansLite(3, **seeded), GaussianMixtureEM(2, random_state=0), FactorAnalysisEM(2)
    networks = AutoencoderTransformer(2, **seeded), MultVAERecommender(2, **seeded)
    for new in (*tables, *networks, EASERecommender(), PopularityRecommender()):
        one = [new, clone(new).fit(clicks)][rank].set_params(data_parallel=True)
        found["unfitted"][type(new).__name__] = [error_of(one.partial_fit, clicks), error_of(one.score, clicks)]
    found["timeout"] = _reduce._timeout_of(next(iter(_reduce._own_groups.values()))).total_seconds()
    if rank == 0:  # who does not ask for a shared fit has none, whatever the others do
        found["alone"] = GaussianMixtureEM(2, random_state=0).fit(X[own]).n_samples_seen_
    return found


def searches(X, own):
    """Gaps of a search of all processes to one with the same folds of all rows, and what one with jobs is told."""
    vae = VAETransformer(2, max_iter=1, early_stopping=False, precision="float64", random_state=0)
    grid, n = {"learning_rate": [1e-3, 1e-2]}, len(X) // 2
    folds = [[np.concatenate([part, part + n]) for part in fold] for fold in KFold(2).split(X[:n])]
    alone = StackedGridSearchCV(vae, grid, cv=folds).fit(X)
    shared = clone(vae).set_params(data_parallel=True)
    found = {}
    for kind in (StackedGridSearchCV, GridSearchCV):
        search = kind(shared, grid, cv=2).fit(X[own])
        pairs = [[each.cv_results_["mean_test_score"] for each in (search, alone)]]
        pairs.append([each.best_estimator_.lower_bounds_ for each in (search, alone)])
        found[kind.__name__] = max(_gap(*pair) for pair in pairs)
        with joblib.parallel_config("threading"):
            found[f"{kind.__name__} in threads"] = error_of(kind(shared, grid, cv=2, n_jobs=2).fit, X[own])
    return found


def killed(rank, size, folder):
    """Process 1 dies in the middle of a fit with a checkpoint."""

    class Mortal(GaussianMixtureEM):
        def _has_converged(self, iteration):
            if rank == 1 and iteration.number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

    Mortal.__name__ = "GaussianMixtureEM"
    mortal = Mortal(2, checkpoint=Checkpoint(Path(folder, "fit.npz"), interval=0), **MORTAL)
    return {"error": error_of(mortal.fit, rows()[600 * rank : 600 * (rank + 1)])}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    task, folder = sys.argv[1:]
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=40))
    rank = dist.get_rank()
    if task == "equal":  # the script on the page about scaling, which finds the group of processes made
        sys.path.append(str(Path(__file__).parents[1]))
        with mock.patch.object(dist, "init_process_group"):
            Path(folder, f"{rank}.txt").write_text(importlib.import_module("doc_blocks").output_of("train.py"))
    # What counts as few rows is less here, so that small tables take the way of large ones.
    weights._FEW_CELLS = 4096
    _lloyd.MOST_CELLS = 12_000  # 2,000 rows of the tables of K-means
    _starts._SEEDING_ROWS, _lloyd._FEWEST_SAMPLED, _lloyd._SAMPLED_A_CLUSTER = 1500, 300, 20
    _block_sizes._WHOLE_CELLS["cpu"], _block_sizes._CELLS_OF_A_BLOCK["cpu"] = 2000, 1
    _split._SENT_AT_ONCE = 500
    defaults._FOLD_ROWS = 1000
    result = globals()[task](rank, dist.get_world_size(), Path(folder))
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    if task != "killed":
        dist.destroy_process_group()
