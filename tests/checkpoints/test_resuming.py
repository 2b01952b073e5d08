"""A fit that is interrupted and goes on from its file is the whole fit, bit by bit."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    Checkpoint,
    ELSARecommender,
    FactorAnalysisEM,
    GANGenerator,
    GaussianMixtureEM,
    KMeansLite,
    MultDAERecommender,
    MultVAERecommender,
    ProbabilisticPCA,
    RecVAERecommender,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
)
from skvae.datasets import make_interactions
from skvae.engines import checkpoints, em
from skvae.engines.watching import Watcher
from skvae.estimators.checkpoints import _file
from skvae.model_selection import StackedGridSearchCV, select_beta

SOAK = Path(__file__).with_name("soak.py")
CLICKS = make_interactions(80, 20, random_state=0)
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def table(missing=0.0):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(mean, 1.0, (40, 4)) for mean in (0.0, 2.0, 4.0)]) @ rng.normal(size=(4, 4))
    return np.where(rng.random(X.shape) < missing, np.nan, X)


@pytest.fixture(autouse=True)
def _disk_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)


class Death(BaseException):
    """Ends a fit as a killed process would: without any more code of the fit's."""


def dies_after(monkeypatch, n):
    """Let fits die after they have written so many states."""
    write, left = _file.write, [n]

    def last(*arguments):
        write(*arguments)
        left[0] -= 1
        if left[0] == 0:
            raise Death

    monkeypatch.setattr(_file, "write", last)


def with_deaths(estimator, X, path, every, monkeypatch, **fit):
    """Fit clones that die after so many states, one after the other, until one ends; it, and how many died."""
    for n_died in range(1000):
        model = clone(estimator).set_params(checkpoint=Checkpoint(path, interval=0))
        with monkeypatch.context() as patch:
            dies_after(patch, every)
            try:
                return model.fit(X, **fit), n_died
            except Death:
                assert path.exists()
    raise AssertionError("no fit came to its end")


def state_of(estimator):
    """What a fit has set, as bytes."""
    parameters = {*estimator.get_params(), "_is_clone"}
    return {name: pickle.dumps(value) for name, value in vars(estimator).items() if name not in parameters}


def assert_same(one, other):
    one, other = state_of(one), state_of(other)
    assert [name for name in one if one[name] != other.get(name)] == [] and one.keys() == other.keys()


