"""One script, two classes: what runs with scikit-learn's runs with ours, and ends the same.

Where it does not, it is on purpose, and a test below shows it:

    class            scikit-learn                               here
    ---------------  -----------------------------------------  --------------------------------------------------------
    all              a seed draws from a RandomState            a seed draws noise keyed to rows: other numbers
    mixtures, FA     "did not converge" without figures         the warning tells the last gain and `tol`
    GaussianMixture  NaN is refused                             NaN is a missing value
    GaussianMixture  `sample()` repeats itself under a seed     `sample()` is fresh, `sample(n, random_state=0)` repeats
    GaussianMixture  tol < 1e-4: plain EM                       extrapolates: fewer iterations, no lower bound
    GaussianMixture  max_iter=0 with precisions_init fails      the start is the fit
    GaussianMixture  fitted to float32, it draws float64        draws float32
    GaussianMixture  shares down to 1e-300                      shares below 1e-34 are told as about 1e-35
    GaussianMixture  K-means warns of too few distinct rows     no warning: a component of weight nought is kept
    GaussianMixture  `warm_start` with another K is ignored     is refused
    KMeans           negative weights are taken                 are refused
    KMeans           `copy_x=False` writes to X                 X is never written to
    FactorAnalysis   float32 becomes float64                    stays
    FactorAnalysis   NaN is refused                             NaN is a missing value
    FactorAnalysis   more factors than columns: K is cut        K is cut, and a warning says so
    FactorAnalysis   one row: likelihood infinite               is refused
    FactorAnalysis   rotations give all columns one weight: no  yes (Kaiser); `normalize=False` is scikit-learn's way
"""

import copy
import inspect
import re
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris, make_blobs
from sklearn.decomposition import FactorAnalysis
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite

PAIRS = [(GaussianMixture, GaussianMixtureEM), (KMeans, KMeansLite), (FactorAnalysis, FactorAnalysisEM)]
every_pair = pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS])
KINDS = ("full", "tied", "diag", "spherical")
every_kind = pytest.mark.parametrize("kind", KINDS)


def both(index):
    """Run a script with either class; it states what is true of both."""
    return pytest.mark.parametrize("Class", PAIRS[index], ids=[found.__name__ for found in PAIRS[index]])


mixtures, clusterings, analyses = both(0), both(1), both(2)


def blobs(n=200, d=3, k=3, seed=0, dtype=np.float64, spread=1.0):
    X, y = make_blobs(n, d, centers=k, cluster_std=spread, random_state=seed)
    return X.astype(dtype), y


def size(Class, k):
    return {"n_clusters" if Class in PAIRS[1] else "n_components": k}


def fitted(Class, X, k=2, **parameters):
    seed = {} if Class in PAIRS[2] else {"random_state": 0}
    return Class(**{**size(Class, k), **seed, **parameters}).fit(X)


def given_start(X, kind="full", k=3):
    """Parameters of a start that draws nothing."""
    first = GaussianMixture(k, covariance_type=kind, max_iter=0, random_state=0).fit(X)
    return dict(
        n_components=k,
        random_state=0,
        covariance_type=kind,
        weights_init=first.weights_,
        means_init=first.means_ + 0.3,
        precisions_init=first.precisions_,
    )


