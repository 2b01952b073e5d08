"""Rotates factor loadings to simple structure, which leaves the likelihood of a factor analysis as it is.

    x = A z + noise,  z ~ N(0, I)    =    L f + noise,  f = T' z ~ N(0, Phi),    L = A (T')^-1,  Phi = T' T

T has columns of unit length, so the new factors have unit variance, and scores rotate as `scores @ T`. The covariance
of x keeps its common part, L Phi L' = A A'. An orthogonal T makes L = A T and Phi = I.

Orthogonal, the orthomax family: raise  sum_k [ sum_d L_dk^4 - gamma / D (sum_d L_dk^2)^2 ],  with gamma = 1 for varimax
(Kaiser 1958), gamma = 0 for quartimax (Neuhaus and Wrigley 1954) and gamma = K / 2 for equamax (Saunders 1962).
Oblique: promax, the least-squares fit of L to a power of the varimax loadings (Hendrickson and White 1964); direct
oblimin with gamma = 0, also named quartimin, which lowers  sum_{j != k} sum_d L_dj^2 L_dk^2 / 4  (Jennrich and Sampson
1966) along the gradient projected on columns of unit length (Jennrich 2002).

Kaiser's normalisation divides each row of A by its length while T is sought, so that all features count alike. Promax
is as in R's `stats::promax`: the varimax rotation inside is normalised, the fit to the power is not.
"""

import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

_GAMMA = {"varimax": lambda K: 1.0, "quartimax": lambda K: 0.0, "equamax": lambda K: K / 2}
ORTHOGONAL = tuple(_GAMMA)
OBLIQUE = ("promax", "oblimin")
_SMALLEST = 1e-10  # slope at which a criterion counts as stationary
_DIRECTIONLESS = 1e-12  # a criterion that changes by less, relative to its terms, determines no angle


class Rotation(NamedTuple):
    """Rotated loadings, the matrix that rotates them, and the correlations of the factors.

    Attributes
    ----------
    loadings : ndarray of shape (n_features, n_components)
        L = A (T')^-1. Of oblique factors: the pattern, regression weights of the features on the factors.
    matrix : ndarray of shape (n_components, n_components)
        T; scores of the given factors times T are scores of the rotated ones.
    correlation : ndarray of shape (n_components, n_components)
        Phi = T' T of the rotated factors; the identity if the rotation is orthogonal.
    """

    loadings: np.ndarray
    matrix: np.ndarray
    correlation: np.ndarray


def rotate(loadings, method, *, normalize=True, power=4, max_iter=1000):
    """Rotate loadings of uncorrelated factors of unit variance to simple structure.

    Order and signs of the columns are those in which the rotation ends. All criteria have local optima; which one is
    found depends on the loadings as given. Fewer than two columns come back as they are.

    Parameters
    ----------
    loadings : array-like of shape (n_features, n_components)
        A. Directions in which it is zero take no part in an oblique rotation, where they could correlate at will.
    method : {"varimax", "quartimax", "equamax", "promax", "oblimin"}
    normalize : bool, default=True
        Give all features the same weight, whatever their communality, while T is sought (Kaiser's normalisation). For
        promax: while its varimax rotation is sought. scikit-learn does not.
    power : float, default=4
        Power of promax's target, above 1; the higher, the more the factors may correlate.
    max_iter : int, default=1000
        Quasi-Newton steps.

    Returns
    -------
    rotation : Rotation
        Arrays of float64.

    Raises
    ------
    ValueError
        If the method is unknown, the power not above 1, or the loadings no matrix of finite numbers.

    References
    ----------
    Kaiser, Psychometrika 23, 1958. Saunders, American Psychologist 17, 1962. Hendrickson and White, British Journal of
    Statistical Psychology 17, 1964.
    Jennrich, Psychometrika 67, 2002. Bernaards and Jennrich, Educational and Psychological Measurement 65, 2005.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae.models.decomposition.rotation import rotate
    >>> tilted = np.array([[0.6, 0.6], [0.5, 0.5], [0.6, -0.6], [0.5, -0.5]])
    >>> np.abs(rotate(tilted, "varimax").loadings).round(2)
    array([[0.85, 0.  ],
           [0.71, 0.  ],
           [0.  , 0.85],
           [0.  , 0.71]])
    """
    A = np.array(loadings, dtype=np.float64)
    if method not in ORTHOGONAL + OBLIQUE:
        raise ValueError(f"rotation must be one of {', '.join(ORTHOGONAL + OBLIQUE)}, not {method!r}.")
    if A.ndim != 2:
        raise ValueError(f"loadings must be a matrix (n_features, n_components), not of shape {A.shape}.")
    if not np.isfinite(A).all():
        row, column = np.argwhere(~np.isfinite(A))[0]
        raise ValueError(f"loadings must be finite, but loadings[{row}, {column}] = {A[row, column]}.")
    if power <= 1:
        raise ValueError(f"power of promax must be above 1, not {power!r}.")
    K = A.shape[1]
    if K < 2 or not A.any():
        return Rotation(A, np.eye(K), np.eye(K))
    scaled = A / np.abs(A).max()  # fourth powers neither overflow nor vanish
    if method in ORTHOGONAL:
        T = orthomax(_normalised(scaled) if normalize else scaled, _GAMMA[method](K), max_iter)
        return Rotation(A @ T, T, np.eye(K))
    T = _oblique(scaled, method, normalize, power, max_iter)
    Phi = T.T @ T
    np.fill_diagonal(Phi, 1.0)
    return Rotation(np.linalg.solve(T, A.T).T, T, Phi)


