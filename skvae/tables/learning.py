"""Learning the facts of a table's columns: likelihoods and levels from its types, scales from its numbers."""

import itertools
from numbers import Real

import numpy as np

from skvae import _reduce
from skvae._rounding import CONSTANT_VARIANCE, is_constant
from skvae._tensors import any_nan, is_mapped, row_slices
from skvae.likelihoods.gaussian import NOISES
from skvae.tables.categories import sorted_values
from skvae.tables.checks import refuse_empty_columns, refuse_overflow, refuse_underflow
from skvae.tables.column_likelihoods import assign, likelihood_of
from skvae.tables.column_statistics import column_means_and_variances, seen_weight, slices
from skvae.tables.columns import Block, Columns, ColumnStatistics, label
from skvae.tables.encoding import as_numbers
from skvae.tables.frame_facts import facts_of, made_plain
from skvae.tables.frames import all_booleans, as_table, cells_of, declared_levels, dtypes_of, is_frame, names_of
from skvae.tables.polars_frames import is_polars, names_and_dtypes
from skvae.tables.weights import drop_weightless

_CELLS_AT_ONCE = 2**22  # in float64, where statistics are computed


def read_columns(X, likelihood="gaussian", noise="diag", *, names=None, who="Columns"):
    """Learn which likelihood each column has, and the levels of nominal columns.

    Parameters
    ----------
    X : {DataFrame, array-like} of shape (n_samples, n_features)
    likelihood : str, Likelihood or list of (str or Likelihood, columns)
        A name in `skvae.likelihoods.LIKELIHOODS`; or an object of the user's; or "auto": of a frame, and of columns of
        objects, Booleans are bernoulli, strings and categories categorical and numbers gaussian, and all columns of
        other arrays are gaussian; or a list that names every column once, by number, name, slice of numbers or Boolean
        mask. Columns of an entry "multinomial" share their draws; of all other likelihoods it does not matter how
        entries split them.
    noise : {"diag", "isotropic"} or float
        Of gaussian columns: a variance for each, one for all, or this one, in the units of X.
    names : list of str or None, default=None
        Of the columns of an array. A frame has its own.
    who : str
        Name of the estimator, for error messages.

    Returns
    -------
    columns : Columns
        Ready for `as_numbers`; for all else `measure_columns` must follow.

    Raises
    ------
    ValueError
        If a likelihood, a noise or a column is not known, a column is named twice or not at all, a column has a
        type for which "auto" knows no likelihood, or the levels of a column cannot be sorted.
    """
    table = as_table(X, who)
    names = names_of(table, getattr(X, "columns", None) if names is None else names)
    number = isinstance(noise, Real) and not isinstance(noise, bool) and 0 < noise < np.inf
    if not (number or isinstance(noise, str) and noise in NOISES):
        raise ValueError(f"{who} expects noise to be 'diag', 'isotropic' or a positive number, but it is {noise!r}.")
    assigned, objects = assign(table, likelihood, noise, names, who)
    levels, level_dtypes = {}, {}
    for j, (name, _) in enumerate(assigned):
        if objects[name].nominal:
            values, missing = cells_of(table, j)
            found = declared_levels(table, j) or sorted_values(values[~missing], label(names, j))
            levels[j], dtype = made_plain(found)
            level_dtypes |= {j: dtype} if dtype else {}
    frame, n = is_frame(table), table.shape[1]
    booleans = tuple(j for j in range(n) if j not in levels and all_booleans(table, j))
    only_numbers = not frame or all(dtype.kind in "iuf" for dtype in dtypes_of(table))
    return Columns(
        who=who,
        n_features=n,
        names=names,
        noise=noise,
        levels=levels,
        level_dtypes=level_dtypes,
        boolean_columns=booleans,
        of_objects=not frame and table.dtype == object,
        frame=None if not frame else names_and_dtypes(table) if is_polars(table) else facts_of(table),
        all_numbers=only_numbers and not levels and not booleans,
        blocks=(),
        source=np.empty(0, dtype=np.intp),
        constants={},
    ).with_blocks(_blocks(assigned, objects, levels))


