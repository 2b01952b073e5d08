"""Pictures of fitted models, in scikit-learn's convention.

A display is made by a class method, such as `from_estimator`, which draws at once. It keeps the numbers that it draws
and, in attributes that end with an underscore, the artists. `plot` draws the same numbers again, on other axes. The
displays need matplotlib, which `plot` imports: ``pip install skvae[viz]``.
"""

from skvae.displays._component_selection import ComponentSelectionDisplay
from skvae.displays._evidence import EvidenceDisplay
from skvae.displays._fit_history import FitHistoryDisplay
from skvae.displays._kl import KLDisplay
from skvae.displays._latent_space import LatentSpaceDisplay
from skvae.displays._latent_traversal import LatentTraversalDisplay
from skvae.displays._loadings import LoadingsDisplay
from skvae.displays._mixture import MixtureDisplay
from skvae.displays._ranking import RankingDisplay

__all__ = [
    "ComponentSelectionDisplay",
    "EvidenceDisplay",
    "FitHistoryDisplay",
    "KLDisplay",
    "LatentSpaceDisplay",
    "LatentTraversalDisplay",
    "LoadingsDisplay",
    "MixtureDisplay",
    "RankingDisplay",
]