# ------------------------------------------------------------------------------------------------------ bit by bit
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 6, "random_state": 0}
CASES = {
    "K-means": (KMeansLite(6, n_init=2, init="k-means++", random_state=0), table(), 7),
    "mixture": (GaussianMixtureEM(3, n_init=2, tol=1e-4, random_state=0), table(), 9),
    "mixture, gaps, squarem": (GaussianMixtureEM(2, acceleration="squarem", random_state=0), table(0.1), 4),
    "variational mixture": (VariationalGaussianMixture(3, random_state=0), table(), 11),
    "binary mixture": (BernoulliMixtureEM(2, binarize=1.0, tol=1e-2, random_state=0), table(), 4),
    "factor analysis": (FactorAnalysisEM(1), table(), 5),
    "factor analysis, gaps": (FactorAnalysisEM(1), table(0.1), 6),
    "PCA, gaps": (ProbabilisticPCA(1), table(0.1), 2),
    "variational factor analysis": (VariationalFactorAnalysis(), table(), 23),
    "VAE": (VAETransformer(1, **SMALL), table(), 17),
    "VAE, rows' own posteriors": (VAETransformer(1, inference="svi", **SMALL), table(), 2),
    "autoencoder": (AutoencoderTransformer(1, early_stopping=True, **SMALL), table(), 2),
    "GAN": (GANGenerator(early_stopping=True, **SMALL), table(), 2),
    "Mult-VAE": (MultVAERecommender(3, max_iter=5, early_stopping=True, random_state=0), CLICKS, 2),
    "Mult-DAE": (MultDAERecommender(3, max_iter=3, random_state=0), CLICKS, 1),
    "ELSA": (ELSARecommender(3, max_iter=3, random_state=0), CLICKS, 1),
    "RecVAE": (RecVAERecommender(3, hidden_size=4, max_iter=3, random_state=0), CLICKS, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_fit_that_dies_again_and_again_ends_as_the_whole_one(name, tmp_path, monkeypatch):
    estimator, X, every = CASES[name]
    whole = clone(estimator).fit(X)
    model, n_died = with_deaths(estimator, X, tmp_path / "fit.npz", every, monkeypatch)
    assert n_died > 1
    assert_same(model, whole)
    assert list(tmp_path.iterdir()) == []


def test_weights_and_rows_for_validation_count_too(tmp_path, monkeypatch):
    estimator = AutoencoderTransformer(1, early_stopping=True, **SMALL)
    fit = {"sample_weight": np.linspace(0.5, 2, 120), "X_val": table()[::3]}
    model, _ = with_deaths(estimator, table(), tmp_path / "fit.npz", 2, monkeypatch, **fit)
    assert_same(model, clone(estimator).fit(table(), **fit))


def test_a_warm_start_goes_on(tmp_path, monkeypatch):
    first = AutoencoderTransformer(1, early_stopping=False, warm_start=True, **SMALL).fit(table())
    path, written = tmp_path / "fit.npz", pickle.dumps(first)
    with monkeypatch.context() as patch, pytest.raises(Death):
        dies_after(patch, 2)
        first.set_params(checkpoint=Checkpoint(path, interval=0)).fit(table())
    first.set_params(checkpoint=None)
    model = pickle.loads(written).set_params(checkpoint=path)  # as in another process
    with pytest.raises(ValueError, match="the fit that it goes on from was .* and is none"):
        AutoencoderTransformer(**model.get_params()).fit(table())
    assert_same(model.fit(table()), first.fit(table()))


def test_a_seed_of_the_systems_entropy_is_in_the_file(tmp_path, monkeypatch):
    path, found = tmp_path / "fit.npz", []
    estimator = KMeansLite(5, init="random", n_init=1, max_iter=3, tol=0, checkpoint=Checkpoint(path, interval=0))
    with monkeypatch.context() as patch, pytest.raises(Death):
        dies_after(patch, 1)
        estimator.fit(table())
    written = path.read_bytes()
    for _ in range(2):
        path.write_bytes(written)
        found.append(estimator.fit(table()).cluster_centers_)
    assert np.array_equal(*found)


def test_a_generator_must_give_the_same_seed_again(tmp_path, monkeypatch):
    path, estimator = tmp_path / "fit.npz", KMeansLite(5, n_init=1, random_state=np.random.RandomState(0))
    whole = clone(estimator).fit(table())
    model, n_died = with_deaths(estimator, table(), path, 2, monkeypatch)
    assert n_died and np.array_equal(model.cluster_centers_, whole.cluster_centers_)
    estimator.set_params(checkpoint=Checkpoint(path, interval=0))
    with monkeypatch.context() as patch, pytest.raises(Death):
        dies_after(patch, 2)
        estimator.fit(table())
    with pytest.raises(ValueError, match="the seed was .* and is .* Delete the file"):
        estimator.fit(table())


@pytest.mark.slow
def test_a_process_that_is_killed_at_random_moments_loses_nothing():
    """Three kills; `make soak` has twenty."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOAK.parents[2])}
    command = [sys.executable, str(SOAK), "3"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 kills" in run.stdout and "are bit-equal" in run.stdout


# ------------------------------------------------------------------------------------------------- whose ascents
class Other(Watcher):
    """Fits something else after every iteration."""

    def ends(self, report):
        KMeansLite(2, n_init=1, random_state=0).fit(table())
        em.ascend(Halving(), [None], [Halving.Params(1.0)], plan=em.Plan(3, lambda report: False, 1.0))
        return False


class Halving:
    """Halves a number until the end."""

    from typing import NamedTuple

    class Params(NamedTuple):
        x: float

    def e_step(self, batch, params, memory=None):
        return params, None

    def bound(self, stats, params):
        return -params.x

    def m_step(self, stats, params):
        return Halving.Params(params.x / 2)


def test_what_a_callback_fits_is_not_taken_for_a_part_of_the_fit():
    places = []

    def write(states, seeds):
        places.append(sorted(states))

    journal = checkpoints.Journal(write, 0, lambda: False, True, {}, [])
    init = em.Restarts(2, lambda number: em.ascend(Halving(), [None], [Halving.Params(number + 1.0)], plan=PLAN).params)
    with checkpoints.kept_in(journal):
        em.ascend(Halving(), [None], init, plan=PLAN, watcher=Other())
        em.ascend(Halving(), [None], [Halving.Params(1.0)], plan=PLAN)
    assert {place for each in places for place in each} == {"0", "0/0.0", "0/1.0", "1"}
    assert places[-1] == ["0", "1"]


PLAN = em.Plan(3, lambda report: False, 1.0)


def test_outside_of_a_fit_with_a_checkpoint_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints.Journal, "reached", None)
    GaussianMixtureEM(2, random_state=0).fit(table())
    model = KMeansLite(2, random_state=0, checkpoint=tmp_path / "fit.npz").partial_fit(table())
    model.partial_fit(table())
    assert list(tmp_path.iterdir()) == []


class Counts:
    """A callback that counts the epochs."""

    def __init__(self):
        self.n = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n += context.task_name == "epoch"
        return False


def test_callbacks_and_printed_lines_go_on_where_the_fit_does(tmp_path, monkeypatch, capsys):
    estimator = AutoencoderTransformer(1, early_stopping=False, verbose=2, **SMALL)
    with monkeypatch.context() as patch, pytest.raises(Death):
        dies_after(patch, 2)
        clone(estimator).set_params(checkpoint=Checkpoint(tmp_path / "fit-0.npz", 0)).fit(table())
    (path,) = tmp_path.iterdir()
    capsys.readouterr()
    callback, model = Counts(), AutoencoderTransformer(**estimator.get_params()).set_params(checkpoint=path)
    model.set_callbacks(callback).fit(table())
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert f"goes on from {path}" in first and "epoch 3/6" in second
    assert callback.n == 4 and model.n_iter_ == 6


# ------------------------------------------------------------------------------------------------------- searches
def test_fits_of_a_search_never_share_a_file(tmp_path, monkeypatch):
    written, write = [], _file.write
    monkeypatch.setattr(_file, "write", lambda path, *others: (written.append(path), write(path, *others)))
    estimator = GaussianMixtureEM(random_state=0, checkpoint=Checkpoint(tmp_path / "fit.npz", interval=0))
    search = GridSearchCV(estimator, {"n_components": [2, 3]}, cv=2, n_jobs=2)
    with joblib.parallel_config("threading"):
        found = search.fit(table())
    plain = GridSearchCV(GaussianMixtureEM(random_state=0), search.param_grid, cv=2).fit(table())
    assert np.array_equal(found.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])
    assert len(set(written)) == 5 and all(Path(path).name.startswith("fit-") for path in written)
    assert list(tmp_path.iterdir()) == []
    assert_same(found.best_estimator_, plain.best_estimator_)


def test_a_stacked_search_fits_networks_with_a_checkpoint_one_by_one(tmp_path, monkeypatch):
    written, write = [], _file.write
    monkeypatch.setattr(_file, "write", lambda path, *others: (written.append(path), write(path, *others)))
    estimator = AutoencoderTransformer(1, early_stopping=False, **SMALL)
    grid = {"weight_decay": [0.0, 0.1]}
    plain = GridSearchCV(estimator, grid, cv=2).fit(table())
    estimator = clone(estimator).set_params(checkpoint=Checkpoint(tmp_path / "fit.npz", interval=0))
    found = StackedGridSearchCV(estimator, grid, cv=2).fit(table())
    assert len(set(written)) == 5
    assert np.array_equal(found.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


def test_beta_is_selected_by_fits_with_files_of_their_own(tmp_path):
    estimator = MultVAERecommender(3, max_iter=3, random_state=0)
    plain = select_beta(estimator, CLICKS)
    found = select_beta(clone(estimator).set_params(checkpoint=Checkpoint(tmp_path / "fit.npz", 0)), CLICKS)
    assert found.beta == plain.beta and list(tmp_path.iterdir()) == []
    assert_same(found.recommender, plain.recommender)


# ------------------------------------------------------------------------------------------------------ parameter
def test_a_checkpoint_compares_clones_and_pickles_by_value(tmp_path):
    one = Checkpoint(tmp_path / "a", 10, "stop")
    assert one == Checkpoint(tmp_path / "a", interval=10.0, on_interrupt="stop") != Checkpoint(tmp_path / "a")
    assert pickle.loads(pickle.dumps(one)) == one and len({one, Checkpoint(tmp_path / "a", 10, "stop")}) == 1
    model = clone(KMeansLite(2, checkpoint=one))
    assert model.checkpoint == one and f"checkpoint={one!r}" in repr(model).replace("\n", "").replace("  ", "")


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ((3,), TypeError, "must be a path"),
        (("",), ValueError, "is no path of a file; give one"),
        (("a\0b",), ValueError, "is no path of a file; give one"),
        (("a", -1), ValueError, "seconds >= 0"),
        (("a", float("nan")), ValueError, "seconds >= 0"),
        (("a", 1, "ignore"), ValueError, "'raise' or 'stop'"),
    ],
)
def test_a_wrong_checkpoint_is_refused(arguments, kind, text):
    with pytest.raises(kind, match=text):
        Checkpoint(*arguments)


def test_other_values_are_refused_in_scikit_learns_words():
    for value in (3, b"fit.npz", ["fit.npz"]):
        with pytest.raises(ValueError, match="The 'checkpoint' parameter of KMeansLite must be an instance of 'str'"):
            KMeansLite(2, checkpoint=value).fit(table())


@pytest.mark.parametrize("value", ["fit.npz", Checkpoint("fit.npz", 10)])
def test_a_fitted_estimator_pickles(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = KMeansLite(2, random_state=0, checkpoint=value).fit(table())
    back = pickle.loads(pickle.dumps(model))
    assert back.checkpoint == value and np.array_equal(back.predict(table()), model.predict(table()))
    clone(model).fit(table())
    assert list(tmp_path.iterdir()) == []
