"""Evidence and bound over the iterations of a mixture and of a variational autoencoder."""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler

from skvae import GaussianMixtureEM, VAETransformer
from skvae.displays import EvidenceDisplay

wines = StandardScaler().fit_transform(load_wine().data)
images = (load_digits().data[:600] > 7).astype(float)
mixture = GaussianMixtureEM(3, covariance_type="diag", init_params="random_from_data", random_state=0)
vae = VAETransformer(8, likelihood="bernoulli", early_stopping=False, max_iter=200, random_state=0)

figure, (left, right) = plt.subplots(1, 2, figsize=(7.4, 3.2))
EvidenceDisplay.from_estimator(mixture, wines, max_iter=6, ax=left)
left.set_title("mixture: the gap closes")
EvidenceDisplay.from_estimator(vae, images, max_rows=100, ax=right)
right.set_title("autoencoder: a gap stays")