def attributes(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_") and name[0] != "_"}


# ----------------------------------------------------------------------------------------------- parameters and names
@every_pair
def test_every_parameter_has_its_name_default_and_place(theirs, ours):
    expected, found = (list(inspect.signature(Class).parameters.values()) for Class in (theirs, ours))
    assert [str(parameter) for parameter in found[: len(expected)]] == [str(parameter) for parameter in expected]


@every_pair
def test_every_public_method_takes_what_it_took(theirs, ours):
    for name in dir(theirs):
        if name.startswith("_"):
            continue
        assert hasattr(ours, name), name
        if not callable(getattr(theirs, name)):
            continue
        expected, found = (list(inspect.signature(getattr(Class, name)).parameters) for Class in (theirs, ours))
        if expected[-1] == "fit_params":
            expected.pop()
        assert found[: len(expected)] == expected, name


@every_pair
@pytest.mark.parametrize("dtype", [np.float64, np.float32, int])
def test_every_attribute_has_its_type_dtype_and_shape(theirs, ours, dtype):
    X = (10 * blobs()[0]).astype(dtype)
    if theirs is FactorAnalysis and dtype == np.float32:
        X = X.astype(np.float64)  # see test_factor_analysis_keeps_float32
    expected, found = (attributes(fitted(Class, X)) for Class in (theirs, ours))
    for name, value in expected.items():
        assert np.shape(found[name]) == np.shape(value) or name in ("loglike_", "lower_bounds_"), name
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
        else:
            assert isinstance(found[name], float if isinstance(value, np.floating) else type(value)), name


@every_pair
def test_before_the_fit_the_same_error(theirs, ours):
    X = blobs()[0]
    for name in ("predict", "transform", "score", "score_samples", "predict_proba", "sample", "get_covariance", "aic"):
        if not hasattr(theirs, name):
            continue
        texts = []
        for Class in (theirs, ours):
            method = getattr(Class(), name)
            with pytest.raises(NotFittedError) as error:
                method(*([] if name in ("sample", "get_covariance") else [X]))
            texts.append(str(error.value).replace(Class.__name__, "X"))
        assert texts[0] == texts[1]


BAD_INPUT = {
    "one axis": lambda X: X[:, 0],
    "no rows": lambda X: X[:0],
    "no columns": lambda X: X[:, :0],
    "infinity": lambda X: np.where(X > 2, np.inf, X),
    "complex": lambda X: X + 1j,
    "text": lambda X: X.astype(str).astype(object) + "a",
    "three axes": lambda X: X[None],
}


@every_pair
@pytest.mark.parametrize("bad", BAD_INPUT)
def test_bad_input_meets_the_same_error(theirs, ours, bad):
    X = BAD_INPUT[bad](blobs()[0])
    texts = []
    for Class in (theirs, ours):
        with pytest.raises(ValueError) as error:
            fitted(Class, X)
        texts.append(str(error.value).replace(Class.__name__, "X"))
    if bad == "infinity":  # theirs names no cell
        assert texts[0].split(" or ")[0] in texts[1] and "X[" in texts[1]
    elif bad == "text":
        assert "could not convert string" in texts[0] and "X[0, 0] = " in texts[1] and "is a string" in texts[1]
    elif bad != "no rows":  # where theirs and ours may ask for one row or two
        assert texts[0] == texts[1]


@every_pair
def test_another_width_meets_the_same_error(theirs, ours):
    X, texts = blobs()[0], []
    for Class in (theirs, ours):
        model = fitted(Class, X)
        method = model.transform if hasattr(model, "transform") else model.predict
        with pytest.raises(ValueError, match="X has 2 features, but .* is expecting 3 features") as error:
            method(X[:, :2])
        texts.append(str(error.value).replace(Class.__name__, "X"))
    assert texts[0] == texts[1]


BAD_PARAMETERS = {
    GaussianMixture: [
        dict(n_components=0),
        dict(n_components=1.5),
        dict(covariance_type="cubic"),
        dict(tol=-1),
        dict(reg_covar=-1),
        dict(max_iter=-1),
        dict(n_init=0),
        dict(init_params="zeros"),
        dict(random_state="a"),
        dict(warm_start="a"),
        dict(verbose=-1),
        dict(verbose_interval=0),
        dict(weights_init=0.5),
    ],
    KMeans: [
        dict(n_clusters=0),
        dict(n_init=0),
        dict(n_init="all"),
        dict(max_iter=0),
        dict(tol=-1),
        dict(copy_x=2),
        dict(algorithm="full"),
        dict(verbose=-1),
        dict(random_state="a"),
    ],
    FactorAnalysis: [
        dict(n_components=-1),
        dict(tol=-1),
        dict(copy="a"),
        dict(max_iter=0),
        dict(svd_method="qr"),
        dict(iterated_power=-1),
        dict(random_state="a"),
    ],
}


def in_order(text):
    """A message with the choices that it lists, a set, in one order."""
    return re.sub(r"\{(.*?)\}", lambda found: str(sorted(found[1].split(", "))), text)


@every_pair
def test_bad_parameters_meet_the_same_error(theirs, ours):
    X = blobs()[0]
    for bad in BAD_PARAMETERS[theirs]:
        texts = []
        for Class in (theirs, ours):
            with pytest.raises(ValueError) as error:
                Class(**bad).fit(X)
            texts.append(in_order(str(error.value)).replace(Class.__name__, "X"))
        assert texts[0] == texts[1], bad


@every_pair
def test_choices_that_grew_are_refused_by_name_all_the_same(theirs, ours):
    bad = {GaussianMixture: dict(init_params="all"), KMeans: dict(init="zeros"), FactorAnalysis: dict(rotation="up")}
    for Class in (theirs, ours):
        with pytest.raises(ValueError, match=f"The '{next(iter(bad[theirs]))}' parameter of {Class.__name__} must be"):
            Class(**bad[theirs]).fit(blobs()[0])


# ---------------------------------------------------------------------------------------------------- GaussianMixture
@every_kind
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_mixture_from_the_same_start_is_the_same(kind, dtype):
    X = blobs(300, dtype=dtype, spread=2.0)[0]
    start = given_start(X.astype(np.float64), kind)
    theirs, ours = GaussianMixture(**start).fit(X), GaussianMixtureEM(**start).fit(X)
    loose = 1e-9 if dtype == np.float64 else 2e-3
    assert ours.converged_ and theirs.converged_
    if dtype == np.float64:
        assert ours.n_iter_ == theirs.n_iter_
        np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-9)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        expected = getattr(theirs, name)
        np.testing.assert_allclose(getattr(ours, name), expected, rtol=loose, atol=loose * np.abs(expected).max())
    for name in ("score_samples", "score", "aic", "bic"):
        np.testing.assert_allclose(getattr(ours, name)(X), getattr(theirs, name)(X), rtol=loose)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=loose, atol=loose)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    assert ours.predict(X).dtype == theirs.predict(X).dtype
    assert ours.sample(3)[0].dtype == dtype and ours.sample(3)[1].dtype == theirs.sample(3)[1].dtype


