"""The check of a GPU runs, from a bare copy too; it fails where two devices differ, and nowhere else."""

import contextlib
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from pretend_accelerator import accelerator
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode

from skvae import FactorAnalysisEM, GaussianMixtureEM, KMeansLite, _reduce
from skvae.tables import weights

ROOT = Path(__file__).parents[1]

# Hides an installed skvae, its metadata and the optional packages; then runs a script with what remains.
BARE = """
import importlib.metadata as metadata, pathlib, runpy, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("matplotlib", "pandas", "rich"):
            raise ModuleNotFoundError(name)

def version(name, known=metadata.version):
    if name == "skvae":
        raise metadata.PackageNotFoundError(name)
    return known(name)

sys.meta_path.insert(0, Hidden())
metadata.version = version
sys.path[:] = [folder for folder in sys.path if not pathlib.Path(folder, "skvae").is_dir()]
script, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, str(pathlib.Path(script).parent))  # as of a script
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
def test_gpu_check_runs_from_a_copy_without_install_or_optional_packages(tmp_path):
    for folder in ("skvae", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path / "gpu.rst"
    command = [sys.executable, "-c", BARE, str(tmp_path / "benchmarks/gpu_check.py")]
    run = subprocess.run(
        [*command, "--device", "cpu", "--size", "smoke", "--out", str(out)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    table = out.read_text()
    assert "- 0 failed; 57 comparisons and 6 measurements were made." in table.splitlines()
    assert table.count("     - PASS\n") == 57
    assert run.stderr == ""


def test_figures_are_paired_with_ease_user_by_user_and_found_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    bench = import_module("bench_recommender_quality")
    store, base, gain = bench.Store(tmp_path / "cells"), np.linspace(0, 1, 40), np.resize([0.1, 0.3], 40)
    for deal in range(2):
        users = {"ease": [base] * 3, "vote": [base + gain * (deal + 1)] * 3}
        for model, values in users.items():
            cell = {"seconds": 2.0, "remark": "", "users": [list(value) for value in values]}
            store.add(data="api", deal=deal, model=model, **cell)
    again = bench.Store(tmp_path / "cells")
    assert ("api", 1, "vote") in again and ("api", 2, "vote") not in again
    error = np.std(gain, ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(again.less_ease("api", "vote"), [[0.2, error], [0.4, 2 * error]])
    text = bench.tables(again, ["api"], ["ease", "vote"])
    assert f"+0.3000 +- {np.sqrt(5) * error / 2:.4f}" in text  # the splits' errors add as those of other users
    assert f"+0.2000 +- {error:.4f}, +0.4000 +- {2 * error:.4f}" in text


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("gpu_check")


class Skewed(KMeansLite):
    """One whose second fit, which is that of the device, differs from the first."""

    n_fits = 0

    def fit(self, X):
        Skewed.n_fits += 1
        super().fit(X)
        self.cluster_centers_ = self.cluster_centers_ * (1 + 1e-6 * (Skewed.n_fits == 2))
        return self


class Broken(KMeansLite):
    def fit(self, X):
        raise RuntimeError("Expected all tensors to be on the same device")


class Interrupted(KMeansLite):
    def fit(self, X):
        raise KeyboardInterrupt


def case(kind, tolerance=1e-7):
    X = np.random.default_rng(0).normal(size=(30, 2))
    agreement = import_module("_agreement")
    return agreement.Case(kind.__name__, kind(2, random_state=0), X, ("cluster_centers_", "labels_"), tolerance)


@pytest.mark.parametrize(("tolerance", "result"), [(1e-7, "FAIL"), (1e-5, "PASS")])
def test_a_difference_between_devices_fails(gpu_check, monkeypatch, capsys, tolerance, result):
    monkeypatch.setattr(Skewed, "n_fits", 0)
    monkeypatch.setattr(gpu_check, "cases", lambda n: [case(Skewed, tolerance)])
    monkeypatch.setattr(gpu_check, "workloads", lambda size: [])
    assert gpu_check.main(["--device", "cpu", "--size", "smoke"]) == (result == "FAIL")
    assert f"Skewed | {result} | 1e-06 | 0e+00 | {tolerance:.0e} | cluster_centers_" in capsys.readouterr().out


def test_an_error_is_told_and_the_next_case_follows(gpu_check, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check, "cases", lambda n: [case(Broken), case(KMeansLite)])
    monkeypatch.setattr(gpu_check, "workloads", lambda size: [])
    assert gpu_check.main(["--device", "cpu", "--size", "smoke", "--out", str(tmp_path / "gpu.rst")]) == 1
    table = (tmp_path / "gpu.rst").read_text()
    assert "- FAIL Broken: ``RuntimeError: Expected all tensors to be on the same device``\n" in table
    assert "   * - KMeansLite\n     - PASS\n" in table
    assert "Traceback" in capsys.readouterr().out


def test_what_was_measured_stays_when_the_run_is_stopped(gpu_check, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "cases", lambda n: [case(KMeansLite), case(Interrupted)])
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main(["--device", "cpu", "--size", "smoke", "--out", str(tmp_path / "gpu.rst")])
    assert "   * - KMeansLite\n     - PASS\n" in (tmp_path / "gpu.rst").read_text()


def test_without_time_all_is_skipped_and_said_so(gpu_check, capsys):
    assert gpu_check.main(["--device", "cpu", "--size", "smoke", "--seconds", "0"]) == 0
    told = capsys.readouterr().out
    assert "only the first 0 comparisons were made" in told
    assert told.count("skipped, since") == 5
    assert "0 failed; 0 comparisons and 0 measurements were made." in told


@pytest.mark.parametrize("cases_of", ["clusterings", "mixtures", "linear_models", "networks", "recommenders"])
def test_a_device_is_compared_with_the_cpu(gpu_check, cases_of):
    agreement = import_module("_agreement")
    case = next(getattr(agreement, cases_of)(60))
    with accelerator() as device:
        found = agreement.compared(case, "cuda")
    assert max(found.fitted, found.predicted) <= case.tolerance
    assert device.uploads


class Stubborn(KMeansLite):
    def fit(self, X):
        device, self.device = self.device, "cpu"
        super().fit(X)
        self.device = device
        return self


def test_a_fit_elsewhere_than_asked_for_is_an_error(gpu_check):
    with accelerator(), pytest.raises(RuntimeError, match="asked to fit on 'cuda', it was fitted on 'cpu'"):
        import_module("_agreement").compared(case(Stubborn), "cuda")


@pytest.mark.parametrize(
    ("found", "expected", "deviation"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [np.nan, 2.0], np.inf),
        ([-np.inf, 2.0], [np.inf, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
        (np.float32([1.0]), [1.0], np.inf),
        ([1, 2, 3, 4], [1, 2, 3, 3], 0.25),
        (([1.0], [1, 2]), ([1.0], [1, 1]), 0.5),
        ({"a": 1.0, "b": 3.0}, {"b": 2.0, "a": 1.0}, 0.5),
        (True, False, 1.0),
    ],
)
def test_deviation(gpu_check, found, expected, deviation):
    assert import_module("_agreement").deviation(found, expected) == deviation


def test_a_gpu_is_waited_for_and_its_memory_measured(gpu_check, monkeypatch):
    device = gpu_check.Device("cpu")
    device.on_gpu = True
    order = mock.Mock()
    answers = {
        "synchronize": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 100,
        "max_memory_allocated": 350,
        "get_device_properties": SimpleNamespace(name="A card", total_memory=2**34),
    }
    for name, answer in answers.items():  # with torch's own signatures: a wrong argument is an error
        function = mock.create_autospec(getattr(torch.cuda, name), return_value=answer)
        monkeypatch.setattr(torch.cuda, name, function)
        order.attach_mock(function, name)
    seconds, memory = device.measured(order.work)
    assert [call[0] for call in order.mock_calls] == [
        "synchronize",
        "reset_peak_memory_stats",
        "memory_allocated",
        "work",
        "synchronize",
        "max_memory_allocated",
    ]
    assert memory == 250
    assert seconds > 0
    assert str(device) == "A card, 16 GiB"


def test_the_drawn_clicks_have_the_shape_asked_for(gpu_check):
    X = import_module("_workloads").clicks(4000, 3000, 300_000)
    assert X.shape == (4000, 3000)
    assert X.nnz == pytest.approx(300_000, rel=0.15)
    assert set(X.data) == {1}
    assert np.diff(X.indptr).min() >= 1
    assert X.has_canonical_format


ARITHMETIC = frozenset(
    """_fused_adam _linalg_eigh _linalg_svd _log_softmax _softmax add addcdiv addcmul addmm addmv baddbmm bmm
    cholesky_inverse cos cumsum digamma div dot exp expm1 index_add lgamma linalg_cholesky_ex linalg_qr
    linalg_solve_triangular linalg_vector_norm log log1p logsumexp mean mm mul mv pow rsqrt sigmoid sigmoid_backward sin
    softplus sqrt square sub sum tanh tanh_backward""".split()
)


class OtherRounding(TorchDispatchMode):
    """Arithmetic each of whose results is off by up to one unit in the last place, as another device's may be."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        if operation._schema.name.removeprefix("aten::").removesuffix("_") in ARITHMETIC:
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=self.generator, dtype=tensor.dtype).mul_(2).sub_(1)
                    tensor.mul_(noise.mul_(torch.finfo(tensor.dtype).eps).add_(1))
        return out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_tolerances_leave_room_for_the_rounding_of_another_device(gpu_check):
    agreement = import_module("_agreement")
    found = {}
    for case in agreement.cases(100):
        estimator = agreement.placed(clone(case.estimator), "cpu")
        expected = case.fit(clone(estimator), case.X)
        with OtherRounding(seed=0):
            other = case.fit(clone(estimator), case.X)
            answers = [agreement.answer(other, ask, case.X) for ask in case.asks]
        differ = [
            agreement.deviation(answer, agreement.answer(expected, ask, case.X))
            for answer, ask in zip(answers, case.asks)
        ]
        found[case.name] = max(differ) / case.tolerance
    assert {name: share for name, share in found.items() if share > 1} == {}
    assert max(found.values()) > 0


