"""NDCG of three recommenders against the length of the list."""

from skvae import EASERecommender, MultVAERecommender, PopularityRecommender
from skvae.datasets import make_interactions
from skvae.displays import RankingDisplay

X = make_interactions(1500, 300, random_state=0)
models = {
    "EASE": EASERecommender(),
    "Mult-VAE": MultVAERecommender(n_components=20, random_state=0),
    "popularity": PopularityRecommender(),
}
axis = None
for name, model in models.items():
    axis = RankingDisplay.from_estimator(model.fit(X[:1200]), X[1200:], name=name, ax=axis).ax_
