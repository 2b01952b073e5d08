"""
Explain recommendations
=======================

``explain`` says which of a user's items raised the score of a recommended item. In a linear model such as EASE the
score is a sum with one term for each item, so the explanation is exact. In a network it is the loss of score when the
item is left out of the row.

The "users" are Python source files of the installed packages, and the "items" are the functions and classes that they
use. So everybody can judge whether a reason is a good one.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.model_selection import train_test_split

from skvae import EASERecommender, MultVAERecommender
from skvae.datasets import load_api_usage
from skvae.metrics import content_holdout

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# Two models
# ----------
# Both learn from the same files. Of the other files, a fifth of the names is hidden, and the models rank what is left.
usage = load_api_usage(packages=["sklearn"] if FAST else None)
training, others, _, file_names = train_test_split(usage.data, usage.file_names, test_size=0.2, random_state=0)
shown, hidden = content_holdout(others)
models = {
    "EASE": EASERecommender(50).fit(training),
    "Mult-VAE": MultVAERecommender(max_iter=5 if FAST else "auto", random_state=0).fit(training),
}
for name, model in models.items():
    print(f"{name:8} NDCG@100 on {shown.shape[0]} other files: {model.score(shown, hidden):.3f}")

# %%
# One recommendation
# ------------------
# The example is a hidden name that both models rank first. Of all files with 6 to 10 other names it is the one in which
# fewest files use that name: to recommend what everybody uses needs no reason.
best = {name: model.predict(shown) for name, model in models.items()}
right = best["EASE"] == best["Mult-VAE"]
right &= hidden[np.arange(len(right)), best["EASE"]] > 0
n_shown = np.diff(shown.indptr)
candidates = np.flatnonzero(right & (n_shown >= 6) & (n_shown <= 10))
n_files = training.sum(axis=0)
file = candidates[n_files[best["EASE"][candidates]].argmin()]
item = best["EASE"][file]
row = shown[[file]]
print(f"\n{file_names[file]} uses {usage.item_names[item]}.")
print("Both models say so, from the other names alone.")

# %%
# The reasons
# -----------
# ``explain`` returns a sparse matrix in the shape of the rows. The reasons of EASE sum to its score.
reasons = {name: model.explain(row, item) for name, model in models.items()}
names = usage.item_names[row.indices]
order = np.argsort(reasons["EASE"].data)[::-1]
print(f"\n{'':60} EASE  Mult-VAE")
for place in order:
    print(f"{names[place]:58} {reasons['EASE'].data[place]:6.3f} {reasons['Mult-VAE'].data[place]:9.3f}")
score = models["EASE"].decision_function(row)[0, item]
print(f"{'sum':58} {reasons['EASE'].sum():6.3f} {reasons['Mult-VAE'].sum():9.3f}")
print(f"{'score':58} {score:6.3f} {models['Mult-VAE'].decision_function(row)[0, item]:9.3f}")

# %%
# Do the models agree?
# --------------------
# Each model explains its own score, so they need not agree. For all other files, the script takes the name that EASE
# ranks first and compares the two orders of the reasons.
some = np.flatnonzero(n_shown >= 3)
found = {name: model.explain(shown[some], best["EASE"][some]) for name, model in models.items()}
ends = zip(found["EASE"].indptr[:-1], found["EASE"].indptr[1:], strict=True)
pairs = [(found["EASE"].data[start:stop], found["Mult-VAE"].data[start:stop]) for start, stop in ends]
agreement = np.array([spearmanr(*pair)[0] for pair in pairs])
same = np.mean([one.argmax() == other.argmax() for one, other in pairs])
chance = np.mean([1 / len(one) for one, _ in pairs])
print(f"\nRank correlation of the reasons over {len(pairs)} files: median {np.nanmedian(agreement):.2f}")
print(f"Files in which the strongest reason is the same: {same:.0%}, by chance {chance:.0%}")

# %%
# A picture
# ---------
# The left panel is in units of EASE's score, the right one in nats of the network's logit. A name with a bar to the
# left speaks against the item.
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 9})
figure, axes = plt.subplots(1, 2, figsize=(7.4, 0.32 * len(order) + 1.5), layout="constrained", sharey=True)
titles = ("EASE: terms of the sum", "Mult-VAE: loss of score without it")
for axis, title, (name, colour) in zip(axes, titles, {"EASE": "#0072B2", "Mult-VAE": "#D55E00"}.items(), strict=True):
    axis.barh(np.arange(len(order)), reasons[name].data[order], color=colour)
    axis.axvline(0, color="#555555", linewidth=0.8)
    axis.set(title=title, xlabel="contribution to the score")
axes[0].set_yticks(np.arange(len(order)), names[order])
axes[0].invert_yaxis()
figure.suptitle(f"Why {usage.item_names[item]}?")
figure.savefig("explain_recommendations.png", dpi=150)
