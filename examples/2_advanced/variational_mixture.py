"""
Components that empty themselves
================================

A mixture of Gaussians with a prior is fitted to rows of three clusters, with ten components. The components that the
rows do not need lose them. No number of clusters is chosen beforehand.

Two priors of the weights are compared. A Dirichlet distribution treats all ten components alike. A Dirichlet process
breaks sticks off one after another: the first components are larger, and there is no last one.
"""

import os
import warnings

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from sklearn.exceptions import ConvergenceWarning

from skvae import GaussianMixtureEM, VariationalGaussianMixture

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
N_ITERATIONS = 15 if FAST else 200
N_COMPONENTS = 10
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's palette for colour-blind readers
GREY = "#777777"
PRIORS = {"Dirichlet distribution": "dirichlet_distribution", "Dirichlet process": "dirichlet_process"}
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
warnings.simplefilter("ignore", ConvergenceWarning)  # the fits below are watched step by step

rng = np.random.default_rng(0)
CENTRES = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 6.0]])
SHAPES = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.9], [0.0, 0.6]], [[1.4, 0.0], [0.0, 0.6]]])
cluster = rng.choice(3, 500, p=[0.5, 0.3, 0.2])
X = CENTRES[cluster] + np.einsum("nd,nde->ne", rng.normal(size=(500, 2)), SHAPES[cluster])


# %%
# Weights, iteration by iteration
# -------------------------------
# With ``warm_start`` and ``max_iter=1`` each call of ``fit`` is one iteration. K-means shares the rows out among all
# ten components at first. Components that describe one cluster together compete for its rows, and one of them wins.
# This takes long where they overlap, so give such a fit iterations.
def watched(prior):
    """Return a fitted mixture and the weights after each iteration."""
    mixture = VariationalGaussianMixture(
        N_COMPONENTS, weight_concentration_prior_type=prior, warm_start=True, max_iter=1, random_state=0
    )
    return mixture, np.array([mixture.fit(X).weights_ for _ in range(N_ITERATIONS)])


fits = {label: watched(prior) for label, prior in PRIORS.items()}
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True, layout="constrained")
for axis, (label, (mixture, weights)) in zip(axes, fits.items(), strict=True):
    largest = np.argsort(-weights[-1])
    for k in largest[3:]:
        axis.plot(np.arange(1, N_ITERATIONS + 1), weights[:, k], color=GREY, lw=1)
    for colour, k in zip(COLOURS, largest, strict=False):
        axis.plot(np.arange(1, N_ITERATIONS + 1), weights[:, k], color=colour, lw=2.5)
    axis.set(title=label, xlabel="iteration", xscale="log", ylim=(0, 0.6))
    print(
        f"{label:22} {(mixture.weights_ > 0.01).sum()} components above 1 %: {np.sort(mixture.weights_)[::-1].round(2)}"
    )
axes[0].set_ylabel("weight of a component")


# %%
# What is left
# ------------
# Ellipses have a radius of two standard deviations. The heavier a component, the stronger its line. Black crosses
# are the means of components without rows: they go back to the prior mean, in the middle of the table. Without a
# prior, the most likely mixture of ten components uses them all.
def draw_mixture(axis, mixture):
    axis.scatter(*X.T, s=6, c=GREY, alpha=0.35, linewidths=0)
    used = [k for k in np.argsort(-mixture.weights_) if mixture.weights_[k] > 0.01]
    for rank, k in enumerate(used):
        variances, directions = np.linalg.eigh(mixture.covariances_[k])
        width, height = 4 * np.sqrt(variances)
        angle = np.degrees(np.arctan2(*directions[::-1, 0]))
        colour = COLOURS[rank % 3]
        line = 1 + 4 * mixture.weights_[k]
        axis.add_patch(
            Ellipse(mixture.means_[k], width, height, angle=angle, fill=False, edgecolor=colour, linewidth=line)
        )
    empty = mixture.means_[mixture.weights_ <= 0.01]
    axis.scatter(*empty.T, s=40, marker="x", c="black", linewidths=1)
    axis.set(xlabel="first column", ylabel="second column", xlim=(-5, 9), ylim=(-4, 9), aspect="equal")
    return len(used)


most_likely = GaussianMixtureEM(N_COMPONENTS, random_state=0).fit(X)
figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.4), layout="constrained")
for axis, label, mixture in (
    (axes[0], "most likely parameters", most_likely),
    (axes[1], "posterior, Dirichlet process", fits["Dirichlet process"][0]),
):
    n_used = draw_mixture(axis, mixture)
    axis.set_title(f"{label}:\n{n_used} of {N_COMPONENTS} components have rows")

# %%
# The evidence lower bound
# ------------------------
# ``lower_bounds_`` is in nats per sample, and comparable between numbers of components. It is highest near the true
# number, and falls only a little where there are more components than needed. The log-likelihood of the most likely
# parameters rises with every component.
NUMBERS = np.arange(1, 4 if FAST else 9)
bounds = [
    VariationalGaussianMixture(k, weight_concentration_prior=1.0, max_iter=N_ITERATIONS, random_state=0)
    .fit(X)
    .lower_bounds_[-1]
    for k in NUMBERS
]
likelihoods = [GaussianMixtureEM(k, n_init=1 if FAST else 3, random_state=0).fit(X).score(X) for k in NUMBERS]
figure, axis = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
axis.plot(NUMBERS, likelihoods, "s--", color=COLOURS[1], label="log-likelihood, most likely parameters")
axis.plot(NUMBERS, bounds, "o-", color=COLOURS[0], label="evidence lower bound")
axis.set(xlabel="number of components", ylabel="nats per sample", xticks=NUMBERS)
axis.legend()
print(f"bound is highest with {NUMBERS[np.argmax(bounds)]} components")
plt.show()
