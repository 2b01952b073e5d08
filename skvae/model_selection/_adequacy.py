"""Whether a table suits factor analysis: the Kaiser-Meyer-Olkin measure and Bartlett's test of sphericity."""

import numbers

import numpy as np
from scipy.stats import chi2
from sklearn.utils import Bunch, check_array

from skvae.model_selection._parallel_analysis import checked_rows


def kaiser_meyer_olkin(X, *, precomputed=False):
    """Measure how much the columns of X have in common: the Kaiser-Meyer-Olkin measure of sampling adequacy.

    The measure is the sum of the squared correlations of all pairs of columns, divided by the same sum plus that of
    the squared partial correlations (of two columns given all others). It lies between 0 and 1. If factors explain the
    correlations, partial correlations are small and the measure is near 1. Kaiser (1974) calls values below .5
    unacceptable, and values from .8 meritorious.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Complete rows: it must hold no NaN.
    precomputed : bool, default=False
        Whether X is not rows but a correlation or covariance matrix, of shape (n_features, n_features).

    Returns
    -------
    result : Bunch
        With the attributes

        overall : float
            The measure of all columns together. NaN if no two columns are correlated.
        of_columns : ndarray of shape (n_features,)
            The measure of each column: the same with only the pairs that the column is in.

    Raises
    ------
    ValueError
        If X has missing or infinite cells, less than two columns, or a constant column; if its correlation matrix is
        singular, or, with ``precomputed=True``, is no correlation or covariance matrix.

    References
    ----------
    Kaiser, "A second generation little jiffy", Psychometrika 35, 1970. Kaiser, "An index of factorial simplicity",
    Psychometrika 39, 1974.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae.model_selection import kaiser_meyer_olkin
    >>> round(kaiser_meyer_olkin(load_wine().data).overall, 2)
    0.78
    """
    R, _ = _correlations(X, precomputed, "kaiser_meyer_olkin")
    inverse = np.linalg.inv(R)
    scale = np.sqrt(inverse.diagonal())
    squares, partial = R**2, (inverse / scale / scale[:, None]) ** 2
    for pairs in (squares, partial):
        np.fill_diagonal(pairs, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where there are no correlations
        overall = float(squares.sum() / (squares.sum() + partial.sum()))
        return Bunch(overall=overall, of_columns=squares.sum(0) / (squares.sum(0) + partial.sum(0)))


def bartlett_sphericity(X, *, n_samples=None, precomputed=False):
    """Test whether all correlations of the columns of X are 0: Bartlett's test of sphericity.

    If they are, there is nothing that factors could explain. The test assumes normal columns. With many rows the
    p-value is nearly always tiny, even if the correlations are too small to be of use.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Complete rows: it must hold no NaN.
    n_samples : float or None, default=None
        Number of rows that the matrix X was computed from. Only with ``precomputed=True``.
    precomputed : bool, default=False
        Whether X is not rows but a correlation or covariance matrix, of shape (n_features, n_features).

    Returns
    -------
    result : Bunch
        With the attributes

        statistic : float
            -(n_samples - 1 - (2 n_features + 5) / 6) log|R|, where R is the correlation matrix.
        dof : int
            Degrees of freedom, n_features (n_features - 1) / 2.
        p_value : float
            Probability of a larger statistic if all correlations are 0.

    Raises
    ------
    ValueError
        If X has missing or infinite cells, less than two columns, or a constant column; if its correlation matrix is
        singular, or, with ``precomputed=True``, is no correlation or covariance matrix; if n_samples is missing, or
        given without need.

    References
    ----------
    Bartlett, "A note on the multiplying factors for various chi square approximations", JRSS B 16, 1954.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae.model_selection import bartlett_sphericity
    >>> result = bartlett_sphericity(load_wine().data)
    >>> round(result.statistic, 1), result.dof, result.p_value < 0.001
    (1317.2, 78, True)
    """
    if precomputed != (n_samples is not None):
        raise ValueError(
            "bartlett_sphericity needs n_samples, the number of rows, if and only if X is a matrix of correlations or "
            f"covariances, but precomputed={precomputed!r} and n_samples={n_samples!r}."
        )
    if precomputed and (
        not isinstance(n_samples, numbers.Real) or isinstance(n_samples, bool) or not 0 < n_samples < np.inf
    ):
        raise ValueError(f"n_samples must be a positive number of rows, but it is {n_samples!r}.")
    R, n_rows = _correlations(X, precomputed, "bartlett_sphericity")
    D, n = len(R), float(n_samples) if precomputed else n_rows
    statistic = float(-(n - 1 - (2 * D + 5) / 6) * np.linalg.slogdet(R)[1])
    dof = D * (D - 1) // 2
    return Bunch(statistic=statistic, dof=dof, p_value=float(chi2.sf(statistic, dof)))


def _correlations(X, precomputed, name):
    """Correlation matrix of the columns, refused if it is singular, and the number of rows (None if precomputed)."""
    if precomputed:
        S = check_array(X, dtype=np.float64, ensure_min_features=2, input_name="X")
        if S.shape[0] != S.shape[1] or not np.allclose(S, S.T, rtol=0, atol=1e-6 * np.abs(S).max()):
            raise ValueError(
                f"{name}(precomputed=True) expects a symmetric matrix of correlations or covariances, but X of shape "
                f"{S.shape} is none; pass precomputed=False for rows."
            )
        variance, n_rows = S.diagonal(), None
        if not (variance > 0).all():
            column = int(np.argmin(variance > 0))
            raise ValueError(f"{name} needs positive variances, but X[{column}, {column}] = {variance[column]}.")
    else:
        rows = checked_rows(X, name, "drop them.")
        if rows.shape[1] < 2:
            raise ValueError(f"{name} compares pairs of columns, but X has {rows.shape[1]} column.")
        rows = rows / np.abs(rows).max(0)  # squares of what is left neither overflow nor vanish
        S, n_rows = np.cov(rows.T, bias=True), len(rows)
        variance = S.diagonal()
    R = S / np.sqrt(variance) / np.sqrt(variance)[:, None]
    np.fill_diagonal(R, 1.0)
    lowest = np.linalg.eigvalsh(R)[0]
    if lowest <= len(R) * np.finfo(np.float64).eps:
        raise ValueError(
            f"{name}: the correlation matrix of the columns has the eigenvalue {lowest:.1e}, so it is singular or no "
            "correlation matrix; drop columns that repeat others or add up to others, or pass more rows than columns."
        )
    return R, n_rows