@every_kind
def test_a_mixture_by_default_ends_where_scikit_learns_does(kind):
    X = load_iris().data
    tight = {"tol": 1e-7, "max_iter": 1000}  # the default stops within 1e-4 of the maximum, from other seeds elsewhere
    theirs, ours = (fitted(Class, X, 3, covariance_type=kind, n_init=5, **tight) for Class in PAIRS[0])
    assert ours.lower_bound_ >= theirs.lower_bound_ - 1e-5
    assert adjusted_rand_score(theirs.predict(X), ours.predict(X)) > 0.95 or ours.lower_bound_ > theirs.lower_bound_


WRONG_STARTS = [
    dict(weights_init=[0.5, 0.5]),
    dict(weights_init=[0.5, 0.4, 0.3]),
    dict(means_init=np.zeros((2, 3))),
    dict(means_init=np.zeros((3, 2))),
    *(dict(covariance_type=kind, precisions_init=np.ones((4, 4))) for kind in KINDS),
    dict(covariance_type="full", precisions_init=-np.stack([np.eye(3)] * 3)),
    dict(covariance_type="tied", precisions_init=np.triu(np.ones((3, 3)))),
    dict(covariance_type="diag", precisions_init=-np.ones((3, 3))),
    dict(covariance_type="spherical", precisions_init=np.zeros(3)),
]


@pytest.mark.parametrize("wrong", WRONG_STARTS, ids=str)
def test_a_wrong_start_meets_the_same_words(wrong):
    texts = []
    for Class in PAIRS[0]:
        with pytest.raises(ValueError) as error:
            Class(3, random_state=0, **wrong).fit(blobs()[0])
        texts.append(str(error.value))
    assert texts[0] == texts[1]


@mixtures
def test_weights_out_of_range_are_refused(Class):
    with pytest.raises(ValueError, match=r"The parameter 'weights' should be in the range \[0, 1\], but got"):
        Class(3, random_state=0, weights_init=[2.0, -0.5, -0.5]).fit(blobs()[0])


@mixtures
def test_more_components_than_rows_are_refused(Class):
    with pytest.raises(ValueError, match="Expected n_samples >= n_components but got n_components = 5, n_samples = 4"):
        Class(5).fit(blobs()[0][:4])


