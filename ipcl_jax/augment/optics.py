"""Optical operations on the planes of one view, `[S, 3, S]`: blur, rotation, distortion, a soft window.

Coordinates are relative to the view's centre, in units of half its side: r = 1 is the circle that touches the four
sides, and the corners are at r = sqrt(2). Every output is a weighted mean of inputs (and of the gray outside), so
values in [0, 1] stay in [0, 1] up to rounding.

Source: the options of the reference's trainer, which publishes their names and ranges. It does not specify the pixels
beyond a view's edge, nor the profile of the window; the docstrings say what is done here.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates

from ipcl_jax.augment.colour import LUMA, Channels, join
from ipcl_jax.config import Views


def apply(
    planes: Array | Channels, sigma: Array | None, angle: Array | None, options: Views
) -> Array | Channels:
    """Applies those of blur, rotation, window and distortion that are enabled.

    Args:
        planes: in [0, 1].
        sigma: standard deviation of the blur, in pixels; 0 or None for no blur.
        angle: in degrees, counter-clockwise in the planes' orientation; None for no rotation.
        options: blur_sigma, window, distortion, and the mean, whose luma is the gray outside a view.

    Returns:
        Planes in [0, 1]; an array, or `planes` if none is enabled.
    """
    if sigma is None and angle is None and not options.distortion and not options.window:
        return planes
    rgb = join(planes)
    gray = sum(weight * mean for weight, mean in zip(LUMA, options.mean, strict=True))
    if sigma is not None:
        reach = math.ceil(4 * options.blur_sigma[1])
        rgb = jax.lax.cond(sigma > 0, lambda rgb: blur(rgb, sigma, reach=reach), lambda rgb: rgb, rgb)
    if angle is not None or options.distortion:
        angle = jnp.zeros(()) if angle is None else angle
        rgb = warp(rgb, angle, distortion=options.distortion, outside=gray)
    if options.window:
        rgb = apply_window(rgb, edge=options.window, distortion=options.distortion, outside=gray)
    return rgb


def blur(rgb: Array, sigma: Array, *, reach: int) -> Array:
    """Blurs with a Gaussian; beyond its edge a view is mirrored without repeating the outermost pixel.

    Args:
        rgb: planes `[S, 3, S]` in [0, 1].
        sigma: standard deviation in pixels.
        reach: half-width of the kernel in pixels, less than S; 4 sigma include all but 6e-5 of the Gaussian.

    Returns:
        Planes in [0, 1].

    Source: torchvision's GaussianBlur (its kernel, a sampled Gaussian, and its border).
    """
    distance = jnp.arange(-reach, reach + 1)
    kernel = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    for axis in (0, 2):
        side = rgb.shape[axis]
        margin = [(reach, reach) if axis == i else (0, 0) for i in range(3)]
        wide = jnp.pad(rgb, margin, mode="reflect")
        rgb = functools.reduce(
            operator.add,
            (kernel[i] * jax.lax.slice_in_dim(wide, i, i + side, axis=axis) for i in range(len(kernel))),
        )
    return rgb


def warp(rgb: Array, angle: Array, *, distortion: float, outside: float) -> Array:
    """Rotates about the centre and then distorts, in one bilinear resampling.

    After the distortion the point at r shows what was at r (1 + k r^2) before: k > 0 shrinks the picture, most at its
    corners (a barrel), k < 0 magnifies it (a pincushion).

    Args:
        rgb: planes `[S, 3, S]` in [0, 1].
        angle: in degrees, counter-clockwise.
        distortion: k; at least -1/6, as the corners would fold over below.
        outside: the gray in [0, 1] beyond a view's edge.

    Returns:
        Planes in [0, 1].
    """
    side = rgb.shape[0]
    down, across = (np.float32(line) for line in _offsets(side) * _stretch(side, distortion))
    centre = (side - 1) / 2

    def resample(rgb: Array, angle: Array) -> Array:
        cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
        points = [cos * down + sin * across + centre, cos * across - sin * down + centre]
        return jax.vmap(
            lambda plane: map_coordinates(plane, points, order=1, mode="constant", cval=outside), 1, 1
        )(rgb)

    # A branch that is always taken, to keep XLA on a CPU from fusing the look-ups with later operations, which would
    # take ten times as long. The barrier keeps XLA from removing the branch.
    always = jax.lax.optimization_barrier(jnp.array(True))
    return jax.lax.cond(always, resample, lambda rgb, angle: rgb, rgb, angle)


def apply_window(rgb: Array, *, edge: float, distortion: float, outside: float) -> Array:
    """Blends a view with gray outside a circular window with a soft edge.

    The view's weight is 1 up to r = 1 - edge, falls to 0 at r = 1 as half a period of a cosine, and is 0 beyond. The
    window comes before the distortion; to avoid a second resampling it is applied to the distorted view, where r is
    that of the point which a pixel shows.

    Args:
        rgb: planes `[S, 3, S]` in [0, 1], distorted already.
        edge: width of the soft edge as a share of half the side, in (0, 1].
        distortion: k, as in `warp`; 0 for none.
        outside: the gray in [0, 1] outside the window.

    Returns:
        Planes in [0, 1].
    """
    side = rgb.shape[0]
    down, across = _offsets(side) * _stretch(side, distortion) / (side / 2)
    faded = np.clip((np.hypot(down, across) - (1 - edge)) / edge, 0, 1)
    share = (0.5 + 0.5 * np.cos(np.pi * faded)).astype(np.float32)[:, None]  # [S, 1, S]
    return share * rgb + (1 - share) * outside


def _offsets(side: int) -> np.ndarray:
    """Computes each pixel's offset down and across from the centre, `[2, S, S]` in pixels."""
    line = np.arange(side) - (side - 1) / 2
    return np.stack(np.meshgrid(line, line, indexing="ij"))


def _stretch(side: int, distortion: float) -> np.ndarray:
    """Computes 1 + k r^2 at each pixel, `[S, S]`."""
    return 1 + distortion * (_offsets(side) ** 2).sum(0) / (side / 2) ** 2
