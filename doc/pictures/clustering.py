"""Clusters and centres of two columns, and the inertia during the fit."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_blobs

from skvae import KMeansLite

X, _ = make_blobs(600, centers=5, cluster_std=1.1, random_state=3)
start = X[:5]
clusters = KMeansLite(n_clusters=5, init=start, n_init=1).fit(X)

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.1), width_ratios=[1.2, 1])
for k, marker in enumerate("o^sDv"):
    left.scatter(*X[clusters.labels_ == k].T, s=9, marker=marker, alpha=0.6, linewidths=0)
left.plot(*start.T, "+", color="black", ms=8, label="initial centres")
left.plot(*clusters.cluster_centers_.T, "X", color="black", mec="white", ms=10, ls="", label="final centres")
left.set(title="rows and centres", xlabel="first column", ylabel="second column")
left.legend(fontsize=8, loc="best", frameon=True)
iterations = np.arange(1, len(clusters.lower_bounds_) + 1)
right.plot(iterations, clusters.lower_bounds_, "o-", ms=4)
right.set(title="minus the inertia per row", xlabel="iteration", ylabel="lower_bounds_")