def _normalised(A):
    """Scale each row to length 1, except rows of zeros."""
    length = np.linalg.norm(A, axis=1, keepdims=True)
    return np.divide(A, length, out=np.zeros_like(A), where=length > 0)


def _oblique(A, method, normalize, power, max_iter):
    """Find T of an oblique rotation; in directions where A is zero it is the identity."""
    _, singular, Vt = np.linalg.svd(np.linalg.qr(A, mode="r"))
    rank = int((singular > singular[0] * max(A.shape) * np.finfo(float).eps).sum())
    basis = np.eye(len(Vt)) if rank == len(Vt) else Vt.T
    A = (A @ basis)[:, :rank]
    sought = _normalised(A) if normalize else A
    T = quartimin(sought, max_iter) if method == "oblimin" else promax(A, orthomax(sought, 1.0, max_iter), power)
    whole = np.eye(len(Vt))
    whole[:rank, :rank] = T
    return basis @ whole


# --- orthogonal -------------------------------------------------------------------------------------------------------


def orthomax_criterion(L, gamma):
    """Criterion to maximise: sum_k [ sum_d L_dk^4 - gamma / D (sum_d L_dk^2)^2 ]."""
    squares = L**2
    return (squares**2).sum() - gamma / len(L) * (squares.sum(0) ** 2).sum()


def orthomax(A, gamma, max_iter):
    """Find the orthogonal T that maximises the orthomax criterion, near where scikit-learn's iteration ends.

    That iteration, T = U V' of the gradient's singular value decomposition, chooses the optimum; but it stops early,
    and can stay on a saddle point. Rotating each pair of factors by its best angle leaves saddle points, and a
    quasi-Newton ascent goes on to the maximum.
    """
    T = _by_svd(A, gamma)
    if orthomax_criterion(A @ T, gamma) < orthomax_criterion(A, gamma):
        T = np.eye(len(T))
    T = _turn_pairs(A, T, gamma)
    T = T @ _cayley(_maximise(A @ T, gamma, max_iter))
    U, _, Vt = np.linalg.svd(T)  # many turns leave rounding; back to an orthogonal matrix
    return U @ Vt


def _by_svd(A, gamma, tol=1e-6, max_iter=100):
    """Repeat T = U V', where U S V' is the gradient at T (as do MATLAB and scikit-learn)."""
    T, height = np.eye(A.shape[1]), 0.0
    for _ in range(max_iter):
        L = A @ T
        U, singular, Vt = np.linalg.svd(A.T @ (L**3 - gamma * L * (L**2).mean(0)))
        T, last, height = U @ Vt, height, singular.sum()
        if last and height < last * (1 + tol):
            break
    return T


def _turn_pairs(A, T, gamma):
    """Rotate every pair of factors in turn by its best angle; return the new T."""
    Lt, Tt = np.ascontiguousarray((A @ T).T), T.T.copy()
    for j, k in combinations(range(len(Lt)), 2):
        angle = _best_angle(Lt[j], Lt[k], gamma)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        Lt[[j, k]], Tt[[j, k]] = turn @ Lt[[j, k]], turn @ Tt[[j, k]]
    return Tt.T


