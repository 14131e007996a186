"""The training step: its whole trajectory against torch, its compilation, several devices."""

import dataclasses
import functools
import itertools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax import Array

from ipcl_jax import training
from ipcl_jax.augment.views import center_views
from ipcl_jax.config import Model, Objective, Optim, Schedule, Train, Views
from ipcl_jax.models import make_model
from ipcl_jax.training import optim
from ipcl_jax.training.objective import prototypes
from ipcl_jax.training.state import Batch
from ipcl_jax.training.step import _apply_gradients
from ten_steps import SIDE, B, as_dtype, smooth_views
from thinning import first
from torch_twin import (
    TorchAlexNetGN,
    TorchIPCL,
    TorchTraining,
    channel_first,
    to_flax,
    to_torch,
)

N_VIEWS, N_IMAGES, PER_EPOCH = 5, 32, 4
CONFIG = Train(
    name="test",
    model=Model(fc_dim=256),
    objective=Objective(queue_size=128),  # the fourth batch of 40 views wraps it
    views=Views(per_image=N_VIEWS, size=SIDE),
    optim=Optim(lr=0.003, weight_decay=5e-4),
    # From lr / 10, so that the first steps move the weights as well.
    schedule=Schedule(div_factor=10.0, final_div_factor=10.0),
    epochs=2,  # 8 batches: the peak is at batch 3
    batch_size=B,
    accumulate=2,
)
SMALL = dataclasses.replace(
    CONFIG, model=Model(fc_dim=32, out_dim=16), views=Views(per_image=3, size=SIDE)
)


def with_lr(lr: float, config: Train = CONFIG) -> Train:
    return dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=lr))


