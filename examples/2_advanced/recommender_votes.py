"""
A network beside EASE
=====================

:class:`~skvae.VotingRecommender` adds the standardised scores of several recommenders. Here they are a Mult-VAE and
EASE. The example varies the weight of EASE and shows the quality of the lists.

The rows ("users") are Python source files, and the columns ("items") are the functions and classes that the files use.
They are read from the packages on this machine.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skvae import EASERecommender, MultVAERecommender, VotingRecommender
from skvae.datasets import load_api_usage
from skvae.metrics import content_holdout, ndcg_at_k

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
WEIGHTS = (0.25, 0.5, 1.0) if FAST else (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.0, 4.0, 10.0)
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})

X = load_api_usage(packages=["sklearn"] if FAST else None).data
X_train, X_test = train_test_split(X, test_size=0.3, random_state=0)
shown, hidden = content_holdout(X_test)


def quality(model):
    """NDCG@100 of each test file: how high the hidden items stand in the list."""
    ids, _ = model.recommend(shown, k=min(100, X.shape[1]))
    return ndcg_at_k(hidden, ranked=ids, k=100, per_user=True)


# %%
# Two fits, many weights
# ----------------------
# Each model is fitted once. ``FrozenEstimator`` keeps a fitted model as it is, so that a new weight costs nothing.
vae = MultVAERecommender(max_iter=10 if FAST else "auto", random_state=0).fit(X_train)
ease = EASERecommender(l2=50).fit(X_train)
members = [("vae", FrozenEstimator(vae)), ("ease", FrozenEstimator(ease))]
votes = [quality(VotingRecommender(members, weights=(1, weight)).fit(X_train)) for weight in WEIGHTS]

# %%
# Quality against the weight
# --------------------------
# The line is the mean ``NDCG@100`` of the test files. The band is one standard error of the *difference* from EASE: the
# models are compared file by file, because files differ far more than models do. ``VotingRecommender()`` has a third
# member, RecVAE, and weights 1, 1 and 0.5: EASE has a quarter of the weight of the networks.
alone = {"Mult-VAE alone": quality(vae), "EASE alone": quality(ease)}
mean = np.array([np.nanmean(vote) for vote in votes])
gains = [vote - alone["EASE alone"] for vote in votes]
error = np.array([np.nanstd(gain) / np.sqrt(np.isfinite(gain).sum()) for gain in gains])

_, axis = plt.subplots(figsize=(6.2, 3.8), layout="constrained")
axis.fill_between(WEIGHTS, mean - error, mean + error, color="#0072B2", alpha=0.2, linewidth=0)
axis.plot(WEIGHTS, mean, color="#0072B2", marker="o", markersize=4, label="vote of both")
for (name, each), colour in zip(alone.items(), ("#D55E00", "#009E73"), strict=True):
    axis.axhline(np.nanmean(each), color=colour, linestyle="--", label=name)
    print(f"{name}: {np.nanmean(each):.3f}")
axis.set(xlabel="weight of EASE (of the Mult-VAE: 1)", ylabel="NDCG@100", xscale="log")
axis.legend()
best = int(mean.argmax())
print(
    f"Best vote, weight {WEIGHTS[best]:g}: {mean[best]:.3f}, {mean[best] - np.nanmean(alone['EASE alone']):+.3f}",
    end="",
)
print(f" +- {error[best]:.3f} over EASE")

# %%
# The best weight of a picture is chosen with the test files. ``GridSearchCV`` chooses it on training users:
# ``GridSearchCV(VotingRecommender(), {"weights": [(1, 1, 0.2), (1, 1, 0.5), (1, 1, 1)]}, scoring=...)``.

plt.show()
