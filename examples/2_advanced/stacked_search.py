"""
A search whose networks train side by side
==========================================

A training step of a small network takes about a millisecond of overhead and only microseconds of computation.
``StackedGridSearchCV`` takes one step for the networks of all candidates and folds together. It is used like
``GridSearchCV`` and has the same results.
"""

import os
import time

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, KFold

from skvae import VAETransformer
from skvae.displays import ComponentSelectionDisplay
from skvae.model_selection import StackedGridSearchCV

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# The same search twice
# ---------------------
# The search chooses the number of dimensions and the weight decay by the held-out log p(x) of 178 wines, in nats. Every
# network is trained to the end, without early stopping. Times are processor times, so other work on the machine does
# not count.
X = load_wine().data
vae = VAETransformer(early_stopping=False, max_iter=30 if FAST else 60, random_state=0)
grid = {
    "n_components": [1, 2, 3] if FAST else [1, 2, 3, 4],
    "weight_decay": [0.0, 0.1] if FAST else [0.0, 0.1, 1.0],
}
folds = KFold(3, shuffle=True, random_state=0)
searches, seconds = {}, {}
for kind in (GridSearchCV, StackedGridSearchCV):
    began = time.process_time()
    searches[kind] = kind(vae, grid, cv=folds).fit(X)
    seconds[kind] = time.process_time() - began
    best = searches[kind].best_params_
    print(f"{kind.__name__:20} {seconds[kind]:5.1f} s, best {best}, {searches[kind].best_score_:.3f} nats")

results = {kind: search.cv_results_ for kind, search in searches.items()}
apart = np.abs(results[GridSearchCV]["mean_test_score"] - results[StackedGridSearchCV]["mean_test_score"]).max()
print(f"{folds.n_splits * len(results[GridSearchCV]['params'])} fits; scores differ by {apart:.1e} nats at most")

# %%
# The scores
# ----------
# The picture has the scores of all candidates, with standard errors over the folds. Lines are from ``GridSearchCV``,
# and crosses are from ``StackedGridSearchCV``.
display = ComponentSelectionDisplay.from_cv_results(
    searches[GridSearchCV], score_name="held-out log p(x), nats per wine"
)
stacked = results[StackedGridSearchCV]
crosses = {"linestyle": "none", "marker": "x", "color": "black", "markersize": 10, "zorder": 4}
display.ax_.plot(stacked["param_n_components"].astype(int), stacked["mean_test_score"], **crosses)
display.ax_.set_title(f"the same scores to {apart:.0e}")

# %%
# The time
# --------
figure, right = plt.subplots(figsize=(5, 3.4), layout="constrained")
names = [kind.__name__ for kind in seconds]
bars = right.bar(names, list(seconds.values()), color=["#555555", "#D55E00"])
right.bar_label(bars, fmt="%.1f s")
right.set(title=f"{seconds[GridSearchCV] / seconds[StackedGridSearchCV]:.1f} times less", ylabel="processor time, s")
plt.show()
