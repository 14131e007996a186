"""Opens sources of images: a folder, one that is packed, a TFDS dataset, the built-in photographs, or a mixture.

A source is a sequence of (image, label). An image is either the bytes of an encoded file or an array; `decode.decode`
takes both. Sources are small objects that can be pickled for worker processes.
"""

import itertools
from collections.abc import Mapping

from ipcl_jax.config import Data
from ipcl_jax.data.base import SOURCE_HELP, Source, Split, digest
from ipcl_jax.data.folder import FolderSource, find_images
from ipcl_jax.data.listing import SUFFIXES, natural_key, printable, shared_folder
from ipcl_jax.data.mixture import MixtureSource, split_mixture
from ipcl_jax.data.records import ArrayRecordSource
from ipcl_jax.data.sample import SampleSource
from ipcl_jax.data.tfds import TfdsSource
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import expand_home

__all__ = [
    "SUFFIXES", "ArrayRecordSource", "FolderSource", "MixtureSource", "SampleSource", "Source", "Split", "TfdsSource",
    "check_labelled", "digest", "find_images", "natural_key", "open_source",
]  # fmt: skip

_KINDS = ("sample", "folder", "array_record", "tfds")


def open_source(spec: str, split: Split, *, dir: str | None = None) -> Source:
    """Opens the images of one split.

    Args:
        spec: `sample`, `folder:/path`, `array_record:/path` or `tfds:NAME`; or several of them separated by ` + `, each
            followed by `@N` to take N of its training images (see `MixtureSource`). All validation images of every part
            are taken, as fewer would only make a score less certain.
        split: `train` or `val`.
        dir: TFDS data folder; None for TFDS's default. Other sources ignore it.

    Returns:
        A source with at least one image.

    Raises:
        ConfigError: if there are no such images; the message says what was searched for.
    """
    parts = split_mixture(spec)
    opened = [_open_part(part, split, dir) for part, _ in parts]
    for one, other in itertools.combinations(opened, 2):
        if place := shared_folder(one.places, other.places):
            raise ConfigError(
                f"--data.source has {one.name} and {other.name}, and both read {printable(place)}, which would repeat "
                "images. Name it once, with the number of images that it shall give in all."
            )
    if len(parts) == 1 and parts[0][1] is None:
        return opened[0]
    return MixtureSource(opened, [size if split == "train" else None for _, size in parts])


def open_splits(data: Data) -> dict[str, Source]:
    """Opens the training and the held-out images, `train` and `val`, of data.source.

    Raises:
        ConfigError: as `open_source`.
    """
    return {split: open_source(data.source, split, dir=data.dir) for split in ("train", "val")}


def distinct_notes(sources: Mapping[str, Source]) -> list[str]:
    """Returns what a user should know of some sources, each note once."""
    return list(dict.fromkeys(note for source in sources.values() for note in source.notes))


def check_categories(source: Source, out_dim: int) -> None:
    """Raises ConfigError if a model with `out_dim` outputs can't be trained on the labels of a source.

    Raises:
        ConfigError: if there are no labels, or more classes than outputs.
    """
    classes = len(source.classes)
    if not 0 < classes <= out_dim:
        found = f"has {classes} classes" if classes else "has no labels"
        raise ConfigError(
            f"--objective.name categories needs labels for its {out_dim} outputs, and {source.name} {found}. Raise "
            "--model.out-dim, or give another --data.source."
        )


def check_labelled(source: Source) -> Source:
    """Raises ConfigError if a source has too few classes for a read-out.

    Args:
        source: the images.

    Returns:
        The same source.

    Raises:
        ConfigError: if the images have no labels, or all the same.
    """
    if len(source.classes) < 2:
        found = f"only one class, {source.classes[0]}" if source.classes else "no labels"
        raise ConfigError(
            f"{source.name} has {found}; a read-out needs two classes or more. A folder gives labels as "
            "train/<class>/* and val/<class>/*."
        )
    return source


def _open_part(spec: str, split: Split, dir: str | None) -> Source:
    kind, _, rest = spec.partition(":")
    if spec == "sample":
        return SampleSource(split)
    if kind == "folder" and rest:
        return FolderSource(rest, split)
    if kind == "array_record" and rest:
        return ArrayRecordSource(rest, split)
    if kind == "tfds" and rest:
        return TfdsSource(rest, split, dir=dir)
    if kind in _KINDS:
        hint = " `sample` takes nothing after it." if kind == "sample" else " Its path or name is missing."
    elif expand_home(spec).is_dir():
        hint = f" For the images of that folder write folder:{spec}"
    else:
        hint = near_miss(kind, _KINDS)
    raise ConfigError(f"--data.source {spec!r} names no source.{hint}{SOURCE_HELP}")
