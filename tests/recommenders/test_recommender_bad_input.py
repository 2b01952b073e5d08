"""Odd input to `MultVAERecommender`: for each kind a clear error, or the right answer."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from skvae import MultVAERecommender
from skvae.datasets import make_interactions

N_USERS, N_ITEMS = 30, 12
AFTER_FIT = ["decision_function", "recommend", "predict", "transform", "posterior", "elbo", "score"]
PER_USER = AFTER_FIT[:-1]


def tiny(**parameters):
    return MultVAERecommender(**{"n_components": 3, "max_iter": 2, "random_state": 0, **parameters})


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, n_factors=2, mean_interactions=5, random_state=0).astype(np.float64)


@pytest.fixture(scope="module")
def model(X):
    return tiny().fit(X)


@pytest.fixture(scope="module")
def expected(model, X):
    return {method: arrays(model, method, X) for method in AFTER_FIT}


def arrays(model, method, X):
    found = getattr(model, method)(X)
    return found if isinstance(found, tuple) else (found,)


def with_cell(X, value):
    changed = X.toarray()
    changed[2, 4] = value
    return changed


def ways_in(model, X, given):
    """Every method that takes users, called with `given`; `X` is good input for the fit before it."""
    calls = [lambda: tiny().fit(given), lambda: tiny().partial_fit(given), lambda: tiny().fit(X, X_val=given)]
    calls += [lambda: model.partial_fit(given)]
    return calls + [lambda method=method: getattr(model, method)(given) for method in AFTER_FIT]


# ------------------------------------------------------------------------------------------------- values and shapes
@pytest.mark.parametrize("container", [np.asarray, sp.csr_array, sp.csc_matrix, pd.DataFrame])
@pytest.mark.parametrize(
    "value, message",
    [(-1.0, "Negative values in data"), (np.nan, "contains NaN"), (np.inf, "contains infinity")],
)
def test_negative_nan_and_infinite_values_are_refused_everywhere(value, message, container, model, X):
    given = container(with_cell(X, value))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X has feature names")
        for call in ways_in(model, X, given):
            with pytest.raises(ValueError, match=message):
                call()


@pytest.mark.parametrize(
    "given, message",
    [
        (np.empty((0, N_ITEMS)), r"0 sample\(s\) \(shape=\(0, 12\)\)"),
        (np.empty((5, 0)), r"0 feature\(s\) \(shape=\(5, 0\)\)"),
        (sp.csr_array((0, N_ITEMS)), r"0 sample\(s\) \(shape=\(0, 12\)\)"),
        (np.ones(N_ITEMS), "Expected 2D array, got 1D array"),
        (np.ones((2, 3, 4)), "dim 3"),
        (np.array([["a"] * N_ITEMS] * 3), "could not convert string to float"),
        (np.ones((3, N_ITEMS)) * 1j, "Complex data not supported"),
    ],
)
def test_what_is_no_matrix_of_users_is_refused(given, message, model):
    with pytest.raises(ValueError, match=message):
        tiny().fit(given)
    for method in AFTER_FIT:
        with pytest.raises(ValueError):
            getattr(model, method)(given)


@pytest.mark.parametrize("width", [1, N_ITEMS - 1, N_ITEMS + 1])
def test_another_width_is_refused(width, model):
    message = f"X has {width} features, but MultVAERecommender is expecting {N_ITEMS} features"
    for call in [model.partial_fit, *(getattr(model, method) for method in AFTER_FIT)]:
        with pytest.raises(ValueError, match=message):
            call(np.ones((4, width)))


def test_validation_users_of_another_width_are_refused(X):
    with pytest.raises(ValueError, match="X has 7 features, but MultVAERecommender is expecting 12 features"):
        tiny().fit(X, X_val=np.ones((4, 7)))


@pytest.mark.parametrize("method", AFTER_FIT + ["partial_fit"])
def test_columns_that_do_not_match_by_name_are_refused(method, X):
    frame = pd.DataFrame(X.toarray(), columns=[f"song {i}" for i in range(N_ITEMS)])
    model = tiny().fit(frame)
    renamed, reordered = frame.rename(columns={"song 3": "book 3"}), frame[frame.columns[::-1]]
    with pytest.raises(ValueError, match="(?s)feature names should match.*unseen at fit time:\n- book 3"):
        getattr(model, method)(renamed)
    with pytest.raises(ValueError, match="(?s)feature names should match.*same order"):
        getattr(model, method)(reordered)
    with pytest.raises(ValueError, match="(?s)feature names should match"):
        tiny().fit(frame, X_val=renamed)


@pytest.mark.parametrize("given", [3, np.int64(3), [3, 5], "ann", ["ann", "bob"]])
def test_ids_in_place_of_rows_are_refused_in_words(given, model):
    for method in PER_USER:
        with pytest.raises(ValueError, match="X takes rows of numbers, not ids"):
            getattr(model, method)(given)


# ---------------------------------------------------------------------------------------------------------- zeros
@pytest.mark.parametrize("container", [np.asarray, sp.csr_array])
def test_a_matrix_without_interactions_teaches_nothing(container, X):
    for method in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match=r"no interaction in X: all \(4, 5\) cells are zero"):
            getattr(tiny(), method)(container(np.zeros((4, 5))))
    stored = sp.csr_array((np.zeros(3), ([0, 1, 2], [1, 2, 0])), shape=(4, 5))
    with pytest.raises(ValueError, match=r"no interaction in X: all \(4, 5\) cells are zero"):
        tiny().fit(stored)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_user_without_interactions_has_the_prior(dtype, container, model):
    nobody = container(np.zeros((3, N_ITEMS), dtype=dtype))
    mean, std = model.posterior(nobody)
    assert (mean == 0).all() and (std == 1).all()
    assert (model.transform(nobody) == 0).all()
    assert (model.elbo(nobody) == 0).all()
    scores = model.decision_function(nobody)
    assert np.isfinite(scores).all() and (scores == scores[0]).all()
    ids, _ = model.recommend(nobody, N_ITEMS)
    assert (np.sort(ids) == np.arange(N_ITEMS)).all()
    assert (model.predict(nobody) == scores[0].argmax()).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_user_without_interactions_is_scored_under_every_likelihood(likelihood, X):
    model = tiny(likelihood=likelihood).fit(X)
    nobody = np.zeros((1, N_ITEMS))
    assert np.isfinite(model.decision_function(nobody)).all() and np.isfinite(model.elbo(nobody)).all()
    assert (model.posterior(nobody)[0] == 0).all()


def test_a_user_without_interactions_changes_nobody_else(model, X, expected):
    mixed = np.insert(X.toarray(), 4, 0, axis=0)
    for method in PER_USER:
        for found, before in zip(arrays(model, method, mixed), expected[method]):
            np.testing.assert_allclose(np.delete(found, 4, axis=0), before, rtol=0, atol=1e-10)
    assert model.score(mixed) == pytest.approx(expected["score"][0], abs=1e-12)


@pytest.mark.parametrize("rows", [np.zeros((3, N_ITEMS)), np.eye(N_ITEMS)])
def test_score_needs_somebody_with_something_to_hide(rows, model):
    with pytest.raises(ValueError, match="held-out|interactions"):
        model.score(rows)


@pytest.mark.parametrize("rows", [np.zeros((3, N_ITEMS)), np.eye(N_ITEMS)])
def test_validation_users_need_something_to_hide(rows, X):
    with pytest.raises(ValueError, match="X_val|validation|held-out"):
        tiny().fit(X, X_val=rows)


# ------------------------------------------------------------------------------------------------------- small worlds
@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli", "gaussian"])
def test_one_user(likelihood, X):
    model = tiny(likelihood=likelihood).fit(X[[1]])
    assert np.isfinite(model.decision_function(X)).all()
    assert np.isfinite(model.elbo(X)).all()
    assert model.recommend(X[[1]], 2)[0].shape == (1, 2)


@pytest.mark.parametrize("likelihood", ["multinomial", "bernoulli", "gaussian"])
def test_one_item(likelihood):
    clicks = np.array([[1.0], [0.0], [1.0]])
    model = tiny(n_components=1, likelihood=likelihood).fit(clicks)
    assert model.decision_function(clicks).shape == (3, 1)
    np.testing.assert_array_equal(model.predict(clicks), [-1, 0, -1])
    ids, scores = model.recommend(clicks, 3)
    np.testing.assert_array_equal(ids, [[-1, -1, -1], [0, -1, -1], [-1, -1, -1]])
    assert np.isfinite(scores[1, 0]) and (np.delete(scores.ravel(), 3) == -np.inf).all()


def test_one_user_and_one_item():
    assert tiny(n_components=1).fit([[1]]).predict([[0]]) == [0]


def test_more_components_than_items_are_warned_of():
    with pytest.warns(UserWarning, match="n_components=50 is larger than the number of items, 4.*lower") as caught:
        model = tiny(n_components=50).fit(np.eye(4))
    assert len(caught) == 1 and caught[0].filename == __file__
    assert model.transform(np.eye(4)).shape == (4, 50)
    assert np.isfinite(model.decision_function(np.eye(4))).all()


def test_more_components_than_users_and_the_default_number_are_not():
    tiny(n_components=N_ITEMS).fit(np.eye(3, N_ITEMS))
    MultVAERecommender(max_iter=2).fit(np.eye(4))


def test_an_item_that_nobody_chose(X):
    lonely = X.toarray()
    lonely[:, 5] = 0
    for likelihood in ("multinomial", "bernoulli", "gaussian"):
        scores = tiny(likelihood=likelihood, max_iter=10).fit(lonely).decision_function(lonely)
        assert np.isfinite(scores).all()
        assert (scores[:, 5] < np.median(scores, axis=1)).all()


def test_setting_aside_everybody_is_refused(X):
    for users, fraction in ((X[[0]].toarray(), 0.1), (np.ones((5, 4)), 0.99)):
        with pytest.raises(ValueError, match=rf"validation_fraction={fraction}.*n_samples = {users.shape[0]} users"):
            tiny(early_stopping=True, validation_fraction=fraction).fit(users)


@pytest.mark.parametrize("seed", range(5))
def test_setting_aside_counts_users_who_have_something_to_hide(seed):
    """Of 30 users only two have clicks; neither part may be left without any."""
    clicks = np.zeros((30, 6))
    clicks[[3, 17], :4] = 1
    model = tiny(early_stopping=True, validation_fraction=0.4, random_state=seed).fit(clicks)
    assert len(model.validation_scores_) == model.n_iter_


# -------------------------------------------------------------------------------------- more asked for than there is
@pytest.mark.parametrize("k", [N_ITEMS, N_ITEMS + 1, 100])
def test_lists_are_padded_where_fewer_than_k_items_are_left(k, model, X):
    ids, scores = model.recommend(X, k)
    left = N_ITEMS - (X.toarray() > 0).sum(axis=1)
    for user in range(N_USERS):
        assert (ids[user, : left[user]] >= 0).all() and np.isfinite(scores[user, : left[user]]).all()
        assert (ids[user, left[user] :] == -1).all() and (scores[user, left[user] :] == -np.inf).all()


def test_a_user_who_has_seen_everything(model):
    everything = np.ones((2, N_ITEMS))
    np.testing.assert_array_equal(model.predict(everything), [-1, -1])
    ids, scores = model.recommend(everything, 3)
    assert (ids == -1).all() and (scores == -np.inf).all()
    assert np.isfinite(model.decision_function(everything)).all() and np.isfinite(model.elbo(everything)).all()
    assert (model.recommend(everything, 3, exclude_seen=False)[0] >= 0).all()


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", None, True, np.array([2])])
def test_k_is_a_whole_number(k, model, X):
    with pytest.raises(ValueError, match=r"whole number k >= 1, but k="):
        model.recommend(X, k)


def test_k_may_be_a_numpy_integer(model, X):
    np.testing.assert_array_equal(model.recommend(X, np.int64(3))[0], model.recommend(X, 3)[0])


@pytest.mark.parametrize("name", ["items", "filter_items"])
@pytest.mark.parametrize(
    "given, message",
    [
        ([0, N_ITEMS], f"holds column {N_ITEMS}, but the columns of X run from 0 to {N_ITEMS - 1}"),
        ([-1, 2], "holds column -1, but the columns of X run from 0"),
        ([0.5, 2.0], rf"column numbers or a mask of shape \({N_ITEMS},\), but it has dtype float64"),
        (["song 1"], r"column numbers or a mask"),
        (np.ones(N_ITEMS - 1, dtype=bool), rf"mask of shape \({N_ITEMS},\), but it has dtype bool and shape \(11,\)"),
        ([[1, 2]], "holds 1 lists, but X has 30 users"),
        (3, r"shape \(\)"),
        ([0, 1] * 6, "holds 0 and 1 only, as often as there are columns: a mask, which must be Boolean"),
        ([[1, 2], [3]], "holds 2 lists, but X has 30 users"),
    ],
)
def test_items_must_be_columns(name, given, message, model, X):
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        model.recommend(X, 2, **{name: given})


@pytest.mark.parametrize("nothing", [[], np.array([], dtype=int), np.zeros(N_ITEMS, dtype=bool)])
def test_no_items_leave_nothing_and_filter_nothing(nothing, model, X):
    ids, scores = model.recommend(X, 2, items=nothing)
    assert (ids == -1).all() and (scores == -np.inf).all()
    np.testing.assert_array_equal(model.recommend(X, 2, filter_items=nothing)[0], model.recommend(X, 2)[0])


def test_filtering_everything_leaves_nothing(model, X):
    assert (model.recommend(X, 2, filter_items=range(N_ITEMS))[0] == -1).all()
    assert (model.recommend(X, 2, items=[1, 2], filter_items=[1, 2])[0] == -1).all()


@pytest.mark.parametrize("k", [1, 2, N_ITEMS])
@pytest.mark.parametrize("items", [[3, 3], [0, 1, 0, 1], [1, 4, 8, 4], np.zeros(2, dtype=np.uint8)])
def test_candidates_are_named_once(items, k, model, X):
    with pytest.raises(ValueError, match=r"items names each candidate once, but column \d+ is there \d+ times"):
        model.recommend(X, k, items=items)
    distinct = model.recommend(X, k, items=np.unique(items))
    np.testing.assert_array_equal(distinct[0], model.recommend(X, k, items=np.unique(items)[::-1])[0])


def test_negative_values_are_refused_with_a_remedy(X):
    with pytest.raises(ValueError, match="Negative values in data passed to X.*StandardScaler.*clip"):
        MultVAERecommender().fit(X.toarray() - 0.5)


def test_items_may_be_named_after_a_fit_on_a_frame(X):
    frame = pd.DataFrame(X.toarray() if sp.issparse(X) else X, columns=[f"song {j}" for j in range(N_ITEMS)])
    model = MultVAERecommender(n_components=3, max_iter=2, random_state=0).fit(frame)
    for name in ("items", "filter_items"):
        ids, _ = model.recommend(frame, 2, **{name: ["song 4", "song 1"]})
        np.testing.assert_array_equal(ids, model.recommend(frame, 2, **{name: [4, 1]})[0])
        with pytest.raises(ValueError, match=f"{name} holds 'song 99', but fit saw no item of that name"):
            model.recommend(frame, 2, **{name: ["song 99"]})


@pytest.mark.parametrize("kind", [sp.csr_array, sp.csr_matrix, sp.coo_array])
def test_a_purchase_and_its_refund_are_what_is_left_of_both(kind, model, X):
    dense = X.toarray() if sp.issparse(X) else np.array(X)
    row, column = np.nonzero(dense)
    value = dense[row, column].astype(float)
    row, column, value = (np.r_[part, part[:1]] for part in (row, column, value))
    value[0], value[-1] = value[0] + 1, -1.0  # in the same cell
    entries = (value, (row, column)) if kind is sp.coo_array else None
    if entries is None:  # duplicates stay side by side in CSR, as some tools leave them
        order = np.argsort(row, kind="stable")
        indptr = np.r_[0, np.bincount(row, minlength=len(dense)).cumsum()]
        entries = (value[order], column[order], indptr)
    given = kind(entries, shape=dense.shape)
    np.testing.assert_array_equal(model.decision_function(given), model.decision_function(dense.astype(float)))
    assert given.nnz == len(value)  # it stays as it is


def test_a_mask_may_be_a_list_or_a_series(model, X):
    mask = np.arange(N_ITEMS) < 5
    for given in (mask.tolist(), pd.Series(mask), np.flatnonzero(mask).astype(np.uint8)):
        np.testing.assert_array_equal(model.recommend(X, 2, items=given)[0], model.recommend(X, 2, items=mask)[0])


# ------------------------------------------------------------------------------------------------------------------ y
@pytest.mark.parametrize("shape", [(N_USERS, N_ITEMS - 1), (N_USERS - 1, N_ITEMS), (N_USERS, 1), (N_ITEMS, N_USERS)])
@pytest.mark.parametrize("container", [np.asarray, sp.csr_array])
def test_score_refuses_a_y_of_another_shape(container, shape, model, X):
    with pytest.raises(
        ValueError, match=rf"held-out interactions.*\({N_USERS}, {N_ITEMS}\).*\({shape[0]}, {shape[1]}\)"
    ):
        model.score(X, container(np.ones(shape)))


def test_score_refuses_a_y_of_three_dimensions(model, X):
    with pytest.raises(ValueError, match="held-out|shape|dim"):
        model.score(X, np.ones((N_USERS, N_ITEMS, 2)))


def test_score_refuses_a_y_that_holds_nan(model, X):
    with pytest.raises(ValueError, match="NaN"):
        model.score(X, np.full(X.shape, np.nan))


def test_score_refuses_a_y_without_interactions(model, X):
    with pytest.raises(ValueError, match="held-out"):
        model.score(X, np.zeros(X.shape))


# ---------------------------------------------------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    "name, values",
    [
        ("n_components", [0, -3, 2.5, "many", None]),
        ("hidden_layer_sizes", [None, 0, -600, 600.5]),
        ("activation", ["tan", None, np.tanh]),
        ("decoder_units", [-1, 2.5, "many", None]),
        ("dropout", [-0.1, 1.0, 1.5, "half", None, np.nan]),
        ("beta", [-0.1, "big", None, np.nan, np.inf]),
        ("annealing", ["lineal", 3, False]),
        ("anneal_fraction", [-0.1, 1.1, "all", None]),
        ("n_cycles", [0, 1.5, None]),
        ("likelihood", ["poisson", None, "Multinomial"]),
        ("confidence", [None, 3.0, "high"]),
        ("weight_decay", [-1.0, "some", None, np.nan, np.inf]),
        ("learning_rate", [0, 0.0, -1e-3, "fast", None, np.nan, np.inf]),
        ("learning_rate_schedule", ["step", None]),
        ("batch_size", [0, -5, 3.5, "all", None]),
        ("max_iter", [0, -1, 2.5, None]),
        ("early_stopping", ["yes", None, 2]),
        ("validation_fraction", [0.0, 1.0, -0.5, None, 3]),
        ("n_iter_no_change", [0, 2.5, None]),
        ("warm_start", ["no", None]),
        ("device", [0, None]),
        ("random_state", ["seed", -1, 1.5, np.random.default_rng(0)]),
        ("verbose", ["loud", -1, None]),
    ],
)
def test_parameters_out_of_range_are_named_with_what_was_found(name, values, X):
    assert name in MultVAERecommender().get_params()
    for value in values:
        with pytest.raises(ValueError, match=rf"'{name}' parameter of MultVAERecommender must be .* Got .* instead"):
            tiny(**{name: value}).fit(X)


def test_every_parameter_is_checked():
    assert set(MultVAERecommender._parameter_constraints) == set(MultVAERecommender().get_params())


@pytest.mark.parametrize("sizes", [(0,), (-3,), (2.7,), ("a",), "ab", [[3, 4]], (5, None), np.array([2.5])], ids=repr)
def test_hidden_layer_sizes_are_whole_numbers_from_one_on(sizes, X):
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        tiny(hidden_layer_sizes=sizes).fit(X)


@pytest.mark.parametrize(
    "confidence",
    [(1.0,), (), (1.0, 2.0, 3.0), (0.0, 1.0), (-1.0, 1.0), ("a", "b"), (1.0, np.inf), (1.0, None)],
    ids=repr,
)
def test_confidence_is_two_positive_numbers(confidence, X):
    with pytest.raises(ValueError, match="confidence"):
        tiny(likelihood="gaussian", confidence=confidence).fit(X)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_named(device, X):
    with pytest.raises(ValueError, match=f"device='{device}'"):
        tiny(device=device).fit(X)


def test_prediction_falls_back_on_the_cpu(X):
    model = tiny(device="cpu").fit(X)
    scores = model.decision_function(X)
    with pytest.warns(UserWarning, match="Predicting on the CPU: device='cuda:99' cannot be used here"):
        found = model.set_params(device="cuda:99").decision_function(X)
    np.testing.assert_array_equal(found, scores)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -0.5])
def test_a_callable_annealing_must_return_a_weight(weight, X):
    with pytest.raises(ValueError, match=rf"annealing\(0\) returned {weight}.*finite weight >= 0"):
        tiny(annealing=lambda fraction: weight).fit(X)


@pytest.mark.parametrize("weight", [None, "one"])
def test_a_callable_annealing_must_return_a_number(weight, X):
    with pytest.raises((ValueError, TypeError), match="annealing"):
        tiny(annealing=lambda fraction: weight).fit(X)


@pytest.mark.parametrize("parameters", [{}, dict(early_stopping=True, validation_fraction=0.3)], ids=str)
@pytest.mark.parametrize("row", [0, 7, N_USERS - 1])
def test_bernoulli_names_the_cell_above_one(row, parameters, X):
    clicks = X.toarray()
    clicks[row, 4] = 3
    with pytest.raises(ValueError, match=rf"likelihood='bernoulli' expects X in \[0, 1\], but X\[{row}, 4\] = 3"):
        tiny(likelihood="bernoulli", **parameters).fit(clicks)


def test_bernoulli_sees_duplicates_summed(X):
    twice = sp.csr_array((np.ones(3), [1, 1, 4], [0, 3]), shape=(1, N_ITEMS))
    with pytest.raises(ValueError, match=r"X\[0, 1\] = 2"):
        tiny(likelihood="bernoulli").fit(twice)


def test_bernoulli_bounds_no_row_above_one(X):
    """There is no probability to bound; the embedding, which only reads the direction of a row, is another matter."""
    model = tiny(likelihood="bernoulli").fit(X)
    with pytest.raises(ValueError, match="expects X in"):
        model.elbo(2 * X)
    np.testing.assert_allclose(model.transform(2 * X), model.transform(X), atol=1e-10)


def test_bernoulli_takes_fractions(X):
    assert np.isfinite(tiny(likelihood="bernoulli").fit(0.5 * X).elbo(0.5 * X)).all()


@pytest.mark.filterwarnings("ignore:The bound or its gradient:RuntimeWarning")
def test_a_divergent_fit_says_so(X):
    with pytest.raises(FloatingPointError, match="not finite.*lower learning_rate"):
        tiny(learning_rate=1e38, max_iter=20).fit(X)


# ------------------------------------------------------------------------------------------- containers and dtypes
def check_same(model, given, expected, atol=1e-10):
    for method in AFTER_FIT:
        for found, before in zip(arrays(model, method, given), expected[method]):
            np.testing.assert_allclose(found, before, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_every_sparse_format_is_the_same_matrix(format, kind, model, X, expected):
    given = getattr(sp, f"{format}_{kind}")(sp.coo_array(X.toarray()))
    check_same(model, given, expected)
    np.testing.assert_array_equal(tiny().fit(given).decision_function(X), model.decision_function(X))
    validated = tiny().fit(X, X_val=given).validation_scores_
    np.testing.assert_array_equal(validated, tiny().fit(X, X_val=X).validation_scores_)


@pytest.mark.parametrize("container", [np.asarray, np.asfortranarray, np.ndarray.tolist, lambda a: a[:, ::-1][:, ::-1]])
def test_dense_is_the_same_matrix(container, model, X, expected):
    given = container(X.toarray())
    check_same(model, given, expected, atol=2e-5 if type(given) is list else 1e-10)  # lists are read as float32
    np.testing.assert_allclose(tiny().fit(given).decision_function(X), model.decision_function(X), rtol=0, atol=1e-6)


def untidy(X):
    """The same matrix with entries unsorted, some in two halves, and zeros stored."""
    X = sp.coo_array(X)
    split = np.arange(X.nnz) % 3 == 0
    row = np.concatenate([X.row, X.row[split], np.arange(X.shape[0])])
    column = np.concatenate([X.col, X.col[split], np.arange(X.shape[0]) % X.shape[1]])
    value = np.concatenate([np.where(split, X.data / 2, X.data), X.data[split] / 2, np.zeros(X.shape[0])])
    order = np.lexsort((np.random.RandomState(0).rand(len(row)), row))  # by row, in no order within
    indptr = np.r_[0, np.cumsum(np.bincount(row, minlength=X.shape[0]))]
    return sp.csr_array((value[order], column[order], indptr), shape=X.shape)


def test_duplicate_unsorted_and_zero_entries_are_tidied_in_a_copy(model, X, expected):
    given = untidy(X)
    before = [part.copy() for part in (given.data, given.indices, given.indptr)]
    assert not given.has_sorted_indices and given.nnz > X.nnz
    check_same(model, given, expected)
    np.testing.assert_array_equal(
        tiny(early_stopping=False).fit(given, X_val=given).decision_function(X), model.decision_function(X)
    )
    for part, kept in zip((given.data, given.indices, given.indptr), before):
        np.testing.assert_array_equal(part, kept)


def test_a_stored_zero_is_not_seen(model, X):
    stored = sp.csr_array((np.zeros(N_ITEMS), np.arange(N_ITEMS), [0, N_ITEMS]), shape=(1, N_ITEMS))
    assert model.predict(stored)[0] >= 0
    assert (model.recommend(stored, N_ITEMS)[0] >= 0).all()


def test_wide_indices_are_the_same_matrix(model, X, expected):
    given = X.copy()
    given.indices, given.indptr = given.indices.astype(np.int64), given.indptr.astype(np.int64)
    assert given.indices.dtype == np.int64
    check_same(model, given, expected)
    np.testing.assert_array_equal(tiny().fit(given).decision_function(X), model.decision_function(X))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.float16, np.float32])
def test_every_numeric_dtype_is_the_same_matrix(dtype, model, X, expected):
    dense = X.toarray().astype(dtype)
    check_same(model, dense, expected, atol=2e-5)
    if dtype is not np.float16:  # SciPy has no sparse matrices of it
        check_same(model, sp.csr_array(dense), expected, atol=2e-5)
    fitted = tiny().fit(dense).decision_function(X)
    np.testing.assert_allclose(fitted, model.decision_function(X), rtol=0, atol=1e-5)


def test_big_endian_and_object_numbers_are_the_same_matrix(model, X, expected):
    check_same(model, X.toarray().astype(">f8"), expected, atol=2e-5)
    check_same(model, X.toarray().astype(object), expected, atol=2e-5)


def test_read_only_memory_maps(model, X, expected, tmp_path):
    def mapped(name, array):
        np.save(tmp_path / f"{name}.npy", array)
        return np.load(tmp_path / f"{name}.npy", mmap_mode="r")

    dense = mapped("dense", X.toarray())
    parts = [mapped(name, getattr(X, name)) for name in ("data", "indices", "indptr")]
    messy = untidy(X)
    messy_parts = [mapped(f"messy-{name}", getattr(messy, name)) for name in ("data", "indices", "indptr")]
    for given in (dense, *(sp.csr_array(tuple(three), shape=X.shape) for three in (parts, messy_parts))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of memory that it may not write to
            check_same(model, given, expected)
            fitted = tiny(early_stopping=False).fit(given, X_val=given).decision_function(given)
            tiny().partial_fit(given)
        np.testing.assert_allclose(fitted, model.decision_function(X), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e6, 1e25])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_unit_of_the_clicks_does_not_matter(dtype, scale, model, X):
    """A row is brought to unit length first, whatever its length was."""
    one = X.astype(dtype)
    for there, here in zip(model.posterior(one * dtype(scale)), model.posterior(one)):
        np.testing.assert_allclose(there, here, atol=1e-5)


def test_a_single_row_may_be_given_as_a_matrix_only(model, X):
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        model.recommend(X.toarray()[0])
    assert model.recommend(X[[0]], 2)[0].shape == (1, 2)


# ------------------------------------------------------------------------------------- advice that fits a recommender
def test_nan_is_answered_with_what_zero_means(X):
    dense = X.toarray()
    dense[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"Input X contains NaN\. Zero, not NaN.*fillna\(0\)"):
        tiny().fit(dense)


def test_score_says_why_there_is_nothing_to_find(X):
    model = tiny().fit(X)
    with pytest.raises(ValueError, match="y holds none that is not in X too"):
        model.score(X, X)
    with pytest.raises(ValueError, match="no user of X has two interactions"):
        model.score(np.eye(X.shape[1]))
