"""Two grid searches on joblib's engines: seconds, and whether the scores are those of the sequential searches.

36 fits (6 candidates x 3 folds x 2 models: a small VAE and a mixture, each after a scaler) and two refits, to 3,000
rows of 20 columns. "Cold" is the first time on an engine, which starts its processes and loads the libraries there;
"warm" is the second. The arithmetic of every process has one thread. Needs the extra `distributed`; with `--ray`, Ray.
"""

import argparse
import os
import time
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are loaded; workers inherit it

import numpy as np
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ray", action="store_true", help="Ray too")
    parser.add_argument("--epochs", type=int, default=12, help="of the VAE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # fits that end at max_iter
    timed_searches(1)  # loads the libraries
    alone, sequential = timed_searches(args.epochs)
    print(f"{'sequential':24} {sequential:6.1f} s", flush=True)
    for name, engine in ({"loky": on_loky, "Dask": on_dask} | ({"Ray": on_ray} if args.ray else {})).items():
        for state, (scores, seconds) in zip(("cold", "warm"), engine(args.epochs), strict=True):
            gap = np.abs(scores - alone).max()
            faster = sequential / seconds
            who = f"{name}, 2 workers, {state}"
            print(f"{who:24} {seconds:6.1f} s  {faster:4.2f} x  scores differ by {gap:g}", flush=True)


def on_loky(epochs):
    with parallel_config("loky", n_jobs=2):
        yield timed_searches(epochs)
        yield timed_searches(epochs)
    get_reusable_executor().shutdown()


def on_dask(epochs):
    from dask.distributed import Client, LocalCluster

    began = time.perf_counter()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        start = time.perf_counter() - began
        with parallel_config("dask"):
            scores, seconds = timed_searches(epochs)
            yield scores, start + seconds
            yield timed_searches(epochs)


def on_ray(epochs):
    import ray
    from ray.util.joblib import register_ray

    register_ray()
    began = time.perf_counter()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    start = time.perf_counter() - began
    with parallel_config("ray", n_jobs=-1):
        scores, seconds = timed_searches(epochs)
        yield scores, start + seconds
        yield timed_searches(epochs)
    ray.shutdown()


def timed_searches(epochs):
    """Scores of all candidates and folds, and seconds."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from skvae import GaussianMixtureEM, VAETransformer

    rng = np.random.default_rng(0)
    X = np.tanh(rng.normal(size=(3000, 3)) @ rng.normal(size=(3, 20))) + 0.3 * rng.normal(size=(3000, 20))
    vae = VAETransformer(early_stopping=False, max_iter=epochs, random_state=0)
    mixture = GaussianMixtureEM(max_iter=2 * epochs, tol=1e-6, random_state=0)
    began, scores = time.perf_counter(), []
    for model, sizes in ((vae, [1, 2, 3, 4, 5, 6]), (mixture, [2, 4, 6, 8, 10, 12])):
        pipe = make_pipeline(StandardScaler(), model)
        grid = {f"{pipe.steps[-1][0]}__n_components": sizes}
        found = GridSearchCV(pipe, grid, cv=3).fit(X).cv_results_
        scores += [found[f"split{fold}_test_score"] for fold in range(3)]
    return np.concatenate(scores), time.perf_counter() - began


if __name__ == "__main__":  # Dask starts its workers from this file
    main()
