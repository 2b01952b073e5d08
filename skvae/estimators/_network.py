"""Estimators whose fit is a gradient ascent: of a table or of clicks, by `fit` or `partial_fit`."""

import abc
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import torch

from skvae import _reduce
from skvae._compat import Interval, StrOptions
from skvae._tensors import dtype_of, explain_out_of_memory, resolve_device, resolve_precision, to_numpy
from skvae.estimators._base import Estimator
from skvae.estimators._checks import checked_sizes
from skvae.estimators._progress import EpochWatcher, say
from skvae.networks import ACTIVATIONS
from skvae.training.ascent import Training
from skvae.training.continuation import Continuation, Earlier

_LEAST_PRODUCT = 2**25  # multiply-adds of the largest product of a step, from which bfloat16 is faster

ANNEALING = {  # constraints of the parameters by which the weight of the KL term rises
    "annealing": [StrOptions({"linear", "cyclical", "sigmoid"}), callable, None],
    "anneal_fraction": [Interval(Real, 0, 1, closed="both")],
    "n_cycles": [Interval(Integral, 1, None, closed="left")],
}


@dataclass(frozen=True)
class PreparedFit:
    """A fit before its ascent, and what else its attributes need.

    Attributes
    ----------
    training : Training
    architecture : dict
        What fixes the shapes and the meaning of the parameters, in plain values.
    earlier : Earlier
        Records that the fit adds its own to.
    device : torch.device
    rows : TableRows or None
        The rows of a table.
    in_units : callable
        Turns bounds and scores of the ascent into the units of the data.
    known : dict
        Fitted attributes that are known before the ascent.
    is_spread : bool
        Whether sums over rows are those over all processes; False: each has all rows, and fits alone.
    """

    training: Training
    architecture: dict
    earlier: Earlier
    device: torch.device
    rows: object = None
    in_units: Callable = lambda values: values
    known: dict = field(default_factory=dict)
    is_spread: bool = True


class NetworkEstimator(Estimator, abc.ABC):
    """An estimator that is fitted by gradient ascent.

    A subclass has the parameters warm_start, device, random_state and verbose. A search that makes fits ahead, such as
    `StackedGridSearchCV`, calls `_prepare` and `_attributes_of`: in between it runs the ascents of all fits together.
    It then leaves the fits (`skvae.model_selection`) in `_fits_ahead`, from where clones take them along.
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "learning_rate_schedule": [StrOptions({"cosine", "constant"})],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "early_stopping": [StrOptions({"auto"}), "boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "precision": [StrOptions({"float32", "float64", "bfloat16", "auto"})],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _watcher = EpochWatcher
    _iteration = "epoch"

    precision = "float32"  # of a subclass without the parameter
    _beta_is_of_kl = True  # whether the `beta` of the plan is the weight of a KL term

    @abc.abstractmethod
    def _prepare(self, X, continuation, **given):
        """Do all of a fit that comes before the ascent.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        continuation : Continuation
        **given : dict
            The other arguments of `fit`, checked here.

        Returns
        -------
        prepared : PreparedFit
        """

    @abc.abstractmethod
    def _summary(self, prepared, kept):
        """Fitted attributes beside those that all networks have.

        Parameters
        ----------
        prepared : PreparedFit
        kept : FitResult
            Of the network that is kept.

        Returns
        -------
        attributes : dict
        """

    def __sklearn_clone__(self):
        """Clone by parameters, and take along a fit that a search has made ahead for the clone."""
        clone = super().__sklearn_clone__()
        if "_fits_ahead" in vars(self):
            clone._fits_ahead = self._fits_ahead.of_next_clone()
        return clone

    @contextlib.contextmanager
    def _fitting(self):
        """The context of a fit: it changes nothing if it fails, and explains where memory ran out."""
        with self._unchanged_on_error(), explain_out_of_memory("lower batch_size"):
            yield

    @property
    def _continuation(self):
        """How `fit` relates to an earlier fit: by the parameter warm_start."""
        return Continuation.WARM_START if self.warm_start else Continuation.FRESH

    def _taken_ahead(self, X, **given):
        """The estimator, fitted, if a search has made this fit ahead; else None."""
        ahead = vars(self).pop("_fits_ahead", None)
        attributes = None if ahead is None else ahead.take(self, X, given)
        return None if attributes is None else self._set(**attributes)

    def _run(self, prepared, X=None, y=None):
        """Run the ascent of a prepared fit, watched if X is given, and set all fitted attributes."""
        with contextlib.nullcontext() if prepared.is_spread else _reduce.alone():
            return self._set(**self._attributes_of(prepared, self._result(prepared, X, y)))

    def _result(self, prepared, X, y):
        """Run the ascent of a prepared fit, if it has one, watched if X is given."""
        training, ascent = prepared.training, prepared.training.ascent
        if X is None:
            return ascent.run()

        def snapshot(params):
            return self._attributes(prepared, training.snapshot(params))

        max_iter = 1 if ascent is None else ascent.plan.max_iter
        with self._watcher(self, X, y, max_iter, snapshot, prepared.in_units) as watcher:
            result = None if ascent is None else ascent.run(watcher)
        if self.verbose and _reduce.is_first():
            say(self, training.verdict(result))
        return result

    def _attributes_of(self, prepared, result):
        """All fitted attributes.

        Parameters
        ----------
        prepared : PreparedFit
        result : FitResult or None
            Of the ascent, if there was one.

        Returns
        -------
        attributes : dict
        """
        return self._attributes(prepared, prepared.training.conclude(result))

    def _attributes(self, prepared, kept):
        plan = None if prepared.training.ascent is None else prepared.training.ascent.plan
        return {
            "parameters_": to_numpy(kept.params),
            "device_": str(prepared.device),
            "precision_": str(dtype_of(self.precision)).removeprefix("torch.") if plan is None else plan.precision,
            "_architecture": prepared.architecture,
            "_optimizer_state": to_numpy(kept.optimizer_state) if prepared.earlier.may_go_on else {},
            **prepared.known,
            **prepared.earlier.extended_by(kept, plan, prepared.in_units, has_kl=self._beta_is_of_kl),
            **self._summary(prepared, kept),
        }

    def _earlier(self, continuation, n_new):
        """Records of the fit that this one goes on from, if there is one.

        Parameters
        ----------
        continuation : Continuation
        n_new : float
            Weight of the rows of the fit to come.
        """
        if not self._goes_on(continuation):
            return Earlier(n_new, continuation.continues)
        return Earlier.of(self, n_new, adds_rows=continuation is Continuation.PARTIAL_FIT)

    def _precision(self, batch_size):
        """What products are made in, in steps of so many rows."""
        sizes = (
            self.n_features_in_,
            *checked_sizes(getattr(self, "hidden_layer_sizes", ())),
            int(np.sum(self.n_components)),
        )
        widest = max(a * b for a, b in itertools.pairwise(sizes))
        pays = batch_size * widest >= _LEAST_PRODUCT
        precision = resolve_precision(self.precision, resolve_device(self.device), pays=pays)
        _reduce.agree(precision=precision)
        return precision

    def _goes_on(self, continuation):
        """Whether there is an earlier fit to go on from."""
        return continuation.continues and hasattr(self, "parameters_")