# --- the arithmetic of shared fits ------------------------------------------------------------------------------------


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return import_module("scaling_model")


class Counting(TorchDispatchMode):
    """Counts the operations of matrix products, and the bytes that whole arrays of some number of cells move."""

    def __init__(self, cells):
        super().__init__()
        self.cells, self.operations, self.moved = cells, 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out, name = operation(*args, **(kwargs or {})), operation._schema.name.removeprefix("aten::").rstrip("_")
        if name in ("mm", "addmm"):
            a, b = args[-2:]
            self.operations += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        if name not in ("view", "transpose", "t", "as_strided", "detach", "slice", "index", "index_add", "select"):
            arrays = [each for each in (*args, out) if isinstance(each, torch.Tensor) and each.numel() == self.cells]
            self.moved += sum(each.nbytes for each in arrays)
        return out


@pytest.mark.parametrize("in_blocks", [False, True])
def test_the_arithmetic_of_a_step_of_mult_vae_is_that_of_the_model(scaling, monkeypatch, in_blocks):
    from skvae._tensors import Noise, Rows, _block_sizes
    from skvae.likelihoods.multinomial import Multinomial
    from skvae.models.recommenders.mult_vae import MultVAE

    if in_blocks:
        monkeypatch.setitem(_block_sizes._WHOLE_CELLS, "cpu", 0)
        monkeypatch.setitem(_block_sizes._CELLS_OF_A_BLOCK, "cpu", 0)  # blocks of 64 items
    net = scaling.MultVAE(n_items=128, hidden=12, components=5)
    model = MultVAE(128, 5, (12,), torch.tanh, 0.0, Multinomial())
    params = model.init(Noise(0), torch.ones(128), torch.ones(128))
    assert net.parameters == sum(each.numel() for each in params.values())
    n_wide = sum(each.numel() for name, each in params.items() if 128 in each.shape)
    assert (net.wide, net.middle) == (n_wide, net.parameters - n_wide)
    X = sp.csr_array(sp.random(9, 128, density=0.2, random_state=0, dtype=np.float32))
    batch = Rows(X, torch.device("cpu"), torch.float32).whole()
    for each in params.values():
        each.requires_grad_()
    with Counting(9 * 64) as counted:
        model.bound(params, batch, Noise(1)).log_prob.sum().backward()
    assert counted.operations == 9 * net.operations(in_blocks=in_blocks)
    if in_blocks:
        assert counted.moved == 9 * 128 * scaling.BYTES_A_SCORE


