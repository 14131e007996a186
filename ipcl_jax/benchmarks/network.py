"""Benchmark of the training step, with given views or with views made in the step."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ipcl_jax import training
from ipcl_jax.benchmarks import in_torch
from ipcl_jax.benchmarks.cards import find_card
from ipcl_jax.benchmarks.inputs import view_parameters
from ipcl_jax.benchmarks.material import canvases
from ipcl_jax.benchmarks.torch_process import Precision, TorchProcess, setting
from ipcl_jax.benchmarks.turns import Against, Measured, compare, finish, prepare_torch
from ipcl_jax.config import Train

N_IMAGES = 1_281_167  # of ImageNet; the loss depends on it
STEPS_PER_EPOCH = 100


def step(
    images: int | None = None,
    rounds: int = 7,
    with_views: bool = False,
    accumulate: int = 1,
    precision: Precision = "float32",
    against: Against | None = None,
    compiled: bool | None = None,
    json: Path | None = None,
) -> Measured:
    """Measures views a second of the paper's training step: network, objective, gradients, SGD.

    Args:
        images: in a batch, five views of 224 pixels of each; by default 8.
        rounds: turns of either.
        with_views: make the views in the step, instead of training on the same ones each time.
        accumulate: batches whose gradients are summed before the optimizer's step.
        precision: of the network's convolutions and matrix products.
        against: torch does the same work; on a CPU with two threads.
        compiled: torch compiles the network; by default on a GPU only.
        json: file to write the measurements to.
    """
    prepare_torch(against)
    images = images or 8
    config = Train(name="benchmark", batch_size=images, accumulate=accumulate, precision=precision)
    pixels, batch = canvases(images)
    begin = jax.jit(functools.partial(training.init_state, config))
    first = begin()  # kept apart, since steps donate their state
    count = images * config.views.per_image
    given = {} if with_views else {"views": _noise(config, batch)}
    function = training.train_step if with_views else training.learn
    function = functools.partial(function, config=config, n_images=N_IMAGES, steps_per_epoch=STEPS_PER_EPOCH)
    jitted = jax.jit(function, donate_argnums=0)
    train = jitted.lower(first, batch=batch, **given).compile()
    state, metrics, *_ = jax.block_until_ready(train(begin(), batch=batch, **given))

    def work(times: int) -> None:
        nonlocal state
        for _ in range(times):
            state, *_ = train(state, batch=batch, **given)
        jax.block_until_ready(state)

    def build() -> TorchProcess:
        material: tuple = tuple(np.asarray(views, np.float32) for views in given.values())
        if with_views:
            drawn = view_parameters(training.step_key(config, first.step), batch["size"], config.views)
            material = pixels, drawn, config.views
        variables, queue = jax.tree.map(np.asarray, (first.variables, first.queue))
        return TorchProcess(
            setting(precision, compiled),
            in_torch.step,
            variables,
            queue,
            config,
            N_IMAGES,
            STEPS_PER_EPOCH,
            *material,
        )

    table = Measured(f"step{' with views' if with_views else ''}, {precision}", "views/s", ("ours",))
    table.facts = {"views of a batch": count, "batches of an optimizer step": accumulate}
    loss = compare(table, rounds, work, count, against, build, group=accumulate)
    if loss is not None:
        losses = f"{float(metrics['loss']):.6f}, {float(loss):.6f}"
        table.facts["loss of the first step, ours and theirs"] = losses
    operations = count_operations(lambda state, given: function(state, **given), first, {"batch": batch, **given})
    table.facts |= _load(operations, train, count / table.summary()["ours"]["median"], precision)
    return finish(table, json)


def _noise(config: Train, batch: dict) -> jax.Array:
    """Returns normally distributed views `[B*n, S, S, 3]`: a step takes as long on them, and nothing is compiled."""
    views = jax.eval_shape(functools.partial(training.views_of_step, config), jnp.int32(0), batch)
    values = np.random.default_rng(0).standard_normal(views.shape, np.float32)
    return jax.device_put(values.astype(views.dtype))


def count_operations(function: Callable, *arguments: Any, platform: str | None = None) -> float | None:
    """Counts the floating-point operations of a function as it is written, by XLA's analysis.

    Of a compiled program it would count none in the libraries that it calls. Only a CPU's XLA analyses what isn't
    compiled, whatever the platform it is for.

    Args:
        function: to be traced.
        arguments: arrays, or their shapes and dtypes.
        platform: `cpu`, `cuda` or `tpu`; by default that of JAX.

    Returns:
        Their number; None if JAX has no CPU backend.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    platform = platform or {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError:  # $JAX_PLATFORMS leaves it out
        return None
    with jax.default_device(cpu):
        analysis = jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).cost_analysis()
    return analysis["flops"] if analysis else None


def _load(operations: float | None, compiled: jax.stages.Compiled, seconds: float, precision: Precision) -> dict:
    """Returns operations and memory traffic of a program that takes some seconds, and shares of the card's limits.

    The traffic is that of the compiled program by XLA's analysis, which counts one iteration of a loop, such as that
    over images in which a CPU makes views.
    """
    work, memory = compiled.cost_analysis(), compiled.memory_analysis()
    card = find_card(jax.devices()[0].device_kind)
    facts: dict[str, Any] = {}
    if operations:
        facts["operations, 10^12/s"] = operations / 1e12 / seconds
        if card and (limit := getattr(card, precision)):
            facts["share of the card's arithmetic"] = operations / 1e12 / seconds / limit
    if work and memory:  # some devices have no analysis
        moved = work["bytes accessed"] / 1e9
        facts["moved, GB"], facts["moved, GB/s"] = moved, moved / seconds
        if card:
            facts["share of the card's bandwidth"] = moved / seconds / card.bandwidth
        facts["held besides state and batch, at most, GB"] = memory.temp_size_in_bytes / 1e9
    return facts
