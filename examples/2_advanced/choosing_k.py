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
from sklearn.model_selection import GridSearchCV, KFold, ValidationCurveDisplay
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM, KMeansLite
from skvae.model_selection import parallel_analysis

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
N_STARTS = 1 if FAST else 5

X = StandardScaler().fit_transform(load_wine().data)
folds = KFold(5 if FAST else 10, shuffle=True, random_state=0)
KS = np.arange(1, 7 if FAST else 9)
COLOURS = {"full": "#0072B2", "tied": "#D55E00", "diag": "#009E73"}  # Okabe and Ito's palette for colour-blind readers
GREY = "#555555"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})


def panel():
    return plt.subplots(figsize=(6.2, 3.6), layout="constrained")[1]


def mark_growers(axis):
    axis.axvline(3, color=GREY, linestyle=":", zorder=0)
    axis.set_xticks(KS)


# %%
# K-means: the elbow
# ------------------
# ``score`` is minus the inertia, so scikit-learn's display can draw it. Look for the K after which the curve hardly
# falls.
elbow = panel()
curve = ValidationCurveDisplay.from_estimator(
    KMeansLite(n_init=N_STARTS, random_state=0),
    X,
    None,
    param_name="n_clusters",
    param_range=KS,
    cv=folds,
    score_type="test",
    negate_score=True,
    score_name="inertia of held-out rows",
    std_display_style="errorbar",
    ax=elbow,
    errorbar_kw={"color": GREY, "marker": "o", "capsize": 3},
)
elbow.set(title="K-means: the elbow (mean and spread over folds)", xlabel="clusters")
elbow.get_legend().remove()
mark_growers(elbow)
inertia = -curve.test_scores.mean(axis=1)
print("inertia of held-out rows:", *inertia.round(1))

# %%
# A mixture: held-out likelihood
# ------------------------------
# ``GridSearchCV`` uses the estimator's own ``score``, in nats per row. Error bars are standard errors over the folds.
# The kind of covariance matters as much as K: a full covariance of 13 columns has 91 parameters per component, so the
# mixture soon overfits.
mixture = GaussianMixtureEM(n_init=N_STARTS, reg_covar=1e-3, random_state=0)
search = GridSearchCV(mixture, {"n_components": KS, "covariance_type": [*COLOURS]}, cv=folds).fit(X)
results = search.cv_results_
likelihood = panel()
for (kind, colour), marker in zip(COLOURS.items(), "os^", strict=True):
    of_kind = results["param_covariance_type"] == kind
    error = results["std_test_score"][of_kind] / np.sqrt(folds.n_splits)
    mean = results["mean_test_score"][of_kind]
    likelihood.errorbar(KS, mean, error, color=colour, marker=marker, capsize=3, label=kind)
likelihood.set(title="Mixture: held-out likelihood", xlabel="components", ylabel="nats a row", ylim=(-18.5, -14))
likelihood.legend(title="covariance")
mark_growers(likelihood)
print("held-out likelihood:", search.best_params_)

# %%
# A mixture: BIC
# --------------
# BIC needs one fit to all rows for each K. The penalty per parameter is half of log(178), that is 2.6 nats.
bic = {kind: [mixture.set_params(n_components=k, covariance_type=kind).fit(X).bic(X) for k in KS] for kind in COLOURS}
criterion = panel()
for (kind, colour), marker in zip(COLOURS.items(), "os^", strict=True):
    criterion.plot(KS, bic[kind], color=colour, marker=marker, label=kind)
    print(f"lowest BIC, {kind}: {min(bic[kind]):.0f} at K = {KS[np.argmin(bic[kind])]}")
criterion.set(title="Mixture: BIC, lower is better", xlabel="components", ylabel="BIC")
criterion.legend(title="covariance")
mark_growers(criterion)

# %%
# Factors: parallel analysis
# --------------------------
# The panel has the eigenvalues of the correlation matrix. The dashed line is the 95 % quantile of the eigenvalues after
# each column is shuffled on its own.
found = parallel_analysis(X, n_draws=100 if FAST else 500, random_state=0)
eigenvalues = panel()
numbers = np.arange(1, len(found.eigenvalues) + 1)
eigenvalues.plot(numbers, found.eigenvalues, color=GREY, marker="o", label="wines")
eigenvalues.plot(numbers, found.thresholds, color="#D55E00", linestyle="--", label="shuffled columns, 95 %")
eigenvalues.axvspan(0.5, found.n_components + 0.5, color="#009E73", alpha=0.12, linewidth=0)
eigenvalues.set(title=f"Factors: parallel analysis says {found.n_components}", xlabel="factor", ylabel="eigenvalue")
eigenvalues.set_xlim(0.5, len(numbers) + 0.5)
eigenvalues.legend()
print(f"parallel analysis: {found.n_components} factors")
plt.show()
