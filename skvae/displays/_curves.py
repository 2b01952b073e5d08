"""Curves of a score with standard errors, and how they are read from the results of a search."""

import numbers
from typing import NamedTuple

import numpy as np

from skvae.displays._plotting import MARKERS, as_numbers, hide_frame, merged, place_legend, use_palette

_WIDE = 20  # ratio of the largest to the smallest value from which an axis is logarithmic


class Curves(NamedTuple):
    """Mean scores over the values of one parameter, a curve for each combination of the others.

    Attributes
    ----------
    values : list
        Values of the parameter: numbers in order, others as they occur.
    labels : list of str or None
        Of the curves; None where there is one, without a name.
    scores, errors : ndarray of shape (n_curves, n_values)
        Mean over the folds and its standard error; NaN where there is none.
    """

    values: list
    labels: list | None
    scores: np.ndarray
    errors: np.ndarray


def cv_results_of(display, search):
    """The `cv_results_` of a fitted search, or what is already such a dict."""
    if isinstance(search, dict):
        return search
    if hasattr(search, "cv_results_"):
        return search.cv_results_
    from sklearn.utils.validation import check_is_fitted

    if hasattr(search, "fit"):
        check_is_fitted(search)
    raise TypeError(
        f"{display.__name__}.from_cv_results needs a fitted search, such as GridSearchCV, or its cv_results_, but it "
        f"got {type(search).__name__}."
    )


def curves_of(results, param_name, metric=None):
    """Read curves from the results of a search.

    Parameters
    ----------
    results : dict
        The `cv_results_`.
    param_name : str
        Name of the parameter; what comes before "__" in the names of a Pipeline may be left out.
    metric : str or None
        Name of the score; None if there is only one.

    Returns
    -------
    curves : Curves
    metric : str
        Name of the score.
    """
    metric = _metric_of(results, metric)
    name = _full_name(results, param_name)
    values = [params.get(name) for params in results["params"]]
    keys = list(dict.fromkeys(key for params in results["params"] for key in params if key != name))
    others = [{key: params[key] for key in keys if key in params} for params in results["params"]]
    keys = [key for key in keys if len({repr(other.get(key)) for other in others}) > 1]
    labels = [
        ", ".join(f"{key.rpartition('__')[2]} = {other[key]}" for key in keys if key in other) for other in others
    ]
    rows = list(dict.fromkeys(labels))
    columns = list({repr(value): value for value in values}.values())
    if all(_is_number(value) for value in columns):
        columns = sorted(columns)
    place = {repr(value): column for column, value in enumerate(columns)}
    scores, errors = np.full((2, len(rows), len(columns)), np.nan)
    splits = [results[key] for key in results if key.startswith("split") and key.endswith(f"_test_{metric}")]
    found = np.array(splits, dtype=float)
    for candidate, (value, label) in enumerate(zip(values, labels, strict=True)):
        at = rows.index(label), place[repr(value)]
        scores[at] = results[f"mean_test_{metric}"][candidate]
        if len(found) > 1:
            errors[at] = found[:, candidate].std(ddof=1) / np.sqrt(len(found))
    return Curves(columns, rows if rows != [""] else None, scores, errors), metric


def _metric_of(results, asked):
    prefix = "mean_test_"
    metrics = [key.removeprefix(prefix) for key in results if key.startswith(prefix)]
    if asked is None and len(metrics) == 1:
        return metrics[0]
    if asked not in metrics:
        raise ValueError(f"metric must be one of {metrics}, the scores of the search, but it is {asked!r}.")
    return asked


def _full_name(results, asked):
    names = list(dict.fromkeys(key for params in results["params"] for key in params))
    if asked in names:
        return asked
    ends = [name for name in names if name.endswith(f"__{asked}")]
    if len(ends) != 1:
        raise ValueError(f"param_name must be one of {names}, the parameters of the search, but it is {asked!r}.")
    return ends[0]


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and np.isfinite(value)


def as_curves(values, scores, errors, labels):
    """Arrays of one curve or several as two-dimensional arrays; complain of shapes that do not fit.

    Parameters
    ----------
    values : array-like of shape (n_values,)
    scores, errors : array-like of shape (n_values,) or (n_curves, n_values)
        The errors may be None.
    labels : list of str or None
    """
    values, scores = list(values), np.atleast_2d(as_numbers("scores", scores, None))
    errors = np.full(scores.shape, np.nan) if errors is None else np.atleast_2d(as_numbers("errors", errors, None))
    if scores.shape[1] != len(values) or errors.shape != scores.shape or (labels and len(labels) != len(scores)):
        raise ValueError(
            f"{len(values)} values need scores and errors of shape (n_curves, {len(values)}) and as many labels, but "
            f"scores have the shape {scores.shape}, errors {errors.shape}"
            + ("." if labels is None else f", and there are {len(labels)} labels.")
        )
    return Curves(values, None if labels is None else [str(label) for label in labels], scores, errors)


def draw_curves(axis, curves, *, scale, given, name=None):
    """Draw each curve with error bars.

    Parameters
    ----------
    axis : Axes
    curves : Curves
    scale : {"auto", "linear", "log"}
        Of the horizontal axis.
    given : dict or None
        Settings of the lines.
    name : str or None
        Added before the label of each curve.

    Returns
    -------
    places : ndarray
        Where the values are on the horizontal axis.
    containers : list of matplotlib ErrorbarContainer
    """
    from matplotlib.lines import Line2D

    use_palette(axis)
    numeric = all(_is_number(value) for value in curves.values)
    places = np.asarray(curves.values, dtype=float) if numeric else np.arange(len(curves.values), dtype=float)
    n_before, containers = len(axis.containers), []
    labels = [""] * len(curves.scores) if curves.labels is None else curves.labels
    for number, (label, scores, errors) in enumerate(zip(labels, curves.scores, curves.errors, strict=True)):
        label = ", ".join(part for part in (name, label) if part) or None
        default = {"label": label, "marker": MARKERS[(n_before + number) % len(MARKERS)], "markersize": 5}
        settings = {"capsize": 3} | merged(default, given, Line2D)
        shown = np.isfinite(scores)
        errors = None if np.isnan(errors).all() else np.nan_to_num(errors[shown])
        containers.append(axis.errorbar(places[shown], scores[shown], errors, **settings))
    _mark_values(axis, curves.values, places, numeric, scale)
    hide_frame(axis)
    if n := len(axis.get_legend_handles_labels()[1]):
        place_legend(axis, beside=n > 4)
    return places, containers


def _mark_values(axis, values, places, numeric, scale):
    if scale not in ("auto", "linear", "log"):
        raise ValueError(f"scale must be 'auto', 'linear' or 'log', but it is {scale!r}.")
    if scale == "auto":
        wide = numeric and min(places) > 0 and max(places) / min(places) >= _WIDE
        scale = "log" if wide else "linear"
    axis.set_xscale(scale)
    if len(values) <= 15 or not numeric:
        names = [f"{value:g}" for value in values] if numeric else [str(value) for value in values]
        crowded = sum(map(len, names)) > 60
        axis.set_xticks(places, names, rotation=30 if crowded else 0, ha="right" if crowded else "center")
        axis.set_xticks([], minor=True)
