"""Activations of any layer, as one jitted function of a model and images."""

import functools
import math
import warnings
from collections.abc import Iterable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.projection import Projection, project
from ipcl_jax.augment.views import normalize
from ipcl_jax.errors import InputError, WrongType
from ipcl_jax.models.checks import check_layers

Pool = Literal["mean", "max"]

_SLACK = 1e-3  # in standard deviations: what rounding may add to the ends of the range


def extract(
    params: Encoder, imgs: Array | np.ndarray, layers: str | Iterable[str], *, dtype: DTypeLike = jnp.float32
) -> dict[str, Array]:
    """Activations of some layers.

    Compiled once for each combination of shapes, layers and kind of model. Layers deeper than those asked
    for are not computed. Works under `jit`, `vmap` (over images, or over models of one kind, stacked)
    and differentiation in either mode, as often as wanted (`grad`, `jvp`, `linearize`, `hessian`), with respect to
    float images or to the model.

    Args:
        params: the model.
        imgs: `[B, H, W, 3]`, either float, normalised as the model wants it (`load_stimuli` does that), or
            uint8 in 0-255, which is normalised here; any H and W from 63 on (32 for ResNets). A torch tensor
            on the CPU, or a list of images of one size, is taken as an array.
        layers: names as in the reference, such as `fc7` or `conv_block_1.0`, or one name;
            `params.layer_names` has all.
        dtype: of convolutions and matrix products. bfloat16 is faster on accelerators and
            errs by about 1 % of a layer's largest value; activations are float32 either way.

    Returns:
        Each layer by its name, in the order asked for, float32: `[B, h, w, C]` up to ave_pool, `[B, D]`
        after it.

    Raises:
        InputError: for unknown layers (near names are given), if `params` is not an Encoder, and for images of
            another shape, dtype or range: floats that lie outside what [0, 1] is normalised to by more than half of
            its width. Those a little outside, as resampling, noise or synthesis makes them, give a warning.
            Under a transformation values can't be looked at, so their range isn't. (Of types it is a TypeError too.)

    Source: the reference's lib/feature_extractor.py and models in evaluation mode.
    """
    if not isinstance(params, Encoder):
        raise WrongType(
            f"params is a {type(params).__name__}, expected an Encoder, as convert_torch_checkpoint or "
            "load_encoder gives it."
        )
    layers = check_layers([layers] if isinstance(layers, str) else layers, params.layer_names)
    if not layers:
        raise InputError(f"No layers are asked for. This model has: {', '.join(params.layer_names)}.")
    imgs = _checked_images(params, imgs)
    found = compute(params, imgs, layers, jnp.dtype(dtype))
    return {name: found[name] for name in layers}  # jit sorts


@functools.partial(jax.jit, static_argnums=(2, 3))
def compute(encoder: Encoder, images: Array, layers: tuple[str, ...], dtype: jnp.dtype) -> dict[str, Array]:
    """What `extract` computes, without its checks."""
    return _apply(encoder, images, layers, dtype)


def _apply(
    encoder: Encoder,
    images: Array | None,
    layers: tuple[str, ...],
    dtype: jnp.dtype,
    pooled: Array | None = None,
) -> dict[str, Array]:
    if images is not None and images.dtype == jnp.uint8:
        images = normalize(images.astype(jnp.float32) / 255, encoder)
    exact = dtype == jnp.float32  # accelerators would by default drop digits of float32 products
    module = encoder.module.clone(dtype=None if exact else dtype)
    with jax.default_matmul_precision("highest" if exact else "default"):
        _, found = module.apply(encoder.variables, images, layers=layers, pooled=pooled)
    return {name: value.astype(jnp.promote_types(jnp.float32, value.dtype)) for name, value in found.items()}