def columns_of_all(columns):
    """Give the columns that the rows of all processes have, from those that each has read of its own.

    Parameters
    ----------
    columns : Columns or None
        From `read_columns`; None: this process has no rows.

    Returns
    -------
    columns : Columns
        With the levels that occur in any process.

    Raises
    ------
    ValueError
        If no process has rows, or the likelihoods of a column differ between processes.
    """
    heard = _reduce.gathered(columns)
    first, *others = [rank for rank, each in enumerate(heard) if each is not None] or [None]
    if first is None:
        raise ValueError("Found 0 sample(s) in all processes while a minimum of 1 is required.")
    if not others:
        return heard[first]
    assigned = [
        {j: block.likelihood for block in heard[rank].blocks for j in block.columns} for rank in (first, *others)
    ]
    for rank, own in zip(others, assigned[1:], strict=True):
        for j in own:
            if own[j] != assigned[0].get(j):
                raise ValueError(
                    f"The processes that share a fit must read a column alike, but column "
                    f"{label(heard[first].names, j)!r} is {assigned[0].get(j)!r} in process {first} and {own[j]!r} in "
                    f"process {rank}. Name its likelihood, or give it the same type everywhere."
                )
    return _with_levels_of(heard[first], [heard[rank] for rank in others])


def _with_levels_of(columns, others):
    """The same columns with levels of others beside their own, sorted where they differ."""
    levels, dtypes = dict(columns.levels), dict(columns.level_dtypes)
    for j, own in columns.levels.items():
        lists = [own, *(each.levels[j] for each in others)]
        if any(each != own for each in lists):
            values = np.fromiter(itertools.chain(*lists), dtype=object)
            levels[j] = sorted_values(values, label(columns.names, j))
    for each in others:
        dtypes = each.level_dtypes | dtypes
    booleans = tuple(j for j in columns.boolean_columns if all(j in each.boolean_columns for each in others))
    blocks = [
        block._replace(sizes=tuple(len(levels[j]) if j in levels else 1 for j in block.columns))
        for block in columns.blocks
    ]
    return columns._replace(levels=levels, level_dtypes=dtypes, boolean_columns=booleans).with_blocks(blocks)


def _blocks(assigned, objects, levels):
    """Make a block for each likelihood and group, whose place in the layout is still to be set."""
    members = {}
    for j, each in enumerate(assigned):
        members.setdefault(each, []).append(j)
    blocks = []
    for (name, _), columns in members.items():
        sizes = tuple(len(levels[j]) if j in levels else 1 for j in columns)
        nominal, scaled = objects[name].nominal, objects[name].scaling is not None
        blocks.append(Block(name, tuple(columns), 0, 0, sizes, nominal, scaled))
    return blocks


def measure_columns(columns, numbers, sample_weight=None, custom=None):
    """Learn locations, scales and statistics, in float64 whatever the numbers are.

    Parameters
    ----------
    columns : Columns
        From `read_columns`.
    numbers : float ndarray of shape (n_samples, n_features)
        From `as_numbers`.
    sample_weight : array-like of shape (n_samples,) or None, default=None
        How often each row counts. A level that only rows of weight zero have stays a level.
    custom : dict or None, default=None
        The user's own likelihoods, from `fitted_likelihoods`.

    Returns
    -------
    columns : Columns
        With all that was learnt; without columns that are constant, where columns are scaled each by itself.

    Raises
    ------
    ValueError
        If a column has no observed value, or holds values whose squares overflow, or differences whose squares vanish.
    """
    numbers, weight = drop_weightless(numbers, sample_weight)
    weight = np.ones(len(numbers)) if weight is None else weight
    refuse_empty_columns(numbers, columns.who, names=columns.names)
    refuse_overflow(numbers, np.float64)
    refuse_underflow(numbers, columns.names)
    seen = ~np.isnan(numbers) if _reduce.largest(any_nan(numbers)) else None
    mean, variance = column_means_and_variances(numbers, weight, seen)
    share, constant = _nonzero_shares(numbers, seen, weight), is_constant(variance, mean)
    columns = _without_constants(columns, custom, constant, mean)
    source = columns.source
    location, scale, varies = _scales(columns, custom, mean[source], variance[source], constant[source])
    statistics = ColumnStatistics(
        (mean[source] - location) / scale, np.where(varies, variance[source] / scale**2, 0.0), share[source]
    )
    for block in columns.blocks:
        if block.nominal:
            p = _shares_of_levels(numbers, weight, block)
            statistics.mean[block.span] = statistics.share[block.span] = p
            statistics.variance[block.span] = p * (1 - p)
    input_mean, input_scale = _input_scales(columns, custom, numbers, seen, weight)
    return columns._replace(
        location=location, scale=scale, statistics=statistics, input_mean=input_mean, input_scale=input_scale
    )