def canvases(step: int) -> Batch:
    rng = np.random.default_rng(1000 + step)
    sizes = np.array([[64, 96], [96, 64], [50, 70], [64, 64]] * (B // 4), np.int32)
    coarse = rng.integers(0, 256, (B, 8, 12, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    index = rng.permutation(N_IMAGES)[:B].astype(np.int32)
    return {"canvas": coarse, "size": sizes, "index": index, "label": index % 3}


# --- against torch -----------------------------------------------------------------------


def run_both(config: Train, dtype: type) -> tuple[dict, dict, training.TrainState]:
    """A whole run here and in torch, from the same start: what each ends with, and our start."""
    start = as_dtype(training.init_state(config), dtype)
    n_batches = config.epochs * PER_EPOCH
    labels = {"index": jnp.arange(B, dtype=jnp.int32), "label": jnp.arange(B, dtype=jnp.int32) % 3}
    learn = jax.jit(functools.partial(training.learn, config=config, n_images=N_IMAGES, steps_per_epoch=PER_EPOCH))

    model = TorchAlexNetGN(config.model.out_dim, config.model.l2norm, config.model.fc_dim)
    model = model.to(torch.float64 if dtype == np.float64 else torch.float32)
    model.load_state_dict(to_torch(start.variables))
    categories = config.objective.name == "categories"
    if categories:
        classes = torch.from_numpy(np.array(labels["label"])).long().repeat_interleave(N_VIEWS)
        twin = functools.partial(torch.nn.functional.cross_entropy, target=classes)
    else:
        twin = TorchIPCL(
            torch.from_numpy(np.array(start.queue)), n_views=N_VIEWS, n_images=N_IMAGES,
            temperature=config.objective.temperature, norm_prototype=config.objective.norm_prototype,
            store_prototype=config.objective.store_prototype,
        )
    run = TorchTraining(
        model, twin, lr=config.optim.lr, weight_decay=config.optim.weight_decay, n_batches=n_batches,
        accumulate=config.accumulate, pct_start=config.schedule.pct_start,
        div_factor=config.schedule.div_factor, final_div_factor=config.schedule.final_div_factor,
    )

    state, losses, torch_losses = start, [], []
    for step in range(n_batches):
        if config.objective.temperature_end is not None:
            first, last = config.objective.temperature, config.objective.temperature_end
            twin.temperature = last + (first - last) / 2 * (1 + math.cos(math.pi * step / n_batches))
        views = smooth_views(step).astype(dtype)
        state, metrics, _ = learn(state, views, labels)
        losses.append(metrics["loss"])
        torch_losses.append(run.step(channel_first(views)))
    ours = {
        "losses": np.array(losses), "momenta": optax.tree_utils.tree_get(state.opt_state, "trace"),
        **state.variables,
    }
    theirs = {
        "losses": np.array(torch_losses), "momenta": to_flax(run.momenta())["params"],
        **to_flax(model.state_dict()),
    }
    if not categories:
        ours |= {"Z": np.exp(state.log_Z), "queue": state.queue}
        theirs |= {"Z": twin.Z.numpy(), "queue": twin.queue.numpy()}
    return ours, theirs, start


def errors(found, expected) -> dict[str, float]:
    """Largest error of every array, as a share of the expected array's largest value."""
    found, expected = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (found, expected))
    assert set(found) == set(expected)
    return {
        jax.tree_util.keystr(path): float(np.abs(np.asarray(found[path]) - value).max() / np.abs(value).max())
        for path, value in expected.items()
    }


def distance(found, expected, unit=None) -> dict[str, float]:
    """Root-mean-square error of every array, as a share of the expected array's (or of `unit`'s)."""
    unit = expected if unit is None else unit
    parts = jax.tree.map(
        lambda a, b, u: float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(u)), found, expected, unit
    )
    return {jax.tree_util.keystr(path): value for path, value in jax.tree_util.tree_leaves_with_path(parts)}


def assert_all_below(errors: dict[str, float], limit: float) -> None:
    assert {name: error for name, error in errors.items() if not error < limit} == {}


def movement(start, end):
    """How far every parameter went."""
    return jax.tree.map(lambda a, b: np.asarray(b) - np.asarray(a), start, end)


def test_a_run_in_float64_is_torchs():
    with jax.enable_x64(True):
        ours, theirs, start = run_both(CONFIG, np.float64)
        assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(ours))
        # Only rounding is between the two, magnified by eight steps of training to about 1e-12. (The
        # biases before batch norm have no gradient but the difference of equal numbers: 2e-11.)
        assert_all_below(errors(ours, theirs), 1e-9)
        # Small steps would leave weights alike by themselves: the error is a share of the way gone, too.
        moved = movement(start.params, theirs["params"])
        assert_all_below(distance(ours["params"], theirs["params"], moved), 1e-8)
        assert min(np.abs(m).max() for m in jax.tree.leaves(moved)) > 1e-8
        assert np.ptp(theirs["losses"]) > 0.1


@pytest.mark.slow
def test_a_run_in_float32_is_torchs():
    ours, theirs, start = run_both(dataclasses.replace(with_lr(1e-4), seed=3), np.float32)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(ours))
    # Before the first update nothing but rounding differs: 1e-6 of an embedding, divided by 0.07.
    np.testing.assert_allclose(ours["losses"][:2], theirs["losses"][:2], rtol=1e-4)
    np.testing.assert_allclose(ours["Z"], theirs["Z"], rtol=1e-4)
    # What limits float32 after it: of two million pre-activations in a batch, one or two may lie so close
    # to zero, or to another in a max pool, that rounding sends their gradient elsewhere. Torch's own
    # gradient departs from its float64 one by 1e-5 of an array's largest entry in most batches and by 2e-2 in
    # such a one, ours alike, and training magnifies it. So this run learns slowly, from a start without
    # such a batch (of four seeds two had none): measured losses 4e-6, queue 8e-6, parameters 1e-5, momenta 2e-3 as
    # a whole.
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=1e-4)
    for name in ("params", "batch_stats", "queue"):
        assert_all_below(errors(ours[name], theirs[name]), 1e-3)
    moved = movement(start.params, theirs["params"])
    assert_all_below(distance(ours["params"], theirs["params"], moved), 0.1)
    assert_all_below(distance(ours["momenta"], theirs["momenta"]), 0.2)


