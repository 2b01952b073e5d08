"""
K chosen four ways
==================

Four rules choose the number of clusters, components or factors. They are the elbow of the inertia for K-means, the
held-out likelihood and BIC for a Gaussian mixture, and parallel analysis for factors. The data are 13 measurements of
178 wines.

The wines come from three growers, but the fits do not know this. A dotted line marks this number. The rules answer
different questions, so their results may differ.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM, KMeansLite
from skvae.displays import ComponentSelectionDisplay
from skvae.model_selection import parallel_analysis

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
N_STARTS = 1 if FAST else 5

X = StandardScaler().fit_transform(load_wine().data)
folds = KFold(5 if FAST else 10, shuffle=True, random_state=0)
KS = np.arange(1, 7 if FAST else 9)
KINDS = ["full", "tied", "diag"]
GREY = "#555555"


def mark_growers(display):
    display.ax_.axvline(3, color=GREY, linestyle=":", zorder=0)


# %%
# K-means: the elbow
# ------------------
# ``score`` is minus the inertia, so ``GridSearchCV`` fits all K, and ``negate_score`` draws the inertia. Look for the K
# after which the curve hardly falls. The star marks the best score. The ring marks the smallest K whose score is at
# most one standard error worse.
search = GridSearchCV(KMeansLite(n_init=N_STARTS, random_state=0), {"n_clusters": KS}, cv=folds).fit(X)
elbow = ComponentSelectionDisplay.from_cv_results(
    search, param_name="n_clusters", negate_score=True, score_name="inertia of held-out rows"
)
elbow.ax_.set_title("K-means: the elbow")
mark_growers(elbow)
print("inertia of held-out rows:", *(-search.cv_results_["mean_test_score"]).round(1))

# %%
# A mixture: held-out likelihood
# ------------------------------
# ``GridSearchCV`` uses the estimator's own ``score``, in nats per row. Error bars are standard errors over the folds.
# The kind of covariance matters as much as K: a full covariance of 13 columns has 91 parameters per component, so the
# mixture soon overfits.
mixture = GaussianMixtureEM(n_init=N_STARTS, reg_covar=1e-3, random_state=0)
search = GridSearchCV(mixture, {"n_components": KS, "covariance_type": KINDS}, cv=folds).fit(X)
likelihood = ComponentSelectionDisplay.from_cv_results(search, score_name="log p(x) of held-out rows, nats per row")
likelihood.ax_.set(title="Mixture: held-out likelihood", ylim=(-18.5, -14))
mark_growers(likelihood)
print("held-out likelihood: best", likelihood.best_, "one-standard-error rule", likelihood.selected_)

# %%
# A mixture: BIC
# --------------
# BIC needs one fit to all rows for each K. The penalty per parameter is half of log(178), that is 2.6 nats. The display
# takes plain numbers too.
bic = [[mixture.set_params(n_components=k, covariance_type=kind).fit(X).bic(X) for k in KS] for kind in KINDS]
criterion = ComponentSelectionDisplay(KS, bic, labels=KINDS, greater_is_better=False, score_name="BIC").plot()
criterion.ax_.set_title("Mixture: BIC, lower is better")
mark_growers(criterion)
print("lowest BIC:", criterion.best_)

# %%
# Factors: parallel analysis
# --------------------------
# The panel has the eigenvalues of the correlation matrix. The dashed line is the 95 % quantile of the eigenvalues after
# each column is shuffled on its own.
found = parallel_analysis(X, n_draws=100 if FAST else 500, random_state=0)
figure, eigenvalues = plt.subplots(layout="constrained")
numbers = np.arange(1, len(found.eigenvalues) + 1)
eigenvalues.plot(numbers, found.eigenvalues, color=GREY, marker="o", label="wines")
eigenvalues.plot(numbers, found.thresholds, color="#D55E00", linestyle="--", label="shuffled columns, 95 %")
eigenvalues.axvspan(0.5, found.n_components + 0.5, color="#009E73", alpha=0.12, linewidth=0)
eigenvalues.set(title=f"Factors: parallel analysis says {found.n_components}", xlabel="factor", ylabel="eigenvalue")
eigenvalues.set_xlim(0.5, len(numbers) + 0.5)
eigenvalues.legend()
print(f"parallel analysis: {found.n_components} factors")
plt.show()
