"""
Tune a recommender
==================

A recommender is an estimator like any other. It works in a ``Pipeline``, and ``GridSearchCV`` chooses its parameters.
In this example the rows ("users") are Python source files, and the columns ("items") are the functions and classes that
the files use. They are read from the packages on this machine. A file that calls ``numpy.linalg.svd`` probably uses
``numpy.dot`` too. The same script runs on MovieLens with ``--data ml-100k`` or ``--data ml-1m``.

The script chooses two parameters on one part of the rows: the weight of the KL term, ``beta``, and the dimension of the
code, ``n_components``. It then reports how well the best model ranks items for the other rows, which were not used to
fit or to choose.
"""

import argparse
import os
from pathlib import Path

# Use one thread per fit, and set it before torch is imported. The search runs several fits at the same time. The models
# are small, so several threads in one fit would mostly wait for each other, above all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, KFold, cross_validate, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Binarizer

from skvae import MultVAERecommender
from skvae.datasets import fetch_movielens, load_api_usage
from skvae.displays import FitHistoryDisplay, RankingDisplay
from skvae.metrics import content_holdout, make_ranking_scorer, ndcg_at_k

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"  # a small form, for the tests and the gallery
METRICS = ["ndcg@100", "recall@20", "recall@50"]

# On a GPU, run one fit at a time. On the CPU, one fit on each core is faster than one fit on all cores.
default_jobs = 1 if FAST or torch.cuda.is_available() else min(4, joblib.cpu_count())
parser = argparse.ArgumentParser(description="Tune a Mult-VAE recommender by cross-validation.")
parser.add_argument("--data", choices=("api", "ml-100k", "ml-1m"), default="api", help="ml-1m takes ten times as long")
parser.add_argument("--jobs", type=int, default=default_jobs, help="fits at the same time")
parser.add_argument("--output", type=Path, default=Path("tune_recommender.png"), help="where the picture goes")
# A notebook has no command line: ``sys.argv`` is that of its kernel.
args = parser.parse_args(None if "__file__" in globals() else [])


# %%
# The data
# --------
# The data are a sparse users x items matrix with the names of its rows and columns. MovieLens has ratings. A rating of
# at least four stars means that the user liked the film. Users who liked fewer than five films are left out, as is
# usual. MovieLens is read from the folder in the environment variable ``SKVAE_TEST_DATA`` if it is set. Otherwise it is
# read from scikit-learn's data folder, or downloaded.
def load(name):
    """Return the matrix, the names of its rows and columns, and the threshold above which an entry counts."""
    if name == "api":
        usage = load_api_usage(packages=["sklearn"] if FAST else None)
        return usage.data, usage.file_names, usage.item_names, 0.5
    ratings = fetch_movielens(name.removeprefix("ml-"), data_home=os.environ.get("SKVAE_TEST_DATA"))
    keep = np.flatnonzero((ratings.data >= 4).sum(axis=1) >= 5)
    users = np.array([f"user {user}" for user in ratings.user_ids[keep]])
    return ratings.data[keep], users, ratings.item_names, 3.5


X, row_names, item_names, threshold = load(args.data)
row_word = "file" if args.data == "api" else "user"
X_train, X_test, names_train, names_test = train_test_split(X, row_names, test_size=0.15, random_state=0)
print(f"{args.data}: {X.shape[0]:,} {row_word}s x {X.shape[1]:,} items, {X.nnz:,} entries.")
print(f"{len(names_test):,} {row_word}s are kept aside until the end.\n")

# %%
# The search
# ----------
# The folds split the users. The scorer hides a fifth of each test user's items and shows the rest to the model. It then
# measures the ranks of the hidden items in the model's list. All candidates are scored on the same hidden items. The
# ratings are binarised *inside* the Pipeline, so a rating of two stars never counts as a hit.
pipe = Pipeline([("clicks", Binarizer(threshold=threshold)), ("recommender", MultVAERecommender(random_state=0))])
grid = {
    "recommender__n_components": [10, 20] if FAST else [20, 50, 200],
    "recommender__beta": [0.02, 0.5] if FAST else [0.02, 0.2, 1.0],
}
folds = KFold(n_splits=2 if FAST else 3, shuffle=True, random_state=0)
scoring = make_ranking_scorer(METRICS)
search = GridSearchCV(pipe, grid, cv=folds, scoring=scoring, refit="ndcg@100", n_jobs=args.jobs, error_score="raise")
try:
    from sklearn.callback import ProgressBar

    search.set_callbacks(ProgressBar(max_propagation_depth=0))  # with 1, also a bar for each fit
except ImportError as error:
    print(f"No progress bar: {error}")
search.fit(X_train)


# %%
# The baseline recommends the most used items to every user. Any estimator with ``decision_function`` can be scored in
# the same way and on the same folds.
class Popularity(BaseEstimator):
    """Score each item by its number of users."""

    def fit(self, X, y=None):
        self.n_users_ = X.sum(axis=0)
        return self

    def decision_function(self, X):
        return np.tile(self.n_users_, (X.shape[0], 1))


popular = Pipeline([("clicks", Binarizer(threshold=threshold)), ("recommender", Popularity())])
baseline = cross_validate(popular, X_train, cv=folds, scoring=scoring)


# %%
# The table has the mean over the folds and, after ``+-``, the standard error of the mean.
def fold_scores(results, metric, candidate=None):
    """Return the score on each fold, of one candidate of a search or of a result of `cross_validate`."""
    if candidate is None:
        return results[f"test_{metric}"]
    return np.array([results[f"split{fold}_test_{metric}"][candidate] for fold in range(folds.n_splits)])


