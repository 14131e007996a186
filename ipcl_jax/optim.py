"""Optimizers and schedules.

A schedule is a function of the *batch* (traced or not); an optimizer is built inside the
step from that batch's learning rate and momentum, so both may change at every batch while
the optimizer itself moves only once in `accumulate` batches.
"""

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ipcl_jax.config import Optim, Schedule


def make_optimizer(
    options: Optim, learning_rate: float | Array, momentum: float | Array
) -> optax.GradientTransformation:
    """SGD as PyTorch computes it: v <- m v + g + wd p, p <- p - lr v.

    Args:
        options: weight decay (on every parameter, norms and biases too, inside the momentum)
            and clipping.
        learning_rate: of this batch.
        momentum: of this batch.

    Returns:
        A transformation whose state does not depend on the two numbers.

    Source: torch.optim.SGD.
    """
    clip = optax.identity() if options.clip_norm is None else optax.clip_by_global_norm(options.clip_norm)
    return optax.chain(
        clip,
        optax.add_decayed_weights(options.weight_decay),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def learning_rate(options: Schedule, peak: float, batch: Array | int, n_batches: int) -> Array:
    """Learning rate of a batch.

    Args:
        options: the schedule.
        peak: its highest value.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.

    Returns:
        A scalar of the default float type.
    """
    start = peak / options.div_factor
    return _course(options, batch, n_batches, start, peak, start / options.final_div_factor)


def momentum(options: Schedule, batch: Array | int, n_batches: int) -> Array:
    """Momentum of a batch: high while the learning rate is low, and the other way round.

    Args:
        options: the schedule.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.

    Returns:
        A scalar of the default float type.
    """
    low, high = options.momentum
    if options.name == "constant":
        return jnp.asarray(high, float)
    return _course(options, batch, n_batches, high, low, high)


def _course(
    options: Schedule, batch: Array | int, n_batches: int, start: float, middle: float, end: float
) -> Array:
    """start -> middle -> end along two half cosines, with the corner at pct_start of the run.

    Source: `one_cycle` after the paper (the corner at batch a1 = int(N pct_start), the last batch
    one short of the end); `one_cycle_torch` after torch.optim.lr_scheduler.OneCycleLR (the corner at
    N pct_start - 1, the last batch at the end).
    """
    if options.name == "constant":
        return jnp.asarray(middle, float)
    if options.name == "one_cycle":
        corner, last = int(n_batches * options.pct_start), n_batches
    else:
        corner, last = n_batches * options.pct_start - 1, n_batches - 1
    batch = jnp.asarray(batch, float)
    rise = _half_cosine(start, middle, 0, corner, batch)
    return jnp.where(batch < corner, rise, _half_cosine(middle, end, corner, last, batch))


def _half_cosine(start: float, end: float, first: float, last: float, batch: Array) -> Array:
    # end + (start - end) / 2 (1 + cos(pi done)), in squares, and with what is left counted from the
    # last batch: differences of nearly equal float32 numbers would cost the smallest learning
    # rates their digits.
    length = last - first if last > first else 1
    done = jnp.clip((batch - first) / length, 0.0, 1.0)
    left = jnp.clip((last - batch) / length, 0.0, 1.0)
    return start * jnp.sin(np.pi / 2 * left) ** 2 + end * jnp.sin(np.pi / 2 * done) ** 2
