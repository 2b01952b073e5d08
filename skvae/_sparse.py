"""One form for users x items."""

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_array

from skvae._compat import refuse_masked


def canonical_csr(X, name="X", kind=None):
    """Check a matrix and return it as CSR: indices sorted, duplicates summed, no stored zeros; X is not changed.

    `kind` is csr_array or csr_matrix; None keeps that of X (dense becomes csr_array).
    """
    refuse_masked(X, name)
    if sp.issparse(X):
        X = _with_room(X)
    X = check_array(X, accept_sparse="csr", ensure_min_samples=0, input_name=name)
    if X.dtype == np.float16 or not X.dtype.isnative:  # scipy.sparse has neither
        X = X.astype(np.result_type(X.dtype, np.float32))
    return merged(X, kind or (sp.csr_matrix if sp.isspmatrix(X) else sp.csr_array))


def merged(X, kind):
    """The last step of `canonical_csr`, for a matrix that has been checked."""
    X = kind(_with_room(X) if sp.issparse(X) else X)
    if not (X.has_canonical_format and X.data.all()):
        X = X.copy()
        X.sum_duplicates()
        X.eliminate_zeros()
    return X


def _with_room(X):
    """The same sparse matrix in a dtype that holds the sums of its duplicates, where SciPy's would wrap around."""
    small = X.dtype.kind in "iu" and X.dtype.itemsize < 8
    if not small or X.format not in ("csr", "csc", "coo"):  # the others hold no duplicates
        return X
    if X.format != "coo" and type(X)(X).has_canonical_format:  # a second object: SciPy notes the answer in it
        return X
    sums = X.astype(np.int64)
    sums.sum_duplicates()
    held = np.iinfo(X.dtype)
    fits = sums.data.min(initial=0) >= held.min and sums.data.max(initial=0) <= held.max
    return X if fits else sums


def entry(X, index):
    """A stored entry of a CSR matrix in words: "X[3, 4] = 0.5"."""
    row = int(X.indptr.searchsorted(index, side="right")) - 1
    return f"X[{row}, {X.indices[index]}] = {X.data[index]:g}"
