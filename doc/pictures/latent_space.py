"""Wines in the latent space of two factors, with the prior's contours."""

from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM
from skvae.displays import LatentSpaceDisplay

wine = load_wine()
X = StandardScaler().fit_transform(wine.data)
factors = FactorAnalysisEM(2, rotation="varimax").fit(X)
LatentSpaceDisplay.from_estimator(factors, X, [f"grower {grower}" for grower in wine.target])
