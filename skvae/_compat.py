"""The one place that touches scikit-learn's private or experimental names.

`_fit_context` and `_param_validation` carry no deprecation promise, `sklearn.callback` is experimental: when a release
moves them, this file follows and no other does.
"""

from sklearn.base import _fit_context as fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import HasMethods, Interval, InvalidParameterError, StrOptions

__all__ = ["CallbackSupportMixin", "HasMethods", "Interval", "InvalidParameterError", "StrOptions", "fit_context"]
