"""A scorer that puts densities of all families on one scale, and refuses those that are on another."""

import numpy as np
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from skvae.metrics._pipelines import unwrap

MEASURES = ("density", "probability")
# Densities of scikit-learn, all over numbers. Its other `score_samples` are no log-likelihoods.
_OF_SKLEARN = ("FactorAnalysis", "GaussianMixture", "KernelDensity", "PCA")


def make_evidence_scorer(measure="auto"):
    """Make a scorer that compares densities by the mean log p(x) of held-out rows, whatever their family.

    Pass it as `scoring=` to `GridSearchCV`, `cross_validate` and similar functions. Each model gives log p(x) in nats
    by `score_samples`. Such numbers compare models only if all are of the same columns under the same measure: the
    density of a column of numbers changes with its unit and has no upper limit, while the probability of a level or a
    count is at most 1. The scorer says of what measure each column is, and refuses models of another.

    Parameters
    ----------
    measure : {"auto", "density", "probability"} or list of them, default="auto"
        What a model must give of each column, or of each one separately in a list: a density over numbers, or the
        probability of a level or a count. "auto": a density of columns of numbers, a probability of Booleans, strings
        and categories, by the types of X.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y=None)`` returns the mean log-likelihood of the rows as a float, in nats; greater is
        better. It raises ValueError if the model is on another scale, and TypeError if it has no density. In a search,
        `error_score` decides what becomes of that: by default a warning that holds the error, and the score NaN.

    See Also
    --------
    skvae.inspection.evidence_decomposition : The parts of log p(x) of each row.

    Notes
    -----
    - Models are those of the package with `score_samples`, and of scikit-learn GaussianMixture, KernelDensity,
      FactorAnalysis and PCA. The density of its BayesianGaussianMixture does not integrate to 1: take
      `VariationalGaussianMixture`.
    - In a pipeline the last step is the model. Where `StandardScaler`, `MinMaxScaler`, `MaxAbsScaler` or
      `RobustScaler` come before it, the score is of the columns before the scaling: the log of each factor is added for
      each observed cell. So candidates may differ in their scalers. Other steps must leave the numbers of X as they
      are, as those that fill in missing cells do. A step that changes them, like `PowerTransformer`, is refused, and so
      is ``MinMaxScaler(clip=True)``: transform X before the search, where the change is the same for all candidates.
    - `binarize` of `BernoulliMixtureEM` makes other columns, too: it must be the same in all candidates.
    - A column without variance has no density, and each family has a least variance of its own for it. Drop it.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import GridSearchCV, KFold
    >>> from sklearn.pipeline import Pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skvae import FactorAnalysisEM, GaussianMixtureEM
    >>> from skvae.model_selection import make_evidence_scorer
    >>> pipeline = Pipeline([("scale", StandardScaler()), ("density", FactorAnalysisEM())])
    >>> mixture = GaussianMixtureEM(covariance_type="diag", reg_covar=1e-3, random_state=0)
    >>> grid = [
    ...     {"density": [FactorAnalysisEM()], "density__n_components": [1, 2, 3]},
    ...     {"density": [mixture], "density__n_components": [1, 2, 3]},
    ... ]
    >>> folds = KFold(5, shuffle=True, random_state=0)
    >>> search = GridSearchCV(pipeline, grid, scoring=make_evidence_scorer(), cv=folds).fit(load_wine().data)
    >>> type(search.best_params_["density"]).__name__, search.best_params_["density__n_components"]
    ('GaussianMixtureEM', 3)
    """
    one_for_all = isinstance(measure, str) and measure in ("auto", *MEASURES)
    each = isinstance(measure, list | tuple | np.ndarray) and all(name in MEASURES for name in measure)
    if not (one_for_all or each):
        raise ValueError(
            f"measure must be 'auto', 'density', 'probability' or a list of the last two, but it is {measure!r}."
        )
    return _EvidenceScorer(measure if one_for_all else tuple(measure))


