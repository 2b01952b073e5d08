"""What holds for every recommender, whatever it learns."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skvae import (
    EASERecommender,
    ELSARecommender,
    LOCARecommender,
    MultDAERecommender,
    MultVAERecommender,
    PopularityRecommender,
    RecVAERecommender,
    VotingRecommender,
)
from skvae.datasets import make_interactions
from skvae.metrics import make_ranking_scorer

N_USERS, N_ITEMS = 60, 12
QUICK = {"learning_rate": 0.05, "max_iter": 8, "random_state": 0}
RECOMMENDERS = {
    "MultVAE": MultVAERecommender(4, **QUICK),
    "MultDAE": MultDAERecommender(4, **QUICK),
    "RecVAE": RecVAERecommender(4, hidden_size=8, n_layers=2, **QUICK),
    "EASE": EASERecommender(5),
    "ELSA": ELSARecommender(4, **QUICK),
    "Popularity": PopularityRecommender(),
    "Voting": VotingRecommender(
        [("dae", MultDAERecommender(4, **QUICK)), ("ease", EASERecommender(5))], weights=(1, 2)
    ),
    "LOCA": LOCARecommender(
        EASERecommender(5), embedding=MultVAERecommender(3, **QUICK), n_anchors=4, bandwidth=1.2, random_state=0
    ),
}
PERSONAL = sorted(set(RECOMMENDERS) - {"Popularity"})


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, n_factors=2, mean_interactions=5, random_state=1).astype(np.float64)


@pytest.fixture(scope="module", params=sorted(RECOMMENDERS))
def model(request, X):
    return clone(RECOMMENDERS[request.param]).fit(X)


def checkerboard(n_users=80, n_items=16):
    """Even users have the even items, odd users the odd ones; one item a user is withheld."""
    full = (np.add.outer(np.arange(n_users), np.arange(n_items)) % 2 == 0).astype(np.float64)
    withheld = np.array([np.flatnonzero(row)[user // 2 % (n_items // 2)] for user, row in enumerate(full)])
    shown = full.copy()
    shown[np.arange(n_users), withheld] = 0
    return full, shown, withheld


# ------------------------------------------------------------------------------------------------------- what it learns
@pytest.mark.parametrize("name", PERSONAL)
def test_a_withheld_item_of_a_checkerboard_comes_first(name):
    full, shown, withheld = checkerboard()
    model = clone(RECOMMENDERS[name])
    networks = {key: value for key, value in {"max_iter": 60, "n_components": 4}.items() if key in model.get_params()}
    model = model.set_params(**networks).fit(shown)
    assert (model.predict(shown) == withheld).mean() > 0.95


def test_permuted_items_have_permuted_scores(X):
    order = np.random.default_rng(0).permutation(N_ITEMS)
    for name in ("EASE", "Popularity"):
        one, other = (clone(RECOMMENDERS[name]).fit(part) for part in (X, X[:, order]))
        np.testing.assert_allclose(
            other.decision_function(X[:, order]), one.decision_function(X)[:, order], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_weights_are_repeats(name, X):
    weight = np.random.default_rng(0).integers(0, 4, N_USERS)
    weighted = clone(RECOMMENDERS[name]).fit(X, sample_weight=weight)
    repeated = clone(RECOMMENDERS[name]).fit(X[np.repeat(np.arange(N_USERS), weight)])
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), rtol=1e-5, atol=1e-8)
    plain = clone(RECOMMENDERS[name]).fit(X)
    assert np.abs(plain.decision_function(X) - weighted.decision_function(X)).max() > 1e-4


@pytest.mark.parametrize("weight", [-np.ones(N_USERS), np.ones(N_USERS - 1), np.full(N_USERS, np.nan)])
def test_bad_weights_are_refused(weight, model, X):
    with pytest.raises(ValueError):
        clone(model).fit(X, sample_weight=weight)


# ------------------------------------------------------------------------------------------------------------ new items
GROWS = sorted(name for name in RECOMMENDERS if hasattr(RECOMMENDERS[name], "partial_fit"))
KNOWN = N_ITEMS - 3


@pytest.fixture(params=GROWS)
def growing(request):
    return clone(RECOMMENDERS[request.param])


def test_new_items_join_the_known_ones(growing, X):
    frame = pd.DataFrame(X.toarray(), columns=[f"song {i}" for i in range(N_ITEMS)])
    growing.partial_fit(frame.iloc[:30, :KNOWN])
    growing.partial_fit(frame.iloc[30:], new_items=frame.columns[KNOWN:])
    assert growing.n_features_in_ == N_ITEMS and list(growing.feature_names_in_) == list(frame.columns)
    names, _ = growing.recommend(frame, k=N_ITEMS, names=True)
    assert set(frame.columns[KNOWN:]) < set(names.ravel()) and growing.score(frame) > 0
    growing.partial_fit(frame)
    plain = clone(growing).partial_fit(X[:30, :KNOWN]).partial_fit(X[30:], new_items=range(KNOWN, N_ITEMS))
    plain.partial_fit(X)
    np.testing.assert_array_equal(plain.decision_function(X), growing.decision_function(frame))


@pytest.mark.parametrize(
    "growing", [clone(RECOMMENDERS["EASE"]), PopularityRecommender(), PopularityRecommender(half_life=3)], ids=repr
)
def test_a_grown_model_without_epochs_is_that_of_one_fit(growing, X):
    """To all users, the first of whom had none of the new items; for rows of counts too."""
    early, late = X[:25] * 2, X[25:]
    early = sp.csr_array(early.toarray() * (np.arange(N_ITEMS) < KNOWN))
    times = {}
    if getattr(growing, "half_life", None):
        times = {"times": sp.csr_array(np.add.outer(np.arange(N_USERS), np.arange(N_ITEMS)) + 1.0)}
    weight = np.random.default_rng(0).random(N_USERS) + 0.5
    both = sp.vstack([early, late], format="csr")
    whole = clone(growing).fit(both, sample_weight=weight, **times)
    part = {name: table[:25, :KNOWN] for name, table in times.items()}
    growing.partial_fit(early[:, :KNOWN], sample_weight=weight[:25], **part)
    part = {name: table[25:] for name, table in times.items()}
    growing.partial_fit(late, sample_weight=weight[25:], new_items=range(KNOWN, N_ITEMS), **part)
    users = sp.vstack([both, sp.csr_array((1, N_ITEMS))], format="csr")
    np.testing.assert_allclose(growing.decision_function(users), whole.decision_function(users), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("hidden_layer_sizes", [(), (5,)])
def test_a_network_that_grows_forgets_nothing(hidden_layer_sizes, X):
    """Without a step to speak of, users of known items have the same scores of known items."""
    network = MultVAERecommender(4, hidden_layer_sizes=hidden_layer_sizes, **QUICK).set_params(weight_decay=0.0)
    known = X[:, :KNOWN]
    before = network.partial_fit(known).decision_function(known)
    averages = network._optimizer_state
    network.set_params(learning_rate=1e-30).partial_fit(X, new_items=range(KNOWN, N_ITEMS))
    as_known = sp.csr_array((known.data, known.indices, known.indptr), shape=X.shape)
    np.testing.assert_allclose(network.decision_function(as_known)[:, :KNOWN], before, rtol=1e-5, atol=1e-6)
    for name, value in network.parameters_.items():
        for average in ("exp_avg", "exp_avg_sq"):
            assert network._optimizer_state[f"{name}.{average}"].shape == value.shape
    assert network._optimizer_state["step"] > averages["step"]
    network.set_params(learning_rate=0.05).partial_fit(X)
    assert np.isfinite(network.decision_function(X)).all()


@pytest.mark.parametrize(
    ("n_columns", "new_items", "message"),
    [
        (N_ITEMS, None, "X has 12 features, but .* is expecting 9 .* named by new_items"),
        (KNOWN - 1, None, "X has 8 features, but .* is expecting 9"),
        (N_ITEMS, [9, 10], "X has 12 features, but .* is expecting 11"),
        (N_ITEMS, [10, 9, 11], r"3 of them are the columns \[9, 10, 11\]"),
        (N_ITEMS, 3, "a list of columns"),
        (N_ITEMS, ["a", "b", "c"], r"3 of them are the columns \[9, 10, 11\]"),
    ],
)
def test_items_come_in_by_explicit_ids_only(n_columns, new_items, message, growing, X):
    growing.partial_fit(X[:, :KNOWN])
    before = growing.decision_function(X[:, :KNOWN])
    with pytest.raises(ValueError, match=message):
        growing.partial_fit(X[:, :n_columns], new_items=new_items)
    np.testing.assert_array_equal(growing.decision_function(X[:, :KNOWN]), before)


def test_names_of_new_items_are_checked(growing, X):
    frame = pd.DataFrame(X.toarray(), columns=[f"song {i}" for i in range(N_ITEMS)])
    with pytest.raises(ValueError, match="no fit has seen an item"):
        growing.partial_fit(frame, new_items=["song 9"])
    growing.partial_fit(frame.iloc[:, :KNOWN])
    new = list(frame.columns[KNOWN:])
    with pytest.raises(ValueError, match="known|first and in the same order"):
        growing.partial_fit(frame[new + list(frame.columns[:KNOWN])], new_items=new)
    with pytest.raises(ValueError, match="'song 0' as a new item, but there is one"):
        growing.partial_fit(frame, new_items=["song 9", "song 0", "song 10"])
    with pytest.raises(ValueError, match="new_items takes names, but got 9"):
        growing.partial_fit(frame, new_items=[9, 10, 11])
    with pytest.raises(ValueError, match="named by new_items"):
        growing.partial_fit(frame)


# ----------------------------------------------------------------------------------------------------- what it is asked
def spoilt(X, value):
    X = X.copy()
    X.data[3] = value
    return X


@pytest.mark.parametrize(
    "bad",
    [
        lambda X: spoilt(X, np.nan),
        lambda X: spoilt(X, np.inf),
        lambda X: spoilt(X, -1.0),
        lambda X: X[:, :-1],
        lambda X: sp.hstack([X, X[:, :1]], format="csr"),
        lambda X: X[:0],
        lambda X: X.astype(complex),
    ],
)
def test_rows_in_the_right_form_are_checked_too(bad, model, X):
    for given in (bad(X[:4]), bad(X[:4]).toarray()):
        with pytest.raises(ValueError):
            model.recommend(given)


def test_rows_in_any_form_are_read_alike_and_left_alone(model, X):
    some = X[:4]
    backwards = np.concatenate([np.arange(b - 1, a - 1, -1) for a, b in zip(some.indptr, some.indptr[1:])])
    halves = np.repeat(backwards, 2), np.repeat(some.data[backwards] / 2, 2)
    twice = sp.csr_array((halves[1], some.indices[halves[0]], 2 * some.indptr), shape=some.shape)
    explicit = sp.csr_array(
        (some.toarray().ravel(), np.tile(np.arange(N_ITEMS), 4), N_ITEMS * np.arange(5)), shape=some.shape
    )
    want = model.recommend(some, k=N_ITEMS)
    dense = some.toarray()
    for given in (twice, explicit, dense, np.asfortranarray(dense), dense.astype(">f8"), dense.astype(int)):
        before = given.copy()
        ids, scores = model.recommend(given, k=N_ITEMS)
        np.testing.assert_array_equal(ids, want[0])
        np.testing.assert_allclose(scores, want[1], rtol=1e-5, atol=1e-6)
        for one, other in ((given, before),) if isinstance(given, np.ndarray) else zip(parts(given), parts(before)):
            np.testing.assert_array_equal(one, other)


def parts(X):
    return X.data, X.indices, X.indptr


def test_a_user_scores_alike_in_any_company(model, X):
    some = [7, 3, 30]
    np.testing.assert_allclose(model.decision_function(X[some]), model.decision_function(X)[some], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array, sp.coo_array, np.asarray, pd.DataFrame])
def test_every_container_gives_the_same(kind, model, X):
    given, fitted = kind(X.toarray()), model
    if kind is pd.DataFrame:
        given.columns = list("abcdefghijkl")
        fitted = clone(model).fit(given)
    np.testing.assert_allclose(fitted.decision_function(given), model.decision_function(X), rtol=1e-12)


def test_single_precision_comes_out_as_it_went_in(model, X):
    single = model.decision_function(X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, model.decision_function(X), rtol=1e-3, atol=1e-4)


def test_unseen_users_score_as_identical_training_users(model, X):
    np.testing.assert_allclose(
        model.decision_function(X[:5].copy()), model.decision_function(X)[:5], rtol=1e-6, atol=1e-8
    )


def test_odd_users_get_lists(model, X):
    """One who has nothing, one item, all items; and more items are asked for than there are."""
    users = np.zeros((3, N_ITEMS))
    users[1, 4], users[2] = 1, 1
    ids, scores = model.recommend(users, k=N_ITEMS + 3)
    assert ids.shape == (3, N_ITEMS + 3) and (ids[:, N_ITEMS:] == -1).all()
    assert sorted(ids[0, :N_ITEMS]) == list(range(N_ITEMS)) and 4 not in ids[1] and (ids[2] == -1).all()
    assert np.isfinite(scores[ids >= 0]).all() and (scores[ids < 0] == -np.inf).all()
    assert model.predict(users)[2] == -1


def test_a_user_without_items_gets_the_order_of_popularity(X):
    popular = np.argsort(-np.asarray(X.sum(axis=0)).ravel(), kind="stable")
    for name in ("EASE", "ELSA", "Popularity"):
        ids, _ = clone(RECOMMENDERS[name]).fit(X).recommend(np.zeros((1, N_ITEMS)), k=N_ITEMS)
        np.testing.assert_array_equal(ids[0], popular)


# -------------------------------------------------------------------------------------------------------------- filters
def test_nothing_leaks_through_a_filter(model, X):
    rng = np.random.default_rng(0)
    mask = rng.random((N_USERS, N_ITEMS)) < 0.4
    dense, rows = X.toarray() > 0, np.arange(N_USERS)[:, None]
    lists = [np.flatnonzero(row).tolist() for row in mask]
    for given in (mask, sp.csr_array(mask), lists, [set(part) for part in lists]):
        only, _ = model.recommend(X, k=N_ITEMS, items=given)
        never, _ = model.recommend(X, k=N_ITEMS, filter_items=given)
        assert (mask[rows, only] | (only < 0)).all() and (~mask[rows, never] | (never < 0)).all()
        for ids, allowed in ((only, mask & ~dense), (never, ~mask & ~dense)):
            np.testing.assert_array_equal((ids >= 0).sum(1), allowed.sum(1))
    for ids in (model.recommend(X, N_ITEMS, items=[1, 4])[0], model.recommend(X, N_ITEMS, items=[[1, 4]] * N_USERS)[0]):
        assert set(np.unique(ids)) <= {-1, 1, 4}


def test_a_filter_of_each_user_may_meet_one_of_all(model, X):
    mask = np.random.default_rng(0).random((N_USERS, N_ITEMS)) < 0.5
    ids, _ = model.recommend(X, k=N_ITEMS, items=[0, 2, 4, 6], filter_items=mask)
    assert set(np.unique(ids)) <= {-1, 0, 2, 4, 6}
    assert not mask[np.arange(N_USERS)[:, None], ids][ids >= 0].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1], [2]], "holds 2 lists, but X has 60 users"),
        (np.ones((3, N_ITEMS), bool), r"matrix of \(3, 12\)"),
        ([[99]] * N_USERS, r"items\[0\] holds column 99"),
        ([["a"]] * N_USERS, "column numbers or a mask"),
    ],
)
def test_bad_filters_of_each_user_are_refused(given, message, model, X):
    with pytest.raises(ValueError, match=message):
        model.recommend(X, items=given)


# ---------------------------------------------------------------------------------------- items like these, and reasons
def test_similar_items_are_those_of_a_user_with_one(model, X):
    ids, scores = model.similar_items([3, 8], k=5)
    one = np.zeros((2, N_ITEMS), np.float32)
    one[0, 3] = one[1, 8] = 1
    np.testing.assert_array_equal(ids, model.recommend(one, k=5)[0])
    assert 3 not in ids[0] and 8 not in ids[1] and scores.shape == (2, 5)
    assert 0 not in model.similar_items(3, k=N_ITEMS, filter_items=[0])[0]
    with pytest.raises(ValueError, match="items holds column 12"):
        model.similar_items(12)


def test_similar_users_have_the_largest_cosines(model, X, monkeypatch):
    """By brute force; each block holds few users."""
    if not hasattr(model, "similar_users"):
        with pytest.raises(AttributeError):
            model.similar_users(X)
        return
    monkeypatch.setattr("skvae._tensors._block_sizes._BLOCK_CELLS", 5 * N_USERS)
    X = sp.vstack([X, sp.csr_array((1, N_ITEMS))], format="csr")  # the last has nothing
    Z = getattr(model, "embedding_", model).transform(X)
    Z = Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-300)
    cosine = Z[:7] @ Z[7:].T
    rows, similarity = model.similar_users(X[:7], X[7:], k=4)
    assert rows.dtype == np.int64 and similarity.dtype == X.dtype
    np.testing.assert_allclose(similarity, -np.sort(-cosine, axis=1)[:, :4], rtol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosine, rows, axis=1), similarity, rtol=1e-6)

    among, own = model.similar_users(X, k=N_USERS + 5)
    assert (among != np.arange(N_USERS + 1)[:, None]).all() and (np.sort(among[:, :N_USERS]) >= 0).all()
    assert (among[:, N_USERS:] == -1).all() and (own[:, N_USERS:] == -np.inf).all()
    assert (own[-1, :N_USERS] == 0).all()
    oneself = model.similar_users(X[:-1], X[:-1].astype(np.float32), k=1)[1]  # a candidate may be the user
    assert (oneself > 1 - 1e-6).all() and (oneself <= 1).all()

    mask = np.random.default_rng(0).random((7, N_USERS - 6)) < 0.5
    kept, _ = model.similar_users(X[:7], X[7:], k=N_USERS, filter_users=mask)
    assert not mask[np.arange(7)[:, None], kept][kept >= 0].any()
    assert 3 not in model.similar_users(X, k=N_USERS, filter_users=[3])[0]
    with pytest.raises(ValueError, match="filter_users holds row 99, but the rows of the candidates run from 0 to 60"):
        model.similar_users(X, filter_users=[99])
    with pytest.raises(ValueError, match="k >= 1"):
        model.similar_users(X, k=0)


def test_reasons_are_what_a_score_loses_without_an_item(model, X):
    items = model.predict(X[:4])
    found = model.explain(X[:4], items)
    dense = X[:4].toarray()
    np.testing.assert_array_equal(found.indptr, X[:4].indptr)
    for user in range(4):
        for place in range(found.indptr[user], found.indptr[user + 1]):
            without = dense[user : user + 1].copy()
            without[0, found.indices[place]] = 0
            if not without.any():
                continue  # of no items, EASE falls back to popularity
            loss = model.decision_function(dense[user : user + 1]) - model.decision_function(without)
            assert found.data[place] == pytest.approx(loss[0, items[user]], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["EASE", "ELSA"])
def test_reasons_of_linear_models_sum_to_the_score(name, X):
    linear = clone(RECOMMENDERS[name]).fit(X)
    items = np.arange(N_USERS) % N_ITEMS
    whole = linear.decision_function(X)[np.arange(N_USERS), items]
    some = np.diff(X.indptr) > 0
    np.testing.assert_allclose(linear.explain(X, items).sum(axis=1)[some], whole[some], rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="items names 3 items for 60 users"):
        linear.explain(X, [0, 1, 2])


def test_names_go_in_and_out(model, X):
    frame = pd.DataFrame(X.toarray(), columns=[f"song {i}" for i in range(N_ITEMS)])
    named = clone(model).fit(frame)
    ids, _ = named.recommend(frame, k=N_ITEMS)
    names, _ = named.recommend(frame, k=N_ITEMS, names=True)
    assert (names == np.append(frame.columns.to_numpy(object), None)[ids]).all()
    assert "song 3" not in named.similar_items(["song 3"], names=True)[0]
    named.explain(frame[:2], "song 1")
    with pytest.raises(ValueError, match="knows no names of items"):
        model.recommend(X, names=True)


# ------------------------------------------------------------------------------------------------- inside scikit-learn
def test_it_scores_in_searches_and_pipelines(model, X):
    piped = make_pipeline(FunctionTransformer(np.sqrt, accept_sparse=True), clone(model)).fit(X)
    scorer = make_ranking_scorer("ndcg@5")
    assert 0 <= scorer(piped, X) <= 1
    grid = {"functiontransformer__func": [np.sqrt, None]}
    search = GridSearchCV(piped, grid, scoring=scorer, cv=KFold(2), error_score="raise").fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_failed_fit_changes_nothing(model, X):
    before = model.decision_function(X)
    for bad in (X * np.nan, np.zeros((4, N_ITEMS)) - 1):
        with pytest.raises(ValueError):
            model.fit(bad)
    np.testing.assert_array_equal(model.decision_function(X), before)
