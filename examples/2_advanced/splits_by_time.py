"""
From a long table to lists, by time
===================================

A table of ratings, one a row, with names and dates. An encoder turns it into a matrix; a split by time hides the last
two months; three recommenders rank what is hidden, and the same three rank a part that is hidden at random. At the end
a new user gets a list of names without what she disliked.

The ratings are simulated. Every week brings new films, which draw most of their viewers in the weeks that follow. So
what was popular a year ago is a poor guide, and only a split by time shows it.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvae import EASERecommender, PopularityRecommender
from skvae.datasets import InteractionEncoder
from skvae.metrics import holdout_split, ndcg_at_k, time_split

# %%
# A long table
# ------------
# 600 viewers of two tastes see 160 films within a year. A film is seen mostly in the weeks after it comes out.

rng = np.random.default_rng(0)
N_USERS, N_FILMS, N_RATINGS = 600, 160, 12_000
released = rng.integers(-200, 330, N_FILMS)  # day of the year
genre, taste = rng.integers(0, 2, N_FILMS), rng.integers(0, 2, N_USERS)

day = rng.integers(0, 365, N_RATINGS)
user = rng.integers(0, N_USERS, N_RATINGS)
age = day[:, None] - released
appeal = np.where(age >= 0, np.exp(-age / 60), 0) * np.where(genre == taste[user][:, None], 1.0, 0.25)
film = (rng.random((N_RATINGS, 1)) < (appeal.cumsum(axis=1) / appeal.sum(axis=1, keepdims=True))).argmax(axis=1)
stars = np.clip(rng.poisson(np.where(genre[film] == taste[user], 4.2, 2.6)), 1, 5)

table = pd.DataFrame(
    {
        "viewer": [f"viewer {i}" for i in user],
        "film": [f"film {i}" for i in film],
        "stars": stars,
        "date": pd.Timestamp("2025-01-01") + pd.to_timedelta(day, unit="D"),
    }
)
print(table.head(3))

# %%
# Encode, with times and dislikes
# -------------------------------
# Ratings minus 3 are likes above 0 and dislikes below it; 0 is neither. The encoder remembers the names. Who sees a
# film twice has the later opinion.

encoder = InteractionEncoder(duplicates="last", negative="mask", handle_unknown="ignore")
opinions = encoder.fit_transform(table["viewer"], table["film"], table["stars"] - 3, times=table["date"])
X = (opinions.data > 0).astype(np.float32)
print(f"{X.shape[0]} viewers x {X.shape[1]} films: {X.nnz} likes, {opinions.disliked.nnz} dislikes")

# %%
# Hide the future, or a random part
# ---------------------------------

NOVEMBER = pd.Timestamp("2025-11-01")
by_time = time_split(X, opinions.times, at=NOVEMBER)
at_random = holdout_split(X, test_size=by_time[1].nnz / X.nnz, random_state=0)

MONTH = 30 * 86_400  # datetimes became seconds
MODELS = {
    "popularity": lambda X: PopularityRecommender().fit(X),
    "popularity,\nhalf-life a month": lambda X: PopularityRecommender(half_life=MONTH).fit(X, times=opinions.times),
    "EASE": lambda X: EASERecommender().fit(X),
}
scores = np.empty((2, len(MODELS)))
for i, (shown, hidden) in enumerate((at_random, by_time)):
    for j, fit in enumerate(MODELS.values()):
        ids, _ = fit(shown).recommend(shown, k=20)
        scores[i, j] = ndcg_at_k(hidden, ranked=ids, k=20)
print(
    pd.DataFrame(scores, index=["at random", "by time"], columns=[name.replace("\n", " ") for name in MODELS])
    .round(3)
    .to_string()
)

# %%
# The order of the models depends on the question
# -----------------------------------------------

_, axis = plt.subplots(figsize=(6.2, 3.4), layout="constrained")
for row, label, colour, shift in zip(
    scores, ["hidden at random", "hidden by time"], ["#56B4E9", "#D55E00"], [-0.2, 0.2]
):
    axis.bar(np.arange(len(MODELS)) + shift, row, width=0.38, color=colour, label=label)
axis.set(xticks=np.arange(len(MODELS)), xticklabels=list(MODELS), ylabel="NDCG@20")
axis.spines[["top", "right"]].set_visible(False)
axis.legend(frameon=False)
plt.show()

# %%
# A new viewer
# ------------
# Her row has the columns of the fitted model. The mask keeps what she disliked out of her list, and the encoder names
# the films.

model = MODELS["EASE"](X)
eve = encoder.transform(["eve"] * 3, ["film 3", "film 10", "film 20"], [2, 1, -2], rows="given")
ids, _ = model.recommend(eve.data, k=5, filter_items=eve.disliked)
print(encoder.decode_items(ids)[0].tolist())
