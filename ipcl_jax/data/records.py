"""Images packed into ArrayRecord files by `packing`.

Such a data set is a folder with

  dataset.json: class names, for each split the number of images of each class, and of images and bytes of each file,
    and the largest shorter and longer side of all images in pixels;
  SPLIT-00000-of-00093.array_record and so on: an image's encoded file in each record, sorted by class;
  SPLIT.stamps: the line of `Source.stamps` of each image, followed by a zero byte.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np

from ipcl_jax.data.base import SOURCE_HELP, SortedLabels, Split, digest
from ipcl_jax.data.listing import Paths, printable
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import expand_home, read_json

INDEX = "dataset.json"
VERSION = 1


def record_file(split: str, number: int, files: int) -> str:
    """Returns the name of one of a split's files."""
    return f"{split}-{number:05}-of-{files:05}.array_record"


class ArrayRecordSource:
    """A folder of images that `prepare.py --to array_record` has packed.

    Images, labels, class names and order are those of the folder; so are stamps and identity, if no image was shrunk
    or unreadable.

    Args:
        folder: the path.
        split: `train` or `val`.

    Raises:
        ConfigError: if it is no such data set, or not whole.
    """

    def __init__(self, folder: str, split: Split):
        self._spec = f"array_record:{printable(folder)}"
        self.name = f"{self._spec} {split}"
        root = os.path.abspath(expand_home(folder))
        index = Path(root, INDEX)
        if not index.is_file():
            found = "is not finished or something else" if os.path.isdir(root) else "does not exist"
            raise ConfigError(
                f"No packed images: looked for {printable(str(index))}, and its folder {found}. Write it with: "
                f"python experiments/prepare.py /path/to/images {printable(root)} --to array_record{SOURCE_HELP}"
            )
        try:
            self._read_index(root, read_json(index), split)
        except (KeyError, TypeError, ValueError, OSError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{printable(str(index))} is not as prepare.py writes it: {error!r}") from None
        self.places: tuple[str, ...] = (os.path.realpath(root),)
        self._open()

    def _read_index(self, root: str, index: dict, split: Split) -> None:
        if index["version"] != VERSION:
            raise ConfigError(f"{self._spec} is of version {index['version']}, and this program reads {VERSION}.")
        about = index["splits"][split]
        if not all(isinstance(name, str) for name in (*index["classes"], *index["unreadable"])):
            raise ValueError("names that are not text")
        self.classes = tuple(index["classes"])
        counts = np.array(_numbers(about["counts"]))
        self._labels = SortedLabels(counts, first=0 if self.classes else -1)
        self._stamps = Paths.in_file(os.path.join(root, f"{split}.stamps"))
        paths = [os.path.join(root, record_file(split, k, len(about["files"]))) for k in range(len(about["files"]))]
        images, sizes = (_numbers([pair[k] for pair in about["files"]]) for k in (0, 1))
        if not 0 < sum(images) == counts.sum() == len(self._stamps) or len(counts) != max(1, len(self.classes)):
            raise ValueError("numbers of images that don't agree")
        damaged = [path for path, size in zip(paths, sizes, strict=True) if _size(path) != size]
        if damaged:
            raise ConfigError(
                f"{self._spec} lacks {len(damaged)} of {len(paths)} files of {split}, or they are cut off, such as "
                f"{printable(damaged[0])}. Copy them again, or pack the images again."
            )
        unreadable = len(index["unreadable"])
        left_out = f"{self._spec}: {unreadable:,} images were left out when it was packed, as they can't be read."
        self.notes: tuple[str, ...] = (left_out,) if unreadable else ()
        self._ranges = [f"{path}[0:{number}]" for path, number in zip(paths, images, strict=True)]

    def _open(self) -> None:
        self._records = grain.sources.ArrayRecordDataSource(self._ranges)

    def __len__(self) -> int:
        return len(self._stamps)

    def __getitem__(self, i: int) -> tuple[bytes, int]:
        """Returns the bytes of image i's file and its label (-1: none)."""
        i = range(len(self))[i]
        try:
            return self._records[i], self._labels[i]
        except RuntimeError as error:
            if "Corrupted" in str(error):  # a checksum of this record
                raise
            self._open()  # the reader of a file fails for ever after a disk or network has failed once
            raise OSError(errno.EIO, str(error)) from None

    def describe(self, i: int) -> str:
        """Names the data set, and the path that image i had in its folder."""
        return f"{self._spec}/{self._stamps[i].rsplit(' ', 2)[0]}"

    def labels(self) -> np.ndarray:
        """Returns the label of every image, `[N]` int32 (-1: none)."""
        return self._labels.all()

    def stamps(self) -> Iterator[str]:
        """Yields the path in its folder, size and modification time of each image's file, as they were when packed."""
        return iter(self._stamps)

    def identity(self) -> str:
        """Returns the sha256 of all stamps."""
        return digest(self.stamps())


def _numbers(values: list) -> list[int]:
    """Checks numbers of images or bytes."""
    if not all(type(value) is int and 0 <= value < 2**53 for value in values):
        raise ValueError(f"{values!r:.80} instead of numbers")
    return values


def _size(path: str) -> int:
    """Returns a file's size in bytes; -1 if it doesn't exist."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return -1
