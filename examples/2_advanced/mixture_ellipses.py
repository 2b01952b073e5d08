"""
Mixtures as ellipses
====================

A mixture of three Gaussians is fitted to two measurements of 178 wines. The first picture has the four kinds of
covariance. The others have missing cells, sample weights, and a regression. An ellipse has a radius of two
standard deviations and contains 86 % of the probability of its component.

The regression curve is the mean of colour given flavanoids under the fitted density. It falls and then rises, because
different clusters of wines dominate at different values of flavanoids.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM
from skvae.displays import MixtureDisplay

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
N_STARTS = 1 if FAST else 5

wine = load_wine()
COLUMNS = [wine.feature_names.index(name) for name in ("flavanoids", "color_intensity")]
X = StandardScaler().fit_transform(wine.data[:, COLUMNS])
NAMES = ["flavanoids", "colour intensity"]
GREY = "#555555"


# %%
# Drawing a mixture
# -----------------
# ``MixtureDisplay`` draws the rows and an ellipse for each component. The axes of an ellipse are the eigenvectors of
# the covariance. Here the components get their colours from left to right, so the same cluster has the same colour in
# every panel.
def draw(mixture, rows=None, **settings):
    order = np.argsort(mixture.means_[:, 0])
    display = MixtureDisplay.from_estimator(mixture, rows, feature_names=NAMES, order=order, legend=False, **settings)
    return display.axes_[0]


def draw_over(axis, mixture):
    """Add the ellipses of another fit, with dotted lines."""
    draw(mixture, ax=axis, ellipse_kw={"linestyle": ":"})


def fitted(kind, rows, **given):
    return GaussianMixtureEM(3, covariance_type=kind, n_init=N_STARTS, random_state=0).fit(rows, **given)


# %%
# Four kinds of covariance
# ------------------------
# With "full" each component has its own ellipse. With "tied" all have the same ellipse. With "diag" the ellipses are
# along the axes. With "spherical" they are circles. BIC combines the likelihood and the number of parameters; lower is
# better.
figure, axes = plt.subplots(2, 2, figsize=(6.4, 6.2), layout="constrained")
for axis, kind in zip(axes.flat, ("full", "tied", "diag", "spherical"), strict=True):
    mixture = fitted(kind, X)
    draw(mixture, X, ax=axis)
    axis.set(xlim=(-3, 3.4), ylim=(-2.6, 3.8))
    axis.set_title(f"{kind}, BIC {mixture.bic(X):.0f}")
    print(f"{kind:10} {mixture.n_iter_:3} iterations, {mixture.score(X):.3f} nats a row, BIC {mixture.bic(X):.0f}")

# %%
# Missing cells
# -------------
# Colour is missing in most wines with few flavanoids. Whether it is missing depends only on flavanoids, which are
# always observed. So the cells are missing at random. The fit to all rows (solid) uses the flavanoids of the incomplete
# rows, and the cluster on the left keeps its weight. In the fit to the complete rows (dotted) this cluster has too
# little weight. Crosses are the incomplete rows after ``impute``. They are on the curve of conditional means.
rng = np.random.default_rng(0)
incomplete = (X[:, 0] < -0.5) & (rng.random(len(X)) < 0.6)
X_missing = X.copy()
X_missing[incomplete, 1] = np.nan
gappy, complete = fitted("full", X_missing), fitted("full", X[~incomplete])
filled = gappy.impute(X_missing)
axis = draw(gappy, X[~incomplete])
axis.scatter(*filled[incomplete].T, s=24, marker="x", c=GREY)
draw_over(axis, complete)


def share_on_the_left(mixture):
    return mixture.weights_[mixture.means_[:, 0].argmin()]


shares = f"share on the left {share_on_the_left(gappy):.0%}, dotted {share_on_the_left(complete):.0%}"
axis.set_title(f"cells missing at random,\n{shares}")

print(f"\n{incomplete.sum()} of {len(X)} wines without colour. Share of the cluster on the left:")
for label, mixture in ("nothing missing", fitted("full", X)), ("all rows", gappy), ("complete rows", complete):
    print(f"  fit to {label:16} {share_on_the_left(mixture):.2f}")

# %%
# Sample weights
# --------------
# Of the grower with the darkest wines, only every third wine is kept, and it has the weight 3. Solid ellipses are
# fitted with these weights, dotted ellipses without.
rare = wine.target == 2
kept = ~rare | (np.cumsum(rare) % 3 == 0)
weight = np.where(rare[kept], 3.0, 1.0)
weighted, unweighted = fitted("full", X[kept], sample_weight=weight), fitted("full", X[kept])
axis = draw(weighted, X[kept])
draw_over(axis, unweighted)
shares = f"share on the left {share_on_the_left(weighted):.0%}, dotted {share_on_the_left(unweighted):.0%}"
axis.set_title(f"a third of one grower's wines, weight 3,\n{shares}")
print(f"\n{(~kept).sum()} wines of one grower left out. Share of the cluster on the left:")
for label, mixture in ("with weights", weighted), ("without", unweighted):
    print(f"  {label:16} {share_on_the_left(mixture):.2f}")

# %%
# Mixture regression
# ------------------
# ``condition`` returns the mixture of colour at each value of flavanoids. It uses the fit to the incomplete table. The
# band is two standard deviations wide on each side, and its width varies with flavanoids.
grid = np.linspace(X[:, 0].min(), X[:, 0].max(), 200)
conditional = gappy.condition([0], grid[:, None])
centre = conditional.mean()[:, 0]
spread = 2 * np.sqrt(conditional.covariance()[:, 0, 0])
figure, axis = plt.subplots(layout="constrained")
axis.fill_between(grid, centre - spread, centre + spread, color="#0072B2", alpha=0.15, linewidth=0)
axis.scatter(*X[~incomplete].T, s=12, c=GREY, alpha=0.6, linewidths=0, label="wines with colour")
axis.plot(grid, centre, color="#0072B2", lw=2.5, label="E[colour | flavanoids]")
axis.set(title="mixture regression", xlabel=NAMES[0], ylabel=NAMES[1])
axis.legend(loc="upper right")
plt.show()
