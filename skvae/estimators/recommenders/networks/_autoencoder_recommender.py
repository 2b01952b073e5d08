"""What the networks of Liang et al. (2018), VAE and denoising autoencoder, share: architecture and parameters."""

import math
from numbers import Integral, Real

import numpy as np

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

    def _architecture_of(self, X, weight, earlier):
        c = self.confidence if self.likelihood == "gaussian" else (1, 1)
        if len(c) != 2 or not all(isinstance(precision, Real) and 0 < precision < math.inf for precision in c):
            raise ValueError(f"confidence must be two positive numbers (c_0, c_1), but it is {c!r}.")
        sizes = checked_sizes(self.hidden_layer_sizes)
        return {
            "n_items": X.shape[1],
            "n_components": int(self.n_components),
            "hidden_layer_sizes": sizes,
            "activation": self.activation,
            "decoder_units": self._settled_units(X, weight, sizes, earlier),
            "likelihood": self.likelihood,
            "confidence": tuple(map(float, self.confidence)) if self.likelihood == "gaussian" else None,
        }

    def _settled_units(self, X, weight, hidden_layer_sizes, earlier):
        """`decoder_units`, where it is "auto" by the number of items of the mean user, or as the fit before had it."""
        if not isinstance(self.decoder_units, str):
            return int(self.decoder_units)
        if earlier is not None or hidden_layer_sizes:
            return 0 if earlier is None else earlier["decoder_units"]
        n_items = np.diff(X.indptr)
        informs = n_items > 0
        weight = None if weight is None else weight[informs]
        return defaults.decoder_units(np.average(n_items[informs], weights=weight) if informs.any() else 0.0)

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
