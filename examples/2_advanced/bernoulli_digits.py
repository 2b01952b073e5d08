"""
Digits as Bernoulli prototypes
==============================

Images of handwritten digits, turned to black and white, as a mixture of prototypes: each is a picture of the
probability that a pixel is on. Then half of the pixels of images that the fit has not seen are hidden, and the mixture
says what they were.

A row picks a prototype and then draws each pixel on its own. No label is used; the digit written above a prototype is
the most frequent one among its images.
"""

import argparse
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skvae import BernoulliMixtureEM

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

parser = argparse.ArgumentParser(description="Prototypes of handwritten digits, and images with hidden pixels.")
parser.add_argument("--output", type=Path, default=Path("bernoulli_digits.png"), help="where the picture goes")
args = parser.parse_args()

# %%
# The fit
# -------
# `binarize` is the threshold: pixels have 0 to 16 shades. Half of the images are kept aside, and some cells of the
# training images are missing too: a missing pixel leaves the sums, so nothing is filled in for it.
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

# %%
# Hidden pixels
# -------------
# Half of the pixels of each new image are hidden at random; in the second test the lower half. `impute` fills in the
# most probable value, or, with `strategy="mean"`, the probability that the pixel is on. To compare: the most frequent
# value of each pixel over all images.
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
# The picture
# -----------
# Above, the prototypes by weight. Below, for each way of hiding: what the mixture saw (hidden pixels are blue), what it
# makes of it, and the truth.
N_SHOWN = 12
chosen = [np.flatnonzero(digits[test] == digit)[0] for digit in range(10)]
chosen += [np.flatnonzero(digits[test] == digit)[1] for digit in (4, 9)]
figure = plt.figure(figsize=(12, 9.5), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[2.6, 5.6])

above.suptitle("24 prototypes, the heaviest first: the most frequent digit, and the share of images")
for axis, k in zip(above.subplots(2, N_SHOWN).flat, np.argsort(-mixture.weights_), strict=True):
    axis.imshow(mixture.means_[k].reshape(8, 8), cmap="Greys", vmin=0, vmax=1)
    axis.set_title(f"{counts[k].argmax()}: {mixture.weights_[k]:.0%}", fontsize=10)
    axis.set(xticks=[], yticks=[])

below.suptitle("Images that the fit has not seen, with pixels hidden (blue)")
rows = [(name, kind) for name in hidings for kind in ("seen", "imputed")] + [("", "truth")]
palette = plt.get_cmap("Greys").with_extremes(bad="#9ecae1")
for (name, kind), line in zip(rows, below.subplots(len(rows), N_SHOWN), strict=True):
    values = black if kind == "truth" else shown[name][kind == "imputed"]
    for axis, row in zip(line, chosen, strict=True):
        axis.imshow(np.ma.masked_invalid(values[row].reshape(8, 8).astype(float)), cmap=palette, vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
    line[0].set_ylabel(f"{kind}", fontsize=11)
figure.savefig(args.output, dpi=150)
print(f"\nPicture: {args.output.resolve()}")
