"""Components of a Gaussian mixture as ellipses, and the regression that the mixture implies."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from sklearn.datasets import load_iris

from skvae import GaussianMixtureEM

X = load_iris().data[:, 2:]
mixture = GaussianMixtureEM(n_components=3, random_state=0).fit(X)
labels = mixture.predict(X)

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1), sharex=True, sharey=True)
for colour, (k, marker) in enumerate(zip(np.argsort(mixture.means_[:, 0]), "o^s")):
    left.scatter(*X[labels == k].T, s=12, color=f"C{colour}", marker=marker, alpha=0.6, linewidths=0)
    variances, directions = np.linalg.eigh(mixture.covariances_[k])
    angle = np.degrees(np.arctan2(*directions[::-1, 0]))
    width, height = 4 * np.sqrt(variances)
    left.add_patch(Ellipse(mixture.means_[k], width, height, angle=angle, fill=False, edgecolor=f"C{colour}", lw=2))
left.set(title="components, 2 std. deviations", xlabel="petal length, cm", ylabel="petal width, cm")

grid = np.linspace(0.9, 7, 150)
width = mixture.condition([0], grid[:, None])
mean, spread = width.mean()[:, 0], 2 * np.sqrt(width.covariance()[:, 0, 0])
right.fill_between(grid, mean - spread, mean + spread, color="C0", alpha=0.2, linewidth=0, label="2 std. deviations")
right.scatter(*X.T, s=10, color="#555555", linewidths=0)
right.plot(grid, mean, color="C0", lw=2, label="E[width | length]")
right.set(title="mixture regression", xlabel="petal length, cm")
right.legend(loc="upper left", fontsize=9)
