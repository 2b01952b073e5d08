"""Pictures of fitted models, in scikit-learn's convention.

A display is made by a class method, such as `from_estimator`, which draws at once. It keeps the numbers that it draws
and, in attributes that end with an underscore, the artists. `plot` draws the same numbers again, on other axes. These
classes need matplotlib, which is imported by `plot` only: ``pip install skvae[viz]``.
"""

from skvae.displays._evidence import EvidenceDisplay

__all__ = ["EvidenceDisplay"]
