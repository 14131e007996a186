"""Training as pure functions of state and batch: the objective, the optimizer, the step."""

from ipcl_jax.training.state import RENAMED_FIELDS, Prototypes, TrainState, init_state
from ipcl_jax.training.step import (
    Steps,
    collect_step,
    compile_steps,
    embed,
    embed_step,
    learn,
    step_key,
    train_step,
    views_of_step,
)

__all__ = [
    "RENAMED_FIELDS",
    "Prototypes",
    "Steps",
    "TrainState",
    "collect_step",
    "compile_steps",
    "embed",
    "embed_step",
    "init_state",
    "learn",
    "step_key",
    "train_step",
    "views_of_step",
]
