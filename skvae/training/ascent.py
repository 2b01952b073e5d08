"""A fit of a network, from initial parameters to the network that is kept.

rows -> plan -> initial parameters -> `Ascent.run` (the gradient engine) -> `FitResult` -> `Training.conclude`
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from skvae import _reduce
from skvae._tensors import Cells, Noise
from skvae.elbo import FitResult
from skvae.engines import gradient, schedules
from skvae.models.autoencoders.vae import PerRowVAE
from skvae.training.factor_analysis_start import random_network
from skvae.training.members import MemberNoise, MemberRows, Stream, of_member, one_member
from skvae.training.rows import LinearPath, heads_of_path

_SVI_STEPS, _SVI_RATE = 300, 0.05  # of posteriors of the rows' own


@dataclass
class Ascent:
    """What the gradient engine needs for one fit.

    Attributes
    ----------
    model : object with bound(params, batch, noise)
        To run beside other fits (`training.stacking`), also with likeness(), widened(params, n) and narrowed(params).
    params : dict of Tensor
        Initial parameters. Of a table they have a leading axis of members.
    rows : Rows or MemberRows
    plan : gradient.Plan
    noise : Noise or MemberNoise
    log_base : float or ndarray of shape (n_members,)
        Mean over rows of the part of log p(x | z) that the bound leaves out.
    validation : Validation or None
        Scores the parameters on rows that are held out.
    optimizer_state : dict of Tensor or None
        Of an earlier fit, to go on from.
    """

    model: object
    params: dict
    rows: object
    plan: gradient.Plan
    noise: object
    log_base: float | np.ndarray = 0.0
    validation: object = None
    optimizer_state: dict | None = None

    def run(self, watcher=None):
        """Raise the bound from the initial parameters; returns the engine's `FitResult`."""
        return gradient.ascend(
            self.model,
            self.params,
            self.rows,
            plan=self.plan,
            noise=self.noise,
            log_base=self.log_base,
            validate=self.validation,
            watcher=watcher,
            optimizer_state=self.optimizer_state,
        )


def ascent_of_members(model, params, stream, plan, *, validation=None, optimizer_state=None):
    """The `Ascent` of members that read one stream and share a validation score."""
    plan = replace(plan, fit_of_member=np.zeros(stream.n_members, dtype=np.int64))
    log_base = mean_log_base(model, stream.table, stream.weight)
    noise = MemberNoise([stream.noise])
    return Ascent(model, params, MemberRows([stream]), plan, noise, log_base, validation, optimizer_state)


def mean_log_base(model, table, weight):
    """Weighted mean over all rows of `likelihood.log_base`, one for each row of `weight` (n_members or 1, n_rows)."""
    log_base = model.likelihood.log_base(Cells(table.x, table.observed)).double()
    total, n = _reduce.total((weight.double() @ log_base, weight.double().sum(1)))
    return (total / n).cpu().numpy()


@dataclass
class NetworkResult(FitResult):
    """Result of a fit of a network to a table.

    Attributes
    ----------
    params : dict of Tensor
        Of the one network that is kept, without an axis of members. All else as of `FitResult`, of that network.
    linear_path : LinearPath or None
        The linear models beside the network.
    nonlinear : bool
        False if the network adds nothing to them.
    without_noise : sequence of int
        Columns of the model layout in which the factor analysis that is kept found no noise.
    """

    linear_path: LinearPath | None = None
    nonlinear: bool = True
    without_noise: Sequence[int] = ()


class Training(abc.ABC):
    """A prepared fit: the ascent to run, and how to pick one network from its result.

    Attributes
    ----------
    ascent : Ascent or None
        None where the result is known without one.
    """

    ascent = None

    @abc.abstractmethod
    def conclude(self, result):
        """Choose the network to keep.

        Parameters
        ----------
        result : FitResult or None
            Of the ascent; None without one.

        Returns
        -------
        kept : FitResult
            Of one network, without an axis of members.
        """

    def verdict(self, result):
        """Say in a few words what `conclude` keeps of a result."""
        return kept_epoch(result, self.ascent.plan)

    @abc.abstractmethod
    def snapshot(self, params):
        """A `FitResult` of one network as it is now, for callbacks; its records are placeholders."""


