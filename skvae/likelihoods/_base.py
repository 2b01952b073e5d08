"""What every likelihood declares: abstract methods, optional ones with their defaults, and a signature.

    ReconstructionTerm      what a network is trained on: log p(x | f), or an error in its place
      Likelihood            of the columns of a table: it also has means, samples, and says which columns it can read
      ClickLikelihood       of rows of clicks, through the last layer of a recommender

`x` is a `Batch` of sparse rows or the `Cells` of dense ones, `f` the decoder's output, one number for each column of
the model layout. Shapes are those of dense rows; leading axes (members, draws) broadcast. `own` holds the likelihood's
own parameters by name: Tensors of shape (D,) or, with a leading axis of members, (M, D).
"""

import abc
import inspect

import joblib
import numpy as np
import torch

from skvae._tensors import products

LEAST_RATE = 1e-6  # of a count, at which biases of columns of zeros start
_LONGEST = 200  # characters of the parameters in a signature


class ReconstructionTerm(abc.ABC):
    """log p(x | f) of rows, or what stands in its place, as a network is trained on it.

    Parameters of the constructor must be attributes of the same names, as in scikit-learn's estimators: `signature`
    reads them.

    Attributes
    ----------
    empty_rows_inform : bool
        Whether a row of zeros says anything about f.
    """

    empty_rows_inform = True

    @abc.abstractmethod
    def log_prob(self, x, f, own=None):
        """Compute log p(x | f) over the observed cells less `log_base(x)`, in nats: (..., B, D) -> (..., B)."""

    @abc.abstractmethod
    def log_base(self, x):
        """Compute the part of log p(x | f) that is constant in f and `own`: (..., B)."""

    @abc.abstractmethod
    def init_bias(self, mean, share):
        """Find the f at the maximum of the marginal likelihood, (D,): the decoder's first biases.

        From the mean (D,) of each column over its observed cells, and the share (D,) of them that is not zero.
        """

    def init_own(self, mean, variance):
        """Find `own` at about the same maximum, from means and variances (D,): a dict of Tensors of their dtype."""
        return {}

    def log_prob_and_back(self, x, f, own=None):
        """Compute log_prob in training, and a function from its gradient to that of f, to be called once.

        The function adds to the gradients of `own`, whose Tensors keep theirs. By autograd, if not overridden.
        """
        f = f.detach().requires_grad_()
        log_prob = self.log_prob(x, f, own)

        def back(upstream):
            log_prob.backward(upstream)
            return f.grad

        return log_prob.detach(), back

    def signature(self):
        """Write the class and its parameters as a short string, equal for objects that mean the same.

        Raises
        ------
        TypeError
            If a parameter of the constructor is no attribute.
        """
        names = inspect.signature(type(self)).parameters
        lacking = [name for name in names if not hasattr(self, name)]
        if lacking:
            raise TypeError(
                f"{type(self).__qualname__} takes {lacking[0]!r} but has no attribute of that name; keep what the "
                "constructor takes as attributes, as scikit-learn's estimators do."
            )
        given = ", ".join(f"{name}={_as_word(getattr(self, name))}" for name in names)
        given = given if len(given) <= _LONGEST else joblib.hash(given)
        return f"{type(self).__module__}.{type(self).__qualname__}({given})"

    def __repr__(self):
        try:
            return self.signature().removeprefix(f"{type(self).__module__}.")
        except TypeError:
            return super().__repr__()


