"""Everything that a run changes, as one pytree."""

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
    """What the images of the current epoch embedded to: the reference set of the kNN read-out.

    One row a step: `embeddings [steps, B, D]` holds prototypes, `index [steps, B]` the image's place
    in its source, `label [steps, B]` its class (-1 without).
    """

    embeddings: Array
    index: Array
    label: Array

    def put(self, row: Array, embeddings: Array, batch: Batch) -> "Bank":
        """The bank with one step's images in their place."""
        new = Bank(embeddings, batch["index"], batch["label"])
        return jax.tree.map(lambda bank, value: bank.at[row].set(value.astype(bank.dtype)), self, new)

    def filled(self) -> "Bank":
        """The rows that hold an image, on the host: `[n, D]`, `[n]` and `[n]`."""
        held = np.asarray(self.index) >= 0
        return jax.tree.map(lambda bank: np.asarray(bank)[held], self)


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run changes, as one pytree."""

    step: Array  # int32: batches done
    params: dict
    batch_stats: dict  # empty for a model without batch norm
    opt_state: optax.OptState
    grad_sum: dict | None  # None if every batch moves the optimizer
    queue: Array | None  # [K, D] newest first; None where categories are learned
    log_Z: Array | None  # zero until the first step fixes it; None as well
    bank: Bank

    @property
    def variables(self) -> dict:
        """What the model is applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}


EARLIER = {"log_Z": ("Z", lambda Z: jnp.where(Z > 0, jnp.log(Z), 0.0))}
"""Fields that version 0.1 saved otherwise; see `checkpoints.Checkpoints.restore`."""


def init_state(config: Train, steps_per_epoch: int) -> TrainState:
    """The state before the first step.

    Args:
        config: the run.
        steps_per_epoch: batches that one pass over the images gives.

    Returns:
        A state with freshly drawn weights and queue; both depend on config.seed only.
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
    """Every device holds the whole state, except that the bank lies where its images were.

    Args:
        state: a state, or its shapes.
        mesh: from `make_mesh`.

    Returns:
        A sharding for every leaf.
    """
    whole, by_image = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (None, "data")))
    shardings = jax.tree.map(lambda _: whole, state)
    return shardings.replace(bank=jax.tree.map(lambda _: by_image, state.bank))
