"""Activations that read-outs share: computed once for a model, a layer and a set of images, and kept on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ipcl_jax.cache import cache_folder
from ipcl_jax.encoder import Encoder
from ipcl_jax.errors import ConfigError
from ipcl_jax.extraction import plan
from ipcl_jax.features import READABLE, FeatureFile, Layer
from ipcl_jax.files import at_home
from ipcl_jax.loading import TOLERATED
from ipcl_jax.models.checks import check_layers
from ipcl_jax.sources import Source
from ipcl_jax.stimuli import Transform
from ipcl_jax.stimulus_sets import Sourced
from ipcl_jax.streaming import stream


class Features(NamedTuple):
    """A layer of all images of a source.

    Attributes:
        values: `[N, ...]` on disk; read what is needed of it.
        readable: `[N]` bool; rows of images that can't be read are NaN.
    """

    values: h5py.Dataset
    readable: np.ndarray


def cached_features(
    encoder: Encoder,
    source: Source,
    layers: Iterable[str],
    *,
    transform: Transform,
    threads: int,
    dtype: str = "float32",
    batch_size: int = 64,
    folder: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Features]:
    """Layers of all images of a source, from the cache where they are there already.

    They are known by the model's weights and normalisation, the transform, the layer, the dtype, and the
    files: a file that is changed makes all of them be computed again. What was interrupted goes on.

    Args:
        encoder: the model.
        source: the images.
        layers: their names.
        transform: what is done to each image.
        threads: that decode.
        dtype: in which they are kept, float32 or float16.
        batch_size: images at a time.
        folder: of the cache; by default `features` in `cache_folder()`.
        progress: called with how many images are done, and of how many.

    Returns:
        Each layer by its name.

    Raises:
        ConfigError: for unknown layers, if more than 1 % of the images can't be read, if a value isn't a finite
            number, if the disk has too little room, or while another process computes the same.
        OverflowError: if a value is beyond what the dtype can hold.
    """
    folder = at_home(folder) if folder else cache_folder() / "features"
    stimuli, identity, digest = Sourced(source), source.identity(), encoder.digest()
    try:
        names = check_layers(tuple(layers), encoder.layer_names)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    files, doomed = {}, False
    try:
        for name, (shape, _) in plan(encoder, names, size=transform.size).items():
            request = {
                "model": encoder.name,
                "weights_sha256": digest,
                "preprocessing": f"{transform}, less {list(encoder.mean)}, by {list(encoder.std)}",
                "images": source.name,
                "images_sha256": hashlib.sha256(identity.encode()).hexdigest(),
            }
            key = hashlib.sha256(json.dumps([name, dtype, request]).encode()).hexdigest()[:32]
            layer = {name: Layer(shape, np.dtype(dtype))}
            files[name] = FeatureFile(
                folder / f"{key}.h5", names=stimuli.names, layers=layer, attributes=request, readable=True,
                trusted=True,
            )
        _complete(files, encoder, stimuli, transform, threads, batch_size, progress)
    except (ConfigError, OverflowError):
        doomed = True  # going on with it would end there again
        raise
    finally:
        for file in files.values():
            file.close()
            if doomed and not file.complete:
                file.discard()
    found = {}
    for name, file in files.items():
        if not file.complete:
            file.publish()
        opened = h5py.File(file.path)
        found[name] = Features(opened[name], opened[READABLE][:])
    return found


def _complete(
    files: dict[str, FeatureFile], encoder: Encoder, stimuli: Sourced, transform: Transform, threads: int,
    batch_size: int, progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Computes what is missing: all layers of a batch at once."""
    missing = {name: file for name, file in files.items() if not file.complete}
    if not missing:
        return
    problems: dict[int, str] = {}
    total = len(stimuli.names)
    batches = stream(
        encoder, stimuli, transform, dict.fromkeys(missing), batch_size=batch_size, threads=threads,
        start=min(file.rows for file in missing.values()),
    )  # fmt: skip
    for batch, values in batches:
        problems |= {batch.first + place: reason for place, reason in batch.problems.items()}
        if len(problems) > TOLERATED * total:
            listing = "\n  ".join(f"{stimuli.names[i]}: {why}" for i, why in list(problems.items())[:20])
            raise ConfigError(
                f"{len(problems)} of {total} images can't be read, more than {TOLERATED:.0%}:\n  {listing}"
            )
        for name, file in missing.items():
            sound = np.isfinite(values[name]).reshape(batch.count, -1).all(1)
            sound[list(batch.problems)] = True
            if not sound.all():
                raise ConfigError(
                    f"{name} of {stimuli.names[batch.first + sound.argmin()]} is not a finite number everywhere; "
                    "the model's weights are damaged, or training it went wrong."
                )
            if file.rows <= batch.first:  # another layer may have been interrupted earlier
                file.write({name: values[name]}, batch.sha256, list(batch.problems))
        progress(batch.first + batch.count, total)
