"""A file that is not whole, not ours, or of another fit is refused, and stays as it is."""

import datetime
import errno
import io
import json
import pickle
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from test_resuming import SMALL, Death, assert_same, dies_after, state_of, table

from skvae import AutoencoderTransformer, Checkpoint, GaussianMixtureEM, KMeansLite
from skvae.estimators.checkpoints import _file, _resuming
from skvae.estimators.checkpoints._facts import described, said

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
MIXTURE = GaussianMixtureEM(3, tol=0, max_iter=8, init_params="random_from_data", random_state=0)
NETWORK = AutoencoderTransformer(1, early_stopping=True, **SMALL)


def interrupted(estimator, path):
    """The bytes of the file of a fit that has died."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Death):
        dies_after(patch, 3)
        clone(estimator).set_params(checkpoint=Checkpoint(path, interval=0)).fit(table())
    return path.read_bytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of a mixture and of a network."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {each: interrupted(each, folder / f"{n}.npz") for n, each in enumerate((MIXTURE, NETWORK))}


def assert_refused(estimator, data, path, match, X=None, **fit):
    path.write_bytes(data)
    model = clone(estimator).set_params(checkpoint=path)
    vars(model).pop("_is_clone", None)
    before = state_of(model)
    with pytest.raises(ValueError, match=rf"(?s){match}.*Delete the file to begin anew, or give another path") as told:
        model.fit(table() if X is None else X, **fit)
    assert str(path) in str(told.value)
    assert state_of(model) == before and path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


# ---------------------------------------------------------------------------------------------------- foreign and cut
def archive_of(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


FOREIGN = {
    "nothing": b"",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "a pickle": pickle.dumps({"states": {}}),
    "another archive of NumPy": archive_of(X=np.ones(3)),
    "an archive with another header": archive_of(header=np.frombuffer(b'{"a": 1}', np.uint8)),
    "an archive with a header that is no JSON": archive_of(header=np.frombuffer(b"{{", np.uint8)),
    "an archive with an object": archive_of(header=np.array([{}], dtype=object)),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_refused(name, tmp_path):
    assert_refused(MIXTURE, FOREIGN[name], tmp_path / "fit.npz", "is no checkpoint of skvae, or it is damaged")


def test_files_that_are_cut_off_or_damaged_are_refused(files, tmp_path):
    data = files[MIXTURE]
    for length in (1, 100, len(data) // 2, len(data) - 1):
        assert_refused(MIXTURE, data[:length], tmp_path / "fit.npz", "is no checkpoint of skvae, or it is damaged")
    place = data.index(b"a2.npy") + 200  # within an array
    changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    assert_refused(MIXTURE, changed, tmp_path / "fit.npz", "damaged")


# ------------------------------------------------------------------------------------------------------------ crafted
def crafted(data, change):
    """The file with another header or other arrays, by a function that changes a dict of arrays in place."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    return archive_of(header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def state(header):
    return header["states"]["dict"]["0"]["dict"]


def fit(header):
    return state(header)["run"]["dict"]["fit"]["dict"]


def set_in(find, name, value):
    return lambda header, arrays: find(header).update({name: value})


def replaced(find, function):
    """Change the array that a place of the header names."""

    def change(header, arrays):
        key = f"a{find(header)['array']}"
        arrays[key] = function(arrays[key])

    return change


def means(header):
    return fit(header)["params"][1]


def weight(header):
    return next(iter(own(header)["params"]["dict"].values()))


def own(header):
    return state(header)["of_processes"][0]["dict"]


