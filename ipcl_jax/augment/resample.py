"""Crops and resizes images by products of small matrices."""

import math

import jax
import jax.numpy as jnp
from jax import Array

_BLOCK = 16  # outputs of one product; larger blocks multiply more zeros, smaller ones need more products


def resize_box(
    planes: Array, size: Array, box: Array, resized: Array, offset: Array, side: int,
    *, flip: Array | bool, antialias: bool = True,
) -> Array:  # fmt: skip
    """Resizes a box of one image and crops a square, `[side, 3, side]` in [0, 1], in the canvas's orientation.

    Args:
        planes: `[H, 3, W]` uint8, transposed if the image is taller than H.
        size: `[2]` int32, the image's true height and width.
        box: `[4]` int32: top, left, height, width. Pixels outside it are not used.
        resized: `[2]` int32, height and width to which the box is resized.
        offset: `[2]` int32, top left of the square in the resized box.
        side: side of the square in pixels.
        flip: mirror left and right.
        antialias: average over all pixels that an output covers; otherwise interpolate between the nearest two.
    """
    transposed = size[0] > len(planes)
    axes = [box[:2], box[2:], resized, offset, jnp.array([False, flip])]
    axes = [jnp.where(transposed, pair[::-1], pair) for pair in axes]  # in the canvas's orientation
    down, across = ([pair[axis] for pair in axes] for axis in (0, 1))
    narrow = _resample(planes, 2, side, *across, antialias=antialias)  # [H, 3, S]
    return _resample(narrow, 0, side, *down, antialias=antialias) / 255


def _resample(
    planes: Array, axis: int, side: int,
    start: Array, length: Array, resized: Array, offset: Array, flip: Array, *, antialias: bool = True,
) -> Array:  # fmt: skip
    """Resamples one axis of `[H, 3, W]` to `side` pixels, bilinearly.

    Output pixel j is centred on source coordinate start + (offset + j + 1/2) length / resized; its weights are a
    triangle of half-width max(length / resized, 1), or 1 if not antialiased. The matrix of weights is banded, so it
    is multiplied in blocks of outputs, each with only the range of source pixels that it depends on.
    """
    extent = planes.shape[axis]
    n_blocks = -(-side // _BLOCK)
    block = -(-side // n_blocks)
    # Source pixels per output are at most extent / side, which bounds the range of a block.
    reach = min(extent, math.ceil((block + 1) * max(extent / side, 1.0)) + 5)

    output = jnp.minimum(jnp.arange(n_blocks * block), side - 1).reshape(n_blocks, block)
    output = offset + jnp.where(flip, side - 1 - output, output)
    # Integer and fractional part of the coordinate by integer division: float32 would lose three digits. Relative to
    # the middle of the box, since (2 output + 1) length overflows where a long line is enlarged.
    numerator = (2 * output + 1 - resized) * length + length % 2 * resized
    pixel = start + length // 2 + numerator // (2 * resized)
    fraction = numerator % (2 * resized) / (2 * resized)
    width = jnp.maximum(length / resized, 1.0) if antialias else jnp.ones(())
    first = pixel.min(1) - jnp.ceil(width).astype(jnp.int32)
    first = jnp.clip(first, 0, extent - reach)
    pixels = first[:, None] + jnp.arange(reach)[None]  # [blocks, reach]
    distance = (pixels[:, None] - pixel[..., None]) + (0.5 - fraction[..., None])
    triangle = jnp.maximum(0.0, 1 - jnp.abs(distance) / width)
    inside = (start <= pixels) & (pixels < start + length)
    triangle = jnp.where(inside[:, None], triangle, 0.0)
    weights = triangle / triangle.sum(-1, keepdims=True)  # [blocks, block, reach]

    blocks = []
    for i in range(n_blocks):
        source = jax.lax.dynamic_slice_in_dim(planes, first[i], reach, axis).astype(jnp.float32)
        factors = ("icj,kj->ick", source, weights[i]) if axis == 2 else ("ki,icj->kcj", weights[i], source)
        blocks.append(jnp.einsum(*factors, precision="highest"))
    return jax.lax.slice_in_dim(jnp.concatenate(blocks, axis), 0, side, axis=axis)
