"""Four models, one panel each: the picture of the start page."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse
from scipy.stats import norm
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, GaussianMixtureEM, MultVAERecommender, VAETransformer
from skvae.datasets import make_interactions
from skvae.metrics import content_holdout, ndcg_at_k

figure, ((clusters, loadings), (plane, lists)) = plt.subplots(2, 2, figsize=(6.6, 6))

wine = load_wine()
X = StandardScaler().fit_transform(wine.data)
pair = wine.data[:, [wine.feature_names.index(name) for name in ("flavanoids", "color_intensity")]]
mixture = GaussianMixtureEM(n_components=3, n_init=5, random_state=0).fit(pair)
labels = mixture.predict(pair)
for colour, (k, marker) in enumerate(zip(np.argsort(mixture.means_[:, 0]), "o^s")):
    clusters.scatter(*pair[labels == k].T, s=12, color=f"C{colour}", marker=marker, alpha=0.6, linewidths=0)
    variances, directions = np.linalg.eigh(mixture.covariances_[k])
    angle = np.degrees(np.arctan2(*directions[::-1, 0]))
    shape = Ellipse(mixture.means_[k], *4 * np.sqrt(variances), angle=angle, fill=False, edgecolor=f"C{colour}", lw=2)
    clusters.add_patch(shape)
clusters.set(title="GaussianMixtureEM", xlabel="flavanoids of wines", ylabel="colour intensity")

found = FactorAnalysisEM(3, rotation="oblimin", tol=1e-8, max_iter=10_000).fit(X).components_.T
drawn = loadings.imshow(found, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
loadings.set(title="FactorAnalysisEM", xlabel="factor", ylabel="measurement of wines")
loadings.set_xticks(range(3), ["1", "2", "3"])
loadings.set_yticks([])
figure.colorbar(drawn, ax=loadings, label="loading")

images = load_digits().data / 16
vae = VAETransformer(
    2, hidden_layer_sizes=(128, 64), likelihood="bernoulli", early_stopping=False, max_iter=100, random_state=0
).fit(images)
side = norm.ppf(np.linspace(0.04, 0.96, 10))
z = np.array([(across, up) for up in side[::-1] for across in side])
expected = vae.inverse_transform(z).reshape(10, 10, 8, 8).transpose(0, 2, 1, 3).reshape(80, 80)
plane.imshow(expected, cmap="Greys", vmin=0, vmax=1)
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
