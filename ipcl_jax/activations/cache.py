"""Activations that read-outs share: computed once for a model, a layer and a set of images, and kept on disk."""

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
from ipcl_jax.activations.stimuli import Reader, Sourced
from ipcl_jax.activations.store import READABLE, FeatureFile, Layer
from ipcl_jax.data.loader import TOLERATED
from ipcl_jax.data.sources import Source
from ipcl_jax.errors import ConfigError, InputError
from ipcl_jax.models.checks import check_layers
from ipcl_jax.system.cache import cache_folder
from ipcl_jax.system.files import expand_home

DTYPES = ("float32", "float16")


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
    reader: Reader,
    *,
    dtype: str = "float32",
    folder: str | Path | None = None,
) -> dict[str, Features]:
    """Layers of all images of a source, from the cache where they are there already.

    They are known by the model's weights and normalisation, the transform, the layer, the dtype, the files' names,
    sizes and times of change, and the version of the code. Before they are handed out, all images are read and
    compared with the sha256 of those that they were computed from; if one has changed, all are computed anew. What
    was interrupted goes on. Where another process or thread computes the same, this one waits for it.

    Args:
        encoder: the model.
        source: the images.
        layers: their names.
        reader: how the images are read.
        dtype: in which they are kept, float32 or float16.
        folder: of the cache; by default `features` in `cache_folder()`.

    Returns:
        Each layer by its name.

    Raises:
        InputError: for unknown layers or another dtype, if more than 1 % of the images can't be read, if a value isn't
            a finite number or beyond what the dtype can hold (a `BeyondRange`), if images change meanwhile, or if
            the disk has too little room.
        OSError: if it runs full nevertheless, or an image can't be read for a reason that may pass.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    folder = expand_home(folder) if folder else cache_folder() / "features"
    stimuli, identity, weights = Sourced(source), source.identity(), encoder.digest()
    names = check_layers(tuple(layers), encoder.layer_names)
    paths, requests, kept = {}, {}, {}
    for name, (shape, _) in plan(encoder, names, size=reader.transform.size).items():
        requests[name] = {
            "model": encoder.name,
            "weights_sha256": weights,
            "preprocessing": f"{reader.transform}, less {list(encoder.mean)}, by {list(encoder.std)}",
            "images": source.name,
            "images_sha256": hashlib.sha256(identity.encode()).hexdigest(),
        }
        known_by = json.dumps([name, dtype, code_version(), requests[name]])
        paths[name] = folder / f"{hashlib.sha256(known_by.encode()).hexdigest()[:32]}.h5"
        kept[name] = Layer(shape, np.dtype(dtype))
    digests = functools.cache(lambda count: image_digests(stimuli, count, threads=reader.threads))
    with contextlib.ExitStack() as opened:
        files = {}
        for name in sorted(paths, key=paths.get):  # two that want the same files wait for them in one order
            file = FeatureFile(
                paths[name], names=stimuli.names, layers={name: kept[name]}, attributes=requests[name],
                digests=digests, readable=True, ours=True, wait=True,
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
            except InputError:  # going on with it would end there again
                for file in missing.values():
                    file.discard()
                raise
        for file in missing.values():
            file.publish()
    found = {name: h5py.File(paths[name]) for name in names}
    return {name: Features(file[name], file[READABLE][:]) for name, file in found.items()}


def _compute(missing: dict[str, FeatureFile], encoder: Encoder, stimuli: Sourced, reader: Reader) -> None:
    """Computes the rows that files lack: all layers of a batch at once."""
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
        for name, file in missing.items():  # one may have been interrupted earlier than another
            file.write({name: values[name]}, batch.sha256, list(batch.problems), first=batch.first)
        reader.progress(batch.first + batch.count, total)