@pytest.mark.slow
def test_a_supervised_run_in_float64_is_torchs():
    config = dataclasses.replace(
        CONFIG, model=Model(fc_dim=32, out_dim=10, l2norm=False), objective=Objective(name="categories")
    )
    with jax.enable_x64(True):
        ours, theirs, start = run_both(config, np.float64)
        assert start.queue is None and start.log_Z is None
        assert_all_below(errors(ours, theirs), 1e-9)  # rounding, as above
        moved = movement(start.params, theirs["params"])
        assert_all_below(distance(ours["params"], theirs["params"], moved), 1e-8)
        assert theirs["losses"][-1] < theirs["losses"][0] - 0.1


@pytest.mark.slow
def test_a_run_with_falling_temperature_is_torchs():
    objective = Objective(queue_size=128, temperature=0.2, temperature_end=0.07)
    config = dataclasses.replace(CONFIG, model=Model(fc_dim=32, out_dim=16), objective=objective)
    with jax.enable_x64(True):
        ours, theirs, _ = run_both(config, np.float64)
        for name in ("losses", "params", "queue"):  # of fc6's biases, momenta are hardly more than rounding
            assert_all_below(errors(ours[name], theirs[name]), 1e-9)  # as above


@pytest.mark.slow
def test_prototypes_in_the_queue():
    objective = Objective(queue_size=12, norm_prototype=True, store_prototype=True)
    config = dataclasses.replace(CONFIG, model=Model(fc_dim=32, out_dim=16), objective=objective)
    start = training.init_state(config)
    learn = jax.jit(functools.partial(training.learn, config=config, n_images=N_IMAGES, steps_per_epoch=PER_EPOCH))
    state, _, own = learn(start, smooth_views(0).astype(np.float32), canvases(0))
    np.testing.assert_array_equal(state.queue[:B], own.embeddings)
    np.testing.assert_array_equal(state.queue[B:], start.queue[: 12 - B])
    # A mean of different unit vectors is shorter than one unless it is scaled (to float32's rounding).
    np.testing.assert_allclose(np.linalg.norm(state.queue[:B], axis=1), 1, atol=1e-6)


# --- compiled, on one device and on four -------------------------------------------------

@functools.cache
def compiled(n_devices: int, accumulate: int = 2, optimizer: str = "sgd") -> training.Steps:
    optimizer = dataclasses.replace(SMALL.optim, name=optimizer)
    config = dataclasses.replace(SMALL, accumulate=accumulate, optim=optimizer)
    mesh = jax.make_mesh((n_devices,), ("data",), devices=jax.devices()[:n_devices])
    return training.compile_steps(config, mesh, n_images=N_IMAGES, steps_per_epoch=PER_EPOCH)


@functools.cache
def three_steps(n_devices: int) -> tuple[training.TrainState, list[dict], list[training.Prototypes]]:
    """State after three steps, metrics and prototypes of each, as numpy arrays."""
    steps = compiled(n_devices)
    state, log, rows = steps.init(), [], []
    for step in range(3):
        before = state
        state, metrics, row = steps.train(state, canvases(step))
        log.append(jax.device_get(metrics))
        rows.append(jax.device_get(row))
        assert before.params["fc7_linear"]["kernel"].is_deleted()  # donated: no second copy of the state
    return jax.device_get(state), log, rows


def test_four_devices_are_there():
    assert jax.device_count() == 4


@pytest.mark.parametrize("n_devices", first(1, [4, 1]))
def test_a_step_compiles_once(n_devices):
    three_steps(n_devices)
    assert compiled(n_devices).train._cache_size() == 1


