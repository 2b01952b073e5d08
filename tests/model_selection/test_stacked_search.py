"""The stacked search is GridSearchCV: every fit, score and failure of it."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from skvae import AutoencoderTransformer, FactorAnalysisEM, VAETransformer
from skvae.model_selection import StackedGridSearchCV
from skvae.training import stacking


def table(n=61, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    return np.tanh(z @ rng.normal(size=(2, 6))) * 3 + 0.5 * rng.normal(size=(n, 6)) + 2


def vae(**changes):
    small = {
        "hidden_layer_sizes": (5,),
        "early_stopping": False,
        "max_iter": 4,
        "batch_size": 21,
        "learning_rate": 0.01,
        "random_state": 0,
    }
    return VAETransformer(**(small | changes))


class Collected(list):
    """A scorer that keeps what it is shown."""

    def __call__(self, model, X, y=None, sample_weight=None):
        self.append(model)
        return float(model.lower_bounds_[-1] if hasattr(model, "lower_bounds_") else model.score(X))


@pytest.fixture
def ascents(monkeypatch):
    """The number of fits of each ascent."""
    sizes, run_stack = [], stacking.run_stack

    def counted(ascents):
        sizes.append(len(ascents))
        return run_stack(ascents)

    monkeypatch.setattr(stacking, "run_stack", counted)
    return sizes


def both(estimator, grid, X=None, cv=3, params=None, **settings):
    """GridSearchCV and the stacked search of the same, and all estimators that they fitted."""
    X = table() if X is None else X
    searches, fits = [], []
    for kind in (GridSearchCV, StackedGridSearchCV):
        collected = Collected()
        searches.append(kind(estimator, grid, cv=cv, scoring=collected, **settings).fit(X, **(params or {})))
        fits.append(list(collected))
    return searches, fits


def assert_same_fits(plain, stacked):
    assert len(plain) == len(stacked) > 0
    for one, other in zip(plain, stacked, strict=True):
        assert one.get_params() == other.get_params()
        assert "fit" not in vars(other) and set(vars(one)) == set(vars(other))
        for name in ("lower_bounds_", "loss_curve_", "validation_scores_", "kl_per_dimension_", "noise_variance_"):
            assert_allclose(getattr(other, name, 0), getattr(one, name, 0), rtol=2e-4, atol=2e-5)
        assert other.n_iter_ == one.n_iter_
        assert getattr(other, "nonlinear_", True) == getattr(one, "nonlinear_", True)
        assert set(one.parameters_) == set(other.parameters_)
        for name, array in one.parameters_.items():
            assert_allclose(other.parameters_[name], array, rtol=1e-3, atol=1e-4, err_msg=name)


# -------------------------------------------------------------------------------------------------- every fit is itself
@pytest.mark.parametrize(
    ("grid", "stacks"),
    [
        ({"beta": [0.5, 1.0, 2.0]}, [9]),
        ({"n_components": [1, 3, 2]}, [9]),
        ({"learning_rate": [1e-3, 0.03], "weight_decay": [0.0, 0.1]}, [12]),
        ({"random_state": [0, 1]}, [6]),
        ({"annealing": [None, "linear"], "hidden_layer_sizes": [(5,), (4,)]}, [6, 6]),
        ([{"beta": [0.5]}, {"n_components": [3], "max_iter": [4, 5]}], [6, 3]),
    ],
)
def test_members_are_the_fits_that_they_stand_for(grid, stacks, ascents):
    (plain, stacked), fits = both(vae(), grid, refit=False)
    assert ascents == stacks  # unequal folds: 61 rows in three
    assert_same_fits(*fits)
    assert_allclose(stacked.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], atol=1e-4)


def test_members_with_weights_and_missing_cells():
    X = table()
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    weight = np.random.default_rng(2).integers(1, 4, size=len(X)).astype(float)
    _, fits = both(vae(), {"beta": [0.5, 2.0], "n_components": [1, 2]}, X, params={"sample_weight": weight})
    assert_same_fits(*fits)


@pytest.mark.parametrize("likelihood", ["poisson", "bernoulli"])
def test_members_of_other_likelihoods(likelihood, ascents):
    X = np.round(np.abs(table())) if likelihood == "poisson" else (table() > 2).astype(float)
    estimator = vae(likelihood=likelihood, n_draws=2, free_bits=0.1)
    _, fits = both(estimator, {"n_components": [1, 3]}, X, refit=False)
    assert ascents == [6]
    assert_same_fits(*fits)


@pytest.mark.parametrize("missing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_members_that_vote_on_when_to_stop(missing, ascents):
    X = table(122)
    if missing:
        X[::5, 2] = np.nan
    estimator = vae(early_stopping=True, max_iter=30, n_iter_no_change=2, tol=0.0)
    grid = [{"n_components": [1], "learning_rate": [0.003]}, {"n_components": [2], "learning_rate": [0.02]}]
    _, fits = both(estimator, grid, X, cv=2, refit=False)
    assert ascents == [4]
    assert len({fit.n_iter_ for fit in fits[0]}) > 1  # they stop at steps of their own
    assert_same_fits(*fits)


def test_members_whose_starts_have_rates_of_their_own(ascents):
    """Of so few rows, one start learns at 1e-3 and the other at 1e-2."""
    estimator = vae(early_stopping=True, learning_rate="auto", max_iter=30)
    _, fits = both(estimator, {"n_components": [1, 2]}, table(122), cv=2, refit=False)
    assert ascents == [4]
    assert_same_fits(*fits)


def test_networks_on_binary_columns_vote_too(ascents):
    X = (table(90) > 2).astype(float)
    estimator = vae(likelihood="bernoulli", early_stopping=True, max_iter=40, n_iter_no_change=1)
    _, fits = both(estimator, {"beta": [0.5, 4.0]}, X, refit=False)
    assert ascents == [6]
    assert_same_fits(*fits)


@pytest.mark.parametrize(
    ("changes", "stacks"),
    [
        ({}, [6]),
        ({"denoising": "masking"}, [6]),
        ({"sparsity": (0.1, 1.0)}, [3, 3]),  # further dimensions of a logistic code would not be idle
        ({"early_stopping": True, "max_iter": 30, "n_iter_no_change": 2}, [6]),
    ],
    ids=str,
)
def test_members_that_are_autoencoders(changes, stacks, ascents):
    small = vae().get_params()
    names = ("hidden_layer_sizes", "early_stopping", "max_iter", "batch_size", "learning_rate", "random_state")
    estimator = AutoencoderTransformer(**({name: small[name] for name in names} | changes))
    _, fits = both(estimator, {"n_components": [1, 2]}, table(), refit=False)
    assert ascents == stacks
    assert_same_fits(*fits)


def test_stacks_are_split_where_they_would_be_too_large(ascents, monkeypatch):
    monkeypatch.setattr(stacking, "_STACK_CELLS", 2 * 21 * 6)
    _, fits = both(vae(), {"beta": [0.5, 1.0, 2.0]}, refit=False)
    assert ascents == [2, 1] * 3  # a fold's fits are neighbours
    assert_same_fits(*fits)


def test_few_fits_wait_at_a_time(ascents, monkeypatch):
    monkeypatch.setattr("skvae.model_selection._ahead._CELLS_AT_ONCE", 6 * 41 * 3)
    _, fits = both(vae(), {"beta": [0.5, 1.0, 2.0]}, refit=False)
    assert len(ascents) > 1 and sum(ascents) == 9
    assert_same_fits(*fits)


# ------------------------------------------------------------------------------------------------- the face of a search
def test_the_search_finds_what_grid_search_finds():
    grid = {"n_components": [1, 2], "beta": [0.5, 1.0]}
    X, settings = table(), {"cv": KFold(3, shuffle=True, random_state=1), "return_train_score": True}
    plain = GridSearchCV(vae(max_iter=20), grid, **settings).fit(X)
    stacked = StackedGridSearchCV(vae(max_iter=20), grid, **settings).fit(X)
    assert list(stacked.cv_results_) == list(plain.cv_results_)
    for name in ("mean_test_score", "split2_test_score", "mean_train_score", "std_test_score"):
        assert_allclose(stacked.cv_results_[name], plain.cv_results_[name], atol=1e-4)
    assert stacked.cv_results_["params"] == plain.cv_results_["params"]
    assert (stacked.cv_results_["mean_fit_time"] > 0).all()
    assert stacked.best_params_ == plain.best_params_ and stacked.best_index_ == plain.best_index_
    assert stacked.best_score_ == pytest.approx(plain.best_score_, abs=1e-4)
    assert set(vars(stacked)) == set(vars(plain))
    assert stacked.n_splits_ == 3 and stacked.refit_time_ > 0 and not stacked.multimetric_
    assert np.array_equal(stacked.transform(X), plain.transform(X))  # the refit is an ordinary one
    assert stacked.score(X) == plain.score(X)


def test_several_scores_and_a_refit_of_ones_own_choice():
    def scores(model, X, y=None):
        return {"bound": model.elbo(X).mean(), "width": model.n_components}

    search = StackedGridSearchCV(
        vae(), {"n_components": [1, 3]}, cv=2, scoring=scores, refit=lambda found: found["mean_test_width"].argmin()
    )
    assert search.fit(table()).best_params_ == {"n_components": 1}
    assert search.multimetric_ and not hasattr(search, "best_score_")


def test_folds_that_differ_at_every_call_are_drawn_once():
    cv = KFold(3, shuffle=True, random_state=np.random.RandomState(0))
    collected = Collected()
    search = StackedGridSearchCV(vae(), {"beta": [0.5, 1.0]}, cv=cv, scoring=collected, refit=False).fit(table())
    train, _ = next(KFold(3, shuffle=True, random_state=np.random.RandomState(0)).split(table()))
    assert_same_fits([vae(beta=0.5).fit(table()[train])], collected[:1])
    assert search.n_splits_ == 3


def test_the_estimator_stays_as_it_was():
    estimator = vae()
    search = StackedGridSearchCV(estimator, {"beta": [0.5, 1.0]}, cv=2)
    before = search.get_params()
    search.fit(table())
    assert search.estimator is estimator and vars(estimator) == vars(vae())
    assert search.get_params() == before and clone(search).get_params().keys() == before.keys()
    again = pickle.loads(pickle.dumps(search))
    assert np.array_equal(again.transform(table()), search.transform(table()))
    with pytest.raises(ValueError, match="finite"):
        StackedGridSearchCV(estimator, {"beta": [1.0]}, cv=2, error_score="raise").fit(np.full((9, 2), np.inf))


# -------------------------------------------------------------------------------------------------------- the last step
def test_a_pipeline_is_stacked_by_its_last_step(ascents):
    pipe = make_pipeline(StandardScaler(), PCA(4), vae())
    grid = {"pca__n_components": [3, 4], "vaetransformer__beta": [0.5, 1.0]}
    weight = np.linspace(0.5, 1.5, 61)
    _, fits = both(pipe, grid, params={"vaetransformer__sample_weight": weight}, refit=False)
    assert ascents == [6, 6]
    assert_same_fits(*([pipe[-1] for pipe in kind] for kind in fits))
    assert all(hasattr(pipe[0], "mean_") for pipe in fits[1])


# ----------------------------------------------------------------------------------------------- what cannot be stacked
def make_decoder(n_in, n_out):
    import torch

    return torch.nn.Linear(n_in, n_out)


@pytest.mark.parametrize(
    "changes",
    [{"decoder": make_decoder}, {"inference": "svi", "early_stopping": "auto"}],
    ids=["a module of one's own", "posteriors of the rows' own"],
)
def test_what_cannot_be_stacked_climbs_alone(changes, ascents):
    _, fits = both(vae(**changes), {"n_components": [1, 2]}, cv=2, refit=False)
    assert ascents == [1] * 4
    assert_same_fits(*fits)


def test_factor_analysis_needs_no_ascent(ascents):
    (plain, stacked), _ = both(vae(hidden_layer_sizes=(), early_stopping=True), {"n_components": [1, 2]}, refit=False)
    assert ascents == []
    assert_allclose(stacked.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


@pytest.mark.parametrize("estimator", [FactorAnalysisEM(), make_pipeline(StandardScaler(), FactorAnalysisEM())])
def test_other_estimators_are_searched_as_ever(estimator, ascents):
    name = "n_components" if isinstance(estimator, FactorAnalysisEM) else "factoranalysisem__n_components"
    (plain, stacked), _ = both(estimator, {name: [1, 2]})
    assert ascents == []
    assert np.array_equal(stacked.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


def test_a_search_for_the_estimator_itself(ascents):
    pipe = make_pipeline(StandardScaler(), vae())
    grid = {"vaetransformer": [vae(), PCA(2), vae(n_components=1)]}
    (plain, stacked), _ = both(pipe, grid, cv=2, refit=False)
    assert ascents == [4]
    assert_allclose(stacked.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"], atol=1e-4)


def test_candidates_that_share_a_network_have_fits_of_their_own(ascents):
    """The same rows and the same object in the step: only the parameters tell the fits apart."""
    pipe = make_pipeline(StandardScaler(), PCA(2))
    grid = {"pca": [vae()], "pca__beta": [0.5, 5.0]}
    (plain, stacked), fits = both(pipe, grid, cv=2, refit=False)
    assert ascents == [4]
    assert_same_fits(*([pipe[-1] for pipe in kind] for kind in fits))


def test_seeds_drawn_afresh_are_stacked_too(ascents):
    collected = Collected()
    StackedGridSearchCV(vae(random_state=None), {"beta": [1.0, 1.0]}, cv=2, scoring=collected, refit=False).fit(table())
    assert ascents == [4]
    assert not np.allclose(collected[0].parameters_["encoder.1.weight"], collected[2].parameters_["encoder.1.weight"])


# ------------------------------------------------------------------------------------------------------------- failures
def test_steps_that_are_not_finite_are_the_fault_of_one(ascents):
    grid = {"learning_rate": [0.01, 1e30, 0.02, 0.03]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {}
        for kind in (GridSearchCV, StackedGridSearchCV):
            found[kind] = kind(vae(), grid, cv=2, scoring=Collected(), refit=False).fit(table()).cv_results_
    assert ascents[0] == 8 and min(ascents) == 1
    scores = [found[kind]["mean_test_score"] for kind in found]
    assert np.isnan(scores[1]).tolist() == [False, True, False, False]
    assert_allclose(scores[1], scores[0], atol=1e-4)


def test_a_candidate_that_fails_has_the_score_of_an_error():
    grid = {"n_components": [1, -1, 2]}
    search = StackedGridSearchCV(vae(), grid, cv=2, refit=False)
    with pytest.warns(FitFailedWarning, match="\n2 fits failed out of a total of 6"), pytest.warns(match="non-finite"):
        search.fit(table())
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="n_components"):
        StackedGridSearchCV(vae(), grid, cv=2, error_score="raise").fit(table())


def refuses(fraction):
    raise KeyError("a schedule of the user's that fails")


@pytest.mark.parametrize("annealing", [lambda fraction: -1.0, refuses])
def test_a_candidate_that_fails_in_training_has_the_score_of_an_error(annealing):
    grid = {"annealing": [None, annealing, "linear"]}
    search = StackedGridSearchCV(vae(), grid, cv=2, refit=False)
    with pytest.warns(FitFailedWarning, match="\n2 fits failed out of a total of 6"), pytest.warns(match="non-finite"):
        search.fit(table())
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False]


def checks():
    """scikit-learn's, but for those of transformers, which ask for the fit_transform that no search has."""
    small = StackedGridSearchCV(vae(max_iter=2), {"beta": [0.5, 1.0]}, cv=2, error_score="raise")
    for estimator, check in estimator_checks_generator(small):
        if "transformer" not in inspect.unwrap(getattr(check, "func", check)).__name__:
            yield estimator, check


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_scikit_learn_s_checks(estimator, check):
    state = np.random.get_state()  # noqa: NPY002 (one check draws from it: to put it back)
    try:
        check(estimator)
    finally:
        np.random.set_state(state)  # noqa: NPY002
