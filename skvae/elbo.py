"""The bound that every model raises, and the record of an ascent.

L(q, theta) = E_q[log p(x | z, theta)] - beta KL(q(z | x) || p(z))   <=   log p(x | theta)      (beta = 1)
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class Bound(NamedTuple):
    """Evidence lower bound of a batch, its two terms kept apart.

    Attributes
    ----------
    log_prob : Tensor of shape (n_rows,)
        One-sample or exact value of E_q[log p(x | z)], less its part that is constant in the parameters; nats.
    kl : Tensor of shape (n_rows, n_components)
        KL(q(z_k | x) || p(z_k)) in closed form; nats.
    """

    log_prob: Tensor
    kl: Tensor

    def value(self, beta=1.0):
        """The bound of each row with its second term weighted by beta, of shape (n_rows,)."""
        return self.log_prob - beta * self.kl.sum(-1)


def kl_to_standard_normal(mean, log_variance):
    """KL(N(mean, exp(log_variance)) || N(0, 1)) elementwise (Kingma and Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


@dataclass
class Fit:
    """What an engine returns.

    Attributes
    ----------
    params : dict of Tensor, or NamedTuple of Tensor
        The parameters to keep: the last, or the best on the validation rows. A network's are a dict, an EM model's
        its own NamedTuple.
    lower_bounds : list of float
        Mean bound per row at beta = 1, one per iteration; nats.
    validation_scores : list of float
        One per iteration where validation rows were given.
    n_iter : int
        Iterations done.
    moments : dict of Tensor
        State of the optimiser, from which a later call may go on.
    converged : bool
        Whether the rule for stopping was met.
    memory : list
        What an EM model remembers of each batch.
    """

    params: dict | tuple
    lower_bounds: list = field(default_factory=list)
    validation_scores: list = field(default_factory=list)
    n_iter: int = 0
    moments: dict = field(default_factory=dict)
    converged: bool = False
    memory: list | None = None
