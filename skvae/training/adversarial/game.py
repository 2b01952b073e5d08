"""A fit of a generative adversarial network to a table: two players in turn, and what is recorded of their game."""

from dataclasses import dataclass, field, replace

import numpy as np

from skvae._tensors import placed
from skvae.engines.gradient import Turn
from skvae.training.ascent import Ascent, NetworkResult, Training, kept_epoch, member_result, snapshot_of_member
from skvae.training.members import MemberNoise, MemberRows, Stream


def turns_of_players(model, n_discriminator_steps, optimizer):
    """The turns of algorithm 1: so many steps of the discriminator, then one of the generator."""
    return (
        Turn("discriminator", "discriminator.", optimizer, model.bound_of_discriminator, n_steps=n_discriminator_steps),
        Turn("generator", "generator.", optimizer, model.bound_of_generator, n_steps=1),
    )


@dataclass
class AdversarialResult(NetworkResult):
    """Result of a fit of a GAN. All but these attributes is as of `NetworkResult`.

    Attributes
    ----------
    history : dict of ndarray
        Of each validation.
    sample_history : ndarray of shape (n_validations, n_kept, width)
        In the model layout.
    """

    history: dict = field(default_factory=dict)
    sample_history: np.ndarray | None = None


class AdversarialTraining(Training):
    """A discriminator and a generator, trained in turn.

    Parameters
    ----------
    model : GAN
    rows : TableRows
    noise : Noise
    plan : gradient.Plan
        With the turns of both.
    params : dict of Tensor
        Initial parameters with an axis of one member.
    test : TwoSampleTest
        It decides when to stop if the plan has a patience.
    optimizer_state : dict of Tensor or None, default=None
        Of an earlier fit, with an axis of one member.
    """

    def __init__(self, model, rows, noise, plan, params, test, *, optimizer_state=None):
        self.test, self.plan = test, replace(plan, fit_of_member=np.zeros(1, dtype=np.int64))
        params = {name: tensor.to(rows.device) for name, tensor in params.items()}
        weight = placed(rows.weight[None], rows.device, rows.dtype)
        stream = Stream(rows.encoded(), noise, 1, weight).among_all()
        self.ascent = Ascent(
            model,
            params,
            MemberRows([stream]),
            self.plan,
            MemberNoise([noise]),
            validation=test,
            optimizer_state=optimizer_state,
        )

    def conclude(self, result):
        kept = member_result(result, 0, None, result.validation_scores)
        every = self.plan.validate_every
        epochs = np.array([min((i + 1) * every, result.n_iter) for i in range(len(self.test.distances))], dtype=int)
        bounds = {name: np.array(each)[:, 0] for name, each in result.lower_bounds_of_turn.items()}
        return self._result(kept, epochs, {name: each[epochs - 1] for name, each in bounds.items()})

    def verdict(self, result):
        return kept_epoch(result, self.plan)

    def snapshot(self, params):
        kept = snapshot_of_member(params, 0, None)
        nothing = np.full(len(self.test.distances), np.nan)
        epochs = np.arange(1, len(nothing) + 1) * self.plan.validate_every
        return self._result(kept, epochs, {"discriminator": nothing, "generator": nothing})

    def _result(self, kept, epochs, bounds):
        history = {
            "n_iter": epochs,
            "energy_distance": np.array(self.test.distances),
            "discriminator_accuracy": np.array(self.test.accuracies),
            "value": bounds["discriminator"],
            "generator_value": bounds["generator"],
        }
        return AdversarialResult(**vars(kept), history=history, sample_history=np.array(self.test.samples))
