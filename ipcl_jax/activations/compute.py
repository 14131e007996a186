"""Computation of activations of a set of stimuli, batch by batch."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import Pool, reduced
from ipcl_jax.activations.projection import Projection
from ipcl_jax.activations.stimuli import Reader, StimulusBatch, StimulusSet
from ipcl_jax.system.distributed import batch_sharding, make_mesh

_IN_FLIGHT = 2  # batches computed at a time
_CHUNK = 8  # images that convolutions on a CPU take at a time


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
    """Yields activations of every image, in order, computed on all devices of this process.

    The next batch is computed while one is copied back to the host.

    Args:
        encoder: the model.
        stimuli: the images.
        reader: how they are read; its batch size is rounded up to a multiple of the number of devices.
        projections: for each layer to compute, its projection or None.
        pool: as in `extract.reduced`.
        compute: dtype of convolutions and matrix products.
        start: images to skip; a multiple of the batch size gives the same batches as from the start.

    Yields:
        A batch, and for each layer `[count, ...]` float32. Rows of images that could not be read (`batch.problems`)
        are undefined.
    """
    mesh = make_mesh(jax.local_devices())
    sharding, replicated = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    encoder, projections = jax.device_put((encoder, dict(projections)), replicated)
    single_cpu = mesh.size == 1 and jax.default_backend() == "cpu"
    options: dict[str, Any] = {
        "pool": pool,
        "dtype": jnp.dtype(compute),
        "stored": jnp.dtype("float32"),  # rounded when written, where values out of range are found
        "chunk": _CHUNK if single_cpu else None,
    }

    def layers_of(batch: StimulusBatch) -> tuple[StimulusBatch, dict[str, np.ndarray]]:
        pixels = jax.device_put(batch.pixels, sharding)
        values = reduced(encoder, pixels, projections, **options)
        return batch, {name: np.asarray(array)[: batch.count] for name, array in values.items()}

    reader = replace(reader, batch_size=math.ceil(reader.batch_size / mesh.size) * mesh.size)
    batches = reader.batches(stimuli, start=start)
    # Two batches at a time keep a CPU's cores busy while one batch is between two layers.
    with ThreadPoolExecutor(_IN_FLIGHT) as workers:
        pending: deque[Future] = deque()
        for batch in batches:
            pending.append(workers.submit(layers_of, batch))
            if len(pending) > _IN_FLIGHT:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
