"""Tools to choose the size of a model, in addition to those of scikit-learn.

To choose the number of clusters or mixture components, use scikit-learn's `GridSearchCV` or `ValidationCurveDisplay`
with the estimators' `score`, or take the lowest `bic`. `parallel_analysis` finds the number of factors by Horn's
method. `StackedGridSearchCV` trains the many small networks of a search together, which is faster than `GridSearchCV`.
"""

from skvae.model_selection._parallel_analysis import parallel_analysis
from skvae.model_selection._stacked import StackedGridSearchCV

__all__ = ["StackedGridSearchCV", "parallel_analysis"]