def test_the_state_is_laid_out_as_announced():
    steps = compiled(4)
    state = steps.init()
    for after in (state, steps.train(state, canvases(0))[0]):
        for leaf, expected in zip(jax.tree.leaves(after), jax.tree.leaves(steps.state), strict=True):
            assert leaf.shape == expected.shape and leaf.dtype == expected.dtype
            assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)
            assert leaf.is_fully_replicated
    row = steps.train(after, canvases(0))[2]
    for leaf, expected in zip(jax.tree.leaves(row), jax.tree.leaves(steps.prototypes), strict=True):
        assert leaf.shape == expected.shape and leaf.dtype == expected.dtype and leaf.is_fully_replicated


@pytest.mark.slow
def test_the_number_of_devices_does_not_change_the_run():
    (one, one_log, own), (four, four_log, others) = three_steps(1), three_steps(4)
    for here, there in zip(one_log, four_log, strict=True):
        # Sums over the batch are grouped by device; batch norm divides what that leaves by the deviation
        # of 24 embeddings.
        np.testing.assert_allclose(there["loss"], here["loss"], rtol=1e-5)
        np.testing.assert_allclose(there["lr"], here["lr"], rtol=1e-6)
        np.testing.assert_allclose(there["grad_norm"], here["grad_norm"], rtol=1e-2)  # see float32 above
    np.testing.assert_allclose(four.log_Z, one.log_Z, rtol=1e-6)
    # Statistics of a device's own two images, or a queue of them, would be off by a tenth.
    assert_all_below(errors(four.batch_stats, one.batch_stats), 1e-4)
    assert_all_below(errors(four.params, one.params), 1e-4)
    assert_all_below(errors(four.queue, one.queue), 1e-3)
    assert_all_below(errors(others, own), 1e-3)


@pytest.mark.parametrize("n_devices", [1, 4])
def test_a_steps_prototypes_are_of_its_images(n_devices):
    state, _, rows = three_steps(n_devices)
    for step, row in enumerate(rows):
        np.testing.assert_array_equal(row.index, canvases(step)["index"])
        np.testing.assert_array_equal(row.label, canvases(step)["label"])
        # The queue holds the views themselves, newest first: their means are the prototypes.
        n = B * SMALL.views.per_image
        views = state.queue[(2 - step) * n : (3 - step) * n]
        own = np.asarray(prototypes(jnp.asarray(views), SMALL.views.per_image))
        np.testing.assert_allclose(row.embeddings, own, atol=1e-6)  # a float32 mean


def test_gradients_are_summed_over_a_group():
    steps = compiled(1)
    start = jax.device_get(steps.init())
    state, *_ = steps.train(steps.init(), canvases(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), start.params)
    assert max(np.abs(g).max() for g in jax.tree.leaves(jax.device_get(state.grad_sum))) > 0
    # Everything that each batch moves has moved.
    assert state.log_Z > 0 and np.abs(state.queue - start.queue).max() > 0.1
    assert np.abs(state.batch_stats["fc6_norm"]["mean"] - start.batch_stats["fc6_norm"]["mean"]).max() > 0
    state, *_ = steps.train(state, canvases(1))
    for before, after in zip(jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True):
        assert np.abs(after - before).max() > 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(state.grad_sum))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_other_platforms_update_as_a_cpu_does(optimizer, monkeypatch):
    """Without a loop, for which a GPU would wait for the host: to the last bit, as only numbers are chosen."""
    config = dataclasses.replace(
        SMALL, accumulate=3, optim=dataclasses.replace(SMALL.optim, name=optimizer)
    )
    rng = np.random.default_rng(0)
    gradients = [{"w": rng.normal(size=(7, 5)).astype(np.float32)} for _ in range(7)]

    def follow() -> list[tuple]:
        params = {"w": jnp.ones((7, 5))}
        opt_state = optim.make_optimizer(config.optim, jnp.float32(0), jnp.float32(0)).init(params)
        carry, courses = (params, opt_state, jax.tree.map(jnp.zeros_like, params)), []

        @jax.jit
        def advance(step: Array, carry: tuple, grads: dict) -> tuple:
            params, opt_state, total = carry
            state = SimpleNamespace(step=step, params=params, opt_state=opt_state, grad_sum=total)
            return _apply_gradients(state, grads, 0.1 + 0.01 * step, jnp.float32(0.9), config)

        for step, grads in enumerate(gradients):
            carry = advance(step, carry, grads)
            courses.append(jax.device_get(carry))
        return courses

    in_loop = follow()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, default, **_: default(*given))
    by_choice = follow()
    jax.tree.map(np.testing.assert_array_equal, by_choice, in_loop)
    moved = [bool((a[0]["w"] != b[0]["w"]).any()) for a, b in itertools.pairwise(in_loop)]
    assert moved == [False, True, False, False, True, False]  # after the third batch and the sixth


