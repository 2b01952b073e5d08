"""Between a table as users have it and the numbers that likelihoods read, and back.

A table is an array, a list of rows or a DataFrame, with numbers, Booleans, strings and categories, and with NaN, None
or pandas' NA where a cell is missing. It travels in two steps, because scikit-learn's checks must see numbers::

    X --numeric--> (n, D) numbers, NaN where missing --encode--> x (n, D~), observed (n, D~)
    X <--restore-- (n, D) numbers                    <--decode-- values (n, D~)

D~ is the width of the model layout: one column for each numeric column and one for each level of a categorical one,
in blocks by likelihood. pandas is never imported: a frame is known by what it can do.
"""

from numbers import Real
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from skvae import likelihoods
from skvae._compat import check_sample_weight
from skvae._rounding import CONSTANT_VARIANCE, is_constant
from skvae.tables.checks import columns_of, refuse_empty_columns, refuse_overflow
from skvae.tables.column_statistics import column_means_and_variances, seen_weight, slices
from skvae.tables.frames import (
    all_numbers,
    all_truths,
    as_table,
    cells_of,
    common_dtype,
    declared_levels,
    dtypes_of,
    filled_frame,
    is_frame,
    names_of,
    plain,
    series_like,
    words,
)

LIKELIHOODS = ("gaussian", "bernoulli", "categorical", "multinomial", "poisson", "negative_binomial")
NOISES = ("diag", "isotropic")
NOISE_FLOOR = 1e-3  # of the gaussian likelihood, as a share of the variance of a column
_COUNTS = ("multinomial", "poisson", "negative_binomial")
_CELLS_AT_ONCE = 2**22  # in float64, where moments are computed


class Block(NamedTuple):
    """Neighbouring columns of the model layout that one likelihood reads.

    Attributes
    ----------
    kind : str
        One of `LIKELIHOODS`.
    columns : tuple of int
        Of the table, ascending.
    start, stop : int
        Columns of the model layout, stop excluded.
    sizes : tuple of int
        How many columns of the layout each column of the table has: its levels where it is categorical, else 1.
    """

    kind: str
    columns: tuple
    start: int
    stop: int
    sizes: tuple

    @property
    def span(self):
        """Slice of the model layout."""
        return slice(self.start, self.stop)


class ColumnStatistics(NamedTuple):
    """Weighted means, variances and shares of the columns of the model layout, over observed cells.

    Attributes
    ----------
    mean, variance : float64 ndarray of shape (width,)
    share : float64 ndarray of shape (width,)
        Of cells that are not zero; of gaussian columns, before they are centred.
    """

    mean: np.ndarray
    variance: np.ndarray
    share: np.ndarray


