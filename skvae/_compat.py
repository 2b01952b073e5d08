"""The one place that imports scikit-learn's private or experimental names.

`_fit_context`, `_param_validation`, `_BaseComposition`, `_check_sample_weight` and the parts of a search carry no
deprecation promise, `sklearn.callback` is experimental: when a release moves them, this file follows. Two others lean
on private methods of classes that they inherit: `estimators._progress` of `CallbackSupportMixin`,
`model_selection._stacked` of GridSearchCV.
"""

from sklearn.base import _fit_context as fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition as BaseComposition
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

CALLBACKS = "_skl_callbacks"  # where scikit-learn keeps the callbacks of an estimator

# What it keeps there while a fit with callbacks runs, and needs afterwards to end them.
CALLBACK_STATE = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")

__all__ = [
    "BaseComposition",
    "CALLBACKS",
    "CALLBACK_STATE",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "check_method_params",
    "check_sample_weight",
    "fit_context",
    "safe_split",
]
