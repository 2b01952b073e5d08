"""
Latent space of digits
======================

Each image of a handwritten digit is mapped to two numbers, by PCA and by a variational autoencoder. PCA is linear, and
the autoencoder is not. A second picture has the images that the autoencoder expects at the points of its plane. The
fits use no labels. The first picture shows the true digits.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skvae import VAETransformer
from skvae.displays import LatentSpaceDisplay, LatentTraversalDisplay

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# Two ways to two dimensions
# --------------------------
# Pixels have values from 0 to 16. Divided by 16, a value is the probability that the pixel is black. The Bernoulli
# likelihood models such probabilities.
images, digits = load_digits(return_X_y=True)
images = images / 16
seen, new, seen_digits, new_digits = train_test_split(images, digits, test_size=0.5, stratify=digits, random_state=0)
pca = PCA(2).fit(seen)
vae = VAETransformer(
    n_components=2,
    hidden_layer_sizes=(128, 64),
    likelihood="bernoulli",
    early_stopping=False,
    max_iter=40 if FAST else 150,
    random_state=0,
).fit(seen)
print(f"bound {vae.elbo(new).mean():.2f} nats, log p(x) {vae.score(new):.2f} nats an image, in images not seen before")
print(f"KL per dimension: {vae.kl_per_dimension_.round(2)} nats, {vae.n_active_} active")

# %%
# How well the plane separates the digits
# ---------------------------------------
# Images that were in neither fit are classified by their ten nearest neighbours in the plane.
right = {}
for name, model in (("PCA", pca), ("VAE", vae)):
    neighbours = KNeighborsClassifier(10).fit(model.transform(seen), seen_digits)
    right[name] = neighbours.score(model.transform(new), new_digits)
    print(f"{name}: {right[name]:.0%} of the digits named rightly from two numbers")

figure, axes = plt.subplots(2, 1, figsize=(6.4, 9.6), layout="constrained")
for axis, (name, model) in zip(axes, (("PCA", pca), ("VAE", vae)), strict=True):
    LatentSpaceDisplay.from_estimator(model, new, new_digits, ax=axis)
    axis.set_title(f"{name}: {right[name]:.0%} right by their neighbours")

# %%
# What the autoencoder expects
# ----------------------------
# The picture has f(z) at the quantiles of a standard normal, so the steps have equal prior probability.
LatentTraversalDisplay.from_plane(vae, image_shape=(8, 8), steps=15, image_kw={"vmin": 0, "vmax": 1})
plt.show()
