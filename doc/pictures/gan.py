"""A ring of eight Gaussians, and the rows that a GAN generates at three times of its fit."""

import matplotlib.pyplot as plt
import numpy as np

from skvae import GANGenerator

rng = np.random.default_rng(0)
angle = rng.integers(8, size=1280) * np.pi / 4
X = np.column_stack([np.cos(angle), np.sin(angle)]) + 0.05 * rng.normal(size=(1280, 2))
quick = {"hidden_layer_sizes": (64, 64), "batch_size": 128, "max_iter": 200}  # the defaults take longer, and do better
gan = GANGenerator(n_history_samples=500, random_state=0, **quick).fit(X)

times = [0, 2, len(gan.sample_history_) - 1]
figure, axes = plt.subplots(1, 4, figsize=(6.8, 2.1), sharex=True, sharey=True, layout="constrained")
tables = {"the table": X[:500]}
tables |= {f"epoch {gan.history_['n_iter'][time]}": gan.sample_history_[time] for time in times}
for axis, (name, rows) in zip(axes, tables.items()):
    axis.plot(*rows.T, ".", ms=2, color="#777777" if name == "the table" else "C1")
    axis.set(title=name, xlabel="first column", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
axes[0].set_ylabel("second column")
