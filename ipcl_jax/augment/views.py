"""Augmented views of images, made on the accelerator.

All operations on the uint8 canvas run inside the compiled step. A crop (antialiased, flip included) is a few small
matrix products on a CPU, and a few pixels read elsewhere (`resample.py`); colour operations work on planes
`[height, 3, width]`, an order in which no product needs a transposed factor. The random parameters of a view are drawn
first (`ViewParameters`), and then applied: crop and flip, gray, colour (`colour.py`), then those of blur, rotation,
window and distortion (`optics.py`) that are enabled.

A canvas `[B, H, W, 3]` holds an image in its top left corner, and `sizes` is its true (height, width). An image that is
taller than H is stored in the same memory seen as `[W, H, 3]`, so the host never transposes an image, and a canvas of
256 x 512 holds portraits too; `load_canvases` makes them.

Source: augmentation set 1 of Konkle & Alvarez 2022; distributions and formulas are
torchvision's (RandomResizedCrop, ColorJitter, RandomGrayscale on float images).

Differs: the reference rounds images to 8 bits after each operation; here they are float32 from the crop on.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from ipcl_jax.augment import colour, optics
from ipcl_jax.augment.parameters import ViewParameters, sample_view
from ipcl_jax.augment.resample import resize_box
from ipcl_jax.config import Views
from ipcl_jax.errors import InputError


def make_views(
    key: Array, canvas: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"], options: Views
) -> Float[Array, "views S S 3"]:
    """Makes several augmented views of each image.

    Args:
        key: PRNG key, which is split into one for each view.
        canvas: `[B, H, W, 3]` uint8, the image in its top left corner; one taller than H is stored in it seen as
            `[W, H, 3]`.
        sizes: `[B, 2]` integers, true height and width of each image.
        options: the distributions; n = options.per_image, S = options.size.

    Returns:
        `[B*n, S, S, 3]` float32, normalised; view v of image b is row b * n + v.

    Raises:
        InputError: for other shapes or dtypes, and (outside of jit) for sizes that don't fit the canvas.
    """
    sizes = _check_canvases(canvas, sizes)
    keys = jax.random.split(key, canvas.shape[0] * options.per_image)
    sizes = jnp.repeat(sizes, options.per_image, axis=0)
    parameters = jax.vmap(lambda key, size: sample_view(key, size, options))(keys, sizes)
    return render_views(canvas, sizes, parameters, options)


def center_views(
    canvas: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"], options: Views
) -> Float[Array, "B S S 3"]:
    """Makes one view of each image for evaluation: resizes the shorter side to S and crops the centre.

    Args:
        canvas: `[B, H, W, 3]` uint8, as in `make_views`.
        sizes: `[B, 2]` integers, true height and width of each image.
        options: S = options.size, mean and std; the view is gray if grayscale is 1.

    Returns:
        `[B, S, S, 3]` float32, normalised.

    Raises:
        InputError: as in `make_views`.

    Source: torchvision's Resize (antialiased bilinear, the longer side rounded down to whole pixels) and CenterCrop.
    """
    side = options.size
    sizes = _check_canvases(canvas, sizes)

    def one(planes: Array, size: Array) -> Array:
        resized = side * size // size.min()
        offset = jnp.round((resized - side) / 2).astype(jnp.int32)  # half to even, as torchvision
        box = jnp.concatenate([jnp.zeros_like(size), size])  # uncropped
        view = resize_box(planes, size, box, resized, offset, side, flip=False, on_cpu=_on_cpu())
        return jnp.broadcast_to(colour.luma(view), view.shape) if options.grayscale == 1 else view

    return _for_each(one, canvas, sizes, options=options)


def _check_canvases(canvas: Array, sizes: Array) -> Array:
    """Raises InputError if canvases and sizes don't match; returns the sizes as int32."""
    shapes = f"canvas is {list(jnp.shape(canvas))} {jnp.result_type(canvas)} and sizes {list(jnp.shape(sizes))}"
    if jnp.ndim(canvas) != 4 or canvas.shape[-1] != 3 or jnp.result_type(canvas) != jnp.uint8:
        raise InputError(f"{shapes} {jnp.result_type(sizes)}; expected a canvas [B, H, W, 3] uint8.")
    if jnp.shape(sizes) != (len(canvas), 2) or not jnp.issubdtype(jnp.result_type(sizes), jnp.integer):
        raise InputError(f"{shapes} {jnp.result_type(sizes)}; expected sizes [B, 2] of integers.")
    if not isinstance(sizes, jax.core.Tracer):
        height, width = canvas.shape[1:3]
        given = np.asarray(sizes)
        fits = (given >= 1).all(1) & (given <= [height, width]).all(1)
        fits_transposed = (given[:, 0] > height) & (given <= [width, height]).all(1) & (given >= 1).all(1)
        if wrong := np.flatnonzero(~(fits | fits_transposed)).tolist():
            raise InputError(
                f"The size of image {wrong[0]} is {given[wrong[0]][0]} x {given[wrong[0]][1]} pixels, which a canvas "
                f"of {height} x {width} can't hold."
            )
    return jnp.asarray(sizes, jnp.int32)


