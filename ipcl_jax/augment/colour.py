"""Colour operations on the planes of one view, float32 in [0, 1].

The planes are either an array `[S, 3, S]`, or a tuple of red, green and blue `[S, 1, S]`; results are alike. Operations
on an array are fast one after another on a CPU. Those on a tuple have no axis of channels, so that XLA makes one loop
over pixels of a whole chain of them.

Source: torchvision's ColorJitter and RandomGrayscale on float images.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ipcl_jax.augment.parameters import ViewParameters
from ipcl_jax.config import Views

Channels = tuple[Array, Array, Array]
Planes = TypeVar("Planes", Array, Channels)

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_U, _V = 0.49211104, 0.87728322  # NTSC's factors of blue - luma and red - luma


def apply(rgb: Array, chosen: ViewParameters, options: Views, *, on_cpu: bool) -> Array | Channels:
    """Makes planes gray where that was drawn, and changes their colours in the order drawn.

    Args:
        rgb: planes `[S, 3, S]` in [0, 1].
        chosen: parameters of the view.
        options: hue_space and colour_order, and which operations there are.
        on_cpu: branch, which is fast for one view at a time on a CPU; otherwise compute all views alike.

    Returns:
        Planes in [0, 1]: an array on a CPU, otherwise a tuple.
    """
    channels = split(rgb)
    gray = luma(channels)
    operations = {
        "brightness": lambda rgb: adjust_brightness(rgb, chosen.brightness),
        "contrast": lambda rgb: adjust_contrast(rgb, chosen.contrast),
        "saturation": lambda rgb: adjust_saturation(rgb, chosen.saturation),
        "hue": lambda rgb: {"hsv": adjust_hue, "yiq": adjust_hue_yiq}[options.hue_space](rgb, chosen.hue),
    }
    unchanged = not any(getattr(options, name) for name in operations)
    if on_cpu:
        rgb = jnp.where(chosen.gray, gray, rgb)
        # In a fixed order too: a plain sequence would be fused with later operations, which is several times slower.
        for place in range(0 if unchanged else 4):
            rgb = jax.lax.switch(chosen.order[place], list(operations.values()), rgb)
        return rgb
    channels = jax.tree.map(lambda plane: jnp.where(chosen.gray, gray, plane), channels)
    if unchanged:
        return channels
    # The mean of contrast needs every pixel before the first is finished; without a barrier XLA might crop twice.
    channels = jax.lax.optimization_barrier(channels)
    if options.colour_order == "random":
        return _in_order(channels, chosen, operations["hue"])
    for operation in operations.values():
        channels = operation(channels)
    return channels


def _in_order(rgb: Channels, chosen: ViewParameters, adjust_hue: Callable[[Channels], Channels]) -> Channels:
    """Applies the four operations in the order drawn, without branches, of which XLA would compute all for many views.

    Hue is computed once, between three blends before and three after it, of which those that are not due have the
    factor 1, which changes nothing.
    """
    order = chosen.order
    contrast, hue = (sum(place * (order[place] == which) for place in range(4)) for which in (1, 3))
    drawn = (chosen.brightness, chosen.contrast, chosen.saturation)
    factors = [sum(drawn[which] * (order[place] == which) for which in range(3)) for place in range(4)]

    def apply(rgb: Channels, end: Array | int, mean: Array | float) -> Channels:
        """Applies the operations of places before `end`."""
        for place in (0, 1, 2):
            rgb = blend(rgb, place, (place < hue) & (place < end), mean)
        rgb = jax.tree.map(lambda new, old: jnp.where(hue < end, new, old), adjust_hue(rgb), rgb)
        for place in (1, 2, 3):
            rgb = blend(rgb, place, (place > hue) & (place < end), mean)
        return rgb

    def blend(rgb: Channels, place: int, due: Array | bool, mean: Array | float) -> Channels:
        """Applies brightness, contrast or saturation, which blend with black, the mean or luma."""
        factor = jnp.where(due, factors[place], 1.0)
        of_mean, of_luma = (jnp.where(order[place] == which, 1 - factor, 0.0) for which in (1, 2))
        other = of_luma * luma(rgb) + of_mean * mean
        return jax.tree.map(lambda plane: jnp.clip(factor * plane + other, 0.0, 1.0), rgb)

    # What contrast blends with: the mean luma of what the operations before it make.
    mean = luma(apply(rgb, contrast, 0.0)).mean()
    return apply(rgb, 4, mean)


def split(rgb: Array | Channels) -> Channels:
    """Returns red, green and blue, `[S, 1, S]` each."""
    if isinstance(rgb, tuple):
        return rgb
    red, green, blue = jnp.split(rgb, 3, axis=1)
    return red, green, blue


def join(rgb: Array | Channels) -> Array:
    """Returns planes as an array `[S, 3, S]`."""
    return jnp.concatenate(rgb, axis=1) if isinstance(rgb, tuple) else rgb


def to_image(rgb: Array | Channels, *, transposed: Array | bool) -> Array:
    """Returns planes as an image `[S, S, 3]`; an array is transposed where `transposed`, bool."""
    if not isinstance(rgb, tuple):
        return jnp.where(transposed, rgb.transpose(2, 0, 1), rgb.transpose(0, 2, 1))
    # Without the barrier XLA might compute all three channels for each number of a pixel.
    red, green, blue = (plane[:, 0, :, None] for plane in jax.lax.optimization_barrier(rgb))
    first, second = (np.arange(3)[None, None] == channel for channel in (0, 1))
    return jnp.where(first, red, jnp.where(second, green, blue))  # as a stack, but quick on a CPU too


def luma(rgb: Array | Channels) -> Array:
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
    of_red, of_green = (red >= green) & (red >= blue), green >= blue
    ahead = jnp.where(of_red, green - blue, jnp.where(of_green, blue - red, red - green))
    nearest = jnp.where(of_red, 0.0, jnp.where(of_green, 2.0, 4.0))
    sixths = nearest + ahead / jnp.where(chroma > 0, chroma, 1.0) + 6 * turn

    def channel(own: int) -> Array:
        """Computes a channel from the distance of the hue from the channel's own, in sixths of the circle."""
        around = sixths - own
        distance = jnp.abs(around - 6 * jnp.round(around * (1 / 6)))
        return value - chroma * jnp.clip(distance - 1, 0.0, 1.0)

    turned = channel(0), channel(2), channel(4)
    return turned if isinstance(rgb, tuple) else join(turned)


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
    turned = jax.tree.map(lambda change: jnp.clip(gray + change, 0.0, 1.0), (to_red, to_green, to_blue))
    return turned if isinstance(rgb, tuple) else join(turned)
