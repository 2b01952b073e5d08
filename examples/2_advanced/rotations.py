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
from skvae.displays import LoadingsDisplay

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
# The signs of factors are arbitrary. ``LoadingsDisplay`` chooses each sign so that the sum of the loadings is positive,
# and puts the factors in order of the sum of their squared loadings.
names = [name.replace("_", " ").replace("od280/od315 of diluted wines", "OD280/OD315") for name in wine.feature_names]
figure, axes = plt.subplots(1, 3, figsize=(7.6, 4.8), layout="constrained")
for axis, (rotation, model) in zip(axes, fits.items(), strict=True):
    display = LoadingsDisplay.from_estimator(
        model,
        feature_names=names,
        ax=axis,
        colorbar=False,
        values_format=".1f",
        image_kw={"vmin": -1, "vmax": 1},
    )
    axis.set_title(rotation or "as fitted")
for axis in axes[1:]:
    axis.set_yticks([])
figure.colorbar(display.image_, ax=axes, label="loading", shrink=0.6)

# %%
# Communalities, and correlations of the oblique factors
# ------------------------------------------------------
# A display also takes plain numbers, here the correlations of the factors.
figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4), layout="constrained", width_ratios=[1.3, 1])
left.barh(range(13), fits[None].communalities_, color="#0072B2")
left.set(title="communalities", xlabel="share of the variance", xlim=(0, 1))
left.invert_yaxis()
left.set_yticks(range(13), names, fontsize=9)
correlations = LoadingsDisplay(
    fits["oblimin"].factor_correlation_, feature_names=["factor 0", "factor 1", "factor 2"], value_name="correlation"
)
correlations.plot(right, colorbar=False).ax_.set_title("oblimin: correlations")
plt.show()
