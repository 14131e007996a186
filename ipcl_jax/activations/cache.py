"""A cache on disk of activations that read-outs share, by model, layer and set of images."""

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ipcl_jax.activations.compute import stream
from ipcl_jax.activations.encoder import Encoder
from ipcl_jax.activations.extract import plan
from ipcl_jax.activations.provenance import code_version, image_digests
from ipcl_jax.activations.stimuli import Reader, SourceStimuli
from ipcl_jax.activations.store import READABLE, FeatureFile, Layer
from ipcl_jax.data.loader import TOLERATED
from ipcl_jax.data.sources import Source
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.models.checks import check_layers
from ipcl_jax.system.cache import cache_folder
from ipcl_jax.system.files import expand_home

DTYPES = ("float32", "float16")


class Features(NamedTuple):
    """Activations of one layer for all images of a source.

    Attributes:
        values: `[N, ...]` on disk; index it to read rows.
        readable: `[N]` bool: whether the image could be read. Other rows are NaN.
    """

    values: h5py.Dataset
    readable: np.ndarray


def cached_features(
    encoder: Encoder,
    source: Source,
    layers: Iterable[str],
    reader: Reader,
    *,
    dtype: str = "float32",
    folder: str | Path | None = None,
) -> dict[str, Features]:
    """Returns activations of all images of a source, computing those that the cache lacks.

    The cache's key is made of the model's weights and normalisation, the transform, the layer, the dtype, the images'
    file names, sizes and modification times, and the version of the code. On a cache hit all images are read, and
    their sha256 is compared with the stored one; if any has changed, all activations are computed again. An
    interrupted computation is resumed. If another process or thread computes the same, this one waits for it.

    Args:
        encoder: the model.
        source: the images.
        layers: names of the layers.
        reader: how the images are read.
        dtype: of the stored activations, float32 or float16.
        folder: the cache's folder; by default `features` in `cache_folder()`.

    Returns:
        `Features` of each layer, by name.

    Raises:
        InputError: for unknown layers or another dtype, if more than 1 % of the images can't be read, if a value isn't
            a finite number or is out of the dtype's range (`BeyondRange`), if images change during the computation,
            or if the disk has too little free space.
        OSError: if the disk becomes full nevertheless, or an image can't be read for a reason that may be temporary.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    folder = expand_home(folder) if folder else cache_folder() / "features"
    stimuli, identity, weights = SourceStimuli(source), source.identity(), encoder.digest()
    names = check_layers(tuple(layers), encoder.layer_names)
    paths: dict[str, Path] = {}
    requests: dict[str, dict[str, str]] = {}
    stored: dict[str, Layer] = {}
    for name, (shape, _) in plan(encoder, names, size=reader.transform.size).items():
        requests[name] = {
            "model": encoder.name,
            "weights_sha256": weights,
            "preprocessing": f"{reader.transform}, less {list(encoder.mean)}, by {list(encoder.std)}",
            "images": source.name,
            "images_sha256": hashlib.sha256(identity.encode()).hexdigest(),
        }
        key = json.dumps([name, dtype, code_version(), requests[name]])
        paths[name] = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.h5"
        stored[name] = Layer(shape, np.dtype(dtype))
    digests = functools.cache(lambda count: image_digests(stimuli, count, threads=reader.threads))
    with contextlib.ExitStack() as opened:
        files = {}
        for name in sorted(paths, key=paths.__getitem__):  # in one order, so that two processes can't deadlock
            file = FeatureFile(
                paths[name], names=stimuli.names, layers={name: stored[name]}, attributes=requests[name],
                digests=digests, readable=True, in_cache=True, wait=True,
            )  # fmt: skip
            files[name] = opened.enter_context(file)
        missing = {name: file for name, file in files.items() if not file.complete}
        if missing:
            try:
                _compute(missing, encoder, stimuli, reader)
                if source.identity() != identity:
                    raise InputError(
                        f"Images of {source.name} changed while their activations were computed; try again."
                    )
            except InputError:  # resuming would fail again
                for file in missing.values():
                    file.discard()
                raise
        for file in missing.values():
            file.publish()
    found = {name: h5py.File(paths[name]) for name in names}
    return {name: Features(file[name], file[READABLE][:]) for name, file in found.items()}


def _compute(missing: dict[str, FeatureFile], encoder: Encoder, stimuli: SourceStimuli, reader: Reader) -> None:
    """Computes the missing rows of files, all layers of a batch together."""
    problems: dict[int, str] = {}
    total = len(stimuli.names)
    start = min(file.rows for file in missing.values())
    batches = stream(encoder, stimuli, reader, dict.fromkeys(missing), start=start)
    for batch, values in batches:
        problems |= {batch.first + place: reason for place, reason in batch.problems.items()}
        if len(problems) > TOLERATED * total:
            listing = "\n  ".join(f"{stimuli.names[i]}: {why}" for i, why in list(problems.items())[:20])
            raise ConfigError(
                f"{len(problems)} of {total} images can't be read, more than {TOLERATED:.0%}:\n  {listing}"
            )
        for name, file in missing.items():  # each skips the rows that it has
            file.write({name: values[name]}, batch.sha256, list(batch.problems), first=batch.first)
        reader.progress(batch.first + batch.count, total)
