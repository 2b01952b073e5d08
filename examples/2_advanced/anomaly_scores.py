"""
Anomaly scores
==============

A model of ordinary rows gives unusual rows a low likelihood. In this example the model is fitted only to benign
tumours, each with 30 measurements. It then scores tumours that it has not seen. Some of these are malignant. The model
is never told which tumours are malignant.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import RocCurveDisplay, roc_auc_score
from sklearn.model_selection import train_test_split

from skvae import FactorAnalysisEM, VAETransformer

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# The fit
# -------
# ``anomaly_score`` is minus log p(x), in nats. The difference of two scores says how much less likely one row is.
tumours = load_breast_cancer()
benign, malignant = tumours.data[tumours.target == 1], tumours.data[tumours.target == 0]
training, others = train_test_split(benign, test_size=0.4, random_state=0)
X = np.vstack([others, malignant])
strange = np.repeat([False, True], [len(others), len(malignant)])

vae = VAETransformer(5, max_iter=50 if FAST else "auto", random_state=0).fit(training)
factors = FactorAnalysisEM(5).fit(training)
forest = IsolationForest(random_state=0).fit(training)
print(f"{len(training)} benign tumours to learn from; network kept: {vae.nonlinear_}")
print(
    f"log p(x) of other benign tumours: factor analysis {factors.score(others):.2f}, VAE {vae.score(others):.2f} nats"
)

# %%
# The scores
# ----------
# The area under the ROC curve is the share of pairs in which the malignant tumour has a higher score than the benign
# one.
scores = {
    "VAE": vae.anomaly_score(X),
    "factor analysis": -factors.score_samples(X),
    "isolation forest": -forest.score_samples(X),
}
for name, score in scores.items():
    print(f"{name:17} area under the ROC curve {roc_auc_score(strange, score):.3f}")

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
figure, axis = plt.subplots(figsize=(6.2, 3.6), layout="constrained")
bins = np.linspace(scores["VAE"].min(), np.quantile(scores["VAE"], 0.75), 50)
kinds = (("benign, not seen", ~strange, "#0072B2", None), ("malignant", strange, "#D55E00", "//"))
for label, chosen, colour, hatch in kinds:
    shown = scores["VAE"][chosen].clip(max=bins[-1])
    axis.hist(shown, bins, density=True, alpha=0.6, color=colour, hatch=hatch, label=label)
axis.set(title="anomaly scores of the VAE", xlabel="nats (the last bar holds all above)", ylabel="density")
axis.legend()

# %%
# The three models separate the tumours about equally well. For rows this far from the ordinary ones, any model of the
# ordinary rows is enough.
figure, axis = plt.subplots(figsize=(5, 4.2), layout="constrained")
for (name, score), colour, line in zip(
    scores.items(), ("#D55E00", "#0072B2", "#555555"), ("-", "--", ":"), strict=True
):
    style = {"color": colour, "linestyle": line}
    RocCurveDisplay.from_predictions(strange, score, name=name, ax=axis, curve_kwargs=style)
axis.set_title("malignant against benign")

# %%
# Which measurement is strange?
# -----------------------------
# Hide one measurement, and let the model compute its expected value given the others. The distance between the two is
# printed in standard deviations of this measurement among benign tumours.
strangest = X[np.argmax(scores["VAE"])]
holes = np.tile(strangest, (len(strangest), 1))
np.fill_diagonal(holes, np.nan)
distance = (strangest - np.diag(vae.impute(holes))) / training.std(axis=0)
for j in np.argsort(-np.abs(distance))[:3]:
    print(f"strangest tumour, {tumours.feature_names[j]}: {distance[j]:+.1f} standard deviations from the expected")

plt.show()
