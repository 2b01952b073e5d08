"""Laws of every mixture, whatever its components are; the Poisson mixture is the example of the developer guide."""

import inspect
import re
import warnings

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from test_docs import DOC, blocks_of, run_block

from skvae import BernoulliMixtureEM, GaussianMixtureEM, VariationalGaussianMixture
from skvae._tensors import Noise, Table
from skvae.engines import em
from skvae.estimators.mixtures._contract import MixtureContract, MixtureModel
from skvae.estimators.mixtures._mixture import BaseMixture
from skvae.estimators.mixtures._starts import initial_centres, initial_responsibilities
from skvae.models.clustering import kmeans_compiled

N, D = 120, 3


def poisson_mixture():
    """The class that the page on EM models builds; the page's own check of it is run with the other pages."""
    namespace = {"__name__": "add_an_em_model"}
    for block in blocks_of((DOC / "developer" / "add_an_em_model.rst").read_text()):
        if block.language == "python" and "rng =" not in block.code:
            run_block(block, "add_an_em_model.rst", namespace)
    return namespace["PoissonMixtureEM"]


def normals(rng, z):
    return rng.normal(4.0 * z[:, None], 1.0 + z[:, None], (len(z), D))


def bits(rng, z):
    return (rng.random((len(z), D)) < np.array([[0.2, 0.7, 0.4], [0.9, 0.1, 0.5]])[z]).astype(float)


def levels(rng, z):
    return (rng.random((len(z), D, 1)) > np.array([[0.2, 0.5], [0.7, 0.9]])[z][:, None]).sum(2).astype(float)


def counts(rng, z):
    return rng.poisson(np.array([[1.0, 5.0, 2.0], [6.0, 2.0, 3.0]])[z]).astype(float)


# kind -> the estimator, draws of rows given their components, values to sum a column over with the weight of each
KINDS = {
    kind: (GaussianMixtureEM(2, covariance_type=kind, reg_covar=0.0), normals, (np.linspace(-80, 80, 8001), 0.02))
    for kind in ("full", "tied", "diag", "spherical")
} | {
    "variational": (
        VariationalGaussianMixture(2, reg_covar=0.0, degrees_of_freedom_prior=40.0),
        normals,
        (np.linspace(-200, 200, 20001), 0.02),
    ),
    "binary": (BernoulliMixtureEM(2, n_init=1), bits, (np.arange(2.0), 1.0)),
    "categorical": (BernoulliMixtureEM(2, categorical_features="all", n_init=1), levels, (np.arange(3.0), 1.0)),
    "poisson": (poisson_mixture()(2), counts, (np.arange(200.0), 1.0)),
}