class _EvidenceScorer:
    def __init__(self, measure):
        self.measure = measure

    def __call__(self, estimator, X, y=None):
        transforms, model = unwrap(estimator)
        found = _measures_of(model)
        self._check(found, self._measures(X), X, model)
        columns = [j for j, measure in enumerate(found) if measure == "density"]
        read, slopes = _followed(transforms, X, columns)
        return float(model.score_samples(read).mean(dtype=np.float64)) + _mean_log_jacobian(slopes, read)

    def _measures(self, X):
        if self.measure == "auto":
            from skvae.tables.column_likelihoods import measures  # these import torch
            from skvae.tables.learning import read_columns

            return measures(read_columns(X, "auto"))
        n_features = np.shape(X)[1]
        expected = [self.measure] * n_features if isinstance(self.measure, str) else list(self.measure)
        if len(expected) != n_features:
            raise ValueError(f"measure is a list for {len(expected)} columns, but X has {n_features}.")
        return expected

    def _check(self, found, expected, X, model):
        name = type(model).__name__
        if len(found) != len(expected):
            raise ValueError(
                f"{name} reads {len(found)} columns that are made of the {len(expected)} of X: its likelihood is that "
                "of other columns, and on another scale. Make the columns before the search."
            )
        other = [j for j in range(len(found)) if found[j] != expected[j]]
        if other:
            which = X.columns[other[0]] if hasattr(X, "columns") else other[0]
            raise ValueError(
                f"{name} gives a {found[other[0]]} of column {which!r}, where this scorer compares models by a "
                f"{expected[other[0]]} ({len(other)} such columns): the two have no common scale. Search among models "
                f"of one kind; for a search of this kind, make_evidence_scorer(measure={_short(found)!r})."
            )

    def __repr__(self):
        return f"make_evidence_scorer({self.measure!r})"

    def __sklearn_clone__(self):
        return self  # nothing in it can change


def _short(measures):
    """One word where all columns have the same measure."""
    return measures[0] if len(set(measures)) == 1 else measures


def _measures_of(model):
    """What a fitted model gives of each column it reads."""
    if hasattr(model, "_column_measures"):
        return model._column_measures()
    of_sklearn = type(model).__module__.startswith("sklearn.") and type(model).__name__ in _OF_SKLEARN
    if type(model).__name__ == "BayesianGaussianMixture":
        raise TypeError(
            "The scorer needs a density, but score_samples of BayesianGaussianMixture is that of its E-step, which "
            "does not integrate to 1; take skvae.VariationalGaussianMixture, whose predictive density does."
        )
    if not of_sklearn:
        raise TypeError(
            f"The scorer needs a density, with log p(x) as score_samples, but {type(model).__name__} is none. (A "
            "search must be fitted, with refit, to be scored.)"
        )
    return ["density"] * model.n_features_in_


def _followed(transforms, X, columns):
    """What the model reads of X, and the sum of the log factors by which scalers have multiplied each column.

    Raises ValueError if a step changes one of the columns in another way.
    """
    slopes = np.zeros(np.shape(X)[1])
    for step in _steps(transforms):
        read = step.transform(X)
        log_slope = _log_slope(step)
        if log_slope is None:
            _check_unchanged(step, X, read, columns)
        else:
            slopes[columns] += np.broadcast_to(log_slope, slopes.shape)[columns]
        X = read
    return X, slopes


def _steps(transforms):
    """All steps of pipelines, those of pipelines in pipelines included."""
    for pipeline in transforms:
        for step in pipeline:
            inner, last = unwrap(step)
            yield from _steps(inner)
            if hasattr(last, "transform"):  # neither None nor "passthrough"
                yield last


def _log_slope(step):
    """Log factors by which a scaler multiplies the columns: an array of them, or 0; None of any other step."""
    if isinstance(step, MinMaxScaler):
        if step.clip:
            raise ValueError(
                "MinMaxScaler(clip=True) moves what lies beyond the rows of the fit onto the ends of its range, where "
                "it has no density; set clip=False."
            )
        return np.log(np.abs(step.scale_))
    if isinstance(step, StandardScaler | MaxAbsScaler | RobustScaler):
        return 0.0 if step.scale_ is None else -np.log(step.scale_)
    return None


def _check_unchanged(step, X, read, columns):
    """Refuse a step that changes an observed cell of the columns of numbers."""
    if columns and np.shape(read)[1] == np.shape(X)[1]:
        before, after = _numbers(X, columns), _numbers(read, columns)
        changed = (~np.isnan(before) & ~np.isclose(after, before, rtol=1e-6, atol=0.0)).any(axis=0)
        if not changed.any():
            return
        which = columns[changed.argmax()]
        what = f"column {X.columns[which] if hasattr(X, 'columns') else which!r}"
    elif columns:
        what = "the columns"
    else:
        return
    raise ValueError(
        f"{type(step).__name__} changes {what} in a way that the scorer does not follow, so that the density is on "
        "another scale. Of the steps before the model only StandardScaler, MinMaxScaler, MaxAbsScaler and RobustScaler "
        "may change numbers. If the change is the same for all candidates, transform X before the search."
    )


def _numbers(X, columns):
    """The given columns of an array or a frame, in float64."""
    if hasattr(X, "iloc"):
        return X.iloc[:, columns].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(X)[:, columns].astype(np.float64)


def _mean_log_jacobian(slopes, X):
    """Mean over rows of the sum of the slopes of the observed cells."""
    if not slopes.any():
        return 0.0
    observed = ~np.isnan(np.asarray(X, dtype=np.float64))
    return float((observed @ slopes).mean())