def test_accelerators_have_no_loop_in_the_step():
    """They would wait, at each of its turns, until the host has read whether there is another."""
    learn = functools.partial(training.learn, config=SMALL, n_images=N_IMAGES, steps_per_epoch=PER_EPOCH)
    views = jax.ShapeDtypeStruct((B * SMALL.views.per_image, SIDE, SIDE, 3), jnp.float32)
    traced = jax.jit(learn).trace(compiled(1).state, views, canvases(0))
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert "stablehlo.while" in texts["cpu"]
    assert "stablehlo.while" not in texts["cuda"]


@pytest.mark.slow
def test_without_accumulation_every_batch_moves():
    steps = compiled(1, accumulate=1)
    assert steps.state.grad_sum is None
    start = jax.device_get(steps.init())
    state, *_ = steps.train(steps.init(), canvases(0))
    assert state.grad_sum is None
    for before, after in zip(jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True):
        assert np.abs(after - before).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "madgrad", "lars", "radam_lookahead"])
def test_every_optimizer_moves_what_sgd_moves(name):
    steps = compiled(1, optimizer=name)
    start = jax.device_get(steps.init())
    state, *_ = steps.train(steps.init(), canvases(0))
    waiting = jax.device_get((state.params, state.opt_state))
    jax.tree.map(np.testing.assert_array_equal, waiting, (start.params, start.opt_state))
    state, *_ = steps.train(state, canvases(1))
    for before, after in zip(jax.tree.leaves(start.params), jax.tree.leaves(state.params), strict=True):
        assert np.isfinite(after).all() and np.abs(after - before).max() > 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(state.grad_sum))
    assert steps.train._cache_size() == 1
    for leaf, expected in zip(jax.tree.leaves(state), jax.tree.leaves(steps.state), strict=True):
        assert leaf.shape == expected.shape and leaf.dtype == expected.dtype


@pytest.mark.slow
def test_collecting_learns_nothing():
    steps = compiled(4)
    start = jax.device_get(steps.init())
    state, row = jax.device_get(steps.collect(steps.init(), canvases(0)))
    for name in ("params", "queue", "log_Z", "opt_state", "grad_sum"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(start, name))
    # Prototypes and statistics are those of a training step on the same batch; only compiled apart from it.
    trained, _, expected = jax.device_get(steps.train(steps.init(), canvases(0)))
    assert state.step == trained.step == 1
    assert_all_below(errors(row, expected), 1e-4)
    assert_all_below(errors(state.batch_stats, trained.batch_stats), 1e-5)


