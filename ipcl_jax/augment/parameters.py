"""Random parameters of augmented views.

Source: augmentation set 1 of Konkle & Alvarez 2022; distributions are torchvision's (RandomResizedCrop, ColorJitter,
RandomGrayscale).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ipcl_jax.config import Views

_TRIES = 10  # of a random crop


class ViewParameters(NamedTuple):
    """Random parameters of views; all fields have the same leading axes."""

    box: Array  # [..., 4] int32: top, left, height, width, in pixels of the upright image
    flip: Array  # bool
    gray: Array  # bool
    brightness: Array  # factor
    contrast: Array  # factor
    saturation: Array  # factor
    hue: Array  # share of the full circle, signed
    order: Array  # [..., 4] int32: a permutation of brightness 0, contrast 1, saturation 2, hue 3
    sigma: Array | None = None  # of the blur, in pixels; 0 for an unblurred view; None if blur is disabled
    angle: Array | None = None  # in degrees, counter-clockwise; None if rotation is disabled


def sample_view(key: Array, size: Array, options: Views) -> ViewParameters:
    """Draws one view's parameters.

    Args:
        key: PRNG key.
        size: `[2]` int32, true height and width of the image.
        options: the distributions.

    Returns:
        Parameters without a batch axis.
    """
    keys = jax.random.split(key, 8)

    def factor(key: Array, spread: float) -> Array:
        return jax.random.uniform(key, minval=1 - spread, maxval=1 + spread)

    # Operations that are off by default have separate keys, so that enabling them does not change the other parameters.
    # (The numbers start at 8, as smaller ones could repeat the eight keys above.)
    sigma = angle = None
    if options.blur:
        low, high = options.blur_sigma
        drawn = jax.random.uniform(jax.random.fold_in(key, 8), minval=low, maxval=high)
        blurred = jax.random.bernoulli(jax.random.fold_in(key, 9), options.blur)
        sigma = jnp.where(blurred, drawn, 0.0)
    if options.rotation:
        largest = options.rotation
        angle = jax.random.uniform(jax.random.fold_in(key, 10), minval=-largest, maxval=largest)

    return ViewParameters(
        box=sample_box(keys[0], size, area=options.crop_area, aspect=options.crop_aspect),
        flip=jax.random.bernoulli(keys[1], options.flip),
        gray=jax.random.bernoulli(keys[2], options.grayscale),
        brightness=factor(keys[3], options.brightness),
        contrast=factor(keys[4], options.contrast),
        saturation=factor(keys[5], options.saturation),
        hue=jax.random.uniform(keys[6], minval=-options.hue, maxval=options.hue),
        order=jnp.arange(4) if options.colour_order == "fixed" else jax.random.permutation(keys[7], 4),
        sigma=sigma,
        angle=angle,
    )


def sample_box(key: Array, size: Array, *, area: tuple[float, float], aspect: tuple[float, float]) -> Array:
    """Draws the box of a random resized crop, as torchvision does.

    Makes ten draws of an area share and a log-uniform aspect, and takes the first that fits inside the image. If none
    does, takes the largest central box whose aspect is in range.

    Args:
        key: PRNG key.
        size: `[2]` int32, height and width of the image.
        area: range of the box's share of the area.
        aspect: range of width / height.

    Returns:
        `[4]` int32: top, left, height, width.

    Source: torchvision.transforms.RandomResizedCrop.get_params.
    """
    area_key, aspect_key, top_key, left_key = jax.random.split(key, 4)
    height, width = size[0], size[1]
    low, high = aspect
    target = height.astype(float) * width * jax.random.uniform(area_key, (_TRIES,), minval=area[0], maxval=area[1])
    ratio = jnp.exp(jax.random.uniform(aspect_key, (_TRIES,), minval=np.log(low), maxval=np.log(high)))
    widths = jnp.round(jnp.sqrt(target * ratio)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(target / ratio)).astype(jnp.int32)
    fits = (0 < widths) & (widths <= width) & (0 < heights) & (heights <= height)
    first = jnp.argmax(fits)

    # If none fits: the image, cropped to the nearest aspect allowed.
    fallback_width = jnp.minimum(width, jnp.round(height * high).astype(jnp.int32))
    fallback_height = jnp.minimum(height, jnp.round(width / low).astype(jnp.int32))

    found = fits.any()
    box_height = jnp.where(found, heights[first], fallback_height)
    box_width = jnp.where(found, widths[first], fallback_width)
    top = jax.random.randint(top_key, (), 0, height - box_height + 1)
    left = jax.random.randint(left_key, (), 0, width - box_width + 1)
    top = jnp.where(found, top, (height - box_height) // 2)
    left = jnp.where(found, left, (width - box_width) // 2)
    return jnp.stack([top, left, box_height, box_width]).astype(jnp.int32)