@mixtures
@every_kind
@pytest.mark.parametrize(("max_iter", "tol"), [(2, 1e-7), (2, 0.1), (300, 1e-7), (300, 0.1)])
def test_fit_predict_is_fit_then_predict(Class, kind, max_iter, tol):
    X, y = blobs(spread=0.7)
    model = Class(3, covariance_type=kind, max_iter=max_iter, tol=tol, random_state=0, n_init=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = copy.deepcopy(model).fit_predict(X)
        np.testing.assert_array_equal(labels, model.fit(X).predict(X))
    np.testing.assert_array_equal(labels, model.predict_proba(X).argmax(axis=1))
    assert adjusted_rand_score(y, labels) > 0.95


@mixtures
@every_kind
def test_planted_components_are_found(Class, kind):
    rng = np.random.default_rng(0)
    means, sd, labels = np.array([[0.0, 0], [8, 0], [0, 8]]), np.array([1.0, 1.0]), rng.integers(3, size=1500)
    model = fitted(Class, means[labels] + sd * rng.normal(size=(1500, 2)), 3, covariance_type=kind, n_init=5)
    order = np.lexsort(model.means_.round().T[::-1])
    np.testing.assert_allclose(model.means_[order], [[0, 0], [0, 8], [8, 0]], atol=0.25)
    np.testing.assert_allclose(model.precisions_.max(), 1, atol=0.25)


@mixtures
@every_kind
def test_more_starts_are_no_worse(Class, kind):
    X = np.random.default_rng(0).normal(size=(50, 5))
    assert fitted(Class, X, covariance_type=kind, n_init=5).score(X) >= fitted(Class, X, covariance_type=kind).score(X)


@mixtures
def test_criteria_count_free_parameters(Class):
    X = np.random.default_rng(0).normal(size=(50, 5))
    for kind, expected in {"spherical": 13, "diag": 21, "tied": 26, "full": 41}.items():
        model = fitted(Class, X, covariance_type=kind)
        fit = -2 * model.score(X) * 50
        assert model.aic(X) - fit == pytest.approx(2 * expected)
        assert model.bic(X) - fit == pytest.approx(expected * np.log(50))


@mixtures
def test_of_one_component_and_column_all_kinds_are_one(Class):
    X = np.random.default_rng(1).normal(size=(100, 1))
    values = [fitted(Class, X, 1, covariance_type=kind).bic(X) for kind in KINDS]
    np.testing.assert_allclose(values, values[0], rtol=1e-9)


@mixtures
@every_kind
def test_one_component_is_stable(Class, kind):
    X = np.random.default_rng(2).normal(size=(30, 4)) + 5
    model = fitted(Class, X, 1, covariance_type=kind)
    np.testing.assert_allclose(model.means_[0], X.mean(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(model.weights_, [1])
    assert model.n_iter_ <= 2 and model.converged_


@mixtures
def test_no_convergence_is_warned_of(Class):
    X = blobs(spread=4.0)[0]
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        model = Class(3, max_iter=1, random_state=0).fit(X)
    assert not model.converged_ and model.n_iter_ == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Class(3, max_iter=0, random_state=0).fit(X).converged_


@mixtures
def test_verbose_prints(Class, capsys):
    X = blobs()[0]
    for verbose in (1, 2):
        fitted(Class, X, verbose=verbose, verbose_interval=1)
        assert "teration" in capsys.readouterr().out
    fitted(Class, X)
    assert capsys.readouterr().out == ""


@mixtures
@every_kind
def test_warm_starts_go_on_and_the_likelihood_rises(Class, kind):
    X = blobs(300, spread=2.5)[0]
    model = Class(3, covariance_type=kind, max_iter=1, warm_start=True, tol=1e-7, reg_covar=0, random_state=0)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(600):
            scores.append(model.fit(X).score(X))
            assert model.n_iter_ == 1
            if model.converged_:
                break
    assert model.converged_
    assert np.diff(scores).min() >= -1e-12


@mixtures
def test_convergence_is_detected_with_warm_start(Class):
    X = blobs(300, spread=2.0)[0]
    for max_iter in (1, 2, 50):
        model = Class(3, warm_start=True, max_iter=max_iter, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for _ in range(200):
                model.fit(X)
                if model.converged_:
                    break
        assert model.converged_ and model.n_iter_ <= max_iter


@mixtures
@every_kind
def test_score_is_the_mean_of_score_samples(Class, kind):
    X = blobs()[0]
    model = fitted(Class, X, covariance_type=kind)
    assert model.score(X) == pytest.approx(model.score_samples(X).mean())
    assert type(model.score(X)) is float


@mixtures
@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_a_collapse_is_explained(Class, kind):
    rows = np.repeat([[0.0, 0.0], [9.0, 9.0]], 10, axis=0)
    with pytest.raises(ValueError, match="ill-defined empirical covariance .* increase reg_covar"):
        Class(2, covariance_type=kind, reg_covar=0, random_state=0).fit(rows)


@mixtures
@pytest.mark.parametrize("how", ["kmeans", "k-means++", "random", "random_from_data"])
def test_every_way_to_start_works(Class, how):
    X, y = blobs(spread=0.5)
    model = Class(3, init_params=how, random_state=0, max_iter=0).fit(X)
    assert model.means_.shape == (3, 3) and model.n_iter_ == 0
    if how != "random":
        assert len(np.unique(model.means_.round(6), axis=0)) == 3
    best = Class(3, init_params=how, random_state=0, max_iter=300, n_init=10).fit(X)
    assert adjusted_rand_score(y, best.predict(X)) > 0.95


@mixtures
@every_kind
def test_no_iteration_keeps_the_start(Class, kind):
    X = blobs()[0]
    start = given_start(X, kind)
    del start["precisions_init"]  # see test_covariances_exist_without_an_iteration
    model = Class(**start, max_iter=0).fit(X)
    np.testing.assert_allclose(model.means_, start["means_init"], rtol=1e-12)
    np.testing.assert_allclose(model.weights_, start["weights_init"], rtol=1e-12)
    assert (model.n_iter_, model.lower_bound_, model.lower_bounds_) == (0, -np.inf, [])


@every_kind
@pytest.mark.parametrize("given", ["weights_init", "means_init", "precisions_init"])
def test_part_of_a_start_replaces_that_part_only(kind, given):
    """The first bound tells where they started. K-means finds the same clusters, in one order or another."""
    X = blobs(spread=0.5)[0]
    value = given_start(X, kind)[given]
    if given == "weights_init":
        value = np.full(3, 1 / 3)  # the same in any order
    elif given == "means_init":
        value = np.tile(X.mean(axis=0), (3, 1))
    elif given == "precisions_init" and kind != "tied":
        value = np.stack([value[0]] * 3)
    start = {"covariance_type": kind, "random_state": 0, "max_iter": 1, given: value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs, ours = (Class(3, **start).fit(X).lower_bound_ for Class in PAIRS[0])
    assert ours == pytest.approx(theirs, rel=1e-9)


@mixtures
def test_draws_come_sorted_by_component(Class):
    X = blobs(500, spread=0.5)[0]
    model = fitted(Class, X, 3)
    draws, labels = model.sample(1000)
    assert draws.shape == (1000, 3) and labels.shape == (1000,)
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_array_equal(model.predict(draws), labels)
    with pytest.raises(ValueError, match="Invalid value for 'n_samples'"):
        model.sample(0)
    assert model.sample()[0].shape == (1, 3)


# deliberate differences
def test_mixtures_take_missing_values():
    X = blobs()[0].copy()
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fitted(GaussianMixture, X)
    assert np.isfinite(fitted(GaussianMixtureEM, X).score(X))


def test_draws_of_mixtures_are_fresh_unless_seeded():
    theirs, ours = (fitted(Class, blobs()[0]) for Class in PAIRS[0])
    assert np.array_equal(theirs.sample(5)[0], theirs.sample(5)[0])
    assert not np.array_equal(ours.sample(5)[0], ours.sample(5)[0])
    assert np.array_equal(ours.sample(5, random_state=0)[0], ours.sample(5, random_state=0)[0])


def test_mixtures_with_a_small_tol_arrive_sooner():
    X = blobs(300, spread=3.0)[0]
    start = {**given_start(X), "tol": 1e-8, "max_iter": 5000}
    theirs, ours = (Class(**start).fit(X) for Class in PAIRS[0])
    plain = GaussianMixtureEM(**start, acceleration=None).fit(X)
    assert plain.n_iter_ == theirs.n_iter_ > 1.5 * ours.n_iter_
    assert plain.score(X) == pytest.approx(theirs.score(X), rel=1e-9)
    assert ours.score(X) >= theirs.score(X) - 1e-8


@every_kind
def test_covariances_exist_without_an_iteration(kind):
    X = blobs()[0]
    start = given_start(X, kind)
    theirs, ours = (Class(max_iter=0, **start) for Class in PAIRS[0])
    with pytest.raises(AttributeError, match="covariances_"):
        theirs.fit(X)
    ours.fit(X)
    np.testing.assert_allclose(ours.precisions_, start["precisions_init"], rtol=1e-9, atol=1e-12)
    assert np.isfinite(ours.score(X))


def test_shares_of_hopeless_components_are_told_as_nearly_nothing():
    X = np.concatenate([np.random.default_rng(0).normal(size=(50, 1)), np.full((50, 1), 100.0)])
    theirs, ours = (fitted(Class, X).predict_proba(X) for Class in PAIRS[0])
    assert theirs.min() < 1e-100 and 1e-36 < ours.min() < 1e-34


def test_a_mixture_of_few_distinct_rows_is_not_warned_of():
    rows = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, axis=0)
    with pytest.warns(ConvergenceWarning, match="distinct clusters"):
        theirs = fitted(GaussianMixture, rows, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = fitted(GaussianMixtureEM, rows, 3)
    np.testing.assert_allclose(np.sort(ours.weights_), np.sort(theirs.weights_), atol=1e-12)
    assert ours.score(rows) == pytest.approx(theirs.score(rows), rel=1e-9)


def test_a_warm_start_with_another_number_of_components_is_refused():
    X = blobs()[0]
    theirs, ours = (fitted(Class, X, 3, warm_start=True).set_params(n_components=2) for Class in PAIRS[0])
    assert theirs.fit(X).means_.shape == (3, 3)
    with pytest.raises(ValueError, match="n_components=2"):
        ours.fit(X)


@pytest.mark.parametrize(("theirs", "ours"), [PAIRS[0], PAIRS[2]])  # of K-means neither class warns
def test_the_warning_tells_gain_and_tol(theirs, ours):
    X = blobs(spread=4.0)[0]
    with pytest.warns(ConvergenceWarning, match=r"did not converge"):
        fitted(theirs, X, max_iter=2, tol=1e-9)
    with pytest.warns(ConvergenceWarning, match=r"did not converge: .*max_iter=2.*rising by \d.* nats.*\(tol=1e-09\)"):
        fitted(ours, X, max_iter=2, tol=1e-9)


# ------------------------------------------------------------------------------------------------------------- KMeans
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.csr_matrix])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_clusters_from_the_same_start_are_the_same(form, dtype, weighted):
    X = blobs(400, 4, 8, dtype=dtype, spread=2.0)[0]
    weight = np.random.default_rng(0).random(400) if weighted else None
    theirs, ours = (Class(8, init=X[:8], random_state=0).fit(form(X), sample_weight=weight) for Class in PAIRS[1])
    np.testing.assert_array_equal(ours.labels_, theirs.labels_)
    assert ours.n_iter_ == theirs.n_iter_ > 2
    loose = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=loose, atol=loose)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=loose)
    np.testing.assert_allclose(ours.transform(form(X)), theirs.transform(form(X)), rtol=loose, atol=20 * loose)
    assert ours.score(form(X), sample_weight=weight) == pytest.approx(theirs.score(form(X), sample_weight=weight))
    np.testing.assert_array_equal(ours.predict(form(X)), theirs.predict(form(X)))
    assert ours.transform(X).dtype == theirs.transform(X).dtype == dtype


@clusterings
@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("algorithm", ["lloyd", "elkan"])
def test_clusters_of_four_weighted_points(Class, form, algorithm):
    X = form([[0, 0], [0.5, 0], [0.5, 1], [1, 1]])
    model = Class(2, n_init=1, init=np.array([[0, 0], [1, 1]]), algorithm=algorithm, random_state=0)
    model.fit(X, sample_weight=[3, 1, 1, 3])
    np.testing.assert_array_equal(model.labels_, [0, 0, 1, 1])
    np.testing.assert_allclose(model.cluster_centers_, [[0.125, 0], [0.875, 1]])
    assert (model.inertia_, model.n_iter_) == (pytest.approx(0.375), 2)


@clusterings
def test_an_empty_cluster_takes_a_far_row(Class):
    model = Class(2, init=np.array([[0.5, 0.5], [3.0, 3.0]]), n_init=1, random_state=0).fit(
        [[0, 0], [0.5, 0], [0.5, 1], [1, 1]]
    )
    assert model.n_iter_ == 3 and model.inertia_ == pytest.approx(0.25)
    weighted = Class(2, init=np.array([[-1.0], [10.0]]), n_init=1, random_state=0).fit(
        [[-1.0], [1.0]], sample_weight=[1.9, 0.1]
    )
    np.testing.assert_allclose(weighted.cluster_centers_, [[-1], [1]])
    assert len(set(weighted.labels_)) == 2


@clusterings
@pytest.mark.parametrize("max_iter", [1, 2, 100])
def test_labels_are_those_of_the_final_centres(Class, max_iter):
    X = blobs(200, 10, 10, spread=3.0)[0]
    model = Class(10, init="random", n_init=3, max_iter=max_iter, random_state=0).fit(X)
    np.testing.assert_array_equal(model.predict(X), model.labels_)
    np.testing.assert_array_equal(model.fit_predict(X), model.labels_)
    np.testing.assert_array_equal(model.predict(model.cluster_centers_), np.arange(10))
    np.testing.assert_allclose(model.fit_transform(X), model.transform(X))
    assert model.score(X) == pytest.approx(-model.inertia_)
    assert model.n_iter_ <= max_iter


@clusterings
def test_more_iterations_score_higher(Class):
    X = np.random.default_rng(0).normal(size=(100, 10))
    short, long = (Class(8, n_init=1, random_state=0, max_iter=n).fit(X).score(X) for n in (1, 10))
    assert long > short


@clusterings
def test_a_start_at_the_optimum_stays(Class):
    X = blobs()[0]
    first = Class(3, random_state=0).fit(X)
    again = Class(3, init=first.cluster_centers_, n_init=1, random_state=0).fit(X)
    np.testing.assert_allclose(again.cluster_centers_, first.cluster_centers_)


@clusterings
@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
def test_given_centres_are_left_alone(Class, dtype):
    X = (10 * blobs()[0]).astype(dtype)
    start = X[:3].copy()
    before = start.copy()
    model = Class(3, init=start, n_init=1, random_state=0).fit(X)
    np.testing.assert_array_equal(start, before)
    assert not np.shares_memory(model.cluster_centers_, start)
    assert Class(3, init=start.tolist(), n_init=1, random_state=0).fit(X).inertia_ == pytest.approx(model.inertia_)


@clusterings
def test_clusters_fewer_than_asked_are_warned_of(Class):
    message = r"Number of distinct clusters \(3\) found smaller than n_clusters \(4\). Possibly due to duplicate points"
    with pytest.warns(ConvergenceWarning, match=message):
        model = Class(4, random_state=0).fit([[0, 0], [0, 1], [1, 0], [1, 0]])
    assert set(model.labels_) == {0, 1, 2}
    X = np.array([[0, 0], [1, 1], [1, 1], [1, 0], [0, 1]])
    with pytest.warns(ConvergenceWarning, match=r"\(4\) found smaller than n_clusters \(5\)"):
        assert Class(5, init=X, random_state=0).fit(X).n_iter_ == 1


@clusterings
def test_weights_of_clusters(Class):
    X = blobs(spread=3.0)[0]
    rng = np.random.default_rng(0)
    count, weight = rng.integers(1, 5, len(X)), rng.random(len(X))
    one = dict(n_clusters=3, init=X[:3], n_init=1, random_state=0)
    weighted, repeated = Class(**one).fit(X, sample_weight=count), Class(**one).fit(np.repeat(X, count, axis=0))
    np.testing.assert_array_equal(np.repeat(weighted.labels_, count), repeated.labels_)
    np.testing.assert_allclose(weighted.cluster_centers_, repeated.cluster_centers_)
    assert weighted.inertia_ == pytest.approx(repeated.inertia_)
    drawn = dict(n_clusters=3, random_state=0)
    pairs = [(None, np.ones(len(X))), (weight, 0.5 * weight)]
    for some, other in pairs:
        first, second = (Class(**drawn).fit(X, sample_weight=w) for w in (some, other))
        np.testing.assert_array_equal(first.labels_, second.labels_)
        np.testing.assert_allclose(first.cluster_centers_, second.cluster_centers_)
    before = weight.copy()
    Class(**drawn).fit(X, sample_weight=weight)
    np.testing.assert_array_equal(weight, before)


@clusterings
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(n_clusters=201), r"n_samples=200 should be >= n_clusters=201"),
        (
            dict(init=np.zeros((2, 3))),
            r"The shape of the initial centers \(2, 3\) does not match the number of clusters 3",
        ),
        (
            dict(init=lambda X, k, random_state: X[:2]),
            r"The shape of the initial centers \(2, 3\) does not match the number of clusters 3",
        ),
        (dict(init=np.zeros((3, 2))), r"\(3, 2\) does not match the number of features of the data 3"),
    ],
)
def test_wrong_starts_of_clusters_meet_the_same_words(Class, wrong, message):
    with pytest.raises(ValueError, match=message):
        Class(**{"n_clusters": 3, "n_init": 1, "random_state": 0, **wrong}).fit(blobs()[0])


