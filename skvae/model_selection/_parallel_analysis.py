"""Horn's parallel analysis: the number of components that exceed those of data without structure."""

import numbers

import numpy as np
from sklearn.utils import Bunch, check_array, check_random_state, check_scalar

_MARKS = 64  # order statistics by which columns are sorted


def parallel_analysis(X, *, n_draws=100, quantile=0.95, method="permutation", correlation=True, random_state=None):
    """Find the number of factors by comparing eigenvalues with those of data whose columns are independent.

    The k-th component counts if its eigenvalue exceeds the given quantile of the k-th largest eigenvalues of random
    data of the same shape, and so do all before it. Eigenvalues above 1 occur in pure noise, too, the more the fewer
    the rows: the rule corrects "eigenvalues above 1" for that. On noise alone it errs with probability 1 - quantile.

    The order of rows and columns of X changes nothing, and a longer run begins with the draws of a shorter one.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Complete rows: it must hold no NaN.
    n_draws : int, default=100
        Number of random data sets.
    quantile : float, default=0.95
        Quantile of their eigenvalues, between 0 and 1. With 0.5 and "normal" it is nearly Horn's original rule, which
        took the mean and more often finds a factor too many.
    method : {"permutation", "normal"}, default="permutation"
        Where the random data come from: the columns of X, each shuffled on its own, which keeps their distributions, or
        independent normal columns. For normal X both agree. "normal" draws the covariance matrix itself, from its
        Wishart distribution, so that its time does not grow with n_samples.
    correlation : bool, default=True
        Eigenvalues of the correlation matrix. False: of the covariance matrix, where the components are to be
        found in X as it is; the random columns then have the variances of X's.
    random_state : int, RandomState instance or None, default=None
        An int gives the same thresholds at every call. None draws afresh, and leaves NumPy's global generator alone.

    Returns
    -------
    result : Bunch
        With the attributes

        n_components : int
            How many components beat their thresholds, from 0 to n_features.
        eigenvalues : ndarray of shape (n_features,)
            Of X, the largest first. Those of a correlation matrix sum to n_features.
        thresholds : ndarray of shape (n_features,)
            The quantiles, the largest first.

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

    The scree plot, with its thresholds:

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
    X = np.ascontiguousarray(_checked(X, correlation).T)  # a column is a row from here on
    rng = np.random.RandomState() if random_state is None else check_random_state(random_state)
    seeds = rng.randint(2**31 - 1, size=n_draws)  # a stream for each draw
    eigenvalues = _eigenvalues(_scaled(X, correlation))
    null = _scaled(_in_canonical_order(X), correlation)
    draw = _shuffled if method == "permutation" else _normal
    drawn = [_eigenvalues(draw(null, correlation, np.random.default_rng(seed))) for seed in seeds]
    thresholds = np.quantile(drawn, quantile, axis=0)
    beaten = eigenvalues > thresholds
    n_components = len(beaten) if beaten.all() else int(beaten.argmin())
    return Bunch(n_components=n_components, eigenvalues=eigenvalues, thresholds=thresholds)


def _checked(X, correlation):
    X = check_array(X, dtype=np.float64, ensure_all_finite=False, ensure_min_samples=2, input_name="X")
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(
            f"Parallel analysis needs complete, finite rows, but X[{row}, {column}] = {X[row, column]} "
            f"({(~np.isfinite(X)).sum()} such cells); drop these rows, or impute the cells first."
        )
    constant = np.flatnonzero(X.min(0) == X.max(0))
    if correlation and len(constant):
        raise ValueError(
            f"A constant column correlates with nothing, but column {constant[0]} of X is {X[0, constant[0]]} in every "
            f"row ({len(constant)} such columns); drop them, or pass correlation=False."
        )
    return X


def _scaled(columns, correlation):
    """Centre and scale columns, given as the rows of (D, N): Z Z' is their correlation or covariance matrix."""
    Z = columns - columns.mean(1, keepdims=True)
    if not correlation:
        return Z / np.sqrt(Z.shape[1] - 1)
    Z /= np.abs(Z).max(1, keepdims=True)  # so that squares neither overflow nor vanish
    return Z / np.linalg.norm(Z, axis=1, keepdims=True)


def _eigenvalues(Z):
    """Eigenvalues of Z Z', the largest first, from the smaller of Z Z' and Z' Z."""
    D, N = Z.shape
    found = np.linalg.eigvalsh(Z @ Z.T if D <= N else Z.T @ Z)[::-1]
    eigenvalues = np.zeros(D)
    eigenvalues[: len(found)] = np.maximum(found, 0)  # rounding may leave -1e-16
    return eigenvalues


def _in_canonical_order(columns):
    """Sort the values of each column, and the columns by their values: draws then depend on no order in X."""
    columns = np.sort(columns, axis=1)
    N = columns.shape[1]
    return columns[np.lexsort(columns[:, np.linspace(0, N - 1, min(N, _MARKS)).astype(int)].T)]


def _shuffled(Z, correlation, rng):
    """Permute the values of each column independently; means and lengths stay."""
    return rng.permuted(Z, axis=1)


def _normal(Z, correlation, rng):
    """Draw scaled columns of N normal rows with the variances of Z, up to a rotation, which leaves Z Z' unchanged.

    This is the Bartlett decomposition of a Wishart matrix: normal draws below the diagonal, and on it the roots of
    chi-squared draws with N - 1, N - 2, ... degrees of freedom.
    """
    D, N = Z.shape
    root = np.tril(rng.standard_normal((D, min(D, N - 1))), -1)
    np.fill_diagonal(root, np.sqrt(rng.chisquare(N - 1 - np.arange(root.shape[1]))))
    if correlation:
        return root / np.linalg.norm(root, axis=1, keepdims=True)
    return root * np.linalg.norm(Z, axis=1, keepdims=True) / np.sqrt(N - 1)
