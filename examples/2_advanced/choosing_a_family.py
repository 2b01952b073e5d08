"""
A family and its size, chosen together
======================================

Every density of the package gives log p(x) of a row in nats. So one search compares factor models, mixtures and
variational autoencoders with each other, and each with any K: a pipeline's last step is itself a parameter. The three
tables are the chemistry of 178 wines, 569 breast tumours of which a tenth of the cells was removed, and 442 diabetes
patients with a column that is no number.

Models have one scale only if they read the same columns under the same measure. ``make_evidence_scorer`` checks that.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, GaussianMixtureEM, ProbabilisticPCA, VAETransformer
from skvae.model_selection import make_evidence_scorer

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
EPOCHS = 5 if FAST else "auto"
folds = KFold(2 if FAST else 5, shuffle=True, random_state=0)
# Okabe and Ito's palette for colour-blind readers, and markers that differ as well.
STYLES = [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#000000", "v")]
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
warnings.simplefilter("ignore", ConvergenceWarning)  # some candidates are too large for the folds

mixture = GaussianMixtureEM(covariance_type="diag", n_init=1 if FAST else 3, reg_covar=1e-3, random_state=0)


def search(X, families, scale=True):
    """Search over families and K at once; the score is the mean log p(x) of held-out rows."""
    grid = [{"density": [model], "density__n_components": sizes} for model, sizes in families.values()]
    steps = [("scale", StandardScaler())] if scale else []
    pipeline = Pipeline([*steps, ("density", FactorAnalysisEM())])
    found = GridSearchCV(pipeline, grid, scoring=make_evidence_scorer(), cv=folds, refit=False, error_score="raise")
    return found.fit(X).cv_results_


def draw(results, families, title):
    """Held-out log-evidence against K, a line for each family, with standard errors over the folds."""
    axis = plt.subplots(figsize=(6.2, 3.6), layout="constrained")[1]
    mean, error = results["mean_test_score"], results["std_test_score"] / np.sqrt(folds.n_splits - 1)
    begin = 0
    for (name, (_, sizes)), (colour, marker) in zip(families.items(), STYLES):
        of = slice(begin, begin := begin + len(sizes))
        axis.errorbar(sizes, mean[of], error[of], color=colour, marker=marker, capsize=3, label=name)
        best = np.argmax(mean[of])
        print(f"  {name:22s} K = {sizes[best]}: {mean[of][best]:7.2f} +- {error[of][best]:.2f} nats a row")
    axis.set(title=title, xlabel="K: components or latent dimensions", ylabel="held-out log p(x), nats a row")
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return axis


# %%
# Numbers: the wines
# ------------------
# The scaler is a step of the pipeline. The scorer takes its factors into account, so the score is that of the columns
# as they are. Thirteen columns and three growers: which of the two structures, factors or clusters, describes new
# wines better?
X = load_wine().data
SIZES = [1, 2] if FAST else [1, 2, 3, 4, 5, 6]
families = {
    "factor analysis": (FactorAnalysisEM(), SIZES),
    "probabilistic PCA": (ProbabilisticPCA(), SIZES),
    "mixture, diagonal": (mixture, SIZES),
    "mixture, tied": (GaussianMixtureEM(covariance_type="tied", reg_covar=1e-3, random_state=0), SIZES),
    "autoencoder": (VAETransformer(max_iter=EPOCHS, random_state=0), SIZES[1:4]),
}
print("wines")
draw(search(X, families), families, "178 wines, 13 numbers")

# %%
# Missing cells: the tumours
# --------------------------
# The likelihood is that of the observed cells, in every family. Nothing is imputed: imputed cells would be scored as if
# they had been seen. The thirty columns are strongly correlated (radius, perimeter, area), so that a mixture with
# diagonal covariances would need very many components to follow them.
X = load_breast_cancer().data
X[np.random.default_rng(0).random(X.shape) < 0.1] = np.nan
X = X[:150] if FAST else X
SIZES = [1, 2] if FAST else [1, 2, 4, 8, 12, 15]
families = {
    "factor analysis": (FactorAnalysisEM(), SIZES),
    "probabilistic PCA": (ProbabilisticPCA(), SIZES),
    "mixture, diagonal": (mixture, SIZES),
    "mixture, full": (clone(mixture).set_params(covariance_type="full", n_init=1), SIZES[:2]),
    "autoencoder": (VAETransformer(max_iter=EPOCHS, random_state=0), SIZES[1:2] if FAST else [4, 8]),
}
print("tumours, a tenth of the cells missing")
draw(search(X, families), families, "569 tumours, 30 numbers, 10 % missing")

# %%
# Numbers and a category: the patients
# ------------------------------------
# Nine columns are numbers, and ``sex`` is a category. Its probability and the density of the numbers make one
# log-likelihood, which only models with both kinds of columns share: here autoencoders, with and without a hidden
# layer. ``likelihood="auto"`` and the scorer both go by the types of the columns.
X = load_diabetes(as_frame=True, scaled=False).data
X["sex"] = X["sex"].map({1.0: "one", 2.0: "two"}).astype("category")
X = X[:150] if FAST else X
SIZES = [1, 2] if FAST else [1, 2, 3, 4]
linear = VAETransformer(hidden_layer_sizes=(), likelihood="auto", max_iter=EPOCHS, random_state=0)
families = {
    "linear decoder": (linear, SIZES),
    "hidden layer of 64": (VAETransformer(likelihood="auto", max_iter=EPOCHS, random_state=0), SIZES),
}
print("patients, nine numbers and a category")
draw(search(X, families, scale=False), families, "442 patients, 9 numbers and a category")

# %%
# What is refused
# ---------------
# A Gaussian takes the two values of ``sex`` for numbers. Its density there has no upper limit: the smaller the variance
# of a component at 1 or 2, the higher the score. Beside a probability, which is at most 1, it would win any search. The
# scorer says so.
numbers = load_diabetes(scaled=False).data
for floor in (1e-2, 1e-4, 1e-6, 1e-8):
    wrong = GaussianMixtureEM(4, covariance_type="diag", reg_covar=floor, max_iter=500, n_init=5, random_state=0)
    wrong.fit(numbers)
    print(f"a mixture on the codes of sex, reg_covar={floor:g}: {wrong.score(numbers):.1f} nats a row")
try:
    make_evidence_scorer(["density", "probability", *["density"] * 8])(wrong, numbers)
except ValueError as error:
    print(error)

plt.show()
