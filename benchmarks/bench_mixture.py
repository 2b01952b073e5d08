"""Gaussian mixtures beside scikit-learn's: time of an EM iteration, memory, EM steps with and without acceleration.

Both start from the same means, weights and precisions. The time of an iteration is the difference between fits of many
and of one iteration, so that what a fit costs anyway drops out.
"""

import argparse
import subprocess
import sys
import threading
import time
import warnings

import numpy as np

SHAPES = {  # name -> rows, columns, components, covariance type
    "full 16": (100_000, 16, 16, "full"),
    "full 64": (50_000, 64, 8, "full"),
    "diag 32": (200_000, 32, 32, "diag"),
    "tied 16": (100_000, 16, 16, "tied"),
    "spherical 32": (200_000, 32, 32, "spherical"),
}
VARIATIONAL = {"full 32": (50_000, 32, 10, "full"), "diag 32": (200_000, 32, 32, "diag")}
SMALL = {"300 x 16": (300, 16, 8), "1,000 x 16": (1000, 16, 8), "3,000 x 16": (3000, 16, 8)}
SLOW = {"2 columns": (2000, 2, 3, 1.0), "5 columns": (3000, 5, 8, 0.8), "10 columns": (4000, 10, 5, 0.7)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, three rounds")
    parser.add_argument("--memory-of", choices=("skvae", "scikit-learn"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*did not converge.*")
    if args.memory_of:
        return print_memory(args.memory_of)
    rounds, part = (3, 10) if args.quick else (args.rounds, 1)
    print(f"time of one EM iteration, medians of {rounds} interleaved rounds")
    for name in args.shapes:
        n, d, k, kind = SHAPES[name]
        compare(name, n // part, d, k, kind, rounds, args.iterations)
    print(f"time of one iteration of variational inference, medians of {rounds} interleaved rounds")
    for name, (n, d, k, kind) in VARIATIONAL.items():
        compare_variational(name, n // part, d, k, kind, rounds, args.iterations)
    small(rounds if args.quick else max(rounds, 30))
    memory()
    steps()


def classes():
    from sklearn.mixture import GaussianMixture

    from skvae import GaussianMixtureEM

    return {"scikit-learn": GaussianMixture, "skvae": GaussianMixtureEM}


def draw(n, d, k, spread=1.0, seed=0):
    """Rows of k spherical clusters and their centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, d)) * spread
    return centres[rng.integers(k, size=n)] + rng.normal(size=(n, d)), centres


def start(centres, kind):
    """Starting values: the centres, equal weights, unit precisions."""
    k, d = centres.shape
    eyes = {"full": np.stack([np.eye(d)] * k), "tied": np.eye(d), "diag": np.ones((k, d)), "spherical": np.ones(k)}
    return {"weights_init": np.full(k, 1 / k), "means_init": centres, "precisions_init": eyes[kind]}


def fit(cls, X, centres, kind, max_iter):
    model = cls(len(centres), covariance_type=kind, tol=0, max_iter=max_iter, **start(centres, kind))
    began = time.perf_counter()
    model.fit(X)
    return time.perf_counter() - began, model


def compare(name, n, d, k, kind, rounds, iterations):
    X, centres = draw(n, d, k)
    seconds = {who: [] for who in classes()}
    for _ in range(rounds):
        for who, cls in classes().items():
            short, _ = fit(cls, X, centres, kind, 1)
            long, model = fit(cls, X, centres, kind, 1 + iterations)
            seconds[who].append((long - short) / iterations)
            if who == "skvae":
                ours = model.score(X)
            else:
                theirs = model.score(X)
    ratio = np.array(seconds["scikit-learn"]) / np.array(seconds["skvae"])
    print(
        f"  {name:13} {n:,} x {d}, K = {k}: {1e3 * np.median(seconds['scikit-learn']):7.1f} ms scikit-learn, "
        f"{1e3 * np.median(seconds['skvae']):7.1f} ms skvae, {np.median(ratio):5.2f} x "
        f"({ratio.min():.2f} to {ratio.max():.2f}); score differs by {abs(ours / theirs - 1):.0e}"
    )


def compare_variational(name, n, d, k, kind, rounds, iterations):
    """Both go on from the posterior that scikit-learn's first iteration finds, by `warm_start`."""
    from sklearn.mixture import BayesianGaussianMixture

    from skvae import VariationalGaussianMixture

    X, _ = draw(n, d, k)
    options = dict(n_components=k, covariance_type=kind, tol=0, random_state=0)
    begun = BayesianGaussianMixture(max_iter=1, **options).fit(X)
    posterior = {name: value for name, value in vars(begun).items() if name.endswith("_") and name != "lower_bounds_"}
    ratios, ours, bounds = [], [], {}

    def seconds(cls, max_iter):
        model = cls(max_iter=max_iter, warm_start=True, **options)
        if cls is VariationalGaussianMixture:
            model.fit(X[: 10 * k])
        vars(model).update(posterior)
        began = time.perf_counter()
        bounds[cls] = model.fit(X).lower_bound_
        return time.perf_counter() - began

    for _ in range(rounds):
        took = {}
        for cls in (BayesianGaussianMixture, VariationalGaussianMixture):
            short = seconds(cls, 1)
            took[cls] = (seconds(cls, 1 + iterations) - short) / iterations
        ratios.append(took[BayesianGaussianMixture] / took[VariationalGaussianMixture])
        ours.append(took[VariationalGaussianMixture])
    theirs, own = bounds.values()
    print(
        f"  {name:13} {n:,} x {d}, K = {k}: {1e3 * np.median(ours):7.1f} ms skvae, {np.median(ratios):5.2f} x "
        f"({min(ratios):.2f} to {max(ratios):.2f}); bound differs by {abs(own / theirs - 1):.0e}"
    )


def small(rounds):
    """Whole fits of small tables: from the same initial parameters, and by default, where each class finds its own."""
    print(f"whole fits of small tables, {rounds} interleaved rounds: scikit-learn / skvae (ms of skvae)")
    for name, (n, d, k) in SMALL.items():
        X, centres = draw(n, d, k)
        for way in ("same start", "default"):
            found = []
            for kind in ("full", "tied", "diag", "spherical"):
                given = start(centres, kind) if way == "same start" else {}
                times = np.array([whole_fits(X, k, kind, seed, given) for seed in range(-2, rounds)])[2:]
                ratio, own = np.median(times[:, 0] / times[:, 1]), 1e3 * np.median(times[:, 1])
                found.append(f"{kind} {ratio:.2f} ({own:.1f})")
            print(f"  {name:10} K = {k}, {way:10}: {', '.join(found)}", flush=True)


def whole_fits(X, k, kind, seed, given):
    """Seconds of a fit by each class, in turns by which comes first."""
    seconds = {}
    for who, cls in list(classes().items())[:: 1 if seed % 2 else -1]:
        model = cls(k, covariance_type=kind, random_state=max(seed, 0), **given)
        began = time.perf_counter()
        model.fit(X)
        seconds[who] = time.perf_counter() - began
    return seconds["scikit-learn"], seconds["skvae"]


def memory():
    """Peak memory above X, of a process each."""
    print("memory above X at 100,000 x 16, K = 16, full")
    for who in ("scikit-learn", "skvae"):
        run = [sys.executable, __file__, "--memory-of", who]
        print(f"  {who:13} {subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()}")


def print_memory(who):
    cls = classes()[who]
    X, centres = draw(100_000, 16, 16)
    fit(cls, X[:5000], centres, "full", 2)  # libraries loaded, threads started
    with PeakMemory() as peak:
        fit(cls, X, centres, "full", 3)
    print(f"{peak.above / 2**20:.0f} MB")


class PeakMemory:
    """Samples the resident memory of this process, in bytes above what it was at first."""

    def __enter__(self):
        import psutil

        self.process, self.done, self.above = psutil.Process(), threading.Event(), 0
        self.first = self.process.memory_info().rss
        self.watch = threading.Thread(target=self._sample)
        self.watch.start()
        return self

    def _sample(self):
        while not self.done.wait(0.001):
            self.above = max(self.above, self.process.memory_info().rss - self.first)

    def __exit__(self, *_):
        self.done.set()
        self.watch.join()


def steps():
    """E-steps until the likelihood is within 1e-6 (relative) of the one at tol=1e-8."""
    from skvae import GaussianMixtureEM

    print("E-steps to the likelihood of tol=1e-8 (relative gap 1e-6), plain and accelerated, from one k-means start")
    for name, (n, d, k, spread) in SLOW.items():
        X, _ = draw(n, d, k, spread)
        traces = {}
        for way in (None, "squarem"):
            model = GaussianMixtureEM(k, tol=1e-8, max_iter=20_000, acceleration=way, random_state=0)
            traces[way] = e_steps(model, X)
        limit = traces[None][-1]
        plain, fast = (int(np.argmax(trace >= limit - 1e-6 * abs(limit))) + 1 for trace in traces.values())
        print(f"  {name:10} {n:,} rows, K = {k}: {plain} plain, {fast} accelerated, {plain / fast:.1f} x fewer")


def e_steps(model, X):
    """Bounds of all E-steps of a fit, those of refused extrapolations included."""
    from skvae.engines import em

    trace, collect = [], em.collect

    def counted(kind, batches, params, memory=None, **options):
        stats, kept = collect(kind, batches, params, memory, **options)
        if type(kind).__name__.endswith("GaussianMixture"):  # and not the k-means that it starts from
            trace.append(float(stats.bound))
        return stats, kept

    em.collect = counted
    try:
        model.fit(X)
    finally:
        em.collect = collect
    return np.array(trace)


if __name__ == "__main__":
    main()
