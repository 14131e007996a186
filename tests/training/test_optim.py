"""Schedules and the optimizer against their formulas and torch's own."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from ipcl_jax.config import Objective, Optim, Schedule
from ipcl_jax.training import optim

PEAK = 0.03


def courses(options: Schedule, n_batches: int, per_epoch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Learning rate and momentum of every batch, as a jitted step computes them."""
    batches = jnp.arange(n_batches, dtype=jnp.int32)
    rate = jax.jit(jax.vmap(lambda b: optim.learning_rate(options, PEAK, b, n_batches, per_epoch)))(batches)
    momentum = jax.jit(jax.vmap(lambda b: optim.momentum(options, b, n_batches)))(batches)
    return np.asarray(rate), np.asarray(momentum)


def paper(start: float, top: float, end: float, n_batches: int, pct_start: float) -> np.ndarray:
    """The published one-cycle course, batch by batch in float64."""
    corner = int(n_batches * pct_start)
    course = []
    for i in range(n_batches):
        a, b, p = (start, top, i / corner) if i <= corner else (top, end, (i - corner) / (n_batches - corner))
        course.append(b + (a - b) / 2 * (1 + math.cos(math.pi * p)))
    return np.array(course)


@pytest.mark.parametrize("n_batches, pct_start", [(10, 0.4), (1000, 0.4), (1001, 0.3), (100_000, 0.4)])
def test_one_cycle_at_every_batch(n_batches, pct_start):
    options = Schedule(pct_start=pct_start)
    rate, momentum = courses(options, n_batches)
    expected = paper(PEAK / 1000, PEAK, PEAK / 1000 / 1e4, n_batches, pct_start)
    # Float32's rounding of sine and angle, relative to the value itself: the lowest rates, ten million
    # times below the peak, are held to it as well.
    np.testing.assert_allclose(rate, expected, rtol=1e-5)
    # One rounding or two of a value near one.
    np.testing.assert_allclose(momentum, paper(0.95, 0.85, 0.95, n_batches, pct_start), rtol=1e-6)


def test_one_cycles_corners():
    n_batches, corner = 1001, 400  # int(1001 x 0.4)
    rate, momentum = courses(Schedule(), n_batches)
    assert rate.argmax() == momentum.argmin() == corner
    assert rate[corner] == np.float32(PEAK) and momentum[corner] == np.float32(0.85)
    np.testing.assert_allclose(rate[0], PEAK / 1000, rtol=1e-7)  # one rounding
    np.testing.assert_allclose(momentum[0], 0.95, rtol=1e-7)
    assert (np.diff(rate[: corner + 1]) > 0).all() and (np.diff(rate[corner:]) < 0).all()
    # The last batch is one short of the end, so its rate is still well above the final value.
    assert rate[-1] > 1.05 * PEAK / 1000 / 1e4
    end = optim.learning_rate(Schedule(), PEAK, n_batches, n_batches)
    np.testing.assert_allclose(end, PEAK / 1000 / 1e4, rtol=1e-6)  # cos(pi / 2) in float32


@pytest.mark.parametrize("n_batches, pct_start", [(10, 0.4), (333, 0.3), (1000, 0.4)])
def test_one_cycle_torch_at_every_batch(n_batches, pct_start):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, total_steps=n_batches, pct_start=pct_start, div_factor=1000, final_div_factor=1e4,
        base_momentum=0.85, max_momentum=0.95,
    )
    expected = []
    for _ in range(n_batches):
        group = optimizer.param_groups[0]
        expected.append((group["lr"], group["momentum"]))
        optimizer.step()
        if len(expected) < n_batches:
            schedule.step()
    expected = np.array(expected)
    rate, momentum = courses(Schedule(name="one_cycle_torch", pct_start=pct_start), n_batches)
    np.testing.assert_allclose(rate, expected[:, 0], rtol=1e-5)  # as above
    np.testing.assert_allclose(momentum, expected[:, 1], rtol=1e-6)
    other, _ = courses(Schedule(pct_start=pct_start), n_batches)
    assert np.abs(other / rate - 1).max() > 0.01  # the paper's is another schedule


