"""`MultVAERecommender` inside scikit-learn's tools: pipelines, searches over parameters, callbacks."""

import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 (makes HalvingGridSearchCV importable)
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Binarizer, FunctionTransformer, StandardScaler

from skvae import MultVAERecommender
from skvae.datasets import make_interactions
from skvae.metrics import holdout_split, make_ranking_scorer

N_USERS, N_ITEMS = 60, 12
NDCG = make_ranking_scorer("ndcg", k=100)
FOLDS = KFold(3, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, n_factors=2, mean_interactions=6, random_state=0)


@pytest.fixture(scope="module")
def ratings(X):
    """The same cells, rated 1 to 5."""
    rated = X.copy()
    rated.data = np.random.RandomState(0).randint(1, 6, size=X.nnz).astype(X.dtype)
    return rated


def tiny(**parameters):
    return MultVAERecommender(**{"n_components": 3, "max_iter": 3, "batch_size": 50, "random_state": 0, **parameters})


# ---------------------------------------------------------------------------------------------------------- pipelines
def test_a_pipeline_ends_in_a_recommender(ratings):
    pipe = make_pipeline(Binarizer(threshold=3.5), tiny()).fit(ratings)
    liked = pipe[:-1].transform(ratings)
    alone = tiny().fit(liked)
    for method in ("predict", "decision_function", "transform"):
        np.testing.assert_array_equal(getattr(pipe, method)(ratings), getattr(alone, method)(liked))
    np.testing.assert_array_equal(pipe[-1].recommend(liked, 3)[0], alone.recommend(liked, 3)[0])
    assert pipe.score(ratings) == alone.score(liked)
    assert NDCG(pipe, ratings) == pytest.approx(alone.score(liked), abs=1e-12)


def test_a_recommender_may_stand_inside_a_pipeline_too(X):
    """Its user embeddings are features like others."""
    names = make_pipeline(TfidfTransformer(), tiny(), FunctionTransformer(feature_names_out="one-to-one")).fit(X)
    assert names.transform(X).shape == (N_USERS, 3)


def test_x_val_reaches_the_recommender_through_a_pipeline(X):
    pipe = Pipeline([("recommender", tiny())]).fit(X, recommender__X_val=X[:20])
    assert len(pipe[-1].validation_scores_) == pipe[-1].n_iter_


# ----------------------------------------------------------------------------------------------------------- searches
def test_grid_search_finds_the_setting_that_scores_best(X):
    grid = {"beta": [0.0, 0.5], "n_components": [1, 5]}
    quick = dict(learning_rate=0.05, max_iter=40)
    search = GridSearchCV(tiny(**quick), grid, scoring=NDCG, cv=FOLDS, error_score="raise").fit(X)
    by_hand = []
    for parameters in search.cv_results_["params"]:
        folds = [NDCG(tiny(**quick, **parameters).fit(X[train]), X[test]) for train, test in FOLDS.split(X)]
        by_hand.append(np.mean(folds))
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], by_hand, rtol=0, atol=1e-12)
    assert len(set(by_hand)) == 4
    assert search.best_params_ == search.cv_results_["params"][int(np.argmax(by_hand))]
    np.testing.assert_array_equal(search.predict(X), tiny(**quick, **search.best_params_).fit(X).predict(X))
    assert search.score(X) == NDCG(search.best_estimator_, X)


def test_grid_search_with_its_own_score(X):
    search = GridSearchCV(tiny(), {"beta": ["auto", 0.1]}, cv=3, error_score="raise").fit(X)
    assert (search.cv_results_["mean_test_score"] > 0).all()


