"""
The evidence and its lower bound
================================

Every model of the package raises one quantity, the evidence lower bound. This example looks at it. First over the
iterations of a fit: expectation maximisation closes the gap to the log-evidence in each E-step, a variational
autoencoder never does. Then row by row after the fit: how large the gap is, and whether the shape of the posterior or
the encoder causes it.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM, GaussianMixtureEM, VAETransformer
from skvae.displays import EvidenceDisplay
from skvae.inspection import evidence_decomposition

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"
EPOCHS = 5 if FAST else "auto"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})

# %%
# Expectation maximisation: the bound touches
# -------------------------------------------
# A mixture of Gaussians on 13 measurements of 178 wines. After each E-step q is the exact posterior of the parameters,
# so the bound equals the log-evidence (dots). The M-step moves the parameters: both rise, and q is no longer exact
# (triangles). The next E-step closes the gap.
wines = StandardScaler().fit_transform(load_wine().data)
mixture = GaussianMixtureEM(3, covariance_type="diag", init_params="random_from_data", random_state=0)
em = EvidenceDisplay.from_estimator(mixture, wines, max_iter=8)
em.ax_.set_title("Gaussian mixture: the gap closes in each E-step")

# %%
# A variational autoencoder: the gap stays
# ----------------------------------------
# Black and white digits. An encoder finds a factorised normal posterior for each image. It is not the exact posterior,
# so a gap stays, and grows: as the decoder tells more and more by the latent dimensions, the exact posterior looks less
# and less like a factorised normal.
images = (load_digits().data > 7).astype(float)
train, new = images[: 200 if FAST else 900], images[900 : 920 if FAST else 1200]
vae = VAETransformer(8, likelihood="bernoulli", max_iter=EPOCHS, random_state=0)
gradient = EvidenceDisplay.from_estimator(vae, train, max_rows=100)
gradient.ax_.set_title("Autoencoder: a gap stays")

# %%
# What the gap consists of
# ------------------------
# For each row, ``evidence_decomposition`` compares three bounds: the log-evidence, the best bound by a factorised
# normal, and the bound by the encoder. On images that the encoder has not seen its part of the gap is larger: the
# decoder generalises better than the encoder does.
vae.fit(train)
shown = train[: len(new)]
parts = {name: evidence_decomposition(vae, X) for name, X in (("seen images", shown), ("new images", new))}
for name, found in parts.items():
    mean = {field: values.mean() for field, values in found._asdict().items()}
    print(
        f"{name:12s} log p(x) {mean['log_evidence']:.2f} (error of a row {mean['standard_error']:.3f}), bound "
        f"{mean['elbo']:.2f}, gap {mean['kl_gap']:.2f} = shape {mean['approximation_gap']:.2f} + encoder "
        f"{mean['amortization_gap']:.2f} nats"
    )
axis = plt.subplots(figsize=(6.2, 2.6), layout="constrained")[1]
left = np.zeros(2)
for field, label, colour in (
    ("approximation_gap", "shape of the posterior", "#E69F00"),
    ("amortization_gap", "encoder", "#0072B2"),
):
    width = np.array([getattr(found, field).mean() for found in parts.values()])
    axis.barh(list(parts), width, left=left, color=colour, label=label, height=0.6)
    left += width
axis.set(title="Mean gap between log-evidence and bound", xlabel="nats a row")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))

# %%
# Where everything is exact
# -------------------------
# Factor analysis has the exact posterior, so its gap is zero, to rounding, in every row. A linear autoencoder is the
# same model with an encoder: its evidence is exact, and what its bound lacks is exact as well.
exact = evidence_decomposition(FactorAnalysisEM(3).fit(wines), wines)
linear = VAETransformer(
    3, hidden_layer_sizes=(), early_stopping=False, max_iter=20 if FAST else 300, random_state=0
).fit(wines)
amortised = evidence_decomposition(linear, wines)
print(f"factor analysis: log p(x) {exact.log_evidence.mean():.3f}, largest gap of a row {exact.kl_gap.max():.1e}")
print(f"linear autoencoder: log p(x) {amortised.log_evidence.mean():.3f}, mean gap {amortised.kl_gap.mean():.4f}")
plt.show()
