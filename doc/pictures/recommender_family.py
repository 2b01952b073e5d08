"""Quality of the recommenders on simulated users."""

import matplotlib.pyplot as plt
import numpy as np

from skvae import EASERecommender, MultDAERecommender, MultVAERecommender, PopularityRecommender, VotingRecommender
from skvae.datasets import make_interactions
from skvae.metrics import content_holdout, ndcg_at_k

X = make_interactions(2000, 300, random_state=0)
members = [("vae", MultVAERecommender(random_state=0)), ("ease", EASERecommender())]
models = {
    "popularity": PopularityRecommender(),
    "EASE": EASERecommender(),
    "Mult-DAE": MultDAERecommender(random_state=0),
    "Mult-VAE": MultVAERecommender(random_state=0),
    "vote of Mult-VAE\nand EASE": VotingRecommender(members),
}
seen, hidden = content_holdout(X[1000:])
quality = {}
for name, model in models.items():
    scores = model.fit(X[:1000]).decision_function(seen)
    scores[seen.nonzero()] = -np.inf
    each = ndcg_at_k(hidden, scores, per_user=True)
    each = each[np.isfinite(each)]
    quality[name] = each.mean(), each.std() / np.sqrt(len(each))
mean, error = np.array(list(quality.values())).T
figure, axis = plt.subplots(figsize=(6, 2.8), layout="constrained")
axis.barh(list(quality), mean, xerr=error, color="C0", alpha=0.8)
axis.invert_yaxis()
axis.set(xlabel="NDCG@100 on new users", xlim=(0, None))