class Columns:
    """What a fit knows of the columns of a table: their likelihoods, levels and scales.

    Made by `fit`, or in two steps by `read`, which looks at types and levels, and `measured`, which takes means and
    scales from the numbers that remain after scikit-learn's checks.

    Attributes
    ----------
    n_features, width : int
        Columns of the table, D, and of the model layout, D~.
    blocks : list of Block
        In the order of their first columns.
    levels : dict
        For each categorical column, the sorted list of its values.
    source : int ndarray of shape (width,)
        The column of the table that a column of the model layout comes from.
    location, scale : float64 ndarray of shape (width,)
        x = (number - location) / scale for gaussian columns; 0 and 1 for the others.
    constants : dict
        Value of each gaussian column in which only rounding varies, where noise="diag". The model layout is without
        them: they are normal about this value with variance 1e-12 (`CONSTANT_VARIANCE`), whatever the model. One
        stays where there is nothing else.
    statistics : ColumnStatistics
    """

    def __init__(self, blocks, levels, noise, names, template, truths, who, of_objects=False):
        self.levels, self.noise, self.names = levels, noise, names
        self.template, self.who = template, who
        self.truths = truths  # columns that hold Booleans
        self.of_objects = of_objects  # an array of them was fitted
        self.n_features, self.constants = sum(len(block.columns) for block in blocks), {}
        self._lay_out(blocks)

    def _lay_out(self, blocks):
        """Put blocks side by side."""
        ends = np.cumsum([sum(block.sizes) for block in blocks]).tolist()
        self.blocks = [
            block._replace(start=start, stop=stop)
            for block, start, stop in zip(blocks, [0, *ends[:-1]], ends, strict=True)
        ]
        self.source = np.concatenate([np.repeat(block.columns, block.sizes) for block in blocks])
        self.width = len(self.source)

    # ------------------------------------------------------------------------------------------------------- learning
    @classmethod
    def read(cls, X, likelihood="gaussian", noise="diag", *, names=None, who="Columns"):
        """Learn which likelihood each column has, and the levels of categorical columns.

        Parameters
        ----------
        X : {DataFrame, array-like} of shape (n_samples, n_features)
        likelihood : str or list of (str, columns)
            One of `LIKELIHOODS`; or "auto": of a frame, and of columns of objects, Booleans are bernoulli, strings and
            categories categorical and numbers gaussian, and all columns of other arrays are gaussian; or a list that
            names every column once, by number, name, slice of numbers or Boolean mask. Columns of an entry
            "multinomial" share their draws; of all other likelihoods it does not matter how entries split them.
        noise : {"diag", "isotropic"} or float
            Of gaussian columns: a variance for each, one for all, or this one, in the units of X.
        names : list of str or None, default=None
            Of the columns of an array. A frame has its own.
        who : str
            Name of the estimator, for error messages.

        Returns
        -------
        columns : Columns
            Ready for `numeric`; for all else `measured` must follow.

        Raises
        ------
        ValueError
            If a likelihood, a noise or a column is not known, a column is named twice or not at all, a column has a
            type for which "auto" knows no likelihood, or the levels of a column cannot be sorted.
        """
        table = as_table(X, who)
        names = names_of(table, getattr(X, "columns", None) if names is None else names)
        _check_noise(noise, who)
        kinds = _kinds(table, likelihood, names, who)
        levels = {
            j: declared_levels(table, j) or _levels(*cells_of(table, j), _label(names, j))
            for j, (kind, _) in enumerate(kinds)
            if _nominal(kind)
        }
        truths = {j for j in range(table.shape[1]) if j not in levels and all_truths(table, j)}
        template = table.iloc[:0].reset_index(drop=True) if is_frame(table) else None
        of_objects = not is_frame(table) and table.dtype == object
        return cls(_blocks(kinds, levels), levels, noise, names, template, truths, who, of_objects)

    @classmethod
    def fit(cls, X, likelihood="gaussian", noise="diag", names=None, sample_weight=None, who="Columns"):
        """`read`, `numeric` and `measured` in one."""
        columns = cls.read(X, likelihood, noise, names=names, who=who)
        return columns.measured(columns.numeric(X), sample_weight)

    def measured(self, numbers, sample_weight=None):
        """Learn locations, scales and moments, in float64 whatever the numbers are.

        Parameters
        ----------
        numbers : float ndarray of shape (n_samples, n_features)
            From `numeric`.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            How often each row counts. A level that only rows of weight zero have stays a level.

        Returns
        -------
        self : Columns

        Raises
        ------
        ValueError
            If a column has no observed value, or holds values whose squares overflow.
        """
        numbers, weight = _weighed(numbers, sample_weight)
        refuse_empty_columns(numbers, self.who)
        refuse_overflow(numbers)
        missing = np.isnan(numbers)
        seen = ~missing if missing.any() else None
        moments = *column_means_and_variances(numbers, weight, seen), _nonzero_shares(numbers, seen, weight)
        if self.noise == "diag":
            self._set_aside(is_constant(moments[1], moments[0]), moments[0])
        mean, variance, share = (moment[self.source] for moment in moments)
        self._set_scales(mean, variance)
        variance = np.where(self._varies(mean, variance), variance / self.scale**2, 0.0)
        self.statistics = ColumnStatistics((mean - self.location) / self.scale, variance, share)
        for block in self._of_kind("categorical"):
            p = self._shares_of_levels(numbers, weight, block)
            self.statistics.mean[block.span] = self.statistics.share[block.span] = p
            self.statistics.variance[block.span] = p * (1 - p)
        self._set_feature_scales(numbers, seen, weight)
        return self

    def _shares_of_levels(self, numbers, weight, block):
        shares = []
        for j, size in zip(block.columns, block.sizes):
            rows = np.flatnonzero(~np.isnan(numbers[:, j]))
            total = np.bincount(numbers[rows, j].astype(np.intp), weight[rows], minlength=size)
            shares.append(total / total.sum())
        return np.concatenate(shares)

    def _set_aside(self, constant, mean):
        """Leave constant gaussian columns out of the layout, but for the last one that would be left."""
        for block in self._of_kind("gaussian"):
            self.constants |= {j: float(mean[j]) for j in block.columns if constant[j]}
        if len(self.constants) == self.n_features:
            del self.constants[self.n_features - 1]
        self._lay_out([block for block in map(self._without_constants, self.blocks) if block.columns])

    def _without_constants(self, block):
        kept = [(j, size) for j, size in zip(block.columns, block.sizes, strict=True) if j not in self.constants]
        return block._replace(columns=tuple(j for j, _ in kept), sizes=tuple(size for _, size in kept))

    def _varies(self, mean, variance):
        return ~(self._mask("gaussian") & is_constant(variance, mean))

    def _set_scales(self, mean, variance):
        gaussian, varies = self._mask("gaussian"), self._varies(mean, variance)
        if self.noise == "diag":
            scale = np.sqrt(np.where(varies, variance, CONSTANT_VARIANCE))
        else:  # one for all, so that equal variances of the noise stay equal
            total = variance[gaussian & varies].sum()
            scale = np.sqrt(total / gaussian.sum()) if total > 0 else 1.0
        self.location, self.scale = np.where(gaussian, mean, 0.0), np.where(gaussian, scale, 1.0)

    def _set_feature_scales(self, numbers, seen, weight):
        self.shift, self.spread = np.zeros(self.width), np.ones(self.width)
        for block in self._of_kind(*_COUNTS):
            some = _index(block.columns)
            logs = np.log1p(numbers[:, some], dtype=np.float64)
            mean, variance = column_means_and_variances(logs, weight, None if seen is None else seen[:, some])
            self.shift[block.span] = mean
            self.spread[block.span] = np.sqrt(np.where(is_constant(variance, mean), 1.0, variance))

    def _of_kind(self, *kinds):
        return [block for block in self.blocks if block.kind in kinds]

    def _mask(self, *kinds):
        mask = np.zeros(self.width, dtype=bool)
        for block in self._of_kind(*kinds):
            mask[block.span] = True
        return mask

    # ------------------------------------------------------------------------------------------ from X to the model
    def numeric(self, X):
        """The table as numbers, for scikit-learn's checks.

        Parameters
        ----------
        X : {DataFrame, array-like} of shape (n_samples, n_features)

        Returns
        -------
        numbers : ndarray of shape (n_samples, n_features)
            NaN where a cell is missing; the numbers of their levels, from 0, in categorical columns. float32 if all
            of X is float32, else float64. X itself, not a copy, where nothing had to change.

        Raises
        ------
        ValueError
            If a value is infinite, outside [0, 1] in a bernoulli column (values between are taken as probabilities),
            negative or no integer in a column of counts, an unknown level of a categorical column or a string in any
            other; names the cell. And if X is no table, in scikit-learn's words.
        TypeError
            If a cell is of a type that is no number.
        """
        table = as_table(X, self.who)
        if table.shape[1] != self.n_features:
            raise ValueError(
                f"X has {table.shape[1]} features, but {self.who} is expecting {self.n_features} features as input."
            )
        if all_numbers(table) and not self.levels:
            numbers = np.asarray(table, dtype=common_dtype(table))
        else:
            numbers = self._by_column(table)
        self._refuse_values(numbers, np.isinf(numbers), "expects finite values, NaN where a cell is missing", "correct")
        self._refuse_impossible(numbers)
        return numbers

    def _by_column(self, table):
        numbers = np.empty(table.shape, dtype=common_dtype(table))
        for j in range(self.n_features):
            values, missing = cells_of(table, j)
            if j in self.levels:
                numbers[:, j] = self._codes(values, missing, j)
            else:
                numbers[:, j] = self._floats(values, missing, j) if values.dtype == object else values
        return numbers

    def _codes(self, values, missing, j):
        code = {value: number for number, value in enumerate(self.levels[j])}
        codes = np.full(len(values), np.nan)
        for row in _first_rows_of_unknown(values, missing, code):
            raise ValueError(
                f"{_place(row, _label(self.names, j))} = {plain(values[row])!r}, but the levels of this column that "
                f"{self.who} was fitted on are {_listed(self.levels[j])}; make the cell missing (NaN or None), or fit "
                "on rows with this level too."
            )
        found, inverse = _distinct(values[~missing])
        codes[~missing] = np.array([code[value] for value in found], dtype=np.float64)[inverse]
        return codes

    def _floats(self, values, missing, j):
        numbers = np.full(len(values), np.nan)
        for row in np.flatnonzero(~missing):
            value = values[row]
            if isinstance(value, str | bytes):
                raise ValueError(
                    f"a {self._kind(j)} column holds numbers, but {_place(row, _label(self.names, j))} = {value!r} is "
                    "a string; convert the column to numbers, for example by OneHotEncoder, or let VAETransformer "
                    "read it as 'categorical', by a list of (likelihood, columns) or by likelihood='auto'."
                )
            try:
                numbers[row] = value
            except TypeError as error:
                raise TypeError(f"{_place(row, _label(self.names, j))}: {error}") from error
        return numbers

    def _kind(self, j):
        return next(block.kind for block in self.blocks if j in block.columns)

    def _refuse_impossible(self, numbers):
        for block in self.blocks:
            if block.kind == "bernoulli":
                x = numbers[:, _index(block.columns)]
                if x.min() >= 0 and x.max() <= 1:  # neither where a cell is missing: then cell by cell
                    continue
                self._refuse_values(
                    x, (x < 0) | (x > 1), "with likelihood 'bernoulli' expects values in [0, 1]", "binarise", block
                )
            elif block.kind in _COUNTS:
                x = numbers[:, block.columns]
                asked = f"with likelihood '{block.kind}' expects counts (0, 1, 2, ...)"
                self._refuse_values(x, (x < 0) | (np.floor(x) < x), asked, "round", block)

    def _refuse_values(self, x, bad, asked, remedy, block=None):
        if not bad.any():
            return
        row, column = np.unravel_index(bad.argmax(), bad.shape)
        label = _label(self.names, column if block is None else block.columns[column])
        other = "make such cells missing" if block is None else "give this column another likelihood"
        raise ValueError(f"{self.who} {asked}, but {_place(row, label)} = {x[row, column]:g}; {remedy} it, or {other}.")

    def encode(self, numbers):
        """Numbers in the model layout.

        Parameters
        ----------
        numbers : float ndarray of shape (n_samples, n_features)
            From `numeric`.

        Returns
        -------
        x : ndarray of shape (n_samples, width)
            Of the dtype of `numbers`, and `numbers` itself, not a copy, where nothing changes; zero where a cell is
            missing.
        observed : bool ndarray of shape (n_samples, width) or None
            None where every cell was observed. A missing categorical cell misses in all columns of its levels.
        """
        missing = np.isnan(numbers)
        some = bool(missing.any())
        if not some and len(self.blocks) == 1 and self.blocks[0].kind not in ("gaussian", "categorical"):
            return numbers, None
        x = np.zeros((len(numbers), self.width), dtype=numbers.dtype)
        for block in self.blocks:
            if _nominal(block.kind):
                for j, start in zip(block.columns, _starts(block)):
                    rows = np.flatnonzero(~missing[:, j])
                    x[rows, start + numbers[rows, j].astype(np.intp)] = 1
            else:
                part = x[:, block.span]
                self._scale(numbers[:, _index(block.columns)], block, out=part)
                if some:
                    part[missing[:, _index(block.columns)]] = 0
        return x, ~missing[:, self.source] if some else None

    def _scale(self, numbers, block, out):
        if block.kind != "gaussian":
            out[:] = numbers
            return
        for rows in slices(len(numbers), _CELLS_AT_ONCE // 16 // len(block.columns)):
            part = np.subtract(numbers[rows], self.location[block.span], dtype=np.float64)
            out[rows] = np.divide(part, self.scale[block.span], out=part)

    def features(self, x, observed):
        """What the encoder reads: each column on a scale that suits a network.

        Parameters
        ----------
        x, observed : ndarray of shape (n_samples, width); observed may be None
            From `encode`.

        Returns
        -------
        features : ndarray of shape (n_samples, width)
            Zero where a cell is missing. Counts as log(1 + count), standardised as of the fit, the others as they are.
            x itself where nothing changes.
        """
        changing = self._of_kind(*_COUNTS)
        features = x.copy() if changing else x
        for block in changing:
            part = features[:, block.span]
            np.log1p(part, out=part)
            part -= self.shift[block.span].astype(x.dtype)
            part /= self.spread[block.span].astype(x.dtype)
            if observed is not None:
                part[~observed[:, block.span]] = 0
        return features

    def refuse_awakened(self, numbers):
        """Complain of columns that were constant when these columns were measured, and are no longer."""
        for j, value in self.constants.items():
            away = np.flatnonzero(np.abs(numbers[:, j].astype(np.float64) - value) > 1e-6 * max(1.0, abs(value)))
            if len(away):
                raise ValueError(
                    f"{self.who} left out column {_label(self.names, j)!r}, which was constant ({value:g}) in its "
                    f"first rows, but X[{away[0]}] has {numbers[away[0], j]:g} there; begin anew with rows in which it "
                    "varies."
                )

    def resembling(self, X, values):
        """Values of the table as X was given: of a frame one with its index and names."""
        if not is_frame(X):
            return values
        if self.all_numbers:
            return type(X)(values, index=X.index, columns=X.columns)
        return values.set_axis(X.index, axis=0)

    def log_jacobian(self, numbers):
        """What turns the model's log-density into nats of the data as given.

        Parameters
        ----------
        numbers : float ndarray of shape (n_samples, n_features)
            From `numeric`.

        Returns
        -------
        log_jacobian : float64 ndarray of shape (n_samples,)
            Minus the sum of the log scales of the gaussian cells that were observed, and the log-densities of columns
            that were constant.
        """
        log_scale = np.zeros(self.n_features)
        gaussian = self._mask("gaussian")
        log_scale[self.source[gaussian]] = np.log(self.scale[gaussian])
        total = np.full(len(numbers), -log_scale.sum())
        for j in np.flatnonzero(np.isnan(numbers).any(axis=0)):
            total += np.isnan(numbers[:, j]) * log_scale[j]
        for j, value in self.constants.items():
            away = (numbers[:, j].astype(np.float64) - value) ** 2 / CONSTANT_VARIANCE
            total -= 0.5 * np.nan_to_num(away + np.log(2 * np.pi * CONSTANT_VARIANCE), nan=0.0)
        return total

    @property
    def all_numbers(self):
        """Whether a table holds nothing but numbers, so that an array says it all."""
        if self.levels or self.truths:
            return False
        return self.template is None or all(dtype.kind in "iuf" for dtype in self.template.dtypes)

    def likelihood(self, noise_floor=NOISE_FLOOR):
        """The likelihood of the model layout, an object of `skvae.likelihoods`."""
        parts = [(self._likelihood_of(block, noise_floor), block.start, block.stop) for block in self.blocks]
        return parts[0][0] if len(parts) == 1 else likelihoods.Mixed(parts)

    def _likelihood_of(self, block, noise_floor):
        if block.kind == "gaussian":
            noise = self.noise if self.noise in NOISES else self.noise / float(self.scale[block.start]) ** 2
            return likelihoods.Gaussian(noise=noise, floor=noise_floor)
        if block.kind == "categorical":
            return likelihoods.Categorical(block.sizes)
        if block.kind == "multinomial":
            return likelihoods.Multinomial(float(self.statistics.mean[block.span].sum()))
        return {
            "bernoulli": likelihoods.Bernoulli,
            "poisson": likelihoods.Poisson,
            "negative_binomial": likelihoods.NegativeBinomial,
        }[block.kind]()

    def architecture(self):
        """What fixes the meaning of a model's parameters, in plain values; scales are not part of it."""
        return {
            "n_features": self.n_features,
            "likelihood": [(block.kind, _ranges(block.columns)) for block in self.blocks],
            "levels": {_label(self.names, j): list(levels) for j, levels in self.levels.items()},
            "noise": self.noise if self._of_kind("gaussian") else None,
        }

    # ------------------------------------------------------------------------------------------- from the model to X
    def decode(self, values):
        """Values of the model layout, in the units of the table.

        Parameters
        ----------
        values : float ndarray of shape (n_samples, width)
            Means or samples; of categorical columns probabilities, or anything that is largest for the level meant.

        Returns
        -------
        numbers : ndarray of shape (n_samples, n_features)
            As `numeric` gives them, of the dtype of `values`; the most probable level in categorical columns.
        """
        numbers = np.empty((len(values), self.n_features), dtype=values.dtype)
        for block in self.blocks:
            if _nominal(block.kind):
                for j, start, size in zip(block.columns, _starts(block), block.sizes):
                    numbers[:, j] = values[:, start : start + size].argmax(axis=1)
            else:
                unscaled = values[:, block.span] * self.scale[block.span] + self.location[block.span]
                numbers[:, _index(block.columns)] = unscaled
        for j, value in self.constants.items():
            numbers[:, j] = value
        return numbers

    def restore(self, numbers, like=None):
        """Numbers as the user's kind of table.

        Parameters
        ----------
        numbers : float ndarray of shape (n_samples, n_features)
            From `decode` or `numeric`.
        like : {DataFrame, array-like} or None, default=None
            A table of as many rows that gives the container and, if a frame, index and names of columns. None: what
            was fitted on.

        Returns
        -------
        table : {DataFrame, ndarray} of shape (n_samples, n_features)
            A frame has the dtypes that were fitted on (those of `like` after a fit on an array): integers are rounded,
            Booleans are whether a number exceeds 0.5. An array has the dtype of `numbers`, or holds objects if levels
            are no numbers, or truth values among objects.
        """
        frame = self.template if like is None else like
        if not is_frame(frame):
            return self._array(numbers)
        dtypes = (frame if self.template is None else self.template).dtypes
        out = frame.reindex(range(len(numbers))) if like is None else frame.copy()
        for j, dtype in enumerate(dtypes):
            out.isetitem(j, series_like(frame.iloc[:, j], self._words(j, numbers[:, j], dtype), dtype, out.index))
        return out

    def fill(self, X, numbers, values):
        """A copy of X, as it was given, whose missing cells hold values.

        Parameters
        ----------
        X : {DataFrame, array-like} of shape (n_samples, n_features)
        numbers : float ndarray of shape (n_samples, n_features)
            `numeric(X)`.
        values : float ndarray of shape (n_samples, n_features)
            As from `decode`; read where `numbers` is NaN.

        Returns
        -------
        X_filled : {DataFrame, ndarray} of shape (n_samples, n_features)
            A frame keeps its dtypes, which decide whether integers are rounded and Booleans are made; categories gain
            a level where they lack it. An array keeps the dtype of `numbers`, or holds objects if X does and levels
            are no numbers, or truth values.
        """
        missing = np.isnan(numbers)
        if not is_frame(X):
            return self._filled_array(X, numbers, values, missing)
        return filled_frame(X, missing, lambda j, rows, dtype: self._words(j, values[rows, j], dtype))

    def _filled_array(self, X, numbers, values, missing):
        restored = self._array(np.where(missing, values, numbers).astype(numbers.dtype, copy=False))
        if restored.dtype == object:  # what was observed stays as it is: True stays True
            given = as_table(X, self.who)
            restored[~missing] = given[~missing]
        return restored

    def _array(self, numbers):
        worded = not all(isinstance(value, Real) for levels in self.levels.values() for value in levels)
        out = numbers.astype(object) if worded or (self.truths and self.of_objects) else numbers.copy()
        for j in {*self.levels, *self.truths}:
            out[:, j] = self._words(j, numbers[:, j], out.dtype)
        return out

    def _words(self, j, numbers, dtype):
        return words(numbers, dtype, self.levels.get(j), truth=j in self.truths)


# -------------------------------------------------------------------------------------------------- words of errors
def _label(names, j):
    return int(j) if names is None else names[j]


def _place(row, label):
    return f"X[{row}, {label!r}]"


def _listed(values, most=20):
    shown = ", ".join(map(repr, values[:most]))
    return shown if len(values) <= most else f"{shown}, ... ({len(values)} in all)"


# ---------------------------------------------------------------------------------------------- likelihoods of columns
def _nominal(kind):
    return kind == "categorical"


def _check_noise(noise, who):
    if isinstance(noise, str):
        known = noise in NOISES
    else:
        known = isinstance(noise, Real) and not isinstance(noise, bool) and 0 < noise < np.inf
    if not known:
        raise ValueError(f"{who} expects noise to be 'diag', 'isotropic' or a positive number, but it is {noise!r}.")


def _check_kind(kind, who):
    if not isinstance(kind, str) or kind not in LIKELIHOODS:
        raise ValueError(
            f"{who} knows no likelihood {kind!r}; choose among {', '.join(map(repr, LIKELIHOODS))}, 'auto' for all "
            "columns, or a list of (likelihood, columns)."
        )


def _kinds(table, likelihood, names, who):
    """(likelihood, group) of each column; columns that agree in both make a block."""
    n = table.shape[1]
    if isinstance(likelihood, list | tuple):
        return _kinds_of_list(likelihood, n, names, who)
    if isinstance(likelihood, str) and likelihood == "auto":
        return [(_kind_by_type(table, j, names, who), 0) for j in range(n)]
    _check_kind(likelihood, who)
    return [(likelihood, 0)] * n


def _kinds_of_list(entries, n, names, who):
    kinds, twice = [None] * n, []
    for group, entry in enumerate(entries):
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise ValueError(f"{who} expects likelihood to list pairs (likelihood, columns), but found {entry!r}.")
        kind, chosen = entry
        _check_kind(kind, who)
        for j in _chosen(chosen, n, names):
            twice += [j] if kinds[j] else []
            kinds[j] = (kind, group if kind == "multinomial" else 0)
    left = [j for j in range(n) if kinds[j] is None]
    for columns, fault, remedy in ((twice, "more than once", "once"), (left, "not at all", "too")):
        if columns:
            labels = _listed([_label(names, j) for j in columns])
            raise ValueError(
                f"{who} expects likelihood to name every column once, but it names column(s) {labels} {fault}; "
                f"name them {remedy}."
            )
    return kinds


def _chosen(columns, n, names):
    if isinstance(columns, slice):
        if any(isinstance(bound, str) for bound in (columns.start, columns.stop)):
            raise ValueError(f"expected a slice of numbers, but got {columns}; list the names instead.")
        return range(n)[columns]
    if np.asarray(columns).dtype == bool and np.shape(columns) == (n,):
        return np.flatnonzero(columns).tolist()
    if not isinstance(columns, str) and np.size(columns) == 0:
        return []
    fitted = SimpleNamespace(n_features_in_=n, feature_names_in_=names or [])
    return columns_of(fitted, columns, allow_all=True).tolist()


def _kind_by_type(table, j, names, who):
    dtype = dtypes_of(table)[j if is_frame(table) else 0]
    if dtype.kind in "cmM":
        raise ValueError(
            f"likelihood='auto' knows none for column {_label(names, j)!r} of dtype {dtype}; convert it to numbers or "
            "categories, drop it, or list (likelihood, columns)."
        )
    if hasattr(dtype, "categories"):
        return "categorical"
    if dtype.kind in "fiub":
        return "bernoulli" if dtype.kind == "b" and is_frame(table) else "gaussian"
    if all_truths(table, j):
        return "bernoulli"
    values, missing = cells_of(table, j)
    return "categorical" if any(isinstance(value, str | bytes) for value in values[~missing]) else "gaussian"


def _levels(values, missing, label):
    try:
        levels = sorted(_distinct(values[~missing])[0])
    except TypeError:
        types = sorted({type(value).__name__ for value in values[~missing]})
        raise ValueError(
            f"the values of categorical column {label!r} cannot be sorted: it holds {' and '.join(types)}; make them "
            "all of one type, for example with astype(str)."
        ) from None
    infinite = [value for value in levels if isinstance(value, Real) and value in (np.inf, -np.inf)]
    if infinite:
        raise ValueError(f"categorical column {label!r} holds {infinite[0]}; make such cells missing (NaN).")
    return levels


def _distinct(values):
    """The distinct values as plain Python objects, and for each cell the number of its own."""
    if values.dtype != object:
        found, inverse = np.unique(values, return_inverse=True)
        return found.tolist(), inverse
    number = {}
    inverse = [number.setdefault(plain(value), len(number)) for value in values]
    return list(number), np.array(inverse, dtype=np.intp)


def _first_rows_of_unknown(values, missing, known):
    """The first row whose level is not known, if there is one."""
    rows = np.flatnonzero(~missing)
    found, inverse = _distinct(values[rows])
    unknown = np.array([value not in known for value in found], dtype=bool)
    return rows[np.flatnonzero(unknown[inverse])[:1]] if unknown.any() else []


def _blocks(kinds, levels):
    members = {}
    for j, kind in enumerate(kinds):
        members.setdefault(kind, []).append(j)
    blocks, start = [], 0
    for (kind, _), columns in members.items():
        sizes = tuple(len(levels[j]) if j in levels else 1 for j in columns)
        blocks.append(Block(kind, tuple(columns), start, start + sum(sizes), sizes))
        start = blocks[-1].stop
    return blocks


def _starts(block):
    return block.start + np.cumsum((0, *block.sizes[:-1]))


def _index(columns):
    """A slice where it does, which spares a copy."""
    first, last = columns[0], columns[-1]
    return slice(first, last + 1) if last - first == len(columns) - 1 else list(columns)


def _ranges(columns):
    """(0, 1, 2, 5) as "0-2, 5"."""
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


# ------------------------------------------------------------------------------------------------------------- moments
def _weighed(numbers, sample_weight):
    """Rows that count, and their weights in float64."""
    if sample_weight is None:
        return numbers, np.ones(len(numbers))
    weight = check_sample_weight(sample_weight, numbers, dtype=np.float64, ensure_non_negative=True)
    kept = weight > 0
    return (numbers, weight) if kept.all() else (numbers[kept], weight[kept])


def _nonzero_shares(values, seen, weight):
    """Share of the cells seen of each column that are not zero, some columns at once."""
    shares = []
    for part in slices(values.shape[1], _CELLS_AT_ONCE // len(values)):
        counted = values[:, part] != 0
        if seen is None:
            shares.append(weight @ counted.astype(np.float64) / weight.sum())
        else:
            counted &= seen[:, part]
            shares.append(weight @ counted.astype(np.float64) / seen_weight(weight, seen[:, part]))
    return np.concatenate(shares)
