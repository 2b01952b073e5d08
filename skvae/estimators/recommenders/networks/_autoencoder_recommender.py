"""What the networks of Liang et al. (2018), VAE and denoising autoencoder, share: architecture and parameters."""

import math
from numbers import Integral, Real

from skvae._compat import Interval, StrOptions
from skvae.estimators._checks import checked_sizes
from skvae.estimators.recommenders.networks._network_recommender import NetworkRecommender
from skvae.likelihoods import Bernoulli, Multinomial, WeightedGaussian
from skvae.networks import ACTIVATIONS
from skvae.training import defaults


class AutoencoderRecommender(NetworkRecommender):
    """A recommender whose network codes a user's row and gives scores of all items back.

    A subclass has, beside those of its base, the parameters hidden_layer_sizes, activation, decoder_units, dropout,
    likelihood and confidence.
    """

    _model = None  # of a subclass: the class of the model, in `models.recommenders`

    _parameter_constraints = {
        **NetworkRecommender._parameter_constraints,
        "decoder_units": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "likelihood": [StrOptions({"multinomial", "bernoulli", "gaussian"})],
        "confidence": [tuple, list],
        "weight_decay": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
    }

    def _architecture_of(self, X, users):
        c = self.confidence if self.likelihood == "gaussian" else (1, 1)
        if len(c) != 2 or not all(isinstance(precision, Real) and 0 < precision < math.inf for precision in c):
            raise ValueError(f"confidence must be two positive numbers (c_0, c_1), but it is {c!r}.")
        sizes, units = checked_sizes(self.hidden_layer_sizes), self.decoder_units
        if isinstance(units, str):
            units = 0 if sizes else defaults.decoder_units(users)
        return {
            "n_items": X.shape[1],
            "n_components": int(self.n_components),
            "hidden_layer_sizes": sizes,
            "activation": self.activation,
            "decoder_units": int(units),
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
            architecture["decoder_units"],
        )

    def _summary(self, prepared, kept):
        return super()._summary(prepared, kept) | {"decoder_units_": prepared.architecture["decoder_units"]}
