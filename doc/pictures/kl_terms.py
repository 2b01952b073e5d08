"""KL term of each dimension of an autoencoder with more dimensions than it uses."""

from sklearn.datasets import load_digits

from skvae import VAETransformer
from skvae.displays import KLDisplay

images = load_digits().data / 16
vae = VAETransformer(12, likelihood="bernoulli", beta=2.0, early_stopping=False, max_iter=60, random_state=0).fit(
    images
)
KLDisplay.from_estimator(vae, images)
