"""What a fit leaves behind, in the estimator and outside it: state, copies, failures, fits that go on, randomness."""

import copy
import io
import pickle
import random
import warnings

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.metrics import pairwise_distances

from skvae import MultVAERecommender
from skvae.datasets import make_interactions
from skvae.training.clicks import mean_similarity_to_nearest, similarity_beyond_chance

N_USERS, N_ITEMS = 40, 12


@pytest.fixture(scope="module")
def X():
    return make_interactions(N_USERS, N_ITEMS, n_factors=2, mean_interactions=5, random_state=0)


@pytest.fixture(scope="module")
def model(X):
    return tiny(hidden_layer_sizes=(5,)).fit(X, X_val=X[:10])


def tiny(**parameters):
    return MultVAERecommender(**{"n_components": 3, "max_iter": 3, "random_state": 0, **parameters})


def frozen(value):
    """A copy of nested containers in which two states can be compared exactly."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return [frozen(item) for item in value] if isinstance(value, (list, tuple)) else value


def same(first, second):
    return frozen(vars(first)) == frozen(vars(second))


def leaves(value, path):
    """Every value in nested containers, with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


# --------------------------------------------------------------------------------------------------- the fitted state
@pytest.mark.parametrize("warm_start", [False, True])
def test_the_state_is_numpy_arrays_and_plain_values(warm_start, X):
    fitted = clone(tiny(warm_start=warm_start, hidden_layer_sizes=(4,))).fit(X).partial_fit(X)
    found = dict(leaves(vars(fitted), "model"))
    strange = {path: type(value) for path, value in found.items() if type(value) not in PLAIN}
    assert not strange
    arrays = [path for path, value in found.items() if isinstance(value, np.ndarray)]
    assert len(arrays) > 10


PLAIN = {np.ndarray, int, float, str, bool, type(None)}


def test_pickles_know_nothing_of_torch(model):
    assert b"torch" not in pickle.dumps(model)


def test_optimizer_state_is_kept_only_for_those_who_go_on(X):
    """They weigh twice as much as the parameters."""
    plain, going_on = tiny(max_iter=1).fit(X), tiny(max_iter=1, warm_start=True).fit(X)
    n_bytes = sum(array.nbytes for array in going_on.parameters_.values())
    assert not plain._optimizer_state
    assert len(pickle.dumps(going_on)) > len(pickle.dumps(plain)) + 2 * n_bytes


def test_arrays_of_two_fits_share_no_memory(X):
    model = tiny(warm_start=True).fit(X)
    old = model.parameters_
    before = frozen(old)
    model.fit(X)
    assert frozen(old) == before
    names = list(old)
    assert not any(np.shares_memory(old[name], model.parameters_[name]) for name in names)


# --------------------------------------------------------------------------------------------------------------- copies
@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy])
def test_a_copy_is_the_same_model(copied, model, X):
    twin = copied(model)
    assert same(twin, model)
    for method in ("decision_function", "transform", "elbo", "predict"):
        np.testing.assert_array_equal(getattr(twin, method)(X), getattr(model, method)(X))
    assert twin.score(X) == model.score(X)


def test_an_unfitted_estimator_pickles():
    assert same(pickle.loads(pickle.dumps(tiny())), tiny())


