"""KMeansLite against scikit-learn's KMeans: default fits in turns, and single iterations from the same start."""

import argparse
import gzip
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.preprocessing import normalize

from skvae import KMeansLite

PAUSE = 0.03  # seconds between fits, in which the threads of the last one go to sleep


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--fits", type=int, default=30, help="default fits of each class, in turns, with seeds 0, 1, ..."
    )
    parser.add_argument("--seconds", type=float, default=60, help="stop a case after its third pair at this time")
    parser.add_argument("--threads", type=int, nargs="*", default=[2, 1], help="numbers of threads, each in a process")
    parser.add_argument("--dtype", nargs="*", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--quick", action="store_true", help="three fits of a fifth of the rows")
    parser.add_argument("--only", help="cases whose name holds this")
    args = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") is None:  # read once, when a process begins
        for n_threads in args.threads:
            print(f"== threads: {n_threads}", flush=True)
            environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads)}
            subprocess.run([sys.executable, *sys.argv], env=environment, check=True)
        return
    warnings.simplefilter("ignore")
    share, n_fits = (0.2, 3) if args.quick else (1.0, args.fits)
    for part, cases in ((whole_fits, WHOLE_FITS), (iterations, ITERATIONS)):
        for name, (load, n_clusters) in cases.items():
            if args.only and args.only not in f"{part.__name__} {name}":
                continue
            X = load(share)
            if X is None:
                print(f"{name}: left out, needs SKVAE_TEST_DATA")
                continue
            for dtype in args.dtype:
                part(name, X.astype(dtype), n_clusters, n_fits, args.seconds)


def whole_fits(name, X, n_clusters, n_fits, seconds):
    """Default fits by each class with the same seeds; a ratio above 1 means that ours is faster."""
    rows, until = [], time.perf_counter() + seconds
    for seed in range(-1, n_fits):  # the first pair is for what only the first fit of a process takes
        found = {}
        for cls in (KMeans, KMeansLite) if seed % 2 else (KMeansLite, KMeans):
            found[cls] = timed(cls(n_clusters, random_state=max(0, seed)), X)
        (theirs, slow), (ours, quick) = found[KMeans], found[KMeansLite]
        if seed >= 0:
            rows.append((slow, quick, theirs.inertia_, ours.inertia_, theirs.n_iter_, ours.n_iter_))
        if len(rows) >= 3 and time.perf_counter() > until:
            break
    slow, quick, high, low, *n_iter = np.array(rows).T
    print(
        f"whole fit, {name}: {shape(X, n_clusters)}: ratio {np.median(slow / quick):.2f}"
        f"  (ms {1e3 * np.median(slow):.1f}, {1e3 * np.median(quick):.1f}; {len(rows)} pairs;"
        f" inertia {low.mean() / high.mean() - 1:+.1e}, best {low.min() / high.min() - 1:+.1e};"
        f" iterations {np.median(n_iter[0]):.0f}, {np.median(n_iter[1]):.0f})",
        flush=True,
    )


def iterations(name, X, n_clusters, n_fits, seconds, short=2, long=22):
    """Time of an iteration from the same start: the difference of two fits, so that what is done once drops out."""
    start = X[np.random.default_rng(0).choice(X.shape[0], n_clusters, replace=False)].copy()
    took, until = {KMeans: [], KMeansLite: []}, time.perf_counter() + seconds
    KMeansLite(n_clusters, init=start, max_iter=short).fit(X)  # what only the first fit of a process takes
    for _ in range(n_fits):
        for cls, each in took.items():
            fits = [timed(cls(n_clusters, init=start, n_init=1, tol=0, max_iter=n), X) for n in (short, long)]
            each.append((fits[1][1] - fits[0][1]) / (fits[1][0].n_iter_ - short))
        if len(each) >= 3 and time.perf_counter() > until:
            break
    theirs, ours = (1e3 * np.array(each) for each in took.values())
    print(
        f"iterations {short + 1} to {long}, {name}: {shape(X, n_clusters)}:"
        f" ratio {np.median(theirs / ours):.2f}"
        f"  (ms {np.median(theirs):.1f}, {np.median(ours):.1f}; {len(ours)} pairs)",
        flush=True,
    )


def shape(X, n_clusters):
    return f"{X.shape[0]:,} x {X.shape[1]:,}, K={n_clusters}, {X.dtype}"


def timed(model, X):
    time.sleep(PAUSE)
    started = time.perf_counter()
    model.fit(X)
    return model, time.perf_counter() - started


def blobs(n, n_columns=32, n_clusters=64, **how):
    def load(share):
        return make_blobs(int(share * n), n_columns, centers=n_clusters, random_state=0, **how)[0]

    return load


def words(share):
    """Rows as sparse as those of twenty newsgroups: .5 % of 10,000 columns, topics that differ in their words."""
    rng, n = np.random.default_rng(0), int(share * 11_000)
    topics = rng.dirichlet(np.full(10_000, 0.05), 20)
    columns = np.concatenate([rng.choice(10_000, 50, p=topics[topic]) for topic in rng.integers(20, size=n)])
    X = sp.csr_matrix((np.ones(50 * n), (np.repeat(np.arange(n), 50), columns)), shape=(n, 10_000))
    X.data = 1 + np.log(X.data)
    return normalize(X)


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


SEPARATED, OVERLAPPING = {"cluster_std": 3.0}, {"center_box": (-1, 1)}
WHOLE_FITS = {
    "300 rows": (blobs(300, 16, 20, **SEPARATED), 20),
    "3,000 rows": (blobs(3000, 16, 20, **SEPARATED), 20),
    "30,000 rows": (blobs(30_000, 16, 20, **SEPARATED), 20),
    "two columns": (blobs(100_000, 2, 8, cluster_std=2.0), 8),
    "separated": (blobs(200_000, **SEPARATED), 64),
    "overlapping": (blobs(200_000, **OVERLAPPING), 64),
    "wide": (blobs(20_000, 500, 100, cluster_std=12.0), 100),
    "sparse": (words, 20),
    "MNIST": (mnist, 10),
    "Covertype, a part, K=7": (covertype, 7),
    "Covertype, a part, K=100": (covertype, 100),
    "many clusters": (lambda share: 5 * np.random.default_rng(0).random((int(share * 60_000), 2)), 500),
}
ITERATIONS = {
    "separated": (blobs(200_000, **SEPARATED), 64),
    "overlapping": (blobs(200_000, **OVERLAPPING), 64),
    "MNIST": (mnist, 10),
}

if __name__ == "__main__":
    main()
