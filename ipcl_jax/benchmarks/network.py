"""Benchmark of the training step, with given views or with views made in the step."""

import functools
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ipcl_jax import training
from ipcl_jax.benchmarks import in_torch
from ipcl_jax.benchmarks.in_torch import TorchProcess
from ipcl_jax.benchmarks.inputs import view_parameters
from ipcl_jax.benchmarks.material import canvases
from ipcl_jax.benchmarks.turns import Against, Measured, check_torch, compare, finish
from ipcl_jax.config import Train

N_IMAGES = 1_281_167  # of ImageNet; the loss depends on it
STEPS_PER_EPOCH = 100
Precision = Literal["float32", "bfloat16"]


def step(
    images: int | None = None,
    rounds: int = 7,
    with_views: bool = False,
    accumulate: int = 1,
    precision: Precision = "float32",
    cost: bool = False,
    against: Against | None = None,
    json: Path | None = None,
) -> Measured:
    """Measures views a second of the paper's training step: network, objective, gradients, SGD.

    Args:
        images: in a batch, five views of 224 pixels of each; by default 8, and 128 for the cost.
        rounds: turns of either.
        with_views: make the views in the step, instead of training on the same ones each time.
        accumulate: batches whose gradients are summed before the optimizer's step.
        precision: of the network's convolutions and matrix products.
        cost: instead of running the step, print its operations, memory traffic and memory, by XLA's cost analysis.
            It counts one iteration of a loop, such as the loop over images in which views are made.
        against: torch does the same work on two threads.
        json: file to write the measurements to.
    """
    if cost:
        return finish(_cost(images or 128, precision), json)
    check_torch(against)
    images = images or 8
    config = Train(name="benchmark", batch_size=images, accumulate=accumulate, precision=precision)
    pixels, batch = canvases(images)
    begin = jax.jit(functools.partial(training.init_state, config))
    first = begin()  # kept apart, since steps donate their state
    views = jax.jit(functools.partial(training.views_of_step, config))(first.step, batch)
    count = len(views)
    train, given = (training.train_step, {}) if with_views else (training.learn, {"views": views})
    train = functools.partial(train, config=config, n_images=N_IMAGES, steps_per_epoch=STEPS_PER_EPOCH)
    train = jax.jit(train, donate_argnums=0)
    move = functools.partial(train, batch=batch, **given)
    state, metrics, _ = jax.block_until_ready(move(begin()))

    def ours() -> float:
        nonlocal state
        start = time.perf_counter()
        state, *_ = jax.block_until_ready(move(state))
        return count / (time.perf_counter() - start)

    def build() -> TorchProcess:
        material: tuple = (np.asarray(views, np.float32),)
        if with_views:
            drawn = view_parameters(training.step_key(config, first.step), batch["size"], config.views)
            material = pixels, drawn, config.views
        variables, queue = jax.tree.map(np.asarray, (first.variables, first.queue))
        return TorchProcess(in_torch.step, variables, queue, config, N_IMAGES, STEPS_PER_EPOCH, *material)

    table = Measured(f"step{' with views' if with_views else ''}, {precision}", "views/s", ("ours",))
    table.facts = {"views of a batch": count, "batches of an optimizer step": accumulate}
    loss = compare(table, rounds, ours, count, against, build)
    if loss is not None:
        losses = f"{float(metrics['loss']):.6f}, {float(loss):.6f}"
        table.facts["loss of the first step, ours and theirs"] = losses
    return finish(table, json)


def _cost(images: int, precision: Precision) -> Measured:
    """Compiles the step of accelerators, without running it; returns its operations, memory traffic and memory."""
    config = Train(name="benchmark", batch_size=images, precision=precision)
    state = jax.eval_shape(functools.partial(training.init_state, config))
    shapes = {"canvas": (images, 256, 512, 3), "size": (images, 2), "index": (images,), "label": (images,)}
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.uint8 if name == "canvas" else jnp.int32)
        for name, shape in shapes.items()
    }
    train = functools.partial(
        training.train_step, config=config, n_images=N_IMAGES, steps_per_epoch=N_IMAGES // images
    )
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