def test_joblib_maps_read_only_arrays(model, X, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    weights = mapped.parameters_["decoder.0.weight"]
    assert isinstance(weights, np.memmap) and not weights.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("decision_function", "transform", "elbo", "predict"):
            np.testing.assert_array_equal(getattr(mapped, method)(X), getattr(model, method)(X))
        mapped.partial_fit(X)
    again = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(again.decision_function(X), model.decision_function(X))


def test_a_warm_start_goes_on_from_read_only_arrays(X, tmp_path):
    model = tiny(warm_start=True).fit(X)
    joblib.dump(model, tmp_path / "model.joblib")
    mapped = joblib.load(tmp_path / "model.joblib", mmap_mode="r").fit(X)
    np.testing.assert_array_equal(mapped.decision_function(X), model.fit(X).decision_function(X))


def test_another_version_warns(model, monkeypatch):
    written = pickle.dumps(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(written)
    monkeypatch.setattr("skvae.estimators._base.__version__", "99.0")
    with pytest.warns(InconsistentVersionWarning, match=r"MultVAERecommender.*0\.1.*99\.0") as caught:
        pickle.loads(written)
    assert len(caught) == 1


def test_the_version_stamp_does_not_stay_on_the_estimator(model):
    assert same(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model)))), model)


def test_clone_takes_the_parameters_and_leaves_the_fit(model):
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert set(vars(twin)) == set(model.get_params())


def test_repr_and_html_of_a_fitted_model_render(model):
    assert "MultVAERecommender" in repr(model)
    assert "MultVAERecommender" in model._repr_html_()


# ----------------------------------------------------------------------------------------- parameters are not rewritten
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_fit_rewrites_no_parameter(method, X):
    given = dict(hidden_layer_sizes=[5], confidence=[1.0, 5.0], random_state=0, n_components=np.int64(3), max_iter=3)
    model = MultVAERecommender(**given)
    before = {name: (value, copy.deepcopy(value)) for name, value in model.get_params().items()}
    getattr(model, method)(X)
    for name, value in model.get_params().items():
        assert value is before[name][0], name
        assert value == before[name][1], name


def test_the_constructor_stores_what_it_is_given():
    given = {name: object() for name in MultVAERecommender().get_params()}
    assert MultVAERecommender(**given).get_params() == given


# ------------------------------------------------------------------------------------------------------------- failures
def boom(fraction):
    raise RuntimeError("boom")


def late(fraction):
    if fraction > 0.5:
        raise KeyboardInterrupt
    return 1.0


NEGATIVE = -np.ones((5, N_ITEMS))
FAILURES = {
    "negative": (ValueError, {}, NEGATIVE),
    "nan": (ValueError, {}, np.full((5, 7), np.nan)),
    "no entries": (ValueError, {}, np.zeros((5, 7))),
    "parameter": (ValueError, dict(n_components=0), np.ones((5, 7))),
    "device": (ValueError, dict(device="abacus"), np.ones((5, 7))),
    "in an epoch": (RuntimeError, dict(annealing=boom), np.ones((5, 7))),
    "interrupted": (KeyboardInterrupt, dict(annealing=late, max_iter=8), np.ones((5, 7))),
    "diverged": (FloatingPointError, dict(learning_rate=1e38, max_iter=8), np.ones((5, 7))),
}


@pytest.mark.filterwarnings("ignore:The bound or its gradient:RuntimeWarning")
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_first_fit_leaves_no_trace(failure):
    error, parameters, bad = FAILURES[failure]
    model = tiny(**parameters)
    before = dict(vars(model))
    with pytest.raises(error):
        model.fit(bad)
    assert vars(model) == before


@pytest.mark.filterwarnings("ignore:The bound or its gradient:RuntimeWarning")
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_refit_leaves_the_model_as_it_was(failure, X):
    error, parameters, bad = FAILURES[failure]
    model = tiny().fit(X).set_params(**parameters)
    before, scores = frozen(vars(model)), model.decision_function(X) if "device" not in parameters else None
    with pytest.raises(error):
        model.fit(bad)
    assert frozen(vars(model)) == before
    assert model.n_features_in_ == N_ITEMS
    if scores is not None:
        np.testing.assert_array_equal(model.decision_function(X), scores)


def test_a_failed_partial_fit_leaves_the_model_as_it_was(X):
    model = tiny().partial_fit(X)
    before = frozen(vars(model))
    for bad in (NEGATIVE, np.zeros((5, N_ITEMS)), np.ones((5, 7))):
        with pytest.raises(ValueError):
            model.partial_fit(bad)
        assert frozen(vars(model)) == before