def test_constant():
    rate, momentum = courses(Schedule(name="constant", momentum=(0.8, 0.9)), 7)
    np.testing.assert_array_equal(rate, np.full(7, PEAK, np.float32))
    np.testing.assert_array_equal(momentum, np.full(7, 0.9, np.float32))


@pytest.mark.parametrize("n_batches", [10, 30, 1000])
def test_cosine_at_every_batch(n_batches):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_batches)
    expected = []
    for _ in range(n_batches):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rate, momentum = courses(Schedule(name="cosine"), n_batches)
    assert rate[0] == np.float32(PEAK) and rate[-1] > 0
    # As above. Torch derives each rate from the last one, and so its smallest from a long product.
    np.testing.assert_allclose(rate, expected, rtol=1e-5)
    np.testing.assert_array_equal(momentum, np.full(n_batches, 0.95, np.float32))


@pytest.mark.parametrize("n_batches, per_epoch", [(30, 5), (1000, 10), (100_000, 1000)])
def test_warmup_cosine_at_every_batch(n_batches, per_epoch):
    corner = 3 * per_epoch
    rising = [PEAK * i / corner for i in range(corner)]
    falling = [
        PEAK / 2 * (1 + math.cos(math.pi * i / (n_batches - corner))) for i in range(n_batches - corner)
    ]
    rate, momentum = courses(Schedule(name="warmup_cosine", warmup_epochs=3), n_batches, per_epoch)
    assert rate[0] == 0 and rate.argmax() == corner and rate[corner] == np.float32(PEAK)
    np.testing.assert_allclose(rate, rising + falling, rtol=1e-5)  # as above
    np.testing.assert_array_equal(momentum, np.full(n_batches, 0.95, np.float32))


def test_a_warm_up_must_know_the_epoch():
    with pytest.raises(ValueError, match="give per_epoch"):
        optim.learning_rate(Schedule(name="warmup_cosine"), PEAK, 0, 100)


@pytest.mark.parametrize("start, end", [(0.2, 0.07), (0.05, 0.1)])
def test_temperature_at_every_batch(start, end):
    n_batches = 30
    course = jax.jit(
        jax.vmap(lambda b: optim.temperature(Objective(temperature=start, temperature_end=end), b, n_batches))
    )(jnp.arange(n_batches + 1))
    expected = end + (start - end) / 2 * (1 + np.cos(np.pi * np.arange(n_batches + 1) / n_batches))
    np.testing.assert_allclose(course, expected, rtol=1e-6)  # a few roundings of float32
    assert optim.temperature(Objective(temperature=start), 3, n_batches) is start  # the number, not an array


def test_eager_and_python_numbers_give_the_same():
    for name in ("one_cycle", "one_cycle_torch", "constant", "cosine", "warmup_cosine"):
        options = Schedule(name=name)
        rate, momentum = courses(options, 50, 2)
        for batch in (0, 1, 19, 20, 21, 49):
            # Fused or not, a cosine differs by an ulp or two.
            here = optim.learning_rate(options, PEAK, batch, 50, 2)
            np.testing.assert_allclose(here, rate[batch], rtol=1e-6)
            np.testing.assert_allclose(optim.momentum(options, batch, 50), momentum[batch], rtol=1e-6)


def test_a_rise_of_no_batches():
    rate, momentum = courses(Schedule(pct_start=0.01), 10)  # int(10 x 0.01) = 0: the peak comes first
    np.testing.assert_allclose(rate[0], PEAK, rtol=1e-7)
    assert np.isfinite(rate).all() and np.isfinite(momentum).all() and (np.diff(rate) < 0).all()


# --- SGD ---------------------------------------------------------------------------------


