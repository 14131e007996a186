"""The training step: alone, with its views, and in a whole run."""

import functools
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import in_torch
from benchmarks.in_torch import Beside
from benchmarks.inputs import choices_of
from benchmarks.material import canvases
from benchmarks.turns import Against, Measured, check_torch, finish, take_turns
from ipcl_jax import training
from ipcl_jax.config import Train

N_IMAGES = 1_281_167  # ImageNet's, of which the loss depends
STEPS_PER_EPOCH = 100  # rows of the bank


def step(
    images: int | None = None,
    rounds: int = 7,
    with_views: bool = False,
    accumulate: int = 1,
    precision: Literal["float32", "bfloat16"] = "float32",
    cost: bool = False,
    against: Against | None = None,
    json: Path | None = None,
) -> Measured:
    """Views a second of the paper's training step: network, objective, gradients, SGD.

    Args:
        images: in a batch, each of which gives five views of 224 pixels; by default 8, and 128 for the cost.
        rounds: turns of either.
        with_views: make the views too, instead of training on the same ones each time.
        accumulate: batches whose gradients are summed before SGD moves.
        precision: of the network's convolutions and products.
        cost: instead of running the step say what it computes, moves and holds, by XLA's own account.
            Of a loop, such as that over the images whose views are made, XLA counts one turn.
        against: torch does the same work on two threads.
        json: file to write the figures to.
    """
    if cost:
        return finish(_cost(images or 128, precision), json)
    check_torch(against)
    images = images or 8
    config = Train(name="benchmark", batch_size=images, accumulate=accumulate, precision=precision)
    pixels, batch = canvases(images)
    begin = jax.jit(functools.partial(training.init_state, config, STEPS_PER_EPOCH))
    first = begin()  # a second state, since steps take theirs
    views = jax.jit(functools.partial(training.views_of_step, config))(first.step, batch)
    count = len(views)
    if with_views:
        train = jax.jit(
            functools.partial(training.train_step, config=config, n_images=N_IMAGES), donate_argnums=0
        )
        move = functools.partial(train, batch=batch)
    else:
        train = jax.jit(functools.partial(training.learn, config=config, n_images=N_IMAGES), donate_argnums=0)
        move = functools.partial(train, views=views, batch=batch)
    state, metrics = jax.block_until_ready(move(begin()))

    def ours() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(move(state))
        return count / (time.perf_counter() - start)

    name = f"step{' with views' if with_views else ''}, {precision}"
    table = Measured(name, "views/s", ("ours", *([against] if against else [])))
    table.facts = {"views of a batch": count, "batches of an optimizer step": accumulate}
    if against is None:
        table.turns = take_turns(rounds, ours)
        return finish(table, json)
    key = jax.random.fold_in(jax.random.key(config.seed), first.step)
    given = (
        (pixels, choices_of(key, batch["size"], config.views), config.views)
        if with_views
        else (np.asarray(views),)
    )
    variables, queue = jax.tree.map(np.asarray, (first.variables, first.queue))
    with Beside(in_torch.step, variables, queue, config, N_IMAGES, STEPS_PER_EPOCH, *given) as beside:
        loss = float(beside.run()[1])
        table.turns = take_turns(rounds, ours, lambda: count / beside.run()[0])
    table.facts["loss of the first step, ours and theirs"] = f"{float(metrics['loss']):.6f}, {loss:.6f}"
    return finish(table, json)


def _cost(images: int, precision: str) -> Measured:
    """What the step that accelerators are given computes, moves and holds, as compiled here; nothing is run."""
    config = Train(name="benchmark", batch_size=images, precision=precision)
    state = jax.eval_shape(functools.partial(training.init_state, config, N_IMAGES // images))
    shapes = {"canvas": (images, 256, 512, 3), "size": (images, 2), "index": (images,), "label": (images,)}
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.uint8 if name == "canvas" else jnp.int32)
        for name, shape in shapes.items()
    }
    train = functools.partial(training.train_step, config=config, n_images=N_IMAGES)
    traced = jax.jit(train, donate_argnums=0).trace(state, batch)
    compiled = traced.lower(lowering_platforms=("cuda",)).compile()
    work, memory = compiled.cost_analysis(), compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    facts = {
        "views of a batch": images * config.views.per_image,
        "operations, 10^9": work["flops"] / 1e9,
        "moved, GB": work["bytes accessed"] / 1e9,
        "held throughout (state and batch), GB": held / 1e9,
        "held besides, at most, GB": memory.temp_size_in_bytes / 1e9,
    }
    return Measured(f"cost of a step, {precision}", facts=facts)
