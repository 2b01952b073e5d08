"""Loadings of the wine measurements, as fitted and after an oblique rotation."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM

wine = load_wine()
X = StandardScaler().fit_transform(wine.data)
names = [name.replace("_", " ").replace("od280/od315 of diluted wines", "OD280/OD315") for name in wine.feature_names]
titles = {None: "as fitted", "oblimin": "oblimin"}

figure, axes = plt.subplots(1, 2, figsize=(6.2, 4.4))
for axis, (rotation, title) in zip(axes, titles.items()):
    loadings = FactorAnalysisEM(3, rotation=rotation, tol=1e-8, max_iter=10_000).fit(X).components_.T
    loadings = loadings[:, np.argsort(-(loadings**2).sum(axis=0))]
    drawn = axis.imshow(loadings, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(loadings):
        colour = "white" if abs(value) > 0.6 else "black"
        axis.text(
            column, row, f"{value:.1f}".replace("-0.0", "0.0"), ha="center", va="center", color=colour, fontsize=9
        )
    axis.set_title(title)
    axis.set_xticks(range(3), ["factor 1", "2", "3"])
    axis.set_yticks(range(13), names if rotation is None else [])
figure.colorbar(drawn, ax=axes, label="loading", shrink=0.7)
