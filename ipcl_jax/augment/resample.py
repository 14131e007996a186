"""Crops and resizes images: on a CPU by products of small matrices, on other devices by reading the few pixels needed.

Both take their weights from `_triangle`.
"""

import functools
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

_BLOCK = 16  # outputs of one product; larger blocks multiply more zeros, smaller ones need more products


class Line(NamedTuple):
    """Where the output pixels along one axis are centred in the source; for two axes, each field has a leading axis."""

    pixel: Array  # [side] int32, integer part of the coordinate of a centre
    fraction: Array  # [side] float32, fractional part
    width: Array  # half-width of the triangle of weights, in source pixels
    start: Array  # int32, first source pixel that is used
    length: Array  # int32, number of those


def resize_box(
    planes: Array, size: Array, box: Array, resized: Array, offset: Array, side: int,
    *, flip: Array | bool, antialias: bool = True, on_cpu: bool,
) -> Array:  # fmt: skip
    """Resizes a box of one image and crops a square, `[side, 3, side]` in [0, 1].

    The result is upright; on a CPU it has the canvas's orientation, to be turned upright with the last operation.

    Args:
        planes: `[H, 3, W]` uint8, transposed if the image is taller than H.
        size: `[2]` int32, the image's true height and width.
        box: `[4]` int32: top, left, height, width. Pixels outside it are not used.
        resized: `[2]` int32, height and width to which the box is resized.
        offset: `[2]` int32, top left of the square in the resized box.
        side: side of the square in pixels.
        flip: mirror left and right.
        antialias: average over all pixels that an output covers; otherwise interpolate between the nearest two.
        on_cpu: multiply matrices, which is fast for one image at a time on a CPU; otherwise read single pixels, which is
            fast for many images at once on a GPU.
    """
    transposed = size[0] > len(planes)
    axes = [box[:2], box[2:], resized, offset, jnp.array([False, flip])]
    axes = [jnp.where(transposed, pair[::-1], pair) for pair in axes]  # in the canvas's orientation
    lines = locate(*axes, side=side, antialias=antialias)
    if on_cpu:
        down, across = (Line(*(field[axis] for field in lines)) for axis in (0, 1))
        return multiply(multiply(planes, 2, across), 0, down) / 255
    view = read(planes, lines, antialias=antialias) / 255
    # For many views at once `where` would compute each in both orientations; indices read it once.
    line = jnp.arange(side)
    row = jnp.where(transposed, line[None], line[:, None])[:, None]  # [S, 1, S]
    column = jnp.where(transposed, line[:, None], line[None])[:, None]
    return view[row, jnp.arange(3)[None, :, None], column]