@pytest.mark.slow
def test_embedding_is_the_models_and_changes_nothing():
    steps = compiled(4)
    state = steps.train(steps.init(), canvases(0))[0]
    before = jax.device_get(state)
    batch = {name: canvases(5)[name] for name in ("canvas", "size")}
    whole, pair = steps.embed(state.variables, 1, batch)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), before)  # its queue, too

    assert whole.shape == (B, 16) and pair.shape == (B, 2, 16)
    model = make_model(SMALL.model)
    expected, _ = model.apply(before.variables, center_views(batch["canvas"], batch["size"], SMALL.views))
    np.testing.assert_allclose(whole, expected, atol=1e-5)  # unit vectors, compiled apart
    # Of an image, the two views are different and differ from the whole; other keys give others.
    assert np.abs(pair[:, 0] - pair[:, 1]).max(1).min() > 1e-4
    same, other = (steps.embed(state.variables, number, batch) for number in (1, 2))
    np.testing.assert_array_equal(same[1], pair)
    np.testing.assert_array_equal(other[0], whole)
    assert np.abs(other[1] - pair).max() > 1e-4


def test_a_steps_views_depend_on_seed_and_step_alone():
    draw = jax.jit(training.views_of_step, static_argnums=0)

    def views(config: Train, step: int) -> np.ndarray:
        return np.asarray(draw(config, step, canvases(0)))

    np.testing.assert_array_equal(views(SMALL, 3), views(SMALL, 3))
    assert np.abs(views(SMALL, 3) - views(SMALL, 4)).max() > 0.1
    assert np.abs(views(SMALL, 3) - views(dataclasses.replace(SMALL, seed=1), 3)).max() > 0.1


def test_the_state_is_weights_and_queue_and_does_not_grow_with_the_images():
    shapes = jax.eval_shape(functools.partial(training.init_state, Train(name="the paper's")))
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in vars(shapes).items()}
    assert sizes["params"] == sizes["opt_state"] == sizes["grad_sum"] == 58_823_520  # momentum only
    assert sizes["batch_stats"] == 4 * 4096 and sizes["queue"] == 4096 * 128
    assert sum(sizes.values()) == 3 * sizes["params"] + sizes["batch_stats"] + sizes["queue"] + 2  # step and log Z


# --- precision ---------------------------------------------------------------------------


@pytest.mark.slow  # compiles three steps
def test_views_in_bfloat16_change_no_number_of_a_step():
    config = dataclasses.replace(SMALL, precision="bfloat16")
    make = jax.jit(training.views_of_step, static_argnums=0)
    exact, views = make(SMALL, 3, canvases(0)), make(config, 3, canvases(0))
    assert exact.dtype == jnp.float32 and views.dtype == jnp.bfloat16
    np.testing.assert_array_equal(views, exact.astype(jnp.bfloat16))
    learn = functools.partial(training.learn, config=config, n_images=N_IMAGES, steps_per_epoch=PER_EPOCH)
    learn, start = jax.jit(learn), training.init_state(config)
    jax.tree.map(np.testing.assert_array_equal, learn(start, views, canvases(0)), learn(start, exact, canvases(0)))


@pytest.mark.slow
def test_bfloat16_is_for_the_network_alone():
    single = dataclasses.replace(CONFIG, model=SMALL.model)
    config = dataclasses.replace(single, precision="bfloat16")
    start = training.init_state(config)
    learn = functools.partial(training.learn, n_images=N_IMAGES, steps_per_epoch=PER_EPOCH)
    views = smooth_views(0).astype(np.float32)
    state, metrics, _ = jax.jit(functools.partial(learn, config=config))(start, views, canvases(0))
    exact, expected, _ = jax.jit(functools.partial(learn, config=single))(start, views, canvases(0))
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, exact)  # all float32
    assert metrics["loss"].dtype == jnp.float32
    # Embeddings err by about 1 %; similarities are divided by 0.07 and exponentiated.
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=0.1)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=0.5)
    assert metrics["loss"] != expected["loss"]
    # Unit length comes after the network: to float32's rounding, not to bfloat16's.
    np.testing.assert_allclose(np.linalg.norm(state.queue[: len(views)], axis=1), 1, atol=1e-6)
    program = jax.jit(functools.partial(learn, config=config)).lower(start, views, canvases(0)).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert convolutions and all("bf16" in line for line in convolutions)