def _best_angle(x, y, gamma):
    """Best angle to rotate two columns by; the criterion is a sine of four times the angle (Kaiser 1958)."""
    u, v = x**2 - y**2, 2 * x * y
    sine = 2 * (u @ v - gamma * u.sum() * v.sum() / len(u))
    cosine = u @ u - v @ v - gamma * (u.sum() ** 2 - v.sum() ** 2) / len(u)
    if np.hypot(sine, cosine) <= _DIRECTIONLESS * (u @ u + v @ v):
        return 0.0
    return np.arctan2(sine, cosine) / 4


def _maximise(A, gamma, max_iter):
    """Find the skew-symmetric S, above its diagonal, that maximises the criterion of A (I - S)^-1 (I + S)."""
    upper = np.triu_indices(A.shape[1], 1)

    def criterion(skew):
        T = _cayley(skew)
        L = A @ T
        slope = A.T @ (L**3 - gamma * L * (L**2).mean(0))  # of the criterion in T, over 4
        # dT = (I - S)^-1 dS (I + T), and (I - S)^-1 = (I + T) / 2
        slope = (np.eye(len(T)) + T).T @ slope @ (np.eye(len(T)) + T).T / 2
        return -orthomax_criterion(L, gamma) / 4, (slope.T - slope)[upper]

    return _minimise(criterion, np.zeros(len(upper[0])), max_iter)


def _cayley(skew):
    """Orthogonal matrix (I - S)^-1 (I + S), from the part of S = -S' above its diagonal."""
    K = (1 + math.isqrt(1 + 8 * len(skew))) // 2
    S = np.zeros((K, K))
    S[np.triu_indices(K, 1)] = skew
    S -= S.T
    return np.linalg.solve(np.eye(K) - S, np.eye(K) + S)


def _minimise(function, x0, max_iter):
    """Minimise a function that returns its value and gradient, by L-BFGS from x0."""
    options = {"maxiter": max_iter, "maxfun": 2 * max_iter, "maxcor": 20, "ftol": 0.0, "gtol": _SMALLEST}
    return minimize(function, x0, jac=True, method="L-BFGS-B", options=options).x


# --- oblique ----------------------------------------------------------------------------------------------------------


def promax(A, varimax, power):
    """Find T of the loadings nearest, by least squares, to the varimax loadings raised to a power, signs kept."""
    L = A @ varimax
    weights = np.linalg.lstsq(L, L * np.abs(L) ** (power - 1), rcond=None)[0]
    T = np.linalg.inv(varimax @ weights).T
    return T / np.linalg.norm(T, axis=0)


def quartimin_criterion(L):
    """Criterion to minimise: sum_{j != k} sum_d L_dj^2 L_dk^2 / 4."""
    squares = L**2
    return (squares.sum(1) ** 2 - (squares**2).sum(1)).sum() / 4


def quartimin(A, max_iter):
    """Find the T with columns of unit length that minimises the quartimin criterion near the quartimax rotation.

    Quartimax is the best orthogonal T by this criterion. From there, L-BFGS follows Jennrich's projected gradient in
    columns of free length, which takes a tenth of the steps of his gradient projection.
    """
    T0 = orthomax(A, 0.0, max_iter)

    def criterion(flat):
        length = np.linalg.norm(flat.reshape(T0.shape), axis=0)
        value, gradient = quartimin_and_gradient(A, flat.reshape(T0.shape) / length)
        return value, (gradient / length).ravel()

    found = _minimise(criterion, T0.ravel(), max_iter).reshape(T0.shape)
    return found / np.linalg.norm(found, axis=0)


def quartimin_and_gradient(A, T):
    """Criterion at L = A (T')^-1, and its gradient in T projected on columns of unit length (Jennrich 2002)."""
    inverse = np.linalg.inv(T)
    L = A @ inverse.T
    squares = L**2
    slope = L * (squares.sum(1, keepdims=True) - squares)
    gradient = -(L.T @ slope @ inverse).T
    return quartimin_criterion(L), gradient - T * (T * gradient).sum(0)
