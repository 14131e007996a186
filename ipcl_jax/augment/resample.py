"""Crops as products of small matrices."""

import math

import jax
import jax.numpy as jnp
from jax import Array

_BLOCK = 16  # outputs of one product: more would multiply zeros, fewer would cost calls


def resize_box(
    planes: Array, size: Array, box: Array, resized: Array, offset: Array, side: int,
    *, flip: Array | bool, antialias: bool = True,
) -> Array:  # fmt: skip
    """Resizes a box of one image and cuts a square, `[side, 3, side]` in [0, 1], lying as on the canvas.

    Args:
        planes: `[H, 3, W]` uint8, mirrored at the diagonal if the image is taller than H.
        size: `[2]` int32, the image's true height and width.
        box: `[4]` int32: top, left, height, width. Pixels outside it don't count.
        resized: `[2]` int32, height and width that the box is resized to.
        offset: `[2]` int32, top left of the square in the resized box.
        side: S.
        flip: mirror left and right.
        antialias: average over what an output covers; else between its two neighbours in the image.
    """
    turned = size[0] > len(planes)
    axes = [box[:2], box[2:], resized, offset, jnp.array([False, flip])]
    axes = [jnp.where(turned, pair[::-1], pair) for pair in axes]  # in the canvas's order
    down, across = ([pair[axis] for pair in axes] for axis in (0, 1))
    narrow = _resample(planes, 2, side, *across, antialias=antialias)  # [H, 3, S]
    return _resample(narrow, 0, side, *down, antialias=antialias) / 255


def _resample(
    planes: Array, axis: int, side: int,
    start: Array, length: Array, resized: Array, offset: Array, flip: Array, *, antialias: bool = True,
) -> Array:  # fmt: skip
    """Bilinear resampling along one axis of `[H, 3, W]`, to `side` pixels.

    Output pixel j is centred on source coordinate start + (offset + j + 1/2) length / resized, under
    a triangle of half-width max(length / resized, 1), or 1 if not antialiased. As a matrix, the weights
    form a band; it is multiplied in blocks of outputs, each with just the stretch of source pixels that
    it can see.
    """
    extent = planes.shape[axis]
    n_blocks = -(-side // _BLOCK)
    block = -(-side // n_blocks)
    # Source pixels per output are at most extent / side, which bounds what a block can see.
    reach = min(extent, math.ceil((block + 1) * max(extent / side, 1.0)) + 5)

    output = jnp.minimum(jnp.arange(n_blocks * block), side - 1).reshape(n_blocks, block)
    output = offset + jnp.where(flip, side - 1 - output, output)
    # Whole pixels and the rest by integer division: a float32 coordinate would cost three digits. Counted from
    # the middle of the box, as (2 output + 1) length overflows where a long line is enlarged.
    numerator = (2 * output + 1 - resized) * length + length % 2 * resized
    whole = start + length // 2 + numerator // (2 * resized)
    rest = numerator % (2 * resized) / (2 * resized)
    width = jnp.maximum(length / resized, 1.0) if antialias else jnp.ones(())
    first = whole.min(1) - jnp.ceil(width).astype(jnp.int32)
    first = jnp.clip(first, 0, extent - reach)
    pixels = first[:, None] + jnp.arange(reach)[None]  # [blocks, reach]
    distance = (pixels[:, None] - whole[..., None]) + (0.5 - rest[..., None])
    triangle = jnp.maximum(0.0, 1 - jnp.abs(distance) / width)
    inside = (start <= pixels) & (pixels < start + length)
    triangle = jnp.where(inside[:, None], triangle, 0.0)
    weights = triangle / triangle.sum(-1, keepdims=True)  # [blocks, block, reach]

    blocks = []
    for i in range(n_blocks):
        seen = jax.lax.dynamic_slice_in_dim(planes, first[i], reach, axis).astype(jnp.float32)
        factors = ("icj,kj->ick", seen, weights[i]) if axis == 2 else ("ki,icj->kcj", weights[i], seen)
        blocks.append(jnp.einsum(*factors, precision="highest"))
    return jax.lax.slice_in_dim(jnp.concatenate(blocks, axis), 0, side, axis=axis)
