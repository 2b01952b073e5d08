"""E-steps on several threads: the same digits on any number of them, and nothing that others can see changes."""

import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config

from skvae import BernoulliMixtureEM, GaussianMixtureEM
from skvae._tensors import Table, Workers, threads_to_share
from skvae.engines import em

KINDS = ["full", "tied", "diag", "spherical", "Bernoulli"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def rows(kind, n=900, d=5, missing=0.0):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)) + 2 * rng.integers(3, size=(n, 1))
    X = np.where(rng.random(X.shape) < missing, np.nan, X)
    return np.where(np.isnan(X), np.nan, X > 2) if kind == "Bernoulli" else X


def mixture(kind, **parameters):
    options = {"tol": 0, "max_iter": 6, "random_state": 0, "batch_size": 70, "n_init": 2, **parameters}
    if kind == "Bernoulli":
        return BernoulliMixtureEM(3, **options)
    return GaussianMixtureEM(3, covariance_type=kind, **options)


def fitted(kind, X, monkeypatch, n_threads, **parameters):
    monkeypatch.setattr(em, "threads_to_share", lambda: n_threads)
    return mixture(kind, **parameters).fit(X)


@every_kind
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.filterwarnings("ignore:.*did not converge")
def test_the_number_of_threads_changes_no_digit(kind, missing, monkeypatch):
    X = rows(kind, missing=missing)
    one, *others = (fitted(kind, X, monkeypatch, n) for n in (1, 2, 3))
    for other in others:
        assert other.lower_bounds_ == one.lower_bounds_
        for name in ("weights_", "means_"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))


def test_threads_are_used_and_gone_after_the_fit(monkeypatch):
    started, before = [], threading.active_count()

    class Counted(Workers):
        def __init__(self, n_workers):
            started.append(n_workers)
            super().__init__(n_workers)

    monkeypatch.setattr(em, "Workers", Counted)
    fitted("diag", rows("diag"), monkeypatch, 2, tol=1e9)
    assert started and set(started) == {2}
    assert threading.active_count() == before


def test_an_error_of_a_worker_reaches_the_caller(monkeypatch):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        em.summed(lambda batch: 1 / 0, table_batches())
    monkeypatch.setattr(em, "threads_to_share", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        em.summed(lambda batch: 1 / 0, table_batches())
    assert threading.active_count() == before


def table_batches(size=70, device="cpu"):
    return Table(rows("diag"), torch.device(device)).batches(size, in_turn=True)


def test_few_batches_lists_and_other_devices_stay_on_one_thread(monkeypatch):
    monkeypatch.setattr(em, "threads_to_share", lambda: 8)
    assert em._n_threads(table_batches()) == 8
    assert em._n_threads(table_batches(size=300)) == 1
    assert em._n_threads(list(table_batches())) == 1
    elsewhere = table_batches()
    elsewhere.table.device = torch.device("meta")  # as on an accelerator
    assert em._n_threads(elsewhere) == 1


def test_groups_cover_all_batches_once_and_in_order():
    for size in (70, 300, 7, 900):
        batches = table_batches(size)
        numbers = [number for group in em._groups(batches) for number, _ in group()]
        assert numbers == list(range(len(batches)))
        shared = torch.cat([batch.row for group in em._groups(batches) for _, batch in group()])
        assert shared.tolist() == list(range(900))


def test_the_caller_and_threads_started_during_and_after_a_fit_see_their_number():
    code = textwrap.dedent(
        """
        import threading, torch, numpy as np
        from skvae import GaussianMixtureEM
        from skvae._tensors import Workers, threads_to_share

        def number_of_a_new_thread():
            found = []
            thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            return found[0]

        class Callback:
            def setup(self, estimator, context): pass
            def on_fit_task_begin(self, estimator, context): pass
            def teardown(self, estimator, context): pass
            def on_fit_task_end(self, estimator, context):
                seen.add((torch.get_num_threads(), number_of_a_new_thread()))

        def fit():
            X = np.random.default_rng(0).normal(size=(2000, 3))
            mixture = GaussianMixtureEM(2, tol=0, max_iter=3, batch_size=100, random_state=0)
            mixture.set_callbacks(Callback()).fit(X)
            seen.add((torch.get_num_threads(), number_of_a_new_thread()))

        used, begin = [], Workers.__init__
        def counted(self, n_workers):
            begin(self, n_workers)
            used.extend(self.map(lambda _: torch.get_num_threads(), range(20)))
        Workers.__init__ = counted

        before = torch.get_num_threads(), number_of_a_new_thread()
        seen = set()
        fit()                               # as the process began
        print(seen == {before})
        seen, used[:] = set(), []
        torch.set_num_threads(3)            # and after the user has set it
        fit()
        print(*sorted(seen), *set(used), threads_to_share())
        """
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "2", "PATH": "/usr/bin:/bin"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True", "(3,", "3)", "1", "3"]


def test_workers_of_joblib_share_the_machine_already():
    assert threads_to_share() == torch.get_num_threads()
    with parallel_config("loky", inner_max_num_threads=2):  # even if they may use more
        in_processes = Parallel(n_jobs=2)(delayed(threads_to_share)() for _ in range(2))
    in_threads = Parallel(n_jobs=2, backend="threading")(delayed(threads_to_share)() for _ in range(2))
    assert in_processes == in_threads == [1, 1]