def test_a_failing_validation_matrix_leaves_the_model_as_it_was(X):
    model = tiny()
    before = dict(vars(model))
    with pytest.raises(ValueError):
        model.fit(X, X_val=np.ones((3, N_ITEMS + 1)))
    assert vars(model) == before


def test_prediction_changes_nothing(model, X):
    before = frozen(vars(model))
    for method in ("decision_function", "recommend", "transform", "posterior", "elbo", "predict", "score"):
        getattr(model, method)(X)
    assert frozen(vars(model)) == before


# ------------------------------------------------------------------------------------------------------ fits that go on
def test_a_warm_start_goes_on(X):
    model = tiny(max_iter=4, warm_start=True).fit(X)
    first, scores = model.lower_bounds_, model.decision_function(X)
    model.fit(X)
    assert model.n_iter_ == 8
    assert model.lower_bounds_.shape == (8,)
    np.testing.assert_array_equal(model.lower_bounds_[:4], first)
    assert not np.allclose(model.decision_function(X), scores)


def test_a_warm_start_takes_the_parameters_with_it(X):
    """At a learning rate of nothing the second fit ends where it began."""
    model = tiny(max_iter=4, warm_start=True).fit(X)
    scores = model.decision_function(X)
    np.testing.assert_allclose(model.set_params(learning_rate=1e-12).fit(X).decision_function(X), scores, atol=1e-6)


def test_a_warm_start_draws_new_noise(X):
    """Or every continuation would repeat the masks and the order of the first."""
    still = dict(max_iter=1, learning_rate=1e-12, warm_start=True, beta=0.0, annealing=None)
    model = tiny(**still).fit(X).fit(X)
    assert model.lower_bounds_[0] != model.lower_bounds_[1]


def test_without_warm_start_a_refit_starts_again(X):
    model = tiny(warm_start=True).fit(X).fit(X).set_params(warm_start=False).fit(X)
    assert same(model, tiny(warm_start=False).fit(X))


def test_a_fit_may_start_warm_after_a_cold_one(X):
    assert tiny().fit(X).set_params(warm_start=True).fit(X).n_iter_ == 6


@pytest.mark.parametrize(
    "changed",
    [
        dict(n_components=4),
        dict(hidden_layer_sizes=(6,)),
        dict(activation="relu"),
        dict(decoder_units=6),
        dict(likelihood="bernoulli"),
    ],
    ids=str,
)
def test_a_warm_start_refuses_another_architecture(changed, X):
    model = tiny(warm_start=True, hidden_layer_sizes=(5,)).fit(X)
    before = frozen(vars(model.set_params(**changed)))
    ((name, new),) = changed.items()
    with pytest.raises(ValueError, match=rf"was fitted with .*{name}.*cannot go on with .*{name}.*warm_start=False"):
        model.fit(X)
    assert frozen(vars(model)) == before
    assert model.set_params(warm_start=False).fit(X).get_params()[name] == new


@pytest.mark.parametrize(
    "ranges, weight, units",
    [
        ([(0, 20), (100, 200)], [3, 1], 300),  # 40 items on average
        ([(0, 20), (100, 200)], [1, 3], 0),
        ([(0, 50), (0, 0)], None, 0),
        ([(0, 49), (0, 0)], None, 300),
        ([(0, 60), (0, 50)], None, 300),  # alike
    ],
)
def test_auto_gives_a_linear_decoder_a_hidden_layer_where_rows_are_short_or_alike(ranges, weight, units):
    items = np.arange(200)
    rows = sp.csr_array(np.array([(first <= items) & (items < end) for first, end in ranges], dtype=float))
    quick = tiny(max_iter=1, warm_start=True).fit(rows, sample_weight=weight)
    assert quick.decoder_units_ == units
    assert tiny(max_iter=1).fit(sp.csr_array(np.repeat(rows.toarray(), weight or 1, axis=0))).decoder_units_ == units
    assert tiny(max_iter=1, hidden_layer_sizes=(5,)).fit(rows).decoder_units_ == 0
    other = sp.csr_array(np.ones((3, 200)) if units else np.eye(3, 200))  # would choose otherwise
    assert quick.fit(other).decoder_units_ == quick.partial_fit(other).decoder_units_ == units