@clusterings
def test_several_starts_from_one_place_are_warned_of(Class):
    X = blobs()[0]
    with pytest.warns(RuntimeWarning, match="Explicit initial center position passed: performing only one init"):
        Class(3, init=X[:3], n_init=10, random_state=0).fit(X)


@clusterings
def test_sparse_integer_and_fortran_rows_make_the_same_clusters(Class):
    X = (10 * blobs()[0]).round()
    expected = Class(3, init=X[:3], random_state=0).fit(X)
    for other in (sp.csr_array(X), X.astype(int), np.asfortranarray(X), X.astype(np.int32)):
        model = Class(3, init=X[:3], random_state=0).fit(other)
        np.testing.assert_array_equal(model.labels_, expected.labels_)
        np.testing.assert_allclose(model.cluster_centers_, expected.cluster_centers_)


@clusterings
def test_names_of_distances(Class):
    names = Class(3, random_state=0).fit(blobs()[0]).get_feature_names_out()
    assert list(names) == [f"{Class.__name__.lower()}{k}" for k in range(3)]


# deliberate differences
def test_negative_weights_of_clusters_are_refused():
    X = blobs()[0]
    weight = np.r_[-1.0, np.ones(len(X) - 1)]
    KMeans(2, init=X[:2], random_state=0).fit(X, sample_weight=weight)
    with pytest.raises(ValueError, match="[Nn]egative"):
        KMeansLite(2, init=X[:2], random_state=0).fit(X, sample_weight=weight)


