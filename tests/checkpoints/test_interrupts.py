"""Ctrl-C during a fit with a checkpoint."""

import signal
import threading

import pytest
from sklearn.base import clone
from test_resuming import CLICKS, SMALL, assert_same, table

from skvae import (
    AutoencoderTransformer,
    Checkpoint,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    MultVAERecommender,
    ProbabilisticPCA,
    VAETransformer,
)
from skvae.engines import checkpoints
from skvae.estimators._base import Estimator

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Mixture(GaussianMixtureEM):
    """Ctrl-C, so many times, in the third iteration."""

    presses = 1

    def _has_converged(self, report):
        if report.number == 2:
            for _ in range(Mixture.presses):
                signal.raise_signal(signal.SIGINT)
        return super()._has_converged(report)


def press(fraction):
    """An annealing in which Ctrl-C comes in the third of six epochs."""
    if press.ready and fraction >= 0.33:
        press.ready = False
        signal.raise_signal(signal.SIGINT)
    return 1.0


MIXTURE = Mixture(3, n_init=2, tol=0, max_iter=8, random_state=0)
NETWORK = VAETransformer(1, annealing=press, early_stopping=False, **SMALL)


@pytest.fixture(params=["mixture", "network"])
def case(request, monkeypatch):
    """An estimator whose fit Ctrl-C interrupts once, and the whole fit."""
    press.ready = False
    monkeypatch.setattr(Mixture, "presses", 0)
    estimator = {"mixture": MIXTURE, "network": NETWORK}[request.param]
    whole = clone(estimator).fit(table())
    press.ready = True
    monkeypatch.setattr(Mixture, "presses", 1)
    return estimator, whole


@pytest.fixture(autouse=True)
def _handler_as_it_was():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores Ctrl-C
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def goes_on(model, monkeypatch):
    monkeypatch.setattr(Mixture, "presses", 0)
    return model.fit(table())


def test_it_raises_once_the_state_is_written(case, tmp_path, monkeypatch, capsys):
    estimator, whole = case
    path = tmp_path / "fit.npz"
    model = type(estimator)(**estimator.get_params()).set_params(checkpoint=path)
    with pytest.raises(KeyboardInterrupt):
        model.fit(table())
    assert "The fit ends after this iteration; Ctrl-C again ends it at once." in capsys.readouterr().err
    assert path.exists() and not hasattr(model, "n_iter_")
    assert_same(goes_on(model, monkeypatch), whole)
    assert not path.exists()


def test_it_stops_with_what_was_found_so_far(case, tmp_path, monkeypatch):
    estimator, whole = case
    path = tmp_path / "fit.npz"
    model = type(estimator)(**estimator.get_params()).set_params(checkpoint=Checkpoint(path, on_interrupt="stop"))
    with pytest.warns(UserWarning, match=r"Ctrl-C stopped \w+.fit before it was done; .* go on from '") as told:
        model.fit(table())
    assert [each.filename for each in told if "Ctrl-C" in str(each.message)] == [__file__]
    assert model.n_iter_ == len(model.lower_bounds_) == 3
    assert model.score(table()) < whole.score(table()) + 1e-9
    assert_same(goes_on(model, monkeypatch), whole)
    assert not path.exists()


LATE = [
    (KMeansLite(3, max_iter=3, random_state=0), table()),
    (FactorAnalysisEM(1), table()),
    (ProbabilisticPCA(1), table()),  # has no iteration
    (VAETransformer(1, **SMALL), table()),
    (MultVAERecommender(3, max_iter=2, early_stopping=True, random_state=0), CLICKS),
]


@pytest.mark.parametrize(("estimator", "X"), LATE, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("on_interrupt", ["raise", "stop"])
def test_one_that_comes_after_the_last_safe_point_is_not_lost(estimator, X, on_interrupt, tmp_path, monkeypatch):
    reached, points = checkpoints.Journal.reached, []
    press_after = 0

    def counted(journal, place, state):
        end = reached(journal, place, state)
        points.append(place)
        if len(points) == press_after:
            signal.raise_signal(signal.SIGINT)
        return end

    monkeypatch.setattr(checkpoints.Journal, "reached", counted)
    path = tmp_path / "fit.npz"
    model = type(estimator)(**estimator.get_params()).set_params(checkpoint=Checkpoint(path, 60, on_interrupt))
    whole, press_after = clone(model).fit(X), len(points)
    points.clear()
    with monkeypatch.context() as patch:
        if not press_after:
            patch.setattr(Estimator, "_set", pressed_first(Estimator._set))
        if on_interrupt == "raise":
            with pytest.raises(KeyboardInterrupt):
                model.fit(X)
            assert not hasattr(model, "device_") and path.exists() == bool(press_after)
        else:
            with pytest.warns(UserWarning, match="Ctrl-C came after the last iteration of .*: the fit is whole"):
                model.fit(X)
            assert_same(model, whole)
            assert not path.exists()
    assert_same(model.fit(X), whole)
    assert not path.exists()


def pressed_first(function):
    def pressing(*arguments, **others):
        signal.raise_signal(signal.SIGINT)
        return function(*arguments, **others)

    return pressing


@pytest.mark.parametrize("on_interrupt", ["raise", "stop"])
def test_the_second_one_ends_the_fit_at_once(on_interrupt, tmp_path, monkeypatch):
    monkeypatch.setattr(Mixture, "presses", 2)
    path = tmp_path / "fit.npz"
    model = Mixture(**MIXTURE.get_params()).set_params(checkpoint=Checkpoint(path, 0, on_interrupt))
    with pytest.raises(KeyboardInterrupt):
        model.fit(table())
    assert path.exists()  # of the second iteration


def test_without_a_checkpoint_it_ends_the_fit_at_once(monkeypatch):
    monkeypatch.setattr(Mixture, "presses", 1)
    with pytest.raises(KeyboardInterrupt):
        clone(MIXTURE).fit(table())


def test_before_the_first_iteration_it_ends_the_fit_at_once(tmp_path, monkeypatch):
    def pressed(*arguments, **others):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("skvae.estimators.autoencoders._network_transformer.resolve_device", pressed)
    with pytest.raises(KeyboardInterrupt):
        AutoencoderTransformer(1, checkpoint=tmp_path / "fit.npz", **SMALL).fit(table())
    assert list(tmp_path.iterdir()) == []


def test_another_thread_fits_without_touching_the_handler(tmp_path):
    found = []

    def fit():
        found.append(AutoencoderTransformer(1, checkpoint=tmp_path / "fit.npz", **SMALL).fit(table()))

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert_same(found[0], AutoencoderTransformer(1, **SMALL).fit(table()))
