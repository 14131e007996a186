"""The state of a training run, as one pytree."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ipcl_jax.config import Train
from ipcl_jax.models import make_model
from ipcl_jax.random_streams import key_of
from ipcl_jax.training import optim
from ipcl_jax.training.objective import init_queue

Batch = dict[str, Array]


@flax.struct.dataclass
class Bank:
    """Embeddings of the current epoch's images: the reference set of the kNN read-out.

    One row per step: `embeddings [steps, B, D]` holds prototypes, `index [steps, B]` the image's index in its source
    (-1 before it is filled), `label [steps, B]` its class (-1 without).
    """

    embeddings: Array
    index: Array
    label: Array

    def put(self, row: Array, embeddings: Array, batch: Batch) -> "Bank":
        """Returns the bank with the row of one step replaced."""
        new = Bank(embeddings, batch["index"], batch["label"])
        return jax.tree.map(lambda bank, value: bank.at[row].set(value.astype(bank.dtype)), self, new)

    def filled(self) -> "Bank":
        """Returns the filled entries, on the host: `[n, D]`, `[n]` and `[n]`."""
        held = np.asarray(self.index) >= 0
        return jax.tree.map(lambda bank: np.asarray(bank)[held], self)


class TrainState(flax.struct.PyTreeNode):
    """The state of a training run, as one pytree."""

    step: Array  # int32: number of batches so far
    params: dict
    batch_stats: dict  # empty for a model without batch norm
    opt_state: optax.OptState
    grad_sum: dict | None  # None if every batch updates the parameters
    queue: Array | None  # [K, D] newest first; None for supervised models
    log_Z: Array | None  # zero until the first step computes it; None for supervised models
    bank: Bank

    @property
    def variables(self) -> dict:
        """The model's variables, for `apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


RENAMED_FIELDS = {"log_Z": ("Z", lambda Z: jnp.where(Z > 0, jnp.log(Z), 0.0))}
"""Fields that version 0.1 saved under another name: that name, and the conversion; see `Checkpoints.restore`."""


def init_state(config: Train, steps_per_epoch: int) -> TrainState:
    """Makes the state before the first step.

    Args:
        config: the run.
        steps_per_epoch: batches that one pass over the images gives.

    Returns:
        A state with random weights and queue, which depend on config.seed only.
    """
    side, dim = config.views.size, config.model.out_dim
    variables = make_model(config.model).init(key_of(config.seed, "weights"), jnp.zeros((2, side, side, 3)))
    params = variables["params"]
    rows = (steps_per_epoch, config.batch_size)
    contrastive = config.objective.name == "ipcl"
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optim.make_optimizer(config.optim, 0.0, 0.0).init(params),
        grad_sum=jax.tree.map(jnp.zeros_like, params) if config.accumulate > 1 else None,
        queue=init_queue(key_of(config.seed, "queue"), config.objective.queue_size, dim) if contrastive else None,
        log_Z=jnp.zeros(()) if contrastive else None,
        bank=Bank(jnp.zeros((*rows, dim)), jnp.full(rows, -1, jnp.int32), jnp.full(rows, -1, jnp.int32)),
    )


def state_sharding(state: TrainState, mesh: Mesh) -> TrainState:
    """Returns the state's sharding: replicated, except that the bank is sharded by image, like batches.

    Args:
        state: a state, or its shapes.
        mesh: from `make_mesh`.

    Returns:
        A sharding for every leaf.
    """
    replicated, by_image = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, "data")))
    shardings = jax.tree.map(lambda _: replicated, state)
    return shardings.replace(bank=jax.tree.map(lambda _: by_image, state.bank))
