"""Group normalisation, and the ReLU and max pool after it, in few passes over memory.

Most of a training step's memory traffic is what lies between two convolutions. Left to itself, the
gradient of norm, ReLU and pool stores each of their results and passes over them some thirty times. Here it
keeps the convolution's output and, of each window, where its largest value lay; the rest is computed again
while the one result, the gradient of the convolution's output, is written.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

_SIDE, _STRIDE = 3, 2  # of the max pool; no padding


class _Kind(NamedTuple):
    """What is computed, apart from numbers."""

    groups: int
    epsilon: float
    relu: bool
    pool: bool


class GroupNorm(nn.Module):
    """Group normalisation of `[B, H, W, C]`, and on request the ReLU and the 3x3 max pool of stride 2 after it.

    Computes in float32 (or float64, as its parameters are), and returns its input's dtype. Where values
    of a window are equal, the first takes the gradient, as in torch; the ReLU's gradient at 0 is 0.

    In training the backward pass is written by hand, so that it is differentiable once, in reverse mode. Otherwise
    JAX differentiates it, in either mode and as often as wanted, and keeps more in memory. The values are the same.

    Source: Wu & He 2018; torch.nn.GroupNorm, ReLU, MaxPool2d(3, 2).
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, relu: bool = False, pool: bool = False, train: bool = False) -> Array:
        """Normalises.

        Args:
            x: `[B, H, W, C]`; C a multiple of the groups.
            relu: go on with a ReLU.
            pool: then go on with the max pool, `-> [B, (H - 1) // 2, (W - 1) // 2, C]`.
            train: take the hand-written backward pass.
        """
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        kind = _Kind(self.groups, self.epsilon, relu, pool)
        scale, bias = scale[None, None, None], bias[None, None, None]
        return _norm(x, scale, bias, kind) if train else _forward(x, scale, bias, kind)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _norm(x: Array, scale: Array, bias: Array, kind: _Kind) -> Array:
    return _forward(x, scale, bias, kind)[0]


def _forward(x: Array, scale: Array, bias: Array, kind: _Kind) -> tuple[Array, tuple]:
    mean, shrink = _moments(x.astype(scale.dtype), kind)
    place = None
    if kind.pool:
        distance, place = _largest(x, mean, shrink * scale)
    else:
        distance = x - mean
    y = distance * (shrink * scale) + bias
    if kind.relu:
        y = nn.relu(y)  # jnp.maximum's gradient at 0 is 1/2
    return y.astype(x.dtype), (x, distance if kind.pool else None, place, mean, shrink, scale, bias)


def _backward(kind: _Kind, saved: tuple, gradient: Array) -> tuple[Array, Array, Array]:
    x, distance, place, mean, shrink, scale, bias = saved
    gradient = gradient.astype(scale.dtype)
    if not kind.pool:
        distance = x - mean
    if kind.relu:
        gradient = jnp.where(distance * (shrink * scale) + bias > 0, gradient, 0)
    to_bias = gradient.sum((1, 2), keepdims=True)
    to_scale = (gradient * distance).sum((1, 2), keepdims=True) * shrink

    pixels = x.shape[1] * x.shape[2]
    along_mean = _over_groups(to_bias * scale, kind.groups) / pixels
    along_distance = _over_groups(to_scale * scale, kind.groups) / pixels * shrink
    if kind.pool:
        gradient, distance = _to_places(gradient, place, *x.shape[1:3]), x - mean
    to_x = shrink * (gradient * scale - along_mean - distance * along_distance)
    return to_x.astype(x.dtype), to_scale.sum(0, keepdims=True), to_bias.sum(0, keepdims=True)


_norm.defvjp(_forward, _backward)


def _moments(x: Array, kind: _Kind) -> tuple[Array, Array]:
    """Each group's mean and 1 / deviation, `[B, 1, 1, C]` both."""
    # Distances, first to one pixel and then to the mean: a mean far from zero would otherwise cost digits.
    pixel = x[:, x.shape[1] // 2, x.shape[2] // 2, None, None]
    mean = pixel + (x - pixel).mean((1, 2), keepdims=True)
    within = jnp.square(x - mean).mean((1, 2), keepdims=True)
    group_mean = _over_groups(mean, kind.groups)
    variance = _over_groups(within + jnp.square(mean - group_mean), kind.groups)
    return group_mean, jax.lax.rsqrt(variance + kind.epsilon)


def _over_groups(values: Array, groups: int) -> Array:
    """The mean of `[B, 1, 1, C]` over each group, at each of its channels."""
    batch, _, _, channels = values.shape
    by_group = values.reshape(batch, 1, 1, groups, channels // groups)
    mean = by_group.mean(-1, keepdims=True)
    return jnp.broadcast_to(mean, by_group.shape).reshape(values.shape)


def _largest(x: Array, mean: Array, steep: Array) -> tuple[Array, Array]:
    """Where `(x - mean) * steep` is largest in each window: x - mean there, and the place, 4 * row + column."""
    batch, height, width, channels = x.shape
    rows, columns = ((extent - _SIDE) // _STRIDE + 1 for extent in (height, width))

    def distances(row: int, column: int) -> Array:
        ends = (row + _STRIDE * (rows - 1) + 1, column + _STRIDE * (columns - 1) + 1)
        strides = (1, _STRIDE, _STRIDE, 1)
        return jax.lax.slice(x, (0, row, column, 0), (batch, *ends, channels), strides) - mean

    distance = distances(0, 0)
    largest, place = distance * steep, jnp.zeros(distance.shape, jnp.uint8)
    for row, column in itertools.product(range(_SIDE), repeat=2):
        if row == column == 0:
            continue
        here = distances(row, column)
        value = here * steep
        larger = value > largest
        largest = jnp.where(larger, value, largest)
        distance = jnp.where(larger, here, distance)
        place = jnp.where(larger, jnp.uint8(4 * row + column), place)
    return distance, place


def _to_places(values: Array, place: Array, height: int, width: int) -> Array:
    """Adds up, for each pixel, the values `[B, h, w, C]` of the windows whose place is that pixel.

    An even row lies in a window that begins with it and one that ends with it, an odd row in one
    alone; columns likewise. So pixels are taken in blocks of 2 x 2, each against four windows.
    """
    batch, rows, columns, channels = values.shape
    down, across = -(-height // _STRIDE), -(-width // _STRIDE)
    around = ((0, 0), (1, down - rows), (1, across - columns), (0, 0))
    values, place = jnp.pad(values, around), jnp.pad(place, around)
    parity = jnp.arange(_STRIDE, dtype=jnp.uint8)
    total = jnp.zeros((), values.dtype)
    for up in (0, 1):  # whether the window begins a block further up
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
            total += jnp.where(place[window] == pixel[None, None], values[window], 0)
    return total.reshape(batch, _STRIDE * down, _STRIDE * across, channels)[:, :height, :width]
