"""Kill fits with SIGKILL at random moments, start them again until they are done, and compare them with whole ones.

    python tests/checkpoints/soak.py [number of kills] [seed]

One process fits a mixture and then a network, both with a checkpoint after every few iterations. It is a fork of this
process, which has loaded the libraries and has fitted nothing. So it starts in milliseconds.
"""

import os
import pickle
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.base import clone

from skvae import AutoencoderTransformer, Checkpoint, GaussianMixtureEM

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(mean, 1.0, (60, 4)) for mean in (0.0, 1.0, 2.0)])
ESTIMATORS = {
    "mixture": GaussianMixtureEM(4, n_init=2, tol=0, max_iter=60, random_state=0, acceleration="squarem"),
    "network": AutoencoderTransformer(
        2,
        hidden_layer_sizes=(8,),
        max_iter=60,
        batch_size=60,
        early_stopping=True,
        n_iter_no_change=1000,
        random_state=0,
    ),
}


def state_of(estimator):
    """What a fit has set, as bytes."""
    parameters = {*estimator.get_params(), "_is_clone"}
    return {name: pickle.dumps(value) for name, value in sorted(vars(estimator).items()) if name not in parameters}


def fit_all(folder, result):
    """Fit both estimators with checkpoints in a folder, or without any (None), and write what they have found."""
    warnings.simplefilter("ignore")
    os.fsync = lambda file: None  # what a killed process has written stays; waiting for the disk would take most time
    found = {}
    for name, estimator in ESTIMATORS.items():
        path = None if folder is None else Checkpoint(Path(folder, f"{name}.npz"), interval=1e-3)
        found[name] = state_of(clone(estimator).set_params(checkpoint=path).fit(X))
    result.write_bytes(pickle.dumps(found))


def forked(folder, result):
    """The process id of a fork that fits."""
    pid = os.fork()
    if pid:
        return pid
    try:
        fit_all(folder, result)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def killed_after(seconds, pid):
    """Kill a process after some time; whether it was still running. An error if it has failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the fit failed with status {status}"
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"the fit failed with status {status}"
    return status != 0


def soak(n_kills, seed=0):
    """Kill fits so many times; how many of the kills left a checkpoint behind, and how many fits ended."""
    rng, n_done, n_left = np.random.default_rng(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        result, whole = Path(folder, "result"), Path(folder, "whole")
        assert not killed_after(600, forked(None, whole))
        began = time.monotonic()
        assert not killed_after(600, forked(folder, result))
        lasts = time.monotonic() - began
        killed = 0
        while killed < n_kills or not result.exists():
            result.unlink(missing_ok=True)
            wait = rng.uniform(0, lasts) if killed < n_kills else 600
            if killed_after(wait, forked(folder, result)):
                killed += 1
                n_left += any(Path(folder).glob("*.npz"))
            else:
                n_done += 1
                assert result.read_bytes() == whole.read_bytes(), "a fit that was killed is not the whole one"
                assert not list(Path(folder).glob("*.npz*")), "a fit that is done has left files"
    return n_left, n_done


if __name__ == "__main__":
    n_kills, seed = (int(text) for text in [*sys.argv[1:], *["3", "0"][len(sys.argv) - 1 :]])
    began = time.monotonic()
    n_left, n_done = soak(n_kills, seed)
    print(
        f"{n_kills} kills, {n_left} of which left a checkpoint; {n_done} fits went on to the end and are bit-equal "
        f"({time.monotonic() - began:.1f} s)"
    )
