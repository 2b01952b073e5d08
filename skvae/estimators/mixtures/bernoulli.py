"""Mixtures of Bernoullis and, for columns of more than two categories, latent class analysis."""

import functools
import math
from numbers import Real

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skvae import _reduce
from skvae._compat import Interval, StrOptions, warn
from skvae._tensors import rows_a_batch
from skvae.engines import em
from skvae.estimators.mixtures._mixture import BaseMixture
from skvae.estimators.mixtures._starts import checked_probabilities, checked_weights, initial_centres
from skvae.models.mixtures.bernoulli_mixture import BernoulliMixture
from skvae.tables.categories import Levels
from skvae.tables.checks import columns_of
from skvae.tables.columns import listed
from skvae.tables.frames import imputed

_MOST_RESTARTS = 10
_WORK_OF_RESTARTS = 2**24  # rows x indicators x components of all restarts together, an iteration
_TO_MARGINAL = {"kmeans": 0.05, "k-means++": 0.5, "random_from_data": 0.5}  # how far first means are drawn to it


class BernoulliMixtureEM(BaseMixture):
    """Describe a binary or categorical table by a mixture of independent columns, fitted by expectation maximisation.

        z ~ Cat(pi),   x_d | z = k ~ Bern(mu_kd)   or, of a categorical column,   Cat(theta_kd)

    With categorical columns this is latent class analysis. It takes sample weights and missing cells, imputes them,
    learns in parts, and has the face of :class:`GaussianMixtureEM`. Read more in the
    :doc:`user guide </user_guide/mixtures>`.

    Parameters
    ----------
    n_components : int, default=1
        Number K of components, or latent classes.
    tol : float, default=1e-7
        Stop when an iteration changes the mean bound by less, in nats a sample.
    max_iter : int, default=1000
        Largest number of EM iterations of one restart. 0 leaves the initial parameters.
    n_init : int or "auto", default="auto"
        Number of restarts, of which the one with the highest bound is kept. "auto": 10 for small tables, fewer where
        an iteration takes longer, and 1 where rows x indicators x components exceed 8 million.
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}, default="kmeans"
        What the first means are drawn from: the centres of k-means, its seeds, rows at random, or, for "random", the
        columns' own means with log-odds shifted by standard normal noise. K-means sees at most 20,000 rows.
    weights_init : array-like of shape (n_components,) or None, default=None
        Initial proportions, in place of the computed ones.
    means_init : array-like of shape (n_components, n_indicators) or None, default=None
        Initial means, in [0, 1] and laid out as `means_`.
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
        Seed of the restarts. None draws a fresh seed from the system, without touching NumPy's global generator.
    warm_start : bool, default=False
        Whether `fit` continues from the parameters of the last fit; `n_init` is then ignored.
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
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with rows of its own. See
        :doc:`/scaling`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

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
        Whether the best restart met `tol`.
    n_iter_ : int
        Iterations of the best restart.
    lower_bound_ : float
        The last of `lower_bounds_`.
    lower_bounds_ : list of float
        Mean bound per sample before each M-step of the best restart, nats: of the log-likelihood plus
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

    _measure = "probability"
    _parameter_constraints = {
        **BaseMixture._parameter_constraints,
        "n_init": [StrOptions({"auto"}), *BaseMixture._parameter_constraints["n_init"]],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "alpha": [Interval(Real, 0.0, None, closed="neither")],
        "binarize": [Interval(Real, None, None, closed="neither"), None],
        "categorical_features": [StrOptions({"all"}), "array-like", None],
        "handle_unknown": [StrOptions({"error", "missing"})],
    }

    def __init__(
        self,
        n_components=1,
        *,
        tol=1e-7,
        max_iter=1000,
        n_init="auto",
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
        data_parallel=False,
        checkpoint=None,
    ):
        super().__init__(
            n_components,
            tol=tol,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
            acceleration=acceleration,
            device=device,
            batch_size=batch_size,
            data_parallel=data_parallel,
            checkpoint=checkpoint,
        )
        self.weights_init = weights_init
        self.means_init = means_init
        self.alpha = alpha
        self.binarize = binarize
        self.categorical_features = categorical_features
        self.handle_unknown = handle_unknown

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
        learnt = self._learnt_categories(X)
        self._warn_of_constant_columns(X, learnt)
        return learnt

    def _learnt_categories(self, X):
        if isinstance(self.categorical_features, str):
            return Levels.of(X, np.arange(X.shape[1]))
        listed = np.asarray([] if self.categorical_features is None else self.categorical_features)
        is_mask = listed.dtype == bool and listed.shape == X.shape[1:]
        if not listed.size or is_mask and not listed.any():
            return Levels.of(X, None)
        return Levels.of(X, columns_of(self, self.categorical_features, allow_all=True))

    def _warn_of_constant_columns(self, X, learnt):
        """Warn if most columns whose values differ are the same in all rows once they are binarised."""
        if self.binarize is None or learnt.is_categorical.all():
            return
        extremes = (np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)) if len(X) else None
        found = [each for each in _reduce.gathered(extremes) if each is not None]
        least, greatest = np.fmin.reduce([low for low, _ in found]), np.fmax.reduce([high for _, high in found])
        same = (least > self.binarize) == (greatest > self.binarize)
        varies = (least < greatest) & ~learnt.is_categorical
        lost = np.flatnonzero(same & varies)
        if len(lost) <= 0.5 * varies.sum():  # some may be, such as pixels at the edge of images
            return
        names = getattr(self, "feature_names_in_", np.arange(X.shape[1]))[lost].tolist()
        first = lost[0]
        warn(
            f"binarize={self.binarize:g} makes {len(lost)} of {X.shape[1]} columns constant: {listed(names)}; column "
            f"{names[0]!r} holds values from {least[first]:g} to {greatest[first]:g}. If numbers are codes of "
            "categories, pass categorical_features='all' or these columns; else pass a threshold that lies between "
            "the values.",
            UserWarning,
        )

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
        if 2 * _reduce.count(len(first)) > _reduce.count(len(coded)):
            return coded, weight
        return coded[first], np.bincount(which, weights=weight).astype(np.float64)

    # ---------------------------------------------------------------------------------------- what every mixture gives
    def _n_restarts(self, model, table):
        if self.n_init != "auto":
            return self.n_init
        work = _reduce.count(len(table)) * model.n_components * max(1, model.n_indicators(table.shape[1]))
        return max(1, min(_MOST_RESTARTS, _WORK_OF_RESTARTS // work))

    def _model(self, n_components, learnt):
        return BernoulliMixture(n_components, float(self.alpha), learnt.n_levels)

    def _batches(self, table, model):
        width = model.row_width(table.shape[1])
        return table.batches(rows_a_batch(self.batch_size, width, table.device), in_turn=True)

    def _attributes(self, params, table, learnt):
        column, level = learnt.indicators()
        means = self._model(len(params.pi), learnt).probabilities(params)[:, column, level]
        return {
            "weights_": params.pi,
            "means_": means,
            "categories_": learnt.categories,
            "_is_categorical": learnt.is_categorical,
        }

    def _fitted_params(self, model, table):
        return self._params_on(model, table.device)

    def _params_on(self, model, device):
        """The fitted parameters on a device."""
        place = functools.partial(torch.tensor, dtype=torch.float64, device=device)
        return model.params(place(self.weights_), place(self._learnt().theta(self.means_)))

    def _n_parameters(self):
        return self._fitted_model().n_parameters(self.n_features_in_)

    def _draw(self, labels, noise):
        u = noise.uniform(torch.arange(len(labels)), self.n_features_in_, torch.float64).numpy()
        model = self._fitted_model()
        table = model.probabilities(self._params_on(model, torch.device("cpu"))).numpy()
        levels = np.empty(u.shape, dtype=np.int64)
        for k in np.unique(labels):
            rows = labels == k
            levels[rows] = (u[rows, :, None] > table[k].cumsum(1)[:, :-1]).sum(2)
        return self._learnt().values()[np.arange(self.n_features_in_), levels]

    # --------------------------------------------------------------------------------------------- initial parameters
    def _initial_params(self, model, table, noise, learnt):
        if self.weights_init is None and self.means_init is None:
            return self._drawn_params(model, table, noise)
        place = functools.partial(torch.tensor, dtype=torch.float64, device=table.device)
        if self.weights_init is None:
            pi = self._drawn_params(model, table, noise).pi
        else:
            pi = place(checked_weights(self.weights_init, model.n_components))
        if self.means_init is None:
            theta = self._drawn_params(model, table, noise).theta
        else:
            shape = self.n_components, len(learnt.indicators()[0])
            theta = place(learnt.theta(checked_probabilities(self.means_init, shape, "means")))
        return model.params(pi, theta)

    def _drawn_params(self, model, table, noise):
        """Equal proportions, and means drawn around those of the table."""
        K = model.n_components

        def alike(batch):
            return model.stats_from_responsibilities(batch, batch.X.new_full((K, len(batch.X)), 1 / K))

        marginal = model.m_step(em.summed(alike, self._batches(table, model)), None)  # all components are the same
        if not marginal.theta.numel():  # every column has a single category
            return marginal
        if self.init_params == "random":
            n_indicators = marginal.theta.shape[1]
            shift = noise.normal(torch.arange(K), n_indicators, torch.float64).to(table.device)
            free = model.to_free(marginal)
            return model.from_free(torch.cat([free[:K], free[K:] + shift.reshape(-1)]), marginal)
        points = functools.partial(self._points, model, table)
        centres = initial_centres(self.init_params, table, points, K, noise)
        return model.params(marginal.pi, torch.lerp(centres, marginal.theta, _TO_MARGINAL[self.init_params]))

    def _points(self, model, table, index):
        """Indicators of some rows; those of a missing cell are filled by their means."""
        X = torch.as_tensor(table.X[index], dtype=table.dtype)
        seen = model.to_levels(~X.isnan()).to(table.dtype)
        x = model.indicators(X.nan_to_num(nan=0.0))
        means = x.sum(0) / seen.sum(0).clamp(min=1)
        return torch.where(seen > 0, x, means).numpy()