class Channels(Protocol):
    """An object with a mean and a std of each channel, such as `Views` or an `Encoder`."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Subtracted from each channel of [0, 1]."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Divides each channel after that."""


def normalize(images: Array, options: Channels) -> Array:
    """Subtracts options.mean and divides by options.std: `[..., 3]` in [0, 1] to float32."""
    shape = (1,) * (images.ndim - 1) + (3,)
    return (images - jnp.array(options.mean).reshape(shape)) / jnp.array(options.std).reshape(shape)


# --- rendering ---------------------------------------------------------------------------


def render_views(
    canvas: UInt8[Array, "B H W 3"], sizes: Int[Array, "views 2"], parameters: ViewParameters, options: Views
) -> Float[Array, "views S S 3"]:
    """Makes views with given parameters: crops, flips, changes colours, blurs, rotates, distorts and normalises.

    Args:
        canvas: as in `make_views`.
        sizes: `[B*n, 2]` int32, true size of each view's image.
        parameters: of B*n views, image by image.
        options: S = options.size, mean and std, and the options that are not random.

    Returns:
        `[B*n, S, S, 3]` float32, normalised.
    """
    side = options.size

    on_cpu = _on_cpu()

    def one(planes: Array, size: Array, chosen: ViewParameters) -> Array | colour.Channels:
        resized, offset = jnp.array([side, side]), jnp.array([0, 0])
        view = resize_box(
            planes, size, chosen.box, resized, offset, side,
            flip=chosen.flip, antialias=options.antialias, on_cpu=on_cpu,
        )  # fmt: skip
        angle = chosen.angle
        if angle is not None and on_cpu:  # in a transposed image a rotation has the opposite direction
            angle = jnp.where(size[0] > len(planes), -1, 1) * angle
        return optics.apply(colour.apply(view, chosen, options, on_cpu=on_cpu), chosen.sigma, angle, options)

    return _for_each(one, canvas, sizes, parameters, options=options)


def _for_each(function, canvas: Array, sizes: Array, *arguments, options: Views) -> Array:
    """Applies `function(planes of its image, size, *arguments)` to every view.

    The function returns planes, oriented as `resize_box` returns them; the result is upright, channel-last and
    normalised, `[views, S, S, 3]`.
    """
    batch, height, width, _ = canvas.shape
    per_image = len(sizes) // batch

    def to_planes(canvas: Array, size: Array) -> Array:
        upright = canvas.reshape(width, height, 3)
        return jax.lax.cond(
            size[0] > height, lambda: upright.transpose(1, 2, 0), lambda: canvas.transpose(0, 2, 1)
        )

    # On a CPU one image at a time stays in the cache, and only the branch taken is computed.
    on_cpu = _on_cpu()
    each = (lambda f, *xs: jax.lax.map(lambda x: f(*x), xs)) if on_cpu else (lambda f, *xs: jax.vmap(f)(*xs))
    planes = each(to_planes, canvas, sizes.reshape(batch, per_image, 2)[:, 0])  # [B, H, 3, W] uint8

    def one(planes: Array, size: Array, *arguments) -> Array:
        view = function(planes, size, *arguments)
        return normalize(colour.to_image(view, transposed=on_cpu & (size[0] > height)), options)

    if on_cpu:
        image = jnp.repeat(jnp.arange(len(planes)), per_image)
        return each(lambda image, *view: one(planes[image], *view), image, sizes, *arguments)
    # All at once, with images as the outer axis, so that a device needs only its own canvases.
    grouped = jax.tree.map(lambda x: x.reshape(-1, per_image, *x.shape[1:]), (sizes, *arguments))
    views = jax.vmap(lambda planes, views: jax.vmap(lambda view: one(planes, *view))(views))(planes, grouped)
    return views.reshape(-1, *views.shape[2:])


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
