"""Tools to choose a model and its size, in addition to those of scikit-learn.

To choose the number of clusters or mixture components, use scikit-learn's `GridSearchCV` or `ValidationCurveDisplay`
with the estimators' `score`, or take the lowest `bic`. `make_evidence_scorer` compares densities of different families.
`kaiser_meyer_olkin` and `bartlett_sphericity` tell whether a table suits factor analysis. `parallel_analysis` finds the
number of factors by Horn's method. `select_beta` finds the KL weight of a recommender in two fits.
`StackedGridSearchCV` trains the many small networks of a search together, which is faster than `GridSearchCV`.
"""

from skvae.model_selection._adequacy import bartlett_sphericity, kaiser_meyer_olkin
from skvae.model_selection._beta import select_beta
from skvae.model_selection._evidence_scorer import make_evidence_scorer
from skvae.model_selection._parallel_analysis import parallel_analysis
from skvae.model_selection._stacked import StackedGridSearchCV

__all__ = [
    "StackedGridSearchCV",
    "bartlett_sphericity",
    "kaiser_meyer_olkin",
    "make_evidence_scorer",
    "parallel_analysis",
    "select_beta",
]
