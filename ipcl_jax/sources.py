"""Where images come from: a folder, TFDS, or photographs that ship with two Python packages.

A source is a sequence of (image, label). An image is either the bytes of an encoded
file or an array; `decoding.decode` takes both. Sources are small objects that can be
pickled into worker processes.
"""

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ipcl_jax.errors import ConfigError, near_miss
from ipcl_jax.files import at_home
from ipcl_jax.mixture import MixtureSource, split_mixture
from ipcl_jax.sample import SampleSource

Split = Literal["train", "val"]

SUFFIXES = frozenset(".jpg .jpeg .jpe .png .webp .bmp .gif .tif .tiff .ppm .pgm .jp2".split())

HELD_OUT = 20  # without a `val` folder, every 20th image is for validation

_WAYS = """
Three ways to give images:
  --data.source sample                        built-in photographs, nothing to download
  --data.source folder:/path/to/images        train/<class>/* and val/<class>/*, or one folder of images
  --data.source tfds:NAME --data.dir /path    a TFDS dataset prepared with --file_format=array_record
and any mixture: --data.source 'folder:/faces@1000 + folder:/places@1000' takes so many of each."""


class Source(Protocol):
    """A sequence of images."""

    name: str
    """What was asked for, and the split."""
    classes: tuple[str, ...]
    """Names of the labels; empty without labels."""
    notes: tuple[str, ...]
    """What a user should know of it, a line each."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, int]:
        """Image i, as an encoded file or as `[H, W, 3]` uint8, and its label (-1: none)."""

    def describe(self, i: int) -> str:
        """Where image i is, for messages."""

    def labels(self) -> np.ndarray:
        """Label of every image, `[N]` int32 (-1: none)."""

    def stamps(self) -> Iterator[str]:
        """A line for each image, or for each file where many lie in one: name, bytes, time of change in ns."""

    def identity(self) -> str:
        """What tells these images from any others: equal for two sources that give the same files."""


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
    if len(parts) == 1 and parts[0][1] is None:
        return opened[0]
    return MixtureSource(opened, [size if split == "train" else None for _, size in parts])


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
    raise ConfigError(f"--data.source {spec!r} names no source.{hint}{_WAYS}")


class FolderSource:
    """Image files in a folder, in natural order (2 before 10), hidden ones skipped.

    `train/<class>/*` and `val/<class>/*` give labels: the sorted names of train's
    subfolders; deeper subfolders belong to their class. Without `val/`, every 20th image
    of each class (at least one, if the class has two) is held out of train. Without
    `train/`, all images anywhere in the folder are one set without labels, and
    every 20th is held out in the same way.

    Args:
        folder: the path.
        split: `train` or `val`.
    """

    def __init__(self, folder: str, split: Split):
        self.name = f"folder:{folder} {split}"
        self.notes: tuple[str, ...] = ()
        self._root = at_home(folder).absolute()
        if not self._root.is_dir():
            found = "is a file" if self._root.exists() else "does not exist"
            raise ConfigError(f"No images: looked for a folder at {self._root}, which {found}.{_WAYS}")
        if (self._root / "train").is_dir():
            self.classes, paths = _labelled(self._root, split)
        else:
            self.classes = ()
            paths = [(path, -1) for path in _split(find_images(self._root, self._root), split)]
        if not paths:
            searched = self._root / split if (self._root / split).is_dir() else self._root
            raise ConfigError(f"No images for {split} under {searched}, {_what_is_in(searched)}.{_WAYS}")
        self._paths = [path for path, _ in paths]
        self._labels = np.array([label for _, label in paths], np.int32)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """The bytes of file i and its label (-1: none)."""
        with open(self.describe(i), "rb") as file:
            return file.read(), int(self._labels[i])

    def describe(self, i: int) -> str:
        """The path of file i."""
        return os.path.join(self._root, self._paths[i])

    def labels(self) -> np.ndarray:
        """Label of every file, `[N]` int32 (-1: none)."""
        return self._labels

    def stamps(self) -> Iterator[str]:
        """Path within the folder, size and time of change of each file."""
        return (_stamp(path, self.describe(i)) for i, path in enumerate(self._paths))

    def identity(self) -> str:
        """The sha256 of all stamps."""
        return digest(self.stamps())


def _labelled(root: Path, split: Split) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    train, val = root / "train", root / "val"
    classes = _subfolders(train)
    if not classes:
        loose = len(find_images(train, root))
        raise ConfigError(
            f"{train} should hold one folder a class; it has none, but {loose} images. "
            f"To use those without labels: --data.source folder:{train}{_WAYS}"
        )
    if extra := sorted(set(_subfolders(val)) - set(classes)):
        names = ", ".join(extra[:5])
        raise ConfigError(f"{val} has {len(extra)} classes that {train} lacks, such as {names}.")
    paths = []
    for label, name in enumerate(classes):
        if val.is_dir():
            files = find_images(root / split / name, root)
        else:
            files = _split(find_images(train / name, root), split)
        paths += [(path, label) for path in files]
    return classes, paths


def _split(paths: list[str], split: Split) -> list[str]:
    if len(paths) < 2:
        return paths if split == "train" else []
    return paths[::HELD_OUT] if split == "val" else [p for k, p in enumerate(paths) if k % HELD_OUT]


def find_images(folder: Path, root: Path) -> list[str]:
    """All image files in a folder, by their suffixes, however deep; hidden ones are skipped.

    Args:
        folder: where to look; links are followed.
        root: what the paths shall be relative to.

    Returns:
        Paths in natural order (2 before 10).
    """
    paths = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = os.path.relpath(where, root)
        images = [name for name in files if os.path.splitext(name)[1].lower() in SUFFIXES]
        paths += [os.path.normpath(os.path.join(within, name)) for name in images if name[0] != "."]
    return sorted(paths, key=natural_key)


def digest(lines: Iterable[str]) -> str:
    """Hexadecimal sha256 of some lines."""
    state = hashlib.sha256()
    for line in lines:
        state.update(line.encode("utf-8", "backslashreplace") + b"\n")
    return state.hexdigest()


def _stamp(name: str, path: str) -> str:
    found = os.stat(path)
    return f"{name} {found.st_size} {found.st_mtime_ns}".encode("utf-8", "backslashreplace").decode()


def natural_key(path: str) -> tuple:
    runs = (re.split(r"([0-9]+)", part.casefold()) for part in path.split(os.sep))
    return [[int(run) if k % 2 else run for k, run in enumerate(part)] for part in runs], path


def _subfolders(folder: Path) -> tuple[str, ...]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return tuple(sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."))


def _what_is_in(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return f"which has {len(names)} entries: {shown}" if names else "which is empty"


class TfdsSource:
    """A TFDS dataset in a format with random access, read without TensorFlow.

    Args:
        dataset: TFDS's name, such as `imagenet2012` or `imagenet_v2/matched-frequency:1.*.*`.
        split: `train`; `val` is TFDS's `validation`, or `test` where that doesn't exist.
        dir: folder of TFDS data; None for TFDS's own choice.
    """

    def __init__(self, dataset: str, split: Split, *, dir: str | None = None):
        import tensorflow_datasets as tfds  # here, since it takes a moment and few runs need it

        builder = _builder(tfds, dataset, dir)
        splits, features = builder.info.splits, builder.info.features
        if not splits:
            looked = f"looked for it in {builder.data_dir}"
            raise ConfigError(f"tfds:{dataset} is not prepared; {looked}.{_prepare(dataset, dir)}")
        wanted = ("train",) if split == "train" else ("validation", "test")
        chosen = next((name for name in wanted if name in splits), "")
        if not chosen:
            raise ConfigError(f"tfds:{dataset} has no split {' or '.join(wanted)}, but {', '.join(splits)}.")
        if "image" not in features:
            raise ConfigError(f"tfds:{dataset} has no feature named image, but {', '.join(features)}.")
        encoded = isinstance(features["image"], tfds.features.Image)
        decoders = {"image": tfds.decode.SkipDecoding()} if encoded else None
        try:
            self._data = builder.as_data_source(split=chosen, decoders=decoders)
            self._data[0]
        except NotImplementedError:
            raise ConfigError(
                f"tfds:{dataset} in {builder.data_dir} is prepared as {builder.info.file_format.value}, "
                f"which has no random access.{_prepare(dataset, dir)}"
            ) from None
        except Exception as error:  # TFDS has no common class for what can be wrong with files
            raise ConfigError(f"tfds:{dataset} in {builder.data_dir} can't be read: {error}") from error
        self.name, self._version = f"tfds:{dataset} {chosen}", builder.info.full_name
        self.notes: tuple[str, ...] = ()
        self._files = [os.fspath(path) for path in splits[chosen].filepaths]
        self._labelled = isinstance(dict(features).get("label"), tfds.features.ClassLabel)
        self.classes = tuple(features["label"].names) if self._labelled else ()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, int]:
        """The image of example i and its label (-1: none)."""
        example = self._data[i]
        return example["image"], int(example["label"]) if self._labelled else -1

    def describe(self, i: int) -> str:
        """Which example of which split."""
        return f"{self.name}[{i}]"

    def labels(self) -> np.ndarray:
        """Label of every example, `[N]` int32 (-1: none); reads them all."""
        return np.array([self[i][1] for i in range(len(self))], np.int32)

    def stamps(self) -> Iterator[str]:
        """Name, version and split, and the split's files with their sizes and times of change."""
        yield f"{self.name} {self._version}"
        yield from (_stamp(os.path.basename(path), path) for path in self._files)

    def identity(self) -> str:
        """The sha256 of all stamps."""
        return digest(self.stamps())


def _builder(tfds, dataset: str, dir: str | None):
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)  # TFDS warns about the missing data that ConfigError is about to explain
    try:
        return tfds.builder(dataset, **({"data_dir": dir} if dir else {}))
    except tfds.core.DatasetNotFoundError:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(re.split("[/:]", dataset)[0], known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        where = f", and {dir} has no folder of that name" if dir else ""
        raise ConfigError(f"TFDS knows no dataset {dataset!r}{where}.{hint}{_WAYS}") from None
    except Exception as error:  # a version or configuration that doesn't exist: asserts and ValueErrors
        raise ConfigError(f"TFDS can't open {dataset!r}: {str(error).splitlines()[0]}{_WAYS}") from None
    finally:
        absl.setLevel(level)


def _prepare(dataset: str, dir: str | None) -> str:
    command = f"tfds build {dataset} --file_format=array_record" + (f" --data_dir={dir}" if dir else "")
    return f"\nPrepare it once, on any machine that has TensorFlow:\n  {command}{_WAYS}"
