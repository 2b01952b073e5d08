"""The one place that imports scikit-learn's private or experimental names.

`_fit_context`, `_param_validation`, `_BaseComposition`, `_check_sample_weight` and the parts of a search carry no
deprecation promise, `sklearn.callback` is experimental: when a release moves them, this file follows. Where the
compiled kernels of K-means are gone, the package does without. `warn` does what Python itself can from 3.12 on, and
`refuse_masked` refuses what scikit-learn's checks take for numbers. Others lean on private methods of classes that they
inherit: `estimators._base` of BaseEstimator, `estimators._progress` of `CallbackSupportMixin`, and
`model_selection._stacked` of GridSearchCV.
"""

import contextlib
import os
import sys
import warnings
from contextlib import contextmanager
from functools import cache

import joblib
import numpy as np
import scipy.sparse as sp
import sklearn
from sklearn.base import _fit_context as fit_context
from sklearn.callback import CallbackSupportMixin
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import _BaseComposition as BaseComposition
from sklearn.utils.metaestimators import _safe_split as safe_split
from sklearn.utils.parallel import _get_threadpool_controller
from sklearn.utils.validation import _check_method_params as check_method_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

CALLBACKS = "_skl_callbacks"  # where scikit-learn keeps the callbacks of an estimator

# What it keeps there while a fit with callbacks runs, and needs afterwards to end them.
CALLBACK_STATE = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")

# Whose lines no warning points to.
_NOT_THE_USERS = (
    *(os.path.join(os.path.dirname(path), "") for path in (__file__, sklearn.__file__, joblib.__file__)),
    contextlib.__file__,
)

_WORTH_THREADS = 2**21  # multiplications below which one thread finds the nearest centres as soon as several


def warn(message, category=UserWarning):
    """Warn at the line that called skvae, through scikit-learn or not: `skip_file_prefixes` of Python 3.12."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def refuse_masked(array, name="X", advice="fill it, by X.filled(np.nan) where gaps are allowed"):
    """Complain of a masked entry: NumPy and scikit-learn would go on with what is under the mask."""
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        first = ", ".join(str(index[0]) for index in np.nonzero(np.ma.getmaskarray(array)))
        raise ValueError(f"{name}[{first}] is missing (masked); {advice}.")


@contextmanager
def one_blas_thread():
    """Context in which NumPy and SciPy multiply matrices on one thread, as scikit-learn does around its own threads.

    Afterwards the number is what it was. Threads that multiply matrices wait for more work at full speed, and for that
    time take a core from whoever else has threads.
    """
    libraries = [lib for lib in _get_threadpool_controller().lib_controllers if lib.user_api == "blas"]
    before = [lib.get_num_threads() for lib in libraries]  # threadpoolctl's own context also asks for much else
    try:
        for lib in libraries:
            lib.set_num_threads(1)
        yield
    finally:
        for lib, n_threads in zip(libraries, before):
            lib.set_num_threads(n_threads)


@cache
def lloyd_kernels():
    """scikit-learn's compiled steps of K-means for dense and for sparse rows; None where they are gone."""
    try:
        from sklearn.cluster._k_means_lloyd import lloyd_iter_chunked_dense, lloyd_iter_chunked_sparse
    except ImportError:
        return None
    return lloyd_iter_chunked_dense, lloyd_iter_chunked_sparse


def lloyd_threads(n_multiplications, n_threads):
    """Number of threads for a step of K-means: at most `n_threads`, and one where more would not pay."""
    return 1 if n_multiplications < _WORTH_THREADS else min(n_threads, _openmp_effective_n_threads())


def nearest_centres(X, centres, n_threads):
    """Find the number of the centre nearest to each row, by scikit-learn's compiled kernel; of equal ones the first.

    Call it in the context of `one_blas_thread`: each of its threads multiplies matrices of its own.

    Parameters
    ----------
    X : {ndarray, CSR array with int32 indices} of shape (n_rows, n_columns)
        float32 or float64, stored by row.
    centres : ndarray of shape (n_centres, n_columns)
        Of the same dtype.
    n_threads : int
        At most so many threads.

    Returns
    -------
    label : int32 ndarray of shape (n_rows,), or None
        None where the installed scikit-learn has no such kernel.
    """
    kernels = lloyd_kernels()
    if kernels is None:
        return None
    sparse = sp.issparse(X)
    unread = np.empty(X.shape[0], X.dtype)  # weights, which only new centres would need
    label, shift = np.empty(X.shape[0], np.int32), np.empty(len(centres), X.dtype)
    n_threads = lloyd_threads((X.nnz if sparse else X.size) * len(centres), n_threads)
    kernels[sparse](X, unread, centres, None, None, label, shift, n_threads, update_centers=False)
    return label


__all__ = [
    "BaseComposition",
    "CALLBACKS",
    "CALLBACK_STATE",
    "CallbackSupportMixin",
    "Interval",
    "StrOptions",
    "check_matplotlib_support",
    "check_method_params",
    "check_sample_weight",
    "fit_context",
    "lloyd_kernels",
    "lloyd_threads",
    "nearest_centres",
    "one_blas_thread",
    "safe_split",
]
