"""Likelihoods: the distribution of a row given what the decoder puts out for it; one class and one file each."""

from skvae.likelihoods._base import ClickLikelihood, Likelihood, ReconstructionTerm
from skvae.likelihoods.bernoulli import Bernoulli
from skvae.likelihoods.categorical import Categorical
from skvae.likelihoods.gaussian import Gaussian
from skvae.likelihoods.mixed import Mixed
from skvae.likelihoods.multinomial import Multinomial
from skvae.likelihoods.negative_binomial import NegativeBinomial
from skvae.likelihoods.poisson import Poisson
from skvae.likelihoods.squared_error import SquaredError
from skvae.likelihoods.weighted_gaussian import WeightedGaussian

# Those of columns of a table, by the words of ``VAETransformer(likelihood=...)``.
LIKELIHOODS = {
    likelihood.name: likelihood
    for likelihood in (Gaussian, Bernoulli, Categorical, Multinomial, Poisson, NegativeBinomial)
}

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ClickLikelihood",
    "Gaussian",
    "Likelihood",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "ReconstructionTerm",
    "SquaredError",
    "WeightedGaussian",
]
