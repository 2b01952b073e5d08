"""The one place that touches scikit-learn's private or experimental names.

`_fit_context`, `_param_validation` and `_check_sample_weight` carry no deprecation promise, `sklearn.callback` is
experimental: when a release moves them, this file follows and no other does.
"""

from sklearn.base import _fit_context as fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

# What scikit-learn keeps on an estimator while a fit with callbacks runs, and needs afterwards to end them.
CALLBACK_STATE = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")

__all__ = [
    "CALLBACK_STATE",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
]