class Kind:
    """One kind of mixture: estimators with changed parameters, and tables that suit it."""

    def __init__(self, name):
        self.variational = name == "variational"
        self.estimator, self.rows, (self.values, self.spacing) = KINDS[name]

    def __call__(self, **params):
        return clone(self.estimator).set_params(**{"random_state": 0} | params)

    def draw(self, n=N, missing=0.0, seed=0):
        rng = np.random.default_rng(seed)
        X = self.rows(rng, (rng.random(n) < 0.6).astype(int))
        X[rng.random(X.shape) < missing] = np.nan
        return X

    def fit(self, *args, **params):
        """Quietly, whether it converges or not."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return self(**params).fit(*args)


@pytest.fixture(params=KINDS)
def kind(request):
    return Kind(request.param)


def arrays_of(mixture):
    """Fitted arrays of numbers, by name."""
    found = {name: value for name, value in vars(mixture).items() if isinstance(value, np.ndarray)}
    return {name: value for name, value in found.items() if name.endswith("_") and value.dtype.kind == "f"}


def assert_same(some, others, **tolerance):
    some, others = arrays_of(some), arrays_of(others)
    assert some.keys() == others.keys() >= {"weights_"}
    for name, value in some.items():
        np.testing.assert_allclose(others[name], value, err_msg=name, **tolerance)


# ------------------------------------------------------------------------------------------------------------- fitting
@pytest.mark.parametrize("init_params", ["kmeans", "k-means++", "random", "random_from_data"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_bound_never_falls(kind, init_params, missing):
    X, weight = kind.draw(missing=missing), np.random.default_rng(1).random(N)
    mixture = kind.fit(X, None, weight, init_params=init_params, tol=0, max_iter=40)
    bounds = mixture.lower_bounds_
    assert len(bounds) == 40 and bounds[-1] > bounds[0]
    assert np.diff(bounds).min() >= -1e-12 * abs(bounds[-1])
    assert mixture.n_samples_seen_ == pytest.approx(weight.sum())


def test_a_fit_converges_to_what_raised_the_bound(kind):
    X = kind.draw()
    mixture = kind(tol=1e-6, max_iter=5000, acceleration=None).fit(X)
    assert mixture.converged_
    if not kind.variational:  # whose lower_bound_ has scikit-learn's meaning
        assert mixture.lower_bound_ == mixture.lower_bounds_[-1]
    one = kind.fit(X, max_iter=1)
    assert mixture.score(X) > one.score(X)


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_integer_weights_are_repeated_rows_and_the_order_of_rows_does_not_matter(kind, missing):
    X, count = kind.draw(missing=missing), np.random.default_rng(1).integers(0, 4, N)
    weighted = kind.fit(X, None, count, max_iter=9)
    repeated = np.repeat(X, count, axis=0)
    order = np.random.default_rng(2).permutation(len(repeated))
    other = kind.fit(repeated[order], max_iter=9)
    assert_same(weighted, other, rtol=0)
    assert weighted.lower_bounds_ == other.lower_bounds_
    assert weighted.bic(X, sample_weight=count) == pytest.approx(other.bic(repeated))


@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_batches_change_nothing_beyond_rounding(kind, init_params):
    X = kind.draw(missing=0.1)
    one, many = (kind.fit(X, init_params=init_params, max_iter=9, batch_size=size) for size in (1000, 7))
    assert_same(one, many, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(one.score_samples(X), many.score_samples(X), rtol=1e-8, atol=1e-10)


def test_the_best_restart_is_kept(kind):
    X = kind.draw()
    options = dict(n_components=3, init_params="random", max_iter=4)
    assert kind.fit(X, n_init=5, **options).lower_bound_ >= kind.fit(X, n_init=1, **options).lower_bound_


def test_a_warm_start_continues_the_ascent(kind):
    X = kind.draw(missing=0.1)
    options = dict(tol=0, acceleration=None)
    whole = kind.fit(X, max_iter=8, **options)
    mixture = kind.fit(X, max_iter=3, **options)
    before = mixture.lower_bounds_
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.set_params(warm_start=True, max_iter=5).fit(X)
    np.testing.assert_allclose(before + mixture.lower_bounds_, whole.lower_bounds_, rtol=1e-10)
    assert_same(mixture, whole, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="n_components"):
        mixture.set_params(n_components=3).fit(X)


def test_partial_fit_begins_as_fit_does_and_stays_where_the_same_rows_led(kind):
    X, options = kind.draw(), dict(tol=1e-12, max_iter=5000)
    if kind.variational:
        options |= dict(total_samples=N, learning_decay=0.0)
    if "alpha" in kind().get_params():  # a prior weighs half as much beside twice the rows
        options["alpha"] = 1e-9
    mixture, fitted = kind(**options).partial_fit(X), kind(**options).fit(X)
    assert_same(mixture, fitted, rtol=0)
    mixture.partial_fit(X)
    assert_same(mixture, fitted, rtol=1e-3, atol=1e-4)
    assert mixture.n_samples_seen_ == 2 * N
    assert mixture.n_iter_ == fitted.n_iter_ + 1 == len(mixture.lower_bounds_)


def test_partial_fit_moves_towards_new_rows_by_the_published_share(kind):
    """The M-step of (1 - share) old + share new statistics; proportions are linear in them, without a prior."""
    if kind.variational:
        kind.estimator = clone(kind.estimator).set_params(weight_concentration_prior_type="dirichlet_distribution")
        kind.estimator.set_params(weight_concentration_prior=1e-12)
    X, new = kind.draw(), kind.draw(60, seed=1)
    mixture = kind.fit(X)
    old, posterior = mixture.weights_, mixture.predict_proba(new).mean(0)
    share = 11.0**-0.7 if kind.variational else (60 / (N + 60)) ** 0.6
    mixture.partial_fit(new)
    np.testing.assert_allclose(mixture.weights_, (1 - share) * old + share * posterior, rtol=1e-9)


def test_statistics_of_parameters_lead_back_to_them(kind):
    X = kind.draw()
    mixture = kind.fit(X)
    model = mixture._fitted_model()
    table = mixture._table(mixture._checked(X), torch.device("cpu"), to_fit=False)
    params = mixture._fitted_params(model, table)
    again = mixture._attributes(
        model.m_step(model.stats_from_params(params, float(N)), params), table, mixture._learnt()
    )
    for name, value in arrays_of(mixture).items():
        np.testing.assert_allclose(again[name], value, rtol=1e-9, atol=1e-12)


def test_statistics_of_a_union_are_the_sums(kind):
    X = kind.draw(missing=0.2)
    mixture = kind.fit(X, max_iter=3)
    model = mixture._fitted_model()
    table = mixture._table(mixture._checked(X), torch.device("cpu"), to_fit=False)
    params = mixture._fitted_params(model, table)
    whole, parts = (em.collect(model, table.batches(size), params)[0] for size in (N, 7))
    for some, others in zip(whole, parts, strict=True):
        torch.testing.assert_close(some, others, rtol=1e-10, atol=1e-10)


def test_acceleration_raises_the_bound_as_well_or_says_what_the_model_lacks(kind):
    X = kind.draw()
    plain = kind.fit(X, max_iter=60, tol=0, acceleration=None)
    if hasattr(plain._fitted_model(), "to_free"):
        fast = kind.fit(X, max_iter=60, tol=0, acceleration="squarem")
        assert np.diff(fast.lower_bounds_).min() >= -1e-12 * abs(fast.lower_bound_)
        assert fast.lower_bound_ >= plain.lower_bound_ - 1e-6
    else:
        with pytest.raises(TypeError, match=r"PoissonMixture lacks to_free\(params\) and from_free\(vector, params\)"):
            kind(acceleration="squarem").fit(X)
        assert_same(kind.fit(X, max_iter=60, tol=1e-9), kind.fit(X, max_iter=60, tol=1e-9, acceleration=None), rtol=0)


def test_a_failed_fit_changes_nothing(kind):
    mixture = kind.fit(kind.draw())
    before = vars(mixture).copy()
    with pytest.raises(ValueError, match="column"):
        mixture.fit(np.column_stack([kind.draw(), np.full(N, np.nan)]))
    with pytest.raises(ValueError, match="features"):
        mixture.partial_fit(kind.draw()[:, :2])
    assert vars(mixture) == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_attributes_and_answers_have_the_dtype_of_the_rows(kind, dtype):
    X = kind.draw(missing=0.1).astype(dtype)
    mixture = kind.fit(X, max_iter=5)
    assert {value.dtype for value in arrays_of(mixture).values()} == {np.dtype(dtype)}
    answers = mixture.predict_proba(X), mixture.score_samples(X), mixture.sample(3, random_state=0)[0]
    assert {answer.dtype for answer in answers} == {np.dtype(dtype)}
    wide = kind.fit(X.astype(np.float64), max_iter=5)
    assert_same(mixture, wide, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------------------------- using it
@pytest.fixture
def fitted(kind):
    kind.mixture = kind.fit(kind.draw(missing=0.1), tol=1e-6, max_iter=500)
    return kind


def test_the_density_sums_to_one_over_a_missing_cell(fitted):
    row = fitted.draw(1, seed=3)
    for column in range(D):
        rows = np.repeat(row, len(fitted.values), axis=0)
        rows[:, column] = fitted.values
        gone = row.copy()
        gone[0, column] = np.nan
        total = logsumexp(fitted.mixture.score_samples(rows)) + np.log(fitted.spacing)
        assert fitted.mixture.score_samples(gone)[0] == pytest.approx(total, rel=1e-6)
    nothing = np.full((1, D), np.nan)
    assert fitted.mixture.score_samples(nothing)[0] == pytest.approx(0.0, abs=1e-12)
    if not fitted.variational:  # whose E-step has other weights, as scikit-learn's
        np.testing.assert_allclose(fitted.mixture.predict_proba(nothing)[0], fitted.mixture.weights_, rtol=1e-9)


def test_labels_are_the_most_probable_components(fitted):
    X = fitted.draw(missing=0.2, seed=3)
    posterior = fitted.mixture.predict_proba(X)
    np.testing.assert_allclose(posterior.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(fitted.mixture.predict(X), posterior.argmax(1))
    first = fitted.mixture.predict_proba(X[:1])
    np.testing.assert_allclose(first, posterior[:1], rtol=1e-9)


def test_the_bound_is_the_mean_score_where_there_is_no_prior(kind):
    X = kind.draw(missing=0.1)
    mixture = kind.fit(X, tol=0, max_iter=4, acceleration=None)
    following = kind.fit(X, tol=0, max_iter=5, acceleration=None).lower_bound_
    if kind.variational:
        assert following < mixture.score(X)
        return
    prior = 0.0
    if isinstance(mixture, BernoulliMixtureEM):  # the probabilities of all levels; a binary column reports one of two
        p = mixture.means_ if mixture.categories_ else np.stack([mixture.means_, 1 - mixture.means_])
        prior = mixture.alpha * np.log(p).sum() / N
    assert following == pytest.approx(mixture.score(X) + prior, rel=1e-9)


def test_criteria_count_the_free_parameters(fitted):
    X = fitted.draw()
    p = fitted.mixture._n_parameters()
    assert fitted.mixture.aic(X) == pytest.approx(-2 * N * fitted.mixture.score(X) + 2 * p)
    assert fitted.mixture.bic(X) - fitted.mixture.aic(X) == pytest.approx(p * (np.log(N) - 2))


def test_draws_belong_to_their_components_and_repeat_for_a_seed(fitted):
    X, labels = fitted.mixture.sample(4000, random_state=0)
    assert X.shape == (4000, D) and (np.diff(labels) >= 0).all()
    np.testing.assert_array_equal(X, fitted.mixture.sample(4000, random_state=0)[0])
    assert (X != fitted.mixture.sample(4000, random_state=1)[0]).any()
    share = np.bincount(labels, minlength=2) / 4000
    np.testing.assert_allclose(share, fitted.mixture.weights_, atol=0.04)
    for k in range(2):  # E[p(k | x)] over draws of component j, weighed by p(j), is p(k)
        posterior = fitted.mixture.predict_proba(X)[:, k]
        assert posterior.mean() == pytest.approx(fitted.mixture.weights_[k], abs=0.04)
    # The mean log-density ratio of the two components is positive on draws of the first, negative on the second's.
    log_odds = np.diff(np.log(fitted.mixture.predict_proba(X) / fitted.mixture.weights_), axis=1)[:, 0]
    assert log_odds[labels == 0].mean() < 0 < log_odds[labels == 1].mean()


# ---------------------------------------------------------------------------------------------------------- contracts
def test_the_model_has_what_the_contract_declares(kind):
    estimator = kind()
    assert isinstance(estimator, BaseMixture)
    model = kind.fit(kind.draw())._fitted_model()
    declared = [name for name in vars(MixtureModel) | vars(em.EMModel) if name[0] != "_"]
    assert len(declared) == 6
    assert all(callable(getattr(model, name)) for name in declared)


def test_a_subclass_is_told_what_it_lacks():
    class Nothing(BaseMixture):
        """Gives one of five methods."""

        def _model(self, n_components, learnt):
            return object()

    missing = sorted(MixtureContract.__abstractmethods__ - {"_model"})
    assert missing == ["_attributes", "_draw", "_fitted_params", "_n_parameters"]
    with pytest.raises(TypeError, match=r"abstract class Nothing .*" + ".*".join(missing)):
        Nothing()


def test_a_model_is_told_what_it_lacks(kind, monkeypatch):
    estimator = kind()
    model = type(estimator._model(2, estimator._learn(kind.draw())))
    for name in ("e_step", "log_joint", "stats_from_params"):
        with monkeypatch.context() as patch:
            patch.setattr(model, name, None)
            with pytest.raises(TypeError, match=rf"{type(estimator).__name__}._model.*{model.__name__} lacks {name}\("):
                estimator.fit(kind.draw())
    assert not hasattr(estimator, "weights_")


def test_no_hook_is_called_that_is_not_declared():
    """What the base class calls on itself and on its model stands in the contracts, with a sentence."""
    source = inspect.getsource(BaseMixture) + inspect.getsource(MixtureContract)
    for name in set(re.findall(r"self\.(_[a-z]\w*)\(", source)):
        assert name in dir(BaseMixture), name
    for name in set(re.findall(r"\bmodel\.([a-z]\w*)", source)):
        assert name in dir(MixtureModel) or name in inspect.get_annotations(MixtureModel), name
    hooks = [value for name, value in vars(MixtureContract).items() if inspect.isfunction(value)]
    assert all(hook.__doc__.strip().endswith(".") for hook in hooks)


# ------------------------------------------------------------------------------------------------- initial parameters
@pytest.mark.parametrize("weight", [None, [0.5, 1.0, 3.0, 2.0]])
def test_initial_centres_do_not_depend_on_compiled_steps(weight, monkeypatch):
    X = np.random.default_rng(0).normal(size=(40, 3))
    table = Table(X, torch.device("cpu"), weight=None if weight is None else np.tile(weight, 10))
    compiled = initial_centres("kmeans", table, X.__getitem__, 4, Noise(0))
    monkeypatch.setattr(kmeans_compiled, "lloyd_kernels", lambda: None)
    np.testing.assert_allclose(initial_centres("kmeans", table, X.__getitem__, 4, Noise(0)), compiled, rtol=1e-12)
    seeds = initial_centres("k-means++", table, X.__getitem__, 4, Noise(0))
    assert not torch.equal(compiled, seeds)


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_the_nearest_centre_takes_all_by_the_observed_cells(missing):
    X = Kind("poisson").draw(missing=missing)
    table, noise = Table(X, torch.device("cpu")), Noise(0)
    filled = np.where(np.isnan(X), np.nanmean(X, axis=0), X)
    options = ("k-means++", table, filled.__getitem__, 3, noise)
    centres, R = initial_centres(*options).numpy(), initial_responsibilities(*options)
    centres = centres[np.lexsort(centres.T[::-1])]
    nearest = np.nansum((X[:, None] - centres) ** 2, axis=2).argmin(1)
    for batch in table.batches(50):
        found = R(batch)
        np.testing.assert_array_equal(found.argmax(0), nearest[batch.row.numpy()])
        np.testing.assert_array_equal(found.sum(0), 1.0)
        assert set(found.unique().tolist()) == {0.0, 1.0}