def trajectory(dtype: type, options: Optim, steps: int = 30) -> tuple[list, list]:
    """Our parameters and momenta after `steps`, and torch's; gradients follow the parameters."""
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(7, 5)), "bias": rng.normal(size=5)}
    target = {name: rng.normal(size=(steps, *value.shape)) for name, value in start.items()}
    rates, momenta = rng.uniform(0.001, 0.1, steps), rng.uniform(0.8, 0.95, steps)

    params = {name: jnp.asarray(value, dtype) for name, value in start.items()}
    state = optim.make_optimizer(options, 0.0, 0.0).init(params)

    @jax.jit
    def step(params, state, goal, rate, momentum):
        grads = jax.tree.map(lambda p, g: p - g, params, goal)
        updates, state = optim.make_optimizer(options, rate, momentum).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    theirs = {name: torch.nn.Parameter(torch.tensor(value.astype(dtype))) for name, value in start.items()}
    optimizer = torch.optim.SGD(theirs.values(), lr=1.0, momentum=0.9, weight_decay=options.weight_decay)
    for i in range(steps):
        goal = {name: value[i].astype(dtype) for name, value in target.items()}
        params, state = step(params, state, goal, dtype(rates[i]), dtype(momenta[i]))
        for name, p in theirs.items():
            p.grad = p.detach() - torch.from_numpy(goal[name])
        if options.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), options.clip_norm)
        optimizer.param_groups[0].update(lr=float(dtype(rates[i])), momentum=float(dtype(momenta[i])))
        optimizer.step()

    buffers = optax.tree_utils.tree_get(state, "trace")
    ours = [np.asarray(tree[name]) for name in start for tree in (params, buffers)]
    torchs = [
        value.detach().numpy()
        for p in theirs.values() for value in (p, optimizer.state[p]["momentum_buffer"])
    ]
    assert all(np.abs(params[name] - start[name]).max() > 0.1 for name in start)  # it went somewhere
    return ours, torchs


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_thirty_steps_as_torchs(weight_decay):
    for found, expected in zip(*trajectory(np.float32, Optim(weight_decay=weight_decay)), strict=True):
        assert found.dtype == np.float32
        # Thirty roundings of 6e-8 each, carried along by the momentum.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    with jax.enable_x64(True):
        for found, expected in zip(*trajectory(np.float64, Optim(weight_decay=weight_decay)), strict=True):
            # The same roundings in float64.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14 * np.abs(expected).max())


def test_thirty_clipped_steps_as_torchs():
    options = Optim(weight_decay=0.01, clip_norm=0.5)
    with jax.enable_x64(True):
        for found, expected in zip(*trajectory(np.float64, options), strict=True):
            # Torch divides by norm + 1e-6, which is 1e-6 / 5 of a gradient of norm 5 or so.
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_a_small_gradient_is_not_clipped():
    grads = {"a": jnp.array([0.3, -0.4]), "b": jnp.zeros((2, 2))}
    params = jax.tree.map(jnp.zeros_like, grads)
    for norm, factor in ((0.6, 1.0), (0.25, 0.5)):
        optimizer = optim.make_optimizer(Optim(weight_decay=0.0, clip_norm=norm), 1.0, 0.0)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        np.testing.assert_allclose(updates["a"], -factor * grads["a"], rtol=1e-6)  # a float32 norm


def test_packed_gradients():
    """Unchanged, and their norm that of all their values, which float32 gives to 1e-6."""
    rng = np.random.default_rng(0)
    shapes = {"bias": (7,), "kernel": (3, 3, 2, 7), "large": (300, 256), "scale": (7,)}
    grads = {name: {"of": rng.normal(size=shape).astype(np.float32)} for name, shape in shapes.items()}
    packed, norm = jax.jit(optim.pack)(grads)
    jax.tree.map(np.testing.assert_array_equal, packed, grads)
    everything = np.concatenate([grad.ravel() for grad in jax.tree.leaves(grads)]).astype(np.float64)
    np.testing.assert_allclose(norm, np.sqrt(np.sum(everything**2)), rtol=1e-6)
