"""Activations of any layer, computed by one jitted function of a model and images."""

import functools
import math
import warnings
from collections.abc import Iterable
from typing import Any, Literal

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

_TOLERANCE = 1e-3  # in standard deviations: how far beyond the range rounding may move a value


def extract(
    params: Encoder, imgs: Array | np.ndarray, layers: str | Iterable[str], *, dtype: DTypeLike = jnp.float32
) -> dict[str, Array]:
    """Computes activations of some layers.

    Compiled once for each combination of shapes, layers and model configuration. Layers deeper than those asked
    for are not computed. Works under `jit`, `vmap` (over images, or over stacked models of the same configuration)
    and differentiation of any order in either mode (`grad`, `jvp`, `linearize`, `hessian`), with respect to
    float images or to the model.

    Args:
        params: the model.
        imgs: `[B, H, W, 3]`, either float, normalised with the model's mean and std (as by `load_stimuli`), or
            uint8 in 0-255, which this function normalises; H and W are at least 63 (32 for ResNets). A torch tensor
            on the CPU, or a list of images of one size, is converted to an array.
        layers: one name or several, as in the reference, such as `fc7` or `conv_block_1.0`;
            `params.layer_names` lists all.
        dtype: of convolutions and matrix products. bfloat16 is faster on accelerators and
            errs by about 1 % of a layer's largest value; activations are float32 either way.

    Returns:
        Activations by layer name, in the order asked for, float32: `[B, h, w, C]` up to ave_pool, `[B, D]`
        after it.

    Raises:
        InputError: for unknown layers (the message suggests similar names), if `params` is not an Encoder, and for
            images of another shape, dtype or range: floats beyond the range of normalised images by more than half
            its width. Floats a little beyond, as from resampling, noise or synthesis, give a warning.
            Under a transformation values are unknown, so the range is not checked. (Errors of type are a TypeError
            too.)

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
    images = _check_images(params, imgs)
    found = compute(params, images, layers, jnp.dtype(dtype))
    return {name: found[name] for name in layers}  # jit returns them sorted


@functools.partial(jax.jit, static_argnums=(2, 3))
def compute(encoder: Encoder, images: Array, layers: tuple[str, ...], dtype: jnp.dtype) -> dict[str, Array]:
    """Computes activations as `extract`, without its checks."""
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
    exact = dtype == jnp.float32  # accelerators round float32 products to fewer digits by default
    module = encoder.module.clone(dtype=None if exact else dtype)
    with jax.default_matmul_precision("highest" if exact else "default"):
        _, found = module.apply(encoder.variables, images, layers=layers, pooled=pooled)
    return {name: value.astype(jnp.promote_types(jnp.float32, value.dtype)) for name, value in found.items()}


def _check_images(encoder: Encoder, images: Any) -> Array | np.ndarray:
    """Converts images to an array and raises InputError if the model can't take them."""
    if not isinstance(images, jax.Array | np.ndarray):
        try:
            images = np.asarray(images)
        except Exception as error:  # such as lists of images of different sizes, or tensors on other devices
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
    low, high = _normalised_range(encoder)
    with jax.ensure_compile_time_eval():  # images may be concrete while the model is traced
        *found, finite = np.asarray(_value_range(images)).tolist()
    if not finite:
        raise InputError("imgs holds values that are not finite numbers.")
    wanted = f"(imgs - mean) / std, with imgs in [0, 1], mean {encoder.mean} and std {encoder.std}"
    there = f"imgs lies in {found[0]:.4g} to {found[1]:.4g}"
    outside = max(low - found[0], found[1] - high)
    usual = f"normalised images of this model lie in {low:.4g} to {high:.4g}"
    if outside > (high - low) / 2:
        reason = "look like 0-255 floats" if found[0] >= 0 else "are not normalised as this model wants"
        raise InputError(f"{there}; {usual}. These {reason}: pass uint8, or {wanted}.")
    if outside > _TOLERANCE:
        warnings.warn(f"{there}; {usual}, and these go beyond.", stacklevel=3)
    elif 0 <= found[0] and 0.5 < found[1] <= 1:
        warnings.warn(f"{there}, as if it were not normalised. Expected is {wanted}.", stacklevel=3)
    return images


@jax.jit
def _value_range(images: Array | np.ndarray) -> Array:
    """Returns the lowest and the highest value (either may miss a NaN), and whether all are finite."""
    return jnp.stack([images.min(), images.max(), jnp.isfinite(images).all().astype(images.dtype)])


def _normalised_range(encoder: Encoder) -> tuple[float, float]:
    """Returns the lowest and the highest value that a normalised image can have."""
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
    """Computes activations, then pools, projects and rounds them on the device.

    Args:
        encoder: the model.
        images: `[B, H, W, 3]` uint8, or float and normalised.
        projections: for each layer to compute, its projection or None.
        pool: over space, before the projection; None keeps all positions.
        dtype: of convolutions and matrix products.
        stored: dtype of the result.
        chunk: number of images that convolutions take at a time; None for all. The activations of a few images fit
            a CPU's caches. Linear layers always take the full batch, since each pass reads all their weights.

    Returns:
        Activations by layer name: `[B, N]` if projected, else `[B, C]` or `[B, D]` if pooled or flat,
        else `[B, h, w, C]`.
    """

    def reduce(found: dict[str, Array]) -> dict[str, Array]:
        result = {}
        for name, values in found.items():
            if pool and values.ndim == 4:
                values = values.mean((1, 2)) if pool == "mean" else values.max((1, 2))
            if (projection := projections[name]) is not None:
                values = project(values.reshape(len(values), -1), projection)
            result[name] = values.astype(stored)
        return result

    layers = tuple(projections)
    if chunk is None:
        return reduce(_apply(encoder, images, layers, dtype))
    end = encoder.module.pooled_layer
    last = encoder.layer_names.index(end)
    shallow = tuple(name for name in layers if encoder.layer_names.index(name) <= last)
    deep = tuple(name for name in layers if name not in shallow)

    def convolutions(image: Array) -> tuple[dict[str, Array], Array | None]:
        found = _apply(encoder, image[None], (*shallow, *((end,) if deep else ())), dtype)
        result = reduce({name: found[name] for name in shallow})
        return {name: value[0] for name, value in result.items()}, found[end][0] if deep else None

    result, pooled = jax.lax.map(convolutions, images, batch_size=chunk)
    return result | (reduce(_apply(encoder, None, deep, dtype, pooled)) if deep else {})


def plan(
    encoder: Encoder,
    layers: Iterable[str],
    *,
    size: int,
    pool: Pool | None = None,
    n_components: int | None = None,
) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Returns the shape of each layer's activations for an image, without computing them.

    Args:
        encoder: the model.
        layers: names of the layers.
        size: side of the images in pixels.
        pool: as in `reduced`.
        n_components: of the projection; a layer with at most this many values is not projected.

    Returns:
        For each layer its shape before projection, and whether it is projected.
    """
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    reduce = functools.partial(reduced, pool=pool, dtype=jnp.dtype("float32"), stored=jnp.dtype("float32"))
    shapes = jax.eval_shape(reduce, encoder, images, dict.fromkeys(layers))
    found = {name: shapes[name].shape[1:] for name in layers}
    return {
        name: (shape, n_components is not None and math.prod(shape) > n_components)
        for name, shape in found.items()
    }