def mean_and_error(scores):
    return scores.mean(), scores.std(ddof=1) / np.sqrt(len(scores))


def print_line(label, found, seconds):
    cells = "   ".join("{:.4f} +- {:.4f}".format(*mean_and_error(scores)) for scores in found)
    print(f"{label:24} {cells}   {seconds:6.1f}")


print(f"\n{'':24} " + "   ".join(f"{metric:16}" for metric in METRICS) + "    fit s")
results = search.cv_results_
for i in np.argsort(results["rank_test_ndcg@100"]):
    K, beta = results["param_recommender__n_components"][i], results["param_recommender__beta"][i]
    found = [fold_scores(results, metric, i) for metric in METRICS]
    print_line(f"K = {K:<4} beta = {beta:<6g}", found, results["mean_fit_time"][i])
print_line("popularity", [fold_scores(baseline, metric) for metric in METRICS], baseline["fit_time"].mean())

# %%
# The best model, on rows that the search has not seen
# ----------------------------------------------------
# The best score of a search is biased upwards, because it is the best of many. The score on other rows has no such
# bias. Its standard error is over these rows.
winner = search.best_estimator_


def held_out_ndcg(pipeline):
    foldin, hidden = content_holdout(pipeline[:-1].transform(X_test))
    if hasattr(pipeline[-1], "recommend"):
        ranked, _ = pipeline[-1].recommend(foldin, k=100)
        per_row = ndcg_at_k(hidden, ranked=ranked, per_user=True)
    else:
        scores = pipeline[-1].decision_function(foldin).astype(float)
        scores[foldin.nonzero()] = -np.inf
        per_row = ndcg_at_k(hidden, scores, per_user=True)
    return mean_and_error(per_row[np.isfinite(per_row)])


print(f"\nBest: { ({name.partition('__')[2]: value for name, value in search.best_params_.items()}) }")
print(f"Held-out scores on {len(names_test):,} {row_word}s:")
held_out = {}
for label, pipeline in ("Mult-VAE", winner), ("popularity", popular.fit(X_train)):
    scores = scoring(pipeline, X_test)
    held_out[label], error = held_out_ndcg(pipeline)
    others = ", ".join(f"{metric} {scores[metric]:.4f}" for metric in METRICS[1:])
    print(f"  {label:11} ndcg@100 {held_out[label]:.4f} +- {error:.4f}, {others}")
print(f"  ratio of the NDCGs: {held_out['Mult-VAE'] / held_out['popularity']:.2f}")

# %%
# Recommendations by name
# -----------------------
# A Pipeline has no ``recommend``, so the script calls the earlier steps itself. ``recommend`` returns column numbers,
# and indexing with them gives the names. These rows were not used in the search either.
clicks = winner[:-1].transform(X_test)
n_items = np.diff(clicks.indptr)
groups = np.array([name.partition("/")[0] for name in names_test])  # for files, the package
candidates = np.flatnonzero((n_items >= 8) & (n_items <= 30))
_, first = np.unique(groups[candidates], return_index=True)
shown = candidates[np.sort(first)][-3:] if len(first) >= 3 else candidates[:3]
ids, _ = winner[-1].recommend(clicks[shown], k=5)
for row, recommended in zip(shown, ids, strict=True):
    has = item_names[clicks[[row]].indices]
    print(f"\n{names_test[row]} has")
    print("    " + "\n    ".join(has[:8]) + (f"\n    ... and {len(has) - 8} more" if len(has) > 8 else ""))
    print("  and might want")
    print("    " + "\n    ".join(item_names[recommended]))

# %%
# A picture
# ---------
# For the upper panels, the best model is fitted again, with some rows of the training data for validation. The same
# model is also fitted with ``beta = 1``. ``lower_bounds_`` is the bound on log p(x) at ``beta = 1``, whatever ``beta``
# the fit uses, so the two fits can be compared. In the fit with the small ``beta`` the bound falls. The code of this
# fit has more information about a row than is best for the bound, and it ranks better.
X_fit, X_val = train_test_split(winner[:-1].transform(X_train), test_size=0.15, random_state=0)
best = search.best_params_
watched = {
    f"beta = {beta:g}": clone(winner[-1]).set_params(beta=beta, early_stopping=False).fit(X_fit, X_val=X_val)
    for beta in (best["recommender__beta"], 1.0)
}

figure = plt.figure(figsize=(6.4, 9.6), layout="constrained")
upper, lower = figure.subplots(2, 1, height_ratios=[2, 1])
axes = upper
for label, model in watched.items():
    axes = FitHistoryDisplay.from_estimator(model, name=label, ax=axes).axes_
axes[0].set_title(f"Two fits, K = {best['recommender__n_components']}")

RankingDisplay.from_cv_results(
    search,
    "beta",
    metric="ndcg@100",
    ax=lower,
    baseline=mean_and_error(baseline["test_ndcg@100"]),
    baseline_name="popularity",
)
lower.set_title("The search")

figure.savefig(args.output, dpi=150)
print(f"\nPicture: {args.output}")

# %%
# The length of the list
# ----------------------
# The best model against the baseline on the rows that were kept aside, for lists of every length. Error bars are
# standard errors over the rows.
display = RankingDisplay.from_estimator(winner, X_test, name="Mult-VAE")
RankingDisplay.from_estimator(popular, X_test, name="popularity", ax=display.ax_)
plt.show()
