"""Laws of the ranking scorers: what they hide, what counts as a hit, and their place in scikit-learn's searches."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import VarianceThreshold
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    cross_val_score,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Binarizer, FunctionTransformer
from sklearn.utils.validation import check_is_fitted, validate_data

from skvae.metrics import (
    _ranking,
    content_holdout,
    dcg_at_k,
    holdout_split,
    make_ranking_scorer,
    ndcg_at_k,
    recall_at_k,
)


class Popularity(BaseEstimator):
    """Everybody gets what most users have; `reverse` turns it into the worst of recommenders."""

    def __init__(self, reverse=False):
        self.reverse = reverse

    def fit(self, X, y=None):
        X = validate_data(self, X, accept_sparse="csr")
        self.clicks_ = np.asarray((X != 0).sum(axis=0), dtype=float).ravel() * (-1 if self.reverse else 1)
        return self

    def decision_function(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        return np.broadcast_to(self.clicks_, X.shape)  # read-only, as a scorer that masks in place would notice

    def predict(self, X):
        return self.decision_function(X).argmax(axis=1)


class ItemNeighbours(BaseEstimator):
    """Scores by shared users, shrunk towards nothing; fold-in by the row alone."""

    def __init__(self, shrinkage=1.0):
        self.shrinkage = shrinkage

    def fit(self, X, y=None):
        X = sp.csr_array(validate_data(self, X, accept_sparse="csr", dtype=np.float64))
        shared = (X.T @ X).toarray()
        norm = np.sqrt(np.diag(shared)) + 1e-9
        self.similarity_ = shared / (np.outer(norm, norm) + self.shrinkage)
        np.fill_diagonal(self.similarity_, 0)
        return self

    def decision_function(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return sp.csr_array(X) @ self.similarity_

    def predict(self, X):
        return self.decision_function(X).argmax(axis=1)


class Recommending(ItemNeighbours):
    """The same with `recommend`; a scorer has then no business with its scores."""

    def decision_function(self, X):
        raise AssertionError("recommend was there")

    def recommend(self, X, k=10):
        scores = ItemNeighbours.decision_function(self, X)
        scores[sp.csr_array(X).toarray() != 0] = -np.inf
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(scores, ids, axis=1)
        return np.where(best == -np.inf, -1, ids), best


@pytest.fixture(scope="module")
def X():
    """120 users of two tastes, 30 items, some of them popular, ratings 1 to 5."""
    rng = np.random.default_rng(0)
    taste = rng.integers(0, 2, 120)
    chance = np.where(np.arange(30) % 2 == taste[:, None], 0.5, 0.08) * np.linspace(1.8, 0.2, 30)
    return sp.csr_array((rng.random((120, 30)) < chance) * rng.integers(1, 6, (120, 30)).astype(float))


def masked(scores, seen):
    return np.where(sp.csr_array(seen).toarray() != 0, -np.inf, scores)


FOLDS = KFold(4, shuffle=True, random_state=0)
GRID = {"shrinkage": [0.0, 10.0, 1000.0]}


# --- what a score is --------------------------------------------------------------------------------------------------


def test_without_y_a_part_of_each_row_is_hidden_and_ranked(X):
    model = ItemNeighbours().fit(X[:80])
    foldin, heldout = content_holdout(X[80:], 0.3, seed=4)
    scores = masked(model.decision_function(foldin), foldin)
    scorer = make_ranking_scorer("ndcg", k=10, holdout=0.3, seed=4)
    assert scorer(model, X[80:]) == ndcg_at_k(heldout, scores, k=10)
    assert scorer(model, X[80:], np.zeros(40)) == scorer(model, X[80:])  # a 1-D y is not for recommenders
    assert scorer(model, X[80:], [0] * 40) == scorer(model, X[80:])
    others = (
        make_ranking_scorer("ndcg", k=10, holdout=0.3, seed=5),
        make_ranking_scorer("ndcg", k=10, holdout=0.5, seed=4),
    )
    assert len({scorer(model, X[80:]), *(other(model, X[80:]) for other in others)}) == 3


def test_with_y_all_of_X_is_shown_and_y_is_ranked(X):
    model = ItemNeighbours().fit(X[:80])
    foldin, heldout = holdout_split(X[80:], random_state=0)
    expected = recall_at_k(heldout, masked(model.decision_function(foldin), foldin), k=5)
    scorer = make_ranking_scorer("recall@5")
    for kind in (sp.csr_array, sp.csr_matrix, sp.coo_matrix, sp.lil_matrix, sp.bsr_array, lambda m: m.toarray()):
        assert scorer(model, kind(foldin), kind(heldout)) == expected


def test_what_was_seen_is_not_asked_for_again(X):
    model = Popularity().fit(X[:80])
    foldin, heldout = holdout_split(X[80:], random_state=0)
    scorer = make_ranking_scorer("recall@5")
    assert scorer(model, foldin, X[80:]) == scorer(model, foldin, heldout)
    with pytest.raises(ValueError, match="held-out item"):
        scorer(model, X[80:], X[80:])


def test_recommend_is_used_where_it_exists_and_agrees_with_the_scores(X):
    metrics = ["ndcg@100", "recall@3", "mrr"]
    scorer = make_ranking_scorer(metrics)
    assert scorer(Recommending().fit(X[:80]), X[80:]) == scorer(ItemNeighbours().fit(X[:80]), X[80:])


def test_several_metrics_come_from_one_ranking(X):
    calls = []

    class Counting(Recommending):
        def recommend(self, X, k=10):
            calls.append(k)
            return super().recommend(X, k)

    model = Counting().fit(X[:80])
    names = ["ndcg@20", "recall@2", "recall@20", "precision", "dcg", "average_precision", "hit_rate@3", "mrr@7"]
    scores = make_ranking_scorer(names, k=12)(model, X[80:])
    assert calls == [20]
    assert list(scores) == names
    for name in names:
        alone = make_ranking_scorer(name) if "@" in name else make_ranking_scorer(name, k=12)
        assert scores[name] == alone(model, X[80:])
        assert type(scores[name]) is float
    assert scores["dcg"] == make_ranking_scorer("dcg@12")(model, X[80:])
    assert list(make_ranking_scorer(["mrr"])(model, X[80:])) == ["mrr"]


def test_lists_are_never_longer_than_the_catalogue(X):
    class Short(Recommending):
        def recommend(self, X, k=10):
            assert k <= X.shape[1]
            return super().recommend(X, k)

    scorer = make_ranking_scorer("dcg", k=10**12)
    assert scorer(Short().fit(X), X) == make_ranking_scorer("dcg", k=30)(ItemNeighbours().fit(X), X)


def test_order_and_blocks_of_users_do_not_matter(X, monkeypatch):
    model, scorer = ItemNeighbours().fit(X[:60]), make_ranking_scorer(["ndcg@10", "recall@3"])
    expected = scorer(model, X)
    order = np.random.default_rng(1).permutation(X.shape[0])
    assert scorer(model, X[order]) == pytest.approx(expected, rel=1e-14)  # the mean is summed in another order
    monkeypatch.setattr(_ranking, "_BLOCK_CELLS", 100)
    assert scorer(model, X) == expected


@pytest.mark.parametrize("recommender", [ItemNeighbours, Recommending])
def test_a_crowd_of_equal_users_is_split_before_it_is_cut_into_blocks(recommender, X, monkeypatch):
    model, scorer = recommender().fit(X), make_ranking_scorer(["ndcg@10", "recall@3"])
    crowd = X[[0] * 500 + [1] * 500]
    foldin, heldout = content_holdout(crowd)
    expected = ndcg_at_k(heldout, masked(ItemNeighbours().fit(X).decision_function(foldin), foldin), k=10)
    monkeypatch.setattr(_ranking, "_BLOCK_CELLS", 100)
    scores = scorer(model, crowd)
    assert scores["ndcg@10"] == expected
    reordered = scorer(model, crowd[np.random.default_rng(1).permutation(1000)])
    assert reordered == pytest.approx(scores, rel=1e-12)  # equal users exchange their hidden items


def test_users_with_too_little_are_left_out(X):
    model, scorer = Popularity().fit(X), make_ranking_scorer()
    one_item = sp.csr_array((np.ones(5), (np.arange(5), np.arange(5))), shape=(5, 30))
    assert scorer(model, sp.vstack([X, one_item, sp.csr_array((3, 30))], format="csr")) == scorer(model, X)
    with pytest.raises(ValueError, match="held-out item"):
        scorer(model, one_item)


# --- pipelines and searches as the thing to be scored -----------------------------------------------------------------


def likes(X):
    """Ratings of 4 and more, as ones."""
    return (X >= 4).astype(float)


LIKING = [
    pytest.param(lambda: Binarizer(threshold=3.5), id="Binarizer"),
    pytest.param(lambda: FunctionTransformer(likes, accept_sparse=True), id="FunctionTransformer"),
]


@pytest.mark.parametrize("liking", LIKING)
def test_a_pipeline_is_scored_behind_its_transforms(liking, X):
    pipe = make_pipeline(liking(), ItemNeighbours()).fit(X[:80])
    alone = ItemNeighbours().fit(likes(X[:80]))
    scorer = make_ranking_scorer("ndcg@10")
    assert scorer(pipe, X[80:]) == scorer(alone, likes(X[80:]))
    foldin, heldout = holdout_split(X[80:], random_state=0)
    assert scorer(pipe, foldin, heldout) == scorer(alone, likes(foldin), likes(heldout))
    assert scorer(pipe, foldin, heldout) != scorer(alone, likes(foldin), heldout)


@pytest.mark.parametrize("liking", LIKING)
def test_a_dropped_rating_is_no_hit(liking):
    # Items by popularity: 0, 1, 2, 3. The user has 3 and liked 1; item 0 was rated 2.
    train = sp.csr_array([[5.0, 5, 5, 5], [5, 5, 5, 0], [5, 5, 0, 0], [5, 0, 0, 0]])
    pipe = make_pipeline(liking(), Popularity()).fit(train)
    shown, hidden = sp.csr_array([[0.0, 0, 0, 5]]), sp.csr_array([[2.0, 4, 0, 0]])
    first = make_ranking_scorer("precision@1")
    assert first(pipe[-1], shown, hidden) == 1  # item 0 would be a hit ...
    assert first(pipe, shown, hidden) == 0  # ... but was not liked; item 1 was
    assert make_ranking_scorer("recall@2")(pipe, shown, hidden) == 1
    with pytest.raises(ValueError, match="held-out item"):
        first(pipe, shown, sp.csr_array([[2.0, 3, 0, 0]]))


def test_pipelines_in_every_form(X):
    scorer = make_ranking_scorer("ndcg@10")
    expected = scorer(ItemNeighbours().fit(X[:80]), X[80:])
    keep = FunctionTransformer(accept_sparse=True)
    for pipe in (
        Pipeline([("model", ItemNeighbours())]),
        Pipeline([("nothing", "passthrough"), ("model", ItemNeighbours())]),
        Pipeline([("a", keep), ("nothing", "passthrough"), ("model", ItemNeighbours())]),
        make_pipeline(keep, make_pipeline(keep, ItemNeighbours())),
        make_pipeline(keep, GridSearchCV(ItemNeighbours(), {"shrinkage": [1.0]}, scoring=scorer)),
        GridSearchCV(make_pipeline(keep, ItemNeighbours()), {"itemneighbours__shrinkage": [1.0]}, scoring=scorer),
    ):
        assert scorer(pipe.fit(X[:80]), X[80:]) == expected


def test_a_transform_may_drop_columns(X):
    wide = sp.csr_array(sp.hstack([X, sp.csr_array((120, 3))]))
    pipe = make_pipeline(VarianceThreshold(), ItemNeighbours()).fit(wide[:80])
    scorer = make_ranking_scorer("ndcg@10")
    assert scorer(pipe, wide[80:]) == scorer(ItemNeighbours().fit(X[:80]), X[80:])
    foldin, heldout = holdout_split(wide[80:], random_state=0)
    assert scorer(pipe, foldin, heldout) == scorer(pipe[-1], foldin[:, :30], heldout[:, :30])


def test_data_frames_keep_their_names(X):
    frame = pd.DataFrame(X.toarray(), columns=[f"item {i}" for i in range(30)])
    scorer = make_ranking_scorer("ndcg@10")
    foldin, heldout = holdout_split(X, random_state=0)
    shown, hidden = (pd.DataFrame(part.toarray(), columns=frame.columns) for part in (foldin, heldout))
    for form in (ItemNeighbours(), make_pipeline(Binarizer(), ItemNeighbours()).set_output(transform="pandas")):
        named, plain = clone(form).fit(frame), clone(form).set_params().fit(X.toarray())
        assert scorer(named, frame) == pytest.approx(scorer(plain, X.toarray()))  # warnings are errors here
        expected = pytest.approx(scorer(plain, foldin.toarray(), heldout.toarray()))
        assert scorer(named, shown, hidden) == expected
        assert scorer(named, shown, heldout) == expected
        assert scorer(plain, foldin.toarray(), hidden) == expected
    others = {"item 0": "another"}
    with pytest.raises(ValueError, match="column 0 of y is 'another' where X has 'item 0'; pass y\\[X.columns\\]"):
        scorer(named, shown, hidden.rename(columns=others))
    with pytest.raises(ValueError, match="feature names should match"):
        scorer(named, shown.rename(columns=others), hidden.rename(columns=others))


# --- inside scikit-learn's model selection ----------------------------------------------------------------------------


@pytest.fixture(params=["y=None", "y=csr_array", "y=csr_matrix"])
def shown_and_hidden(request, X):
    if request.param == "y=None":
        return X, None
    kind = sp.csr_array if request.param == "y=csr_array" else sp.csr_matrix
    return tuple(kind(part) for part in holdout_split(X, random_state=0))


def by_hand(model, X, y, metric, k):
    scores = []
    for train, test in FOLDS.split(X):
        model = clone(model).fit(X[train])
        foldin, heldout = content_holdout(X[test]) if y is None else (X[test], y[test])
        scores.append(metric(heldout, masked(model.decision_function(foldin), foldin), k=k))
    return scores


def test_cross_validation_is_strong_generalisation(shown_and_hidden):
    X, y = shown_and_hidden
    scoring = make_ranking_scorer(["ndcg@10", "recall@5"])
    dense_y = None if y is None else y.toarray()  # scikit-learn's cross_validate refuses a sparse y ...
    results = cross_validate(ItemNeighbours(), X, dense_y, scoring=scoring, cv=FOLDS, error_score="raise")
    expected = {"ndcg@10": by_hand(ItemNeighbours(), X, y, ndcg_at_k, 10)}
    expected["recall@5"] = by_hand(ItemNeighbours(), X, y, recall_at_k, 5)
    # ... a search over nothing does not, and cross-validates as well
    search = GridSearchCV(ItemNeighbours(), {}, scoring=scoring, cv=FOLDS, refit=False, error_score="raise").fit(X, y)
    for name, scores in expected.items():
        assert_array_equal(results[f"test_{name}"], scores)
        assert_array_equal([search.cv_results_[f"split{i}_test_{name}"][0] for i in range(4)], scores)


def test_grid_search_finds_the_better_model(shown_and_hidden):
    X, y = shown_and_hidden
    pipe = Pipeline([("binarise", Binarizer()), ("model", Popularity())])
    grid = {"model": [Popularity(), ItemNeighbours(), Popularity(reverse=True)]}
    search = GridSearchCV(
        pipe,
        grid,
        scoring=make_ranking_scorer(["ndcg@100", "recall@5"]),
        refit="ndcg@100",
        cv=FOLDS,
        return_train_score=True,
        error_score="raise",
    ).fit(X, y)
    assert type(search.best_params_["model"]) is ItemNeighbours
    assert_array_equal(search.cv_results_["rank_test_ndcg@100"], [2, 1, 3])
    assert_array_equal(search.cv_results_["rank_test_recall@5"], [2, 1, 3])
    assert (search.cv_results_["mean_train_recall@5"] > 0).all()


def test_scores_do_not_depend_on_n_jobs(shown_and_hidden):
    X, y = shown_and_hidden
    pipe = make_pipeline(FunctionTransformer(accept_sparse=True), ItemNeighbours())
    one, two = (
        GridSearchCV(
            pipe,
            {"itemneighbours__shrinkage": GRID["shrinkage"]},
            scoring=make_ranking_scorer("ndcg"),
            cv=FOLDS,
            n_jobs=n_jobs,
            error_score="raise",
        ).fit(X, y)
        for n_jobs in (1, 2)
    )
    assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])
    assert len(set(one.cv_results_["mean_test_score"])) > 1


def test_successive_halving(shown_and_hidden):
    X, y = shown_and_hidden
    search = HalvingGridSearchCV(
        Popularity(),
        {"reverse": [True, False]},
        scoring=make_ranking_scorer("recall@5"),
        cv=2,
        random_state=0,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"reverse": False}


def test_a_finished_search_is_scored_by_its_winner(X):
    train, test = train_test_split(X, random_state=0)
    scorer = make_ranking_scorer("ndcg@10")
    search = GridSearchCV(ItemNeighbours(), GRID, scoring=scorer, cv=FOLDS).fit(train)
    assert search.score(test) == scorer(search, test) == scorer(search.best_estimator_, test)
    assert cross_val_score(search, X, scoring=scorer, cv=2, error_score="raise").shape == (2,)
    pipe = make_pipeline(FunctionTransformer(likes, accept_sparse=True), Recommending())
    search = GridSearchCV(pipe, {"recommending__shrinkage": [1.0]}, scoring=scorer, cv=FOLDS).fit(train)
    assert scorer(search, test) == scorer(search.best_estimator_[-1], likes(test))


# --- the scorer as an object ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "metric, k",
    [("ndcg", 7), ("ndcg", None), ("recall@20", None), (["ndcg@100", "recall@20"], None), (["ndcg", "recall@20"], 7)],
)
def test_scorers_can_be_copied_compared_and_read(metric, k, X):
    scorer = make_ranking_scorer(metric, k=k, holdout=0.25, seed=3)
    model = Popularity().fit(X)
    for twin in (pickle.loads(pickle.dumps(scorer)), copy.deepcopy(scorer), clone(scorer), eval(repr(scorer))):
        assert twin == scorer and hash(twin) == hash(scorer)
        assert twin(model, X) == scorer(model, X)
    assert scorer != make_ranking_scorer(metric, k=k, holdout=0.25, seed=4)
    assert make_ranking_scorer("ndcg") == make_ranking_scorer("ndcg", k=100)
    assert repr(make_ranking_scorer("recall@20")) == "make_ranking_scorer('recall@20', holdout=0.2, seed=0)"
    clone(GridSearchCV(model, {}, scoring=scorer))


def test_the_length_in_the_name_stands_above_k(X):
    model = Popularity().fit(X)
    foldin, heldout = content_holdout(X)
    scores = masked(model.decision_function(foldin), foldin)
    expected = {"dcg@3": dcg_at_k(heldout, scores, k=3), "dcg": dcg_at_k(heldout, scores, k=9)}
    assert make_ranking_scorer(["dcg@3", "dcg"], k=9)(model, X) == expected
    assert make_ranking_scorer("dcg@3")(model, X) == expected["dcg@3"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"metric": "accuracy"}, "'accuracy' is no ranking metric; choose from ndcg, recall"),
        ({"metric": "ndcg@"}, "'ndcg@' is no ranking metric"),
        ({"metric": "ndcg@0"}, "'ndcg@0' is no ranking metric"),
        ({"metric": "ndcg@2.5"}, "'ndcg@2.5' is no ranking metric"),
        ({"metric": ["ndcg", 3]}, "3 is no ranking metric"),
        ({"metric": []}, "one metric or several"),
        ({"metric": ["mrr", "mrr"]}, "several different ones"),
        ({"k": 0}, "k=0"),
        (
            {"metric": "ndcg@10", "k": 20},
            "k=20 is for metrics without a length of their own, but 'ndcg@10' has its own",
        ),
        ({"metric": ["ndcg@10", "mrr@3"], "k": 10}, "leave out one of the two"),
        ({"holdout": 1.0}, r"holdout=1\.0"),
        ({"seed": None}, "seed=None"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_ranking_scorer(**arguments)


def test_what_cannot_be_scored_is_named(X):
    scorer, model = make_ranking_scorer(), Popularity().fit(X)
    with pytest.raises(ValueError, match=r"in the shape of X, \(120, 30\), but it has \(120, 29\)"):
        scorer(model, X, X[:, :29])
    with pytest.raises(ValueError, match=r"in the shape of X, \(120, 30\), but it has \(120, 1\)"):
        scorer(model, X, np.zeros((120, 1)))
    with pytest.raises(TypeError, match="recommender, with recommend or decision_function, but Binarizer"):
        scorer(Binarizer().fit(X), X)
    with pytest.raises(NotFittedError):
        scorer(GridSearchCV(Popularity(), {}), X)
    with pytest.raises(TypeError, match="with refit"):
        scorer(GridSearchCV(Binarizer(), {}), X)

    class OneColumn(Popularity):
        def decision_function(self, X):
            return np.zeros(X.shape[0])

    class NotANumber(Popularity):
        def decision_function(self, X):
            return np.full(X.shape, np.nan)

    with pytest.raises(ValueError, match=r"OneColumn.decision_function must score every item, shape \(120, 30\)"):
        scorer(OneColumn().fit(X), X)
    with pytest.raises(ValueError, match="user 0, item .* is NaN"):
        scorer(NotANumber().fit(X), X)
