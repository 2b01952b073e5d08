"""Four rules for the number of clusters, components and factors of the wine measurements."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM, KMeansLite
from skvae.displays import ComponentSelectionDisplay
from skvae.model_selection import parallel_analysis

X = StandardScaler().fit_transform(load_wine().data)
folds = KFold(5, shuffle=True, random_state=0)
ks = np.arange(1, 7)
mixture = GaussianMixtureEM(covariance_type="diag", n_init=3, reg_covar=1e-3, random_state=0)
clusters = GridSearchCV(KMeansLite(n_init=5, random_state=0), {"n_clusters": ks}, cv=folds).fit(X)
search = GridSearchCV(mixture, {"n_components": ks}, cv=folds).fit(X)
bic = [mixture.set_params(n_components=k, n_init=10).fit(X).bic(X) for k in ks]
found = parallel_analysis(X, random_state=0)

figure, ((elbow, held_out), (criterion, factors)) = plt.subplots(2, 2, figsize=(6.6, 5.6))
inertia = {"negate_score": True, "score_name": "held-out inertia"}
ComponentSelectionDisplay.from_cv_results(clusters, param_name="n_clusters", ax=elbow, **inertia)
elbow.set_title("K-means: the elbow")
ComponentSelectionDisplay.from_cv_results(search, score_name="nats per row", ax=held_out)
held_out.set_title("mixture: held-out likelihood")
ComponentSelectionDisplay(ks, bic, greater_is_better=False, score_name="BIC").plot(criterion)
criterion.set_title("mixture: BIC, lower is better")
numbers = np.arange(1, 14)
factors.plot(numbers, found.eigenvalues, "o-", ms=4, label="wines")
factors.plot(numbers, found.thresholds, "--", label="shuffled columns")
factors.set(title=f"parallel analysis: {found.n_components} factors", xlabel="factor", ylabel="eigenvalue")
factors.legend()
