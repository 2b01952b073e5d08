"""Four rules for the number of clusters, components and factors of the wine measurements."""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import KFold, cross_val_score
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM, KMeansLite
from skvae.model_selection import parallel_analysis

X = StandardScaler().fit_transform(load_wine().data)
folds = KFold(5, shuffle=True, random_state=0)
ks = np.arange(1, 7)
mixture = GaussianMixtureEM(covariance_type="diag", n_init=3, reg_covar=1e-3, random_state=0)
inertia = [-cross_val_score(KMeansLite(k, n_init=5, random_state=0), X, cv=folds).mean() for k in ks]
scores = np.array([cross_val_score(mixture.set_params(n_components=k), X, cv=folds) for k in ks])
bic = [mixture.set_params(n_components=k).fit(X).bic(X) for k in ks]
found = parallel_analysis(X, random_state=0)

figure, ((elbow, held_out), (criterion, factors)) = plt.subplots(2, 2, figsize=(6.4, 5.2))
elbow.plot(ks, inertia, "o-")
elbow.set(title="K-means: the elbow", xlabel="clusters", ylabel="held-out inertia")
held_out.errorbar(ks, scores.mean(axis=1), scores.std(axis=1, ddof=1) / np.sqrt(5), marker="o", capsize=3)
held_out.set(title="mixture: held-out likelihood", xlabel="components", ylabel="nats a row")
criterion.plot(ks, bic, "o-")
criterion.set(title="mixture: BIC, lower is better", xlabel="components", ylabel="BIC")
numbers = np.arange(1, 14)
factors.plot(numbers, found.eigenvalues, "o-", ms=4, label="wines")
factors.plot(numbers, found.thresholds, "--", label="shuffled columns")
factors.set(title=f"parallel analysis: {found.n_components} factors", xlabel="factor", ylabel="eigenvalue")
factors.legend()