class Likelihood(ReconstructionTerm):
    """A likelihood of the columns of a table.

    A subclass gives the abstract methods `log_prob`, `log_base`, `init_bias`, `mean` and `sample`. The attributes and
    the other methods have defaults: a likelihood of numbers on all of the real line that the network reads as they are.
    A method `expected_log_prob(x, f, spread, own)`, where there is one, is E[log_prob] for normal f with mean f and
    variance `spread`: a linear VAE then needs no draws.

    Attributes
    ----------
    name : str or None
        The word for it in ``likelihood=``; None: it is passed as an object.
    auto_for : {"numbers", "booleans", "categories"} or None
        Which columns ``likelihood="auto"`` gives to it.
    domain, remedy : str
        For errors about cells that it cannot have: "expects {domain}, but X[0, 1] = -2; {remedy} it, or ...".
    nominal : bool
        Whether cells are levels: the model layout then has one column of 0 and 1 for each level of a column.
    joint : bool
        Whether the columns of one entry of ``likelihood=[(..., columns), ...]`` belong together, apart from others.
    measure : {"density", "probability"}
        What exp(log p(x | f)) is of a cell: a density over numbers, or the probability of a level or a count.
    scaling : {None, "each", "shared"}
        Whether columns are centred and scaled: not at all; each to variance 1, columns without any being left out of
        the model; or all by one scale.
    outside : None or method
        NumPy array of cells (n, D), NaN where missing -> which of them it cannot have, a bool array, or None if none;
        None: it can have any number.
    encoder_input : None or method
        NumPy array of cells (n, D) -> what the encoder reads of them, which is then standardised; None: it reads the
        cells as they are in the model layout.
    in_float64 : bool
        Whether rows of float32 are scored in float64, since log p(x) is a small difference of large numbers.
    """

    name = None
    auto_for = None
    domain, remedy = "finite numbers", "correct"
    nominal = False
    joint = False
    measure = "density"
    scaling = None
    outside = None
    encoder_input = None
    in_float64 = False

    @abc.abstractmethod
    def mean(self, f, own=None):
        """Compute E[x | f], in the model layout: (..., B, D) -> (..., B, D)."""

    @abc.abstractmethod
    def sample(self, f, own, noise, row):
        """Draw each row, (B, D) -> (B, D), by `Noise` that is keyed by the rows' numbers `row` (B,)."""

    @classmethod
    def named(cls, noise):
        """Make the likelihood that `name` stands for, given the estimator's parameter `noise`."""
        return cls()

    def for_columns(self, sizes, mean, scale):
        """Make the likelihood of some columns of the model layout, with what it must know of them.

        Parameters
        ----------
        sizes : tuple of int
            For each column of the table, how many it has in the layout.
        mean, scale : float64 ndarray of shape (D,)
            Mean of each column of the layout; standard deviation, or shared scale, that it was divided by.
        """
        return self

    def without_floor(self):
        """Make the same without a least variance, for parameters that were found in closed form."""
        return self

    def noise_variance(self, own, n_columns):
        """Give the variance of x given f, (n_columns,) or with an axis of members; None where it depends on f."""
        return None

    @property
    def label(self):
        """What errors call it."""
        return self.name or type(self).__name__


class ClickLikelihood(ReconstructionTerm):
    """A likelihood of rows of a sparse, non-negative matrix of interactions."""

    def log_prob_of_linear(self, x, h, weight, bias):
        """Compute log_prob(x, h @ weight + bias), (B,), of hidden values h (B, H) and a last layer (H, D) and (D,)."""
        return self.log_prob(x, products().times(x.spread(h), weight) + bias)

    def check(self, X):
        """Complain of entries of a non-negative CSR matrix that the likelihood cannot have; by default of none."""
        return


def _as_word(value):
    """Write a parameter in a few characters; of what is no plain value, its hash."""
    if isinstance(value, ReconstructionTerm):
        return value.signature()
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_as_word, value))})"
    value = value.item() if isinstance(value, np.generic) else value
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else joblib.hash(value)


def beside(parameter, f):
    """Give a parameter (D,) or (M, D) the axes between members and columns that f has, and its dtype."""
    between = (1,) * (f.dim() - parameter.dim())
    return parameter.reshape(*parameter.shape[:-1], *between, parameter.shape[-1]).to(f, non_blocking=True)


def quantile(probability, u):
    """Find the level at which the sum of the probabilities (..., D) passes u (..., n): int64 of shape (..., n)."""
    below = probability.double().cumsum(-1)
    u = u * below[..., -1:]  # the last sum is 1 to rounding only
    return torch.searchsorted(below, u).clamp_(max=probability.shape[-1] - 1)


def fine_uniform(noise, row, f):
    """Draw uniforms on (0, 1) to 46 bits, a float64 array of the shape of f: rare counts need the ends."""
    high, low = (noise.fold(name).uniform(row, f.shape[-1], torch.float64) for name in ("high", "low"))
    return (high + (low - 0.5) * 2.0**-23).cpu().numpy()
