"""Lists for users of MovieLens-1M: `recommend` against dense scores and a full sort, and against bare NumPy.

Bare NumPy is the two products of a default `MultVAERecommender`, a mask of what was seen, `argpartition` and `argsort`:
no checks, no choice of dtype or device, no blocks. It is the least that a list costs.
"""

import argparse
import time

import numpy as np
import scipy.sparse as sp
from _peers import PlainMultVAE, published
from _protocol import as_clicks, load_split, movielens, timed
from sklearn.utils import check_array


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--data", choices=("ml-1m", "draw-100k"), default="ml-1m", help="draw-100k: 10,000 of its users"
    )
    parser.add_argument("--quick", action="store_true", help="three rounds")
    args = parser.parse_args()
    try:
        X = as_clicks(movielens("1m")) if args.data == "ml-1m" else load_split(args.data).train[:10_000]
    except OSError as error:
        print(f"left out: {error}")
        return
    # The weights do not matter to the time: one epoch each.
    port, twin, ours = (model.fit(X) for model in (PlainMultVAE(epochs=1), published(epochs=1), default()))
    ways = {
        "plain 600-200-600: toarray + full argsort": lambda: port.recommend(X, 100),
        "skvae 600-200-600: recommend": lambda: twin.recommend(X, 100)[0],
        "skvae default: all scores + full argsort": lambda: sort_all(ours, X),
        "skvae default: recommend": lambda: ours.recommend(X, 100)[0],
    }
    seconds = {name: [] for name in ways}
    for _ in range(3 if args.quick else args.rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way)[1])
    print(f"top-100 of {X.shape[0]:,} users x {X.shape[1]:,} items, {len(seconds[name])} rounds interleaved")
    first = np.array(next(iter(seconds.values())))
    for name, took in seconds.items():
        ratio = np.median(first / took)
        print(f"  {name:42} median {np.median(took):6.3f} s (min {min(took):.3f}, max {max(took):.3f}), {ratio:5.2f} x")
    print(f"  lists equal to those of a full sort: {agreement(ours, X[:500]):.2%} of the scores")
    for n_users, seconds in ((1, 3), (1000, 8)):
        for k in (10, 100):
            against_numpy(ours, X[:n_users], k, 1 if args.quick else seconds)


def default():
    from skvae import MultVAERecommender

    return MultVAERecommender(max_iter=1, random_state=0)


def against_numpy(model, X, k, seconds):
    """Print the times of some lists, taken in turns for some seconds."""
    ways = {
        "bare NumPy": lambda: bare(model, X, k),
        "recommend": lambda: model.recommend(X, k),
        "check_array alone": lambda: check_array(X, accept_sparse="csr"),
    }
    took, end = {name: [] for name in ways}, time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, way in ways.items():
            way()  # the threads of the way before come to rest, and the caches forget its arrays
            took[name].append(timed(way)[1])
    first = np.array(took["bare NumPy"])
    print(f"lists of {k} for {X.shape[0]:,} of its users, {len(first)} rounds interleaved")
    for name, each in took.items():
        print(f"  {name:42} median {1e3 * np.median(each):8.3f} ms, {np.median(first / each):5.2f} x")


def bare(model, X, k):
    """Lists by the products of a network without hidden layers."""
    params, K = model.parameters_, model.n_components
    lengths = np.sqrt(np.add.reduceat(X.data**2, X.indptr[:-1]))
    unit = sp.csr_array((X.data / np.repeat(lengths, np.diff(X.indptr)), X.indices, X.indptr), shape=X.shape)
    z = (unit @ params["encoder.0.weight"] + params["encoder.0.bias"])[:, :K]
    scores = z @ params["decoder.0.weight"] + params["decoder.0.bias"]
    scores[np.repeat(np.arange(X.shape[0]), np.diff(X.indptr)), X.indices] = -np.inf
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    values = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-values, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(values, order, axis=1)


def sort_all(model, X):
    """`decision_function`, seen items masked, every row sorted."""
    scores = model.decision_function(X)
    scores[X.nonzero()] = -np.inf
    return np.argsort(-scores, axis=1)[:, :100]


def agreement(model, X):
    """Share of list places at which `recommend` has the score that a full sort has, to rounding."""
    scores = model.decision_function(X)
    scores[X.nonzero()] = -np.inf
    best = -np.sort(-scores, axis=1)[:, :100]
    return np.isclose(best, model.recommend(X, 100)[1], rtol=1e-4, atol=1e-5).mean()


if __name__ == "__main__":
    main()