def locate(
    start: Array, length: Array, resized: Array, offset: Array, flip: Array, *, side: int, antialias: bool = True
) -> Line:
    """Computes where outputs lie: pixel j at start + (offset + j + 1/2) length / resized in source coordinates.

    Args:
        start: `[2]` int32, first source pixel of the box; this and the other arrays down and across.
        length: `[2]` int32, of the box, in source pixels.
        resized: `[2]` int32, pixels to which the box is resized.
        offset: `[2]` int32, first output pixel in the resized box.
        flip: `[2]` bool, whether the output is reversed.
        side: number of outputs.
        antialias: the triangle of weights has the half-width max(length / resized, 1); otherwise 1.
    """
    width = jnp.maximum(length / resized, 1.0) if antialias else jnp.ones(2)
    output = jnp.arange(side)[None]
    output = offset[:, None] + jnp.where(flip[:, None], side - 1 - output, output)
    # The coordinate's parts by integer division: float32 would lose three digits. Relative to the middle of the box,
    # since (2 output + 1) length overflows where a long line is enlarged.
    numerator = (2 * output + 1 - resized[:, None]) * length[:, None] + ((length & 1) * resized)[:, None]
    divisor = 2 * resized[:, None]
    pixel = (start + length // 2)[:, None] + numerator // divisor
    return Line(pixel, numerator % divisor / divisor, width, start, length)


def _triangle(pixels: Array, line: Line) -> Array:
    """Computes the weights `[..., side, n]` of source pixels `[..., side or 1, n]`, whose sum is still to be made 1."""
    distance = (pixels - line.pixel[..., None]) + (0.5 - line.fraction[..., None])
    start, length, width = (x[..., None, None] for x in (line.start, line.length, line.width))
    triangle = jnp.maximum(0.0, 1 - jnp.abs(distance) / width)
    return jnp.where((start <= pixels) & (pixels < start + length), triangle, 0.0)


def multiply(planes: Array, axis: int, line: Line) -> Array:
    """Resamples axis 0 or 2 of `[H, 3, W]` bilinearly, to `[side, 3, W]` or `[H, 3, side]` float32.

    The matrix of weights is banded, so it is multiplied in blocks of outputs, each with only the range of source pixels
    that it depends on.
    """
    extent, side = planes.shape[axis], len(line.pixel)
    n_blocks = -(-side // _BLOCK)
    block = -(-side // n_blocks)
    # Source pixels per output are at most extent / side, which bounds the range of a block.
    reach = min(extent, math.ceil((block + 1) * max(extent / side, 1.0)) + 5)

    pixel, fraction = (
        jnp.pad(x, (0, n_blocks * block - side), mode="edge").reshape(n_blocks, block)
        for x in (line.pixel, line.fraction)
    )
    first = jnp.clip(pixel.min(1) - jnp.ceil(line.width).astype(jnp.int32), 0, extent - reach)
    pixels = first[:, None] + jnp.arange(reach)[None]  # [blocks, reach]
    triangle = jax.vmap(  # [blocks, block, reach]
        lambda pixels, *centre: _triangle(pixels[None], line._replace(pixel=centre[0], fraction=centre[1]))
    )(pixels, pixel, fraction)
    weights = triangle / triangle.sum(-1, keepdims=True)

    blocks = []
    for i in range(n_blocks):
        source = jax.lax.dynamic_slice_in_dim(planes, first[i], reach, axis).astype(jnp.float32)
        factors = ("icj,kj->ick", source, weights[i]) if axis == 2 else ("ki,icj->kcj", weights[i], source)
        blocks.append(jnp.einsum(*factors, precision="highest"))
    return jax.lax.slice_in_dim(jnp.concatenate(blocks, axis), 0, side, axis=axis)


def read(planes: Array, lines: Line, *, antialias: bool = True) -> Array:
    """Resamples both axes of `[H, 3, W]` bilinearly, to `[side, 3, side]` float32."""
    side = lines.pixel.shape[1]
    extents = planes.shape[0], planes.shape[2]
    # Number of pixels at a distance of less than the largest width, and the first of them.
    down, across = (math.ceil(2 * max(extent / side, 1.0)) if antialias else 2 for extent in extents)
    first = lines.pixel + 1 + jnp.floor(lines.fraction - 0.5 - lines.width[:, None]).astype(jnp.int32)
    pixels = first[..., None] + jnp.arange(max(down, across))[None, None]  # [2, side, n]
    weights = _triangle(pixels, lines)
    weights = weights / _sum(weights, 2)[..., None]
    pixels = jnp.clip(pixels, 0, jnp.array(extents)[:, None, None] - 1)

    narrow = jnp.take(planes, pixels[1, :, :across], axis=2, mode="clip")  # [H, 3, side, n]
    narrow = _sum(narrow * weights[1, :, :across][None, None], 3)
    view = jnp.take(narrow, pixels[0, :, :down], axis=0, mode="clip")  # [side, n, 3, side]
    return _sum(view * weights[0, :, :down][..., None, None], 1)


def _sum(terms: Array, axis: int) -> Array:
    """Adds a few terms one by one. XLA takes long to choose tiles for a program that reduces many small axes."""
    terms = jnp.moveaxis(terms, axis, 0)
    return functools.reduce(operator.add, (terms[i] for i in range(len(terms))))
