"""What a row looks like given its natural parameters: one small object a likelihood, one file each."""

from skvae.likelihoods._base import Likelihood
from skvae.likelihoods.bernoulli import Bernoulli
from skvae.likelihoods.categorical import Categorical
from skvae.likelihoods.counts import NegativeBinomial, Poisson
from skvae.likelihoods.gaussian import Gaussian, WeightedGaussian
from skvae.likelihoods.mixed import Mixed
from skvae.likelihoods.multinomial import Multinomial
from skvae.likelihoods.squared_error import SquaredError

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Likelihood",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "SquaredError",
    "WeightedGaussian",
]
