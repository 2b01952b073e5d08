"""What the displays share: their axes, their colours, and the settings of their artists."""

import math

import numpy as np

from skvae._compat import check_matplotlib_support

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")  # 4 and 7 have no common divisor: 28 curves differ
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
GREY = "#555555"
_MANY_ENTRIES, _MOST_ENTRIES = 12, 24  # of a legend: from where it is small, and from where there is none


class Display:
    """A picture that keeps its numbers and, once plotted, its artists.

    A subclass calls `_get_axes` at the start of `plot`.
    """

    def _get_axes(self, ax, n_panels=None, *, n_columns=1, size=None):
        """Axes to draw on; `figure_` is set, and `ax_` for one panel or `axes_` for a number of panels.

        Parameters
        ----------
        ax : Axes, array-like of Axes or None
            None: a new figure. Several panels take an axes for each, or share the place of a single one.
        n_panels : int or None, default=None
            None: the display has always one panel.
        n_columns : int, default=1
            Panels side by side in a new figure.
        size : tuple of float or None, default=None
            Of a new figure, in inches; None: matplotlib's.

        Returns
        -------
        axes : Axes or ndarray of Axes
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        import matplotlib.pyplot as plt
        from matplotlib.axes import Axes

        n = 1 if n_panels is None else n_panels
        if ax is None:
            ax = plt.subplots(figsize=size, layout="constrained")[1]
        if isinstance(ax, Axes) and n > 1:
            ax = self._panels_in_place_of(ax, n, n_columns)
        axes = np.array(ax, dtype=object).ravel()
        if len(axes) != n or not all(isinstance(axis, Axes) for axis in axes):
            found = f"{len(axes)} objects" if all(isinstance(axis, Axes) for axis in axes) else repr(ax)
            raise ValueError(
                f"{type(self).__name__}.plot needs ax=None, one matplotlib Axes"
                + (f", or {n} of them" if n > 1 else "")
                + f", but ax is {found}."
            )
        self.figure_ = axes[0].figure
        if n_panels is None:
            self.ax_ = axes[0]
            return self.ax_
        self.axes_ = axes
        return self.axes_

    @staticmethod
    def _panels_in_place_of(ax, n_panels, n_columns):
        """A grid of axes in the place of one, which is taken away."""
        grid = ax.get_subplotspec()
        if grid is None:
            raise ValueError("An axes outside any grid cannot be divided; give one axes for each panel.")
        n_columns = min(n_columns, n_panels)
        grid = grid.subgridspec(math.ceil(n_panels / n_columns), n_columns)
        axes = [ax.figure.add_subplot(grid[number // n_columns, number % n_columns]) for number in range(n_panels)]
        ax.remove()
        return np.array(axes, dtype=object)


def use_palette(axis):
    """Let an axes without data draw its lines in the palette; one that has data goes on with its own colours."""
    from cycler import cycler

    if not axis.has_data():
        n = len(COLOURS) * len(LINES)
        lines = [LINES[place % len(LINES)] for place in range(n)]
        axis.set_prop_cycle(cycler(color=[COLOURS[place % len(COLOURS)] for place in range(n)], linestyle=lines))


def hide_frame(axis):
    """Take away the upper and right edges of an axes."""
    axis.spines[["top", "right"]].set_visible(False)


def merged(default, given, artist):
    """Settings of an artist: those given, and the default ones beside them.

    Parameters
    ----------
    default, given : dict or None
        Under full or short names, "color" or "c".
    artist : type
        The class of the artist.
    """
    from matplotlib.cbook import normalize_kwargs

    return normalize_kwargs(default, artist) | normalize_kwargs(given or {}, artist)


def place_legend(axis, *, beside, **settings):
    """Put a legend into an axes, or beside it, where it covers no points; none where it would be too large."""
    n_entries = len(settings.get("handles", axis.get_legend_handles_labels()[0]))
    if n_entries > _MOST_ENTRIES:
        return None
    if beside:
        settings = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} | settings
    size = "medium" if n_entries <= _MANY_ENTRIES else "x-small"
    return axis.legend(**{"frameon": False, "fontsize": size} | settings)


def check_has(display, estimator, *attributes, what):
    """Refuse an estimator that is not fitted, or lacks what a display draws.

    Parameters
    ----------
    display : type
    estimator : object
    *attributes : str
        All must be there.
    what : str
        For whom the display is, in plain words.
    """
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    lacks = [attribute for attribute in attributes if not hasattr(estimator, attribute)]
    if not lacks:
        return
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    raise TypeError(f"{display.__name__}.from_estimator draws {what}, but {name} has no {' and no '.join(lacks)}.")


def has_normal_prior(estimator):
    """Whether the latent values that `transform` gives have the prior N(0, I), or N(0, factor_correlation_)."""
    one_layer = np.size(getattr(estimator, "n_components", 1)) == 1  # the prior of a layer below others is no normal
    return getattr(estimator, "_has_normal_prior", False) and one_layer


def column_names(estimator, n_columns, given=None):
    """Names of the columns: those given, those of the fit's DataFrame, or x0, x1, ..."""
    of_fit = getattr(estimator, "feature_names_in_", None)
    return names_or("feature_names", of_fit if given is None else given, n_columns)


def names_or(parameter, given, n, letter="x"):
    """Names as texts: those given, or a letter with the numbers from 0 to n - 1."""
    if given is None:
        return [f"{letter}{number}" for number in range(n)]
    if isinstance(given, str) or not np.iterable(given) or len(given) != n:
        raise ValueError(f"{parameter} must hold {n} names, but it is {given!r}.")
    return [str(name) for name in given]


def as_numbers(parameter, values, n_axes=1):
    """Values as an array of float with so many axes, or any number of them with None; a scalar as one value."""
    try:
        array = np.atleast_1d(np.asarray(values, dtype=float))
    except (TypeError, ValueError):
        raise ValueError(f"{parameter} must hold numbers, in rows of one length, but it is {values!r}.") from None
    if n_axes not in (None, array.ndim):
        raise ValueError(f"{parameter} must be an array of numbers with {n_axes} axes, but its shape is {array.shape}.")
    return array


def check_lengths(**arrays):
    """Refuse arrays of different lengths, named as the parameters that they are; None is left out."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{' and '.join(lengths)} must have as many entries, but {found}.")


def dimensions_of(components, n_components):
    """Check the latent dimensions to draw, one or several; a list of whole numbers."""
    chosen = np.atleast_1d(components)
    whole = chosen.ndim == 1 and chosen.size > 0 and chosen.dtype.kind in "iu"
    if not whole or chosen.min() < 0 or chosen.max() >= n_components:
        raise ValueError(
            f"components must be whole numbers from 0 to {n_components - 1}, one for each latent dimension to draw, "
            f"but it is {components!r}."
        )
    return chosen.tolist()
