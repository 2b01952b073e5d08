"""Keyed noise, rows and batches: the same numbers whatever the batch, shard or order."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from skvae._hash import combine, mix
from skvae._tensors import Noise, Rows, _rows, resolve_device, to_device, to_numpy, top_k

CPU = torch.device("cpu")


def splitmix64_finaliser(x):
    """The original, in Python's unbounded integers."""
    wrap = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & wrap
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & wrap
    x ^= x >> 31
    return x - 2**64 if x >= 2**63 else x


def test_mix_is_the_published_finaliser_in_numpy_and_torch():
    x = np.array([0, 1, 2, 12345678901234567, 2**63 - 1], dtype=np.int64)
    expected = [splitmix64_finaliser(int(v)) for v in x]
    assert mix(x).tolist() == expected
    assert mix(torch.from_numpy(x)).tolist() == expected
    assert mix(np.array([-1], dtype=np.int64)).tolist() == [splitmix64_finaliser(2**64 - 1)]


def test_hashing_leaves_its_arguments_alone():
    key, x = np.arange(3), np.arange(3)
    combine(key, x)
    mix(x)
    assert key.tolist() == x.tolist() == [0, 1, 2]


def test_noise_does_not_depend_on_batch_order_or_number_of_columns():
    noise = Noise(7).fold("z", 3)
    row = torch.arange(50)
    whole = noise.normal(row, 8)
    picked = torch.tensor([31, 4, 4, 17])
    assert torch.equal(noise.normal(picked, 8), whole[picked])
    assert torch.equal(noise.normal(row, 5), whole[:, :5])
    assert torch.equal(noise.uniform(row, 5), noise.uniform(row, 8)[:, :5])


def test_noise_differs_by_seed_purpose_epoch_row_and_column():
    draws = [
        Noise(seed).fold(purpose, epoch).normal(torch.arange(20), 10)
        for seed in (0, 1)
        for purpose in ("z", "dropout")
        for epoch in (0, 1)
    ]
    numbers = torch.cat([d.ravel() for d in draws])
    assert len(numbers.unique()) > 0.99 * len(numbers)
    assert np.abs(np.corrcoef([d.ravel().numpy() for d in draws]) - np.eye(8)).max() < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_standard_normal_and_uniform(dtype):
    noise = Noise(0)
    row = torch.arange(20_000)
    assert stats.kstest(noise.normal(row, 5, dtype).ravel().numpy(), "norm").pvalue > 1e-3
    uniform = noise.uniform(row, 5, dtype).ravel().numpy()
    assert 0 < uniform.min() and uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(noise.normal(row, 20, dtype).numpy().T)
    assert np.abs(correlation - np.eye(20)).max() < 5 / np.sqrt(20_000)


def test_permutation_orders_all_rows():
    order = Noise(5).fold(1).permutation(1000)
    assert sorted(order) == list(range(1000))
    assert abs(stats.spearmanr(order, np.arange(1000)).statistic) < 0.15


@pytest.fixture(params=["csr_matrix", "csr_array", "int64", "read-only"])
def matrix(request, tmp_path):
    dense = sp.random(40, 30, density=0.2, random_state=0).toarray()
    dense[7] = 0  # a row without entries
    X = sp.csr_array(dense)
    if request.param == "csr_matrix":
        return sp.csr_matrix(X)
    if request.param == "int64":
        X.indptr, X.indices = X.indptr.astype(np.int64), X.indices.astype(np.int64)
    if request.param == "read-only":
        for part in (X.data, X.indices, X.indptr):
            part.flags.writeable = False
    return X


def test_a_batch_is_its_rows(matrix):
    index = np.array([3, 7, 39, 3, 0])
    batch = Rows(matrix, CPU, torch.float64).batch(index)
    dense = torch.from_numpy(matrix.toarray()[index])
    draw = torch.Generator().manual_seed(0)
    weight, bias, f = (torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((30, 4), (4,), (5, 30)))
    torch.testing.assert_close(batch.linear(weight, bias), dense @ weight + bias)
    torch.testing.assert_close(batch.inner(f), (dense * f).sum(1))
    torch.testing.assert_close(batch.sum(), dense.sum(1))
    assert batch.row.tolist() == index.tolist() and len(batch) == 5 and batch.n_columns == 30


def test_gradients_of_the_sparse_layer_are_the_dense_ones(matrix):
    index = np.array([3, 7, 39, 0])
    dense = torch.from_numpy(matrix.toarray()[index])
    weight, bias = torch.ones(30, 4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    upstream = torch.arange(16, dtype=torch.float64).reshape(4, 4)
    weight.requires_grad_(), bias.requires_grad_()
    out = Rows(matrix, CPU, torch.float64).batch(index).linear(weight, bias)
    of_weight, of_bias = torch.autograd.grad(out, (weight, bias), upstream)
    torch.testing.assert_close(of_weight, dense.T @ upstream)
    torch.testing.assert_close(of_bias, upstream.sum(0))


@pytest.mark.parametrize("trained", [True, False])
def test_a_weight_that_is_not_trained_costs_no_gradient(matrix, monkeypatch, trained):
    calls, times = [], _rows._transposed_times
    monkeypatch.setattr(_rows, "_transposed_times", lambda x, f: calls.append(1) or times(x, f))
    weight, bias = torch.ones(30, 4).requires_grad_(trained), torch.zeros(4).requires_grad_()
    Rows(matrix, CPU).batch(np.array([3, 7])).linear(weight, bias).sum().backward()
    assert len(calls) == trained and (bias.grad == 2).all()


@pytest.mark.parametrize("batch_size", [1, 7, 40, 1000])
def test_batches_hold_every_row_once_and_are_even(matrix, batch_size):
    batches = list(Rows(matrix, CPU).batches(batch_size))
    sizes = [len(batch) for batch in batches]
    assert torch.cat([batch.row for batch in batches]).tolist() == list(range(40))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1


def test_a_batch_of_empty_rows_sums_to_nothing(matrix):
    batch = Rows(matrix, CPU).batch(np.array([7, 7]))
    assert batch.linear(torch.ones(30, 2), torch.zeros(2)).abs().sum() == 0
    assert batch.inner(torch.ones(2, 30)).tolist() == [0, 0]


def test_parameters_survive_the_journey():
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    tensors = to_device(arrays, CPU)
    tensors["w"] += 1
    assert arrays["w"][0, 0] == 0 and to_numpy(tensors)["w"][0, 0] == 1


def test_top_k_of_tensors_is_a_stable_sort():
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (30, 12)).astype(float))
    columns, values = top_k(scores, 4)
    expected = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :4]
    assert (columns == expected).all()
    assert (values == np.take_along_axis(scores.numpy(), expected, axis=1)).all()


@pytest.mark.parametrize("name", ["gpu0", "meta", "cuda:99", ""])
def test_unknown_devices_are_named(name):
    with pytest.raises(ValueError, match=f"device={name!r}"):
        resolve_device(name)