def test_sums_over_a_ring_send_what_the_formula_says(scaling):
    for size in (1, 2, 3, 5):
        parts = [{(rank, place) for rank in range(size)} for place in range(size)]  # that must be added up
        held = [[{(rank, place)} for place in range(size)] for rank in range(size)]
        sent = np.zeros(size)
        for adding in (True, False):
            for turn in range(size - 1):
                moves = [(rank, (rank - turn + (not adding)) % size) for rank in range(size)]
                for (rank, place), part in zip(moves, [held[rank][place] for rank, place in moves]):
                    held[(rank + 1) % size][place] = held[(rank + 1) % size][place] | part
                    sent[rank] += 1 / size
        assert held == [parts] * size
        np.testing.assert_allclose(sent, scaling.ring_bytes(1, size))


class Told:
    """Counts what a process of two would tell the other, and answers in its place."""

    rank, size = 0, 2

    def __init__(self):
        self.numbers, self.reductions, self.meetings, self.n_objects = 0, 0, 0, 0

    def meet(self, state, tag=0):
        self.meetings += 1
        return True

    def objects(self, own):
        self.n_objects += 1
        return [own]

    def sums(self, tensors):
        sent = [tensor for tensor in tensors if tensor is not None]
        self.reductions += len({tensor.dtype for tensor in sent})
        self.numbers += sum(tensor.numel() for tensor in sent)
        return tensors


