"""Steps of the optimizers, against torch's own, and what a refused step leaves alone."""

import math
from copy import deepcopy

import pytest
import torch

from skvae._tensors import Noise, products
from skvae.engines import optimizer
from skvae.engines.optimizer import SGD, Adam, Optimizer

SHAPES = {"weight": (5, 3), "bias": (3,)}
TAKEN, REFUSED = torch.zeros(()), torch.ones(())


def draw(step, shape):
    return Noise(0).fold(step, len(shape)).normal(torch.arange(math.prod(shape[:-1])), shape[-1]).reshape(shape)


def leaves(members=()):
    return {name: draw(99, members + shape).requires_grad_() for name, shape in SHAPES.items()}


def take(optimizer, params, step, refused=TAKEN, multiplier=1.0):
    for tensor in params.values():
        tensor.grad.add_(draw(step, tensor.shape))
    optimizer.step(multiplier, refused)


@pytest.mark.parametrize(
    ("settings", "torchs"),
    [
        (Adam(0.1, 0.2), torch.optim.Adam),
        (Adam(0.1, 0.2, betas=(0.5, 0.9)), torch.optim.Adam),
        (Adam(0.1, betas=(0.0, 0.9)), torch.optim.Adam),
        (SGD(0.1, 0.2, momentum=0.9), torch.optim.SGD),
        (SGD(0.1), torch.optim.SGD),
    ],
)
def test_steps_are_those_of_torch(settings, torchs):
    """With a learning rate that changes from step to step; weights decay, biases do not."""
    ours, theirs = leaves(), leaves()
    own = Optimizer(settings, ours, {}, has_members=False)
    keys = {"betas": settings.betas} if torchs is torch.optim.Adam else {"momentum": settings.momentum}
    groups = [{"params": [theirs["weight"]], "weight_decay": settings.weight_decay}, {"params": [theirs["bias"]]}]
    reference = torchs(groups, lr=0.1, **keys)
    for step in range(6):
        take(own, ours, step, multiplier=1 / (1 + step))
        for group in reference.param_groups:
            group["lr"] = 0.1 / (1 + step)
        for tensor in theirs.values():
            tensor.grad = draw(step, tensor.shape)
        reference.step()
    torch.testing.assert_close(ours, theirs)
    assert own.gradient.abs().sum() == 0


def test_negative_momentum_takes_back_a_share_of_the_last_step():
    params = {"w": torch.zeros(1).requires_grad_()}
    own = Optimizer(SGD(1.0, momentum=-0.5), params, {}, has_members=False)
    path = []
    for _ in range(3):
        params["w"].grad.add_(-1)
        own.step(1.0, TAKEN)
        path.append(params["w"].item())
    assert path == [1, 1.5, 2.25]  # steps of 1, 1 - 1 / 2, 1 - 1 / 4


@pytest.mark.parametrize("settings", [Adam(0.1, 0.2), SGD(0.1, 0.2, momentum=0.5)])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_a_refused_step_changes_nothing(settings, bad):
    """Not even where it is the first; and the steps after it are those that would have been taken without it."""
    params, others = leaves(), leaves()
    own, other = (Optimizer(settings, each, {}, has_members=False) for each in (params, others))
    for step in range(4):
        if step in (0, 2):
            before = deepcopy([params, own.state])
            params["weight"].grad[2] = bad
            take(own, params, 50 + step, refused=REFUSED)
            torch.testing.assert_close([params, own.state], before, rtol=0, atol=0)
        take(own, params, step)
        take(other, others, step)
    torch.testing.assert_close([params, own.state], [others, other.state], rtol=0, atol=0)
    assert own.state["step"] == 4


@pytest.mark.parametrize("settings", [Adam(0.1), Adam(0.1, 0.2), SGD(0.1, 0.2, momentum=0.5)])
def test_a_weight_that_is_read_by_rows_moves_as_if_its_gradient_were_whole(settings, monkeypatch):
    """Bit for bit: rows in several blocks, read by none, one or two passes of a step, and a step that is refused."""
    monkeypatch.setattr(optimizer, "_CELLS_AT_ONCE", 64 * 3)
    shape = (150, 3)
    ours, theirs = ({**leaves(), "weight": draw(9, shape).requires_grad_()} for _ in range(2))
    own = Optimizer(settings, ours, {}, has_members=False, by_rows=["weight", "another"])
    reference = Optimizer(settings, theirs, {}, has_members=False)
    read = [[3, 70, 149], [], [0, 64, 65], [3]]
    for step, rows in enumerate(read):
        for number in map(torch.tensor, [rows, rows[:1]] if step == 2 else [rows]):
            gradient = draw(step, (len(number), 3)) if len(number) else torch.empty(0, 3)
            ours["weight"].kept.gradient.index_add_(0, number.long(), gradient)
            theirs["weight"].grad.index_add_(0, number.long(), gradient)
        for params in (ours, theirs):
            params["bias"].grad.add_(draw(step, (3,)))
        torch.testing.assert_close(own.sum_of_gradients(), reference.sum_of_gradients())
        for each in (own, reference):
            each.step(1.0, REFUSED if step == 3 else TAKEN)
    assert own.gradient.numel() == 3 and own.sum_of_gradients() == 0
    torch.testing.assert_close([ours, own.state], [theirs, reference.state], rtol=0, atol=0)


