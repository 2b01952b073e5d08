"""K-means clustering."""

from numbers import Integral, Real

import numpy as np
import scipy.sparse as sp
from sklearn.base import ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae import _reduce
from skvae._compat import Interval, StrOptions, fit_context, one_blas_thread, warn
from skvae._sparse import merged
from skvae._tensors import explain_out_of_memory, inference_device, torch_dtype
from skvae.estimators._base import Estimator
from skvae.estimators._checks import agree_in_columns, agree_in_state, refuse_another_number
from skvae.estimators.checkpoints.checkpoint import CHECKPOINT
from skvae.estimators.clustering._lloyd import InertiaWatcher, TrainingRun, nearest, placed_in_turn
from skvae.models.clustering import kmeans
from skvae.tables.checks import naming_cells
from skvae.tables.weights import agree_in_weights, checked_weight, together_if_small
from skvae.training.continuation import Continuation


class KMeansLite(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, Estimator):
    """Cluster rows around the nearest of K centres.

    Places the centres c_k so that the inertia, the weighted sum of squared distances ::

        sum_n w_n min_k |x_n - c_k|^2

    is low, by Lloyd's iterations from good initial centres. A drop-in for scikit-learn's ``KMeans``: from the same
    initial centres it finds the same clusters. Large fits begin from the clusters of a sample; where comparing rows
    with centres takes long, only rows whose cluster may have changed are looked at again; it can run on a GPU. Read
    more in the :doc:`user guide </user_guide/clustering>`.

    Parameters
    ----------
    n_clusters : int, default=8
        Number K of clusters.
    init : {"k-means++", "k-means||", "random"}, callable or array-like of shape (n_clusters, n_features), \
            default="k-means++"
        The initial centres. "k-means++": rows that lie far apart, each the best of 2 + log(K) draws. Large fits take
        them from K-means on a sample: a tenth of the rows, at least 5,000 and 300 a cluster, if that is at most a fifth
        of all rows. There, the best of three k-means++ draws after a few iterations goes on. The sample has at most
        2**25 cells. Where 300 rows a cluster are more than that, or more than a fifth, tables of more cells take
        "k-means||".
        "k-means||": rows that lie far apart, drawn many at a time; for many clusters. "random": rows drawn by weight.
        A callable is given X, `n_clusters` and `random_state`, and returns centres.
    n_init : int or "auto", default="auto"
        Number of restarts, each from initial centres of its own; the one with the lowest inertia is kept. "auto": 10
        for "random" and callables, else 1.
    max_iter : int, default=300
        Iterations of one restart.
    tol : float, default=1e-4
        Stop when the squared shift of all centres together is at most `tol` times the mean variance of the columns, or
        no row changes its cluster.
    verbose : int, default=0
        1 prints about ten lines a restart, 2 a line every iteration. For a bar: `set_callbacks(ProgressBar())`.
    random_state : int, RandomState instance or None, default=None
        Seed of the initial centres. None draws a fresh one from the system, without touching NumPy's global generator.
    copy_x : bool, default=True
        Accepted for scikit-learn's sake: X is never changed.
    algorithm : {"lloyd", "elkan"}, default="lloyd"
        Accepted for scikit-learn's sake: both find the same clusters. Bounds on distances are used where they save
        time, whatever stands here.
    device : str, default="auto"
        Where to compute: "auto" (a CUDA GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", ...
    batch_size : int or "auto", default="auto"
        Rows whose sums are formed at once. Changes results by rounding only.
    data_parallel : bool, default=False
        Whether the processes of `torch.distributed` share the fit, each with rows of its own. See
        :doc:`/scaling`.
    checkpoint : str, path-like, Checkpoint or None, default=None
        File from which an interrupted fit goes on: see :class:`~skvae.Checkpoint`.

    Attributes
    ----------
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        The centres, of the dtype of X: float32 or float64.
    labels_ : int32 ndarray of shape (n_samples,)
        Number of the nearest centre for each row of `fit`, or of the last call of `partial_fit`, as `predict` gives.
    inertia_ : float
        Weighted sum of squared distances of the same rows to these centres.
    n_iter_ : int
        Iterations of the best restart; after `partial_fit`, the number of calls.
    lower_bounds_ : ndarray of shape (n_iter,)
        Minus the inertia per unit of weight before each iteration.
    device_ : str
        Where the fit ran.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, where `fit` was given a DataFrame.

    See Also
    --------
    sklearn.cluster.KMeans : What this replaces.
    sklearn.model_selection.GridSearchCV : Compares numbers of clusters by `score` on held-out rows.

    Notes
    -----
    A cluster that loses all its rows gets one of the rows farthest from their centres, if any row differs from its own
    centre. Rows given w times and rows of weight w make the same fit; rows of weight zero change nothing, but get a
    label.

    References
    ----------
    Lloyd, *Least squares quantization in PCM*, IEEE Transactions on Information Theory 28(2), 1982.
    Arthur and Vassilvitskii, *k-means++: the advantages of careful seeding*, SODA 2007.
    Hamerly, *Making k-means even faster*, SDM 2010.
    Bahmani, Moseley, Vattani, Kumar and Vassilvitskii, *Scalable k-means++*, VLDB 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import KMeansLite
    >>> X = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> clusters = KMeansLite(n_clusters=2, random_state=0).fit(X)
    >>> clusters.inertia_
    16.0
    >>> labels = clusters.predict([[0, 0], [12, 3]])
    >>> bool(labels[0] == clusters.labels_[0]), bool(labels[1] == clusters.labels_[5])
    (True, True)
    """

    _bound_and_units = ("minus the inertia", "per row")

    _parameter_constraints = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"k-means++", "k-means||", "random"}), callable, "array-like"],
        "n_init": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "copy_x": ["boolean"],
        "algorithm": [StrOptions({"lloyd", "elkan"})],
        "device": [str],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "data_parallel": ["boolean"],
        "checkpoint": CHECKPOINT,
    }

    def __init__(
        self,
        n_clusters=8,
        *,
        init="k-means++",
        n_init="auto",
        max_iter=300,
        tol=1e-4,
        verbose=0,
        random_state=None,
        copy_x=True,
        algorithm="lloyd",
        device="auto",
        batch_size="auto",
        data_parallel=False,
        checkpoint=None,
    ):
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.random_state = random_state
        self.copy_x = copy_x
        self.algorithm = algorithm
        self.device = device
        self.batch_size = batch_size
        self.data_parallel = data_parallel
        self.checkpoint = checkpoint

    # ------------------------------------------------------------------------------------------------------- fitting
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Find the centres.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Computed with in its own dtype, float32 or float64 (others become float64). Sparse X is never made dense.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each row, not negative; None weighs all the same. It also counts in drawing initial centres.

        Returns
        -------
        self : KMeansLite

        Raises
        ------
        ValueError
            If X holds NaN or infinity, has fewer rows than `n_clusters`, or weights or initial centres do not match it.

        Warns
        -----
        ConvergenceWarning
            If X has fewer distinct rows than `n_clusters`.
        RuntimeWarning
            If `n_init` restarts are asked for from given centres, or Elkan's algorithm for one cluster.
        """
        with (
            self._unchanged_on_error(),
            self._resumable(X, sample_weight=sample_weight),
            one_blas_thread(),
            explain_out_of_memory("use device='cpu'"),
        ):
            checked = self._check_X(X, reset=True)
            self._check_size(checked)
            if self.algorithm == "elkan" and self.n_clusters == 1:
                warn(
                    "algorithm='elkan' doesn't make sense for a single cluster. Using 'lloyd' instead.",
                    RuntimeWarning,
                )
            with together_if_small(checked, sample_weight) as of_all:
                run = TrainingRun(self, checked, sample_weight, of_all if of_all[0] is not checked else None)
                with InertiaWatcher(self, X, y, run) as watcher:
                    fit = run.ascend(watcher)
            found = run.attributes(fit.params)
            counts = np.bincount(found["labels_"], minlength=self.n_clusters)
            found["inertia_"], found["_weights"], counts = _reduce.total((found["inertia_"], found["_weights"], counts))
            n_found = np.count_nonzero(counts)
            if n_found < self.n_clusters:
                warn(
                    f"Number of distinct clusters ({n_found}) found smaller than n_clusters ({self.n_clusters}). "
                    "Possibly due to duplicate points in X.",
                    ConvergenceWarning,
                )
            return self._set(
                **found,
                n_iter_=fit.n_iter,
                lower_bounds_=np.array(fit.lower_bounds),
                device_=str(run.device),
            )

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Move each centre towards the new rows nearest to it, by their share of all rows that it has had.

        The first call on an estimator that was not fitted draws centres from its rows, as `init` says.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            New rows; the first call needs at least `n_clusters` of them.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each row, not negative; None weighs all the same.

        Returns
        -------
        self : KMeansLite

        Raises
        ------
        ValueError
            If the first call has too few rows, or `n_clusters` is no longer the number of the centres.
        """
        with self._unchanged_on_error(), one_blas_thread(), explain_out_of_memory("use device='cpu'"):
            agree_in_state(self, "cluster_centers_", "_weights", "n_iter_")
            fitted = hasattr(self, "cluster_centers_")
            continuation = Continuation.PARTIAL_FIT if fitted else Continuation.FRESH
            X = self._check_X(X, reset=not continuation.continues)
            if continuation.continues:
                refuse_another_number(self, "clusters", len(self.cluster_centers_))
                X = X.astype(self.cluster_centers_.dtype, copy=False)
                centres, weights, n_iter = self.cluster_centers_, self._weights, self.n_iter_
            else:
                self._check_size(X)
                centres, weights, n_iter = None, np.zeros(self.n_clusters), 0
            with together_if_small(X, sample_weight) as of_all:
                run = TrainingRun(self, X, sample_weight, of_all if of_all[0] is not X else None)
                bound, weights, centres = run.one_step(centres, weights)
            labels, distances = nearest(X, centres, run.device)
            return self._set(
                cluster_centers_=centres,
                labels_=labels,
                inertia_=_reduce.count(float(distances @ run.sample_weight)),
                n_iter_=n_iter + 1,
                lower_bounds_=np.array([bound]),
                device_=str(run.device),
                _weights=weights,
            )

    def fit_predict(self, X, y=None, sample_weight=None):
        """Find the centres and give the nearest to each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            As for `fit`.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As for `fit`.

        Returns
        -------
        labels : int32 ndarray of shape (n_samples,)
        """
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(self, X, y=None, sample_weight=None):
        """Find the centres and give the distances of the rows to all of them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            As for `fit`.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            As for `fit`.

        Returns
        -------
        distances : ndarray of shape (n_samples, n_clusters)
        """
        return self.fit(X, sample_weight=sample_weight).transform(X)

    # ---------------------------------------------------------------------------------------------------- prediction
    def predict(self, X):
        """Give the centre nearest to each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, whether `fit` saw them or not.

        Returns
        -------
        labels : int32 ndarray of shape (n_samples,)
            Number of the nearest centre; of equally near ones the first.
        """
        X = self._check_fitted_X(X)
        with one_blas_thread():
            return nearest(X, self._centres_for(X), inference_device(self.device))[0]

    def transform(self, X):
        """Give the distance of each row to each centre.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, whether `fit` saw them or not.

        Returns
        -------
        distances : ndarray of shape (n_samples, n_clusters)
            Euclidean, not squared; float32 for float32 rows.
        """
        X = self._check_fitted_X(X)
        found, start = np.empty((X.shape[0], len(self.cluster_centers_)), X.dtype), 0
        for batch, centres in placed_in_turn(X, self._centres_for(X), inference_device(self.device)):
            part = kmeans.distances(batch, centres).to(dtype=torch_dtype(X.dtype)).cpu().numpy()
            found[start : start + len(part)] = part
            start += len(part)
        return found

    def score(self, X, y=None, sample_weight=None):
        """Give minus the inertia of the rows.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, whether `fit` saw them or not.
        y : ignored
            Present for scikit-learn's convention.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weight of each row; None weighs all the same.

        Returns
        -------
        score : float
            Minus the weighted sum of squared distances to the nearest centres.
        """
        with self._shared():
            X = self._check_fitted_X(X)
            agree_in_weights(sample_weight)
            weight = checked_weight(sample_weight, X)
            with one_blas_thread():
                _, distances = nearest(X, self._centres_for(X), inference_device(self.device))
            return -_reduce.count(float(distances @ weight))

    def _check_X(self, X, *, reset):
        with naming_cells(X, type(self).__name__, gaps=False):
            X = validate_data(
                self,
                X,
                accept_sparse="csr",
                dtype=[np.float64, np.float32],
                order="C",
                reset=reset,
                ensure_min_samples=0 if _reduce.is_shared() else 1,
            )
            agree_in_columns(self, X)
        return merged(X, type(X)) if sp.issparse(X) else X

    def _check_fitted_X(self, X):
        check_is_fitted(self)
        return self._check_X(X, reset=False)

    def _check_size(self, X):
        n = _reduce.count(X.shape[0])
        if n < self.n_clusters:
            raise ValueError(f"n_samples={n} should be >= n_clusters={self.n_clusters}.")

    def _centres_for(self, X):
        return self.cluster_centers_.astype(X.dtype, copy=False)

    @property
    def _n_features_out(self):
        return len(self.cluster_centers_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