CRAFTED = {
    "older format": (MIXTURE, set_in(lambda header: header, "version", 0), "its format has version 0, and not 1"),
    "no facts": (MIXTURE, lambda header, arrays: header.pop("facts"), "KeyError: 'facts'"),
    "negative iteration": (MIXTURE, set_in(fit, "n_iter", -1), "n_iter is -1; in this fit it is at most 8"),
    "iteration beyond the end": (MIXTURE, set_in(fit, "n_iter", 9), "n_iter is 9"),
    "iteration that is no number": (MIXTURE, set_in(fit, "n_iter", "3"), "n_iter is '3'"),
    "record of another length": (MIXTURE, set_in(fit, "n_iter", 2), "lower_bounds is no record of 2 iterations"),
    "restart beyond the end": (MIXTURE, set_in(state, "restart", 5), "the restart is 5"),
    "no result": (MIXTURE, set_in(state, "restart", 1), "it ends without a result"),
    "wrong shape": (MIXTURE, replaced(means, lambda a: a[:, :2].copy()), r"params.mu is .* \(3, 2\), not of float64"),
    "wrong dtype": (MIXTURE, replaced(means, lambda a: a.astype(int)), "params.mu is an array of int64"),
    "NaN": (MIXTURE, replaced(means, lambda a: a * np.nan), "params.mu holds NaN"),
    "field that is None": (
        MIXTURE,
        lambda header, arrays: fit(header)["params"].__setitem__(1, None),
        "mu is no array",
    ),
    "fewer fields": (MIXTURE, lambda header, arrays: fit(header)["params"].pop(), "params has another length"),
    "array that is not there": (MIXTURE, set_in(means, "array", 999), "KeyError"),
    "strings": (MIXTURE, replaced(means, lambda a: a.astype("U9")), "is declared as <U9"),
    "states that are none": (MIXTURE, set_in(lambda header: header, "states", [1]), "its states are none"),
    "seeds": (MIXTURE, set_in(lambda header: header, "seeds", ["1"]), "its seeds are none"),
    "axes": (
        MIXTURE,
        lambda header, arrays: fit(header)["params"].__setitem__(
            1, {"dict": {"dense": means(header), "axes": [0, 7], "shape": [10**12, 4]}}
        ),
        "params.mu is no array",
    ),
    "another weight": (NETWORK, replaced(weight, lambda a: a[..., :1].copy()), "params.* is an array of float32"),
    "weight with NaN": (NETWORK, replaced(weight, lambda a: a * np.nan), "holds NaN"),
    "epoch beyond the end": (NETWORK, set_in(state, "n_iter", 7), "n_iter is 7"),
    "fewer optimizers": (NETWORK, set_in(own, "optimizers", []), "it cannot be read"),
    "factor": (NETWORK, set_in(state, "factors", ["1"]), "the factor of the learning rate is '1'"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_files_are_refused(name, files, tmp_path):
    estimator, change, match = CRAFTED[name]
    assert_refused(estimator, crafted(files[estimator], change), tmp_path / "fit.npz", match)


def test_a_file_that_declares_more_than_it_has_takes_no_memory(files, tmp_path):
    data = files[MIXTURE]
    place = data.index(b"'shape': (3,", data.index(b"a1.npy"))
    huge = bytearray(data)
    huge[place : place + 24] = b"'shape': (3000000000000,".ljust(24)[:24]
    assert_refused(MIXTURE, bytes(huge), tmp_path / "fit.npz", "damaged")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", bytes(10**7))
    assert_refused(MIXTURE, file.getvalue(), tmp_path / "fit.npz", "its entry header.npy has 10000000 bytes")


# --------------------------------------------------------------------------------------------------- of another fit
OTHERS = {
    "parameters": (
        clone(MIXTURE).set_params(n_components=2, tol=0.1),
        None,
        {},
        "tol was 0 and is 0.1.*n_components was 3",
    ),
    "class": (KMeansLite(3), None, {}, r"estimator was GaussianMixtureEM and is KMeansLite\."),
    "seed": (clone(MIXTURE).set_params(random_state=1), None, {}, "random_state was 0 and is 1"),
    "one cell": (MIXTURE, table() + 1e-12 * np.eye(120, 4), {}, "X was float64 of shape .* and is float64 of shape"),
    "rows": (MIXTURE, table()[:-1], {}, r"X was float64 of shape \(120, 4\) .* and is float64 of shape \(119, 4\)"),
    "dtype": (MIXTURE, table().astype("f"), {}, "X was float64 .* and is float32"),
    "weights": (MIXTURE, None, {"sample_weight": np.ones(120)}, "sample_weight was None and is float64"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_file_of_another_fit_is_refused(name, files, tmp_path):
    estimator, X, given, match = OTHERS[name]
    if name == "parameters":
        match = "n_components was 3 and is 2"
    assert_refused(estimator, files[MIXTURE], tmp_path / "fit.npz", match, X, **given)


def test_what_does_not_matter_to_the_result_may_differ(files, tmp_path):
    (tmp_path / "fit.npz").write_bytes(files[MIXTURE])
    given = {"verbose_interval": 3, "device": "cpu", "data_parallel": True}
    model = GaussianMixtureEM(**MIXTURE.get_params()).set_params(checkpoint=str(tmp_path / "fit.npz"), **given)
    assert_same(model.fit(table()), clone(MIXTURE).fit(table()))
    assert list(tmp_path.iterdir()) == []


def test_another_version_of_the_package_is_refused(files, tmp_path):
    data = crafted(files[MIXTURE], lambda header, arrays: header["facts"].update({"the version of skvae": "0.0"}))
    assert_refused(MIXTURE, data, tmp_path / "fit.npz", "the version of skvae was 0.0 and is ")


def test_rows_are_described_alike_wherever_they_are(tmp_path):
    import pandas as pd
    import scipy.sparse as sp

    X = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "X.npy", X)
    assert described(X) == described(np.load(tmp_path / "X.npy", mmap_mode="r")) == described(np.asfortranarray(X))
    assert described(X) == described(X.tolist()) != described(X[::-1])
    for other in (X.copy(), sp.csr_array(X), pd.DataFrame(X), np.array([["a", 1]], dtype=object)):
        changed = other.copy()
        assert described(other) == described(changed)
        if hasattr(changed, "iloc"):
            changed.iloc[3, 2] += 1
        elif isinstance(changed, sp.csr_array):
            changed.data[7] += 1
        else:
            changed[-1, -1] += 1
        assert described(other) != described(changed)
    assert said([np.zeros(2000)]) != said([np.eye(1, 2000, 1000)[0]])
    assert said(lambda x: x) == said(lambda x: x) and " at 0x" not in said(object())


def test_equal_frames_are_described_alike_however_they_were_put_together():
    import pandas as pd
    import polars as pl

    frame = pd.DataFrame(
        {
            "x": np.random.default_rng(0).normal(size=6),
            "word": list("abcabc"),
            "y": np.arange(6.0),
            "level": pd.Categorical(list("uvuvuv"), categories=list("uvw")),
            "gaps": pd.array([1, None, 3, 4, 5, 6], dtype="Int64"),
            "yes": [True, None, False, True, False, None],
            "day": pd.date_range("2020-01-01", periods=6),
            "date": [datetime.date(2020, 1, int("1")) for _ in range(6)],
        }
    )
    numbers = frame[["x", "y"]]
    for one in (frame, numbers):
        halves = pd.concat([one.iloc[:3], one.iloc[3:]])
        for other in (one.copy(), pd.DataFrame({name: one[name] for name in one}), halves, one.reset_index(drop=True)):
            assert other.equals(one) and described(other) == described(one)
    changes = {
        "cell": frame.assign(word=list("abcabd")),
        "sum of cells": frame.assign(x=frame["x"][::-1].to_numpy()),
        "missing": frame.assign(gaps=frame["gaps"].fillna(2)),
        "another missing": frame.assign(yes=[True, None, False, True, None, False]),
        "1 for True": frame.assign(yes=[1, None, False, True, False, None]),
        "levels": frame.assign(level=frame["level"].cat.remove_unused_categories()),
        "order of levels": frame.assign(level=frame["level"].cat.reorder_categories(list("wuv"))),
        "ordered": frame.assign(level=frame["level"].cat.as_ordered()),
        "dtype": frame.assign(y=frame["y"].astype("f4")),
        "words for levels": frame.assign(level=frame["level"].astype(str)),
        "name": frame.rename(columns={"x": "z"}),
        "columns": frame[[*frame.columns[1:], "x"]],
        "rows": frame[::-1],
    }
    assert [name for name, other in changes.items() if described(other) == described(frame)] == []
    plain = pl.DataFrame({"x": [1.0, None, 3.0], "level": pl.Series(["u", "v", None], dtype=pl.Enum(["u", "v"]))})
    assert described(plain) == described(pl.concat([plain[:1], plain[1:]])) != described(plain[::-1])
    assert described(plain) != described(plain.with_columns(pl.col("level").cast(pl.Enum(["u", "v", "w"]))))


def test_functions_are_described_by_what_they_do():
    def enclosing(factor):
        return lambda x, power=1: (factor * x**power, x in {"a", "b"})

    first = said(enclosing(1))
    assert first == said(enclosing(1)) != said(enclosing(2))
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    assert said(one) != said(other) and said(partial(one, 1)) != said(partial(other, 1))
    assert said(partial(one, 1)) == said(partial(one, 1)) != said(partial(one, 2))
    assert said({"a": lambda x: np.sin(x)}) != said({"a": lambda x: np.cos(x)})


# -------------------------------------------------------------------------------------------------- where it is written
def test_threads_write_under_other_names(tmp_path):
    path, names = str(tmp_path / "fit.npz"), [_file.temporary_of(str(tmp_path / "fit.npz"))]
    thread = threading.Thread(target=lambda: names.append(_file.temporary_of(path)))
    thread.start()
    thread.join()
    assert len(set(names)) == 2
    for name in names:
        Path(name).touch()
    _file.remove(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["missing/fit.npz", "file/fit.npz", "."])
def test_a_place_that_cannot_be_written_is_an_error_before_the_fit(place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(GaussianMixtureEM, "_ascended", None)
    with pytest.raises(OSError, match="give a path in a folder that exists|give the path of a file"):
        GaussianMixtureEM(2, checkpoint=tmp_path / place).fit(table())


def test_a_full_disk_ends_no_fit_and_spoils_no_file(files, tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    path.write_bytes(files[MIXTURE])

    def full(*arguments, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    model = GaussianMixtureEM(**MIXTURE.get_params()).set_params(checkpoint=Checkpoint(path, interval=0))
    with monkeypatch.context() as patch:
        patch.setattr(np.lib.format, "write_array", full)
        patch.setattr("skvae.estimators.checkpoints._resuming.os.remove", lambda path: None)
        with pytest.warns(RuntimeWarning, match="could not be written .*No space left.*The fit goes on"):
            assert_same(model.fit(table()), clone(MIXTURE).fit(table()))
    assert path.read_bytes() == files[MIXTURE]


def test_a_fit_that_fails_keeps_its_file(files, tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    path.write_bytes(files[MIXTURE])
    model = GaussianMixtureEM(**MIXTURE.get_params()).set_params(checkpoint=path)

    def fails(self, report):
        raise RuntimeError("for the test")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="for the test"):
        patch.setattr(GaussianMixtureEM, "_has_converged", fails)
        model.fit(table())
    assert path.read_bytes() == files[MIXTURE]
    assert_same(model.fit(table()), clone(MIXTURE).fit(table()))


def test_a_fit_leaves_the_file_that_another_has_written_meanwhile(files, tmp_path):
    """Two fits may begin with one path before either has written it; the first to write keeps it."""
    path = tmp_path / "fit.npz"
    for meanwhile in (files[NETWORK], b"a table of the user"):
        path.unlink(missing_ok=True)
        model = GaussianMixtureEM(**MIXTURE.get_params()).set_params(checkpoint=Checkpoint(path, interval=0))
        begun = _resuming._begun

        def begun_and_written(*given, begun=begun, meanwhile=meanwhile):
            found = begun(*given)
            path.write_bytes(meanwhile)
            return found

        with pytest.MonkeyPatch.context() as patch, pytest.warns(RuntimeWarning, match="another one has written"):
            patch.setattr(_resuming, "_begun", begun_and_written)
            assert_same(model.fit(table()), clone(MIXTURE).fit(table()))
        assert path.read_bytes() == meanwhile and list(tmp_path.iterdir()) == [path]


def test_a_link_to_the_file_stays_one(tmp_path):
    (tmp_path / "scratch").mkdir()
    link, target = tmp_path / "fit.npz", tmp_path / "scratch" / "fit.npz"
    link.symlink_to(target)
    interrupted(MIXTURE, link)
    assert link.is_symlink() and target.is_file() and list(target.parent.iterdir()) == [target]
    assert_same(clone(MIXTURE).set_params(checkpoint=link).fit(table()), clone(MIXTURE).fit(table()))
    assert link.is_symlink()
