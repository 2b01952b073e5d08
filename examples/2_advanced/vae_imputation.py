"""
Missing pixels, imputed
=======================

A model of whole rows can fill in missing cells. Factor analysis and a variational autoencoder are fitted to images of
digits with pixels missing at random. Then pixels of new images are hidden, and both models fill them in. The baseline
is the mean of each pixel.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skvae import FactorAnalysisEM, VAETransformer
from skvae.displays import LatentTraversalDisplay

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# The fits
# --------
# A fifth of the pixels of the training images is missing. Missing pixels are not part of the likelihood, and nothing is
# filled in beforehand. Pixels that are hardly ever on are left out.
images, digits = load_digits(return_X_y=True)
used = (images > 0).mean(axis=0) > 0.02
rng = np.random.default_rng(0)
order = rng.permutation(len(images))
training, new = images[order[:1200]][:, used], images[order[1200:]][:, used]
seen = np.where(rng.random(training.shape) < 0.2, np.nan, training)

K = 8
factors = FactorAnalysisEM(K).fit(seen)
vae = VAETransformer(K, max_iter=40 if FAST else 120, random_state=0).fit(seen)
print(f"log p(x) of new images: factor analysis {factors.score(new):.1f}, VAE {vae.score(new):.1f} nats")

# %%
# Errors
# ------
# The figure is the root mean square error of the hidden pixels. Pixels have values from 0 to 16.
shares = np.array([0.1, 0.5] if FAST else [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
means = np.nanmean(seen, axis=0)
errors = {"pixel means": [], "factor analysis": [], "VAE": []}
for share in shares:
    hidden = rng.random(new.shape) < share
    holes = np.where(hidden, np.nan, new)
    guesses = {
        "pixel means": np.broadcast_to(means, new.shape),
        "factor analysis": factors.impute(holes),
        "VAE": vae.impute(holes),
    }
    for name, guess in guesses.items():
        errors[name].append(np.sqrt(np.mean((guess - new)[hidden] ** 2)))
    print(f"{share:.0%} hidden:", ", ".join(f"{name} {found[-1]:.2f}" for name, found in errors.items()))

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
for (name, found), colour, marker in zip(errors.items(), ("#555555", "#0072B2", "#D55E00"), "so^", strict=True):
    axis.plot(100 * shares, found, color=colour, marker=marker, label=name)
axis.set(title="error in hidden pixels", xlabel="% of the pixels hidden", ylabel="root mean square, shades of 16")
axis.legend()

# %%
# Images
# ------
# For eight new images the picture has the image with half of the pixels hidden (blue), the result of each model, and
# the true image.
chosen = np.array([np.flatnonzero(digits[order[1200:]] == digit)[0] for digit in (0, 1, 2, 3, 4, 6, 8, 9)])
half = np.where(rng.random((len(chosen), used.sum())) < 0.5, np.nan, new[chosen])
lines = {
    "seen": half,
    "factor analysis": factors.impute(half),
    "VAE": vae.impute(half),
    "truth": new[chosen],
}


def whole(rows):
    """Return rows with the left-out pixels put back."""
    images = np.zeros((len(rows), 64))
    images[:, used] = rows
    return images


palette = plt.get_cmap("Greys").with_extremes(bad="#9ecae1")
grid = LatentTraversalDisplay([whole(rows) for rows in lines.values()], image_shape=(8, 8), line_names=[*lines])
grid.plot(image_kw={"cmap": palette, "vmin": 0, "vmax": 16})
plt.show()
