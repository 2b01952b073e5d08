"""FactorAnalysisEM and ProbabilisticPCA against scikit-learn's FactorAnalysis and PCA: whole default fits.

With `--only held-out`: VariationalFactorAnalysis against FactorAnalysisEM of every K, by the likelihood of other rows.

The fit of 100,000 rows is also held to what its largest part costs alone, NumPy's bare product X'X.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit

from skvae import FactorAnalysisEM, ProbabilisticPCA, VariationalFactorAnalysis

CASES = {  # rows, columns, factors
    "100k x 200, K=20": (100_000, 200, 20),
    "5k x 2000, K=20": (5_000, 2_000, 20),
    "10k x 40, K=5": (10_000, 40, 5),
}
SMALL = (300, 1_000, 3_000)  # rows of 16 columns
DTYPES = (np.float64, np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, two rounds")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved fits by each class")
    parser.add_argument("--only", help="cases whose name holds this")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    share, rounds = (0.1, 2) if args.quick else (1.0, args.rounds)
    for name, (n, d, k) in CASES.items():
        if args.only is None or args.only in name:
            X = draw(max(int(n * share), d), d, k)
            compare(f"factor analysis, {name}", X, FactorAnalysis(k), FactorAnalysisEM(k, device="cpu"), rounds)
            compare(f"probabilistic PCA, {name}", X, PCA(k), ProbabilisticPCA(k, device="cpu"), rounds)
    if args.only is None or args.only in "small":
        for n in SMALL:
            for k in (3, None):
                small(n, k, max(rounds, 15))
    if args.only is None or args.only in "product":
        product(share, max(rounds, 7))
    if args.only is None or args.only in "gaps":
        gaps(share, rounds)
    if args.only is None or args.only in "held-out":
        held_out(7 * rounds)


def draw(n, d, k, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, d)


def compare(name, X, theirs, ours, rounds):
    """Medians of interleaved fits, after one of each on some rows; a ratio above 1 means that ours is faster."""
    few = X[: 2 * X.shape[1]]
    theirs.fit(few), ours.fit(few)
    times = np.array([(timed(ours, X), timed(theirs, X), timed(ours, X)) for _ in range(rounds)])
    quick, slow = np.median(times[:, [0, 2]]), np.median(times[:, 1])
    gap = (ours.score(X) - theirs.score(X)) * len(X)
    print(f"{name}, {X.shape[0]:,} rows, {rounds} rounds:")
    print(f"  seconds: scikit-learn {slow:.3f}, ours {quick:.3f}: {slow / quick:.1f} x")
    print(f"  log-likelihood of all rows, ours less theirs: {gap:+.2e} nats ({gap / abs(ours.score(X) * len(X)):+.1e})")
    iterations = getattr(theirs, "n_iter_", 1), ours.n_iter_
    print(f"  iterations: {iterations[0]} and {iterations[1]}", flush=True)


def small(n, k, rounds):
    """Whole fits of few rows, where overhead counts; `k` None: the default, as many factors as columns."""
    for dtype in DTYPES:
        X = draw(n, 16, 3).astype(dtype)
        for theirs, ours in (
            (FactorAnalysis(k), FactorAnalysisEM(k, device="cpu")),
            (PCA(k), ProbabilisticPCA(k, device="cpu")),
        ):
            timed(theirs, X), timed(ours, X)
            times = np.array([(timed(theirs, X), timed(ours, X)) for _ in range(rounds)])
            ratio = np.median(times[:, 0] / times[:, 1])
            milliseconds = 1e3 * np.median(times, axis=0)
            print(
                f"{type(ours).__name__}, {n:,} x 16, K={k}, {dtype.__name__}: scikit-learn {milliseconds[0]:.2f} ms, "
                f"ours {milliseconds[1]:.2f}: {ratio:.2f} x",
                flush=True,
            )


def product(share, rounds):
    """The whole fit beside NumPy's X'X of the same rows in float64, at 0 and far from it."""
    X = draw(int(100_000 * share), 200, 20)
    for dtype in DTYPES:
        for offset in (0, 1000):
            Y = (X + offset).astype(dtype)
            model = FactorAnalysisEM(20, device="cpu")
            timed(model, Y), bare(X)
            times = np.array([(bare(X), timed(model, Y)) for _ in range(rounds)])
            whole, alone = 1e3 * np.median(times[:, 1]), 1e3 * np.median(times[:, 0])
            print(
                f"{len(X):,} x 200, K=20, {dtype.__name__}, means near {offset}: whole fit {whole:.0f} ms, bare X'X "
                f"{alone:.0f}: {np.median(times[:, 1] / times[:, 0]):.2f} x",
                flush=True,
            )


def bare(X):
    start = time.perf_counter()
    X.T @ X
    return time.perf_counter() - start


def timed(estimator, X):
    start = time.perf_counter()
    estimator.fit(X)
    return time.perf_counter() - start


def gaps(share, rounds):
    """Exact EM with missing cells, which scikit-learn does not have: beside our own fit to the complete rows."""
    X = draw(int(20_000 * share), 50, 5)
    holes = X.copy()
    holes[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    holes[: len(X) // 4] = X[: len(X) // 4]
    model = FactorAnalysisEM(5, device="cpu")
    seconds = [(timed(model, X), timed(model, holes)) for _ in range(rounds)]
    complete, missing = np.median(seconds, axis=0)
    print(
        f"missing cells, {len(X):,} x 50, K=5, a tenth of the cells of three quarters of the rows: {missing:.3f} s, "
        f"{model.n_iter_} iterations; complete {complete:.3f} s"
    )


def held_out(n_splits):
    """Mean log-likelihood of the other half of the rows, nats a row, and the gaps to factor analysis of a chosen K.

    K is chosen by five folds of the rows of the fit, or by the very rows that are scored, which no rule can surpass but
    by luck.
    """
    data = {name: getattr(datasets, f"load_{name}")().data for name in ("iris", "wine", "breast_cancer", "diabetes")}
    print(f"held-out halves, {n_splits} splits, nats a row:")
    for name, X in data.items():
        kept, ours, searched, best = [], [], [], []
        search = GridSearchCV(FactorAnalysisEM(), {"n_components": range(X.shape[1])}, cv=KFold(5))
        for rows, others in ShuffleSplit(n_splits, test_size=0.5, random_state=0).split(X):
            model = VariationalFactorAnalysis().fit(X[rows])
            kept.append(model.n_components_)
            ours.append(model.score(X[others]))
            searched.append(search.fit(X[rows]).score(X[others]))
            best.append(max(FactorAnalysisEM(k).fit(X[rows]).score(X[others]) for k in range(X.shape[1])))
        gaps = [
            f"{gap.mean():+.3f} +- {gap.std(ddof=1) / n_splits**0.5:.3f}" for gap in (ours - np.array([searched, best]))
        ]
        print(
            f"  {name}, {len(rows)} x {X.shape[1]}: keeps {min(kept)} to {max(kept)} factors, {np.mean(ours):.2f}; "
            f"over K by folds {gaps[0]}, over the best K {gaps[1]}",
            flush=True,
        )


if __name__ == "__main__":
    main()
