"""Users x items data: real data sets, simulated data, and sparse matrices from long tables."""

from ._api_usage import load_api_usage
from ._encoder import InteractionEncoder
from ._generators import make_interactions
from ._interactions import to_interactions
from ._movielens import fetch_movielens

__all__ = ["InteractionEncoder", "fetch_movielens", "load_api_usage", "make_interactions", "to_interactions"]
