"""Two columns along a curve: factor analysis draws a line, a variational autoencoder follows the curve."""

import matplotlib.pyplot as plt
import numpy as np

from skvae import FactorAnalysisEM, VAETransformer

rng = np.random.default_rng(0)
place = rng.uniform(-1.5, 1.5, 300)
X = np.column_stack([place, np.sin(2 * place), place**2]) + rng.normal(0, 0.12, (300, 3))
training, new = X[:200], X[200:]
factors = FactorAnalysisEM(1).fit(training)
vae = VAETransformer(1, max_iter=150, random_state=0).fit(training)

z = np.linspace(-2.2, 2.2, 200)[:, None]
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.1), sharex=True, sharey=True)
models = {"factor analysis": (factors, "C0"), "VAE": (vae, "C1")}
for axis, (name, (model, colour)) in zip(axes, models.items()):
    axis.plot(new[:, 0], new[:, 1], ".", color="#777777", ms=4, label="held-out rows")
    axis.plot(*model.inverse_transform(z)[:, :2].T, color=colour, lw=3, label="E[x | z]")
    axis.set(title=f"{name}: {model.score(new):.2f} nats a row", xlabel="first column")
    axis.legend(loc="lower right", fontsize=9)
axes[0].set_ylabel("second column")
axes[0].set(xlim=(-2, 2), ylim=(-1.6, 1.6))
