"""GANGenerator: the game against values known in closed form, the ring of Gaussians, tables of all kinds, bad input."""

import itertools
import math
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pytest import approx

from skvae import GANGenerator
from skvae._tensors import Cells, Noise
from skvae.metrics import energy_distance
from skvae.models.autoencoders.gan import GAN, Levels
from skvae.training.members import MemberBatch, MemberNoise, one_member

LOG4 = math.log(4)
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 4, "batch_size": 32, "random_state": 0}
RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3)) * [1, 5, 0.1] + [0, 100, 3]


def mixed(n=120, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    return pd.DataFrame(
        {
            "size": size,
            "colour": pd.Categorical(np.where(size > 0, "red", rng.choice(["blue", "green"], n))),
            "works": size + rng.normal(size=n) > 1,
            "count": rng.integers(0, 9, n),
            "maker": rng.choice(["x", "y"], n),
        },
        index=np.arange(n) * 3,
    )


def batch_of(x):
    """Rows as a batch of one member."""
    x = torch.as_tensor(np.asarray(x), dtype=torch.float64)[None]
    return MemberBatch(Cells(x, None), x, x.new_ones(x.shape[:2]), torch.arange(x.shape[1])[None])


# -------------------------------------------------------------------------------------------------------- the theory
P_DATA, P_MODEL = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.1, 0.3, 0.2, 0.4])
POINTS = np.eye(4)


class Fixed(GAN):
    """A GAN on four points, whose generator has the distribution P_MODEL and whose discriminator has a free logit."""

    def __init__(self, n, p=P_MODEL, **settings):
        super().__init__(1, 4, (), (), torch.relu, **settings)
        self.rows = torch.as_tensor(POINTS[np.repeat(np.arange(4), np.rint(n * p).astype(int))])[None]

    def generate(self, params, noise, row):
        return self.rows


def value_of(logit, p_data=P_DATA, p_model=P_MODEL, n=100, **settings):
    model = Fixed(n, p_model, **settings)
    batch = batch_of(POINTS[np.repeat(np.arange(4), np.rint(n * p_data).astype(int))])
    params = {"discriminator.0.weight": torch.as_tensor(logit).double()[None, :, None]}
    params["discriminator.0.bias"] = torch.zeros(1, 1).double()
    return model, params, batch


def test_the_best_discriminator_of_a_discrete_toy_is_that_of_the_paper():
    """By brute force over a grid of D on four points: D* = p_data / (p_data + p_g) (2), V(D*) = -log 4 + 2 JSD (6)."""
    grid = np.arange(0.05, 1, 0.1)
    best = max(
        itertools.product(grid, grid, grid),
        key=lambda D: sum(p * math.log(d) + q * math.log(1 - d) for d, p, q in zip(D, P_DATA, P_MODEL)),
    )
    D = np.clip(P_DATA / (P_DATA + P_MODEL), 1e-6, None)
    np.testing.assert_allclose(best, D[:3], atol=0.051)
    model, params, batch = value_of(np.log(D / (1 - D)))
    value = float(model.bound_of_discriminator(params, batch, None).value().mean())
    mean = (P_DATA + P_MODEL) / 2
    jsd = sum(0.5 * p * math.log(p / m) for each in (P_DATA, P_MODEL) for p, m in zip(each, mean) if p)
    assert value == approx(-LOG4 + 2 * jsd, abs=1e-5)
    for change in np.vstack([np.eye(4), -np.eye(4)])[[0, 1, 2, 4, 5, 6]]:  # and every other D is worth less
        model, params, batch = value_of(np.log(D / (1 - D)) + 0.3 * change)
        assert float(model.bound_of_discriminator(params, batch, None).value().mean()) < value


def test_at_the_equilibrium_the_value_is_minus_log_4_and_neither_player_moves():
    model, params, batch = value_of(np.zeros(4), P_MODEL)
    params = {name: tensor.requires_grad_() for name, tensor in params.items()}
    bound = model.bound_of_discriminator(params, batch, None)
    assert bound.value().detach().numpy() == approx(-LOG4, abs=1e-6)
    bound.value().mean().backward()
    for tensor in params.values():
        assert tensor.grad.abs().max() < 1e-7
    assert model.bound_of_generator(params, batch, None).value().detach().numpy() == approx(-math.log(2), abs=1e-6)


