"""Shared by all tests: the settings they run under, the real data, and a guard on global state."""

import os
import sys
from pathlib import Path

# Before anything imports SciPy, matplotlib or torch. Without the first, one of scikit-learn's checks skips itself.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The fits here are small: on a machine with other work, waiting for a second thread takes longer than computing.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest


def pytest_collection_modifyitems(items):
    """Quick tests first, in their own order; the slow ones follow."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def test_data():
    """Folder with the real data sets; the test is skipped where there is none."""
    folder = os.environ.get("SKVAE_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set SKVAE_TEST_DATA to the folder that holds ml-1m.zip and ml-100k.zip")
    if not Path(folder).is_dir():
        pytest.fail(f"SKVAE_TEST_DATA={folder!r} is not a folder; correct it or unset it")
    return Path(folder).resolve()


def _data_file(folder, name):
    path = folder / name
    if not path.is_file():
        pytest.skip(f"needs {name} in the folder that SKVAE_TEST_DATA names")
    return path


@pytest.fixture(scope="session")
def ml_1m_path(test_data):
    """Path of ml-1m.zip: MovieLens-1M, as GroupLens distributes it but repacked."""
    return _data_file(test_data, "ml-1m.zip")


@pytest.fixture(scope="session")
def ml_100k_path(test_data):
    """Path of ml-100k.zip: MovieLens-100K, as GroupLens distributes it but repacked."""
    return _data_file(test_data, "ml-100k.zip")


def global_state(torch):
    """What no fit may change for the rest of the process: global generators and torch's threads."""
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (it is what is watched)
    state = {"numpy's global generator": (kind, keys.tobytes(), position, has_gauss, cached)}
    if torch is not None:
        state["torch's global generator"] = torch.get_rng_state().numpy().tobytes()
        state["torch's thread count"] = torch.get_num_threads()
        state["torch's default dtype"] = torch.get_default_dtype()
    return state


@pytest.fixture(autouse=True)
def _global_state_untouched():
    torch = sys.modules.get("torch")  # where the test itself imports it, there is no state from before to compare
    before = global_state(torch)
    yield
    after = global_state(torch)
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"the test changed {' and '.join(changed)}; draw from a generator of your own"
