"""
Anomaly scores
==============

A model of ordinary rows gives unusual rows a low likelihood. In this example the model is fitted only to benign
tumours, each with 30 measurements. It then scores tumours that it has not seen. Some of these are malignant. The model
is never told which tumours are malignant.
"""

import argparse
import os
from pathlib import Path

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

parser = argparse.ArgumentParser(description="Score malignant tumours by a model of benign ones.")
parser.add_argument("--output", type=Path, default=Path("anomaly_scores.png"), help="where the picture goes")
args = parser.parse_args()

# %%
# The fit
# -------
# `anomaly_score` is minus log p(x), in nats. The difference of two scores says how much less likely one row is.
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

# %%
# The picture
# -----------
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 11})
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
bins = np.linspace(scores["VAE"].min(), np.quantile(scores["VAE"], 0.75), 50)
for label, chosen, colour in (("benign, not seen", ~strange, "#0072B2"), ("malignant", strange, "#D55E00")):
    shown = scores["VAE"][chosen].clip(max=bins[-1])
    left.hist(shown, bins, density=True, alpha=0.6, color=colour, label=label)
left.set(title="anomaly scores of the VAE", xlabel="nats (the last bar holds all above)", ylabel="density")
left.legend()
for (name, score), colour in zip(scores.items(), ("#D55E00", "#0072B2", "#555555"), strict=True):
    RocCurveDisplay.from_predictions(strange, score, name=name, ax=right, curve_kwargs={"color": colour})
right.set_title("malignant against benign")
figure.savefig(args.output, dpi=150)
print(f"\nPicture: {args.output.resolve()}")
