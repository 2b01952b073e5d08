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
from sklearn.feature_selection import VarianceThreshold
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skvae import VAETransformer
from skvae.displays import FitHistoryDisplay, KLDisplay, LatentTraversalDisplay

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"


# %%
# The pictures
# ------------
# Each pixel is a Gaussian column with its own noise variance. Pixels that hardly ever change are left out. The step
# that leaves them out can put them back, as zeros.
def load():
    """Return the pictures as rows, their shape and their name."""
    path = Path(os.environ.get("SKVAE_TEST_DATA", "")) / "frey_faces" / "frey_rawface.mat"
    if path.is_file():
        return loadmat(path)["ff"].T.astype(np.float32), (28, 20), "Frey faces"
    return load_digits().data.astype(np.float32), (8, 8), "digits"


pictures, shape, what = load()
changing = VarianceThreshold(0.1).fit(pictures)
training, held_out = train_test_split(changing.transform(pictures), test_size=0.2, random_state=0)
print(f"{len(training)} {what} to learn from, {len(held_out)} held out, {training.shape[1]} pixels")

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

axes = None
for k, fit in fits.items():
    axes = FitHistoryDisplay.from_estimator(fit, name=f"K = {k}", ax=axes).axes_
axes[0].set_title(f"bound curves of {what}")

# %%
# Dimensions in use
# -----------------
# The KL term of a dimension is the information that it has about a picture.
print(f"{vae.n_active_} of {sizes[-1]} dimensions active; KL {np.sort(vae.kl_per_dimension_)[::-1].round(1)}")
KLDisplay.from_estimator(vae, held_out)

# %%
# Traversals
# ----------
# The four dimensions with the largest KL term move from -3 to 3 standard deviations of the prior. The others stay at
# zero. A Pipeline of the fitted steps puts the left-out pixels back.
model = make_pipeline(changing, vae)
shades = {"cmap": "Greys_r" if what == "Frey faces" else "Greys", "vmin": 0, "vmax": pictures.max()}
display = LatentTraversalDisplay.from_estimator(model, image_shape=shape, image_kw=shades)
display.axes_[0].set_title("one dimension moves, the others are 0")

# %%
# Samples
# -------
# ``sample`` draws pixels with their noise. ``inverse_transform`` of standard normal z gives f(z), without the noise.
# The display takes rows of any origin.
expected = model.inverse_transform(np.random.default_rng(0).normal(size=(18, vae.n_components)))
drawn = changing.inverse_transform(vae.sample(18, random_state=0))
figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6), layout="constrained")
titles = {"f(z) of draws of z": expected, "draws of x: f(z) with its noise": drawn}
for axis, (title, rows) in zip(axes, titles.items(), strict=True):
    LatentTraversalDisplay(rows.reshape(3, 6, -1), image_shape=shape).plot(axis, image_kw=shades)
    axis.set_title(title, fontsize=10)
plt.show()
