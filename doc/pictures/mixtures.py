"""Components of a Gaussian mixture as ellipses, and the regression that the mixture implies."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris

from skvae import GaussianMixtureEM
from skvae.displays import MixtureDisplay

X = load_iris().data[:, 2:]
mixture = GaussianMixtureEM(n_components=3, random_state=0).fit(X)

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1), sharex=True, sharey=True)
MixtureDisplay.from_estimator(mixture, X, order=np.argsort(mixture.means_[:, 0]), legend=False, ax=left)
left.set(title="components, 2 std. deviations", xlabel="petal length, cm", ylabel="petal width, cm")

grid = np.linspace(0.9, 7, 150)
width = mixture.condition([0], grid[:, None])
mean, spread = width.mean()[:, 0], 2 * np.sqrt(width.covariance()[:, 0, 0])
right.fill_between(grid, mean - spread, mean + spread, color="C0", alpha=0.2, linewidth=0, label="2 std. deviations")
right.scatter(*X.T, s=10, color="#555555", linewidths=0)
right.plot(grid, mean, color="C0", lw=2, label="E[width | length]")
right.set(title="mixture regression", xlabel="petal length, cm")
right.legend(loc="upper left", fontsize=9)
