"""Every likelihood keeps one contract; each states only how to draw its rows and what SciPy says of them."""

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from contract import DOUBLE, N_COLUMNS, N_ROWS, Contract, by_cell, normal, softmax
from scipy import stats

from skvae import VAETransformer
from skvae._tensors import Cells, Noise, Rows
from skvae.likelihoods import Bernoulli, Categorical, Gaussian, Mixed, Multinomial, NegativeBinomial, Poisson


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
    impossible = (-0.1, 1.5)
    reference = staticmethod(by_cell(lambda x, f, own: stats.bernoulli.logpmf(int(x), 1 / (1 + np.exp(-f)))))

    def draw(self, rng, n_rows):
        return rng.random((n_rows, N_COLUMNS)) < 0.3


class TestMultinomial(Contract):
    likelihood = Multinomial(total=6.4)
    impossible = (-1.0, 0.5)
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


class TestMultinomialOfMillions(TestMultinomialOfManyDraws):
    likelihood = Multinomial(total=2e6)
    large = 1.0


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
    large = 14.0
    impossible = (-1.0, 0.5)
    reference = staticmethod(by_cell(lambda x, f, own: stats.poisson.logpmf(x, np.exp(f))))

    def draw(self, rng, n_rows):
        return rng.poisson([0.2, 1.0, 3.0, 20.0, 0.7], (n_rows, N_COLUMNS))


class TestNegativeBinomial(Contract):
    likelihood = NegativeBinomial()
    large = 14.0
    impossible = (-1.0, 0.5)
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


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "multinomial"])
@pytest.mark.parametrize("rate", [3e3, 1.2e6])
def test_a_model_scores_large_counts_of_float32_as_those_of_float64(likelihood, rate):
    rng = np.random.default_rng(0)
    X = rng.poisson(rate * np.exp(0.01 * rng.normal(size=(40, 1)) @ np.ones((1, 3)))).astype(float)
    assert (X == X.astype(np.float32)).all()
    settings = {"hidden_layer_sizes": (4,), "early_stopping": False, "max_iter": 5, "random_state": 0}
    model = VAETransformer(1, likelihood=likelihood, **settings).fit(X)
    short = X.astype(np.float32)
    for method in (model.score_samples, model.elbo):
        assert method(short).dtype == np.float32
        np.testing.assert_allclose(method(short), method(X), rtol=1e-6, atol=1e-3)
    assert model.transform(short).dtype == np.float32


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
