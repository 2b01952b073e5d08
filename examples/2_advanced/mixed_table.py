"""
A mixed table
=============

One DataFrame has numbers, Booleans, categories and counts, and some cells are missing. Each column has its own
likelihood, and all columns depend on one latent variable. The table is simulated, so the truth is known. It describes
households at different points of a life: young, with a family, old.
"""

import os

# Use one thread, and set it before torch is imported: the fits are small, and more threads would mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skvae import VAETransformer

FAST = os.environ.get("SKVAE_EXAMPLE_FAST") == "1"

# %%
# The table
# ---------
# Income first rises and then falls in the course of a life. So does the number of children at home. None of this is
# linear.
rng = np.random.default_rng(0)
n = 400 if FAST else 1200
life = rng.uniform(0, 1, n)
odds = np.exp(np.column_stack([4 - 12 * life, 3 - 30 * (life - 0.5) ** 2, 12 * life - 8]))
home = np.array(["flat", "house", "care"])
table = pd.DataFrame(
    {
        "age": 18 + 65 * life + rng.normal(0, 4, n),
        "income": 15 + 35 * np.sin(np.pi * life) + rng.normal(0, 5, n),
        "works": rng.random(n) < 1 / (1 + np.exp(20 * (life - 0.7))),
        "home": pd.Categorical([rng.choice(home, p=each / each.sum()) for each in odds], categories=home),
        "children": rng.poisson(2.5 * np.exp(-(((life - 0.35) / 0.15) ** 2))),
    }
)
print(table.head(3).to_string())

# %%
# The fit
# -------
# A fifth of the cells is missing. ``likelihood="auto"`` would read the kinds from the dtypes and treat whole numbers as
# Gaussian. The list says that children are counts.
hidden = rng.random(table.shape) < 0.2
holes = table.astype({"works": object, "children": float}).mask(hidden)
kinds = [
    ("gaussian", ["age", "income"]),
    ("bernoulli", ["works"]),
    ("categorical", ["home"]),
    ("poisson", ["children"]),
]
vae = VAETransformer(1, likelihood=kinds, max_iter=60 if FAST else 150, random_state=0).fit(holes)
Z = vae.transform(holes)[:, 0]
order = np.abs(pd.Series(Z).corr(pd.Series(life), method="spearman"))
print(f"rank correlation of the latent dimension with the true place in life: {order:.2f}")

# %%
# Filling in
# ----------
# ``impute`` returns a DataFrame with the same kinds of columns. It fills in the mean of a number, the probability of a
# Boolean, and the most probable category.
filled = vae.impute(holes)
for name in ("age", "income", "children"):
    gaps = hidden[:, table.columns.get_loc(name)]
    spread = (table[name][gaps] - holes[name].mean()).pow(2).mean() ** 0.5
    error = (filled[name].astype(float)[gaps] - table[name][gaps]).pow(2).mean() ** 0.5
    print(f"{name}: error {error:.2f}, by the mean {spread:.2f}")
for name in ("works", "home"):
    gaps = hidden[:, table.columns.get_loc(name)]
    guess = filled[name].astype(float) > 0.5 if name == "works" else filled[name]
    right, usual = (guess == table[name])[gaps].mean(), (table[name] == holes[name].mode()[0])[gaps].mean()
    print(f"{name}: {right:.0%} right, by the commonest value {usual:.0%}")

# %%
# What was learned
# ----------------
# Three panels have a column against the true place in life, with the expected value at the latent value of each row.
# The fourth panel has the latent dimension.
expected = vae.inverse_transform(Z[:, None])
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
figure, axes = plt.subplots(2, 2, figsize=(6.6, 5.6), layout="constrained")
units = {"age": "age, years", "income": "income, thousands", "children": "children at home"}
for axis, (name, label) in zip(axes.flat, units.items(), strict=False):
    axis.plot(life, table[name], ".", color="#9ecae1", ms=4, label="table")
    axis.plot(life, expected[name].astype(float), ".", color="#D55E00", ms=3, label="expected")
    axis.set(xlabel="true place in life", ylabel=label)
axes[0, 0].legend(markerscale=3)
axes[1, 1].plot(life, Z, ".", color="#0072B2", ms=4)
axes[1, 1].set(title=f"rank correlation {order:.2f}", xlabel="true place in life", ylabel="latent dimension z")

# %%
# Draws from the model
# --------------------
# ``sample`` draws whole rows. They have the dependence of the table: old households have a low income again.
drawn = vae.sample(n, random_state=0)
figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.2), layout="constrained")
left.plot(table["age"], table["income"], ".", color="#9ecae1", ms=4, label="table")
left.plot(drawn["age"], drawn["income"], ".", color="#D55E00", ms=3, label="drawn")
left.set(xlabel="age, years", ylabel="income, thousands")
left.legend(markerscale=3)
shares = pd.DataFrame({"table": table["home"].value_counts(), "drawn": drawn["home"].value_counts()}) / n
shares.loc[home].plot.bar(ax=right, color=["#9ecae1", "#D55E00"], rot=0)
right.set(xlabel="home", ylabel="share of rows")
plt.show()
