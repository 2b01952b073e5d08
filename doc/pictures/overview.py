"""Four models, one panel each: the picture of the start page."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, GaussianMixtureEM, MultVAERecommender, VAETransformer
from skvae.datasets import make_interactions
from skvae.displays import LatentTraversalDisplay, LoadingsDisplay, MixtureDisplay
from skvae.metrics import content_holdout, ndcg_at_k

figure, ((clusters, loadings), (plane, lists)) = plt.subplots(2, 2, figsize=(6.6, 6))

wine = load_wine()
X = StandardScaler().fit_transform(wine.data)
pair = wine.data[:, [wine.feature_names.index(name) for name in ("flavanoids", "color_intensity")]]
mixture = GaussianMixtureEM(n_components=3, n_init=5, random_state=0).fit(pair)
order = np.argsort(mixture.means_[:, 0])
MixtureDisplay.from_estimator(mixture, pair, order=order, legend=False, ax=clusters, scatter_kw={"s": 10})
clusters.set(title="GaussianMixtureEM", xlabel="flavanoids of wines", ylabel="colour intensity")

factors = FactorAnalysisEM(3, rotation="oblimin", tol=1e-8, max_iter=10_000).fit(X)
LoadingsDisplay.from_estimator(factors, include_values=False, ax=loadings)
loadings.set(title="FactorAnalysisEM", ylabel="measurement of wines", yticks=[])

images = load_digits().data / 16
vae = VAETransformer(
    2, hidden_layer_sizes=(128, 64), likelihood="bernoulli", early_stopping=False, max_iter=100, random_state=0
).fit(images)
LatentTraversalDisplay.from_plane(vae, (8, 8), steps=10, ax=plane, image_kw={"vmin": 0, "vmax": 1})
plane.set(title="VAETransformer", xlabel="first latent dimension", ylabel="second", xticks=[], yticks=[])

X = make_interactions(1500, 300, random_state=0)
seen, hidden = content_holdout(X[1200:])
popular = np.tile(np.asarray(X[:1200].sum(axis=0)).ravel().astype(float), (300, 1))
popular[seen.nonzero()] = -np.inf
model = MultVAERecommender(n_components=20, random_state=0).fit(X[:1200])
ranked, _ = model.recommend(seen, k=100)
values = [ndcg_at_k(hidden, popular), ndcg_at_k(hidden, ranked=ranked)]
bars = lists.bar(["popularity", "skvae"], values, color=["#777777", "C0"], width=0.6)
lists.bar_label(bars, fmt="%.2f")
lists.set(title="MultVAERecommender", ylabel="NDCG@100 on new users")
