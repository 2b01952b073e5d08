"""
Local models around anchor users
================================

:class:`~skvae.LOCARecommender` fits one model to all users and many *local* models, each to the users around one
*anchor* user. Users are compared by the angle between their embeddings. This example shows where the anchors lie, whom
they serve, and what the number of anchors does to the quality of the lists.

The rows ("users") are Python source files, and the columns ("items") are the functions and classes that the files use.
They are read from the packages on this machine.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skvae import EASERecommender, LOCARecommender, MultVAERecommender
from skvae.datasets import load_api_usage
from skvae.metrics import content_holdout, ndcg_at_k

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
NUMBERS = (2, 6) if FAST else (2, 5, 10, 20)
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})

X = load_api_usage(packages=["sklearn"] if FAST else None).data
X_train, X_test = train_test_split(X, test_size=0.3, random_state=0)
shown, hidden = content_holdout(X_test)
print(f"{X_train.shape[0]:,} files to learn from, {X_test.shape[0]:,} to test, {X.shape[1]:,} functions and classes.")


def quality(model):
    """NDCG@100 of each test file: how high the hidden items stand in the list."""
    ids, _ = model.recommend(shown, k=min(100, X.shape[1]))
    return ndcg_at_k(hidden, ranked=ids, k=100, per_user=True)


# %%
# Embedding and anchors
# ---------------------
# A Mult-VAE with few components embeds the files. ``FrozenEstimator`` keeps it as it is, so that it is fitted only
# once. EASE is the model. ``bandwidth="auto"``, the default, gives each anchor a neighbourhood of three files in ten.
# A fixed distance would serve everybody or nobody, because distances depend on the embedding.
embedding = FrozenEstimator(MultVAERecommender(20, max_iter=10 if FAST else "auto", random_state=0).fit(X_train))
models = {
    n: LOCARecommender(EASERecommender(l2=50), embedding=embedding, n_anchors=n, random_state=0).fit(X_train)
    for n in NUMBERS
}
few = models[NUMBERS[1]]


# %%
# The map has the first two principal components of the embeddings' directions. Dark files are near to many anchors; the
# open circles are those that no local model serves: they get the score of the global model.
def directions(embedded):
    return embedded / np.linalg.norm(embedded, axis=1, keepdims=True)


users = directions(embedding.transform(X_train))
distance = 2 / np.pi * np.arccos(np.clip(users @ few.anchor_embeddings_.T, -1, 1))
n_near = (distance < few.bandwidths_).sum(axis=1)
plane = PCA(2).fit(users)
x, y = plane.transform(users).T

_, axis = plt.subplots(figsize=(6.2, 4.4), layout="constrained")
axis.scatter(*plane.transform(users[n_near == 0]).T, s=10, facecolors="none", edgecolors="0.6", label="not served")
served = axis.scatter(x[n_near > 0], y[n_near > 0], c=n_near[n_near > 0], s=10, cmap="viridis_r", label="served")
axis.scatter(
    *plane.transform(few.anchor_embeddings_).T, marker="*", s=160, color="#D55E00", edgecolors="white", label="anchor"
)
plt.colorbar(served, label="local models that speak for a file")
axis.set(xlabel="first principal component", ylabel="second principal component")
axis.legend(loc="best")
print(f"{len(few.estimators_)} local models serve {few.coverage_:.0%} of the training files.")

# %%
# How many anchors?
# -----------------
# The gain is the difference of ``NDCG@100`` from the global model, file by file, with its standard error. It is small
# on a data set of this size. Fit time and memory grow with the number of anchors.
base = quality(few.estimator_)
gains = {n: quality(model) - base for n, model in models.items()}
mean = np.array([np.nanmean(gain) for gain in gains.values()])
error = np.array([np.nanstd(gain) / np.sqrt(np.isfinite(gain).sum()) for gain in gains.values()])

_, axis = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
axis.axhline(0, color="0.4", linestyle=":")
axis.errorbar(NUMBERS, mean, error, marker="o", capsize=3, color="#0072B2")
axis.set(xlabel="number of anchors", ylabel="gain of NDCG@100 over EASE", xscale="log")
axis.set_xticks(NUMBERS, NUMBERS)
axis.minorticks_off()
print(f"EASE alone: {np.nanmean(base):.3f}")
for n, gain, deviation in zip(NUMBERS, mean, error, strict=True):
    print(f"{n:3d} anchors: {gain:+.4f} +- {deviation:.4f}")

plt.show()
