"""The training step's program for a GPU that this machine needn't have: kernels, memory traffic, memory."""

import functools
import importlib.util
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from ipcl_jax import training
from ipcl_jax.augment import views
from ipcl_jax.benchmarks.network import N_IMAGES, STEPS_PER_EPOCH, count_operations
from ipcl_jax.benchmarks.program import Program, moved, read_program
from ipcl_jax.benchmarks.torch_process import Precision
from ipcl_jax.benchmarks.turns import Measured, finish
from ipcl_jax.commands import recipes
from ipcl_jax.config import Train
from ipcl_jax.errors import MissingPackage, require

Part = Literal["views", "learn", "step"]
# XLA's description of each card, beside this file.
_DESCRIPTIONS = {"h100": "h100.txtpb"}
# Ways to compute a convolution or product can't be timed without the card.
_OPTIONS = {"xla_gpu_autotune_level": 0}


class Compiled(NamedTuple):
    """A part of the training step, compiled for a described GPU."""

    program: Program
    seconds: float  # of compilation
    operations: float  # floating-point, of the traced function
    held: int  # bytes of memory besides arguments and results, at most
    bandwidth: float  # bytes a second, of the card


def cost(
    part: Part = "step",
    device: Literal["h100"] = "h100",
    precision: Precision = "bfloat16",
    images: int = 128,
    config: str = "ipcl_alexnet_gn",
    largest: int = 12,
    json: Path | None = None,
) -> Measured:
    """Compiles the training step for a described GPU, on a machine without one; counts its kernels and bytes.

    Needs XLA's CUDA plugin: `pip install 'ipcl_jax[cost]'`. Bytes are those of each kernel's operands and results.

    Args:
        part: `views` makes the views of a batch, `learn` trains on given views, `step` does both.
        device: the card.
        precision: of the network's convolutions and matrix products.
        images: in a batch.
        config: a recipe's name, or a file; views, network and optimizer are its own.
        largest: number of kernels to list, those that move most.
        json: file to write the figures to.
    """
    check_plugin()
    jax.config.update("jax_platforms", "cpu")  # otherwise JAX fails to load the plugin without a card
    jax.config.update("jax_enable_compilation_cache", False)  # what is compiled for another machine can't be read back
    given = ["--config", config, "--batch-size", str(images), "--precision", precision]
    train = recipes.load(given, "")
    compiled = compile_part(part, train, device)
    program, n_views = compiled.program, images * train.views.per_image
    each, once = moved(program.always), moved(program.sometimes)
    table = Measured(f"{part} of {config}, {precision}, {images} images, compiled for an {device.upper()}")
    table.facts = {
        "compilation, s": compiled.seconds,
        "kernels": sum(program.summary().values()),
        "kernels by kind": ", ".join(f"{count} {kind}" for kind, count in program.summary().items()),
        "moved, GB": each / 1e9,
        "moved for a view, MB": each / n_views / 1e6,
        "ms at the card's bandwidth": each / compiled.bandwidth * 1e3,
        "operations, 10^9": compiled.operations / 1e9,
        "held besides arguments and results, GB": compiled.held / 1e9,
    }
    if program.sometimes:
        table.facts |= {
            f"kernels once in {train.accumulate} batches": sum(kernel.starts for kernel in program.sometimes),
            f"moved once in {train.accumulate} batches, GB": once / 1e9,
        }
    for i, kernel in enumerate(sorted(program.always, reverse=True)[:largest], 1):
        table.facts[f"{i}"] = (
            f"{kernel.moved / 1e6:,.0f} MB, {kernel.kind}, {kernel.name}, {kernel.origin[-70:]}"
        )
    return finish(table, json)


def compile_part(part: Part, config: Train, device: str = "h100") -> Compiled:
    """Compiles a part of a run's step for a described card.

    Args:
        part: which.
        config: the run.
        device: the card's name.
    """
    images = config.batch_size
    state = jax.eval_shape(functools.partial(training.init_state, config))
    shapes = {
        "canvas": (images, *config.data.canvas, 3),
        "size": (images, 2),
        "index": (images,),
        "label": (images,),
    }
    batch = {
        name: jax.ShapeDtypeStruct(shape, jnp.uint8 if name == "canvas" else jnp.int32)
        for name, shape in shapes.items()
    }
    make_views = functools.partial(training.views_of_step, config)
    of_run = functools.partial(functools.partial, config=config, n_images=N_IMAGES, steps_per_epoch=STEPS_PER_EPOCH)
    learn, train_step = of_run(training.learn), of_run(training.train_step)
    # The views' form of accelerators, in which they are made all at once.
    with mock.patch.object(views, "_on_cpu", lambda: False):
        drawn = jax.eval_shape(make_views, state.step, batch)
        parts: dict[Part, tuple[Callable, tuple]] = {
            "views": (make_views, (state.step, batch)),
            "learn": (learn, (state, drawn, batch)),
            "step": (train_step, (state, batch)),
        }
        function, arguments = parts[part]
        where, bandwidth = _described(device)
        begin = time.perf_counter()
        donated = () if part == "views" else (0,)
        jitted = jax.jit(function, in_shardings=where, out_shardings=where, donate_argnums=donated)
        lowered = jitted.trace(*arguments).lower(lowering_platforms=("cuda",))
        compiled = lowered.compile(compiler_options={**_OPTIONS, "xla_gpu_cuda_data_dir": _cuda_folder()})
        seconds = time.perf_counter() - begin
        operations = count_operations(function, *arguments, platform="cuda")
    assert operations is not None  # there is always a CPU: see `cost`
    held = compiled.memory_analysis().temp_size_in_bytes
    return Compiled(read_program(compiled.as_text()), seconds, operations, held, bandwidth)


def check_plugin() -> None:
    """Raises MissingPackage if XLA can't compile for a CUDA device here."""
    require("Compiling for a GPU", "cost", "jax_cuda12_plugin")
    if _cuda_folder() is None:
        raise MissingPackage(
            "Compiling for a GPU needs CUDA's ptxas and libdevice, which are neither a package here nor in $CUDA_ROOT "
            "or /usr/local/cuda: pip install 'ipcl_jax[cost]'"
        )


def _cuda_folder() -> str | None:
    """Finds the folder of CUDA's compiler: that of its Python package, or else of an installation."""
    folders = [os.environ.get("CUDA_ROOT")]
    if importlib.util.find_spec("nvidia") and (found := importlib.util.find_spec("nvidia.cuda_nvcc")):
        folders += found.submodule_search_locations or []
    for folder in (*folders, "/usr/local/cuda"):
        if folder and all(
            (Path(folder) / part).exists() for part in ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc")
        ):
            return folder
    return None


def _described(device: str) -> tuple[NamedSharding, float]:
    """Returns where a program for one described card runs, and the card's bandwidth in bytes a second."""
    text = (Path(__file__).parent / _DESCRIPTIONS[device]).read_text(encoding="utf-8")
    cards = topologies.get_topology_desc(
        platform="cuda", topology_name=device, topology="1x1x1", target_config=text
    )
    bandwidth = re.search(r"memory_bandwidth: (\d+)", text)
    assert bandwidth is not None
    return NamedSharding(topologies.make_mesh(cards, (1,), ("data",)), PartitionSpec()), float(bandwidth[1])
