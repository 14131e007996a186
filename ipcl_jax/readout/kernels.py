"""Kernels: matrices `[N, N]` of products of all pairs of N images in a layer, from which RDMs and CKA are computed.

The features `[N, D]` need not be stored. A kernel is one of

    correlation   Pearson's r of two images' features
    cosine        their cosine
    linear        their inner product, after the same vector is subtracted from all images' features (this changes
                  neither distances nor centred comparisons, and reduces the rounding error of small differences)
"""

import functools
import itertools
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
from ipcl_jax.readout.base import centre, check_features, check_rows, to_unit_length

Kernel = Literal["correlation", "cosine", "linear"]
Metric = Literal["correlation", "euclidean", "cosine"]

MEMORY = 1 << 30  # bytes of features on the device at a time


def kernel_of(metric: Metric) -> Kernel:
    """Returns the kernel that a dissimilarity is computed from.

    Raises:
        InputError: for an unknown dissimilarity.
    """
    if metric not in get_args(Metric):
        raise InputError(f"No dissimilarity {metric!r}.{near_miss(str(metric), get_args(Metric))}")
    return "linear" if metric == "euclidean" else metric


def kernel_matrix(features: ArrayLike, kernel: Kernel) -> np.ndarray:
    """Computes a kernel of features.

    Args:
        features: `[N, ...]`; each image's are flattened.
        kernel: the kernel.

    Returns:
        `[N, N]` float32, symmetric.

    Raises:
        InputError: for features that are not finite.
    """
    values = jnp.asarray(check_rows(features), jnp.float32)
    values = values.reshape(len(values), -1)
    check_features(values)
    rows = _prepare(values, values.mean(0), kernel)
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
    """Computes kernels of layers on the device, without storing all features.

    Features of as many images as fit are kept on the device, and compared with all later images, batch by batch.
    Then the next images are kept, and so on. Activations are computed again each time, which is faster than storing
    them on disk.

    Args:
        encoder: the model.
        stimuli: N images.
        reader: how they are read; `progress` counts pairs of batches.
        layers: names of the layers.
        kernels: the kernels.
        memory: bytes for the features that are kept on the device.

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
    kept = min(batches, max(1, memory // (4 * numbers * len(kernels) * batch_size)))  # batches on the device
    rounds = range(0, batches, kept)
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
            if number < start + kept:
                held.append((batch.first, batch.count, rows))
            columns = slice(batch.first, batch.first + batch.count)
            for first, count, other in held:
                products = jax.device_get(_products(other, rows))
                for layer, kernel in itertools.product(layers, kernels):
                    block = products[layer][kernel][:count, : batch.count]
                    found[layer][kernel][first : first + count, columns] = block
                    found[layer][kernel][columns, first : first + count] = block.T
            done += 1
            reader.progress(done, pairs)
    return found


@functools.partial(jax.jit, static_argnames="kernel")
def _prepare(features: Array, shift: Array, kernel: Kernel) -> Array:
    """Returns rows `[N, D]` whose products are the kernel; zeros for an image whose features are constant."""
    if kernel == "linear":
        return features - shift[None]
    if kernel == "correlation":
        features = centre(features, axis=1)
    return to_unit_length(features)


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
