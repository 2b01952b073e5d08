"""Latent-variable models and variational autoencoders for people who think in scikit-learn."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from skvae import datasets as datasets
    from skvae import metrics as metrics
    from skvae import model_selection as model_selection
    from skvae.estimators.autoencoder import AutoencoderTransformer as AutoencoderTransformer
    from skvae.estimators.bernoulli_mixture import BernoulliMixtureEM as BernoulliMixtureEM
    from skvae.estimators.cluster import KMeansLite as KMeansLite
    from skvae.estimators.decomposition import FactorAnalysisEM as FactorAnalysisEM
    from skvae.estimators.decomposition import ProbabilisticPCA as ProbabilisticPCA
    from skvae.estimators.gaussian_mixture import GaussianMixtureEM as GaussianMixtureEM
    from skvae.estimators.recommender import MultVAERecommender as MultVAERecommender
    from skvae.estimators.vae import VAETransformer as VAETransformer

__version__ = version("skvae")

# Public names and their modules. They load when first used: importing torch takes seconds, and
# the submodules do without it.
_PUBLIC = {
    "AutoencoderTransformer": "skvae.estimators.autoencoder",
    "BernoulliMixtureEM": "skvae.estimators.bernoulli_mixture",
    "KMeansLite": "skvae.estimators.cluster",
    "FactorAnalysisEM": "skvae.estimators.decomposition",
    "GaussianMixtureEM": "skvae.estimators.gaussian_mixture",
    "MultVAERecommender": "skvae.estimators.recommender",
    "ProbabilisticPCA": "skvae.estimators.decomposition",
    "VAETransformer": "skvae.estimators.vae",
}
_SUBMODULES = ("datasets", "metrics", "model_selection")

__all__ = [*_PUBLIC, *_SUBMODULES, "__version__"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return import_module(f"skvae.{name}")
    raise AttributeError(f"module 'skvae' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
