"""Ranking of hidden items during a fit, between popularity and the best possible ranking."""

import matplotlib.pyplot as plt
import numpy as np

from skvae import MultVAERecommender
from skvae.datasets import make_interactions
from skvae.metrics import content_holdout, ndcg_at_k

X, Z, V, b = make_interactions(1500, 300, return_factors=True, random_state=0)
model = MultVAERecommender(n_components=20, max_iter=40, early_stopping=False, random_state=0)
model.fit(X[:1200], X_val=X[1200:])

seen, hidden = content_holdout(X[1200:])


def quality(scores):
    scores = np.array(scores, dtype=float)
    scores[seen.nonzero()] = -np.inf
    return ndcg_at_k(hidden, scores)


popularity = quality(np.tile(np.asarray(X[:1200].sum(axis=0)).ravel(), (300, 1)))
best = quality(b + Z[1200:] @ V.T)
figure, axis = plt.subplots(figsize=(6, 3.2))
axis.axhline(best, color="#555555", ls="--", lw=1.5, label="scores of the true model")
axis.plot(np.arange(1, len(model.validation_scores_) + 1), model.validation_scores_, lw=2, label="MultVAERecommender")
axis.axhline(popularity, color="C1", ls=":", lw=2, label="popularity")
axis.set(xlabel="epoch", ylabel="NDCG@100 on new users", title="300 users that the fit has not seen")
axis.set_ylim(0.3, 0.8)
axis.legend(loc="center right", bbox_to_anchor=(1, 0.36))
