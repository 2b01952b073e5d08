"""KMeansLite against scikit-learn's KMeans: whole default fits, and single iterations from the same start."""

import argparse
import gzip
import os
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from skvae import KMeansLite


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="whole fits of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved timings of an iteration")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--quick", action="store_true", help="two seeds, two rounds, a fifth of the rows")
    parser.add_argument("--only", help="cases whose name holds this")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    share, seeds, rounds = (0.2, 2, 2) if args.quick else (1.0, args.seeds, args.rounds)
    for part, cases in ((whole_fits, WHOLE_FITS), (iterations, ITERATIONS)):
        for name, (load, n_clusters) in cases.items():
            if args.only and args.only not in f"{part.__name__} {name}":
                continue
            X = load(share)
            if X is None:
                print(f"{name}: left out, needs SKVAE_TEST_DATA")
            else:
                part(name, X.astype(args.dtype), n_clusters, seeds if part is whole_fits else rounds)


def whole_fits(name, X, n_clusters, seeds):
    """Default fits by each class with the same seeds; a ratio above 1 means that ours is faster."""
    print(f"whole default fit, {name}: {X.shape[0]:,} x {X.shape[1]}, K={n_clusters}, {X.dtype}, {seeds} seeds")
    rows = []
    for seed in range(seeds):
        theirs, slow = timed(KMeans(n_clusters, random_state=seed), X)
        ours, quick = timed(KMeansLite(n_clusters, random_state=seed, device="cpu"), X)
        rows.append((slow, quick, theirs.inertia_, ours.inertia_, theirs.n_iter_, ours.n_iter_))
    slow, quick, high, low, *n_iter = np.array(rows).T
    print(f"  seconds: scikit-learn {np.median(slow):.3f}, ours {np.median(quick):.3f}: {spread(slow / quick)} x")
    print(f"  inertia, ours / scikit-learn - 1: {' '.join(f'{change:+.1e}' for change in low / high - 1)}")
    print(f"    mean over seeds {low.mean() / high.mean() - 1:+.1e}; best seed {low.min() / high.min() - 1:+.1e}")
    print(f"  iterations, medians: {np.median(n_iter[0]):.0f} and {np.median(n_iter[1]):.0f}")
    peaks = [peak_memory(cls(n_clusters, random_state=0, max_iter=3), X) for cls in (KMeans, KMeansLite)]
    print(f"  NumPy's peak above X: {peaks[0]:.0f} MB and {peaks[1]:.0f} MB; X {X.nbytes / 2**20:.0f} MB", flush=True)


def iterations(name, X, n_clusters, rounds, short=2, long=22):
    """Time of an iteration from the same start: the difference of two fits, so that what is done once drops out."""
    start = X[np.random.default_rng(0).choice(len(X), n_clusters, replace=False)].copy()
    each = {KMeans: [], KMeansLite: []}
    inertia = {}
    KMeansLite(n_clusters, init=start, max_iter=short).fit(X)  # what only the first fit of a process takes
    for _ in range(rounds):
        for cls, took in each.items():
            seconds = {}
            for max_iter in (short, long):
                model = cls(n_clusters, init=start, n_init=1, tol=0, max_iter=max_iter)
                model, seconds[max_iter] = timed(model, X)
            took.append((seconds[long] - seconds[short]) / (model.n_iter_ - short))
            inertia[cls] = model.inertia_
    theirs, ours = (1e3 * np.array(took) for took in each.values())
    print(f"iterations {short + 1} to {long}, {name}: {X.shape[0]:,} x {X.shape[1]}, K={n_clusters}, {X.dtype}")
    print(f"  ms: scikit-learn {np.median(theirs):.1f}, ours {np.median(ours):.1f}: {spread(theirs / ours)} x")
    print(f"  inertia, ours / scikit-learn - 1: {inertia[KMeansLite] / inertia[KMeans] - 1:+.1e}", flush=True)


def timed(model, X):
    started = time.perf_counter()
    model.fit(X)
    return model, time.perf_counter() - started


def peak_memory(model, X):
    """MB that NumPy held at most while fitting; what torch allocates itself (sums, labels) is not seen."""
    tracemalloc.start()
    model.fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def spread(ratios):
    return f"median {np.median(ratios):.2f} (min {ratios.min():.2f}, max {ratios.max():.2f})"


def blobs(n):
    def load(share):
        return make_blobs(int(share * n), 32, centers=64, cluster_std=3.0, random_state=0)[0]

    return load


def overlapping(n):
    def load(share):
        return make_blobs(int(share * n), 32, centers=64, center_box=(-1, 1), random_state=0)[0]

    return load


def covertype(share):
    path = data_file("covtype_ramp_test.csv.gz")
    if path is None:
        return None
    X = np.loadtxt(path, delimiter=",", skiprows=1)[:, :-1]
    return X[: int(share * len(X))]


def mnist(share):
    path = data_file("mnist/train-images-idx3-ubyte.gz")
    if path is None:
        return None
    with gzip.open(path) as file:
        X = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    return X[: int(share * len(X))]


def data_file(name):
    folder = os.environ.get("SKVAE_TEST_DATA")
    return Path(folder) / name if folder and (Path(folder) / name).is_file() else None


WHOLE_FITS = {
    "blobs": (blobs(100_000), 64),
    "overlapping blobs": (overlapping(100_000), 64),
    "Covertype, a part, K=7": (covertype, 7),
    "Covertype, a part, K=100": (covertype, 100),
    "MNIST": (mnist, 10),
}
ITERATIONS = {
    "blobs": (blobs(200_000), 64),
    "overlapping blobs": (overlapping(200_000), 64),
    "MNIST": (mnist, 10),
}

if __name__ == "__main__":
    main()