def test_grid_search_over_a_pipeline_and_several_metrics(ratings):
    pipe = Pipeline([("like", Binarizer()), ("recommender", tiny())])
    grid = {"like__threshold": [0.5, 2.5], "recommender__beta": [0.0, 0.2]}
    scoring = make_ranking_scorer(["ndcg@100", "recall@3", "recall@5"])
    search = GridSearchCV(pipe, grid, scoring=scoring, refit="ndcg@100", cv=FOLDS, error_score="raise").fit(ratings)
    for name in ("ndcg@100", "recall@3", "recall@5"):
        found = search.cv_results_[f"mean_test_{name}"]
        assert found.shape == (4,) and ((0 <= found) & (found <= 1)).all()
    assert (search.cv_results_["mean_test_recall@5"] >= search.cv_results_["mean_test_recall@3"] - 0.2).all()
    single = GridSearchCV(pipe, grid, scoring=NDCG, cv=FOLDS, error_score="raise").fit(ratings)
    np.testing.assert_allclose(
        single.cv_results_["mean_test_score"], search.cv_results_["mean_test_ndcg@100"], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("scoring", [NDCG, None], ids=["scorer", "score"])
def test_held_out_interactions_as_y(scoring, X):
    foldin, heldout = holdout_split(X, random_state=0)
    common = dict(scoring=scoring, cv=FOLDS, error_score="raise")
    search = GridSearchCV(tiny(), {"dropout": [0.5]}, **common)
    by_hand = [tiny(dropout=0.5).fit(foldin[a]).score(foldin[b], heldout[b]) for a, b in FOLDS.split(foldin)]
    found = search.fit(foldin, heldout).cv_results_
    np.testing.assert_allclose([found[f"split{i}_test_score"][0] for i in range(3)], by_hand, rtol=0, atol=1e-12)
    # cross_val_score takes no sparse y
    scores = cross_val_score(tiny(dropout=0.5), foldin, heldout.toarray(), **common)
    np.testing.assert_allclose(scores, by_hand, rtol=0, atol=1e-12)


def test_cross_validate_with_several_metrics(X):
    scoring = make_ranking_scorer(["ndcg", "mrr", "hit_rate@3"], k=10)
    result = cross_validate(tiny(), X, scoring=scoring, cv=3, return_train_score=True, error_score="raise")
    for name in ("ndcg", "mrr", "hit_rate@3"):
        assert np.isfinite(result[f"test_{name}"]).all() and np.isfinite(result[f"train_{name}"]).all()


@pytest.mark.parametrize("resource", ["n_samples", "max_iter"])
def test_halving_search(resource, X):
    limits = {"max_resources": 4} if resource == "max_iter" else {"min_resources": 20}
    search = HalvingGridSearchCV(
        tiny(), {"beta": [0.0, 0.1, 0.2, 0.4]}, scoring=NDCG, cv=FOLDS, factor=2, random_state=0, resource=resource,
        error_score="raise", **limits,
    ).fit(X)  # fmt: skip
    assert search.n_iterations_ >= 2
    assert 0 < search.best_score_ <= 1


def test_two_workers_find_what_one_finds(X):
    """To rounding: the number of threads a worker gets may change the order of a sum."""
    search = GridSearchCV(tiny(), {"beta": [0.0, 0.5]}, scoring=NDCG, cv=FOLDS, error_score="raise")
    alone, together = clone(search).fit(X), clone(search).set_params(n_jobs=2).fit(X)
    for fold in range(3):
        name = f"split{fold}_test_score"
        np.testing.assert_allclose(together.cv_results_[name], alone.cv_results_[name], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(together.predict(X), alone.predict(X))


def test_a_failing_candidate_is_named_by_the_search(X):
    with pytest.raises(ValueError, match="'dropout' parameter of MultVAERecommender"):
        GridSearchCV(tiny(), {"dropout": [2.0]}, scoring=NDCG, cv=3, error_score="raise").fit(X)


# ---------------------------------------------------------------------------------------------------------- callbacks
class Recorder:
    """Notes what a fit tells its callbacks, and stops it after some epochs."""

    def __init__(self, stop_after=None):
        self.stop_after, self.events, self.epochs = stop_after, [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.epochs.append((context.task_id, fitted_estimator, X))
            return self.stop_after is not None and len(self.epochs) >= self.stop_after


def test_callbacks_see_every_epoch(X):
    recorder = Recorder()
    tiny(max_iter=2).set_callbacks(recorder).fit(X)
    epoch = ["begin epoch", "end epoch"]
    assert recorder.events == ["setup", "begin fit", *epoch, *epoch, "end fit", "teardown"]
    assert [number for number, _, _ in recorder.epochs] == [0, 1]


def test_callbacks_are_given_the_estimator_as_it_is_at_that_epoch(X):
    recorder = Recorder()
    model = tiny(max_iter=4, learning_rate_schedule="constant").set_callbacks(recorder).fit(X)
    scores = [fitted.decision_function(X) for _, fitted, _ in recorder.epochs]
    assert all(not np.array_equal(a, b) for a, b in zip(scores, scores[1:]))
    np.testing.assert_array_equal(scores[-1], model.decision_function(X))
    fitted = recorder.epochs[1][1]
    assert fitted.recommend(X, 2)[0].shape == (N_USERS, 2)
    assert np.isfinite(fitted.elbo(X)).all()
    assert all(isinstance(array, np.ndarray) for array in fitted.parameters_.values())


def test_a_callback_does_not_change_the_fit(X):
    watched = tiny().set_callbacks(Recorder()).fit(X)
    np.testing.assert_array_equal(watched.decision_function(X), tiny().fit(X).decision_function(X))


def test_a_callback_stops_the_fit(X):
    model = tiny(max_iter=9).set_callbacks(Recorder(stop_after=2)).fit(X)
    assert model.n_iter_ == len(model.lower_bounds_) == 2
    assert np.isfinite(model.decision_function(X)).all()


def bars_at_work():
    """Threads that still draw a progress bar."""
    return [thread for thread in threading.enumerate() if type(thread).__name__ == "RichProgressMonitor"]


def test_progress_bar_alone(X, capsys):
    tiny().set_callbacks(ProgressBar()).fit(X)
    assert "MultVAERecommender" in capsys.readouterr().out
    assert not bars_at_work()


def test_progress_bar_in_a_pipeline(X, capsys):
    pipe = make_pipeline(StandardScaler(with_mean=False), tiny())  # the scaler knows callbacks
    shown = clone(pipe).set_callbacks(ProgressBar()).fit(X)
    printed = capsys.readouterr().out
    assert "Pipeline" in printed and "MultVAERecommender" in printed
    np.testing.assert_array_equal(shown.predict(X), pipe.fit(X).predict(X))


def test_progress_bar_in_a_grid_search(X, capsys):
    search = GridSearchCV(tiny(), {"beta": [0.0, 0.5]}, scoring=NDCG, cv=2, error_score="raise")
    found = clone(search).set_callbacks(ProgressBar()).fit(X)
    printed = capsys.readouterr().out
    assert "GridSearchCV" in printed and "MultVAERecommender" in printed
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], search.fit(X).cv_results_["mean_test_score"])


def test_scoring_monitor_scores_every_epoch(X):
    monitor = ScoringMonitor(scoring={"ndcg": NDCG, "elbo": lambda model, X, y=None: float(model.elbo(X).mean())})
    model = tiny(max_iter=4).set_callbacks(monitor).fit(X)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert [row["task_id"] for row in rows] == [0, 1, 2, 3]
    assert len({row["elbo"] for row in rows}) == 4
    assert rows[-1]["elbo"] == pytest.approx(float(model.elbo(X).mean()))


def test_scoring_monitor_with_one_scorer_and_held_out_interactions(X):
    foldin, heldout = holdout_split(X, random_state=0)
    monitor = ScoringMonitor(scoring={"ndcg": NDCG})
    model = tiny().set_callbacks(monitor).fit(foldin, heldout)
    assert monitor.get_logs().data[-1]["task_name"] == "epoch"
    assert monitor.get_logs().data[-1]["ndcg"] == pytest.approx(model.score(foldin, heldout), abs=1e-12)


@pytest.mark.parametrize("fitted_before", [False, True])
def test_callbacks_are_torn_down_when_a_fit_fails(fitted_before, X):
    recorder = Recorder()
    model = tiny().fit(X) if fitted_before else tiny()
    model.set_params(annealing=lambda fraction: 1 / 0).set_callbacks(recorder)
    before = dict(vars(model))
    with pytest.raises(ZeroDivisionError):
        model.fit(X)
    assert recorder.events[0] == "setup" and recorder.events[-1] == "teardown"
    assert vars(model) == before


def test_the_progress_bar_ends_when_a_fit_fails(X, capsys):
    with pytest.raises(ZeroDivisionError):
        tiny(annealing=lambda fraction: 1 / 0).set_callbacks(ProgressBar()).fit(X)
    assert not bars_at_work()


def test_a_callback_that_raises_leaves_the_model_as_it_was(X):
    class Broken(Recorder):
        def on_fit_task_begin(self, estimator, context):
            raise RuntimeError("no display")

    model = tiny().set_callbacks(Broken())
    before = dict(vars(model))
    with pytest.raises(RuntimeError, match="no display"):
        model.fit(X)
    assert vars(model) == before


def test_fits_go_on_without_rich(X, monkeypatch):
    for name in [name for name in sys.modules if name == "rich" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)  # as where it is not installed
    with pytest.raises(ImportError, match="rich"):
        ProgressBar()
    model = tiny(verbose=1).set_callbacks(Recorder()).fit(X)
    assert model.n_iter_ == 3


def test_a_sparse_matrix_is_split_by_the_search_as_it_came(X):
    for container in (sp.csr_matrix, sp.csc_array, sp.coo_array, np.asarray):
        given = container(X) if container is not np.asarray else X.toarray()
        scores = cross_val_score(tiny(), given, scoring=NDCG, cv=FOLDS, error_score="raise")
        expected = cross_val_score(tiny(), X, scoring=NDCG, cv=FOLDS, error_score="raise")
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