@pytest.mark.parametrize("ways", ["own", "own own", "autograd", "own autograd", "own own autograd"])
def test_a_gradient_that_is_written_over_is_as_if_it_had_been_cleared(ways, monkeypatch):
    """Bit for bit, whoever finds it; in every other step nobody does, and one is refused for a gradient of NaN."""
    a, b = draw(1, (4, 5)), draw(2, (4, 3))
    found = []
    for least in (1, 100):  # cells of a large gradient
        monkeypatch.setattr(optimizer, "_LARGE", least)
        params = leaves()
        own = Optimizer(Adam(0.1), params, {}, has_members=False)
        for step in range(6):
            (params["bias"] * draw(step, (3,))).sum().backward()
            for way in ways.split() if step % 2 == 0 else ():
                if way == "own":
                    params["weight"].kept.add_product(products(), a.T, b * (math.nan if step == 2 else step + 1))
                else:
                    (params["weight"] * draw(step, (5, 3))).sum().backward()
            gradient = own.collect()
            found.append((gradient.clone(), own.sum_of_gradients()))
            own.step(1.0, REFUSED if step == 2 else TAKEN)
        found.append(params)
    half = len(found) // 2
    torch.testing.assert_close(found[:half], found[half:], rtol=0, atol=0, equal_nan=True)
    assert found[0][0].abs().min() > 0 and found[1][0][:15].abs().max() == 0


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_members_have_rates_and_decays_of_their_own(kind):
    """Each moves as it would alone; of several, the state has all."""
    rates, decays = (0.1, 0.1, 0.3), (0.0, 0.2, 0.2)
    together = leaves((3,))
    own = Optimizer(kind(rates, decays), together, {}, has_members=True)
    start = deepcopy(together)
    for step in range(3):
        take(own, together, step)
    for member, (rate, decay) in enumerate(zip(rates, decays)):
        alone = {name: tensor[member].detach().clone().requires_grad_() for name, tensor in start.items()}
        single = Optimizer(kind(rate, decay), alone, {}, has_members=False)
        for step in range(3):
            for name, tensor in alone.items():
                tensor.grad.add_(draw(step, together[name].shape)[member])
            single.step(1.0, TAKEN)
        torch.testing.assert_close(alone, {name: tensor[member] for name, tensor in together.items()})
        for key, tensor in single.state.items():
            torch.testing.assert_close(tensor, own.state[key] if key == "step" else own.state[key][member])
    assert own.learning_rate == 0.3


@pytest.mark.parametrize("settings", [Adam(0.1, betas=(0.5, 0.9)), SGD(0.1, momentum=-0.3)])
def test_a_state_goes_on_where_it_ended(settings):
    whole, parts = leaves(), leaves()
    own = Optimizer(settings, whole, {}, has_members=False)
    for step in range(4):
        take(own, whole, step)
    state = {}
    for steps in ((0, 1), (2, 3)):
        part = Optimizer(settings, parts, state, has_members=False)
        for step in steps:
            take(part, parts, step)
        state = part.state
    torch.testing.assert_close([parts, state], [whole, own.state], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Adam(0.1, betas=(0.9, 1.0)), r"Adam\(betas=\(0\.9, 1\.0\)\) needs two numbers in \[0, 1\)"),
        (lambda: SGD(0.1, momentum=-1.0), r"SGD\(momentum=-1\.0\) needs a number in \(-1, 1\)"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_the_plain_adam_is_the_fused_one():
    """Refused steps, the first among them, leave parameters and running averages as they are, whatever the gradient."""
    settings = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.2, "eps": 1e-8}
    settings |= {"amsgrad": False, "maximize": False}
    states = []
    for adam in (optimizer._fused_adam, optimizer.plain_adam):
        noise, count = Noise(0), torch.zeros(())
        params, means, squares = ([torch.ones(5, 3), torch.ones(3)] for _ in range(3))
        for tensor in (*means, *squares):
            tensor.zero_()
        for step in range(6):
            refused = torch.tensor(float(step in (0, 3)))
            gradients = [
                noise.fold(step).normal(torch.arange(5), 3),
                noise.fold(step, "b").normal(torch.arange(1), 3)[0],
            ]
            if refused:
                gradients[0][2] = math.nan
            count += 1 - refused
            adam(params, gradients, means, squares, [], [count] * 2, found_inf=refused, **settings)
        states.append((params, means, squares))
    assert optimizer._fused_adam is not optimizer.plain_adam
    torch.testing.assert_close(*states)
