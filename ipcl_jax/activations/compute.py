"""Activations of a set of stimuli, batch by batch, as they come off the devices."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import Pool, reduced
from ipcl_jax.activations.projection import Projection
from ipcl_jax.activations.stimuli import Reader, StimulusBatch, StimulusSet
from ipcl_jax.system.distributed import batch_sharding, make_mesh

_IN_FLIGHT = 2  # batches on the device
_CHUNK = 8  # images at a time through a CPU's convolutions


def stream(
    encoder: Encoder,
    stimuli: StimulusSet,
    reader: Reader,
    projections: Mapping[str, Projection | None],
    *,
    pool: Pool | None = None,
    compute: str = "float32",
    start: int = 0,
) -> Iterator[tuple[StimulusBatch, dict[str, np.ndarray]]]:
    """Computes layers of every image, in order, on all devices of this process; while one batch comes back, the next is
    computed.

    Args:
        encoder: the model.
        stimuli: the images.
        reader: how they are read; its batch size is rounded up to what the devices can share.
        projections: for each layer wanted, its projection or None.
        pool: as in `extract.reduced`.
        compute: dtype of convolutions and matrix products.
        start: images to skip; a multiple of the batch size gives the same batches as from the start.

    Yields:
        A batch, and `[count, ...]` float32 of each layer. Rows of images that could not be read (`batch.problems`)
        hold anything.
    """
    mesh = make_mesh(jax.local_devices())
    sharding, everywhere = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    encoder, projections = jax.device_put((encoder, dict(projections)), everywhere)
    alone = mesh.size == 1 and jax.default_backend() == "cpu"
    kinds = {
        "pool": pool,
        "dtype": jnp.dtype(compute),
        "stored": jnp.dtype("float32"),  # rounded where it is seen what that would lose
        "chunk": _CHUNK if alone else None,
    }

    def layers_of(batch: StimulusBatch) -> tuple[StimulusBatch, dict[str, np.ndarray]]:
        pixels = jax.device_put(batch.pixels, sharding)
        values = reduced(encoder, pixels, projections, **kinds)
        return batch, {name: np.asarray(array)[: batch.count] for name, array in values.items()}

    reader = replace(reader, batch_size=math.ceil(reader.batch_size / mesh.size) * mesh.size)
    batches = reader.batches(stimuli, start=start)
    # Two at a time: a CPU's cores then have work where one batch leaves them idle, between its layers.
    with ThreadPoolExecutor(_IN_FLIGHT) as workers:
        ahead: deque[Future] = deque()
        for batch in batches:
            ahead.append(workers.submit(layers_of, batch))
            if len(ahead) > _IN_FLIGHT:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
