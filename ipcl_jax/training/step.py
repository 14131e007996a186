"""The training step: one pure function of state and batch, compiled once.

A run is determined by its config and its images; the key of a step's views is derived from the step number. All state
is in `TrainState`. Nothing here reads files or prints.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ipcl_jax.augment.views import center_views, make_views
from ipcl_jax.config import Train
from ipcl_jax.models import make_model
from ipcl_jax.random_streams import key_of
from ipcl_jax.system.distributed import batch_sharding
from ipcl_jax.training import optim
from ipcl_jax.training.objective import category_loss, ipcl_loss, prototypes, update_queue
from ipcl_jax.training.state import Batch, Prototypes, TrainState, init_state


def step_key(config: Train, step: Array) -> Array:
    """Returns the PRNG key of a step's views."""
    return jax.random.fold_in(key_of(config.seed, "views"), step)


def views_of_step(config: Train, step: Array, batch: Batch) -> Array:
    """Makes the views `[B*n, S, S, 3]` that a step trains on.

    Their dtype is the run's precision. bfloat16 changes no number of the step, since the first layer would round them
    so, and halves their memory.
    """
    views = make_views(step_key(config, step), batch["canvas"], batch["size"], config.views)
    return views.astype(_network_dtype(config) or views.dtype)


def _network_dtype(config: Train) -> DTypeLike | None:
    """Returns the dtype of convolutions and matrix products; None is that of the parameters."""
    return jnp.bfloat16 if config.precision == "bfloat16" else None


def embed(config: Train, variables: dict, images: Array, *, train: bool = False) -> tuple[Array, dict]:
    """Computes embeddings in the run's precision.

    Args:
        config: the run.
        variables: of the model, float32.
        images: `[B, S, S, 3]` normalised.
        train: normalise by this batch where the model has batch norm.

    Returns:
        Embeddings `[B, D]`, float32 in either precision, and the updated running statistics (empty without `train`).
    """
    network = make_model(config.model).clone(dtype=_network_dtype(config))
    mutable = ["batch_stats"] if train else []
    (embeddings, _), changed = network.apply(variables, images, train=train, mutable=mutable)
    wide = jnp.promote_types(embeddings.dtype, jnp.float32)
    return embeddings.astype(wide), changed.get("batch_stats", {})


