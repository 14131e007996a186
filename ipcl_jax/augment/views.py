"""Augmented views of images, made on the accelerator.

All operations on the uint8 canvas run inside the compiled step. A crop is a few small matrix products (antialiased,
flip included); colour operations work on planes `[height, 3, width]`, an order in which no product needs a transposed
factor. The random parameters of a view are drawn first (`ViewParameters`), and then applied: crop and flip, gray,
colour (`colour.py`), then those of blur, rotation, window and distortion (`optics.py`) that are enabled.

A canvas `[B, H, W, 3]` holds an image in its top left corner, and `sizes` is its true (height, width). An image that is
taller than H is stored in the same memory seen as `[W, H, 3]`, so the host never transposes an image, and a canvas of
256 x 512 holds portraits too; `load_canvases` makes them.

Source: augmentation set 1 of Konkle & Alvarez 2022; distributions and formulas are
torchvision's (RandomResizedCrop, ColorJitter, RandomGrayscale on float images).

Differs: the reference rounds images to 8 bits after each operation; here they are float32 from the crop on.
"""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from ipcl_jax.augment import colour, optics
from ipcl_jax.augment.resample import resize_box
from ipcl_jax.config import Views
from ipcl_jax.errors import InputError

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


# --- random parameters -------------------------------------------------------------------


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

    def one(planes: Array, size: Array, chosen: ViewParameters) -> Array:
        resized, offset = jnp.array([side, side]), jnp.array([0, 0])
        view = resize_box(
            planes, size, chosen.box, resized, offset, side,
            flip=chosen.flip, antialias=options.antialias, on_cpu=_on_cpu(),
        )  # fmt: skip
        return optics.apply(_colour(view, chosen, options), chosen.sigma, chosen.angle, options)

    return _for_each(one, canvas, sizes, parameters, options=options)


def _for_each(function, canvas: Array, sizes: Array, *arguments, options: Views) -> Array:
    """Applies `function(planes of its image, size, *arguments)` to every view.

    The function returns upright planes `[S, 3, S]`; the result is channel-last and normalised, `[views, S, S, 3]`.
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
        return normalize(function(planes, size, *arguments).transpose(0, 2, 1), options)

    if on_cpu:
        image = jnp.repeat(jnp.arange(len(planes)), per_image)
        return each(lambda image, *view: one(planes[image], *view), image, sizes, *arguments)
    # All at once, with images as the outer axis, so that a device needs only its own canvases.
    grouped = jax.tree.map(lambda x: x.reshape(-1, per_image, *x.shape[1:]), (sizes, *arguments))
    views = jax.vmap(lambda planes, views: jax.vmap(lambda view: one(planes, *view))(views))(planes, grouped)
    return views.reshape(-1, *views.shape[2:])


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


# --- colour: planes [S, 3, S] in [0, 1] --------------------------------------------------


def _colour(rgb: Array, chosen: ViewParameters, options: Views) -> Array:
    """Applies one view's colour operations, in the order drawn."""
    adjust_hue = {"hsv": colour.adjust_hue, "yiq": colour.adjust_hue_yiq}[options.hue_space]
    operations = [
        lambda rgb: colour.adjust_brightness(rgb, chosen.brightness),
        lambda rgb: colour.adjust_contrast(rgb, chosen.contrast),
        lambda rgb: colour.adjust_saturation(rgb, chosen.saturation),
        lambda rgb: adjust_hue(rgb, chosen.hue),
    ]
    if not _on_cpu():
        rgb = colour.split(rgb)
    rgb = jax.tree.map(lambda plane: jnp.where(chosen.gray, colour.luma(rgb), plane), rgb)
    if not any((options.brightness, options.contrast, options.saturation, options.hue)):
        pass
    elif _on_cpu():  # a plain sequence would be fused with later operations, which is several times slower
        for place in range(4):
            rgb = jax.lax.switch(chosen.order[place], operations, rgb)
    elif options.colour_order == "fixed":
        for operation in operations:
            rgb = operation(rgb)
    else:
        factors = jnp.stack([chosen.brightness, chosen.contrast, chosen.saturation, jnp.ones(())])
        rgb = colour.jitter(rgb, factors, lambda rgb: adjust_hue(rgb, chosen.hue), chosen.order)
    return rgb if _on_cpu() else jnp.concatenate(rgb, axis=1)
