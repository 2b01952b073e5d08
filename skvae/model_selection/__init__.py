"""How large a model the data bear, where scikit-learn's own searches and curves have no answer or take long.

The number of clusters or mixture components is a search by `GridSearchCV` or a curve of `ValidationCurveDisplay`, with
the estimators' `score`, or the lowest `bic`. The number of factors is Horn's question, and `parallel_analysis` asks it.
The many small networks of a search climb side by side in `StackedGridSearchCV`.
"""

from skvae.model_selection._parallel_analysis import parallel_analysis
from skvae.model_selection._stacked import StackedGridSearchCV

__all__ = ["StackedGridSearchCV", "parallel_analysis"]