@clusterings
def test_elkan_with_one_cluster_is_warned_of(Class):
    with pytest.warns(RuntimeWarning, match="algorithm='elkan' doesn't make sense for a single cluster"):
        Class(1, algorithm="elkan", random_state=0).fit(blobs()[0])


def test_rows_of_clusters_are_never_written_to():
    X = blobs()[0]
    X.setflags(write=False)
    with pytest.raises(ValueError, match="read-only"):
        KMeans(2, copy_x=False, random_state=0).fit(X)
    KMeansLite(2, copy_x=False, random_state=0).fit(X)


# ----------------------------------------------------------------------------------------------------- FactorAnalysis
def factors(seed=0, n=300, d=8, k=2):
    rng = np.random.default_rng(seed)
    noise = 0.5 + rng.random(d)
    return rng.normal(size=(n, k)) @ rng.normal(size=(k, d)) + noise * rng.normal(size=(n, d)) + rng.normal(size=d)


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_factors_are_the_same(seed, k):
    """Of an identified model both find the one maximum: ours no lower by default, both there with a small `tol`."""
    X = factors(seed)
    theirs, ours = (Class(k).fit(X) for Class in PAIRS[2])
    assert ours.score(X) * len(X) >= theirs.score(X) * len(X) - 0.01
    assert ours.loglike_[-1] >= theirs.loglike_[-1] - 0.02
    theirs, ours = (Class(k, tol=1e-9, max_iter=20_000).fit(X) for Class in PAIRS[2])
    assert ours.score(X) == pytest.approx(theirs.score(X), rel=1e-9)
    scale = np.abs(theirs.get_covariance()).max()
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-4 * scale)
    np.testing.assert_allclose(ours.get_precision(), theirs.get_precision(), atol=1e-4 * scale)
    np.testing.assert_allclose(ours.noise_variance_, theirs.noise_variance_, atol=1e-3)
    np.testing.assert_allclose(ours.mean_, theirs.mean_, rtol=1e-9)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=2e-3)
    expected, found = theirs.transform(X), ours.transform(X)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-2)  # up to the sign of each factor


