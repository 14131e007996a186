"""Any model by its name or path, as an encoder."""

import dataclasses
from pathlib import Path

from convert.checkpoint import CheckpointError, from_torch, guess_model, read_torch
from convert.fetch import fetch
from ipcl_jax import zoo
from ipcl_jax.cache import cache_folder, sha256
from ipcl_jax.config import IMAGENET_MEAN, IMAGENET_STD
from ipcl_jax.description import read_model
from ipcl_jax.encoder import SUFFIX, Encoder, load_encoder, save_encoder, untrained
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.files import at_home

Channels = tuple[float, float, float]


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
    """A released model, or any PyTorch checkpoint of the same network.

    A released model is downloaded and converted once; from then on the converted copy is read, for which
    neither torch nor the network is needed. A local file is converted at every call. A local copy of
    a released file is known by its sha256.

    Args:
        name_or_path: `ipcl1` ... `ipcl16`, or the path of a file (`.pth`, `.pth.tar`): see
            `convert.checkpoint.read_torch` for the forms it may have.
        arch: the network; by default as released, or by the tensors' names.
        out_dim: outputs that the network must have; by default what the file has.
        l2norm: whether embeddings are scaled to unit length; by default as released, and for other
            files unless there are 1000 outputs.
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
        DownloadError: if a released file can't be had.
        CheckpointError: if a file isn't one of this network, with every tensor that is wrong.
        ModuleNotFoundError: if torch or pooch is needed and missing.
    """
    options = {"arch": arch, "out_dim": out_dim, "l2norm": l2norm, "mean": mean, "std": std}
    chosen = {name: value for name, value in options.items() if value is not None}
    record = zoo.MODELS.get(str(name_or_path))
    if record is None:
        path = at_home(name_or_path)
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "is no file"
            raise ConfigError(
                f"No model {str(name_or_path)!r}: it {found}, and no released model has that name."
                f"{near_miss(str(name_or_path), zoo.MODELS)}"
            )
        return _convert(path, sha256(path), chosen)
    if record.file is None:
        encoder = untrained(record.model, mean=record.mean, std=record.std, name=record.name)
    else:
        encoder = _released(record, cache_folder(cache_dir), base_url=base_url, progress=progress)
    return _with(encoder, chosen)


def open_encoder(name_or_path: str | Path) -> Encoder:
    """Any model: a released one by its name, a PyTorch file, a safetensors file, or a run's folder.

    Args:
        name_or_path: as for `convert_torch_checkpoint` or `ipcl_jax.load_encoder`.

    Returns:
        The model.

    Raises:
        ConfigError, DownloadError, CheckpointError, ModuleNotFoundError: as those two.
    """
    path = at_home(name_or_path)
    if str(name_or_path) not in zoo.MODELS and (path.is_dir() or (path.is_file() and path.suffix == SUFFIX)):
        return load_encoder(path)
    return convert_torch_checkpoint(name_or_path)


def _released(record: zoo.Released, cache: Path, *, base_url: str | None, progress: bool) -> Encoder:
    converted = cache / f"{record.name}{SUFFIX}"
    if converted.exists():
        try:
            encoder = load_encoder(converted)
            if encoder.source.startswith(record.sha256):
                return encoder
        except ConfigError:  # damaged, or by another version: it is made anew
            pass
    path, digest = fetch(record, cache, base_url=base_url, progress=progress)
    try:
        encoder = _convert(path, digest, {})
    except CheckpointError:
        path.unlink()  # what can't be used isn't kept
        raise
    save_encoder(encoder, converted)
    return encoder


def _convert(path: Path, digest: str, chosen: dict) -> Encoder:
    tensors, description = read_torch(path)
    try:
        return _encoder_of(tensors, description, path, digest, chosen)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} can't be read as a model: {error}") from None


def _encoder_of(tensors: dict, description: dict, path: Path, digest: str, chosen: dict) -> Encoder:
    known: dict
    record = next((r for r in zoo.MODELS.values() if r.sha256 and digest.startswith(r.sha256)), None)
    if record:
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


def _with(encoder: Encoder, chosen: dict) -> Encoder:
    """A released model with some of its description replaced; its tensors stay what they are."""
    for name in ("arch", "out_dim"):
        there = getattr(encoder.model, name)
        if chosen.get(name, there) != there:
            raise CheckpointError(
                f"{encoder.name} has {name} {there}, which {name}={chosen[name]} can't change."
            )
    model = dataclasses.replace(encoder.model, l2norm=chosen.get("l2norm", encoder.model.l2norm))
    images = {name: tuple(chosen[name]) for name in ("mean", "std") if name in chosen}
    return dataclasses.replace(encoder, model=model, **images)
