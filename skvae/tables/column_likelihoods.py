"""Which likelihood each column of a table has: by name, by object, by list, or by the types of the columns.

Columns keep names only, and signatures of the user's own objects. The objects live in the estimator's parameter, from
which `fitted_likelihoods` takes them again.
"""

from types import SimpleNamespace

import numpy as np

from skvae.likelihoods import LIKELIHOODS, Likelihood, Mixed
from skvae.tables.checks import columns_of
from skvae.tables.columns import label, listed
from skvae.tables.frames import all_booleans, cells_of, dtypes_of, is_frame

_AUTO = {likelihood.auto_for: name for name, likelihood in LIKELIHOODS.items() if likelihood.auto_for}


# ------------------------------------------------------------------------------------------------ of a fit's columns
def likelihood_of(block, columns, custom=None):
    """Make the likelihood that a block names, before it knows anything of its columns.

    `custom` has the user's own objects by their signatures, as from `fitted_likelihoods`.
    """
    if block.likelihood in LIKELIHOODS:
        return LIKELIHOODS[block.likelihood].named(columns.noise)
    return custom[block.likelihood]


def model_likelihood(columns, custom=None, *, exact=False):
    """Make the likelihood of the model layout.

    Parameters
    ----------
    columns : Columns
        Measured.
    custom : dict or None, default=None
        From `fitted_likelihoods`.
    exact : bool, default=False
        Whether the parameters were found in closed form: variances then have no floor.

    Returns
    -------
    likelihood : Likelihood
        `Mixed` where there are several blocks.
    """
    parts = []
    for block in columns.blocks:
        known = columns.statistics.mean[block.span], columns.scale[block.span]
        likelihood = likelihood_of(block, columns, custom).for_columns(block.sizes, *known)
        parts.append((likelihood.without_floor() if exact else likelihood, block.start, block.stop))
    return parts[0][0] if len(parts) == 1 else Mixed(parts)


def measures(columns, custom=None):
    """Say of each column of the table what its likelihood gives: "density", or "probability" of a level or a count."""
    found = ["density"] * columns.n_features  # constant columns that were left out have one
    for block in columns.blocks:
        for column in block.columns:
            found[column] = likelihood_of(block, columns, custom).measure
    return found


def fitted_likelihoods(columns, likelihood):
    """Find the user's own likelihood objects of fitted columns in the estimator's parameter.

    Parameters
    ----------
    columns : Columns
    likelihood : str, Likelihood or list of (str or Likelihood, columns)
        What the parameter is now.

    Returns
    -------
    custom : dict
        The objects by signature; empty where all likelihoods have names.

    Raises
    ------
    ValueError
        If the parameter has no such object.
    """
    entries = likelihood if isinstance(likelihood, list | tuple) else [(likelihood, None)]
    objects = [entry[0] for entry in entries if isinstance(entry, list | tuple) and len(entry)]
    given = {each.signature(): each for each in objects if isinstance(each, Likelihood)}
    needed = {block.likelihood for block in columns.blocks} - set(LIKELIHOODS)
    for signature in sorted(needed - set(given)):
        raise ValueError(
            f"{columns.who} was fitted with the likelihood {signature} and cannot go on with likelihood="
            f"{likelihood!r}; give it back by set_params(likelihood=...), or call fit with warm_start=False to begin "
            "anew."
        )
    return {signature: given[signature] for signature in needed}


def likelihood_signature(likelihood):
    """Describe the parameter `likelihood` in plain words, equal where it means the same.

    Parameters
    ----------
    likelihood : str, Likelihood or list of (str or Likelihood, columns)

    Returns
    -------
    signature : str or list of (str, list, str or int)
    """
    if isinstance(likelihood, list | tuple):
        return [
            (likelihood_signature(each), repr(chosen) if isinstance(chosen, slice) else np.asarray(chosen).tolist())
            for each, chosen in likelihood
        ]
    return likelihood.signature() if isinstance(likelihood, Likelihood) else likelihood


