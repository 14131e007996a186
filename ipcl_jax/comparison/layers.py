"""A model's layers for the images of a comparison, some at a time, so that their activations fit into memory."""

import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from ipcl_jax.activations.compute import stream
from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import plan
from ipcl_jax.activations.stimuli import Reader, StimulusSet
from ipcl_jax.errors import ConfigError
from ipcl_jax.measures.base import Layer
from ipcl_jax.readout.base import check_features
from ipcl_jax.readout.kernels import layer_kernels

_COLUMNS = 1 << 27  # bytes of activations in float64 at a time


def widths(encoder: Encoder, layers: Sequence[str], *, size: int) -> dict[str, int]:
    """Returns the number of values D that each layer has for an image.

    Args:
        encoder: the model.
        layers: names of the layers.
        size: side of the images in pixels.
    """
    return {name: math.prod(shape) for name, (shape, _) in plan(encoder, layers, size=size).items()}


def group_layers(numbers: dict[str, int], count: int, *, memory: int) -> list[tuple[str, ...]]:
    """Groups consecutive layers whose activations fit into memory together.

    Args:
        numbers: of values of each layer, from `widths`.
        count: number of images.
        memory: bytes of activations; a layer that is larger is a group of its own.
    """
    groups: list[tuple[str, ...]] = []
    free = 0
    for name, number in numbers.items():
        size = 4 * number * count
        if groups and size <= free:
            groups[-1] += (name,)
            free -= size
        else:
            groups.append((name,))
            free = memory - size
    return groups


def read_layers(
    encoder: Encoder, stimuli: StimulusSet, reader: Reader, names: Sequence[str], *, memory: int
) -> Iterator[tuple[str, Layer]]:
    """Computes the layers of one group; see `group_layers`.

    Args:
        encoder: the model.
        stimuli: N images.
        reader: how they are read.
        names: of the layers.
        memory: as in `group_layers`.

    Yields:
        Each layer's name, and its activations: features and a float64 kernel if the features fit into memory, or else a
        float32 kernel alone.

    Raises:
        ConfigError: if an image can't be read.
        InputError: if an activation isn't a finite number.
    """
    count = len(stimuli.names)
    numbers = widths(encoder, names, size=reader.transform.size)
    if 4 * count * sum(numbers.values()) > memory:
        for name, kernels in layer_kernels(encoder, stimuli, reader, names, ["linear"], memory=memory).items():
            yield name, Layer(None, kernels["linear"])
        return
    features = {name: np.empty((count, number), np.float32) for name, number in numbers.items()}
    for batch, values in stream(encoder, stimuli, reader, dict.fromkeys(names)):
        if batch.problems:
            place, reason = next(iter(batch.problems.items()))
            raise ConfigError(f"{stimuli.names[batch.first + place]} can't be read: {reason}")
        for name, value in values.items():
            rows = _channels_first(value).reshape(len(value), -1)
            check_features(jnp.asarray(rows), first=batch.first)
            features[name][batch.first : batch.first + batch.count] = rows
        reader.progress(batch.first + batch.count, count)
    for name in names:
        own = features.pop(name)
        yield name, Layer(own, exact_kernel(own))


def exact_kernel(features: np.ndarray) -> np.ndarray:
    """Computes the linear kernel of features, about their mean.

    Args:
        features: `[N, D]` float32 or float64.

    Returns:
        `[N, N]` float64, symmetric.
    """
    count, number = features.shape
    found = np.zeros((count, count))
    step = max(1, _COLUMNS // (8 * count))
    for start in range(0, number, step):
        part = features[:, start : start + step].astype(np.float64)
        part -= part.mean(0)
        found += part @ part.T
    return (found + found.T) / 2


def _channels_first(values: np.ndarray) -> np.ndarray:
    return values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