class KnownResult(Training):
    """A fit whose result is known without an ascent.

    Parameters
    ----------
    result : NetworkResult
    """

    def __init__(self, result):
        self.result = result

    def conclude(self, result):
        return self.result

    def verdict(self, result):
        return "kept the exact solution, which needs no epochs"

    def snapshot(self, params):
        return self.result


class SingleNetwork(Training):
    """One network, trained on all rows to the end or to its best validation score.

    Parameters
    ----------
    model : EncoderDecoder
    rows : TableRows
    noise : Noise
    plan : gradient.Plan
    params : dict of Tensor or None, default=None
        Initial parameters with an axis of members; None: random weights.
    linear_path : LinearPath or None, default=None
    optimizer_state : dict of Tensor or None, default=None
        Of an earlier fit, with an axis of members.
    validation : Validation or None, default=None
        The parameters with the best score are kept, the initial ones among them.
    """

    def __init__(
        self,
        model,
        rows,
        noise,
        plan,
        params=None,
        *,
        linear_path=None,
        optimizer_state=None,
        validation=None,
    ):
        if params is None:
            params = one_member(random_network(model, rows, noise))
            if isinstance(model, PerRowVAE):
                params |= model.init_rows(len(rows), rows.dtype)
        params = {name: tensor.to(rows.device) for name, tensor in params.items()}
        self.linear_path, self.initial, self.initial_score = linear_path, None, None
        if validation is not None:  # the engine scores only what its epochs come to, and moves the parameters in place
            self.initial = {name: tensor.clone() for name, tensor in params.items()}
            self.initial_score = validation(params)
        weight = torch.from_numpy(rows.weight)[None].to(device=rows.device, dtype=rows.dtype)
        heads = heads_of_path(linear_path, rows, model)
        stream = Stream(rows.encoded(linear_path), noise, 1, weight, heads).among_all()
        self.ascent = ascent_of_members(
            model, params, stream, plan, validation=validation, optimizer_state=optimizer_state
        )

    def _keeps_initial(self, result):
        if self.initial is None:
            return False
        best = int(result.best[0])
        return best < 0 or result.validation_scores[best] <= self.initial_score

    def conclude(self, result):
        if self._keeps_initial(result):
            result = replace(result, params=self.initial, optimizer_state={})
        return member_result(result, 0, self.linear_path, result.validation_scores)

    def verdict(self, result):
        if self._keeps_initial(result):
            return "kept the initial network: no epoch gave held-out rows a higher score"
        return super().verdict(result)

    def snapshot(self, params):
        return snapshot_of_member(params, 0, self.linear_path)


def kept_epoch(result, plan):
    """Say which epoch of an ascent of one fit is kept."""
    best = -1 if result.best is None else int(result.best[0])
    if best < 0:
        return f"kept the network of the last epoch, {result.n_iter}"
    return f"kept the network of epoch {min((best + 1) * plan.validate_every, result.n_iter)}"


def fit_row_posteriors(model, rows, params, linear_path):
    """Raise the bound of each row over a posterior of its own, while the decoder stays; returns the posteriors.

    Parameters
    ----------
    model : PerRowVAE
        With its other parameters fixed.
    rows : TableRows
    params : dict of Tensor
        Initial posteriors, with an axis of one member.
    linear_path : LinearPath or None
    """
    n = len(rows)
    summed = replace(rows, weight=np.full(n, float(n)))  # not a mean: no row's steps depend on the others
    plan = gradient.Plan(_SVI_STEPS, n, _SVI_RATE, rate_schedule=schedules.cosine)
    with _reduce.by_itself():
        single = SingleNetwork(model, summed, Noise(0), plan, params, linear_path=linear_path)
        return single.ascent.run().params if n else params


def member_result(result, member, linear_path, validation_scores):
    """The `NetworkResult` of one member of an ascent."""
    return NetworkResult(
        of_member(result.params, member),
        lower_bounds=np.array(result.lower_bounds)[:, member],
        validation_scores=np.array(validation_scores),
        n_iter=result.n_iter,
        optimizer_state=of_member(result.optimizer_state, member),
        linear_path=linear_path,
    )


def snapshot_of_member(params, member, linear_path):
    """The `NetworkResult` of one member in the middle of an ascent, on a copy of its parameters."""
    params = {name: tensor.detach().clone() for name, tensor in of_member(params, member).items()}
    return NetworkResult(
        params, lower_bounds=np.array([np.nan]), validation_scores=np.empty(0), n_iter=1, linear_path=linear_path
    )
