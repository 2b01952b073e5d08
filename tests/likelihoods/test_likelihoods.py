"""Every likelihood keeps one contract; each states only how to draw its rows and what SciPy says of them."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy import stats

from skvae._tensors import Cells, Noise, Rows
from skvae.likelihoods import Bernoulli, Categorical, Gaussian, Mixed, Multinomial, NegativeBinomial, Poisson

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

    def test_gradients_are_those_of_the_value(self):
        inputs = [self.natural(), *self.own.values()]
        for x in self.both():

            def value(f, *own, x=x):
                return self.likelihood.log_prob(x, f, dict(zip(self.own, own, strict=True)))

            assert torch.autograd.gradcheck(value, [tensor.clone().requires_grad_() for tensor in inputs])

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
            assert tensor.shape == self.own[name].shape and tensor.dtype == torch.float32
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


# ------------------------------------------------------------------------------------------------------- likelihoods
def gaussian_cell(floor):
    return lambda x, f, own: stats.norm.logpdf(x, f, math.sqrt(floor + math.exp(own["noise"])))


class TestGaussian(Contract):
    likelihood = Gaussian()
    own = {"noise": normal(N_COLUMNS, seed=9)}
    reference = staticmethod(by_cell(gaussian_cell(1e-3)))

    def draw(self, rng, n_rows):
        return 2.0 + np.arange(1, N_COLUMNS + 1) * rng.normal(size=(n_rows, N_COLUMNS))


class TestIsotropicGaussian(TestGaussian):
    likelihood = Gaussian("isotropic", floor=0.1)
    own = {"noise": normal(1, seed=9)}
    reference = staticmethod(by_cell(gaussian_cell(0.1)))


class TestGaussianOfFixedNoise(TestGaussian):
    likelihood = Gaussian(0.3)
    own = {}
    reference = staticmethod(by_cell(lambda x, f, own: stats.norm.logpdf(x, f, math.sqrt(0.3))))


class TestGaussianOfFixedNoiseByColumn(TestGaussian):
    likelihood = Gaussian([0.3, 1.0, 2.0, 0.1, 5.0])
    own = {}

    @staticmethod
    def reference(x, f, own, observed):
        return (observed * stats.norm.logpdf(x, f, np.sqrt([0.3, 1.0, 2.0, 0.1, 5.0]))).sum(1)


class TestBernoulli(Contract):
    likelihood = Bernoulli()
    reference = staticmethod(by_cell(lambda x, f, own: stats.bernoulli.logpmf(int(x), 1 / (1 + np.exp(-f)))))

    def draw(self, rng, n_rows):
        return rng.random((n_rows, N_COLUMNS)) < 0.3


class TestMultinomial(Contract):
    likelihood = Multinomial(total=6.4)
    total_given = True

    def draw(self, rng, n_rows):
        return rng.multinomial(rng.poisson(6, n_rows), [0.1, 0.2, 0.3, 0.15, 0.25])

    @staticmethod
    def reference(x, f, own, observed):
        seen = observed > 0
        laws = (stats.multinomial(a[s].sum(), softmax(b[s])) if s.any() else None for a, b, s in zip(x, f, seen))
        return [0.0 if law is None else law.logpmf(a[s]) for law, a, s in zip(laws, x, seen, strict=True)]


class TestMultinomialOfOneDraw(TestMultinomial):
    likelihood = Multinomial()

    def draw(self, rng, n_rows):
        return rng.multinomial(1, [0.1, 0.2, 0.3, 0.15, 0.25], n_rows)


class TestMultinomialOfManyDraws(TestMultinomial):
    likelihood = Multinomial(total=2500.3)

    def draw(self, rng, n_rows):
        return rng.multinomial(2500, [0.1, 0.2, 0.3, 0.15, 0.25], n_rows)

    def test_millions_are_split_as_well_as_few(self):
        """Counted one by one they would take the memory of all of them, and stop at 2**24 in float32."""
        f = torch.tensor([[0.0, 1.0, -2.0, -900.0, -900.0]]).expand(50, -1)
        x = Multinomial(total=1e9).sample(f, {}, Noise(0), torch.arange(50))
        np.testing.assert_allclose(x, 1e9 * f.softmax(-1), rtol=1e-3)
        np.testing.assert_allclose(x.double().sum(1), 1e9, rtol=1e-6)


class TestCategorical(Contract):
    sizes = (2, 3, 2, 1, 3, 4)  # equal sizes apart, so that blocks are brought together and put back
    likelihood = Categorical(sizes)

    @property
    def blocks(self):
        ends = np.cumsum(self.sizes)
        return [slice(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]

    def draw(self, rng, n_rows):
        return np.hstack([rng.multinomial(1, softmax(np.arange(size)), n_rows) for size in self.sizes])

    def reference(self, x, f, own, observed):
        total = np.zeros(len(x))
        for block in self.blocks:
            for i in np.flatnonzero(observed[:, block.start] > 0):
                total[i] += np.log(softmax(f[i, block])[x[i, block].argmax()])
        return total

    def test_means_are_probabilities_and_samples_one_level_of_each_column(self):
        f = self.natural()
        drawn = self.likelihood.sample(f, {}, Noise(3), torch.arange(N_ROWS))
        for x in (self.likelihood.mean(f), drawn):
            for block in self.blocks:
                torch.testing.assert_close(x[:, block].sum(1), torch.ones(N_ROWS, dtype=DOUBLE))
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


class TestCategoricalOfEqualSizes(TestCategorical):
    sizes = (3, 3, 3)
    likelihood = Categorical(sizes)


class TestCategoricalInOrderOfSize(TestCategorical):
    sizes = (2, 2, 5)
    likelihood = Categorical(sizes)


class TestCategoricalThatWrapsAround(TestCategorical):
    sizes = (5, 2)
    likelihood = Categorical(sizes)


class TestPoisson(Contract):
    likelihood = Poisson()
    reference = staticmethod(by_cell(lambda x, f, own: stats.poisson.logpmf(x, np.exp(f))))

    def draw(self, rng, n_rows):
        return rng.poisson([0.2, 1.0, 3.0, 20.0, 0.7], (n_rows, N_COLUMNS))


class TestNegativeBinomial(Contract):
    likelihood = NegativeBinomial()
    own = {"dispersion": torch.tensor([0.3, 1.0, 5.0, 49.0, 60.0], dtype=DOUBLE).log()}
    own_is_exact = False

    def draw(self, rng, n_rows):
        return rng.negative_binomial([0.5, 1, 2, 4, 1], [0.2, 0.3, 0.1, 0.5, 0.1], (n_rows, N_COLUMNS))

    @staticmethod
    def reference(x, f, own, observed):
        r = np.exp(own["dispersion"])
        return (observed * stats.nbinom.logpmf(x, r, r / (r + np.exp(f)))).sum(1)

    def test_much_dispersion_is_poisson_in_float32_too(self):
        x, f = Cells(self.rows().float()), self.natural().float()
        got = self.likelihood.log_prob(x, f, {"dispersion": torch.full((N_COLUMNS,), 15.0)})
        torch.testing.assert_close(got, Poisson().log_prob(x, f), rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("dispersion", [-1e3, 1e3])
    def test_a_wild_dispersion_has_finite_gradients(self, dispersion):
        own = torch.full((N_COLUMNS,), dispersion, requires_grad=True)
        f = self.natural().float().requires_grad_()
        log_prob = self.likelihood.log_prob(Cells(self.rows().float()), f, {"dispersion": own})
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(log_prob.sum(), [f, own]))


class TestMixed(Contract):
    """A real, two binary, a categorical (3 levels), a count and another real column."""

    likelihood = Mixed(
        [(Gaussian(), 0, 1), (Bernoulli(), 1, 3), (Categorical([3]), 3, 6), (Poisson(), 6, 7), (Gaussian(), 7, 8)]
    )
    own = {"0.noise": normal(1, seed=9), "4.noise": normal(1, seed=10)}
    blocks = [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 6), slice(6, 7), slice(7, 8)]

    def draw(self, rng, n_rows):
        binary, level = rng.random((n_rows, 2)) < 0.4, rng.multinomial(1, [0.2, 0.5, 0.3], n_rows)
        return np.hstack(
            [rng.normal(size=(n_rows, 1)), binary, level, rng.poisson(2, (n_rows, 1)), rng.normal(5, 2, (n_rows, 1))]
        )

    @staticmethod
    def reference(x, f, own, observed):
        cases = [TestGaussian, TestBernoulli, None, TestPoisson, TestGaussian]
        total = np.zeros(len(x))
        for i, (case, (_, a, b)) in enumerate(zip(cases, TestMixed.likelihood.parts, strict=True)):
            if case is None:
                part = TestCategoricalOfOneColumn().reference(x[:, a:b], f[:, a:b], {}, observed[:, a:b])
            else:
                mine = {"noise": own[f"{i}.noise"]} if f"{i}.noise" in own else {}
                part = case.reference(x[:, a:b], f[:, a:b], mine, observed[:, a:b])
            total += part
        return total

    def test_it_is_the_sum_of_its_parts(self):
        x, f = self.incomplete(), self.natural()
        parts = [
            part.log_prob(x.columns(a, b), f[:, a:b], self.likelihood.own_of(i, self.own))
            for i, (part, a, b) in enumerate(self.likelihood.parts)
        ]
        torch.testing.assert_close(self.likelihood.log_prob(x, f, self.own), torch.stack(parts).sum(0))

    def test_parts_that_leave_a_gap_are_refused(self):
        with pytest.raises(ValueError, match="Part 1 has the columns 3 to 4, but the part before it ends at 2"):
            Mixed([(Gaussian(), 0, 2), (Bernoulli(), 3, 4)])


class TestCategoricalOfOneColumn(TestCategorical):
    sizes = (3,)
    likelihood = Categorical(sizes)


# ------------------------------------------------------------------------------------------------------------- cells
@pytest.mark.parametrize("case", [TestBernoulli, TestMultinomial])
def test_sparse_rows_and_dense_cells_agree(case):
    likelihood, dense = case.likelihood, case().rows()
    sparse = Rows(sp.csr_array(dense.numpy()), torch.device("cpu"), DOUBLE).batch(np.arange(N_ROWS))
    upstream, answers = normal(N_ROWS, seed=6), []
    for x in (sparse, Cells(dense)):
        f = normal(N_ROWS, N_COLUMNS, seed=3).requires_grad_()
        log_prob = likelihood.log_prob(x, f)
        answers.append((log_prob, likelihood.log_base(x), *torch.autograd.grad(log_prob, f, upstream), x.n_observed()))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b)


def test_cells_count_and_sum_what_was_seen():
    value, observed = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    x, g = Cells(value, observed), torch.tensor([[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]])
    assert x.n_observed().tolist() == [2.0, 0.0] and Cells(value).n_observed().tolist() == [3.0, 3.0]
    assert x.over_cells(g).tolist() == [8.0, 0.0] and x.inner(g).tolist() == [13.0, 0.0]
    torch.testing.assert_close(x.logsumexp(g), torch.tensor([math.log(math.exp(3) + math.exp(5)), 0.0]))
    torch.testing.assert_close(x.minus(g), torch.tensor([[-2.0, 0.0, -3.0], [0.0, 0.0, 0.0]]))
    part = x.columns(1, 3)
    assert part.value.tolist() == [[0.0, 2.0], [0.0, 0.0]] and part.n_observed().tolist() == [1.0, 0.0]
    assert Cells(value).columns(0, 1).observed is None


# ----------------------------------------------------------------------------------------------------- Gaussian noise
def test_the_raw_noise_gives_the_variance_back_and_keeps_off_the_floor():
    likelihood = Gaussian(floor=1e-2)
    psi = torch.tensor([0.5, 2e-2, 1e-2, 0.0], dtype=DOUBLE)
    got = likelihood.variance({"noise": likelihood.raw(psi)}, 4)
    torch.testing.assert_close(got, torch.tensor([0.5, 2e-2, 1.01e-2, 1.01e-2], dtype=DOUBLE))


@pytest.mark.parametrize(("noise", "message"), [("full", "noise='full' is not known"), (0.0, "must be positive")])
def test_a_noise_that_is_none_is_refused(noise, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(noise)


# ----------------------------------------------------------------------------------------------------------- samples
@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial()])
def test_huge_rates_still_give_counts(likelihood):
    f = torch.tensor([[-1e4, 0.0, 13.0, 14.0, 29.0]], dtype=DOUBLE).expand(200, -1)
    own = {"dispersion": torch.full((5,), 14.0)}
    x = likelihood.sample(f, own, Noise(0), torch.arange(200))
    assert torch.equal(x, x.round()) and (x[:, 0] == 0).all()
    torch.testing.assert_close(x[:, 2:].mean(0), f[0, 2:].exp(), rtol=1e-3, atol=0)
