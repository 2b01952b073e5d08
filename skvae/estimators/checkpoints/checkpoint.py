"""The parameter `checkpoint` of the estimators."""

import os
from dataclasses import dataclass
from numbers import Real


@dataclass(frozen=True)
class Checkpoint:
    """A file from which an interrupted fit goes on, and what Ctrl-C does to the fit.

    Give it, or the path alone, as the parameter `checkpoint` of an estimator. `fit` writes its state to the file from
    time to time. If the process ends before the fit does, call `fit` again with the same parameters and rows: it goes
    on from the file, and the result is that of a fit without an interruption, bit for bit. Then the file is removed.
    Read more in the :doc:`user guide </user_guide/progress>`.

    Parameters
    ----------
    path : str or path-like
        File to write, in a folder that exists. Clones, such as those that a search fits, write a file of their own
        beside it, with a name that follows from parameters and rows: "fit-3f2a9c.npz" for "fit.npz".
    interval : float, default=60.0
        Seconds from one writing to the next, at least; more where writing takes more than a twentieth of the time. 0
        writes after every iteration or epoch.
    on_interrupt : {"raise", "stop"}, default="raise"
        What Ctrl-C does: at the end of the iteration (or epoch) the state is written, and then the fit raises
        KeyboardInterrupt, or ends with the best parameters so far and a UserWarning. To press Ctrl-C again raises
        KeyboardInterrupt at once, and what was written last stays.

    Raises
    ------
    TypeError
        If the path is no path.
    ValueError
        If the interval is negative, or `on_interrupt` is another word.

    Examples
    --------
    >>> import os, tempfile
    >>> from sklearn.datasets import load_iris
    >>> from skvae import Checkpoint, GaussianMixtureEM
    >>> path = os.path.join(tempfile.mkdtemp(), "mixture.npz")
    >>> checkpoint = Checkpoint(path, interval=10, on_interrupt="stop")
    >>> mixture = GaussianMixtureEM(3, random_state=0, checkpoint=checkpoint).fit(load_iris().data)
    >>> os.path.exists(path)  # a fit that is done needs none
    False
    """

    path: str | os.PathLike
    interval: float = 60.0
    on_interrupt: str = "raise"

    def __post_init__(self):
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"Checkpoint(path={self.path!r}) must be a path: a str or os.PathLike.")
        if not os.fspath(self.path) or "\0" in str(os.fspath(self.path)):
            raise ValueError(f"checkpoint={self.path!r} is no path of a file; give one, such as 'fit.npz'.")
        if not isinstance(self.interval, Real) or not self.interval >= 0:
            raise ValueError(f"Checkpoint(interval={self.interval!r}) must be a number of seconds >= 0.")
        if self.on_interrupt not in ("raise", "stop"):
            raise ValueError(f"Checkpoint(on_interrupt={self.on_interrupt!r}) must be 'raise' or 'stop'.")


def as_checkpoint(value):
    """The `Checkpoint` that the parameter stands for; None of None."""
    return value if value is None or isinstance(value, Checkpoint) else Checkpoint(value)


CHECKPOINT = [str, os.PathLike, Checkpoint, None]  # what scikit-learn checks of the parameter
