"""What every source of images has."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import numpy as np

from ipcl_jax.data.listing import printable

Split = Literal["train", "val"]

WAYS = """
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
    """What a user should know of it, such as what was left out: a line each."""
    places: tuple[str, ...]
    """Real paths of the folders or files that the images are read from."""

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


def digest(lines: Iterable[str]) -> str:
    """Hexadecimal sha256 of some lines."""
    state = hashlib.sha256()
    for line in lines:
        state.update(f"{line}\n".encode())
    return state.hexdigest()


def stamp(name: str, path: str) -> str:
    """A file's name as given, its size in bytes and time of change in ns."""
    found = os.stat(path)
    return f"{printable(name)} {found.st_size} {found.st_mtime_ns}"