def learn(
    state: TrainState, views: Array, batch: Batch, *, config: Train, n_images: int, steps_per_epoch: int
) -> tuple[TrainState, dict[str, Array], Prototypes]:
    """Trains on the views of one batch.

    Gradients of loss / accumulate are summed; the last batch of a group updates the parameters, with its own learning
    rate and momentum. Queue, log Z and running statistics are updated at every batch.

    Args:
        state: before the batch.
        views: `[B*n, S, S, 3]` normalised, image by image.
        batch: `index` and `label`, `[B]` each.
        config: the run.
        n_images: number N of training images.
        steps_per_epoch: batches that one pass over the images gives.

    Returns:
        The state after the batch; scalars: loss, lr, momentum, grad_norm (of this batch's loss); and the prototypes of
        the batch's images.

    Source: Konkle & Alvarez 2022, Methods; the reference's training script.
    """
    objective, n_views = config.objective, config.views.per_image
    n_batches = config.epochs * steps_per_epoch
    lr = optim.learning_rate(config.schedule, config.optim.lr, state.step, n_batches, steps_per_epoch)
    momentum = optim.momentum(config.schedule, state.step, n_batches)

    def loss_of(params: dict) -> tuple[Array, tuple]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        embeddings, batch_stats = embed(config, variables, views, train=True)
        if objective.name == "categories":
            loss, log_Z = category_loss(embeddings, batch["label"], n_views=n_views), None
        else:
            assert state.queue is not None and state.log_Z is not None  # see init_state
            loss, log_Z = ipcl_loss(
                embeddings, state.queue, state.log_Z, n_views=n_views, n_images=n_images,
                temperature=optim.temperature(objective, state.step, n_batches),
                norm_prototype=objective.norm_prototype,
            )
        return loss, (embeddings, log_Z, batch_stats)

    (loss, (embeddings, log_Z, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    grads, grad_norm = optim.pack(grads)
    params, opt_state, grad_sum = _apply_gradients(state, grads, lr, momentum, config)

    own = prototypes(embeddings, n_views, normalize=objective.norm_prototype)
    new = own if objective.store_prototype else embeddings
    state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        grad_sum=grad_sum,
        queue=None if state.queue is None else update_queue(state.queue, new),
        log_Z=log_Z,
    )
    metrics = {"loss": loss, "lr": lr, "momentum": momentum, "grad_norm": grad_norm}
    return state, metrics, Prototypes(own, batch["index"], batch["label"])


def _apply_gradients(
    state: TrainState, grads: dict, lr: Array, momentum: Array, config: Train
) -> tuple[dict, optax.OptState, dict | None]:
    """Applies or accumulates gradients: returns the new parameters, optimizer state and gradient sum."""
    optimizer = optim.make_optimizer(config.optim, lr, momentum)

    def update(params: dict, opt_state: optax.OptState, total: dict) -> tuple[dict, optax.OptState]:
        updates, opt_state = optimizer.update(total, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    if config.accumulate == 1:
        return *update(state.params, state.opt_state, grads), None

    due = (state.step + 1) % config.accumulate == 0
    total = jax.tree.map(lambda total, g: total + g / config.accumulate, state.grad_sum, grads)

    def turn(carry: tuple) -> tuple:
        params, opt_state, total = carry
        return *update(params, opt_state, total), jax.tree.map(jnp.zeros_like, total)

    def in_loop(*carry: Any) -> tuple:
        return jax.lax.fori_loop(0, due.astype(jnp.int32), lambda _, carry: turn(carry), carry)

    def by_choice(*carry: Any) -> tuple:
        return jax.tree.map(lambda new, old: jnp.where(due, new, old), turn(carry), carry)

    # On a CPU a loop of one turn or none works in place, where a conditional would copy all of its results at every
    # batch. A GPU would stop at either until the host has read whether the update is due, and idle until the next step is
    # launched; passing over all parameters at every batch takes a fiftieth of a step.
    carry = state.params, state.opt_state, total
    return jax.lax.platform_dependent(*carry, cpu=in_loop, default=by_choice)


def train_step(
    state: TrainState, batch: Batch, *, config: Train, n_images: int, steps_per_epoch: int
) -> tuple[TrainState, dict[str, Array], Prototypes]:
    """Draws the views of a batch and trains on them; see `learn`.

    Args:
        state: before the batch.
        batch: `canvas [B, H, W, 3]` uint8, `size [B, 2]`, `index [B]`, `label [B]` int32.
        config: the run.
        n_images: number N of training images.
        steps_per_epoch: batches that one pass over the images gives.

    Returns:
        The state after the batch, metrics and prototypes; see `learn`.
    """
    views = views_of_step(config, state.step, batch)
    return learn(state, views, batch, config=config, n_images=n_images, steps_per_epoch=steps_per_epoch)


def collect_step(state: TrainState, batch: Batch, *, config: Train) -> tuple[TrainState, Prototypes]:
    """Updates running statistics and computes prototypes as `train_step` does, but doesn't change the parameters.

    After an epoch of it, the read-out of the untrained network can be computed like that of a trained one.
    """
    views = views_of_step(config, state.step, batch)
    embeddings, batch_stats = embed(config, state.variables, views, train=True)
    own = prototypes(embeddings, config.views.per_image, normalize=config.objective.norm_prototype)
    state = state.replace(step=state.step + 1, batch_stats=batch_stats)
    return state, Prototypes(own, batch["index"], batch["label"])


def embed_step(variables: dict, number: int, batch: Batch, *, config: Train) -> tuple[Array, Array]:
    """Embeds held-out images: the centre view and two augmented views of each.

    Args:
        variables: of the model.
        number: of the batch; with the run's seed it determines the views, which are the same each time.
        batch: `canvas` and `size`.
        config: the run.

    Returns:
        `[B, D]` of the centre views, and `[B, 2, D]` of the augmented ones.
    """
    key = jax.random.fold_in(key_of(config.seed, "held-out views"), number)
    canvas, sizes = batch["canvas"], batch["size"]
    pair = make_views(key, canvas, sizes, dataclasses.replace(config.views, per_image=2))
    images = jnp.concatenate([center_views(canvas, sizes, config.views), pair])
    embeddings, _ = embed(config, variables, images)
    centre, pair = embeddings[: len(canvas)], embeddings[len(canvas) :]
    return centre, pair.reshape(len(canvas), 2, -1)


# --- several devices ---------------------------------------------------------------------


class Steps(NamedTuple):
    """The jitted functions of a run."""

    init: Callable  # () -> state
    train: Callable  # state, batch -> state, metrics, prototypes; the state is donated
    collect: Callable  # state, batch -> state, prototypes; the state is donated
    embed: Callable  # variables, number, batch -> centre, pair
    state: TrainState  # shapes, dtypes and shardings, to restore into
    prototypes: Prototypes  # shapes and dtypes


def compile_steps(config: Train, mesh: Mesh, *, n_images: int, steps_per_epoch: int) -> Steps:
    """Jits the functions of a run; they compile at their first call.

    Args:
        config: the run.
        mesh: from `make_mesh`.
        n_images: number N of training images.
        steps_per_epoch: batches that one pass over the images gives.
    """
    init = functools.partial(init_state, config)
    by_image, replicated = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    train = functools.partial(train_step, config=config, n_images=n_images, steps_per_epoch=steps_per_epoch)
    collect = functools.partial(collect_step, config=config)
    embed = functools.partial(embed_step, config=config)
    inputs = (replicated, by_image)

    def row() -> Prototypes:
        index = jnp.zeros(config.batch_size, jnp.int32)
        return Prototypes(jnp.zeros((config.batch_size, config.model.out_dim)), index, index)

    return Steps(
        init=jax.jit(init, out_shardings=replicated),
        train=jax.jit(train, in_shardings=inputs, out_shardings=replicated, donate_argnums=0),
        collect=jax.jit(collect, in_shardings=inputs, out_shardings=replicated, donate_argnums=0),
        embed=jax.jit(embed, in_shardings=(replicated, *inputs), out_shardings=replicated),
        state=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), jax.eval_shape(init)
        ),
        prototypes=jax.eval_shape(row),
    )
