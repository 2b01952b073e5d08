"""The contract of all likelihoods: a test class inherits it and says how to draw rows, and what SciPy says of them."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from skvae._tensors import Cells, Noise, keep_gradient
from skvae.likelihoods import Likelihood

N_ROWS, N_COLUMNS = 8, 5
DOUBLE = torch.float64


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def by_cell(log_prob):
    """A reference for independent columns: the sum of log_prob(x, f, own of the column) over the observed cells."""

    def reference(x, f, own, observed):
        total = np.zeros(len(x))
        for i, d in np.argwhere(observed > 0):
            total[i] += log_prob(x[i, d], f[i, d], {name: array[min(d, len(array) - 1)] for name, array in own.items()})
        return total

    return reference


def softmax(f):
    odds = np.exp(f - f.max())
    return odds / odds.sum()


class Contract:
    """What holds for all likelihoods; a class that inherits it gives the attributes below."""

    likelihood = None
    own = {}  # name -> float64 Tensor
    total_given = False  # whether a row's total is given, so that a missing column changes the law of the others
    own_is_exact = True  # whether init_own is the exact maximum, or about it
    impossible = ()  # cells of a table that it cannot have

    def draw(self, rng, n_rows):
        """Rows in the layout of the model."""
        raise NotImplementedError

    @staticmethod
    def reference(x, f, own, observed):
        """log p(x | f) of each row by SciPy, float64 arrays in and out."""
        raise NotImplementedError

    @property
    def blocks(self):
        """Slices of the columns that are missing together."""
        return [slice(d, d + 1) for d in range(self.draw(np.random.default_rng(0), 1).shape[1])]

    # ----------------------------------------------------------------------------------------------------- materials
    def rows(self, n_rows=N_ROWS, seed=0):
        return torch.from_numpy(self.draw(np.random.default_rng(seed), n_rows).astype(float))

    def incomplete(self, n_rows=N_ROWS, seed=0):
        """Rows with a third of their columns missing, none of the third row's seen."""
        x, rng = self.rows(n_rows, seed), np.random.default_rng(seed + 1)
        observed = torch.ones_like(x)
        for block in self.blocks:
            observed[torch.from_numpy(rng.random(n_rows) < 1 / 3), block] = 0
        observed[2] = 0
        return Cells(x * observed, observed)

    def both(self):
        return Cells(self.rows()), self.incomplete()

    def natural(self, n_rows=N_ROWS, seed=3):
        return normal(n_rows, self.rows(1).shape[1], seed=seed)

    def total(self, x, f, own=None):
        own = self.own if own is None else own
        return self.likelihood.log_prob(x, f, own) + self.likelihood.log_base(x)

    # ---------------------------------------------------------------------------------------------------------- laws
    def test_it_is_the_normalised_log_probability_of_the_observed_cells(self):
        f = self.natural()
        for x in self.both():
            observed = torch.ones_like(f) if x.observed is None else x.observed
            own = {name: tensor.numpy() for name, tensor in self.own.items()}
            expected = self.reference(x.value.numpy(), f.numpy(), own, observed.numpy())
            np.testing.assert_allclose(self.total(x, f).numpy(), expected, rtol=1e-12, atol=1e-10)
        assert self.total(x, f)[2] == 0, "nothing was seen of this row"

    large = 0.0  # by how much f is raised to make cells as large as the likelihood can have

    @torch.no_grad()
    def test_rows_of_float32_have_the_log_probability_of_float64(self):
        own = {name: tensor.float() for name, tensor in self.own.items()}
        f = (0.1 * self.natural() + self.large).float()
        x = self.likelihood.sample(f.double(), self.own, Noise(4), torch.arange(N_ROWS)).float()
        short = self.total(Cells(x), f, own)
        exact = self.total(Cells(x.double()), f.double(), {name: tensor.double() for name, tensor in own.items()})
        torch.testing.assert_close(short.double(), exact, rtol=1e-6, atol=1e-3)
        assert x.max() > 1e5 or not self.large

    def test_gradients_are_those_of_the_value(self):
        inputs = [self.natural(), *self.own.values()]
        for x in self.both():

            def value(f, *own, x=x):
                return self.likelihood.log_prob(x, f, dict(zip(self.own, own, strict=True)))

            assert torch.autograd.gradcheck(value, [tensor.clone().requires_grad_() for tensor in inputs])

    def test_the_way_back_is_that_of_autograd(self):
        """Of members, whose own parameters keep their gradients, as in training."""
        n_members = 3
        each = [self.incomplete(seed=member) for member in range(n_members)]
        x = Cells(*(torch.stack([getattr(one, name) for one in each]) for name in ("value", "observed")))
        own = {name: tensor + normal(n_members, len(tensor), scale=0.3) for name, tensor in self.own.items()}
        f, upstream = normal(*x.value.shape, seed=4), normal(n_members, N_ROWS, seed=5)
        leaves = [tensor.clone().requires_grad_() for tensor in (f, *own.values())]
        value = self.likelihood.log_prob(x, leaves[0], dict(zip(own, leaves[1:], strict=True)))
        expected = torch.autograd.grad(value, leaves, upstream)
        for tensor in own.values():
            keep_gradient(tensor.requires_grad_(), torch.ones_like(tensor))
        got, back = self.likelihood.log_prob_and_back(x, f, own)
        torch.testing.assert_close(got, value.detach())
        torch.testing.assert_close(back(upstream), expected[0])
        for tensor, gradient in zip(own.values(), expected[1:], strict=True):
            torch.testing.assert_close(tensor.grad, 1 + gradient)

    @pytest.mark.parametrize("size", [50.0, 1e4])
    def test_a_wild_step_has_finite_gradients(self, size):
        for x in self.both():
            x = Cells(x.value.float(), None if x.observed is None else x.observed.float())
            f = (size * self.natural().sign()).float().requires_grad_()
            own = {name: tensor.float().requires_grad_() for name, tensor in self.own.items()}
            log_prob = self.likelihood.log_prob(x, f, own)
            gradients = torch.autograd.grad(log_prob.sum(), [f, *own.values()])
            assert torch.isfinite(log_prob).all()
            assert all(torch.isfinite(gradient.square().sum()) for gradient in gradients)

    def test_the_mean_is_that_of_samples(self):
        n, f = 20_000, self.natural(1, seed=5)
        x = self.likelihood.sample(f.expand(n, -1), self.own, Noise(7), torch.arange(n))
        error = x.std(0) / math.sqrt(n)
        away = (x.mean(0) - self.likelihood.mean(f, self.own)[0]).abs()
        assert (away <= 4 * error + 1e-12).all(), away / error

    def test_samples_have_the_law_of_the_log_probability(self):
        """Under it the gradient of log p, by every parameter, is zero on average: parameters of spread are seen too."""
        n, f = 20_000, self.natural(1, seed=5)
        x = self.likelihood.sample(f.expand(n, -1), self.own, Noise(8), torch.arange(n))
        of_each = [f.repeat(n, 1)[:, None].requires_grad_()]  # every sample a member, for its own gradient
        of_each += [tensor.repeat(n, 1).requires_grad_() for tensor in self.own.values()]
        own = dict(zip(self.own, of_each[1:], strict=True))
        value = self.likelihood.log_prob(Cells(x[:, None]), of_each[0], own).sum()
        for gradient in torch.autograd.grad(value, of_each):
            gradient = gradient.reshape(n, -1)
            assert (gradient.mean(0).abs() <= 4 * gradient.std(0) / math.sqrt(n) + 1e-12).all()

    def test_samples_of_a_row_do_not_depend_on_the_others(self):
        f, row = self.natural(), torch.arange(100, 100 + N_ROWS)
        together = self.likelihood.sample(f, self.own, Noise(1), row)
        some = torch.tensor([6, 1])
        assert torch.equal(together[some], self.likelihood.sample(f[some], self.own, Noise(1), row[some]))
        assert not torch.equal(together, self.likelihood.sample(f, self.own, Noise(2), row))
        assert together.dtype == f.dtype and together.shape == f.shape

    def moments(self, x):
        """Mean, variance and share of non-zero cells of each column over its observed cells."""
        observed = torch.ones_like(x.value) if x.observed is None else x.observed
        n = observed.sum(0)
        mean = x.value.sum(0) / n
        variance = (observed * (x.value - mean).square()).sum(0) / n
        return mean, variance, (x.value != 0).sum(0) / n

    def test_biases_start_at_the_marginal_maximum(self):
        for x in (Cells(self.rows(400)), self.incomplete(400))[: 1 if self.total_given else 2]:
            mean, _, share = self.moments(x)
            bias = self.likelihood.init_bias(mean, share)
            best = self.total(x, bias.expand_as(x.value)).sum()
            for d in range(len(bias)):
                for step in (-1e-2, 1e-2):
                    moved = bias.clone()
                    moved[d] += step
                    assert self.total(x, moved.expand_as(x.value)).sum() < best + 1e-9

    def test_own_parameters_start_at_about_the_marginal_maximum(self):
        x = Cells(self.rows(4_000))
        mean, variance, share = self.moments(x)
        bias, own = self.likelihood.init_bias(mean, share), self.likelihood.init_own(mean, variance)
        assert own.keys() == self.own.keys()
        best, step = self.total(x, bias.expand_as(x.value), own).sum(), 1e-2 if self.own_is_exact else 1.5
        for name, tensor in own.items():
            assert tensor.shape == self.own[name].shape and tensor.dtype == mean.dtype
            for away in torch.eye(len(tensor)) * step:
                for moved in (tensor - away, tensor + away):
                    assert self.total(x, bias.expand_as(x.value), own | {name: moved}).sum() < best

    @pytest.mark.parametrize("level", [0.0, 1.0])
    def test_columns_without_spread_start_finite(self, level):
        x = torch.full_like(self.rows(6), level).float()
        mean, variance, share = self.moments(Cells(x))
        own = self.likelihood.init_own(mean, variance)
        f = self.likelihood.init_bias(mean, share).expand_as(x)
        assert torch.isfinite(f).all() and all(torch.isfinite(tensor).all() for tensor in own.values())
        assert torch.isfinite(self.total(Cells(x), f, own)).all()
        assert torch.isfinite(self.likelihood.sample(f, own, Noise(0), torch.arange(6))).all()

    def test_members_and_draws_are_a_loop_over_both(self):
        n_members, n_draws = 3, 2
        own = {name: tensor + normal(n_members, len(tensor), scale=0.3) for name, tensor in self.own.items()}
        each = [self.incomplete(seed=member) for member in range(n_members)]
        x = Cells(*(torch.stack([getattr(one, name) for one in each])[:, None] for name in ("value", "observed")))
        f = normal(n_members, n_draws, *each[0].value.shape, seed=4)
        log_prob, mean, log_base = (
            self.likelihood.log_prob(x, f, own),
            self.likelihood.mean(f, own),
            self.likelihood.log_base(x),
        )
        assert log_prob.shape == (n_members, n_draws, N_ROWS) and log_base.shape == (n_members, 1, N_ROWS)
        for member in range(n_members):
            mine = {name: tensor[member] for name, tensor in own.items()}
            torch.testing.assert_close(log_base[member, 0], self.likelihood.log_base(each[member]))
            for draw in range(n_draws):
                alone = f[member, draw]
                torch.testing.assert_close(log_prob[member, draw], self.likelihood.log_prob(each[member], alone, mine))
                torch.testing.assert_close(mean[member, draw], self.likelihood.mean(alone, mine))

    def test_one_row_meets_many_and_many_meet_one(self):
        """Both sides broadcast, and the gradient comes back in the shape of f."""
        x, f = self.incomplete(), self.natural()
        one = f[0].clone().requires_grad_()
        got = self.likelihood.log_prob(x, one, self.own)
        repeated = f[:1].repeat(N_ROWS, 1).requires_grad_()
        expected = self.likelihood.log_prob(x, repeated, self.own)
        torch.testing.assert_close(got, expected)
        (of_one,), (of_repeated,) = (
            torch.autograd.grad(value.sum(), g) for value, g in ((got, one), (expected, repeated))
        )
        torch.testing.assert_close(of_one, of_repeated.sum(0))

    def test_it_declares_what_it_cannot_read_and_how_it_is_read(self):
        drawn = self.likelihood.sample(self.natural(), self.own, Noise(2), torch.arange(N_ROWS)).numpy()
        outside, encoder_input = self.likelihood.outside, self.likelihood.encoder_input
        gaps = np.where(np.arange(drawn.shape[1]) == 0, np.nan, drawn)
        if outside is not None:
            assert outside(drawn) is None or not outside(drawn).any()
            assert outside(gaps) is None or not outside(gaps).any()
            for value in self.impossible:
                bad = outside(np.where(np.arange(drawn.size).reshape(drawn.shape) == 1, value, drawn))
                assert np.argwhere(bad).tolist() == [[0, 1]]
        else:
            assert not self.impossible
        if encoder_input is not None:
            read = encoder_input(drawn)
            assert read.shape == drawn.shape and np.isfinite(read).all()
            assert encoder_input(drawn.astype(np.float32)).dtype == np.float32

    def test_copies_have_one_signature(self):
        signature = self.likelihood.signature()
        assert isinstance(self.likelihood, Likelihood) and type(self.likelihood).__name__ in signature
        assert len(signature) < 400
        for other in (copy.deepcopy(self.likelihood), pickle.loads(pickle.dumps(self.likelihood))):
            assert other.signature() == signature
