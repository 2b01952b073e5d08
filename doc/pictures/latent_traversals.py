"""Digits that a variational autoencoder expects while one latent dimension moves."""

from sklearn.datasets import load_digits

from skvae import VAETransformer
from skvae.displays import LatentTraversalDisplay

images = load_digits().data / 16
vae = VAETransformer(8, likelihood="bernoulli", early_stopping=False, max_iter=60, random_state=0).fit(images)
LatentTraversalDisplay.from_estimator(vae, image_shape=(8, 8), image_kw={"vmin": 0, "vmax": 1})
