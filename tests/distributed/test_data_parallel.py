"""One fit of several processes equals the fit of one to all rows; the mistakes of one process reach all."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest

from skvae import (
    AutoencoderTransformer,
    EASERecommender,
    FactorAnalysisEM,
    GaussianMixtureEM,
    KMeansLite,
    MultVAERecommender,
    PopularityRecommender,
    VAETransformer,
    _reduce,
)

SCRIPT = Path(__file__).with_name("shared_fits.py")


def launch(task, n_processes, folder):
    """Run a task of the script in several processes; what they wrote, by rank, and the run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={n_processes}",
        "--master-addr=127.0.0.1",
    ]
    command += [f"--master-port={port}", str(SCRIPT), task, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    found = {int(path.stem): json.loads(path.read_text()) for path in Path(folder).glob("*.json")}
    return found, run


def test_a_shared_fit_is_the_fit_to_all_rows(tmp_path):
    found, run = launch("equal", 3, tmp_path)
    assert run.returncode == 0, run.stderr
    assert len(found) == 3
    for rank, cases in found.items():
        for name, gaps in cases.items():
            limit = 1e-5 if "float32" in name else 1e-10
            assert max(gaps.values()) < limit, (rank, name, gaps)
    printed = [Path(tmp_path, f"{rank}.txt").read_text() for rank in range(3)]  # by "train.py"
    assert printed[0] in (SCRIPT.parents[2] / "doc/scaling.rst").read_text() and printed[0].startswith("60,000 rows, ")
    assert printed[1:] == ["", ""]


def test_a_dead_process_and_mistakes_of_one_are_told_to_all_and_the_fit_goes_on(tmp_path):
    found, run = launch("killed", 2, tmp_path)
    assert run.returncode != 0
    if 0 in found:  # unless the launcher ended it first
        assert "LostProcessError: Process 0 of 2 that share this fit has lost another one" in found[0]["error"]
    assert (tmp_path / "fit.npz").exists()

    found, run = launch("errors", 2, tmp_path)
    assert run.returncode == 0, run.stderr
    first, second = found[0], found[1]
    for each in (first, second):
        resumed = each["resumed"]
        assert (resumed.pop("begun at"), resumed.pop("equal"), resumed.pop("files")) == (3, True, [])
        for name, (failed, n_files, is_equal) in resumed.items():
            assert failed == "RuntimeError: for the test" and n_files == 1 and is_equal, name
        assert len(resumed) == 3
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
        assert "ValueError: X has 5 features, but EASERecommender" in each["score"]
        assert "found no interaction in X: all (1200, 6) cells are zero" in each["no clicks"]
        assert each["timeout"] == 40  # of `init_process_group`
        assert "feature_names, but process 0 has ['a0', " in each["items"]
        assert "must agree in the earlier fit (by a hash of popularity_, last_time_)" in each["other counts"]
        assert "the earlier fit (by a hash of parameters_" in each["other network"]
        for name, (partial_fit, score) in each["unfitted"].items():
            assert partial_fit.startswith("ValueError"), (name, partial_fit)
            assert "process 0 has none, since it is not fitted, and process 1 has" in partial_fit, (name, partial_fit)
            assert f"This {name} instance is not fitted yet" in score, (name, score)
        assert len(each["unfitted"]) == 7
        for kind in ("StackedGridSearchCV", "GridSearchCV"):
            assert each["search"][kind] < 1e-10
            assert "use n_jobs=None with data_parallel=True" in each["search"][f"{kind} in threads"]
        of_networks = each["networks"]
        assert "agree in weights, but process 0 has no sample_weight" in of_networks["score"]
        assert "agree in weights, but process 0 has no sample_weight" in of_networks["score of k-means"]
        assert "must agree in the earlier fit (by a hash of parameters_" in of_networks["other state"]
        assert "must agree in the earlier fit (by a hash of weights_" in of_networks["other mixture"]
        assert "which only the process that has the row would know" in of_networks["svi"]
        assert "agree in X_val, but process 0 has no X_val" in of_networks["X_val"]
        assert "column 'b' is 'gaussian' in process 0 and 'categorical' in process 1" in of_networks["kinds"]
        assert "Found 0 sample(s) in all processes" in of_networks["no rows"]
        assert "though the learning rate had been halved" in of_networks["diverges"]
        assert "RuntimeError: no decoder here" in of_networks["module"]
        assert of_networks["callback fails"].startswith("ValueError: no more")
        assert of_networks["callback of a mixture"].startswith("ValueError: no more")
        assert of_networks["callback scores"] == of_networks["callback stops"] == "no error"
    assert first["networks"]["bounds"] == second["networks"]["bounds"]
    assert "process 0 of 2" in second["networks"]["callback fails"] and "process 1" in first["networks"]["module"]
    assert first["parameter"].startswith("ValueError")
    assert first["interrupted"].startswith("LostProcessError") and second["interrupted"].startswith("KeyboardInterrupt")
    assert first["and failing"] == "ValueError: no more" and second["and failing"].startswith("KeyboardInterrupt")
    assert first["seeds"] == second["seeds"]  # the first draws one for both
    assert first["after"] == second["after"] == first["after all"] == second["after all"]
    assert first["alone"] == 600


@pytest.mark.parametrize(
    "estimator",
    [
        KMeansLite(2, random_state=0),
        GaussianMixtureEM(2, random_state=0),
        FactorAnalysisEM(1),
        EASERecommender(),
        PopularityRecommender(),
        MultVAERecommender(2, max_iter=1, random_state=0),
        VAETransformer(2, max_iter=2, random_state=0),
        AutoencoderTransformer(2, max_iter=2, random_state=0),
    ],
)
def test_without_other_processes_nothing_changes(estimator):
    X = abs(np.random.default_rng(0).normal(size=(200, 3)))
    alone = estimator.fit(X).score(X)
    assert estimator.set_params(data_parallel=True).fit(X).score(X) == alone
    assert not _reduce.is_shared() and _reduce.is_first()


def test_a_worker_of_a_process_that_could_share_a_fit_refuses_to_fit_to_its_rows_alone(monkeypatch):
    X, mixture = np.random.default_rng(0).normal(size=(20, 2)), GaussianMixtureEM(data_parallel=True)

    def in_a_worker():
        return joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(mixture.fit)(X) for _ in range(1))

    assert in_a_worker() == [mixture]
    monkeypatch.setenv("WORLD_SIZE", "2")  # as of torchrun, in whose processes and all that they start
    assert mixture.fit(X) is mixture
    with pytest.raises(ValueError, match="use n_jobs=None with data_parallel=True"):
        in_a_worker()
