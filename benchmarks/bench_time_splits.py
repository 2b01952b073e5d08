"""NDCG@100 on MovieLens-100K by splits at random and by time: the order of the models depends on the split.

Ratings of 4 and 5 are clicks; users with fewer than five are dropped. Every model is fitted to the visible part of all
users, and ranks their hidden part. The half-life of 30 days was not tuned.
"""

import argparse
import os
import warnings

import numpy as np

from skvae import EASERecommender, PopularityRecommender
from skvae.datasets import fetch_movielens
from skvae.metrics import holdout_split, leave_last_out, leave_one_out, ndcg_at_k, time_split

DAY = 86_400  # seconds
MODELS = {
    "popularity": lambda X, times: PopularityRecommender().fit(X),
    "popularity, half-life 30 days": lambda X, times: PopularityRecommender(half_life=30 * DAY).fit(X, times=times),
    "EASE": lambda X, times: EASERecommender().fit(X),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of the random splits, and of the choice among ties")
    parser.add_argument("--quick", action="store_true", help="one seed")
    args = parser.parse_args()
    try:
        X, times = liked()
    except OSError as error:
        print(f"left out: {error}")
        return
    print(f"{X.shape[0]} users x {X.shape[1]} items, {X.nnz:,} clicks")
    print(f"{'':34}" + "".join(f"{name:>32}" for name in MODELS))
    for name, splits in all_splits(X, times, 1 if args.quick else args.seeds).items():
        per_user = [evaluate(*split, times) for split in splits]
        print(f"{name:34}{in_words(per_user)}   {scored(*splits[0])} users scored")
        print(f"{'  minus EASE, paired':34}{in_words([one - one[-1] for one in per_user])}")


def liked():
    """Clicks of users with five at least, and the times of all ratings of these users."""
    folder = os.environ.get("SKVAE_TEST_DATA") or None
    ratings = fetch_movielens("100k", data_home=folder)
    X = (ratings.data >= 4).astype(np.float32)
    enough = np.diff(X.indptr) >= 5
    return X[enough], ratings.times[enough]


def all_splits(X, times, n_seeds):
    """Visible and hidden parts by the name of the split, for some seeds where it has one."""
    seeds = range(n_seeds)
    return {
        "a fifth of each user, at random": [holdout_split(X, 0.2, random_state=seed) for seed in seeds],
        "the latest fifth of each user": [leave_last_out(X, times, 0.2, seed=seed) for seed in seeds],
        "one of each user, at random": [leave_one_out(X, random_state=seed) for seed in seeds],
        "the last of each user": [leave_last_out(X, times, seed=seed) for seed in seeds],
        "the latest fifth of all": [latest(X, times)],
    }


def latest(X, times):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # most users of the last month are new: they are not scored
        return time_split(X, times, np.quantile((X.astype(bool) * times).tocsr().data, 0.8))


def evaluate(shown, hidden, times):
    """NDCG@100 of each model for each user with visible and hidden items, of shape (n_models, n_users)."""
    known = (np.diff(shown.indptr) > 0) & (np.diff(hidden.indptr) > 0)
    lists = [fit(shown, times).recommend(shown[known], k=100)[0] for fit in MODELS.values()]
    return np.array([ndcg_at_k(hidden[known], ranked=ids, k=100, per_user=True) for ids in lists])


def in_words(per_user):
    """Mean over seeds and users of each model, and the mean of its standard errors over users."""
    means = np.mean([one.mean(axis=1) for one in per_user], axis=0)
    errors = np.mean([one.std(axis=1, ddof=1) / np.sqrt(one.shape[1]) for one in per_user], axis=0)
    return "".join(f"{f'{mean:.3f} +- {error:.3f}':>32}" for mean, error in zip(means, errors))


def scored(shown, hidden):
    """How many users have visible and hidden items, of those with hidden ones."""
    hidden, known = np.diff(hidden.indptr) > 0, np.diff(shown.indptr) > 0
    return f"{(hidden & known).sum()} of {hidden.sum()}"


if __name__ == "__main__":
    main()
