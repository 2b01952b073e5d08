"""Iris with missing cells: clusters of a mixture, and the cells that it fills in."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris

from skvae import GaussianMixtureEM

truth = load_iris().data
flowers = truth.copy()
missing = np.arange(len(flowers)) % 5 == 0
flowers[missing, 2] = np.nan
mixture = GaussianMixtureEM(n_components=3, random_state=0).fit(flowers)
filled = mixture.impute(flowers)

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1))
labels = mixture.predict(flowers)
for k, marker in zip(np.argsort(mixture.means_[:, 2]), "o^s"):
    left.scatter(*filled[labels == k][:, 2:].T, s=14, marker=marker, label=f"cluster {k}")
left.set(title="three clusters", xlabel="petal length, cm", ylabel="petal width, cm")
left.legend(handletextpad=0)
right.plot([1, 7], [1, 7], color="#555555", lw=1)
right.plot(truth[missing, 2], filled[missing, 2], "o", ms=4, color="C1")
right.set(title="missing cells, filled in", xlabel="true petal length, cm", ylabel="imputed petal length, cm")
right.set_aspect("equal")
