"""Crops and resizes images: on a CPU by products of small matrices, on other devices by reading the few pixels needed.

The two have the same weights, `_weights`.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

_BLOCK = 16  # outputs of one product; larger blocks multiply more zeros, smaller ones need more products


def resize_box(
    planes: Array, size: Array, box: Array, resized: Array, offset: Array, side: int,
    *, flip: Array | bool, antialias: bool = True, on_cpu: bool,
) -> Array:  # fmt: skip
    """Resizes a box of one image and crops a square, `[side, 3, side]` in [0, 1], upright.

    Args:
        planes: `[H, 3, W]` uint8, transposed if the image is taller than H.
        size: `[2]` int32, the image's true height and width.
        box: `[4]` int32: top, left, height, width. Pixels outside it are not used.
        resized: `[2]` int32, height and width to which the box is resized.
        offset: `[2]` int32, top left of the square in the resized box.
        side: side of the square in pixels.
        flip: mirror left and right.
        antialias: average over all pixels that an output covers; otherwise interpolate between the nearest two.
        on_cpu: the form that is fast for one image at a time on a CPU; the other is for many at once.
    """
    transposed = size[0] > len(planes)
    axes = [box[:2], box[2:], resized, offset, jnp.array([False, flip])]
    axes = [jnp.where(transposed, pair[::-1], pair) for pair in axes]  # in the canvas's orientation
    down, across = ([pair[axis] for pair in axes] for axis in (0, 1))
    resample = resample_by_products if on_cpu else resample_by_reading
    narrow = resample(planes, 2, side, *across, antialias=antialias)  # [H, 3, S]
    view = resample(narrow, 0, side, *down, antialias=antialias) / 255
    if on_cpu:
        return jax.lax.cond(transposed, lambda: view.T, lambda: view)
    # Under vmap a `cond` reads the view in both orientations; indices read it once.
    line = jnp.arange(side)
    row = jnp.where(transposed, line[None], line[:, None])[:, None]  # [S, 1, S]
    column = jnp.where(transposed, line[:, None], line[None])[:, None]
    return view[row, jnp.arange(3)[None, :, None], column]


def resample_by_products(
    planes: Array, axis: int, side: int,
    start: Array, length: Array, resized: Array, offset: Array, flip: Array, *, antialias: bool = True,
) -> Array:  # fmt: skip
    """Resamples axis 0 or 2 of `[H, 3, W]` to `side` pixels as `resample_by_reading` does.

    The matrix of weights is banded, so it is multiplied in blocks of outputs, each with only the range of source pixels
    that it depends on.
    """
    extent = planes.shape[axis]
    n_blocks = -(-side // _BLOCK)
    block = -(-side // n_blocks)
    # Source pixels per output are at most extent / side, which bounds the range of a block.
    reach = min(extent, math.ceil((block + 1) * max(extent / side, 1.0)) + 5)

    output = jnp.minimum(jnp.arange(n_blocks * block), side - 1).reshape(n_blocks, block)
    pixel, fraction = _centres(output, side, start, length, resized, offset, flip)
    width = _width(length, resized, antialias=antialias)
    first = jnp.clip(pixel.min(1) - jnp.ceil(width).astype(jnp.int32), 0, extent - reach)
    pixels = first[:, None] + jnp.arange(reach)[None]  # [blocks, reach]
    weights = _weights(pixels[:, None], pixel, fraction, width, start, length)  # [blocks, block, reach]

    blocks = []
    for i in range(n_blocks):
        source = jax.lax.dynamic_slice_in_dim(planes, first[i], reach, axis).astype(jnp.float32)
        factors = ("icj,kj->ick", source, weights[i]) if axis == 2 else ("ki,icj->kcj", weights[i], source)
        blocks.append(jnp.einsum(*factors, precision="highest"))
    return jax.lax.slice_in_dim(jnp.concatenate(blocks, axis), 0, side, axis=axis)


def resample_by_reading(
    planes: Array, axis: int, side: int,
    start: Array, length: Array, resized: Array, offset: Array, flip: Array, *, antialias: bool = True,
) -> Array:  # fmt: skip
    """Resamples axis 0 or 2 of `[H, 3, W]` to `side` pixels, bilinearly.

    Output pixel j is centred on source coordinate start + (offset + j + 1/2) length / resized; its weights are a
    triangle of half-width max(length / resized, 1), or 1 if not antialiased.

    Args:
        planes: `[H, 3, W]`.
        axis: 0 or 2.
        side: pixels of the output.
        start: first source pixel of the box.
        length: of the box in source pixels; other pixels are not used.
        resized: pixels to which the box is resized; length / resized is at most extent / side.
        offset: first output pixel in the resized box.
        flip: reverses the output.
        antialias: otherwise the triangle is never wider than 1.

    Returns:
        `[H, 3, side]` or `[side, 3, W]` float32.
    """
    extent = planes.shape[axis]
    pixel, fraction = _centres(jnp.arange(side), side, start, length, resized, offset, flip)
    width = _width(length, resized, antialias=antialias)
    # The pixels at a distance less than `width`.
    n = math.ceil(2 * max(extent / side, 1.0)) if antialias else 2
    first = pixel + 1 + jnp.floor(fraction - 0.5 - width).astype(jnp.int32)
    pixels = first[:, None] + jnp.arange(n)[None]  # [side, n]
    weights = _weights(pixels, pixel, fraction, width, start, length)
    pixels = jnp.clip(pixels, 0, extent - 1)

    def share(i: int) -> Array:
        shape = [side if axis == dimension else 1 for dimension in range(3)]
        return weights[:, i].reshape(shape) * jnp.take(planes, pixels[:, i], axis, mode="clip")

    return sum((share(i) for i in range(1, n)), share(0))


def _centres(
    output: Array, side: int, start: Array, length: Array, resized: Array, offset: Array, flip: Array
) -> tuple[Array, Array]:
    """Computes where outputs are centred: the integer and fractional part of their source coordinates."""
    output = offset + jnp.where(flip, side - 1 - output, output)
    # By integer division: float32 would lose three digits. Relative to the middle of the box, since
    # (2 output + 1) length overflows where a long line is enlarged.
    numerator = (2 * output + 1 - resized) * length + length % 2 * resized
    return start + length // 2 + numerator // (2 * resized), numerator % (2 * resized) / (2 * resized)


def _width(length: Array, resized: Array, *, antialias: bool) -> Array:
    """Computes the half-width of the triangle of weights, in source pixels."""
    return jnp.maximum(length / resized, 1.0) if antialias else jnp.ones(())


def _weights(pixels: Array, pixel: Array, fraction: Array, width: Array, start: Array, length: Array) -> Array:
    """Computes the weights `[..., outputs, n]` of source pixels, which add up to 1 for each output.

    Args:
        pixels: `[..., outputs or 1, n]` int32, which include all those with a weight.
        pixel: `[..., outputs]` int32, integer part of the centres of outputs.
        fraction: `[..., outputs]` float32, fractional part.
        width: half-width of the triangle.
        start: first pixel that is used.
        length: number of those.
    """
    distance = (pixels - pixel[..., None]) + (0.5 - fraction[..., None])
    triangle = jnp.maximum(0.0, 1 - jnp.abs(distance) / width)
    triangle = jnp.where((start <= pixels) & (pixels < start + length), triangle, 0.0)
    return triangle / triangle.sum(-1, keepdims=True)
