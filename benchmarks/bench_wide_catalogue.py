"""`ELSARecommender` on a catalogue too wide for EASE, against Mult-VAE in the same time: NDCG@100, seconds and memory.

Users draw their clicks from items of a few topics. Mult-VAE ends with the epoch in which the time of ELSA is over.
"""

import argparse
import time

import numpy as np
import scipy.sparse as sp
from _protocol import forget_peak, peak_memory, timed

from skvae import ELSARecommender, MultVAERecommender, PopularityRecommender
from skvae.metrics import holdout_split, ndcg_at_k

TOPICS_OF_A_USER = 3


def clicks(n_users, n_items, per_user, n_topics, seed=0):
    """CSR array of ones; four clicks in five are of the user's topics; items of a topic have popularity 1 / rank."""
    rng = np.random.default_rng(seed)
    topic_of_item = rng.integers(0, n_topics, n_items)
    items = np.argsort(topic_of_item, kind="stable")
    first = np.searchsorted(topic_of_item[items], np.arange(n_topics + 1))
    liked = rng.integers(0, n_topics, (n_users, TOPICS_OF_A_USER))
    user = np.repeat(np.arange(n_users), per_user)
    topic = liked[user, rng.integers(0, TOPICS_OF_A_USER, len(user))]
    topic = np.where(rng.random(len(user)) < 0.8, topic, rng.integers(0, n_topics, len(user)))
    size = np.diff(first)[topic]
    rank = np.minimum(np.exp(rng.random(len(user)) * np.log(size + 1)).astype(np.int64) - 1, size - 1)
    X = sp.csr_array((np.ones(len(user), np.float32), (user, items[first[topic] + rank])), shape=(n_users, n_items))
    X.sum_duplicates()
    X.data[:] = 1
    return X


class Until:
    """A callback that ends a fit with the epoch in which so many seconds are over."""

    def __init__(self, seconds):
        self.seconds = seconds

    def setup(self, estimator, context):
        self.start = time.perf_counter()

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        return time.perf_counter() - self.start > self.seconds


def measure(model, X, n_test, seconds):
    """Print the figures of one model."""
    type(model)(**{"random_state": 0} if "random_state" in model.get_params() else {}).fit(X[:60, :40])  # loads torch
    shown, hidden = holdout_split(X[-n_test:], 0.2, random_state=0)
    if seconds is not None:
        model.set_callbacks(Until(seconds))
    before = forget_peak()
    _, took = timed(model.fit, X[:-n_test])
    rise = peak_memory() - before
    (ids, _), to_rank = timed(model.recommend, shown, 100)
    epochs = f"{model.n_iter_} epochs" if hasattr(model, "n_iter_") else ""
    print(
        f"  {type(model).__name__:22} NDCG@100 {ndcg_at_k(hidden, ranked=ids, k=100):.4f}  fit {took:7.1f} s  peak "
        f"{rise / 1e6:6,.0f} MB above the data  lists {to_rank:5.1f} s  {epochs}",
        flush=True,
    )
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--test-users", type=int, default=1000)
    parser.add_argument("--items", type=int, default=120_000)
    parser.add_argument("--clicks", type=int, default=50, help="draws of a user")
    parser.add_argument("--topics", type=int, default=500)
    parser.add_argument("--components", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=MODELS, default=tuple(MODELS))
    parser.add_argument("--seconds", type=float, help="of the fit of Mult-VAE; default: as long as ELSA took")
    args = parser.parse_args()
    X = clicks(args.users + args.test_users, args.items, args.clicks, args.topics)
    print(f"{args.users:,} users x {args.items:,} items, {X.nnz:,} clicks, K = {args.components}")
    seconds = args.seconds
    for name in args.only:
        model = MODELS[name](args.components)
        took = measure(model, X, args.test_users, seconds if name.startswith("mult-vae") else None)
        seconds = took if name == "elsa" and args.seconds is None else seconds


MODELS = {
    "popularity": lambda n_components: PopularityRecommender(),
    "elsa": lambda n_components: ELSARecommender(n_components, early_stopping=False, random_state=0),
    "mult-vae": lambda n_components: MultVAERecommender(n_components, early_stopping=False, random_state=0),
    "mult-vae-linear": lambda n_components: MultVAERecommender(
        n_components, decoder_units=0, early_stopping=False, random_state=0
    ),
}


if __name__ == "__main__":
    main()
