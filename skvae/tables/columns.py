"""What a fit knows of the columns of a table, as plain facts: arrays, numbers, short strings, lists and dicts of them.

A table is an array, a list of rows or a DataFrame, with numbers, Booleans, strings and categories, and with NaN, None
or pandas' NA where a cell is missing. It travels in two steps, because scikit-learn's checks must see numbers::

    X --encoding.as_numbers--> (n, D) numbers, NaN where missing --encoding.encode--> x (n, D~), observed (n, D~)
    X <-----decoding.restore-- (n, D) numbers                    <--decoding.decode-- values (n, D~)

D~ is the width of the model layout: one column for each numeric column and one for each level of a categorical one,
in blocks by likelihood. `learning` finds the facts.
"""

from typing import NamedTuple

import numpy as np

from skvae.tables.frame_facts import FrameFacts


class Block(NamedTuple):
    """Neighbouring columns of the model layout that one likelihood reads.

    Attributes
    ----------
    likelihood : str
        A name in `skvae.likelihoods.LIKELIHOODS`, or the signature of a likelihood object of the user's.
    columns : tuple of int
        Of the table, ascending.
    start, stop : int
        Columns of the model layout, stop excluded.
    sizes : tuple of int
        How many columns of the layout each column of the table has: its levels where it is nominal, else 1.
    nominal : bool
        Whether cells are levels.
    scaled : bool
        Whether columns are centred and scaled.
    """

    likelihood: str
    columns: tuple
    start: int
    stop: int
    sizes: tuple
    nominal: bool = False
    scaled: bool = False

    @property
    def span(self):
        """Slice of the model layout."""
        return slice(self.start, self.stop)

    @property
    def starts(self):
        """Where each column of the table starts in the model layout."""
        return self.start + np.cumsum((0, *self.sizes[:-1]))

    @property
    def of_table(self):
        """Index of its columns in the table: a slice where possible, which spares a copy."""
        first, last = self.columns[0], self.columns[-1]
        return slice(first, last + 1) if last - first == len(self.columns) - 1 else list(self.columns)


class ColumnStatistics(NamedTuple):
    """Weighted means, variances and shares of the columns of the model layout, over observed cells.

    Attributes
    ----------
    mean, variance : float64 ndarray of shape (width,)
    share : float64 ndarray of shape (width,)
        Of cells that are not zero; of scaled columns, before they are centred.
    """

    mean: np.ndarray
    variance: np.ndarray
    share: np.ndarray


class Columns(NamedTuple):
    """What a fit knows of the columns of a table: their likelihoods, levels and scales.

    Made in two steps by `learning.read_columns`, from types and levels, and `learning.measure_columns`, from the
    numbers that remain after scikit-learn's checks. The attributes from `location` on are None in between.

    Attributes
    ----------
    who : str
        Name of the estimator, for error messages.
    n_features : int
        Columns of the table, D.
    names : list of str or None
    noise : str or float
        Of gaussian columns, as the user gave it.
    levels : dict
        For each nominal column, the list of its values, sorted or as a frame declares them.
    level_dtypes : dict
        For each nominal column whose values are objects of pandas, the dtype that makes them of their `levels`.
    boolean_columns : tuple of int
        Columns that hold Booleans.
    of_objects : bool
        Whether an array of objects was fitted.
    frame : FrameFacts, list or None
        Labels and dtypes of a DataFrame; of polars, as `polars_frames.names_and_dtypes` gives them.
    all_numbers : bool
        Whether the table holds nothing but numbers, so that an array says it all.
    blocks : tuple of Block
        In the order of their first columns.
    source : int ndarray of shape (width,)
        The column of the table that a column of the model layout comes from.
    constants : dict
        Value of each column in which only rounding varies, where columns are scaled each by itself. The model layout is
        without them: they are normal about this value with variance 1e-12 (`CONSTANT_VARIANCE`), whatever the model.
        One stays where there is nothing else.
    location, scale : float64 ndarray of shape (width,) or None
        x = (number - location) / scale for scaled columns; 0 and 1 for the others.
    statistics : ColumnStatistics or None
    input_mean, input_scale : float64 ndarray of shape (width,) or None
        By which `encoding.encoder_inputs` standardises what the encoder reads of some columns.
    """

    who: str
    n_features: int
    names: list | None
    noise: str | float
    levels: dict
    level_dtypes: dict
    boolean_columns: tuple
    of_objects: bool
    frame: FrameFacts | list | None
    all_numbers: bool
    blocks: tuple
    source: np.ndarray
    constants: dict
    location: np.ndarray | None = None
    scale: np.ndarray | None = None
    statistics: ColumnStatistics | None = None
    input_mean: np.ndarray | None = None
    input_scale: np.ndarray | None = None

    @property
    def width(self):
        """Columns of the model layout, D~."""
        return len(self.source)

    def with_blocks(self, blocks):
        """Give the same columns with these blocks side by side."""
        ends = np.cumsum([sum(block.sizes) for block in blocks]).tolist()
        placed = zip(blocks, [0, *ends[:-1]], ends, strict=True)
        return self._replace(
            blocks=tuple(block._replace(start=start, stop=stop) for block, start, stop in placed),
            source=np.concatenate([np.repeat(block.columns, block.sizes) for block in blocks]),
        )

    def architecture(self):
        """Describe what fixes the meaning of a model's parameters, in plain values; scales are not part of it."""
        return {
            "n_features": self.n_features,
            "likelihood": [(block.likelihood, _ranges(block.columns)) for block in self.blocks],
            "levels": {label(self.names, j): list(levels) for j, levels in self.levels.items()},
            "noise": self.noise if any(block.likelihood == "gaussian" for block in self.blocks) else None,
        }

    def cell(self, row, j):
        """Name a cell of the table, as errors do."""
        return cell_label(self.names, row, j)


def _ranges(columns):
    """Write (0, 1, 2, 5) as "0-2, 5"."""
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


# -------------------------------------------------------------------------------------------------- words of errors
def label(names, j):
    """Give the name of a column, or its number."""
    return int(j) if names is None else names[j]


def cell_label(names, row, j):
    """Name a cell of the table X."""
    return f"X[{row}, {label(names, j)!r}]"


def listed(columns, names=None, most=10):
    """Put the labels of columns side by side, or other things in words: the first ones of many, and how many more."""
    words = [repr(label(names, each)) if isinstance(each, int | np.integer) else str(each) for each in columns]
    shown = ", ".join(words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"