@pytest.mark.parametrize("rotation", ["varimax", "quartimax"])
def test_rotated_factors_are_the_same(rotation):
    X = factors(5)
    theirs = FactorAnalysis(2, rotation=rotation, tol=1e-9, max_iter=20_000).fit(X)
    ours = FactorAnalysisEM(2, rotation=rotation, normalize=False, tol=1e-9, max_iter=20_000).fit(X)
    expected, found = (np.abs(model.components_) for model in (theirs, ours))
    order = [np.argsort(loadings[:, 0]) for loadings in (expected, found)]
    np.testing.assert_allclose(found[order[1]], expected[order[0]], atol=1e-2)


@analyses
def test_the_likelihood_is_traced(Class):
    X = factors(1)
    model = Class(2).fit(X)
    assert isinstance(model.loglike_, list) and model.n_iter_ == len(model.loglike_)
    assert np.diff(model.loglike_).min() > -1e-9 * abs(model.loglike_[-1])
    assert model.score_samples(X).mean() == pytest.approx(model.score(X))
    assert model.score_samples(X).sum() == pytest.approx(model.loglike_[-1], abs=1e-6)


@analyses
def test_no_convergence_of_factors_is_warned_of(Class):
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        assert Class(2, max_iter=1).fit(factors(2)).n_iter_ == 1