def fit_columns(X, likelihood="gaussian", noise="diag", *, names=None, sample_weight=None, who="Columns"):
    """Read and measure the columns of a table whose likelihoods have names."""
    columns = read_columns(X, likelihood, noise, names=names, who=who)
    return measure_columns(columns, as_numbers(X, columns), sample_weight)


def _without_constants(columns, custom, constant, mean):
    """Leave out constant columns that are scaled each by itself, but for the last one that would be left."""
    constants, blocks = {}, []
    for block in columns.blocks:
        if likelihood_of(block, columns, custom).scaling == "each":
            constants |= {j: float(mean[j]) for j in block.columns if constant[j]}
    if len(constants) == columns.n_features:
        del constants[columns.n_features - 1]
    for block in columns.blocks:
        kept = [(j, size) for j, size in zip(block.columns, block.sizes, strict=True) if j not in constants]
        if kept:
            some, sizes = zip(*kept)
            blocks.append(block._replace(columns=some, sizes=sizes))
    return columns.with_blocks(blocks)._replace(constants=constants)


def _scales(columns, custom, mean, variance, constant):
    """Compute location and scale of each column of the layout, and whether it varies (all do that are not scaled)."""
    location, scale, varies = np.zeros(columns.width), np.ones(columns.width), np.ones(columns.width, dtype=bool)
    for block in columns.blocks:
        span = block.span
        if block.scaled:
            location[span], varies[span] = mean[span], ~constant[span]
            if likelihood_of(block, columns, custom).scaling == "each":
                scale[span] = np.sqrt(np.where(varies[span], variance[span], CONSTANT_VARIANCE))
            else:
                total = variance[span][varies[span]].sum()
                scale[span] = np.sqrt(total / (block.stop - block.start)) if total > 0 else 1.0
    return location, scale, varies


def _shares_of_levels(numbers, weight, block):
    """Compute the share of each level among the observed cells of its column."""
    shares = []
    for j, size in zip(block.columns, block.sizes):
        rows = np.flatnonzero(~np.isnan(numbers[:, j]))
        total = np.bincount(numbers[rows, j].astype(np.intp), weight[rows], minlength=size)
        total = _reduce.count(total)
        shares.append(total / total.sum())
    return np.concatenate(shares)


def _input_scales(columns, custom, numbers, seen, weight):
    """Compute mean and standard deviation of what the encoder reads, of columns that it does not read as they are."""
    input_mean, input_scale = np.zeros(columns.width), np.ones(columns.width)
    for block in columns.blocks:
        encoder_input = likelihood_of(block, columns, custom).encoder_input
        if encoder_input is not None:
            some = block.of_table
            read = encoder_input(numbers[:, some].astype(np.float64, copy=False))
            mean, variance = column_means_and_variances(read, weight, None if seen is None else seen[:, some])
            input_mean[block.span] = mean
            input_scale[block.span] = np.sqrt(np.where(is_constant(variance, mean), 1.0, variance))
    return input_mean, input_scale


def _nonzero_shares(values, seen, weight):
    """Compute the share of the observed cells of each column that are not zero, some columns at once."""
    shares = []
    total = _reduce.count(weight.sum())
    if seen is None and _reduce.largest(is_mapped(values)):  # columns of a memory map lie all over the file
        counted = (weight[part] @ (values[part] != 0).astype(np.float64) for part in row_slices(values))
        return _reduce.count(sum(counted, np.zeros(values.shape[1]))) / total
    for part in slices(values.shape[1], _CELLS_AT_ONCE // max(1, _reduce.largest(len(values)))):
        counted = values[:, part] != 0
        if seen is not None:
            counted &= seen[:, part]
        shares.append(
            _reduce.count(weight @ counted.astype(np.float64))
            / (total if seen is None else seen_weight(weight, seen[:, part]))
        )
    return np.concatenate(shares)
