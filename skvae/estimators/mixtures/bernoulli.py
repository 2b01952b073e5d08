"""Mixtures of Bernoullis and, for columns of more than two categories, latent class analysis."""

import contextlib
import functools
import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae._compat import Interval, StrOptions
from skvae.engines import em
from skvae.estimators._base import Estimator
from skvae.estimators.mixtures._mixture import MixtureMixin
from skvae.estimators.mixtures._starts import checked_shape, checked_weights
from skvae.models.mixtures.bernoulli_mixture import BernoulliMixture
from skvae.tables.categories import Levels
from skvae.tables.checks import columns_of
from skvae.tables.frames import imputed

_TO_MARGINAL = {"kmeans": 0.05, "k-means++": 0.5, "random_from_data": 0.5}  # how far first means are drawn to it


class BernoulliMixtureEM(MixtureMixin, Estimator):
    """Describe a binary or categorical table by a mixture of independent columns, fitted by expectation maximisation.

        z ~ Cat(pi),   x_d | z = k ~ Bern(mu_kd)   or, of a categorical column,   Cat(theta_kd)

    With categorical columns this is latent class analysis. It takes sample weights and missing cells, imputes them,
    learns in parts, and has the face of :class:`GaussianMixtureEM`. Read more in the
    :doc:`user guide </user_guide/mixtures>`.

    Parameters
    ----------
    n_components : int, default=1
        Number K of components, or latent classes.
    tol : float, default=1e-3
        Stop when an iteration changes the mean bound by less, in nats a sample.
    max_iter : int, default=100
        EM iterations of one start. 0 leaves the starting parameters.
    n_init : int, default=1
        Starts, of which the one with the highest bound is kept.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        What the first means are drawn from: the centres of k-means, its seeds, rows at random, or, for "random", the
        columns' own means with log-odds shifted by standard normal noise. K-means sees at most 20,000 rows.
    weights_init : array-like of shape (n_components,) or None, default=None
        Proportions to start from, in place of the computed ones.
    means_init : array-like of shape (n_components, n_indicators) or None, default=None
        Means to start from, in [0, 1] and laid out as `means_`.
    alpha : float, default=0.1
        Pseudo-count of every category of every column in every component, above 0: a Dirichlet prior with parameters
        1 + alpha, which keeps probabilities inside (0, 1). As it falls, the fit nears the maximum of the likelihood,
        for which a category that a component never met is all but impossible in new rows too.
    binarize : float or None, default=0.0
        Values above it are 1, others 0. None: X must hold 0 and 1 only. Categorical columns are left alone.
    categorical_features : "all", array-like of int, of str, or bool mask of shape (n_features,), or None, default=None
        Columns, by number or by name, each distinct number of which is a category of its own. Encode text by
        :class:`sklearn.preprocessing.OrdinalEncoder`. None, or none listed: all columns are binary.
    handle_unknown : {"error", "missing"}, default="error"
        What to do with a category that `fit` has not seen: raise, or take the cell for missing.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts. None draws a fresh seed from the system, without touching NumPy's global generator.
    warm_start : bool, default=False
        Whether `fit` goes on from the last fit's parameters; `n_init` is then ignored.
    verbose : int, default=0
        1 prints a line every `verbose_interval` iterations, 2 every one.
    verbose_interval : int, default=10
        Iterations from line to line.
    acceleration : {"auto", "squarem"} or None, default="auto"
        Whether to extrapolate EM steps (Varadhan and Roland 2008), guarded so that the bound never falls. "auto":
        where 0 < `tol` < 1e-4. It never stops before plain EM would.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    batch_size : int or "auto", default="auto"
        Rows handled at once; the result does not depend on it. "auto": as suits the caches.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mixing proportions.
    means_ : ndarray of shape (n_components, n_indicators)
        Means of the indicators: the probability of a one for each binary column; for a categorical column, in its
        place, the probability of each of its categories in the order of `categories_`. Without categorical columns,
        n_indicators = n_features.
    categories_ : list of n_features ndarrays, or None
        The categories of each column, ascending; of a binary one, 0 and 1. None where no column is categorical. A
        category that only rows of weight zero have is one too, with its pseudo-count `alpha` alone.
    converged_ : bool
        Whether the best start met `tol`.
    n_iter_ : int
        Iterations of the best start.
    lower_bound_ : float
        The last of `lower_bounds_`.
    lower_bounds_ : list of float
        Mean bound per sample before each M-step of the best start, nats: of the log-likelihood plus
        alpha sum log theta, the prior.
    n_samples_seen_ : float
        Weight of the rows that `fit`, or all calls of `partial_fit`, learnt from.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    GaussianMixtureEM : The same for real numbers.
    sklearn.naive_bayes.BernoulliNB : The same model with known classes.

    Notes
    -----
    Cells that are NaN leave the sums, which is exact, in fitting and in every method: the likelihood is that of the
    observed cells, which is right where cells are missing at random.

    References
    ----------
    Lazarsfeld and Henry, *Latent Structure Analysis*, Houghton Mifflin, 1968.

    Bishop, *Pattern Recognition and Machine Learning*, Springer, 2006, section 9.3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import BernoulliMixtureEM
    >>> X = np.array([[1, 1, 0], [1, 1, 0], [1, np.nan, 0], [0, 0, 1], [0, 0, 1], [0, 0, np.nan]])
    >>> mixture = BernoulliMixtureEM(2, random_state=0).fit(X)
    >>> np.sort(mixture.means_[:, 0]).round(2)
    array([0.03, 0.97])
    >>> mixture.impute([[1, np.nan, np.nan]])
    array([[1., 1., 0.]])
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions({"kmeans", "k-means++", "random", "random_from_data"})],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "alpha": [Interval(Real, 0.0, None, closed="neither")],
        "binarize": [Interval(Real, None, None, closed="neither"), None],
        "categorical_features": [StrOptions({"all"}), "array-like", None],
        "handle_unknown": [StrOptions({"error", "missing"})],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "acceleration": [StrOptions({"auto", "squarem"}), None],
        "device": [str],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components=1,
        *,
        tol=1e-3,
        max_iter=100,
        n_init=1,
        init_params="kmeans",
        weights_init=None,
        means_init=None,
        alpha=0.1,
        binarize=0.0,
        categorical_features=None,
        handle_unknown="error",
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        acceleration="auto",
        device="auto",
        batch_size="auto",
    ):
        self.n_components = n_components
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.alpha = alpha
        self.binarize = binarize
        self.categorical_features = categorical_features
        self.handle_unknown = handle_unknown
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.acceleration = acceleration
        self.device = device
        self.batch_size = batch_size

    # ------------------------------------------------------------------------------------------------- missing cells
    def impute(self, X, strategy="most_probable"):
        """Replace missing cells by what the observed ones say of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN where a cell is missing.
        strategy : {"most_probable", "mean"}, default="most_probable"
            Whether to fill in the most probable value, or the expected one: of a binary column the probability of a
            one.

        Returns
        -------
        X_filled : {ndarray, DataFrame} of shape (n_samples, n_features)
            A copy with the missing cells filled, by 0 or 1 where the column is binarised; the others as they were.
            With ``handle_unknown="missing"`` categories that `fit` has not seen are filled too.
            A pandas DataFrame keeps its dtypes: columns of integers get rounded values, categories of numbers the
            nearest. All else gives an ndarray.
        """
        check_is_fitted(self)
        if strategy not in ("most_probable", "mean"):
            raise ValueError(f"strategy must be 'most_probable' or 'mean', but it is {strategy!r}.")
        given = self._validated(X, reset=False)
        values = self._learnt().values()

        def fill(model, batch, params):
            p = model.predict(batch, params)
            if strategy == "mean":
                return (p * torch.as_tensor(values, device=p.device)).sum(2)
            return p.argmax(2)

        coded = self._coded(given, self._learnt())
        found = self._by_row(coded, fill)
        given = np.where(np.isnan(coded), np.nan, given).astype(given.dtype, copy=False)  # unknown values are missing
        if strategy == "mean":
            return imputed(X, given, found)
        return imputed(X, given, values[np.arange(len(values)), found], are_levels=True)

    # ---------------------------------------------------------------------------------------- from values to levels
    def _learn(self, X):
        if self.categorical_features is None or _lists_none(self.categorical_features, X.shape[1]):
            columns = None
        elif isinstance(self.categorical_features, str):
            columns = np.arange(X.shape[1])
        else:
            columns = columns_of(self, self.categorical_features, allow_all=True)
        return Levels.of(X, columns)

    def _learnt(self):
        return Levels(self.categories_, self._is_categorical)

    def _coded(self, X, learnt):
        forgives = self.handle_unknown == "missing"
        return learnt.coded(X, self.binarize, unknown_is_missing=forgives, who=type(self).__name__)

    def _condensed(self, coded, weight, learnt):
        """Each distinct row once, with the weight of all that equal it, where at most half of the rows are distinct.

        So they are in tables of few categories, whatever their length: every iteration is then that much faster.
        """
        n_levels = learnt.n_levels or [2] * coded.shape[1]
        if sum(math.log2(count + 1) for count in n_levels) >= 63:
            return coded, weight
        key = np.zeros(len(coded), dtype=np.int64)
        for column, count in zip(coded.T, n_levels):
            key *= count + 1
            key += np.nan_to_num(column, nan=count).astype(np.int64)
        _, first, which = np.unique(key, return_index=True, return_inverse=True)
        if 2 * len(first) > len(coded):
            return coded, weight
        return coded[first], np.bincount(which, weights=weight).astype(np.float64)

    # -------------------------------------------------------------------------------------- what the mixin asks for
    def _model(self, n_components, learnt):
        return BernoulliMixture(n_components, float(self.alpha), learnt.n_levels)

    def _origin(self, X, weight):
        return None

    def _explained(self):
        return contextlib.nullcontext()

    def _attributes(self, params, origin, dtype, learnt):
        column, level = learnt.indicators()
        means = self._model(len(params.pi), learnt).probabilities(params)[:, column, level]
        return {
            "weights_": params.pi.cpu().numpy().astype(dtype),
            "means_": means.cpu().numpy().astype(dtype),
            "categories_": learnt.categories,
            "_is_categorical": learnt.is_categorical,
        }

    def _parameters(self, device):
        place = functools.partial(torch.tensor, dtype=torch.float64, device=device)
        return self._fitted_model().params(place(self.weights_), place(self._learnt().theta(self.means_))), None

    def _stats_so_far(self, model, params, total):
        return model.stats_of(params, total)

    def _n_parameters(self):
        return self._fitted_model().n_parameters(self.n_features_in_)

    def _draw(self, labels, noise):
        u = noise.uniform(torch.arange(len(labels)), self.n_features_in_, torch.float64).numpy()
        table = self._fitted_model().probabilities(self._parameters(torch.device("cpu"))[0]).numpy()
        levels = np.empty(u.shape, dtype=np.int64)
        for k in np.unique(labels):
            rows = labels == k
            levels[rows] = (u[rows, :, None] > table[k].cumsum(1)[:, :-1]).sum(2)
        return self._learnt().values()[np.arange(self.n_features_in_), levels]

    # ------------------------------------------------------------------------------------------------------ starting
    def _start(self, model, table, batches, noise):
        """Means around which the first E-step shares the rows out, by their observed cells."""
        marginal = _marginal(model, batches)
        if not marginal.theta.numel():  # every column has a single category
            return marginal
        if self.init_params == "random":
            K, n_indicators = marginal.theta.shape
            shift = noise.normal(torch.arange(K), n_indicators, torch.float64).to(table.device)
            free = model.to_free(marginal)
            return model.from_free(torch.cat([free[:K], free[K:] + shift.reshape(-1)]), marginal)
        share = _TO_MARGINAL[self.init_params]
        return model.params(marginal.pi, torch.lerp(self._centres(model, table, noise), marginal.theta, share))

    def _points(self, model, table, few):
        """The indicators of some rows; a missing cell's are their means."""
        X = torch.as_tensor(table.X[few], dtype=table.dtype)
        seen = model.to_levels(~X.isnan()).to(table.dtype)
        x = model.indicators(X.nan_to_num(nan=0.0))
        means = x.sum(0) / seen.sum(0).clamp(min=1)
        return torch.where(seen > 0, x, means).numpy()

    def _all_given(self):
        return self.weights_init is not None and self.means_init is not None

    def _given(self, model, params, table, learnt):
        place = functools.partial(torch.tensor, dtype=torch.float64, device=table.device)
        if self.weights_init is None and self.means_init is None:
            return params
        pi = params.pi if self.weights_init is None else place(checked_weights(self.weights_init, self.n_components))
        theta = params.theta if self.means_init is None else place(learnt.theta(self._checked_means(learnt)))
        return model.params(pi, theta)

    def _checked_means(self, learnt):
        means = checked_shape(self.means_init, (self.n_components, len(learnt.indicators()[0])), "means")
        if means.min() < 0 or means.max() > 1:
            raise ValueError(
                "The parameter 'means' should be in the range [0, 1], but got min value "
                f"{means.min():.5f}, max value {means.max():.5f}"
            )
        return means


def _lists_none(columns, n_features):
    """Whether a list or mask of columns names none at all."""
    columns = np.asarray(columns)
    return columns.size == 0 or (columns.dtype == bool and columns.shape == (n_features,) and not columns.any())


def _marginal(model, batches):
    """The parameters of components that are all alike: the share of each level in the table."""

    def stats(batch):
        return model.start(batch, batch.X.new_full((model.n_components, len(batch.X)), 1 / model.n_components))

    return model.m_step(em.summed(stats, batches), None)
