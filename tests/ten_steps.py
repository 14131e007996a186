"""Ten steps of training on any number of devices; as a program, those of one of two processes.

    python tests/ten_steps.py OUT
"""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ipcl_jax import training
from ipcl_jax.config import Model, Objective, Optim, Schedule, Train, Views
from ipcl_jax.system import distributed

B, N_VIEWS, SIDE, PER_EPOCH = 8, 3, 64, 4
CONFIG = Train(
    name="ten steps",
    model=Model(fc_dim=32, out_dim=16),
    objective=Objective(queue_size=64),  # the third batch of 24 views wraps it
    views=Views(per_image=N_VIEWS, size=SIDE),
    optim=Optim(lr=0.003, weight_decay=5e-4),
    schedule=Schedule(div_factor=10.0),
    epochs=3,
    batch_size=B,
    accumulate=2,
)


def smooth_views(step: int, n_views: int = 5) -> np.ndarray:
    """Normalised views `[B*n, S, S, 3]` float64: coarse patches of an image, fine noise of a view."""
    rng = np.random.default_rng(step)
    image = rng.normal(size=(B, 4, 4, 3)).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
    return image.repeat(n_views, 0) + 0.3 * rng.normal(size=(B * n_views, SIDE, SIDE, 3))


def batch_of(step: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Views, and the batch that they are of."""
    index = np.random.default_rng(1000 + step).permutation(32)[:B].astype(np.int32)
    return smooth_views(step, N_VIEWS), {"index": index, "label": index % 3}


def as_dtype(tree, dtype: type):
    """Floating-point arrays in a dtype, others as they are."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def ten_steps(mesh: Mesh, dtype: type) -> dict[str, np.ndarray]:
    """Every array of the state after ten steps, by path."""
    config = CONFIG
    if dtype == np.float32:
        # Rounding sends the gradient of a unit close to zero elsewhere, which training magnifies a
        # hundredfold a step at the float64 run's rate, in torch too.
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=1e-5))
    split, whole = distributed.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

    def place(value: np.ndarray) -> jax.Array:
        value = value.astype(dtype) if value.dtype == np.float64 else value
        return jax.make_array_from_callback(value.shape, split, lambda where: value[where])

    def begin() -> training.TrainState:
        return as_dtype(training.init_state(config), dtype)

    learn = jax.jit(
        functools.partial(training.learn, config=config, n_images=32, steps_per_epoch=PER_EPOCH), donate_argnums=0,
        in_shardings=(whole, split, split), out_shardings=whole,
    )  # fmt: skip
    state = jax.jit(begin, out_shardings=whole)()
    for step in range(10):
        state, *_ = learn(state, *jax.tree.map(place, batch_of(step)))
    state = jax.tree.map(np.asarray, state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def main(out: str) -> None:
    """As one of two processes, of which environment variables tell: float64 and float32, kept by the first."""
    distributed.initialize()
    mesh = distributed.make_mesh()
    for dtype in (np.float64, np.float32):
        with jax.enable_x64(dtype == np.float64):
            leaves = ten_steps(mesh, dtype)
        if distributed.is_first():
            np.savez(Path(out) / f"{np.dtype(dtype)}.npz", **leaves)
    distributed.barrier("the end")


if __name__ == "__main__":
    main(*sys.argv[1:])
