"""Two-sample tests: whether two tables, of real rows and of generated ones, look as if drawn from one distribution."""

from numbers import Number

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils import check_random_state

from skvae.metrics import _energy

_MAX_SEED = 2**31 - 1


def energy_distance(X, Y):
    """Estimate the energy distance of the distributions of two tables: 0 if they are equal, else above.

    It is 2 E|x - y| - E|x - x'| - E|y - y'| for independent rows x, x' of the one and y, y' of the other. The estimate
    has no bias. It is therefore a little below 0 half of the time where both are samples of one distribution.

    Parameters
    ----------
    X : {array-like, DataFrame} of shape (n_samples_X, n_features)
        Usually the real rows: their means and standard deviations scale the columns of both tables. Strings and
        categories are levels; a column of two levels counts as a column of zeros and ones does.
    Y : {array-like, DataFrame} of shape (n_samples_Y, n_features)
        The rows to compare.

    Returns
    -------
    distance : float
        In standard deviations of X, about the square root of `n_features` times as large for n_features unrelated
        columns as for one. In one dimension its square root is what `scipy.stats.energy_distance` estimates.

    Raises
    ------
    ValueError
        If the tables have different columns, fewer than two rows, or missing cells.

    References
    ----------
    Szekely and Rizzo, *Energy statistics: A class of statistics based on distances*, Journal of Statistical Planning
    and Inference 143, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae.metrics import energy_distance
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(500, 2)), rng.normal(size=(500, 2))
    >>> abs(energy_distance(X, Y)) < 0.01
    True
    >>> energy_distance(X, Y + [1, 0]) > 0.1
    True
    """
    return _energy.energy_distance(*_as_numbers(X, Y))


def classifier_two_sample_accuracy(X, Y, *, classifier=None, cv=5, random_state=None):
    """Accuracy with which a classifier tells rows of one table from those of another: 0.5 if it cannot.

    Every row is classified once, by a classifier that was fitted to other rows of both tables. Of the longer table as
    many rows are picked at random as the shorter one has.

    Parameters
    ----------
    X : {array-like, DataFrame} of shape (n_samples_X, n_features)
        Usually real rows that the generator has not seen. Strings and categories are levels.
    Y : {array-like, DataFrame} of shape (n_samples_Y, n_features)
        The rows to compare.
    classifier : estimator object or None, default=None
        A classifier; it is cloned. None: a forest of 100 trees with at least 5 rows in each leaf.
    cv : int, default=5
        Number of folds, at least 2.
    random_state : int, RandomState instance or None, default=None
        Seed of the rows picked, of the folds and of the forest.

    Returns
    -------
    accuracy : float in [0, 1]
        Share of the rows that are told right. For n rows of each table and one distribution of both, its standard
        deviation is about 0.5 / sqrt(2 n).

    Raises
    ------
    ValueError
        If the tables have different columns, fewer rows than folds, or missing cells.

    References
    ----------
    Lopez-Paz and Oquab, *Revisiting Classifier Two-Sample Tests*, ICLR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae.metrics import classifier_two_sample_accuracy
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(200, 2)), rng.normal(size=(200, 2))
    >>> round(classifier_two_sample_accuracy(X, Y + [3, 0], random_state=0), 1)
    0.9
    """
    x, y = _as_numbers(X, Y, fewest=cv)
    # None draws from the system: no global generator advances.
    rng = check_random_state(np.random.default_rng().integers(_MAX_SEED) if random_state is None else random_state)
    if classifier is None:
        classifier = RandomForestClassifier(min_samples_leaf=5, random_state=rng.randint(_MAX_SEED))
    folds = StratifiedKFold(cv, shuffle=True, random_state=rng.randint(_MAX_SEED))
    n = min(len(x), len(y))
    rows = np.concatenate([part if len(part) == n else part[rng.permutation(len(part))[:n]] for part in (x, y)])
    label = np.repeat([0, 1], n)
    return float(accuracy_score(label, cross_val_predict(clone(classifier), rows, label, cv=folds)))


