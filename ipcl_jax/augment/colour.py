"""Colour operations on the planes of one view, `[S, 3, S]` float32 in [0, 1].

Source: torchvision's ColorJitter and RandomGrayscale on float images.
"""

import dm_pix
import jax
import jax.numpy as jnp
from jax import Array

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_U, _V = 0.49211104, 0.87728322  # NTSC's factors of blue - luma and red - luma


def luma(rgb: Array) -> Array:
    """Computes the ITU-R 601 luma of planes: `[S, 3, S]` to `[S, 1, S]`."""
    red, green, blue = jnp.split(rgb, 3, axis=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _blend(rgb: Array, other: Array | float, factor: Array) -> Array:
    return jnp.clip(factor * rgb + (1 - factor) * other, 0.0, 1.0)


def adjust_brightness(rgb: Array, factor: Array) -> Array:
    """Blends planes `[S, 3, S]` in [0, 1] with black. (dm-pix adds instead of scaling.)"""
    return _blend(rgb, 0.0, factor)


def adjust_contrast(rgb: Array, factor: Array) -> Array:
    """Blends planes `[S, 3, S]` in [0, 1] with their mean luma. (dm-pix centres each channel.)"""
    return _blend(rgb, luma(rgb).mean(), factor)


def adjust_saturation(rgb: Array, factor: Array) -> Array:
    """Blends planes `[S, 3, S]` in [0, 1] with their luma. (dm-pix scales HSV saturation.)"""
    return _blend(rgb, luma(rgb), factor)


def adjust_hue(rgb: Array, turn: Array) -> Array:
    """Rotates the hue of planes `[S, 3, S]` in [0, 1] by a share of the full circle."""
    # dm-pix determines the hue's sector by testing whether a channel equals the maximum. Fused with preceding
    # operations, the two could be rounded differently; with the barrier both are read from memory.
    return dm_pix.adjust_hue(jax.lax.optimization_barrier(rgb), turn, channel_axis=1)


def adjust_hue_yiq(rgb: Array, turn: Array) -> Array:
    """Rotates the chroma of planes `[S, 3, S]` in [0, 1] by a share of the full circle, in YIQ space.

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
    red, green, blue = jnp.split(rgb, 3, axis=1)
    # Computed from differences between channels, which are exactly 0 for gray. I and Q are U and V rotated by 33
    # degrees, so a rotation of U and V is one of I and Q.
    u = _U * (LUMA[0] * (blue - red) + LUMA[1] * (blue - green))
    v = _V * (LUMA[1] * (red - green) + LUMA[2] * (red - blue))
    cos, sin = jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)
    to_blue, to_red = (cos * u - sin * v) / _U, (sin * u + cos * v) / _V
    to_green = -(LUMA[0] * to_red + LUMA[2] * to_blue) / LUMA[1]
    return jnp.clip(luma(rgb) + jnp.concatenate([to_red, to_green, to_blue], axis=1), 0.0, 1.0)
