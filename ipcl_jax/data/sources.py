"""Where images come from: a folder, TFDS, or photographs that ship with two Python packages.

A source is a sequence of (image, label). An image is either the bytes of an encoded
file or an array; `decoding.decode` takes both. Sources are small objects that can be
pickled into worker processes.
"""

import itertools

from ipcl_jax.config import Data
from ipcl_jax.data.base import WAYS, Source, Split, digest
from ipcl_jax.data.folder import FolderSource, find_images
from ipcl_jax.data.listing import SUFFIXES, natural_key, printable, shared_folder
from ipcl_jax.data.mixture import MixtureSource, split_mixture
from ipcl_jax.data.sample import SampleSource
from ipcl_jax.data.tfds import TfdsSource
from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.system.files import at_home

__all__ = [
    "SUFFIXES", "FolderSource", "MixtureSource", "SampleSource", "Source", "Split", "TfdsSource",
    "check_labelled", "digest", "find_images", "natural_key", "open_source",
]  # fmt: skip


def open_source(spec: str, split: Split, *, dir: str | None = None) -> Source:
    """The images of one split.

    Args:
        spec: `sample`, `folder:/path` or `tfds:NAME`; or several of them with ` + ` in between, each with
            `@N` at its end if it shall give N of its training images (see `MixtureSource`). Of
            every part all validation images count: a share is what a network learns from, and
            fewer images would only make its score less certain.
        split: `train` or `val`.
        dir: the folder of TFDS data; None for TFDS's own choice. Only TFDS uses it.

    Returns:
        A source with at least one image.

    Raises:
        ConfigError: if there are no such images; the message says what was looked for.
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


def check_categories(source: Source, out_dim: int) -> None:
    """Refuses images that a model with `out_dim` outputs can't learn the categories of.

    Raises:
        ConfigError: if they have no labels, or more classes than there are outputs.
    """
    classes = len(source.classes)
    if not 0 < classes <= out_dim:
        found = f"has {classes} classes" if classes else "has no labels"
        raise ConfigError(
            f"--objective.name categories needs labels for its {out_dim} outputs, and {source.name} {found}. Raise "
            "--model.out-dim, or give another --data.source."
        )


def check_labelled(source: Source) -> Source:
    """Refuses images whose classes a read-out can't be measured with.

    Args:
        source: the images.

    Returns:
        The same source.

    Raises:
        ConfigError: if they have no labels, or all the same.
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
    if kind == "tfds" and rest:
        return TfdsSource(rest, split, dir=dir)
    if kind in ("sample", "folder", "tfds"):
        hint = " `sample` takes nothing after it." if kind == "sample" else " Its path or name is missing."
    elif at_home(spec).is_dir():
        hint = f" For the images of that folder write folder:{spec}"
    else:
        hint = near_miss(kind, ("sample", "folder", "tfds"))
    raise ConfigError(f"--data.source {spec!r} names no source.{hint}{WAYS}")
