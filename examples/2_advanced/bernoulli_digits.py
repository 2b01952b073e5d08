"""
Digits as Bernoulli prototypes
==============================

Black-and-white images of handwritten digits are modelled as a mixture of prototypes. A prototype has, for each pixel,
the probability that the pixel is on. In this model an image chooses a prototype, and then draws each pixel
independently. The fit uses no labels. The digit above a prototype is the most frequent digit among its images.

In a second part, half of the pixels of new images are hidden, and the mixture fills them in.
"""

import os

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skvae import BernoulliMixtureEM
from skvae.displays import LatentTraversalDisplay

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# The fit
# -------
# Pixels have values from 0 to 16, and ``binarize`` is the threshold. Half of the images are kept for the test. Some
# pixels of the training images are missing. Missing pixels are left out of the sums, so nothing is filled in for them.
images, digits = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
order = rng.permutation(len(images))
training, test = order[: len(order) // 2], order[len(order) // 2 :]
seen = images[training].copy()
seen[rng.random(seen.shape) < 0.1] = np.nan
mixture = BernoulliMixtureEM(24, binarize=7.5, n_init=1 if FAST else 5, random_state=0).fit(seen)
print(f"{len(seen)} images, 10 % of the pixels missing: {mixture.n_iter_} iterations")
print(f"log p of an image: {mixture.score(seen):.2f} nats in training, {mixture.score(images[test]):.2f} in new images")

# %%
# What the components stand for
# -----------------------------
labels = mixture.predict(images[training])
counts = np.array([np.bincount(digits[training][labels == k], minlength=10) for k in range(mixture.n_components)])
purity = counts.max(axis=1).sum() / counts.sum()
print(f"images whose prototype is mostly of their own digit: {purity:.0%}")

figure, axes = plt.subplots(4, 6, figsize=(6.2, 5), layout="constrained")
for axis, k in zip(axes.flat, np.argsort(-mixture.weights_), strict=True):
    axis.imshow(mixture.means_[k].reshape(8, 8), cmap="Greys", vmin=0, vmax=1)
    axis.set_title(f"{counts[k].argmax()}: {mixture.weights_[k]:.0%}", fontsize=10)
    axis.set(xticks=[], yticks=[])
figure.suptitle("24 prototypes: the most frequent digit, and the share of images")

# %%
# Hidden pixels
# -------------
# In the first test a random half of the pixels of each new image is hidden, and in the second test the lower half.
# ``impute`` fills in the most probable value, or, with ``strategy="mean"``, the probability that the pixel is on. The
# baseline is the most frequent value of each pixel over all images.
black = images[test] > 7.5
hidings = {
    "half of the pixels": rng.random(black.shape) < 0.5,
    "the lower half": np.broadcast_to(np.arange(64) >= 32, black.shape),
}
frequent = np.broadcast_to((images[training] > 7.5).mean(axis=0) > 0.5, black.shape)
shown = {}
for name, hidden in hidings.items():
    holes = np.where(hidden, np.nan, images[test])
    guess = mixture.impute(holes)
    right, baseline = (guess == black)[hidden].mean(), (frequent == black)[hidden].mean()
    print(f"{name:20} hidden: {right:.1%} of them right; by the most frequent value {baseline:.1%}")
    shown[name] = np.where(hidden, np.nan, black), np.where(hidden, mixture.impute(holes, strategy="mean"), black)

# %%
# The picture has, for both tests, the image that the mixture saw (hidden pixels are blue), the imputed image, and the
# true image. A display of images takes rows of any origin.
chosen = [np.flatnonzero(digits[test] == digit)[0] for digit in (0, 1, 2, 3, 4, 6, 8, 9)]
rows = {f"{kind}, {name}": shown[name][kind == "imputed"] for name in hidings for kind in ("seen", "imputed")}
rows["truth"] = black
palette = plt.get_cmap("Greys").with_extremes(bad="#9ecae1")
grid = LatentTraversalDisplay([row[chosen] for row in rows.values()], image_shape=(8, 8), line_names=list(rows))
grid.plot(image_kw={"cmap": palette, "vmin": 0, "vmax": 1})
grid.axes_[0].set_title("new images, hidden pixels in blue")
plt.show()
