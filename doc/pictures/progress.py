"""What a callback can record: the bound and the score on new users after each epoch."""

from skvae import MultVAERecommender
from skvae.datasets import make_interactions
from skvae.displays import FitHistoryDisplay

X = make_interactions(600, 120, random_state=0)
fit = MultVAERecommender(n_components=10, max_iter=30, early_stopping=False, random_state=0)
fit.fit(X[:500], X_val=X[500:])
FitHistoryDisplay.from_estimator(fit)
