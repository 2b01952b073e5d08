"""Latent-variable models and variational autoencoders for people who think in scikit-learn."""

from importlib import import_module
from typing import TYPE_CHECKING

from skvae._version import __version__

if TYPE_CHECKING:  # for editors and type checkers, which do not run __getattr__
    from skvae import datasets as datasets
    from skvae import displays as displays
    from skvae import metrics as metrics
    from skvae import model_selection as model_selection
    from skvae.estimators.autoencoders.autoencoder import AutoencoderTransformer as AutoencoderTransformer
    from skvae.estimators.autoencoders.gan import GANGenerator as GANGenerator
    from skvae.estimators.autoencoders.vae import VAETransformer as VAETransformer
    from skvae.estimators.checkpoints.checkpoint import Checkpoint as Checkpoint
    from skvae.estimators.clustering.kmeans_lite import KMeansLite as KMeansLite
    from skvae.estimators.decomposition.factor_analysis import FactorAnalysisEM as FactorAnalysisEM
    from skvae.estimators.decomposition.probabilistic_pca import ProbabilisticPCA as ProbabilisticPCA
    from skvae.estimators.decomposition.variational_factor_analysis import (
        VariationalFactorAnalysis as VariationalFactorAnalysis,
    )
    from skvae.estimators.mixtures.bernoulli import BernoulliMixtureEM as BernoulliMixtureEM
    from skvae.estimators.mixtures.gaussian import GaussianMixtureEM as GaussianMixtureEM
    from skvae.estimators.mixtures.variational import VariationalGaussianMixture as VariationalGaussianMixture
    from skvae.estimators.recommenders.ease import EASERecommender as EASERecommender
    from skvae.estimators.recommenders.loca import LOCARecommender as LOCARecommender
    from skvae.estimators.recommenders.networks.elsa import ELSARecommender as ELSARecommender
    from skvae.estimators.recommenders.networks.mult_dae import MultDAERecommender as MultDAERecommender
    from skvae.estimators.recommenders.networks.mult_vae import MultVAERecommender as MultVAERecommender
    from skvae.estimators.recommenders.networks.rec_vae import RecVAERecommender as RecVAERecommender
    from skvae.estimators.recommenders.popularity import PopularityRecommender as PopularityRecommender
    from skvae.estimators.recommenders.voting import VotingRecommender as VotingRecommender

# Public names and their modules. They load when first used: importing torch takes seconds, and
# the submodules do without it.
_PUBLIC = {
    "AutoencoderTransformer": "skvae.estimators.autoencoders.autoencoder",
    "BernoulliMixtureEM": "skvae.estimators.mixtures.bernoulli",
    "Checkpoint": "skvae.estimators.checkpoints.checkpoint",
    "EASERecommender": "skvae.estimators.recommenders.ease",
    "ELSARecommender": "skvae.estimators.recommenders.networks.elsa",
    "KMeansLite": "skvae.estimators.clustering.kmeans_lite",
    "FactorAnalysisEM": "skvae.estimators.decomposition.factor_analysis",
    "GANGenerator": "skvae.estimators.autoencoders.gan",
    "GaussianMixtureEM": "skvae.estimators.mixtures.gaussian",
    "LOCARecommender": "skvae.estimators.recommenders.loca",
    "MultDAERecommender": "skvae.estimators.recommenders.networks.mult_dae",
    "MultVAERecommender": "skvae.estimators.recommenders.networks.mult_vae",
    "PopularityRecommender": "skvae.estimators.recommenders.popularity",
    "ProbabilisticPCA": "skvae.estimators.decomposition.probabilistic_pca",
    "RecVAERecommender": "skvae.estimators.recommenders.networks.rec_vae",
    "VAETransformer": "skvae.estimators.autoencoders.vae",
    "VariationalFactorAnalysis": "skvae.estimators.decomposition.variational_factor_analysis",
    "VariationalGaussianMixture": "skvae.estimators.mixtures.variational",
    "VotingRecommender": "skvae.estimators.recommenders.voting",
}
_SUBMODULES = ("datasets", "displays", "inspection", "metrics", "model_selection")

__all__ = [*_PUBLIC, *_SUBMODULES, "__version__"]


def __getattr__(name):
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return import_module(f"skvae.{name}")
    raise AttributeError(f"module 'skvae' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
