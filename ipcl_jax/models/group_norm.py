"""Group normalisation, and the ReLU and max pool after it, in few passes over memory.

Most of a training step's memory traffic is between convolutions. JAX's own gradient of norm, ReLU and pool stores all
intermediate results and passes over them some thirty times. The one here stores the convolution's output and the
position of the maximum in each pooling window, and recomputes the rest while it writes the gradient of the
convolution's output.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

_SIDE, _STRIDE = 3, 2  # of the max pool; no padding
_NOWHERE = np.uint8(255)  # position of a maximum that the ReLU makes 0, and that has no gradient


class _Options(NamedTuple):
    """Static options of the computation."""

    groups: int
    epsilon: float
    relu: bool
    pool: bool


class GroupNorm(nn.Module):
    """Group normalisation of `[B, H, W, C]`, optionally followed by a ReLU and a 3x3 max pool of stride 2.

    Computes in its parameters' dtype (float32 or float64), and returns its input's dtype. If values of a window are
    equal, the gradient goes to the first, as in torch; the ReLU's gradient at 0 is 0.

    In training the backward pass is written by hand, and is differentiable only once, in reverse mode. Otherwise JAX
    differentiates the layer, in either mode and any number of times, and uses more memory. The values are the same.

    Source: Wu & He 2018; torch.nn.GroupNorm, ReLU, MaxPool2d(3, 2).
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, relu: bool = False, pool: bool = False, train: bool = False) -> Array:
        """Normalises each group of channels.

        Args:
            x: `[B, H, W, C]`; C is a multiple of the number of groups.
            relu: apply a ReLU.
            pool: then apply the max pool, `-> [B, (H - 1) // 2, (W - 1) // 2, C]`.
            train: use the hand-written backward pass.
        """
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        options = _Options(self.groups, self.epsilon, relu, pool)
        scale, bias = scale[None, None, None], bias[None, None, None]
        return _norm(x, scale, bias, options) if train else _forward(x, scale, bias, options)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _norm(x: Array, scale: Array, bias: Array, options: _Options) -> Array:
    return _forward(x, scale, bias, options)[0]


def _forward(x: Array, scale: Array, bias: Array, options: _Options) -> tuple[Array, tuple]:
    mean, inv_std = _moments(x, scale.dtype, options)
    kept, position = _max_pool(x, mean, inv_std * scale) if options.pool else (x, None)
    y = _distance(kept, mean, options) * (inv_std * scale) + bias
    if options.relu:
        if position is not None:
            position = jnp.where(y > 0, position, _NOWHERE)
        y = nn.relu(y)  # jnp.maximum's gradient at 0 is 1/2
    return y.astype(x.dtype), (x, kept, position, mean, inv_std, scale, bias)


def _backward(options: _Options, saved: tuple, gradient: Array) -> tuple[Array, Array, Array]:
    x, kept, position, mean, inv_std, scale, bias = saved
    distance = _distance(kept, mean, options)
    gradient = passed = gradient.astype(scale.dtype)
    if options.relu:
        positive = position != _NOWHERE if options.pool else distance * (inv_std * scale) + bias > 0
        passed = jnp.where(positive, gradient, 0)
    sums = passed.sum((1, 2), keepdims=True), (passed * distance).sum((1, 2), keepdims=True)
    # Without the barrier XLA would merge the sums over pixels and over images, and read the gradient twice.
    total, along = jax.lax.optimization_barrier(sums)  # [B, 1, 1, C] each
    to_bias, to_scale = jnp.stack([total, along * inv_std]).sum(1, keepdims=True)

    means = _group_means(jnp.stack([total, along]) * scale[None], options.groups, x.shape[1] * x.shape[2])
    along_mean, along_distance = _for_channels(means, x.shape[-1])
    along_distance *= jnp.square(inv_std)
    if options.pool:
        passed = _scatter(gradient, position, *x.shape[1:3])
    to_x = inv_std * (passed * scale - along_mean - (x - mean) * along_distance)
    return to_x.astype(x.dtype), to_scale, to_bias


_norm.defvjp(_forward, _backward)


