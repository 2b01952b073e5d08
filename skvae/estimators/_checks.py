"""Checks of parameters that several estimators have, and the seed of a fit."""

import math
import threading
from itertools import zip_longest
from numbers import Integral, Real

import joblib
import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import validate_data

from skvae import _reduce
from skvae._compat import warn
from skvae.engines import checkpoints
from skvae.estimators.checkpoints._facts import hash_of_state
from skvae.tables.checks import naming_cells

_MAX_SEED = 2**31 - 1
_of_thread = threading.local()


def validated(estimator, X, *, reset, ensure_all_finite="allow-nan", **others):
    """Check a table of numbers as scikit-learn does; errors about a cell name it. Returns an array of floats."""
    others |= {"dtype": [np.float64, np.float32], "ensure_all_finite": ensure_all_finite}
    if _reduce.is_shared():  # a process may have no rows, but not all of them
        fewest = others.pop("ensure_min_samples", 1)
        checked = _validated(estimator, X, reset, {**others, "ensure_min_samples": 0})
        refuse_too_few(checked, fewest)
        agree_in_columns(estimator, checked)
        return checked
    return _validated(estimator, X, reset, others)


def _validated(estimator, X, reset, others):
    with naming_cells(X, type(estimator).__name__):
        if type(X) is np.ndarray and not hasattr(estimator, "feature_names_in_"):
            # It has no names to compare. validate_data looks for some all the same, which takes as long as all checks.
            checked = check_array(X, input_name="X", estimator=estimator, **others)
            if reset:
                estimator.n_features_in_ = checked.shape[1]
            if getattr(estimator, "n_features_in_", None) == checked.shape[1]:
                return checked
        return validate_data(estimator, X, reset=reset, **others)


def refuse_too_few(rows, fewest):
    """Complain if the processes of a shared fit have fewer rows than that together."""
    n = _reduce.count(len(rows))
    if n < fewest:
        raise ValueError(f"Found {n} sample(s) in all processes while a minimum of {fewest} is required.")


def agree_in_columns(estimator, checked):
    """Refuse a shared fit whose processes have other columns, names of columns, dtypes, or sparse and dense rows."""
    if not _reduce.is_shared():
        return
    names = column_names(estimator)
    _reduce.agree(
        n_features=checked.shape[1],
        feature_names=None if names is None else list(map(str, names)),
        dtype=str(checked.dtype),
        layout="sparse rows" if sp.issparse(checked) else "dense rows",
    )


def agree_in_state(estimator, *attributes):
    """Refuse a shared fit that is to go on from fits which differ, or that some processes do not have.

    Of these attributes, a hash must be the same. Call it before anything else that depends on the earlier fit.
    """
    if _reduce.is_shared():
        state = [getattr(estimator, name, None) for name in attributes]
        unfitted = all(value is None for value in state)
        said = "none, since it is not fitted," if unfitted else hash_of_state(state)
        _reduce.agree(**{f"the earlier fit (by a hash of {', '.join(attributes)})": said})


def column_names(estimator):
    """Names of the columns that an estimator was fitted to, None where they have none."""
    return getattr(estimator, "feature_names_in_", None)


def check_n_samples(n_samples):
    """How many rows to draw, as an int; complain of what is no whole number above 0."""
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(f"Invalid value for 'n_samples': {n_samples!r}; to draw, it must be whole and n_samples >= 1.")
    return int(n_samples)


def draw_seed(random_state):
    """One integer for a whole fit. None takes fresh entropy from the system, so that no global generator advances.

    In a shared fit it is that of the first process; in a fit that goes on from a checkpoint, that of the earlier fit.
    """
    return checkpoints.seed(_reduce.of_first(_seed(random_state)), fresh=random_state is None)


def _seed(random_state):
    if random_state is None:
        return int(np.random.default_rng().integers(_MAX_SEED))
    if isinstance(random_state, Integral) and random_state >= 0:  # to seed a generator again takes a third of the time
        if not hasattr(_of_thread, "generator"):
            _of_thread.generator = np.random.RandomState()
        _of_thread.generator.seed(random_state)
        random_state = _of_thread.generator
    return int(check_random_state(random_state).randint(_MAX_SEED))


def draw_seed_of_sample(estimator, random_state):
    """The seed of `sample`: with None from the estimator's RandomState, if it has one, so that it stays repeatable."""
    own = getattr(estimator, "random_state", None)
    if random_state is None and isinstance(own, np.random.RandomState):
        random_state = own
    return draw_seed(random_state)