@pytest.mark.parametrize(
    ("kind", "estimator"),
    [
        ("K-means", KMeansLite(3, init=np.eye(3, 5))),
        ("mixture, spherical or diag", GaussianMixtureEM(3, covariance_type="diag", means_init=np.eye(3, 5))),
        ("mixture, tied", GaussianMixtureEM(3, covariance_type="tied", means_init=np.eye(3, 5))),
        ("mixture, full", GaussianMixtureEM(3, means_init=np.eye(3, 5))),
        ("factor analysis", FactorAnalysisEM(2)),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_iteration_sends_what_the_formula_says(scaling, monkeypatch, kind, estimator):
    @contextlib.contextmanager
    def shared(data_parallel=True):
        with _reduce._set(_reduce._fit, told), _reduce._set(_reduce._rows, told):
            yield

    monkeypatch.setattr(_reduce, "shared", shared)
    monkeypatch.setattr(weights, "_FEW_CELLS", 0)
    found = []
    for n_iterations in (2, 5):
        told = Told()
        estimator = clone(estimator).set_params(data_parallel=True, random_state=0, max_iter=n_iterations, tol=0)
        estimator.fit(np.random.default_rng(0).normal(size=(200, 5)))
        assert estimator.n_iter_ == n_iterations
        found.append([told.numbers, told.reductions, told.meetings, told.n_objects])
    np.testing.assert_array_equal(np.subtract(*found[::-1]) / 3, scaling.em_sums(kind, 3, 5))


def rows_of_tables(text):
    rows = []
    for line in text.splitlines():
        if line.startswith("   * -"):
            rows.append([])
        if line.startswith(("   * -", "     -")):
            rows[-1].append(line[6:].strip())
    return set(map(tuple, rows))


def test_the_page_of_arithmetic_has_the_tables_of_the_script(scaling):
    printed = {tuple(row) for _, head, body in scaling.tables() for row in (head, *body)}
    assert not printed - rows_of_tables((ROOT / "doc/scaling_arithmetic.rst").read_text())