def _moments(x: Array, dtype: jnp.dtype, options: _Options) -> tuple[Array, Array]:
    """Computes each group's mean and 1 / standard deviation, both `[B, 1, 1, C]`."""
    # One pass over the differences from a rough mean, that of the middle row, as a mean far from zero would cost
    # precision. The rough mean lies within sqrt(H - 1) standard deviations of the mean, so the variance is at worst H
    # times less precise than one computed in two passes.
    row = jax.lax.stop_gradient(x[:, x.shape[1] // 2, None].astype(dtype))
    rough = _group_means(row.sum((1, 2), keepdims=True), options.groups, x.shape[2])
    # Without the barrier XLA's CPU backend would compute the differences in a pass of their own.
    first = x - _for_channels(jax.lax.optimization_barrier(rough), x.shape[-1])
    second = jnp.square(x - _for_channels(rough, x.shape[-1]))
    sums = jnp.stack([first.sum((1, 2), keepdims=True), second.sum((1, 2), keepdims=True)])
    first, second = _group_means(sums, options.groups, x.shape[1] * x.shape[2])
    inv_std = jax.lax.rsqrt(second - jnp.square(first) + options.epsilon)
    return _for_channels(rough + first, x.shape[-1]), _for_channels(inv_std, x.shape[-1])


def _group_means(sums: Array, groups: int, count: int) -> Array:
    """Computes each group's mean, `[..., groups]`, from its channels' sums of `count` values, `[..., C]`."""
    by_group = sums.reshape(*sums.shape[:-1], groups, -1)
    return (by_group / (count * by_group.shape[-1])).sum(-1)


def _for_channels(values: Array, channels: int) -> Array:
    """Repeats each group's value for its channels, `[..., groups]` to `[..., C]`."""
    by_group = jnp.broadcast_to(values[..., None], (*values.shape, channels // values.shape[-1]))
    return by_group.reshape(*values.shape[:-1], channels)


def _max_pool(x: Array, mean: Array, scale: Array) -> tuple[Array, Array]:
    """Finds the maximum of `(x - mean) * scale` in each window: what is kept of it, and its place, 4 * row + column.

    Kept is `x - mean`; or x, if that has fewer bits. See `_distance`.
    """
    batch, height, width, channels = x.shape
    rows, columns = ((extent - _SIDE) // _STRIDE + 1 for extent in (height, width))
    narrow = x.dtype != mean.dtype

    def values(row: int, column: int) -> Array:
        ends = (row + _STRIDE * (rows - 1) + 1, column + _STRIDE * (columns - 1) + 1)
        strides = (1, _STRIDE, _STRIDE, 1)
        value = jax.lax.slice(x, (0, row, column, 0), (batch, *ends, channels), strides)
        return value if narrow else value - mean

    kept = values(0, 0)
    maximum = (kept - mean if narrow else kept) * scale
    position = jnp.zeros(kept.shape, jnp.uint8)
    for row, column in itertools.product(range(_SIDE), repeat=2):
        if row == column == 0:
            continue
        here = values(row, column)
        normed = (here - mean if narrow else here) * scale
        larger = normed > maximum
        maximum = jnp.where(larger, normed, maximum)
        kept = jnp.where(larger, here, kept)
        position = jnp.where(larger, jnp.uint8(4 * row + column), position)
    return kept, position


def _distance(kept: Array, mean: Array, options: _Options) -> Array:
    """Computes `x - mean` of what is kept."""
    return kept if options.pool and kept.dtype == mean.dtype else kept - mean


def _scatter(values: Array, position: Array, height: int, width: int) -> Array:
    """Scatters values: sums, for each pixel, the values `[B, h, w, C]` of the windows whose maximum is at that pixel.

    An even row is in two windows, the first row of one and the last of the other; an odd row is in one window; and so
    are columns. So pixels are processed in blocks of 2 x 2, each of which overlaps four windows.
    """
    batch, rows, columns, channels = values.shape
    down, across = -(-height // _STRIDE), -(-width // _STRIDE)
    around = ((0, 0), (1, down - rows), (1, across - columns), (0, 0))
    values, position = jnp.pad(values, around), jnp.pad(position, around)
    # NumPy's, as XLA would compute JAX's in kernels of their own.
    parity = np.arange(_STRIDE, dtype=np.uint8)
    total = jnp.zeros((), values.dtype)
    for up in (0, 1):  # 1: the window that begins one block further up
        for left in (0, 1):
            window = (
                slice(None),
                slice(1 - up, 1 - up + down),
                None,
                slice(1 - left, 1 - left + across),
                None,
            )
            row, column = parity + _STRIDE * up, parity + _STRIDE * left
            pixel = 4 * row[:, None, None, None] + column[None, None, :, None]  # [2, 1, 2, 1]
            total += jnp.where(position[window] == pixel[None, None], values[window], 0)
    return total.reshape(batch, _STRIDE * down, _STRIDE * across, channels)[:, :height, :width]
