"""Curves of scores, the one-standard-error rule, and what is read from a search."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae import EASERecommender, GaussianMixtureEM, KMeansLite, PopularityRecommender
from skvae.datasets import make_interactions
from skvae.displays import ComponentSelectionDisplay, RankingDisplay
from skvae.displays._component_selection import one_standard_error
from skvae.metrics import content_holdout, make_ranking_scorer, ndcg_at_k


@pytest.fixture(scope="module")
def search(wine):
    mixture = GaussianMixtureEM(reg_covar=1e-2, random_state=0)
    grid = {"n_components": [3, 1, 2], "covariance_type": ["diag", "tied"]}
    return GridSearchCV(mixture, grid, cv=KFold(4, shuffle=True, random_state=0), refit=False).fit(wine)


@pytest.fixture(scope="module")
def clicks():
    return make_interactions(150, 40, random_state=0)


def curve(container):
    """x, mean and error of an errorbar container."""
    line, _, (bars,) = container
    low, high = np.array([segment[:, 1] for segment in bars.get_segments()]).T
    return line.get_xdata(), line.get_ydata(), (high - low) / 2


# --- the one-standard-error rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("greater", [True, False])
def test_the_rule_takes_the_smallest_model_within_one_standard_error_of_the_best(seed, greater):
    rng = np.random.default_rng(seed)
    scores, errors = rng.normal(size=(3, 5)), rng.uniform(0, 1, (3, 5))
    scores[rng.random((3, 5)) < 0.2] = np.nan
    best, selected = one_standard_error(scores, errors, greater)
    gain = scores if greater else -scores
    bar = np.nanmax(gain) - errors[best]
    assert gain[best] == np.nanmax(gain) and gain[selected] >= bar
    assert not (gain[:, : selected[1]] >= bar).any()
    assert gain[selected] == np.nanmax(gain[:, selected[1]])


def test_without_errors_the_best_is_chosen_and_without_scores_none():
    display = ComponentSelectionDisplay([1, 2, 3], [9.0, 4.0, 5.0], greater_is_better=False, score_name="BIC").plot()
    assert display.best_ == display.selected_ == (2, None)
    assert display.band_ is None and display.selected_point_ is None
    with pytest.raises(ValueError, match="no finite score"):
        ComponentSelectionDisplay([1, 2], [np.nan, np.nan]).plot()
    with pytest.raises(ValueError, match=r"3 values need scores and errors of shape \(n_curves, 3\)"):
        ComponentSelectionDisplay([1, 2, 3], [1.0, 2.0]).plot()


def test_the_band_star_and_ring_stand_where_the_rule_says():
    display = ComponentSelectionDisplay([1, 2, 4], [0.0, 0.9, 1.0], errors=[0.1, 0.1, 0.2]).plot()
    lowest = ComponentSelectionDisplay([1, 2], [3.0, 2.0], errors=[0.1, 0.2], greater_is_better=False).plot()
    assert_allclose(np.sort(lowest.band_.get_xy()[1] + [0, lowest.band_.get_height()]), [2.0, 2.2])
    assert (display.best_, display.selected_) == ((4, None), (2, None))
    assert_allclose(np.sort(display.band_.get_xy()[1] + [0, display.band_.get_height()]), [0.8, 1.0])
    assert_allclose(np.ravel(display.best_point_.get_data()), [4, 1.0])
    assert_allclose(np.ravel(display.selected_point_.get_data()), [2, 0.9])


# --- from a search ----------------------------------------------------------------------------------------------------


def test_curves_have_the_mean_and_its_standard_error_over_the_folds(search):
    display = ComponentSelectionDisplay.from_cv_results(search, score_name="nats per row")
    results = search.cv_results_
    assert display.labels == ["covariance_type = diag", "covariance_type = tied"]
    for container, kind in zip(display.containers_, ["diag", "tied"], strict=True):
        k, mean, error = curve(container)
        assert_array_equal(k, [1, 2, 3])
        for place, value in enumerate(k):
            (at,) = np.flatnonzero(
                (results["param_n_components"] == value) & (results["param_covariance_type"] == kind)
            )
            folds = [results[f"split{fold}_test_score"][at] for fold in range(4)]
            assert mean[place] == pytest.approx(np.mean(folds))
            assert error[place] == pytest.approx(np.std(folds, ddof=1) / 2)
    best = search.cv_results_["params"][np.argmin(results["rank_test_score"])]
    assert display.best_ == (best["n_components"], f"covariance_type = {best['covariance_type']}")
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("n_components", "nats per row")


def test_a_parameter_of_a_step_is_found_and_inertia_is_drawn_upright(wine):
    pipeline = make_pipeline(StandardScaler(), KMeansLite(random_state=0))
    search = GridSearchCV(pipeline, {"kmeanslite__n_clusters": [1, 2, 3]}, cv=3).fit(wine)
    display = ComponentSelectionDisplay.from_cv_results(search, param_name="n_clusters", negate_score=True)
    _, inertia, _ = curve(display.containers_[0])
    assert_allclose(inertia, -search.cv_results_["mean_test_score"])
    assert (np.diff(inertia) < 0).all() and display.best_[0] == 3
    assert display.ax_.get_xlabel() == "n_clusters"
    same = ComponentSelectionDisplay.from_cv_results(search.cv_results_, param_name="kmeanslite__n_clusters")
    assert_allclose(same.scores, -np.asarray(display.scores))
    with pytest.raises(ValueError, match="param_name must be one of .*n_clusters.*'n_components'"):
        ComponentSelectionDisplay.from_cv_results(search)


def test_words_keep_the_order_of_the_grid(search):
    display = RankingDisplay.from_cv_results(search, "covariance_type")
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == ["diag", "tied"]
    assert display.labels == ["n_components = 3", "n_components = 1", "n_components = 2"]


def test_candidates_that_failed_leave_a_gap():
    results = {
        "params": [{"n_components": 1}, {"n_components": 2}, {"n_components": 3}],
        "mean_test_score": np.array([1.0, np.nan, 2.0]),
        "split0_test_score": np.array([0.9, np.nan, 1.8]),
        "split1_test_score": np.array([1.1, np.nan, 2.2]),
    }
    display = ComponentSelectionDisplay.from_cv_results(results)
    k, mean, error = curve(display.containers_[0])
    assert k.tolist() == [1, 3] and mean.tolist() == [1, 2]
    assert_allclose(error, [0.1, 0.2])


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_metrics_against_k_are_those_of_the_scorer_with_errors_over_users(clicks):
    model = EASERecommender().fit(clicks[:100])
    display = RankingDisplay.from_estimator(model, clicks[100:], metrics=["ndcg", "recall"], ks=[1, 5, 40, 100])
    scores = make_ranking_scorer(["ndcg@5", "recall@5"])(model, clicks[100:])
    assert_array_equal(display.values, [1, 5, 40])  # no more than there are items
    assert display.labels == ["NDCG", "recall"]
    assert_allclose(display.scores[:, 1], [scores["ndcg@5"], scores["recall@5"]])
    foldin, hidden = content_holdout(clicks[100:])
    per_user = ndcg_at_k(hidden, ranked=model.recommend(foldin, k=40)[0], k=5, per_user=True)
    per_user = per_user[np.isfinite(per_user)]
    k, mean, error = curve(display.containers_[0])
    assert error[1] == pytest.approx(per_user.std(ddof=1) / np.sqrt(len(per_user)))
    assert display.ax_.get_xscale() == "log"
    other = RankingDisplay.from_estimator(
        PopularityRecommender().fit(clicks), clicks[100:], name="popular", ax=display.ax_
    )
    assert other.ax_ is display.ax_ and len(display.ax_.containers) == 3


def test_lengths_and_metrics_that_cannot_be_are_refused(clicks):
    model = EASERecommender().fit(clicks[:100])
    with pytest.raises(ValueError, match="lengths up to 40, the number of items"):
        RankingDisplay.from_estimator(model, clicks[100:], ks=[50])
    with pytest.raises(ValueError, match="'auc@1' is no ranking metric"):
        RankingDisplay.from_estimator(model, clicks[100:], metrics="auc")


def test_a_metric_of_a_search_against_a_parameter_beside_a_baseline(clicks):
    scoring = make_ranking_scorer(["ndcg@10", "recall@5"])
    grid = {"l2": [1.0, 30.0, 900.0]}
    search = GridSearchCV(EASERecommender(), grid, cv=3, scoring=scoring, refit=False).fit(clicks)
    with pytest.raises(ValueError, match=r"metric must be one of \['ndcg@10', 'recall@5'\]"):
        RankingDisplay.from_cv_results(search, "l2")
    display = RankingDisplay.from_cv_results(
        search, "l2", metric="ndcg@10", baseline=(0.3, 0.1), baseline_name="popular"
    )
    l2, mean, _ = curve(display.containers_[0])
    assert_array_equal(l2, grid["l2"])
    assert_allclose(mean, search.cv_results_["mean_test_ndcg@10"])
    assert display.baseline_line_.get_ydata()[0] == 0.3
    assert display.baseline_band_.get_height() == pytest.approx(0.2)
    assert display.ax_.get_ylabel() == "NDCG@10, mean over folds" and display.ax_.get_xscale() == "log"
    with pytest.raises(ValueError, match="scale must be"):
        display.plot(scale="square")
