"""Passes an engine's iterations on to scikit-learn's callbacks and, if asked, to the screen."""

import time

import numpy as np

from skvae import _reduce
from skvae._compat import CALLBACKS
from skvae.engines import checkpoints
from skvae.engines.watching import Watcher

_FEW = 10  # iterations that are all printed


def say(estimator, text):
    """Print a line about a fit."""
    print(f"[{type(estimator).__name__}] {text}")


class FitWatcher(Watcher):
    """One fit as a task of scikit-learn's callbacks, and every iteration as a task within it.

    Of a shared fit, callbacks see the rows of the first process, and what they compute is of these.

    A subclass names the inner task (`task`), writes a line about an iteration (`line`), and turns one into the fitted
    attributes (`fitted`), which is done only when a callback asks for the estimator as it is.

    Parameters
    ----------
    estimator : Estimator
        Its `verbose` is read. 0 prints nothing; 1 about ten lines a fit, of iterations 1, 2, 5, 10, 20, 50, ... and of
        the last one of each restart; 2 a line every iteration. Then a line says why the iterations ended.
    X, y : array-like
        Of the fit, as callbacks are to see them.
    max_iter : int
    attributes : callable
        Parameters -> dict of fitted attributes.
    n_restarts : int, default=1
        Number of restarts, each of up to `max_iter` iterations.
    interval : int or None, default=None
        Iterations from line to line, for ``verbose=1``.
    """

    task = "iteration"

    def __init__(self, estimator, X, y, max_iter, attributes, *, n_restarts=1, interval=None):
        self.estimator, self.max_iter, self.attributes = estimator, max_iter, attributes
        # scikit-learn's ScoringMonitor scores no fit without y
        self.data = {"estimator": estimator, "X": X, "y": X if y is None else y}
        self.verbose = estimator.verbose if _reduce.is_first() else 0
        self.interval = 1 if self.verbose > 1 or max_iter <= _FEW else interval
        self.unsaid = None  # the last report, if its line has not been printed
        self.root = estimator._init_callback_context(max_subtasks=n_restarts * max_iter)
        self.heard = bool(getattr(estimator, CALLBACKS, None)) and _reduce.is_first()
        self.started = time.perf_counter()

    def __enter__(self):
        with _reduce.by_itself(), checkpoints.kept_in(None):  # whatever callbacks fit
            self.root.call_on_fit_task_begin(**self.data)
        return self

    def __exit__(self, error, *_):
        if error is None:
            with _reduce.by_itself(), checkpoints.kept_in(None):
                self.root.call_on_fit_task_end(**self.data)

    def begins(self, number):
        if self.heard:
            with _reduce.by_itself():
                self.now = self.root.subcontext(task_name=self.task).call_on_fit_task_begin(**self.data)

    def ends(self, report):
        self.unsaid = report
        if self.verbose and self._is_due(report):
            self._say_line()
        if not self.heard:
            return False
        with _reduce.by_itself():  # the other processes take no part in what a callback computes
            return self.now.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self.fitted(report))

    def concludes(self, reason):
        if not self.verbose:
            return
        if self.unsaid is not None:
            self._say_line()
        say(self.estimator, f"ended: {reason}")

    def _say_line(self):
        say(self.estimator, f"{self.line(self.unsaid)}  {time.perf_counter() - self.started:.1f} s")
        self.unsaid = None

    def _is_due(self, report):
        """Whether to print a line about an iteration before it is known whether it is the last one."""
        number = report.number + 1
        if self.interval is not None:
            return number % self.interval == 0
        return not getattr(report, "restart", 0) and str(number).rstrip("0") in ("1", "2", "5")

    def fitted(self, report):
        """The attributes of an estimator fitted up to here."""
        return self.attributes(report.params)

    def line(self, report):
        """What to print of an iteration."""
        restart = f"start {report.restart + 1}, " if report.restart else ""
        gain = f" ({report.gain:+.1e})" if np.isfinite(report.gain) else ""  # of the first, none is known
        return (
            f"{restart}{self.task} {report.number + 1}/{self.max_iter}"
            f"  bound {report.lower_bound:.6g} nats a sample{gain}"
        )


class EpochWatcher(FitWatcher):
    """Watches the epochs of a network.

    Parameters
    ----------
    estimator, X, y, max_iter, attributes
        As of `FitWatcher`.
    in_units : callable
        Turns bounds and scores of the ascent into the units of the data.
    """

    task = "epoch"

    def __init__(self, estimator, X, y, max_iter, attributes, in_units):
        super().__init__(estimator, X, y, max_iter, attributes)
        self.in_units = in_units

    def fitted(self, report):
        return self.attributes({name: tensor.detach().clone() for name, tensor in report.params.items()})

    def line(self, report):
        score = "" if report.validation_score is None else f"  validation score {np.max(report.validation_score):.4f}"
        bound, kl = self.in_units(np.mean(report.lower_bound)), np.mean(report.kl)  # over the copies
        return f"epoch {report.number + 1}/{self.max_iter}  bound {bound:.4g} nats a row (KL {kl:.3g}){score}"


class ErrorWatcher(EpochWatcher):
    """Watches the epochs of a network whose bound is minus a mean squared error."""

    def line(self, report):
        score = report.validation_score
        score = "" if score is None else f"  of rows held out {-self._mean(score):.4g}"
        return f"epoch {report.number + 1}/{self.max_iter}  squared error {-self._mean(report.lower_bound):.4g}{score}"

    def _mean(self, value):
        return float(self.in_units(np.mean(value)))


class RankingWatcher(EpochWatcher):
    """Watches the epochs of a recommender."""

    def __init__(self, estimator, X, y, *others):
        if y is None:  # callbacks that score read X as held-out interactions where y has its shape
            y = np.zeros(X.shape[0] if hasattr(X, "shape") else len(X))
        super().__init__(estimator, X, y, *others)