@analyses
@pytest.mark.parametrize("k", [0, 1, 3])
def test_precision_inverts_covariance(Class, k):
    model = Class(k).fit(factors(3))
    np.testing.assert_allclose(model.get_covariance() @ model.get_precision(), np.eye(8), atol=1e-10)
    assert model.components_.shape == (k, 8)
    assert model.transform(factors(3)).shape == (300, k)


@analyses
def test_rotation_keeps_the_covariance(Class):
    X = factors(4)
    models = [Class(2, rotation=rotation).fit(X) for rotation in (None, "varimax", "quartimax")]
    for model in models[1:]:
        np.testing.assert_allclose(model.get_covariance(), models[0].get_covariance(), atol=1e-8)
        assert not np.allclose(model.transform(X), models[0].transform(X))


@analyses
def test_the_covariance_of_the_rows_is_recovered(Class):
    X = factors(6, n=2000)
    S = np.cov(X.T, bias=True)
    np.testing.assert_allclose(Class(2).fit(X).get_covariance(), S, atol=0.05 * np.abs(S).max())


@analyses
def test_noise_to_start_from_must_fit(Class):
    with pytest.raises(ValueError, match="noise_variance_init"):
        Class(2, noise_variance_init=np.ones(3)).fit(factors(7))
    Class(2, noise_variance_init=np.ones(8)).fit(factors(7))


@analyses
@pytest.mark.parametrize("method", ["lapack", "randomized"])
def test_the_method_of_svd_changes_nothing(Class, method):
    X = factors(8)
    model = Class(2, svd_method=method, iterated_power=4, copy=False).fit(X.copy())
    assert model.score(X) == pytest.approx(Class(2).fit(X).score(X), rel=1e-6)


@analyses
def test_names_of_factors(Class):
    names = Class(2).fit(factors(9)).get_feature_names_out()
    assert list(names) == [f"{Class.__name__.lower()}{k}" for k in range(2)]


# deliberate differences
def test_factor_analysis_keeps_float32():
    X = factors(10).astype(np.float32)
    theirs, ours = (Class(2).fit(X) for Class in PAIRS[2])
    assert theirs.components_.dtype == np.float64 and ours.components_.dtype == np.float32
    assert ours.transform(X).dtype == np.float32


def test_factor_analysis_takes_missing_values():
    X = factors(11)
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        FactorAnalysis(2).fit(X)
    assert np.isfinite(FactorAnalysisEM(2).fit(X).score(X))


def test_more_factors_than_columns_are_as_many_as_columns():
    """Which theirs does without a word."""
    X = factors(12)
    assert FactorAnalysis(9).fit(X).components_.shape == (8, 8)
    with pytest.warns(UserWarning, match="n_components=9 asks for more factors than X has columns; 8 are fitted"):
        ours = FactorAnalysisEM(9).fit(X)
    assert ours.components_.shape == (8, 8)


def test_one_row_has_no_factors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not np.isfinite(FactorAnalysis(1, max_iter=3).fit(factors(13)[:1]).loglike_[-1])
    with pytest.raises(ValueError, match="minimum of 2"):
        FactorAnalysisEM(1).fit(factors(13)[:1])


def test_columns_of_a_rotation_count_alike_by_default():
    X = factors(14) * np.linspace(0.1, 3, 8)
    theirs, ours, alike = (
        np.abs(model.fit(X).components_)
        for model in (
            FactorAnalysis(2, rotation="varimax", tol=1e-9, max_iter=20_000),
            FactorAnalysisEM(2, rotation="varimax", tol=1e-9),
            FactorAnalysisEM(2, rotation="varimax", tol=1e-9, normalize=False),
        )
    )
    assert np.abs(ours[np.argsort(ours[:, 0])] - theirs[np.argsort(theirs[:, 0])]).max() > 0.02
    np.testing.assert_allclose(alike[np.argsort(alike[:, 0])], theirs[np.argsort(theirs[:, 0])], atol=1e-2)


@pytest.mark.parametrize(("theirs", "ours"), PAIRS[:2])  # of factors the maximum is one, whatever is drawn
def test_the_same_seed_draws_other_numbers(theirs, ours):
    """What is drawn differs, so what needs luck may end elsewhere; nothing else may."""
    X = np.random.default_rng(0).normal(size=(60, 4))
    how = (
        dict(init_params="random_from_data", max_iter=0) if theirs is GaussianMixture else dict(init="random", n_init=1)
    )
    first, second = (fitted(Class, X, 5, **how) for Class in (theirs, ours))
    name = "means_" if theirs is GaussianMixture else "cluster_centers_"
    assert not np.allclose(np.sort(getattr(first, name), axis=0), np.sort(getattr(second, name), axis=0))
