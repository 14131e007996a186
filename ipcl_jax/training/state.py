"""The state of a training run, as one pytree."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from ipcl_jax.config import Train
from ipcl_jax.models import make_model
from ipcl_jax.random_streams import key_of
from ipcl_jax.training import optim
from ipcl_jax.training.objective import init_queue

Batch = dict[str, Array]


@flax.struct.dataclass
class Prototypes:
    """Prototypes of a batch's images; those of an epoch are the reference set of the kNN read-out, see `run.bank`."""

    embeddings: Array  # [B, D] float32
    index: Array  # [B] int32: the image's index in its source
    label: Array  # [B] int32: its class, -1 without


class TrainState(flax.struct.PyTreeNode):
    """The state of a training run, as one pytree."""

    step: Array  # int32: number of batches so far
    params: dict
    batch_stats: dict  # empty for a model without batch norm
    opt_state: optax.OptState
    grad_sum: dict | None  # None if every batch updates the parameters
    queue: Array | None  # [K, D] newest first; None for supervised models
    log_Z: Array | None  # zero until the first step computes it; None for supervised models

    @property
    def variables(self) -> dict:
        """The model's variables, for `apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


RENAMED_FIELDS = {"log_Z": ("Z", lambda Z: jnp.where(Z > 0, jnp.log(Z), 0.0))}
"""Fields that version 0.1 saved under another name: that name, and the conversion; see `Checkpoints.restore`."""


def init_state(config: Train) -> TrainState:
    """Makes the state before the first step.

    Args:
        config: the run.

    Returns:
        A state with random weights and queue, which depend on config.seed only.
    """
    side, dim = config.views.size, config.model.out_dim
    variables = make_model(config.model).init(key_of(config.seed, "weights"), jnp.zeros((2, side, side, 3)))
    params = variables["params"]
    contrastive = config.objective.name == "ipcl"
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optim.make_optimizer(config.optim, 0.0, 0.0).init(params),
        grad_sum=jax.tree.map(jnp.zeros_like, params) if config.accumulate > 1 else None,
        queue=init_queue(key_of(config.seed, "queue"), config.objective.queue_size, dim) if contrastive else None,
        log_Z=jnp.zeros(()) if contrastive else None,
    )