def test_trained_on_the_toy_the_discriminator_comes_to_the_best_one():
    model, params, batch = value_of(np.zeros(4))
    params["discriminator.0.weight"].requires_grad_()
    weight = params["discriminator.0.weight"]
    for _ in range(600):  # V is concave in the logits, with a second derivative of at most 0.15
        (gradient,) = torch.autograd.grad(model.bound_of_discriminator(params, batch, None).value().mean(), weight)
        weight.data += 5 * gradient
    D = params["discriminator.0.weight"].detach().sigmoid().flatten().numpy()
    np.testing.assert_allclose(D, P_DATA / (P_DATA + P_MODEL), atol=2e-3)


@pytest.mark.parametrize("loss", ["non_saturating", "minimax"])
def test_the_generator_raises_its_part_of_the_value_or_log_d(loss):
    logit = np.array([0.3, -1.0, 2.0, -4.0])
    model, params, batch = value_of(logit, loss=loss)
    D = 1 / (1 + np.exp(-logit))
    expected = P_MODEL @ (np.log(D) if loss == "non_saturating" else -np.log(1 - D))
    assert float(model.bound_of_generator(params, batch, None).value().mean()) == approx(expected, abs=1e-5)


def test_the_gradient_penalty_is_that_of_finite_differences_and_is_trained():
    model = GAN(2, 3, (), (7, 5), torch.tanh, gradient_penalty=True)
    noise, x = Noise(3), RNG.normal(size=(6, 3))
    params = one_member(model.init(noise, _statistics(3)))
    params = {name: tensor.double().requires_grad_() for name, tensor in params.items()}
    batch = batch_of(x)
    member_noise = MemberNoise([noise])
    model.generate = lambda params, noise, row: batch.x.value.flip(1)  # in float64
    bound = model.bound_of_discriminator(params, batch, member_noise)
    step = 1e-5 * torch.eye(3).double()
    both = [[model.logit(params, batch.x.value + sign * each) for each in step] for sign in (1, -1)]
    slope = torch.stack([(up - down) / 2e-5 for up, down in zip(*both, strict=True)], -1)
    expected = bound.log_prob - 0.4 * slope.square().sum(-1)
    torch.testing.assert_close(bound.value(0.8), expected, rtol=1e-6, atol=1e-8)
    weight = params["discriminator.0.weight"]
    (gradient,) = torch.autograd.grad(bound.value(0.8).sum(), weight, retain_graph=True)
    (finite,) = torch.autograd.grad(expected.sum(), weight)
    torch.testing.assert_close(gradient, finite, rtol=1e-5, atol=1e-7)


def _statistics(n):
    from skvae.tables.columns import ColumnStatistics

    return ColumnStatistics(*torch.full((3, n), 0.5).double())


def test_levels_are_drawn_with_the_probabilities_of_the_softmax_and_carry_its_gradient():
    model = GAN(1, 6, (Levels(1, 4, 3), Levels(4, 6)), (), torch.relu)
    logits = torch.tensor([0.7, 1.0, -1.0, 0.2, 0.5, -2.0])
    params = {"generator.0.weight": torch.zeros(1, 1, 6), "generator.0.bias": logits[None].requires_grad_()}
    rows = model.generate(params, MemberNoise([Noise(0)]), torch.arange(40_000)[None])[0]
    drawn = rows.detach()
    assert set(drawn[:, 1:].unique().tolist()) == {0, 1} and (drawn[:, 1:4].sum(1) == 1).all()
    assert drawn[:, 0].numpy() == approx(0.7)
    torch.testing.assert_close(drawn[:, 1:4].mean(0), logits[1:4].softmax(0), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn[:, 4:].mean(0), logits[4:].sigmoid(), atol=0.01, rtol=0)
    rows[:, 1].mean().backward()
    gradient = params["generator.0.bias"].grad[0]
    assert gradient[1] > 0 > gradient[2] and gradient[1:4].sum() == approx(0, abs=1e-6) and not gradient[4:].any()


# ---------------------------------------------------------------------------------------------------------- the fits
CENTRES = np.column_stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)])


def ring(n, seed):
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(8, size=n)] + 0.05 * rng.normal(size=(n, 2))


def shares_of_modes(rows):
    """Share of the rows within three standard deviations of each mode."""
    distance = np.linalg.norm(rows[:, None] - CENTRES, axis=2)
    return np.bincount(distance.argmin(1)[distance.min(1) <= 0.15], minlength=8) / len(rows)


