"""Optimizers and schedules.

A schedule is a function of the *batch* (traced or not); an optimizer is built inside the
step from that batch's learning rate and momentum, so both may change at every batch while
the optimizer itself moves only once in `accumulate` batches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from ipcl_jax.config import Objective, Optim, Schedule
from ipcl_jax.errors import InputError

TRUST = 0.001  # eta of LARS
# Ranger's settings of RAdam and Lookahead.
RANGER_EPSILON, RANGER_PERIOD, RANGER_PULL = 1e-5, 6, 0.5


def make_optimizer(
    options: Optim, learning_rate: float | Array, momentum: float | Array
) -> optax.GradientTransformation:
    """The rule by which a gradient g moves a parameter p.

    With learning rate lr, momentum m and weight decay wd:

    - `sgd`, as PyTorch computes it: v <- m v + g + wd p, p <- p - lr v.
    - `madgrad`, as its authors' code computes it at step k from 0, with d = g + wd p and
      a = (lr + 1e-6) sqrt(k + 1): s <- s + a d, G <- G + a d^2,
      p <- m p + (1 - m) (p0 - s / (cbrt(G) + 1e-6)).
    - `lars`, with d = g + wd p: v <- m v + lr (0.001 |p| / |d|) d, p <- p - v. Parameters with fewer
      than two dimensions (biases, norms' scales) are not adapted: 1 stands for the bracket.
      Differs: the paper divides by |g| + wd |p|, which is |d| only where g and p are parallel; most
      published code divides by |d|.
    - `adamw`, as PyTorch computes it, with beta1 = m, beta2 = 0.999 and epsilon 1e-8.
    - `radam_lookahead`: rectified Adam with beta1 = m, beta2 = 0.999, epsilon 1e-5 and decoupled
      weight decay, p <- p - lr (step + wd p), whose sixth step each time is followed by Lookahead:
      slow <- slow + 0.5 (p - slow), p <- slow. This is the first Ranger with its own settings
      (k = 6, alpha = 0.5); later ones also centralise gradients, which is left out here.
      Differs: epsilon joins the root of the bias-corrected second moment, in Ranger of the raw one.

    Momentum stands for beta1 because both are the share of the past in the direction of the step;
    PyTorch's OneCycleLR cycles beta1 of its Adams, too.

    Lookahead's slow weights are part of the optimizer's state. The model's parameters are the fast
    ones, in evaluation as well: the running statistics of batch norm belong to them, Ranger too
    hands out these, every sixth step both are the same, and so they are in effect at the end of a
    schedule that falls to nothing.

    Args:
        options: name, weight decay (decay_norms=False spares parameters with fewer than two
            dimensions) and clipping, which comes first.
        learning_rate: of this batch.
        momentum: of this batch.

    Returns:
        A transformation whose state does not depend on the two numbers.

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
    # Ranger and PyTorch rectify where the moving average is longer than 5. With beta2 = 0.999 its length
    # is 4.996 at the fifth step and 5.994 at the sixth, and float32 blurs it by 0.04: 5.5 tells them apart.
    radam = optax.scale_by_radam(b1=momentum, eps=RANGER_EPSILON, threshold=5.5)
    return optax.chain(clip, _lookahead(optax.chain(radam, decay, descend)))


def _matrices(params: dict) -> dict:
    return jax.tree.map(lambda p: p.ndim > 1, params)


class SlowWeights(NamedTuple):
    """State of Lookahead around an optimizer."""

    slow: dict
    inner: optax.LookaheadState


def _lookahead(fast: optax.GradientTransformation) -> optax.GradientTransformation:
    # Optax's own moves a pair of fast and slow parameters; here the slow ones are state, so that
    # nothing else need know of them.
    pair = optax.lookahead(fast, RANGER_PERIOD, RANGER_PULL)

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
    """Learning rate of a batch.

    Args:
        options: the schedule.
        peak: its highest value.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.
        per_epoch: batches in an epoch; `warmup_cosine` alone needs to know.

    Returns:
        A scalar of the default float type.

    Raises:
        InputError: if `warmup_cosine` isn't told per_epoch.

    Source: for `cosine`, Loshchilov & Hutter 2017 without restarts, which is
    torch.optim.lr_scheduler.CosineAnnealingLR: batch i of N at peak / 2 (1 + cos(pi i / N)), the last
    batch one short of 0. `warmup_cosine`: batch i of the first W at peak i / W, then the cosine over
    the N - W that are left, which is optax.warmup_cosine_decay_schedule from 0 to 0.
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
    return _course(options, batch, n_batches, start, peak, start / options.final_div_factor)


def momentum(options: Schedule, batch: Array | int, n_batches: int) -> Array:
    """Momentum of a batch: in a one-cycle high while the learning rate is low, and the other way round.

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
    return _course(options, batch, n_batches, high, low, high)


def temperature(options: Objective, batch: Array | int, n_batches: int) -> float | Array:
    """Temperature of a batch.

    Args:
        options: the objective.
        batch: number of the batch from 0.
        n_batches: batches N in the whole run.

    Returns:
        options.temperature itself if nothing changes it; else a scalar of the default float type,
        on a half cosine from temperature to temperature_end, the last batch one short of the end.
    """
    if options.temperature_end is None:
        return options.temperature
    batch = jnp.asarray(batch, float)
    return _half_cosine(options.temperature, options.temperature_end, 0, n_batches, batch)


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
    corner: float
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
