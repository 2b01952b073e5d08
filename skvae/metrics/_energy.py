"""The energy distance of two samples of points, of which all that compares tables is made."""

import numpy as np

_CELLS_AT_ONCE = 2**20  # of a matrix of distances


def energy_distance(x, y, weight=None, squares=None, *, within_x=None):
    """Estimate 2 E|x - y| - E|x - x'| - E|y - y'| without bias (Szekely and Rizzo 2013).

    Parameters
    ----------
    x : float64 ndarray of shape (n, n_columns)
    y : float64 ndarray of shape (m, n_columns)
    weight : float64 ndarray of shape (n,) or None, default=None
        Of the rows of x; None: 1 each.
    squares : float64 ndarray of shape (n,) or None, default=None
        Sum of the squared weights of the observations that a row of x stands for; None: one observation each.
    within_x : float or None, default=None
        `mean_within(x, weight, squares)`, where it is known.
    """
    share = np.full(len(x), 1 / len(x)) if weight is None else weight / weight.sum()
    between = sum(share[rows] @ part.mean(1) for rows, part in _distances(x, y))
    within_x = mean_within(x, weight, squares) if within_x is None else within_x
    return float(2 * between - within_x - mean_within(y))


def mean_within(x, weight=None, squares=None):
    """Weighted mean distance of two different observations of one sample; 0 where there is only one."""
    weight = np.ones(len(x)) if weight is None else weight
    total = sum(weight[rows] @ (part @ weight) for rows, part in _distances(x, x))
    pairs = weight.sum() ** 2 - (np.square(weight) if squares is None else squares).sum()
    return float(total / pairs) if pairs > 1e-9 * weight.sum() ** 2 else 0.0


def _distances(x, y):
    """Yield the distances of some rows of x at a time from all rows of y, with a slice of these rows."""
    of_x, of_y = np.square(x).sum(1), np.square(y).sum(1)
    step = max(1, _CELLS_AT_ONCE // len(y))
    for rows in (slice(start, start + step) for start in range(0, len(x), step)):
        squared = of_x[rows, None] + of_y - 2 * (x[rows] @ y.T)
        # What rounding leaves of the distance of equal points would be far from 0 after the root.
        squared[squared < 1e-12 * (of_x[rows, None] + of_y)] = 0
        yield rows, np.sqrt(squared)
