"""Horn's parallel analysis: the number of factors by comparison with random data."""

import numbers

import numpy as np
from sklearn.utils import Bunch, check_array, check_random_state, check_scalar

_MARKS = 64  # order statistics by which columns are told apart


def parallel_analysis(X, *, n_draws=100, quantile=0.95, method="permutation", correlation=True, random_state=None):
    """Find the number of factors by comparing the eigenvalues of X with those of random data with independent columns.

    The k-th component counts if two conditions hold. Its eigenvalue exceeds the given quantile of the k-th largest
    eigenvalues of random data of the same shape, and all components before it count. This corrects the simpler rule
    "eigenvalues above 1": with few rows, pure noise has many eigenvalues above 1. On pure noise the method finds a
    factor with probability 1 - quantile.

    The result does not depend on the order of rows and columns of X. A run with more draws begins with the draws of a
    run with fewer.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Complete rows: it must hold no NaN.
    n_draws : int, default=100
        Number of random data sets.
    quantile : float, default=0.95
        Quantile of the eigenvalues of the random data, between 0 and 1. With 0.5 and "normal" the method is nearly
        Horn's original, which uses the mean. The original more often finds a factor too many.
    method : {"permutation", "normal"}, default="permutation"
        Kind of random data. "permutation" shuffles each column of X on its own, which keeps its distribution. "normal"
        draws independent normal columns. For normal X both agree. "normal" draws the covariance matrix directly from
        its Wishart distribution, so its time does not grow with n_samples.
    correlation : bool, default=True
        Whether to use the eigenvalues of the correlation matrix. False uses those of the covariance matrix, for
        components of the unscaled X; the random columns then have the variances of the columns of X.
    random_state : int, RandomState instance or None, default=None
        An int gives the same thresholds at every call. None makes new draws and does not use NumPy's global generator.

    Returns
    -------
    result : Bunch
        With the attributes

        n_components : int
            Number of components above their thresholds, from 0 to n_features.
        eigenvalues : ndarray of shape (n_features,)
            Eigenvalues of X, the largest first. Those of a correlation matrix sum to n_features.
        thresholds : ndarray of shape (n_features,)
            Quantiles of the random eigenvalues, the largest first.

    Raises
    ------
    ValueError, TypeError
        If X has missing or infinite cells, less than two rows, or, with ``correlation=True``, a constant column; if a
        parameter is out of its range or of another type.

    References
    ----------
    Horn, "A rationale and test for the number of factors in factor analysis", Psychometrika 30, 1965. Buja and
    Eyuboglu, "Remarks on parallel analysis", Multivariate Behavioral Research 27, 1992, for the permutations. Glorfeld,
    Educational and Psychological Measurement 55, 1995, for the quantile.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae.model_selection import parallel_analysis
    >>> result = parallel_analysis(load_wine().data, random_state=0)
    >>> result.n_components
    3
    >>> result.eigenvalues[:4].round(2), result.thresholds[:4].round(2)
    (array([4.71, 2.5 , 1.45, 0.92]), array([1.58, 1.43, 1.33, 1.24]))

    Draw the scree plot with the thresholds:

    >>> import matplotlib.pyplot as plt
    >>> lines = plt.plot(result.eigenvalues, "o-", label="data")
    >>> lines += plt.plot(result.thresholds, "x--", label="independent columns")
    >>> legend = plt.legend()
    """
    check_scalar(n_draws, "n_draws", numbers.Integral, min_val=1)
    check_scalar(quantile, "quantile", numbers.Real, min_val=0, max_val=1, include_boundaries="neither")
    if np.isnan(quantile):  # check_scalar lets it pass
        raise ValueError("quantile must lie between 0 and 1, but is nan.")
    if method not in ("permutation", "normal"):
        raise ValueError(f"method must be 'permutation' or 'normal', not {method!r}.")
    constant = "drop them, or pass correlation=False." if correlation else None
    X = np.ascontiguousarray(checked_rows(X, "Parallel analysis", constant).T)  # a column is a row from here on
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    seeds = rng.randint(2**31 - 1, size=n_draws)  # a stream for each draw
    eigenvalues = _eigenvalues(_scaled(X, correlation))
    # Each column sorted, and the columns in an order that their content gives: all draws start from one place.
    null, N = np.sort(X, axis=1), X.shape[1]
    null = null[np.lexsort(null[:, np.linspace(0, N - 1, min(N, _MARKS)).astype(int)].T)]
    null = _scaled(null, correlation)
    drawn = []
    for rng in map(np.random.default_rng, seeds):
        # The values of each column in an order of their own: means and lengths stay.
        Z = rng.permuted(null, axis=1) if method == "permutation" else _normal(null, correlation, rng)
        drawn.append(_eigenvalues(Z))
    thresholds = np.quantile(drawn, quantile, axis=0)
    beaten = eigenvalues > thresholds
    n_components = len(beaten) if beaten.all() else int(beaten.argmin())
    return Bunch(n_components=n_components, eigenvalues=eigenvalues, thresholds=thresholds)


def checked_rows(X, name, remedy):
    """Check complete rows of float64; constant columns are refused with a `remedy`, unless that is None."""
    X = check_array(X, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2, input_name="X")
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(
            f"{name} needs complete, finite rows, but X[{row}, {column}] = {X[row, column]} "
            f"({(~np.isfinite(X)).sum()} such cells); drop these rows, or impute the cells first."
        )
    constant = np.flatnonzero(X.min(0) == X.max(0))
    if remedy is not None and len(constant):
        raise ValueError(
            f"A constant column correlates with nothing, but column {constant[0]} of X is {X[0, constant[0]]} in every "
            f"row ({len(constant)} such columns); {remedy}"
        )
    return X


def _scaled(columns, correlation):
    """Z such that Z Z' is the correlation or covariance matrix of what stands in the rows here, of shape (D, N)."""
    Z = columns - columns.mean(1, keepdims=True)
    if not correlation:
        return Z / np.sqrt(Z.shape[1] - 1)
    Z /= np.abs(Z).max(1, keepdims=True)  # squares of what is left neither overflow nor vanish
    return Z / np.linalg.norm(Z, axis=1, keepdims=True)


def _eigenvalues(Z):
    """Those of Z Z', the largest first, from the smaller of its two Gram matrices."""
    D, N = Z.shape
    found = np.linalg.eigvalsh(Z @ Z.T if D <= N else Z.T @ Z)[::-1]
    eigenvalues = np.zeros(D)
    eigenvalues[: len(found)] = np.maximum(found, 0)  # rounding may leave -1e-16
    return eigenvalues


def _normal(Z, correlation, rng):
    """What `_scaled` makes of N normal rows with the variances of Z, up to a turn, which leaves Z Z' alone.

    That is Bartlett's root of a Wishart matrix: normal below the diagonal, on it the roots of chi-squares with N - 1,
    N - 2, ... degrees of freedom.
    """
    D, N = Z.shape
    root = np.tril(rng.standard_normal((D, min(D, N - 1))), -1)
    np.fill_diagonal(root, np.sqrt(rng.chisquare(N - 1 - np.arange(root.shape[1]))))
    if correlation:
        return root / np.linalg.norm(root, axis=1, keepdims=True)
    return root * np.linalg.norm(Z, axis=1, keepdims=True) / np.sqrt(N - 1)
