"""Opening a model by its name or path, as an encoder."""

import dataclasses
import warnings
from pathlib import Path

from ipcl_jax import zoo
from ipcl_jax.activations.description import read_model
from ipcl_jax.activations.encoder import Encoder, init_encoder
from ipcl_jax.activations.serialize import SUFFIX, is_encoder, read_encoder, save_encoder
from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD
from ipcl_jax.errors import ConfigError, InputError, near_miss
from ipcl_jax.system.cache import cache_folder, sha256
from ipcl_jax.system.files import expand_home

from .checkpoint import from_torch, guess_model
from .download import fetch
from .errors import CheckpointError, CheckpointWarning
from .reading import is_safetensors, read_tensors

Channels = tuple[float, float, float]

MADE_BY = {"conversion": "2"}
"""In the header of a converted copy in the cache. Raise it when a change converts the same file to another model."""


def convert_torch_checkpoint(
    name_or_path: str | Path,
    *,
    arch: str | None = None,
    out_dim: int | None = None,
    l2norm: bool | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
    progress: bool = True,
) -> Encoder:
    """Converts a released model, or any checkpoint of the same network, to an encoder.

    A released model is downloaded and converted once; after that the converted copy is read, which needs neither torch
    nor an internet connection. A local file is converted at every call. A local copy of a released file is recognised
    by its sha256.

    Issues a CheckpointWarning if a file's tensors had to be changed: prefixes removed, tensors left out, or weights of
    16 or 64 bits converted to float32.

    Args:
        name_or_path: `ipcl1` ... `ipcl16`, or the path of a file (`.pth`, `.pth.tar`, `.safetensors`): see
            `convert.reading.read_tensors` for its possible contents. A file by `save_encoder` is loaded unchanged.
        arch: the network; by default as released, or inferred from the tensors' names.
        out_dim: outputs that the network must have; by default those of the file.
        l2norm: whether embeddings are scaled to unit length; by default as released, and for other
            files True unless there are 1000 outputs.
        mean: of the images' channels; by default as released, and ImageNet's for other files.
        std: as mean.
        cache_dir: folder of released models; by default $IPCL_JAX_CACHE or ~/.cache/ipcl_jax.
        base_url: address of the released files, for a mirror; by default $IPCL_JAX_URL or
            the release's own.
        progress: draw a progress bar while downloading.

    Returns:
        The model. `extract` and `load_stimuli` take it as it is.

    Raises:
        ConfigError: if there is neither a model nor a file of that name.
        DownloadError: if a released file can't be downloaded.
        CheckpointError: if a file isn't of this network, listing every tensor that is wrong.
        MissingPackage: if torch or pooch is needed and missing.
    """
    options = {"arch": arch, "out_dim": out_dim, "l2norm": l2norm, "mean": mean, "std": std}
    chosen = {name: value for name, value in options.items() if value is not None}
    record = zoo.MODELS.get(str(name_or_path))
    if record is None:
        path = expand_home(name_or_path)
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "is no file"
            raise ConfigError(
                f"No model {str(name_or_path)!r}: it {found}, and no released model has that name."
                f"{near_miss(str(name_or_path), zoo.MODELS)}"
            )
        if is_safetensors(path) and is_encoder(path):
            return _with_changes(read_encoder(path), chosen)
        return _convert(path, sha256(path), chosen)
    if record.file is None:
        encoder = init_encoder(record.model, mean=record.mean, std=record.std, name=record.name)
    else:
        encoder = _released(record, cache_folder(cache_dir), base_url=base_url, progress=progress)
    return _with_changes(encoder, chosen)


def open_encoder(name_or_path: str | Path) -> Encoder:
    """Opens a model: a released one by its name, a PyTorch file, a safetensors file, or a run's folder.

    Args:
        name_or_path: as for `convert_torch_checkpoint` or `ipcl_jax.load_encoder`.

    Returns:
        The model.

    Raises:
        ConfigError, DownloadError, CheckpointError, MissingPackage: as those two functions.
    """
    path = expand_home(name_or_path)
    if str(name_or_path) not in zoo.MODELS and path.is_dir():
        return read_encoder(path)
    return convert_torch_checkpoint(name_or_path)


def _released(record: zoo.Released, cache: Path, *, base_url: str | None, progress: bool) -> Encoder:
    """Returns a released model from its converted copy in the cache, which is made if it is missing or out of date."""
    assert record.sha256 is not None  # as it has a file
    converted = cache / f"{record.name}{SUFFIX}"
    if converted.exists():
        try:
            if is_encoder(converted, **MADE_BY):
                encoder = read_encoder(converted)
                if encoder.source.startswith(record.sha256):
                    return encoder
        except ConfigError:  # the copy is damaged and will be replaced
            pass
    path, digest = fetch(record, cache, base_url=base_url, progress=progress)
    try:
        encoder = _convert(path, digest, {})
    except CheckpointError:
        path.unlink()  # so that it is downloaded again
        raise
    save_encoder(encoder, converted, header=MADE_BY)
    return encoder


def _convert(path: Path, digest: str, chosen: dict) -> Encoder:
    tensors, description, remarks = read_tensors(path)
    try:
        encoder = _encoder_of(tensors, description, path, digest, chosen)
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(f"{path} can't be read as a model: {error}") from None
    if remarks and not _record_of(digest):  # no warnings about released files
        warnings.warn(f"{path}: {'; '.join(remarks)}.", CheckpointWarning, stacklevel=3)
    return encoder


def _record_of(digest: str) -> zoo.Released | None:
    """Returns the released model whose file has that sha256; None if there is none."""
    return next((r for r in zoo.MODELS.values() if r.sha256 and digest.startswith(r.sha256)), None)


def _encoder_of(tensors: dict, description: dict, path: Path, digest: str, chosen: dict) -> Encoder:
    known: dict
    if record := _record_of(digest):
        model, known = record.model, {"name": record.name, "mean": record.mean, "std": record.std}
    elif description:
        model, known = read_model(description.get("model")), description
    else:
        model = guess_model(tensors)
        known = {"name": path.name.split(".")[0], "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    changes = {name: chosen[name] for name in ("arch", "out_dim", "l2norm") if name in chosen}
    images = {name: tuple(chosen[name]) for name in ("mean", "std") if name in chosen}
    model = dataclasses.replace(model, **changes)
    known = known | images | {"model": dataclasses.asdict(model), "source": digest}
    return from_torch(tensors, known, origin=str(path))


def _with_changes(encoder: Encoder, chosen: dict) -> Encoder:
    """Returns an encoder with l2norm, mean and std replaced; arch and out_dim can't be changed."""
    for name in ("arch", "out_dim"):
        there = getattr(encoder.model, name)
        if chosen.get(name, there) != there:
            raise CheckpointError(
                f"{encoder.name} has {name} {there}, which {name}={chosen[name]} can't change."
            )
    model = dataclasses.replace(encoder.model, l2norm=chosen.get("l2norm", encoder.model.l2norm))
    mean, std = (tuple(chosen.get(name, getattr(encoder, name))) for name in ("mean", "std"))
    return dataclasses.replace(encoder, model=model, mean=mean, std=std)
