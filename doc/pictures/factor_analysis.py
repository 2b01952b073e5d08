"""Loadings of the wine measurements, as fitted and after an oblique rotation."""

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM
from skvae.displays import LoadingsDisplay

wine = load_wine()
X = StandardScaler().fit_transform(wine.data)
names = [name.replace("_", " ").replace("od280/od315 of diluted wines", "OD280/OD315") for name in wine.feature_names]
titles = {None: "as fitted", "oblimin": "oblimin"}

figure, axes = plt.subplots(1, 2, figsize=(6.2, 4.4))
for axis, (rotation, title) in zip(axes, titles.items()):
    model = FactorAnalysisEM(3, rotation=rotation, tol=1e-8, max_iter=10_000).fit(X)
    display = LoadingsDisplay.from_estimator(
        model, feature_names=names, ax=axis, colorbar=False, values_format=".1f", image_kw={"vmin": -1, "vmax": 1}
    )
    axis.set_title(title)
axes[1].set_yticks([])
figure.colorbar(display.image_, ax=axes, label="loading", shrink=0.7)
