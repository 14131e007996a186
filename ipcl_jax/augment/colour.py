"""Colour operations on the planes of one view, float32 in [0, 1].

The planes are either an array `[S, 3, S]` or a tuple of red, green and blue, three arrays of one shape; the result is
alike. With a tuple, operations on many views at once become one loop over pixels.

Source: torchvision's ColorJitter and RandomGrayscale on float images.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Planes = Array | tuple[Array, Array, Array]

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_U, _V = 0.49211104, 0.87728322  # NTSC's factors of blue - luma and red - luma


def split(rgb: Planes) -> tuple[Array, Array, Array]:
    """Returns red, green and blue."""
    return rgb if isinstance(rgb, tuple) else tuple(jnp.split(rgb, 3, axis=1))


def _join(channels: tuple[Array, Array, Array], rgb: Planes) -> Planes:
    """Returns channels as `rgb` is."""
    return channels if isinstance(rgb, tuple) else jnp.concatenate(channels, axis=1)


def luma(rgb: Planes) -> Array:
    """Computes the ITU-R 601 luma of planes: `[S, 3, S]` to `[S, 1, S]`."""
    red, green, blue = split(rgb)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _blend(rgb: Planes, other: Array | float, factor: Array) -> Planes:
    return jax.tree.map(lambda plane: jnp.clip(factor * plane + (1 - factor) * other, 0.0, 1.0), rgb)


def adjust_brightness(rgb: Planes, factor: Array) -> Planes:
    """Blends planes in [0, 1] with black. (dm-pix adds instead of scaling.)"""
    return _blend(rgb, 0.0, factor)


def adjust_contrast(rgb: Planes, factor: Array) -> Planes:
    """Blends planes in [0, 1] with their mean luma. (dm-pix centres each channel.)"""
    return _blend(rgb, luma(rgb).mean(), factor)


def adjust_saturation(rgb: Planes, factor: Array) -> Planes:
    """Blends planes in [0, 1] with their luma. (dm-pix scales HSV saturation.)"""
    return _blend(rgb, luma(rgb), factor)


def adjust_hue(rgb: Planes, turn: Array) -> Planes:
    """Rotates the hue of planes in [0, 1] by a share of the full circle, in HSV space; gray pixels stay as they are."""
    red, green, blue = split(rgb)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    # The largest channel is found by comparing channels: compared with `value` none might be equal, where it is rounded
    # otherwise, fused with preceding operations. Of two that are equally large, both formulas give the same hue.
    width = jnp.where(chroma > 0, chroma, 1.0)
    sixths = jnp.where(
        (red >= green) & (red >= blue), (green - blue) / width,
        jnp.where(green >= blue, 2 + (blue - red) / width, 4 + (red - green) / width),
    ) + 6 * turn  # fmt: skip

    def channel(own: int) -> Array:
        """Computes a channel from the distance of the hue from the channel's own, in sixths of the circle."""
        around = sixths - own
        distance = jnp.abs(around - 6 * jnp.round(around / 6))
        return value - chroma * jnp.clip(distance - 1, 0.0, 1.0)

    return _join((channel(0), channel(2), channel(4)), rgb)


def adjust_hue_yiq(rgb: Planes, turn: Array) -> Planes:
    """Rotates the chroma of planes in [0, 1] by a share of the full circle, in YIQ space.

    Luma is unchanged, except by the clipping to [0, 1]. Saturated colours leave that range at most angles, so the
    result differs from that of `adjust_hue`, and is no approximation of it. Both rotate red towards yellow.

    Args:
        rgb: planes in [0, 1].
        turn: share of the circle.

    Returns:
        Planes in [0, 1]; gray pixels stay gray.

    Source: the standard NTSC rotation. The reference's release says that its faster augmentations use another colour
    conversion, but not which.
    """
    red, green, blue = split(rgb)
    # Computed from differences between channels, which are exactly 0 for gray. I and Q are U and V rotated by 33
    # degrees, so a rotation of U and V is one of I and Q.
    u = _U * (LUMA[0] * (blue - red) + LUMA[1] * (blue - green))
    v = _V * (LUMA[1] * (red - green) + LUMA[2] * (red - blue))
    cos, sin = jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)
    to_blue, to_red = (cos * u - sin * v) / _U, (sin * u + cos * v) / _V
    to_green = -(LUMA[0] * to_red + LUMA[2] * to_blue) / LUMA[1]
    gray = luma(rgb)
    return _join(tuple(jnp.clip(gray + change, 0.0, 1.0) for change in (to_red, to_green, to_blue)), rgb)


def jitter(rgb: Planes, factors: Array, adjust_hue: Callable[[Planes], Planes], order: Array) -> Planes:
    """Applies the four operations in a given order, without branches.

    Under vmap a `switch` computes all its branches. Here hue is computed once, between three blends before and three
    after it; those that are not due have factor 1, which changes nothing.

    Args:
        rgb: planes in [0, 1].
        factors: `[4]`, of brightness, contrast and saturation; the last is not used.
        adjust_hue: the remaining operation.
        order: `[4]` int32, a permutation of brightness 0, contrast 1, saturation 2, hue 3.

    Returns:
        Planes in [0, 1].
    """
    places = jnp.arange(4)
    place_of = jnp.argsort(order)
    contrast, hue = place_of[1], place_of[3]

    def apply(rgb: Planes, due: Array, mean: Array | float) -> Planes:
        """Applies the operations whose places are due, `[4]` bool."""
        blends = jnp.where(due, factors[order], 1.0)
        for place in (0, 1, 2):
            rgb = blend(rgb, place, jnp.where(place < hue, blends[place], 1.0), mean)
        rgb = jax.tree.map(lambda new, old: jnp.where(due[hue], new, old), adjust_hue(rgb), rgb)
        for place in (1, 2, 3):
            rgb = blend(rgb, place, jnp.where(place > hue, blends[place], 1.0), mean)
        return rgb

    def blend(rgb: Planes, place: int, factor: Array, mean: Array | float) -> Planes:
        which = order[place]
        return _blend(rgb, jnp.where(which == 2, luma(rgb), jnp.where(which == 1, mean, 0.0)), factor)

    # What contrast blends with: the mean luma of what comes before it.
    mean = luma(apply(rgb, places < contrast, 0.0)).mean()
    return apply(rgb, places < 4, mean)