def test_every_mode_of_a_ring_is_found():
    """A quarter of the steps of a default fit, half of the width and of the rows a step.

    `python benchmarks/bench_generators.py --only ring` asks it of default fits, and more: of five seeds.
    """
    settings = {"hidden_layer_sizes": (64, 64), "batch_size": 128, "max_iter": 200}
    gan = GANGenerator(random_state=0, **settings).fit(ring(1280, 0))
    shares = shares_of_modes(gan.sample(10_000, random_state=1))
    assert shares.min() >= 0.03 and shares.sum() >= 0.6
    assert gan.history_["energy_distance"][-1] < 0.02 < gan.history_["energy_distance"][0]


@pytest.mark.parametrize("settings", [{"optimizer": "momentum"}, {"loss": "minimax"}, {"n_discriminator_steps": 3}])
def test_other_games_come_closer_to_the_data_too(settings):
    rows = RNG.normal(2, 3, size=(300, 1))
    few = {"hidden_layer_sizes": (16,), "batch_size": 100, "max_iter": 100 * settings.get("n_discriminator_steps", 1)}
    first = GANGenerator(random_state=0, **few | {"max_iter": 1}, **settings).fit(rows)
    last = GANGenerator(random_state=0, **few, **settings).fit(rows)
    assert last.history_["energy_distance"][-1] < min(0.03, 0.5 * first.history_["energy_distance"][0])


