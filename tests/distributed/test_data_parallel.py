"""One fit of several processes equals the fit of one to all rows; the mistakes of one process reach all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite, _reduce

SCRIPT = Path(__file__).with_name("shared_fits.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What the processes of each task wrote, by rank; their exit codes; and what they printed."""
    folder = tmp_path_factory.mktemp("shared")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    command = [sys.executable, str(SCRIPT), str(folder)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    codes = json.loads((folder / "codes.json").read_text())
    written = {
        task: {int(path.stem): json.loads(path.read_text()) for path in (folder / task).glob("*.json")}
        for task in codes
    }
    return written, codes, run.stderr


def test_a_shared_fit_is_the_fit_to_all_rows(runs):
    written, codes, printed = runs
    assert codes["equal"] == [0, 0, 0], printed
    for rank, cases in written["equal"].items():
        for name, gaps in cases.items():
            limit = 1e-5 if "float32" in name else 1e-10
            assert max(gaps.values()) < limit, (rank, name, gaps)


def test_the_mistake_of_one_process_is_told_to_all(runs):
    written, codes, printed = runs
    assert codes["errors"] == [0, 0], printed
    first, second = written["errors"][0], written["errors"][1]
    assert "X[3, 2] = inf" in second["infinite cell"]
    assert first["infinite cell"].startswith("ValueError") and "process 1 of 2" in first["infinite cell"]
    for each in (first, second):
        assert each["as it was"]
        assert "n_components" in each["parameters"] and "process 1 has 3" in each["parameters"]
        assert "n_features, but process 0 has 5 and process 1 has 6" in each["columns"]
        assert "dtype, but process 0 has float64 and process 1 has float32" in each["dtype"]
        assert "sample_weight" in each["weights"]
        assert "n_samples=6 should be >= n_clusters=8" in each["too few"]
        assert "callable init" in each["callable init"]
        assert "The 'tol' parameter of GaussianMixtureEM" in each["parameter"]
        assert "feature_names, but process 0 has ['a0', " in each["names"]
        assert "layout, but process 0 has dense rows and process 1 has sparse rows" in each["layout"]
        assert each["timeout"] == 40  # of `init_process_group`
        assert "process [1] has not. All must call the same methods" in each["state"]
    assert first["parameter"].startswith("ValueError")
    assert first["interrupted"].startswith("LostProcessError") and second["interrupted"].startswith("KeyboardInterrupt")
    assert first["seeds"] == second["seeds"]  # the first draws one for both
    assert first["after"] == second["after"] == first["after all"] == second["after all"]
    assert first["alone"] == 600


def test_the_others_do_not_wait_for_a_dead_process(runs):
    written, codes, printed = runs
    assert codes["killed"] == [0, -signal.SIGKILL], printed
    expected = "LostProcessError: Process 0 of 2 that share this fit has lost another one"
    assert expected in written["killed"][0]["error"]


@pytest.mark.parametrize(
    "estimator", [KMeansLite(2, random_state=0), GaussianMixtureEM(2, random_state=0), FactorAnalysisEM(1)]
)
def test_without_other_processes_nothing_changes(estimator):
    X = np.random.default_rng(0).normal(size=(200, 3))
    alone = estimator.fit(X).score(X)
    assert estimator.set_params(data_parallel=True).fit(X).score(X) == alone
    assert not _reduce.is_shared() and _reduce.is_first()
