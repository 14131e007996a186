"""The interface of image sources."""

import bisect
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import numpy as np

from ipcl_jax.data.listing import printable

Split = Literal["train", "val"]

SOURCE_HELP = """
Four ways to give images:
  --data.source sample                        built-in photographs, nothing to download
  --data.source folder:/path/to/images        train/<class>/* and val/<class>/*, or one folder of images
  --data.source array_record:/path            such a folder packed by prepare.py --to array_record
  --data.source tfds:NAME --data.dir /path    a TFDS dataset prepared with --file_format=array_record
and any mixture: --data.source 'folder:/faces@1000 + folder:/places@1000' takes so many of each."""


class Source(Protocol):
    """A sequence of images."""

    name: str
    """The source as it was asked for, and the split."""
    classes: tuple[str, ...]
    """Class names in the order of labels; empty without labels."""
    notes: tuple[str, ...]
    """Messages for the user, such as which files were left out, one line each."""
    places: tuple[str, ...]
    """Real paths of the folders or files that the images are read from."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, i: int) -> tuple[bytes | np.ndarray, int]:
        """Returns image i, as an encoded file or as `[H, W, 3]` uint8, and its label (-1: none)."""

    def describe(self, i: int) -> str:
        """Returns the location of image i, for messages."""

    def labels(self) -> np.ndarray:
        """Returns the label of every image, `[N]` int32 (-1: none)."""

    def stamps(self) -> Iterator[str]:
        """Yields a line per image, or per file that holds several: name, size in bytes, modification time in ns."""

    def identity(self) -> str:
        """Returns a fingerprint of the images: equal for two sources that give the same files."""


class SortedLabels:
    """Labels of images sorted by label, stored as the number of images of each.

    Args:
        counts: number of images of each label, from `first` on.
        first: the first label; -1 for images without labels.
    """

    def __init__(self, counts: np.ndarray, *, first: int = 0):
        self._counts, self._first = counts, first
        self._ends = np.cumsum(counts).tolist()

    def __getitem__(self, i: int) -> int:
        """Returns the label of image i."""
        i = range(self._ends[-1])[i]
        return bisect.bisect_right(self._ends, i) + self._first

    def all(self) -> np.ndarray:
        """Returns the label of every image, `[N]` int32."""
        return np.repeat(np.arange(len(self._counts), dtype=np.int32) + np.int32(self._first), self._counts)


def digest(lines: Iterable[str]) -> str:
    """Computes the hexadecimal sha256 of lines of text."""
    state = hashlib.sha256()
    for line in lines:
        state.update(f"{line}\n".encode())
    return state.hexdigest()


def stamp(name: str, path: str) -> str:
    """Formats a file's name as given, its size in bytes and its modification time in ns."""
    found = os.stat(path)
    return f"{printable(name)} {found.st_size} {found.st_mtime_ns}"
