"""A search on several workers is the search on one, bit for bit, on each of joblib's engines."""

import contextlib
import functools
import os
import socket
import time

import numpy as np
import pytest
from doc_blocks import output_of
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    EASERecommender,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    MultVAERecommender,
    VAETransformer,
)
from skvae.datasets import make_interactions
from skvae.metrics import make_ranking_scorer
from skvae.model_selection import StackedGridSearchCV
from skvae.training import stacking

FLOWERS, CLICKS = load_iris().data, make_interactions(60, 20, random_state=0)
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0}
RANKING = {"scoring": make_ranking_scorer("ndcg", k=5), "cv": 2}


def scaled(estimator, kind=GridSearchCV, **grid):
    """A search over a Pipeline that ends in the estimator, and its rows."""
    prefix = type(estimator).__name__.lower()
    grid = {f"{prefix}__{name}": values for name, values in grid.items()}
    more = {"random_state": 0, "min_resources": 40} if kind is HalvingGridSearchCV else {}
    return kind(make_pipeline(StandardScaler(), estimator), grid, cv=2, **more), FLOWERS


SEARCHES = {
    "VAE": scaled(VAETransformer(**SMALL), n_components=[1, 2]),
    "VAE, halving": scaled(VAETransformer(**SMALL), HalvingGridSearchCV, n_components=[1, 2], beta=[0.5, 1.0]),
    "VAE, stacked": scaled(
        VAETransformer(**SMALL), StackedGridSearchCV, hidden_layer_sizes=[(4,), (5,)], n_components=[1, 2]
    ),
    "autoencoder, stacked": scaled(
        AutoencoderTransformer(1, **SMALL), StackedGridSearchCV, hidden_layer_sizes=[(4,), (5,)]
    ),
    "K-means": scaled(KMeansLite(random_state=0), n_clusters=[2, 3]),
    "mixture": scaled(GaussianMixtureEM(random_state=0), n_components=[2, 3]),
    "mixture, halving": scaled(GaussianMixtureEM(random_state=0), HalvingGridSearchCV, n_components=[1, 2, 3]),
    "binary mixture": scaled(BernoulliMixtureEM(random_state=0, binarize=0.0), n_components=[2, 3]),
    "factor analysis": scaled(FactorAnalysisEM(), n_components=[1, 2]),
    "Mult-VAE": (
        GridSearchCV(MultVAERecommender(3, max_iter=2, random_state=0), {"beta": [0.02, 0.5]}, **RANKING),
        CLICKS,
    ),
    "EASE": (GridSearchCV(EASERecommender(), {"l2": [1.0, 10.0]}, **RANKING), CLICKS),
}
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*(max_iter|keeps factor analysis):sklearn.exceptions.ConvergenceWarning"
)


def results_of(name):
    """All that a search found, the times left out."""
    search, X = SEARCHES[name]
    found = clone(search).fit(X)
    return {key: value for key, value in found.cv_results_.items() if "_time" not in key} | {"best": found.best_params_}


BEST = "{'gaussianmixtureem__n_components': 2}"  # of the searches that doc/scaling.rst prints
results_alone = functools.cache(results_of)


def assert_equal_to_sequential(names=tuple(SEARCHES), **engine):
    for name in names:
        alone = results_alone(name)
        with parallel_config(**engine):
            spread = results_of(name)
        assert np.isfinite(alone["mean_test_score"]).all() and spread.keys() == alone.keys(), name
        for key, value in alone.items():
            np.testing.assert_array_equal(spread[key], value, err_msg=f"{name}: {key}")


def ends(pid):
    """Whether a process ends within some seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_processes_of_this_machine(monkeypatch):
    try:
        assert_equal_to_sequential(backend="loky", n_jobs=2)
        search, X = SEARCHES["VAE, stacked"]
        trained_here, run_stack = [], stacking.run_stack
        monkeypatch.setattr(stacking, "run_stack", lambda ascents: trained_here.append(ascents) or run_stack(ascents))
        found = clone(search).set_params(n_jobs=2).fit(X).cv_results_["mean_test_score"]
        assert np.array_equal(found, results_alone("VAE, stacked")["mean_test_score"])
        assert not trained_here  # but in the workers
        clone(search).fit(X)
        assert len(trained_here) == 2
        assert output_of("search.py") == BEST
    finally:
        get_reusable_executor().shutdown(wait=True)


@pytest.mark.slow
def test_dask(tmp_path, monkeypatch):
    distributed = pytest.importorskip("dask.distributed", reason="needs the extra `distributed`")
    local = {"dashboard_address": None, "local_directory": str(tmp_path)}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **local) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid).values()
        host, port = cluster.scheduler_address.removeprefix("tcp://").split(":")
        assert_equal_to_sequential(backend="dask")
        with monkeypatch.context() as patch:  # what the page says of a cluster is true of this one
            patch.setattr(distributed, "LocalCluster", lambda **given: contextlib.nullcontext(cluster))
            patch.setattr("dask.distributed.LocalCluster", distributed.LocalCluster)
            assert output_of("dask_search.py") == BEST
            assert output_of("dask_train.py") == "60,000 rows"
    assert len(set(pids)) == 2 and all(ends(pid) for pid in pids)
    with contextlib.closing(socket.socket()) as probe:
        assert probe.connect_ex((host, int(port))) != 0


@pytest.mark.slow
def test_ray():
    ray = pytest.importorskip("ray", reason="needs Ray, which no extra installs")
    joblib = pytest.importorskip("ray.util.joblib")
    joblib.register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert_equal_to_sequential(["VAE", "VAE, stacked", "mixture, halving"], backend="ray", n_jobs=-1)
    finally:
        ray.shutdown()
    assert output_of("ray_search.py").endswith(BEST)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own code
def test_ray_train(tmp_path, monkeypatch):
    pytest.importorskip("ray.train.torch", reason='needs "ray[train]", which no extra installs', exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    assert output_of("ray_train.py").endswith("60,000 rows")
