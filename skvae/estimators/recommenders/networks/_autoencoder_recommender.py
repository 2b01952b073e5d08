"""What the networks of Liang et al. (2018), VAE and denoising autoencoder, share: architecture and parameters."""

import math
from numbers import Real

from skvae._compat import Interval, StrOptions
from skvae.estimators._checks import checked_sizes
from skvae.estimators.recommenders.networks._network_recommender import NetworkRecommender
from skvae.likelihoods import Bernoulli, Multinomial, WeightedGaussian
from skvae.networks import ACTIVATIONS


class AutoencoderRecommender(NetworkRecommender):
    """A recommender whose network codes a user's row and gives scores of all items back.

    A subclass has, beside those of its base, the parameters hidden_layer_sizes, activation, dropout, likelihood and
    confidence.
    """

    _model = None  # of a subclass: the class of the model, in `models.recommenders`

    _parameter_constraints = {
        **NetworkRecommender._parameter_constraints,
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "likelihood": [StrOptions({"multinomial", "bernoulli", "gaussian"})],
        "confidence": [tuple, list],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    }

    def _architecture_of(self, X):
        c = self.confidence if self.likelihood == "gaussian" else (1, 1)
        if len(c) != 2 or not all(isinstance(precision, Real) and 0 < precision < math.inf for precision in c):
            raise ValueError(f"confidence must be two positive numbers (c_0, c_1), but it is {c!r}.")
        return {
            "n_items": X.shape[1],
            "n_components": int(self.n_components),
            "hidden_layer_sizes": checked_sizes(self.hidden_layer_sizes),
            "activation": self.activation,
            "likelihood": self.likelihood,
            "confidence": tuple(map(float, self.confidence)) if self.likelihood == "gaussian" else None,
        }

    def _build(self, architecture):
        if architecture["likelihood"] == "gaussian":
            likelihood = WeightedGaussian(architecture["confidence"])
        else:
            likelihood = {"multinomial": Multinomial, "bernoulli": Bernoulli}[architecture["likelihood"]]()
        return self._model(
            architecture["n_items"],
            architecture["n_components"],
            architecture["hidden_layer_sizes"],
            ACTIVATIONS[architecture["activation"]],
            self.dropout,
            likelihood,
        )
