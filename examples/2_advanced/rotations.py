"""
Loadings before and after rotation
==================================

Factor analysis finds three factors of 13 measurements of 178 wines. Heat maps show the loadings as fitted, after
varimax, and after oblimin, which allows correlated factors. Rotation does not change the fit. It makes the loadings
easier to interpret, because fewer of them are large. A second picture has the correlations of the oblique factors and
the communalities. The communality of a measurement is the share of its variance that the factors explain. Rotation does
not change it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skvae import FactorAnalysisEM

# %%
# Three fits
# ----------
# The columns are standardised. So the loadings of uncorrelated factors are the correlations of measurements and
# factors. The rotation is applied after the fit, so all three have the same likelihood.
wine = load_wine()
X = StandardScaler().fit_transform(wine.data)
fits = {
    rotation: FactorAnalysisEM(3, rotation=rotation, tol=1e-8, max_iter=10_000).fit(X)
    for rotation in (None, "varimax", "oblimin")
}
for rotation, model in fits.items():
    small = (np.abs(model.components_) < 0.2).mean()
    print(f"{rotation or 'unrotated':10} {model.score(X):.6f} nats a row, {small:.0%} of the loadings below 0.2")

# %%
# Three factors do not explain all correlations: the test rejects them, as it does with most real data. The residual
# correlations may still be small.
test = fits[None].chi_square()
print(f"\nchi-square {test.statistic:.0f} on {test.dof} degrees of freedom, p = {test.p_value:.1e}")
residual = np.corrcoef(X.T) - fits[None].get_covariance()
print(f"root mean square of the residual correlations {np.sqrt(np.mean(residual[np.triu_indices(13, 1)] ** 2)):.3f}")


# %%
# The loadings
# ------------
# The signs of factors are arbitrary. Each sign is chosen so that the sum of the loadings is positive. The factors are
# in order of the sum of their squared loadings.
def arranged(model):
    """Return the loadings (13, 3) and the factor correlations, with the signs and the order of the picture."""
    loadings, phi = model.components_.T, model.factor_correlation_
    signs = np.where(loadings.sum(axis=0) < 0, -1, 1)
    order = np.argsort(-(loadings**2).sum(axis=0))
    return (loadings * signs)[:, order], (phi * np.outer(signs, signs))[np.ix_(order, order)]


def heat_map(axis, values, title):
    drawn = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        axis.text(
            column, row, f"{value:.1f}".replace("-0.0", "0.0"), ha="center", va="center", color=colour, fontsize=9
        )
    axis.set_xticks(range(values.shape[1]), [f"F{k + 1}" for k in range(values.shape[1])])
    axis.set_title(title)
    return drawn


names = [name.replace("_", " ").replace("od280/od315 of diluted wines", "OD280/OD315") for name in wine.feature_names]
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10})
figure, axes = plt.subplots(1, 3, figsize=(6.6, 4.8), layout="constrained")
for axis, (rotation, model) in zip(axes, fits.items(), strict=True):
    drawn = heat_map(axis, arranged(model)[0], rotation or "as fitted")
    axis.set_yticks(range(13), names if rotation is None else [])
figure.colorbar(drawn, ax=axes, label="loading", shrink=0.6)

# %%
# Communalities, and correlations of the oblique factors
# ------------------------------------------------------
figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.8), layout="constrained", width_ratios=[1.3, 1])
left.barh(range(13), fits[None].communalities_, color="#0072B2")
left.set(title="communalities", xlabel="share of the variance", xlim=(0, 1))
left.invert_yaxis()
left.set_yticks(range(13), names, fontsize=9)
heat_map(right, arranged(fits["oblimin"])[1], "oblimin: correlations")
right.set_yticks(range(3), ["F1", "F2", "F3"])
plt.show()