def test_similarity_is_that_to_the_most_similar_user_beyond_chance():
    rng = np.random.default_rng(0)
    chance = (rng.random((300, 60)) < rng.random(60) / 2).astype(float)
    alike = np.repeat(chance[:30], 10, axis=0)
    alike[rng.random(alike.shape) < 0.02] = 1
    cosines = 1 - pairwise_distances(alike, metric="cosine")
    np.fill_diagonal(cosines, 0)
    assert mean_similarity_to_nearest(sp.csr_array(alike)) == pytest.approx(cosines.max(axis=1).mean())
    assert abs(similarity_beyond_chance(sp.csr_array(chance[chance.any(axis=1)]))) < 0.1
    similarity = similarity_beyond_chance(sp.csr_array(alike))
    assert 0.5 < similarity < 0.9 and similarity_beyond_chance(sp.csr_array(alike), 100) < similarity
    for same in (alike[::-1], np.vstack([alike, 3 * alike])):
        assert similarity_beyond_chance(sp.csr_array(same)) == pytest.approx(similarity)
    assert similarity_beyond_chance(sp.csr_array(np.ones((3, 4)))) == 0


def test_the_width_of_the_hidden_layer_can_be_given(X):
    stream = tiny(decoder_units=np.int64(7)).fit(X).partial_fit(X)
    assert stream.decoder_units_ == 7
    assert stream.parameters_["decoder.units.0.weight"].shape == (3, 7)


def test_the_confidence_of_a_multinomial_does_not_stop_a_warm_start(X):
    """It plays no part there."""
    assert tiny(warm_start=True).fit(X).set_params(confidence=(1.0, 3.0)).fit(X).n_iter_ == 6


def test_a_warm_start_refuses_another_width(X):
    model = tiny(warm_start=True).fit(X)
    with pytest.raises(ValueError, match=f"X has 7 features, but MultVAERecommender is expecting {N_ITEMS}"):
        model.fit(np.ones((5, 7)))


def test_parameters_changed_after_fit_wait_for_the_next_fit(X):
    model = tiny().fit(X)
    scores, embedded = model.decision_function(X), model.transform(X)
    model.set_params(n_components=9, hidden_layer_sizes=(4,), activation="relu", likelihood="gaussian", dropout=0.9)
    np.testing.assert_array_equal(model.decision_function(X), scores)
    np.testing.assert_array_equal(model.transform(X), embedded)
    assert len(model.get_feature_names_out()) == 3


# --------------------------------------------------------------------------------------------------------- partial_fit
def test_partial_fit_is_one_epoch_a_call(X):
    model = tiny(max_iter=50)
    for calls in (1, 2, 3):
        assert model.partial_fit(X).n_iter_ == calls
        assert model.lower_bounds_.shape == (calls,)
    assert model.n_features_in_ == N_ITEMS


def test_partial_fit_learns(X):
    model = tiny(beta=1.0, dropout=0.0, learning_rate=0.02)
    first = model.partial_fit(X).elbo(X).mean()
    for _ in range(40):
        model.partial_fit(X)
    assert model.elbo(X).mean() > first + 0.1


def test_partial_fit_takes_any_split_of_the_users(X):
    model = tiny()
    for part in (X[:5], X[5:6], X[6:]):
        model.partial_fit(part)
    assert model.n_iter_ == 3
    assert np.isfinite(model.decision_function(X)).all()


