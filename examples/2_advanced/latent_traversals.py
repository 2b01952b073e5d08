"""
Latent traversals, samples and bound curves
===========================================

A latent traversal shows the effect of one latent dimension: move along it, keep the others fixed, and look at the
expected picture. The page also shows draws from the model, and the bound during the fit for several numbers of
dimensions.

The pictures are the Frey faces, 1,965 frames of 28 x 20 pixels, if the folder in the environment variable
``SKVAE_TEST_DATA`` has the file ``frey_faces/frey_rawface.mat``. Otherwise they are scikit-learn's digits.
"""

import os
from pathlib import Path

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from scipy.io import loadmat
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvae import VAETransformer

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"


# %%
# The pictures
# ------------
# Each pixel is a Gaussian column with its own noise variance. Pixels that hardly ever change are left out.
def load():
    """Return the pictures as rows, their shape and their name."""
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
# ``fit`` begins at factor analysis, so each curve begins at its likelihood, or near it if the other restart was better.
# ``validation_scores_`` is log p(x) of the held-out pictures. The split is random, and neighbouring frames of the film
# are similar. So the held-out frames are not as new as those of another film.
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

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
figure, axis = plt.subplots(figsize=(6.6, 4.2), layout="constrained")
for colour, (k, fit) in zip(("#0072B2", "#D55E00", "#009E73"), fits.items(), strict=False):
    axis.plot(1 + np.arange(fit.n_iter_), fit.lower_bounds_, color=colour, label=f"K = {k}, bound, training")
    votes = np.linspace(1, fit.n_iter_, len(fit.validation_scores_))
    axis.plot(votes, fit.validation_scores_, color=colour, ls=":", label=f"K = {k}, log p(x), held out")
axis.set(title=f"bound curves of {what}", xlabel="epoch", ylabel="nats a picture")
figure.legend(loc="outside lower center", ncols=len(fits), fontsize=8)

# %%
# Dimensions in use
# -----------------
# The KL term of a dimension is the information that it has about a picture.
print(f"{vae.n_active_} of {sizes[-1]} dimensions active; KL {np.sort(vae.kl_per_dimension_)[::-1].round(1)}")

# %%
# Traversals
# ----------
# The four dimensions with the largest KL term move from -3 to 3 standard deviations of the prior. The others stay at
# zero.
steps = np.linspace(-3, 3, 9)
busiest = np.argsort(-vae.kl_per_dimension_)[:4]


def whole(rows):
    """Return rows as pictures, with the left-out pixels put back."""
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
shades = {"cmap": "Greys_r" if what == "Frey faces" else "Greys", "vmin": 0, "vmax": pictures.max()}
figure, axis = plt.subplots(figsize=(6.2, 3.2), layout="constrained")
axis.imshow(side_by_side(traversals, len(steps)), **shades)
rows, columns = shape
axis.set_xticks(columns * (np.arange(len(steps)) + 0.5) - 0.5, [f"{step:.1f}" for step in steps])
axis.set_yticks(rows * (np.arange(len(busiest)) + 0.5) - 0.5, [f"z{k}" for k in busiest])
axis.set(title="one dimension moves, the others are 0", xlabel="value of the dimension")
axis.tick_params(length=0)

# %%
# Samples
# -------
# ``sample`` draws pixels with their noise. ``inverse_transform`` of standard normal z gives f(z), without the noise.
expected = vae.inverse_transform(np.random.default_rng(0).normal(size=(18, vae.n_components)))
drawn = vae.sample(18, random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
titles = {"f(z) of draws of z": expected, "draws of x: f(z) with its noise": drawn}
for axis, (title, rows) in zip(axes, titles.items(), strict=True):
    axis.imshow(side_by_side(rows, 6), **shades)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])
plt.show()
