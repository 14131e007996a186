"""Products of all pairs of images in a layer, from which every comparison of geometries starts.

Of N images and a layer of D numbers only `[N, N]` is kept. A kernel is one of

    correlation   Pearson's r of two images' features
    cosine        their cosine
    linear        their inner product, after one vector is taken from all images' features alike (distances
                  and centred comparisons don't see it, and small differences keep their digits)
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import compute, plan
from ipcl_jax.activations.stimuli import Reader, StimulusSet
from ipcl_jax.errors import ConfigError, InputError, near_miss
from ipcl_jax.readout.base import centred, check_features, check_rows, without_length

Kernel = Literal["correlation", "cosine", "linear"]
Metric = Literal["correlation", "euclidean", "cosine"]

MEMORY = 1 << 30  # bytes of features on the device at a time


def kernel_of(metric: Metric) -> Kernel:
    """The kernel that a dissimilarity is made of.

    Raises:
        InputError: for an unknown dissimilarity.
    """
    if metric not in get_args(Metric):
        raise InputError(f"No dissimilarity {metric!r}.{near_miss(str(metric), get_args(Metric))}")
    return "linear" if metric == "euclidean" else metric


def kernel_matrix(features: ArrayLike, kernel: Kernel) -> np.ndarray:
    """A kernel of features at hand.

    Args:
        features: `[N, ...]`; each image's are flattened.
        kernel: which.

    Returns:
        `[N, N]` float32, symmetric.

    Raises:
        InputError: for features that are not finite.
    """
    features = jnp.asarray(check_rows(features), jnp.float32)
    features = features.reshape(len(features), -1)
    check_features(features)
    rows = _prepare(features, features.mean(0), kernel)
    return np.asarray(_product(rows, rows))


def layer_kernels(
    encoder: Encoder,
    stimuli: StimulusSet,
    reader: Reader,
    layers: Iterable[str],
    kernels: Iterable[Kernel],
    *,
    memory: int = MEMORY,
) -> dict[str, dict[Kernel, np.ndarray]]:
    """Kernels of layers, built on the device; features don't leave it and are never kept all.

    As many images as fit stay on the device, and all that come after pass by in batches. Each such
    round computes the model anew, which costs less than a disk full of features.

    Args:
        encoder: the model.
        stimuli: N images.
        reader: how they are read; `progress` counts pairs of batches.
        layers: their names.
        kernels: which.
        memory: bytes that the images which stay may take.

    Returns:
        For each layer and kernel `[N, N]` float32, symmetric.

    Raises:
        ConfigError: if an image can't be read.
        InputError: for unknown layers, or a feature that isn't a finite number.
    """
    layers, kernels, batch_size = tuple(layers), tuple(kernels), reader.batch_size
    total = len(stimuli.names)
    numbers = sum(int(np.prod(shape)) for shape, _ in plan(encoder, layers, size=reader.transform.size).values())
    batches = -(-total // batch_size)
    stay = min(batches, max(1, memory // (4 * numbers * len(kernels) * batch_size)))  # batches
    rounds = range(0, batches, stay)
    pairs, done = sum(batches - start for start in rounds), 0
    found = {layer: {kernel: np.empty((total, total), np.float32) for kernel in kernels} for layer in layers}
    shift = None
    for start in rounds:
        held = []
        for number, batch in enumerate(reader.batches(stimuli, start=start * batch_size), start):
            if batch.problems:
                place, reason = next(iter(batch.problems.items()))
                raise ConfigError(f"{stimuli.names[batch.first + place]} can't be read: {reason}")
            features = compute(encoder, batch.pixels, layers, jnp.dtype("float32"))
            features = {name: value.reshape(len(value), -1) for name, value in features.items()}
            for value in features.values():
                check_features(value, first=batch.first)
            shift = shift or {name: value.mean(0) for name, value in features.items()}
            rows = _prepare_all(features, shift, kernels)
            if number < start + stay:
                held.append((batch.first, batch.count, rows))
            columns = slice(batch.first, batch.first + batch.count)
            for first, count, other in held:
                products = jax.device_get(_products(other, rows))
                for layer, kernel in ((layer, kernel) for layer in layers for kernel in kernels):
                    block = products[layer][kernel][:count, : batch.count]
                    found[layer][kernel][first : first + count, columns] = block
                    found[layer][kernel][columns, first : first + count] = block.T
            done += 1
            reader.progress(done, pairs)
    return found


@functools.partial(jax.jit, static_argnames="kernel")
def _prepare(features: Array, shift: Array, kernel: Kernel) -> Array:
    """Rows `[N, D]` whose products are the kernel; an image without any variation has none."""
    if kernel == "linear":
        return features - shift[None]
    if kernel == "correlation":
        features = centred(features, axis=1)
    return without_length(features)


@functools.partial(jax.jit, static_argnames="kernels")
def _prepare_all(features: Mapping, shift: Mapping, kernels: tuple[Kernel, ...]) -> dict:
    return {
        name: {kernel: _prepare(value, shift[name], kernel) for kernel in kernels}
        for name, value in features.items()
    }


@jax.jit
def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b.T, precision="highest")


@jax.jit
def _products(a: Mapping, b: Mapping) -> Mapping:
    return jax.tree.map(_product, a, b)
