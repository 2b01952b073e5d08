"""
Digits drawn by a generative adversarial network
================================================

A generator learns to turn noise into images of digits. Another network, the discriminator, learns to tell its images
from real ones. Ten inputs of the generator are followed over the fit. A curve shows how far generated images are from
real ones that are held out, and how well the discriminator tells them apart.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skvae import GANGenerator
from skvae.metrics import classifier_two_sample_accuracy, energy_distance

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# The fit
# -------
# The energy distance is that from held-out images, so early stopping is on. Its patience is that of the whole fit: the
# epoch with the least distance is kept. Real pixels are whole sixteenths. The generated ones are rounded to such, or a
# classifier could tell them by that alone.
images = load_digits().data / 16
seen, new = train_test_split(images, test_size=0.3, random_state=0)
gan = GANGenerator(
    early_stopping=True,
    n_iter_no_change=30,
    max_iter=10 if FAST else 400,
    n_history_samples=10,
    random_state=0,
).fit(seen)
rows = np.clip(np.round(16 * gan.sample(len(new), random_state=0)), 0, 16) / 16
print(
    f"energy distance from new images {energy_distance(new, rows):.2f}, of real images {energy_distance(new, seen):.2f}"
)
accuracy = classifier_two_sample_accuracy(new, rows, random_state=0)
print(f"a forest tells generated images from new ones with an accuracy of {accuracy:.0%}; 50 % would be at random")

# %%
# Ten inputs over the fit
# -----------------------
# Each column has one input of the generator, each row a time of the fit. The last row has the real image that is
# closest to the one above it. The images are not copies of these.
history, epochs = np.array(gan.sample_history_), gan.history_["n_iter"]
times = np.unique(np.linspace(0, len(epochs) - 1, 5).round().astype(int))
last = history[times[-1]]
closest = seen[np.square(last[:, None] - seen).sum(2).argmin(1)]
pictures = [*history[times], closest]
labels = [*(f"epoch {epochs[time]}" for time in times), "closest\nreal image"]

plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
figure, axes = plt.subplots(len(pictures), 1, figsize=(6.2, 0.72 * len(pictures)), layout="constrained")
for axis, digits, label in zip(axes, pictures, labels, strict=True):
    axis.imshow(np.hstack(np.clip(digits, 0, 1).reshape(-1, 8, 8)), cmap="gray_r", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_ylabel(label, rotation=0, ha="right", va="center")

# %%
# How the game went
# -----------------
# Lower is better for the distance, and an accuracy of 50 % is the best that the generator can reach.
figure, axes = plt.subplots(2, 1, figsize=(6.2, 4.6), sharex=True, layout="constrained")
axes[0].plot(epochs, gan.history_["energy_distance"], marker="o", markersize=3, color="#0072b2")
axes[0].set_ylabel("energy distance\n(standard deviations)")
axes[0].set_ylim(bottom=0)
axes[1].plot(epochs, 100 * gan.history_["discriminator_accuracy"], marker="o", markersize=3, color="#d55e00")
axes[1].axhline(50, color="0.5", linestyle="--", linewidth=1)
axes[1].set_ylabel("accuracy of the\ndiscriminator (%)")
axes[1].set_xlabel("epoch")
plt.show()
