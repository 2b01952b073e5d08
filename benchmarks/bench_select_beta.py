"""`select_beta` beside a grid search over beta: the chosen weight, NDCG@100 on test users, and the time of both."""

import argparse
from functools import partial

import scipy.sparse as sp
from _click_sets import SETS, split_users
from _protocol import timed
from bench_recommender_defaults import mean_and_error, ndcg
from sklearn.model_selection import GridSearchCV, KFold

from skvae import MultVAERecommender
from skvae.metrics import make_ranking_scorer
from skvae.model_selection import select_beta

GRID = (0.02, 0.05, 0.2, 0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=SETS, default=("ml-100k", "api"))
    args = parser.parse_args()
    folds = KFold(2, shuffle=True, random_state=0)
    for data in args.data:
        parts = split_users(SETS[data](), 0)
        recommender = MultVAERecommender(random_state=0)
        grid = GridSearchCV(recommender, {"beta": GRID}, scoring=make_ranking_scorer("ndcg", k=100), cv=folds)
        search, took = timed(grid.fit, parts.train)
        report(data, f"GridSearchCV of {len(GRID)}", search.best_params_["beta"], search.best_estimator_, parts, took)
        X_val = sp.csr_matrix(parts.val_in + parts.val_out)
        result, took = timed(partial(select_beta, recommender, parts.train, X_val=X_val))
        report(data, "select_beta", result.beta, result.recommender, parts, took)
        default, took = timed(recommender.fit, parts.train)
        report(data, "default", "auto", default, parts, took)


def report(data, name, beta, model, parts, took):
    values = ndcg(model.decision_function, parts.test_in, parts.test_out)
    print(f"{data:12} {name:20} beta {beta!s:6.6}  NDCG@100 {mean_and_error(values)}  {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