# ---------------------------------------------------------------------------------------------- from the parameter
def assign(table, likelihood, noise, names, who):
    """Assign a likelihood to each column.

    Parameters
    ----------
    table : {DataFrame, ndarray} of shape (n_samples, n_features)
    likelihood : str, Likelihood or list of (str or Likelihood, columns)
    noise : str or float
    names : list of str or None
    who : str

    Returns
    -------
    assigned : list of (str, int)
        For each column the name or signature of its likelihood, and its group; columns that agree in both make a block.
    objects : dict
        The Likelihood of each name or signature, before it knows anything of its columns.

    Raises
    ------
    ValueError
        If a likelihood is none or not known, a column is not known, named twice or not at all, or has a type for which
        "auto" knows no likelihood.
    """
    n = table.shape[1]
    if isinstance(likelihood, list | tuple):
        return _assign_by_list(likelihood, noise, n, names, who)
    if isinstance(likelihood, str) and likelihood == "auto":
        assigned = [_AUTO[_content(table, j, names)] for j in range(n)]
        return [(name, 0) for name in assigned], {name: LIKELIHOODS[name].named(noise) for name in assigned}
    name, found = _checked(likelihood, noise, who)
    return [(name, 0)] * n, {name: found}


def _checked(likelihood, noise, who):
    """Give the name or signature of a likelihood that the user gave, and the object; complain of what is none."""
    if isinstance(likelihood, str) and likelihood in LIKELIHOODS:
        return likelihood, LIKELIHOODS[likelihood].named(noise)
    if isinstance(likelihood, Likelihood):
        return likelihood.signature(), likelihood
    choices = f"choose among {', '.join(map(repr, LIKELIHOODS))}, 'auto' for all columns, or a list of (likelihood, "
    raise ValueError(f"{who} knows no likelihood {likelihood!r}; {choices}columns).{_lacks(likelihood)}")


def _lacks(likelihood):
    """Say what an object lacks to be a likelihood, as a sentence; "" where it is nothing like one."""
    if isinstance(likelihood, type) and issubclass(likelihood, Likelihood):
        return f" It is a class; give an object of it, {likelihood.__name__}()."
    wanted = sorted(Likelihood.__abstractmethods__)
    lacking = [name for name in wanted if not callable(getattr(likelihood, name, None))]
    if len(lacking) == len(wanted):
        return ""
    without = f"has no method {', '.join(lacking)}, and " if lacking else ""
    return f" {type(likelihood).__name__} {without}does not inherit from skvae.likelihoods.Likelihood."


def _assign_by_list(entries, noise, n, names, who):
    assigned, objects, twice = [None] * n, {}, []
    for group, entry in enumerate(entries):
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise ValueError(f"{who} expects likelihood to list pairs (likelihood, columns), but found {entry!r}.")
        name, found = _checked(entry[0], noise, who)
        objects[name] = found
        for j in chosen_columns(entry[1], n, names):
            twice += [j] if assigned[j] else []
            assigned[j] = (name, group if found.joint else 0)
    left = [j for j in range(n) if assigned[j] is None]
    for columns, fault, remedy in ((twice, "more than once", "once"), (left, "not at all", "too")):
        if columns:
            raise ValueError(
                f"{who} expects likelihood to name every column once, but it names column(s) "
                f"{listed(columns, names)} {fault}; name them {remedy}."
            )
    return assigned, objects


def chosen_columns(columns, n, names):
    """List the numbers of the columns that a user names: by number, name, slice of numbers or Boolean mask."""
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


def _content(table, j, names):
    """Tell whether a column holds "numbers", "booleans" or "categories"."""
    dtype = dtypes_of(table)[j if is_frame(table) else 0]
    if dtype.kind in "cmM":
        raise ValueError(
            f"likelihood='auto' knows none for column {label(names, j)!r} of dtype {dtype}; convert it to numbers or "
            "categories, drop it, or list (likelihood, columns)."
        )
    if hasattr(dtype, "categories"):
        return "categories"
    if dtype.kind in "fiub":
        return "booleans" if dtype.kind == "b" and is_frame(table) else "numbers"
    if all_booleans(table, j):
        return "booleans"
    values, missing = cells_of(table, j)
    return "categories" if any(isinstance(value, str | bytes) for value in values[~missing]) else "numbers"