def _checked_images(encoder: Encoder, images: object) -> Array | np.ndarray:
    """Images as an array, once they are found to be what this model can look at."""
    if not isinstance(images, jax.Array | np.ndarray):
        try:
            images = np.asarray(images)
        except Exception as error:  # of lists of unlike images, of tensors on other devices
            raise WrongType(f"imgs is a {type(images).__name__} that can't be taken as an array: {error}") from None
    shape, dtype = images.shape, images.dtype
    if dtype != jnp.uint8 and not jnp.issubdtype(dtype, jnp.floating):
        hint = " For paths there is load_stimuli." if dtype.kind in "USO" else ""
        raise WrongType(
            f"imgs is {dtype}, expected uint8 in 0-255, or float, normalised as by load_stimuli.{hint}"
        )
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        hint = ""
        if len(shape) == 3 and shape[-1] == 3:
            hint = " For one image: imgs[None]."
        elif len(shape) == 4 and shape[1] == 3:
            hint = " Channels come last here: imgs.transpose(0, 2, 3, 1)."
        elif 0 in shape:
            hint = " There are no images in it."
        raise InputError(f"imgs has shape {list(shape)}, expected [B, H, W, 3].{hint}")
    if dtype == jnp.uint8 or isinstance(images, jax.core.Tracer):
        return images
    low, high = _range(encoder)
    with jax.ensure_compile_time_eval():  # images may be at hand while the model is traced
        *found, finite = np.asarray(_extent(images)).tolist()
    if not finite:
        raise InputError("imgs holds values that are not finite numbers.")
    wanted = f"(imgs - mean) / std, with imgs in [0, 1], mean {encoder.mean} and std {encoder.std}"
    there = f"imgs lies in {found[0]:.4g} to {found[1]:.4g}"
    outside = max(low - found[0], found[1] - high)
    usual = f"normalised images of this model lie in {low:.4g} to {high:.4g}"
    if outside > (high - low) / 2:
        reason = "look like 0-255 floats" if found[0] >= 0 else "are not normalised as this model wants"
        raise InputError(f"{there}; {usual}. These {reason}: pass uint8, or {wanted}.")
    if outside > _SLACK:
        warnings.warn(f"{there}; {usual}, and these go beyond.", stacklevel=3)
    elif 0 <= found[0] and 0.5 < found[1] <= 1:
        warnings.warn(f"{there}, as if it were not normalised. Expected is {wanted}.", stacklevel=3)
    return images


@jax.jit
def _extent(images: Array) -> Array:
    """Lowest value, highest value (neither of which need show a NaN), and whether all are finite."""
    return jnp.stack([images.min(), images.max(), jnp.isfinite(images).all().astype(images.dtype)])


def _range(encoder: Encoder) -> tuple[float, float]:
    """The lowest and the highest value of a normalised image."""
    pairs = list(zip(encoder.mean, encoder.std, strict=True))
    return min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)


@functools.partial(jax.jit, static_argnames=("pool", "dtype", "stored", "chunk"))
def reduced(
    encoder: Encoder,
    images: Array,
    projections: dict[str, Projection | None],
    *,
    pool: Pool | None,
    dtype: jnp.dtype,
    stored: jnp.dtype,
    chunk: int | None = None,
) -> dict[str, Array]:
    """Activations in the form in which they are kept: pooled, projected and rounded on the device.

    Args:
        encoder: the model.
        images: `[B, H, W, 3]` uint8, or float and normalised.
        projections: for each layer wanted, its projection or None.
        pool: over space, before the projection; None keeps every place.
        dtype: of convolutions and matrix products.
        stored: dtype of the result.
        chunk: images at a time through the convolutions; None for all. A CPU's caches hold what lies
            between two layers of a few images; linear layers would read their weights too often.

    Returns:
        Each layer by its name: `[B, N]` if projected, else `[B, C]` or `[B, D]` if pooled or flat,
        else `[B, h, w, C]`.
    """

    def keep(found: dict[str, Array]) -> dict[str, Array]:
        kept = {}
        for name, values in found.items():
            if pool and values.ndim == 4:
                values = values.mean((1, 2)) if pool == "mean" else values.max((1, 2))
            if (projection := projections[name]) is not None:
                values = project(values.reshape(len(values), -1), projection)
            kept[name] = values.astype(stored)
        return kept

    layers = tuple(projections)
    if chunk is None:
        return keep(_apply(encoder, images, layers, dtype))
    end = encoder.module.pooled_layer
    last = encoder.layer_names.index(end)
    shallow = tuple(name for name in layers if encoder.layer_names.index(name) <= last)
    deep = tuple(name for name in layers if name not in shallow)

    def convolutions(image: Array) -> tuple[dict[str, Array], Array | None]:
        found = _apply(encoder, image[None], (*shallow, *((end,) if deep else ())), dtype)
        kept = keep({name: found[name] for name in shallow})
        return {name: value[0] for name, value in kept.items()}, found[end][0] if deep else None

    kept, pooled = jax.lax.map(convolutions, images, batch_size=chunk)
    return kept | (keep(_apply(encoder, None, deep, dtype, pooled)) if deep else {})


def plan(
    encoder: Encoder,
    layers: Iterable[str],
    *,
    size: int,
    pool: Pool | None = None,
    n_components: int | None = None,
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """What would be kept of each layer for an image, without computing it.

    Args:
        encoder: the model.
        layers: their names.
        size: side of the images in pixels.
        pool: as in `reduced`.
        n_components: of the projection; a layer with no more numbers than that is not projected.

    Returns:
        For each layer its shape before a projection, and whether it is to be projected.
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    keep = functools.partial(reduced, pool=pool, dtype=jnp.dtype("float32"), stored=jnp.dtype("float32"))
    shapes = jax.eval_shape(keep, encoder, images, dict.fromkeys(layers))
    found = {name: shapes[name].shape[1:] for name in layers}
    return {
        name: (shape, n_components is not None and math.prod(shape) > n_components)
        for name, shape in found.items()
    }
