"""`ELSARecommender` on a catalogue too wide for EASE, against Mult-VAE in the same time: NDCG@100, seconds and memory.

Users draw their clicks from items of a few topics. Each model is fitted in a process of its own, so that its peak of
memory is its own. The second one stops after the epoch in which the time of the first is over.
"""

import argparse
import json
import subprocess
import sys
import time

import numpy as np
import scipy.sparse as sp
from _protocol import Split, forget_peak, peak_memory, timed

from skvae import ELSARecommender, MultVAERecommender, PopularityRecommender
from skvae.metrics import holdout_split, ndcg_at_k

TOPICS_OF_A_USER = 3


def clicks(n_users, n_items, per_user, n_topics, seed=0):
    """CSR array of ones; four clicks in five are of the user's topics, and items of a topic have popularity 1 / rank."""
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


class UntilTime:
    """A callback that ends a fit after the epoch in which so many seconds are over."""

    def __init__(self, seconds):
        self.seconds = seconds

    def setup(self, estimator, context):
        self.start = time.perf_counter()

    def on_fit_task_begin(self, estimator, context, **data):
        pass

    def on_fit_task_end(self, estimator, context, **data):
        return time.perf_counter() - self.start > self.seconds

    def teardown(self, estimator, context):
        pass


def main():
    pass


if __name__ == "__main__":
    main()