def seeded_clone(estimator, rng):
    """Clone an estimator; where its own random_state is None, give it a seed drawn from a RandomState (or None)."""
    cloned = clone(estimator)
    if rng is not None and "random_state" in cloned.get_params(deep=False) and cloned.random_state is None:
        cloned.set_params(random_state=draw_seed(rng))
    return cloned


def warn_of_many_components(estimator, columns):
    """Warn where every column, or level of a column, could have a latent dimension of its own; called by `_begin`."""
    if np.ravel(estimator.n_components)[0] > columns.width:
        warn(
            f"{type(estimator).__name__}(n_components={estimator.n_components}) does not compress X: its columns that "
            f"vary and their levels are {columns.width} in all. Use fewer components than that.",
            UserWarning,
        )


def checked_sizes(sizes):
    """`hidden_layer_sizes` as a tuple of int."""
    sizes = (sizes,) if isinstance(sizes, Integral) else tuple(sizes)
    if not all(isinstance(size, Integral) and size >= 1 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must hold whole numbers >= 1, such as (600,), but it is {sizes!r}.")
    return tuple(int(size) for size in sizes)


def checked_layers(n_components):
    """`n_components` as an int or, of several layers, as a tuple of int."""
    sizes = [n_components] if isinstance(n_components, Integral) else n_components
    if not _is_sequence(sizes) or not len(sizes) or not all(_is_count(size) for size in sizes):
        raise ValueError(
            "n_components must be a whole number >= 1 or, for several layers, a tuple of them from the data upwards, "
            f"such as (16, 8), but it is {n_components!r}."
        )
    return int(sizes[0]) if len(sizes) == 1 else tuple(int(size) for size in sizes)


def columns_of_layer(layer, n_components):
    """Where a layer, or "all", stands among the dimensions of all layers side by side; complain if there is none."""
    ends = np.cumsum(n_components)
    if isinstance(layer, str):
        return slice(0, int(ends[-1]))
    if not -len(ends) <= layer < len(ends):
        raise ValueError(
            f"output_layer={layer} is not a layer of n_components={n_components}; it must be a number from "
            f"{-len(ends)} to {len(ends) - 1}, or 'all'."
        )
    layer %= len(ends)
    return slice(int(ends[layer - 1]) if layer else 0, int(ends[layer]))


def check_betas(beta, n_components):
    """Complain of weights of the KL term that are not one, or one for each layer."""
    n_layers = np.size(n_components)
    betas = [beta] * n_layers if isinstance(beta, Real) else beta
    if not _is_sequence(betas) or len(betas) != n_layers or not all(map(_is_weight, betas)):
        raise ValueError(
            f"beta must be one finite number >= 0, or one for each of the {n_layers} layer(s) of n_components="
            f"{n_components}, but it is {beta!r}."
        )


def _is_weight(number):
    return isinstance(number, Real) and 0 <= number < math.inf


def _is_sequence(values):
    return isinstance(values, (list, tuple)) or np.ndim(values) == 1


def _is_count(size):
    return isinstance(size, Integral) and not isinstance(size, bool) and size >= 1


def refuse_another_architecture(estimator, architecture):
    """Complain if an estimator that is to go on from its fit asks for parameters of another shape or meaning."""
    changed = {name: value for name, value in architecture.items() if differ(estimator._architecture[name], value)}
    if changed:
        fitted = {name: estimator._architecture[name] for name in changed}
        raise ValueError(
            f"{type(estimator).__name__} was fitted with {fitted} and cannot go on with {changed}; call fit with "
            "warm_start=False to begin anew."
        )


def refuse_other_modules(estimator, signatures):
    """Complain if the user's own modules are not those of the fit, whose parameters would mean something else."""
    for name, signature in signatures.items():
        if signature != estimator._architecture[name]:
            layers = (str(text).split("; ") for text in (estimator._architecture[name], signature))
            fitted, now = next(
                pair for pair in zip_longest(*layers, fillvalue="no further layer") if len(set(pair)) > 1
            )
            raise ValueError(
                f"{type(estimator).__name__} was fitted with {name} = {fitted}, but the parameter {name} now makes "
                f"{now}; set it back, or fit again."
            )


def refuse_another_number(estimator, of_what, fitted):
    """Complain if an estimator that is to go on from its fit asks for another number (n_components, ...)."""
    asked = getattr(estimator, f"n_{of_what}")
    if asked != fitted:
        raise ValueError(
            f"This {type(estimator).__name__} has {fitted} {of_what} and cannot go on with n_{of_what}={asked}; fit a "
            "clone of it."
        )


def differ(one, other):
    """Tell whether two values of a parameter differ; callables and objects by what they hold."""
    try:
        return bool(one is not other and one != other)
    except ValueError:  # arrays in a list
        return joblib.hash(one) != joblib.hash(other)
