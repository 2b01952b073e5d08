"""
Latent traversals, samples and bound curves
===========================================

What does a latent dimension do? Move along it with the others at rest, and look at what the model expects. Beside it,
draws from the model, and the bound as it rises for several numbers of dimensions.

The pictures are Frey faces, 1,965 frames of 28 x 20 pixels, where ``SKVAE_TEST_DATA`` names a folder that holds
``frey_faces/frey_rawface.mat``; else scikit-learn's digits.
"""

import argparse
import os
from pathlib import Path

# One thread, before torch is imported: the fits are small, and threads that share one mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from scipy.io import loadmat
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvae import VAETransformer

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

parser = argparse.ArgumentParser(description="Traversals, samples and bound curves of a VAE of pictures.")
parser.add_argument("--output", type=Path, default=Path("latent_traversals.png"), help="where the picture goes")
args = parser.parse_args()


# %%
# The pictures
# ------------
# Each pixel is a Gaussian column with a noise of its own. Pixels that hardly ever change are left out.
def load():
    """Pictures as rows, and their shape."""
    path = Path(os.environ.get("SKVAE_TEST_DATA", "")) / "frey_faces" / "frey_rawface.mat"
    if path.is_file():
        return loadmat(path)["ff"].T.astype(np.float32), (28, 20), "Frey faces"
    return load_digits().data.astype(np.float32), (8, 8), "digits"


pictures, shape, what = load()
varies = (pictures != np.median(pictures, axis=0)).mean(axis=0) > 0.01
training, held_out = train_test_split(pictures[:, varies], test_size=0.2, random_state=0)
print(f"{len(training)} {what} to learn from, {len(held_out)} held out, {varies.sum()} pixels")

# %%
# Bound curves
# ------------
# `fit` starts as factor analysis, so the curves begin at its likelihood or, where the other start won, near it.
# `validation_scores_` is log p(x) of the held-out pictures. Neighbouring frames of the film are alike and the split is
# by chance, so held out does not mean another film.
sizes = (2, 5) if FAST else (2, 5, 10)
fits = {}
for k in sizes:
    fits[k] = VAETransformer(k, max_iter=20 if FAST else 40, random_state=0).fit(training, X_val=held_out)
    fit = fits[k]
    print(
        f"K = {k}: bound {fit.lower_bounds_[0]:.1f} after the first epoch, {fit.lower_bounds_[-1]:.1f} at the end; "
        f"held out: bound {fit.elbo(held_out).mean():.1f}, log p(x) {fit.score(held_out):.1f} nats a picture"
    )
vae = fits[sizes[-1]]
print(f"{vae.n_active_} of {sizes[-1]} dimensions active; KL {np.sort(vae.kl_per_dimension_)[::-1].round(1)}")

# %%
# Traversals
# ----------
# The four dimensions that cost most nats: from -3 to 3 standard deviations of the prior, the others at zero.
steps = np.linspace(-3, 3, 9)
busiest = np.argsort(-vae.kl_per_dimension_)[:4]


def whole(rows):
    """Rows with the pixels that were left out put back, as pictures."""
    filled = np.tile(np.median(pictures, axis=0), (len(rows), 1))
    filled[:, varies] = rows
    return filled.reshape(-1, *shape)


def side_by_side(rows, n_across):
    blocks = whole(rows).reshape(-1, n_across, *shape)
    return blocks.transpose(0, 2, 1, 3).reshape(len(blocks) * shape[0], n_across * shape[1])


Z = np.zeros((len(busiest), len(steps), vae.n_components))
for place, k in enumerate(busiest):
    Z[place, :, k] = steps
traversals = vae.inverse_transform(Z.reshape(-1, vae.n_components))

# %%
# Samples
# -------
# `sample` draws pixels with their noise. Without it, f(z) of standard normal z.
expected = vae.inverse_transform(np.random.default_rng(0).normal(size=(18, vae.n_components)))
drawn = vae.sample(18, random_state=0)

# %%
# The picture
# -----------
shades = {"cmap": "Greys_r" if what == "Frey faces" else "Greys", "vmin": 0, "vmax": pictures.max()}
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 11})
panels = [["curves", "traversals"], ["expected", "drawn"]]
figure, axes = plt.subplot_mosaic(panels, figsize=(13, 9), layout="constrained", height_ratios=[1.6, 1])
for colour, (k, fit) in zip(("#0072B2", "#D55E00", "#009E73"), fits.items(), strict=False):
    axes["curves"].plot(1 + np.arange(fit.n_iter_), fit.lower_bounds_, color=colour, label=f"K = {k}, bound, training")
    votes = np.linspace(1, fit.n_iter_, len(fit.validation_scores_))
    axes["curves"].plot(votes, fit.validation_scores_, color=colour, ls=":", label="log p(x), held out")
axes["curves"].set(title=f"bound curves of {what}", xlabel="epoch", ylabel="nats a picture")
axes["curves"].legend(fontsize=9)
images = {
    "traversals": (traversals, len(steps), "the four busiest dimensions, from -3 to 3"),
    "expected": (expected, 6, "f(z) of draws of z"),
    "drawn": (drawn, 6, "draws of x: f(z) with its noise"),
}
for name, (rows, n_across, title) in images.items():
    axes[name].imshow(side_by_side(rows, n_across), **shades)
    axes[name].set(title=title, xticks=[], yticks=[])
figure.savefig(args.output, dpi=150)
print(f"\nPicture: {args.output.resolve()}")
