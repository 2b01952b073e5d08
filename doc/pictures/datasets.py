"""A simulated matrix of interactions, and how often its items occur."""

import matplotlib.pyplot as plt
import numpy as np

from skvae.datasets import make_interactions

X = make_interactions(200, 120, random_state=0)
by_popularity = np.argsort(-np.asarray(X.sum(axis=0)).ravel())

figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.2))
left.spy(X[:, by_popularity], markersize=1.2, color="C0", aspect="auto")
left.set(title="make_interactions(200, 120)", xlabel="item, most popular first", ylabel="user")
left.xaxis.set_ticks_position("bottom")
right.plot(np.sort(np.asarray(X.sum(axis=0)).ravel())[::-1], lw=2)
right.set(title="a long tail", xlabel="item, most popular first", ylabel="number of users", ylim=(0, None))
