"""How large a model the data bear, where scikit-learn's own searches and curves have no answer.

The number of clusters or mixture components is a search by `GridSearchCV` or a curve of `ValidationCurveDisplay`, with
the estimators' `score`, or the lowest `bic`. The number of factors is Horn's question, and `parallel_analysis` asks it.
"""

from skvae.model_selection._parallel_analysis import parallel_analysis

__all__ = ["parallel_analysis"]
