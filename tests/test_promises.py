"""What doc/promises.rst promises, for every estimator at once; the page names these tests and others."""

import pickle
import threading

import joblib
import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone

from skvae import (
    AutoencoderTransformer,
    BernoulliMixtureEM,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    MultVAERecommender,
    ProbabilisticPCA,
    VAETransformer,
    VariationalFactorAnalysis,
    VariationalGaussianMixture,
)


def rows(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(80, 2)) @ rng.normal(size=(2, 5)) + rng.normal(size=(80, 5))


def clicks(seed=0):
    return csr_matrix((rows(seed) > 0.3).astype(float))


CASES = [
    (KMeansLite(3, random_state=0), rows),
    (GaussianMixtureEM(2, random_state=0), rows),
    (VariationalGaussianMixture(2, random_state=0), rows),
    (BernoulliMixtureEM(2, random_state=0), rows),
    (FactorAnalysisEM(2, random_state=0), rows),
    (ProbabilisticPCA(2), rows),
    (VariationalFactorAnalysis(), rows),
    (VAETransformer(2, max_iter=5, random_state=0), rows),
    (VAETransformer(2, early_stopping=False, max_iter=5, random_state=0), rows),
    (VAETransformer(2, inference="svi", max_iter=3, random_state=0), rows),
    (AutoencoderTransformer(2, max_iter=5, random_state=0), rows),
    (MultVAERecommender(2, max_iter=5, random_state=0), clicks),
]
each_estimator = pytest.mark.parametrize(
    ("estimator", "data"), CASES, ids=lambda case: None if callable(case) else repr(case)[:60]
)


def state(fitted):
    """Return the bytes of all that a fit has set."""
    return pickle.dumps({name: value for name, value in vars(fitted).items() if name.endswith("_")})


def answer(fitted, X):
    """Return what the estimator says about rows."""
    return (fitted.transform if hasattr(fitted, "transform") else fitted.predict_proba)(X)


@each_estimator
def test_the_same_seed_gives_the_same_bits(estimator, data):
    fits = [clone(estimator).fit(data()) for _ in range(2)]
    assert state(fits[0]) == state(fits[1])
    assert state(fits[0].fit(data())) == state(fits[1])


def global_state():
    kind, keys, position, *_ = np.random.get_state()  # noqa: NPY002 (it is what is watched)
    return kind, keys.tobytes(), position, torch.get_rng_state().numpy().tobytes()


@each_estimator
def test_without_a_seed_no_global_generator_is_read_or_changed(estimator, data):
    before = global_state()
    unseeded = clone(estimator).set_params(random_state=None) if "random_state" in estimator.get_params() else estimator
    clone(unseeded).fit(data())
    assert global_state() == before


class Breaks:
    """A callback that raises after the first iteration, epoch or fit."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        raise RuntimeError("broken off")


@each_estimator
@pytest.mark.parametrize("failure", ["a cell that is infinite", "a callback that raises"])
def test_a_failed_fit_changes_nothing(estimator, data, failure):
    fitted, other = clone(estimator).fit(data()), data(1)
    if failure == "a callback that raises":
        fitted.set_callbacks(Breaks())
    else:
        other[3, 1] = np.inf
    before = state(fitted)
    with pytest.raises((RuntimeError, ValueError), match="broken off|infinit|finite values"):
        fitted.fit(other)
    assert state(fitted) == before


@each_estimator
def test_a_file_holds_the_whole_fit(estimator, data, tmp_path):
    fitted, X = clone(estimator).fit(data()), data(1)[:2]
    joblib.dump(fitted, tmp_path / "fit.joblib")
    for loaded in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "fit.joblib", mmap_mode="r")):
        assert np.array_equal(answer(loaded, X), answer(fitted, X))


@each_estimator
def test_rows_are_answered_alike_alone_and_in_company(estimator, data):
    fitted, X = clone(estimator).fit(data()), data(1)[:6]
    assert np.allclose(answer(fitted, X)[2:4], answer(fitted, X[2:4]), rtol=1e-5, atol=1e-6)


@each_estimator
def test_a_fit_leaves_the_number_of_threads_as_it_was(estimator, data):
    own, seen = torch.get_num_threads(), []
    try:
        torch.set_num_threads(own + 2)
        clone(estimator).fit(data())
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert [torch.get_num_threads(), *seen] == [own + 2, own + 2]
    finally:
        torch.set_num_threads(own)