@pytest.mark.parametrize("kind", ["adam", "momentum"])
def test_a_round_is_that_of_algorithm_1(kind, monkeypatch):
    """A step of the discriminator, then one of the generator against the new one."""
    seen = {}

    class Spy(GAN):
        def bound_of_discriminator(self, params, batch, noise):
            seen["start"] = {name: tensor.detach()[0].clone() for name, tensor in params.items()}
            seen["x"], seen["z of D"] = batch.x.value[0], noise.fold("z").normal(batch.row, 2)[0]
            return super().bound_of_discriminator(params, batch, noise)

        def bound_of_generator(self, params, batch, noise):
            seen["z of G"] = noise.fold("z").normal(batch.row, 2)[0]
            return super().bound_of_generator(params, batch, noise)

    monkeypatch.setattr("skvae.estimators.autoencoders.gan.GAN", Spy)
    gan = GANGenerator(2, hidden_layer_sizes=(5,), max_iter=1, learning_rate=0.01, optimizer=kind, gradient_penalty=0)
    gan.set_params(learning_rate_schedule="constant", random_state=0).fit(X)
    assert not torch.equal(seen["z of D"], seen["z of G"])  # each step has noise of its own
    params = {name: tensor.requires_grad_() for name, tensor in seen["start"].items()}

    def network(name, h):
        h = torch.relu(h @ params[f"{name}.0.weight"] + params[f"{name}.0.bias"])
        return h @ params[f"{name}.1.weight"] + params[f"{name}.1.bias"]

    def step(name, loss):
        own = [tensor for key, tensor in params.items() if key.startswith(name)]
        for tensor, g in zip(own, torch.autograd.grad(loss, own), strict=True):
            tensor.data -= 0.01 * (g / (g.abs() + 1e-8) if kind == "adam" else g)  # their first steps

    D = lambda x: network("discriminator", x).sigmoid()  # noqa: E731
    fake = network("generator", seen["z of D"]).detach()
    step("discriminator", -(D(seen["x"]).log() + (1 - D(fake)).log()).mean())
    step("generator", -D(network("generator", seen["z of G"])).log().mean())
    for name, tensor in params.items():
        np.testing.assert_allclose(gan.parameters_[name], tensor.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_history_is_of_the_parameters_and_samples_are_those_of_sample():
    gan = GANGenerator(**QUICK, n_history_samples=7).fit(X)
    n = len(gan.history_["n_iter"])
    assert n >= 1 and gan.history_["n_iter"][-1] == 4 == gan.n_iter_ and len(gan.sample_history_) == n
    assert all(len(each) == n for each in gan.history_.values()) and gan.sample_history_[0].shape == (7, 3)
    np.testing.assert_array_equal(gan.validation_scores_, -gan.history_["energy_distance"])
    assert gan.history_["energy_distance"][-1] == approx(energy_distance(X, gan.sample(5000, random_state=0)), abs=0.05)
    assert 0 <= gan.history_["discriminator_accuracy"].min() <= gan.history_["discriminator_accuracy"].max() <= 1
    assert not GANGenerator(**QUICK, n_history_samples=0).fit(X).sample_history_


def test_early_stopping_keeps_the_epoch_closest_to_rows_that_are_held_out():
    settings = QUICK | {"max_iter": 90, "early_stopping": True, "n_iter_no_change": 2}
    gan = GANGenerator(**settings).fit(X)
    assert gan.n_iter_ < 90
    given = GANGenerator(**settings).fit(X, X_val=X[:20])
    assert not np.array_equal(given.validation_scores_, gan.validation_scores_)
    with pytest.raises(ValueError, match="early_stopping=False never asks"):
        GANGenerator(**QUICK).fit(X, X_val=X[:20])


def test_decision_function_is_the_discriminators_logit():
    gan = GANGenerator(**QUICK | {"max_iter": 40}).fit(X)
    logit = gan.decision_function(X)
    assert logit.shape == (90,) and logit.dtype == np.float64
    assert gan.decision_function(X.astype(np.float32)).dtype == np.float32
    z = (X - X.mean(0)) / X.std(0)
    h = np.maximum(z @ gan.parameters_["discriminator.0.weight"] + gan.parameters_["discriminator.0.bias"], 0)
    expected = h @ gan.parameters_["discriminator.1.weight"] + gan.parameters_["discriminator.1.bias"]
    np.testing.assert_allclose(logit, expected[:, 0], rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- all tables
def test_a_mixed_table_comes_back_as_it_was():
    table = mixed()
    gan = GANGenerator(**QUICK).fit(table)
    rows = gan.sample(50, random_state=0)
    assert list(rows.dtypes) == list(table.dtypes) and list(rows.columns) == list(table.columns)
    assert set(rows["colour"]) <= {"red", "blue", "green"} and set(rows["maker"]) <= {"x", "y"}
    assert list(gan.sample_history_[-1].dtypes) == list(table.dtypes)
    assert gan.decision_function(table).shape == (120,)
    with pytest.raises(ValueError, match="'colour'.*'pink'"):
        gan.decision_function(table.assign(colour="pink"))
    polars = pytest.importorskip("polars")
    cells = {name: table[name].tolist() for name in table}
    of_polars = GANGenerator(**QUICK).fit(polars.DataFrame(cells)).sample(3, random_state=0)
    assert isinstance(of_polars, polars.DataFrame) and of_polars["works"].dtype == polars.Boolean


def test_levels_follow_what_they_depend_on():
    table = mixed(600)[["size", "colour"]]
    gan = GANGenerator(hidden_layer_sizes=(32,), max_iter=300, random_state=0, learning_rate=3e-3).fit(table)
    rows = gan.sample(2000, random_state=0)
    red = rows["colour"] == "red"
    assert red.mean() == approx((table["colour"] == "red").mean(), abs=0.12)
    assert rows["size"][red].mean() > 0.3 > -0.3 > rows["size"][~red].mean()


def test_categories_of_an_array_are_named():
    table = np.column_stack([RNG.normal(size=80), RNG.integers(3, size=80), RNG.integers(2, size=80)])
    for chosen in ([1, 2], [False, True, True]):
        rows = GANGenerator(**QUICK, categorical_features=chosen).fit(table).sample(200, random_state=0)
        assert set(rows[:, 1]) <= {0, 1, 2} and set(rows[:, 2]) <= {0, 1} and len(set(rows[:, 0])) == 200
    assert len(set(GANGenerator(**QUICK).fit(table).sample(200, random_state=0)[:, 1])) == 200
    frame = pd.DataFrame(table, columns=list("abc")).assign(c=table[:, 2] > 0)
    rows = GANGenerator(**QUICK, categorical_features=["b"]).fit(frame).sample(60, random_state=0)
    assert rows["c"].dtype == bool and set(rows["b"]) <= {0, 1, 2}
    with pytest.raises(ValueError, match="3 columns"):
        GANGenerator(**QUICK, categorical_features=[3]).fit(table)


DEGENERATE = {
    "two rows": X[:2],
    "one column": X[:, :1],
    "equal rows": np.repeat(X[:1], 40, 0),
    "duplicates": np.repeat(X[:3], 40, 0),
    "a constant column": np.column_stack([X[:, 0], np.full(90, 7.5)]),
    "nothing but categories": mixed()[["colour", "maker"]],
    "one level": mixed().assign(maker="x")[["size", "maker"]],
    "Booleans": mixed()[["works"]],
    "float32": X.astype(np.float32),
    "far from 0": X + 1e9,
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_tables(name):
    table = DEGENERATE[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gan = GANGenerator(**QUICK).fit(table)
    rows = gan.sample(20, random_state=0)
    assert rows.shape == (20, table.shape[1]) and np.isfinite(gan.decision_function(table)).all()
    if name == "a constant column":
        assert (rows[:, 1] == 7.5).all()
    if name == "equal rows":
        np.testing.assert_allclose(rows, table[:20], rtol=1e-3)


def test_bad_tables_are_refused_and_change_nothing():
    gan = GANGenerator(**QUICK).fit(X)
    before = pickle.dumps(gan)
    gaps = X.copy()
    gaps[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"contains NaN: GANGenerator needs every cell, but X\[4, 1\] is missing"):
        gan.fit(gaps)
    with pytest.raises(ValueError, match=r"X\[2, 'colour'\] is missing"):
        GANGenerator().fit(
            mixed().reset_index(drop=True).mask(lambda t: (t.index == 2)[:, None] & (t.columns == "colour"))
        )
    with pytest.raises(ValueError, match="1 sample"):
        gan.fit(X[:1])
    with pytest.raises(ValueError, match="infinity|finite"):
        gan.fit(np.where(X > 101, np.inf, X))
    with pytest.raises(ValueError, match="n_samples"):
        gan.sample(0)
    assert pickle.dumps(gan) == before


def test_steps_that_are_not_finite_are_left_out_or_refused():
    with pytest.warns(RuntimeWarning, match="not finite"), pytest.raises(FloatingPointError, match="learning rate"):
        GANGenerator(**QUICK | {"max_iter": 50, "optimizer": "momentum", "learning_rate": 1e30}).fit(X)


# --------------------------------------------------------------------------------------- seeds, weights, continuations
def test_one_seed_gives_one_fit_and_one_sample():
    one, other = (GANGenerator(**QUICK).fit(X) for _ in range(2))
    assert all(np.array_equal(one.parameters_[name], other.parameters_[name]) for name in one.parameters_)
    np.testing.assert_array_equal(one.sample(5, random_state=1), other.sample(5, random_state=1))
    np.testing.assert_allclose(one.sample(9000, random_state=1)[:5], one.sample(5, random_state=1), rtol=1e-4)
    assert not np.array_equal(one.sample(5), one.sample(5))
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.sample(5, random_state=1), one.sample(5, random_state=1))


def test_a_weight_is_a_number_of_rows():
    weight = RNG.integers(0, 4, size=90).astype(float)
    one = GANGenerator(**QUICK, early_stopping=True).fit(X, sample_weight=weight)
    other = GANGenerator(**QUICK, early_stopping=True).fit(np.repeat(X, weight.astype(int), axis=0))
    for name in one.parameters_:
        np.testing.assert_array_equal(one.parameters_[name], other.parameters_[name])
    assert one.n_samples_seen_ == weight.sum()


def test_a_fit_goes_on():
    gan = GANGenerator(**QUICK, warm_start=True).fit(X)
    first = gan.history_
    gan.fit(X)
    assert gan.n_iter_ == 8 and gan.history_["n_iter"].tolist() == [*first["n_iter"], *(first["n_iter"] + 4)]
    assert len(gan.sample_history_) == len(gan.history_["n_iter"]) and len(gan.lower_bounds_) == 8
    gan.partial_fit(X[:40])
    assert gan.n_iter_ == 9 and gan.n_samples_seen_ == 130
    with pytest.raises(ValueError, match="hidden_layer_sizes"):
        gan.set_params(hidden_layer_sizes=(3,)).fit(X)
    table = mixed()
    assert GANGenerator(**QUICK).partial_fit(table).partial_fit(table[:20]).n_iter_ == 2


def test_verbose_says_how_the_game_stands(capsys):
    GANGenerator(**QUICK, verbose=2).fit(X)
    said = capsys.readouterr().out
    assert "value -" in said and "energy distance" in said and "kept the network of the last epoch, 4" in said
