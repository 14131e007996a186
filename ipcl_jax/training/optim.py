"""Optimizers and schedules.

A schedule is a function of the *batch* number (traced or not). The optimizer is built inside the step from that batch's
learning rate and momentum, so both may change at every batch, while parameters are updated only once in `accumulate`
batches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree

from ipcl_jax.config import Objective, Optim, Schedule
from ipcl_jax.errors import InputError

_SMALL = 2**16  # elements
TRUST = 0.001  # eta of LARS
# Ranger's settings of RAdam and Lookahead.
RANGER_EPSILON, RANGER_PERIOD, RANGER_ALPHA = 1e-5, 6, 0.5


def make_optimizer(
    options: Optim, learning_rate: float | Array, momentum: float | Array
) -> optax.GradientTransformation:
    """Makes an optimizer.

    With gradient g, parameter p, learning rate lr, momentum m and weight decay wd:

    - `sgd`, as PyTorch computes it: v <- m v + g + wd p, p <- p - lr v.
    - `madgrad`, as its authors' code computes it at step k from 0, with d = g + wd p and
      a = (lr + 1e-6) sqrt(k + 1): s <- s + a d, G <- G + a d^2,
      p <- m p + (1 - m) (p0 - s / (cbrt(G) + 1e-6)).
    - `lars`, with d = g + wd p: v <- m v + lr (0.001 |p| / |d|) d, p <- p - v. Parameters with fewer
      than two dimensions (biases, norms' scales) are not adapted: the bracket is 1 for them.
      Differs: the paper divides by |g| + wd |p|, which is |d| only where g and p are parallel; most
      published code divides by |d|.
    - `adamw`, as PyTorch computes it, with beta1 = m, beta2 = 0.999 and epsilon 1e-8.
    - `radam_lookahead`: rectified Adam with beta1 = m, beta2 = 0.999, epsilon 1e-5 and decoupled
      weight decay, p <- p - lr (step + wd p), where every sixth step is followed by Lookahead:
      slow <- slow + 0.5 (p - slow), p <- slow. This is the first version of Ranger with its settings
      (k = 6, alpha = 0.5); the gradient centralisation of later versions is left out.
      Differs: epsilon is added to the root of the bias-corrected second moment, in Ranger to that of the raw one.

    The schedule's momentum is used as beta1, since both weight past gradients; PyTorch's OneCycleLR, too, varies the
    beta1 of its Adams.

    Lookahead's slow weights are part of the optimizer's state. The model's parameters are the fast weights, in
    evaluation as well: batch norm's running statistics belong to these, Ranger uses them too, and both are the same at
    every sixth step and, nearly, at the end of a schedule that falls to 0.

    Args:
        options: name, weight decay (decay_norms=False excludes parameters with fewer than two dimensions) and clipping,
            which is applied first.
        learning_rate: of this batch.
        momentum: of this batch.

    Returns:
        A transformation whose state does not depend on learning rate and momentum.

    Source: torch.optim.SGD and AdamW; Defazio & Jelassi 2021 (MADGRAD); You et al. 2017 (LARS);
    Loshchilov & Hutter 2019 (AdamW); Liu et al. 2020 (RAdam); Zhang et al. 2019 (Lookahead); Wright
    2019 (Ranger).
    """
    clip = optax.identity() if options.clip_norm is None else optax.clip_by_global_norm(options.clip_norm)
    decay = optax.add_decayed_weights(options.weight_decay, None if options.decay_norms else _matrices)
    descend = optax.scale_by_learning_rate(learning_rate)
    if options.name == "sgd":
        return optax.chain(clip, decay, optax.trace(decay=momentum), descend)
    if options.name == "madgrad":
        return optax.chain(clip, decay, optax.contrib.madgrad(learning_rate, momentum))
    if options.name == "lars":
        adapt = optax.masked(optax.scale_by_trust_ratio(trust_coefficient=TRUST), _matrices)
        return optax.chain(clip, decay, adapt, descend, optax.trace(decay=momentum))
    if options.name == "adamw":
        return optax.chain(clip, optax.scale_by_adam(b1=momentum), decay, descend)
    # Ranger and PyTorch rectify where the length of the moving average is above 5. With beta2 = 0.999 it is 4.996 at
    # the fifth step and 5.994 at the sixth, with an error of 0.04 in float32; so 5.5 separates them.
    radam = optax.scale_by_radam(b1=momentum, eps=RANGER_EPSILON, threshold=5.5)
    return optax.chain(clip, _lookahead(optax.chain(radam, decay, descend)))


def pack(grads: dict) -> tuple[dict, Array]:
    """Places small gradients side by side in one array, and computes the norm of all gradients, for few kernels.

    XLA updates equally shaped parameters in one kernel if it reads their gradients from the same array; and
    `optax.tree.norm` has two kernels for each parameter.

    Args:
        grads: arrays of any shapes.

    Returns:
        The gradients, unchanged; and the norm of all together, a scalar.
    """
    small = jax.tree.map(lambda grad: grad if grad.size < _SMALL else None, grads)
    norms = [jnp.linalg.norm(grad, axis=-1) for grad in jax.tree.leaves(grads) if grad.size >= _SMALL]
    flat, unravel = ravel_pytree((small, norms))
    flat = jax.lax.optimization_barrier(flat)  # otherwise XLA would take it apart again
    small, _ = unravel(flat)
    return jax.tree.map(lambda grad, packed: grad if packed is None else packed, grads, small), jnp.linalg.norm(flat)


def _matrices(params: dict) -> dict:
    return jax.tree.map(lambda p: p.ndim > 1, params)


class SlowWeights(NamedTuple):
    """State of Lookahead around an optimizer."""

    slow: dict
    inner: optax.LookaheadState


def _lookahead(fast: optax.GradientTransformation) -> optax.GradientTransformation:
    # Optax's own updates a pair of fast and slow parameters; here the slow ones are in the optimizer's state, so that
    # the rest of the code is independent of them.
    pair = optax.lookahead(fast, RANGER_PERIOD, RANGER_ALPHA)

    def init(params: dict) -> SlowWeights:
        return SlowWeights(params, pair.init(optax.LookaheadParams(fast=params, slow=params)))

    def update(grads: dict, state: SlowWeights, params: dict) -> tuple[dict, SlowWeights]:
        both = optax.LookaheadParams(fast=params, slow=state.slow)
        updates, inner = pair.update(grads, state.inner, both)
        return updates.fast, SlowWeights(optax.apply_updates(state.slow, updates.slow), inner)

    return optax.GradientTransformation(init, update)


# --- schedules ---------------------------------------------------------------------------


def learning_rate(
    options: Schedule, peak: float, batch: Array | int, n_batches: int, per_epoch: int | None = None
) -> Array:
    """Computes the learning rate of a batch.

    Args:
        options: the schedule.
        peak: the highest learning rate.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.
        per_epoch: batches in an epoch, for `warmup_cosine` only.

    Returns:
        A scalar of the default float type.

    Raises:
        InputError: for `warmup_cosine` without per_epoch.

    Source: for `cosine`, Loshchilov & Hutter 2017 without restarts, which is
    torch.optim.lr_scheduler.CosineAnnealingLR: batch i of N at peak / 2 (1 + cos(pi i / N)), which
    would reach 0 at batch N, after the last. `warmup_cosine`: batch i of the first W at peak i / W, then the cosine
    over the remaining N - W, which is optax.warmup_cosine_decay_schedule from 0 to 0.
    """
    if options.name == "cosine":
        return _half_cosine(peak, 0.0, 0, n_batches, jnp.asarray(batch, float))
    if options.name == "warmup_cosine":
        if per_epoch is None:
            raise InputError("warmup_cosine lasts warmup_epochs epochs; give per_epoch, the batches in one.")
        corner, batch = options.warmup_epochs * per_epoch, jnp.asarray(batch, float)
        fall = _half_cosine(peak, 0.0, corner, n_batches, batch)
        return jnp.where(batch < corner, peak * (batch / corner), fall)
    start = peak / options.div_factor
    return _one_cycle(options, batch, n_batches, start, peak, start / options.final_div_factor)


def momentum(options: Schedule, batch: Array | int, n_batches: int) -> Array:
    """Computes the momentum of a batch: in a one-cycle high while the learning rate is low, and vice versa.

    Args:
        options: the schedule.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.

    Returns:
        A scalar of the default float type.
    """
    low, high = options.momentum
    if options.name not in ("one_cycle", "one_cycle_torch"):
        return jnp.asarray(high, float)
    return _one_cycle(options, batch, n_batches, high, low, high)


def temperature(options: Objective, batch: Array | int, n_batches: int) -> float | Array:
    """Computes the temperature of a batch.

    Args:
        options: the objective.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.

    Returns:
        options.temperature if it is constant; otherwise a scalar of the default float type, on a half cosine from
        temperature to temperature_end, which it would reach at batch N, after the last.
    """
    if options.temperature_end is None:
        return options.temperature
    batch = jnp.asarray(batch, float)
    return _half_cosine(options.temperature, options.temperature_end, 0, n_batches, batch)


def _one_cycle(
    options: Schedule, batch: Array | int, n_batches: int, start: float, middle: float, end: float
) -> Array:
    """Computes start -> middle -> end along two half cosines that meet at pct_start of the run; or else a constant.

    Source: `one_cycle` after the paper (the middle at batch a1 = int(N pct_start), the end at batch N, after the last);
    `one_cycle_torch` after torch.optim.lr_scheduler.OneCycleLR (the middle at N pct_start - 1, the end at the last
    batch).
    """
    if options.name == "constant":
        return jnp.asarray(middle, float)
    corner: float
    if options.name == "one_cycle":
        corner, last = int(n_batches * options.pct_start), n_batches
    else:
        corner, last = n_batches * options.pct_start - 1, n_batches - 1
    batch = jnp.asarray(batch, float)
    rise = _half_cosine(start, middle, 0, corner, batch)
    return jnp.where(batch < corner, rise, _half_cosine(middle, end, corner, last, batch))


def _half_cosine(start: float, end: float, first: float, last: float, batch: Array) -> Array:
    # end + (start - end) / 2 (1 + cos(pi done)), written with squares and with the remaining share computed from the
    # last batch: differences of nearly equal float32 numbers would make the smallest learning rates imprecise.
    length = last - first if last > first else 1
    done = jnp.clip((batch - first) / length, 0.0, 1.0)
    left = jnp.clip((last - batch) / length, 0.0, 1.0)
    return start * jnp.sin(np.pi / 2 * left) ** 2 + end * jnp.sin(np.pi / 2 * done) ** 2
