"""Recommenders inside a recommender: their seeds, their fits, and their scores."""

import numpy as np
import torch
from sklearn.base import clone

from skvae.estimators.recommenders._recommender import RecommenderMixin

_MAX_SEED = 2**31 - 1


def seeded_clone(estimator, rng):
    """Clone an estimator; where its own random_state is None, give it a seed drawn from a RandomState (or None)."""
    cloned = clone(estimator)
    if rng is not None and "random_state" in cloned.get_params(deep=False) and cloned.random_state is None:
        cloned.set_params(random_state=int(rng.randint(_MAX_SEED)))
    return cloned


def check_recommender(estimator, who):
    """Complain of what cannot score users."""
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise TypeError(f"{who} takes recommenders, objects such as EASERecommender(), but got {estimator!r}.")
    if not isinstance(estimator, RecommenderMixin) and not hasattr(estimator, "decision_function"):
        raise TypeError(
            f"{who} takes recommenders, which score items by `decision_function`, but {type(estimator).__name__} has "
            "no such method."
        )


def scorer_of(estimator, X):
    """A function from a block of users of X to a Tensor of their scores, of any recommender that is fitted."""
    if isinstance(estimator, RecommenderMixin):
        return estimator._scorer(X)
    return lambda users: torch.from_numpy(np.array(estimator.decision_function(users), dtype=X.dtype))
