"""Ranking metrics, splits of interactions, scorers for scikit-learn's model selection, and two-sample tests.

A recommender is evaluated by *strong generalisation* (Marlin, 2004; Liang et al., WWW 2018). The model is fitted to
some users. For every other user it sees one part of the interactions (the fold-in) and has to rank the hidden part.
`make_ranking_scorer` does this inside `GridSearchCV`, `cross_validate` and `HalvingGridSearchCV`: the folds split the
users, and the scorer hides a part of every test row. `holdout_split` makes such a split without a scorer;
`leave_last_out` and `time_split` hide the later interactions.

`energy_distance` and `classifier_two_sample_accuracy` compare generated rows of a table with real ones.
"""

from skvae.metrics._beyond_accuracy import gini_index, novelty, popularity_bias
from skvae.metrics._holdout import content_holdout, holdout_split, leave_one_out
from skvae.metrics._ranking import (
    average_precision_at_k,
    coverage,
    dcg_at_k,
    hit_rate_at_k,
    mrr,
    ndcg_at_k,
    precision_at_k,
    recall_at_k,
)
from skvae.metrics._scorer import make_ranking_scorer
from skvae.metrics._time_splits import leave_last_out, time_split
from skvae.metrics._two_sample import classifier_two_sample_accuracy, energy_distance

__all__ = [
    "average_precision_at_k",
    "classifier_two_sample_accuracy",
    "content_holdout",
    "coverage",
    "dcg_at_k",
    "energy_distance",
    "gini_index",
    "hit_rate_at_k",
    "holdout_split",
    "leave_last_out",
    "leave_one_out",
    "make_ranking_scorer",
    "mrr",
    "ndcg_at_k",
    "novelty",
    "popularity_bias",
    "precision_at_k",
    "recall_at_k",
    "time_split",
]