def _as_numbers(X, Y, fewest=2):
    """Both tables as numbers: columns in standard deviations of X, a column for each level, scaled alike."""
    of_x, of_y = _columns_of(X), _columns_of(Y)
    if len(of_x) != len(of_y):
        raise ValueError(f"X has {len(of_x)} columns, but Y has {len(of_y)}; compare tables with the same columns.")
    if hasattr(X, "columns") and hasattr(Y, "columns") and list(X.columns) != list(Y.columns):
        raise ValueError(f"X has the columns {list(X.columns)}, but Y has {list(Y.columns)}; give both the same.")
    names = list(getattr(X, "columns", range(len(of_x))))
    parts = []
    for name, x, y in zip(names, of_x, of_y, strict=True):
        for table, cells in (("X", x), ("Y", y)):
            if len(cells) < fewest:
                raise ValueError(f"{table} has {len(cells)} row(s), but at least {fewest} are needed to compare it.")
            missing = np.flatnonzero(cells != cells if cells.dtype != object else [_is_missing(cell) for cell in cells])
            if len(missing):
                raise ValueError(f"{table}[{missing[0]}, {name!r}] is missing; fill or drop such rows to compare.")
        parts.append(_levels(x, y) if object in (x.dtype, y.dtype) else _standardised(x, y))
    x, y = (np.column_stack(part) for part in zip(*parts, strict=True))
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError("X or Y holds infinity; correct or drop such rows to compare.")
    return x, y


def _columns_of(table):
    """The columns of a table as arrays: of floats, or of objects where cells are levels."""
    if sp.issparse(table):
        raise TypeError("A sparse table cannot be compared; pass X.toarray(), with fewer columns if that is too large.")
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return [_cells(table.iloc[:, j], hasattr(table.dtypes.iloc[j], "categories")) for j in range(table.shape[1])]
    if hasattr(table, "get_columns"):  # polars
        return [_cells(column.to_numpy(), False) for column in table.get_columns()]
    table = np.asarray(table, dtype=None if hasattr(table, "dtype") else object)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"Tables of rows and columns are compared, but one has the shape {table.shape}.")
    return [_cells(column, False) for column in table.T]


def _cells(column, are_levels):
    """A column as floats, or as objects where its cells are levels."""
    cells = np.asarray(column)
    if cells.dtype.kind == "c":
        raise ValueError("Tables of complex numbers cannot be compared; give real and imaginary parts as columns.")
    if cells.dtype.kind == "M":
        cells = cells.astype("datetime64[ns]")  # whose unit may differ from table to table
    are_levels = are_levels or cells.dtype.kind in "USO" and any(isinstance(cell, str | bytes) for cell in cells)
    if not are_levels:
        try:
            return cells.astype(np.float64)
        except (TypeError, ValueError):  # pandas' NA
            pass
    return cells.astype(object)


def _is_missing(cell):
    return cell is None or type(cell).__name__ == "NAType" or cell != cell


def _standardised(x, y):
    """Two columns of numbers, in standard deviations of the first; as they are if that is constant."""
    largest = np.abs(x).max()
    # A power of two changes no digit; without it squares of values near the limits of floats are 0 or infinite.
    unit = np.ldexp(0.5, np.frexp(largest)[1]) if 0 < largest < np.inf else 1.0
    x, y = x / unit, y / unit
    mean, deviation = x.mean(), x.std()
    deviation = 1 / unit if deviation <= 1e-12 * abs(mean) else deviation
    return ((x - mean) / deviation)[:, None], ((y - mean) / deviation)[:, None]


def _levels(x, y):
    """Two columns of levels, with a column for each; two random rows of the first are as far apart as of numbers."""
    x, y = (np.array([_level(cell) for cell in cells]) for cells in (x, y))
    levels = np.unique(np.concatenate([x, y]))
    one_hot = [(cells[:, None] == levels).astype(np.float64) for cells in (x, y)]
    differ = 1 - np.square(one_hot[0].mean(0)).sum()  # how often two rows have different levels
    return [part / np.sqrt(differ if differ > 0 else 1.0) for part in one_hot]


def _level(cell):
    """A level as text, the same of 1, 1.0 and True, which are equal."""
    return str(float(cell)) if isinstance(cell, Number | np.bool_) else str(cell)
