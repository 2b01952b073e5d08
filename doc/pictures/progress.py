"""What a callback can record: the bound and the score on new users after each epoch."""

import matplotlib.pyplot as plt
import numpy as np

from skvae import MultVAERecommender
from skvae.datasets import make_interactions

X = make_interactions(600, 120, random_state=0)
fit = MultVAERecommender(n_components=10, max_iter=30, early_stopping=False, random_state=0)
fit.fit(X[:500], X_val=X[500:])
epochs = np.arange(1, fit.n_iter_ + 1)

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.9))
left.plot(epochs, fit.lower_bounds_, lw=2)
left.set(title="lower_bounds_", xlabel="epoch", ylabel="nats per user, at beta = 1")
right.plot(epochs, fit.validation_scores_, lw=2, color="C1")
right.set(title="validation_scores_", xlabel="epoch", ylabel="NDCG@100 on new users")
