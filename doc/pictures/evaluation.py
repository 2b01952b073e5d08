"""Strong generalisation: which cells of the users x items matrix serve for what."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from skvae.datasets import make_interactions
from skvae.metrics import content_holdout

X = make_interactions(24, 40, random_state=1)
seen, hidden = content_holdout(X[16:])
cells = np.zeros(X.shape)
cells[:16][X[:16].toarray() > 0] = 1
cells[16:][seen.toarray() > 0] = 2
cells[16:][hidden.toarray() > 0] = 3

figure, axis = plt.subplots(figsize=(6.2, 4.3))
colours = ["#f0f0f0", "#56B4E9", "#0072B2", "#D55E00"]
axis.pcolormesh(cells[::-1], cmap=ListedColormap(colours), vmin=-0.5, vmax=3.5, edgecolors="white", linewidth=0.5)
axis.axhline(8, color="black", lw=1.5)
axis.set(xlabel="items", xticks=[], aspect="equal")
axis.set_yticks([16, 4], ["training\nusers", "test\nusers"])
axis.tick_params(length=0)
axis.spines[:].set_visible(False)
words = ["no interaction", "the model is fitted to it", "the model sees it", "hidden: should rank first"]
figure.legend(
    handles=[Patch(facecolor=colour, label=word) for colour, word in zip(colours, words)],
    loc="outside lower center",
    ncols=2,
)