def test_partial_fit_goes_on_after_fit(X):
    model = tiny().fit(X)
    scores = model.decision_function(X)
    model.set_params(learning_rate=1e-12).partial_fit(X)
    assert model.n_iter_ == 4
    np.testing.assert_allclose(model.decision_function(X), scores, atol=1e-6)


@pytest.mark.parametrize("annealing", ["linear", "sigmoid", "cyclical"])
def test_partial_fit_runs_at_full_beta(annealing, X):
    plain, annealed = (tiny(beta=50.0, annealing=name, learning_rate=0.05) for name in (None, annealing))
    for _ in range(5):
        plain.partial_fit(X)
        annealed.partial_fit(X)
    np.testing.assert_allclose(annealed.decision_function(X), plain.decision_function(X), rtol=0, atol=1e-5)


def test_partial_fit_ignores_early_stopping(X):
    model = tiny(early_stopping=True).partial_fit(X)
    assert model.n_iter_ == 1 and len(model.validation_scores_) == 0


def test_partial_fit_names_the_way_out_of_another_architecture(X):
    with pytest.raises(ValueError, match="was fitted with .*'n_components': 3.*cannot go on with .*'n_components': 5"):
        tiny().partial_fit(X).set_params(n_components=5).partial_fit(X)


# ----------------------------------------------------------------------------------------------------------- randomness
@pytest.mark.parametrize("parameters", [{}, dict(early_stopping=True, validation_fraction=0.2, n_iter_no_change=1)])
def test_refits_are_equal_to_the_last_bit(parameters, X):
    assert same(tiny(**parameters).fit(X), tiny(**parameters).fit(X))


def test_seeds_matter(X):
    assert not same(tiny(random_state=0).fit(X), tiny(random_state=1).fit(X))


def test_a_random_state_instance_moves_on(X):
    stream = np.random.RandomState(0)
    first, second = tiny(random_state=stream).fit(X), tiny(random_state=stream).fit(X)
    assert not np.allclose(first.decision_function(X), second.decision_function(X))
    again = tiny(random_state=np.random.RandomState(0)).fit(X)
    np.testing.assert_array_equal(again.decision_function(X), first.decision_function(X))


def global_state():
    buffer = io.BytesIO()
    pickle.dump((random.getstate(), np.random.get_state()), buffer)  # noqa: NPY002 (it is what is watched)
    threads = torch.get_num_threads(), torch.get_num_interop_threads()
    return buffer.getvalue(), torch.get_rng_state().numpy().tobytes(), threads, torch.get_default_dtype()


@pytest.mark.parametrize("random_state", [None, 0])
def test_nothing_global_is_touched(random_state, X):
    before = global_state()
    model = tiny(random_state=random_state, early_stopping=True).fit(X).partial_fit(X)
    for method in ("decision_function", "recommend", "transform", "posterior", "elbo", "predict", "score"):
        getattr(model, method)(X)
    assert global_state() == before


def test_without_a_seed_every_fit_is_fresh(X):
    """Also where someone seeded the global generators."""
    state = np.random.get_state()  # noqa: NPY002 (put back below)
    scores = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        scores.append(tiny(random_state=None).fit(X).decision_function(X))
    np.random.set_state(state)  # noqa: NPY002
    assert not np.allclose(*scores)


def test_global_seeds_do_not_reach_a_seeded_fit(X):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = tiny().fit(X)
        torch.manual_seed(2)
        assert same(tiny().fit(X), first)


# -------------------------------------------------------------------------------------------- what the fit does not see
def test_users_without_interactions_teach_nothing(X):
    spread = sp.vstack([sp.csr_array((3, N_ITEMS)), X[:9], sp.csr_array((2, N_ITEMS)), X[9:]]).tocsr()
    np.testing.assert_array_equal(
        tiny().fit(spread.astype(X.dtype)).decision_function(X), tiny().fit(X).decision_function(X)
    )
