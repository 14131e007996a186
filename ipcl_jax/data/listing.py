"""Lists the image files of a folder in natural order, and stores their paths compactly.

ImageNet has 1.3 million files, so no Python object is kept per file.
"""

import contextlib
import os
import re
import tempfile
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np

# Suffixes of the formats in `decode.FORMATS`.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .avif .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .jpx".split()
)

_DIGITS = re.compile("([0-9]+)")


def natural_key(path: str) -> tuple[list[str], str]:
    """Sort key of a path in natural order: 2 before 10, folder by folder, ignoring case."""
    return _keys(path.split(os.sep)), path


def _keys(names: Sequence[str]) -> list[str]:
    """Sort keys of names in natural order; equal for names that differ only in case or leading zeros."""
    # All names are joined by slashes, which no name contains, since a call per name would take most of the time. A
    # number becomes a zero byte, which no name contains either, then its number of digits as one character, and its
    # digits.
    runs = _DIGITS.split("/".join(names).casefold())
    numbers = (run.lstrip("0") for run in runs[1::2])
    runs[1::2] = [f"\0{chr(256 + len(number))}{number}" for number in numbers]
    return "".join(runs).split("/") if names else []


def printable(text: str) -> str:
    """Escapes the characters of a path or name that can't be printed or encoded as UTF-8, such as \\udce9."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Paths(Sequence[str]):
    """A sequence of paths stored in one block of memory.

    Pickling writes them to a temporary file, and pickles its name; unpickling maps the file into memory. So all
    processes share one copy, unaffected by later changes in the folder. The file is removed with the object that was
    pickled.

    Args:
        chunks: the paths, in lists.
    """

    def __init__(self, chunks: Iterable[Sequence[str]]):
        memory = bytearray()
        for chunk in chunks:
            if chunk:
                memory += os.fsencode("\0".join(chunk)) + b"\0"
        self._index(np.frombuffer(memory, np.uint8))

    def _index(self, memory: np.ndarray) -> None:
        self._memory = memory
        blocks = ((start, memory[start : start + 2**20]) for start in range(0, len(memory), 2**20))
        ends = [np.flatnonzero(block == 0) + (start + 1) for start, block in blocks]
        self._ends = np.concatenate(ends) if ends else np.zeros(0, np.int64)
        self._file = ""

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i):
        """Returns path i, or a list for a slice."""
        if isinstance(i, slice):
            return [self[k] for k in range(len(self))[i]]
        i = range(len(self))[i]
        start = self._ends[i - 1] if i else 0
        return os.fsdecode(self._memory[start : self._ends[i] - 1].tobytes())

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), 4096):
            start = self._ends[first - 1] if first else 0
            stop = self._ends[min(first + 4096, len(self)) - 1] - 1
            yield from os.fsdecode(self._memory[start:stop].tobytes()).split("\0")

    def __reduce__(self) -> tuple:
        if not self._file:
            with tempfile.NamedTemporaryFile(prefix="ipcl_jax-paths-", delete=False) as file:
                weakref.finalize(self, _remove, file.name)
                self.write(file)
            self._file = file.name
        return Paths.in_file, (self._file,)

    def write(self, file: IO[bytes]) -> None:
        """Writes the paths to an open file, each followed by a zero byte."""
        file.write(self._memory.data)

    @classmethod
    def in_file(cls, file: str) -> "Paths":
        """Opens the paths in a file, which is mapped into memory and must not be changed."""
        paths = cls(())
        if os.path.getsize(file):  # an empty file can't be mapped
            paths._index(np.memmap(file, np.uint8, "r"))
        paths._file = file
        return paths


def _remove(file: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(file)


@dataclass(frozen=True)
class Folder:
    """A folder to be read.

    Attributes:
        path: relative to the root; empty for the root itself.
        target: its real path, if it is reached through a link.
    """

    path: str
    target: str = ""

    def __truediv__(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


@dataclass
class Scan:
    """A recursive scan of folders that reads each folder once.

    Links are followed, except to a folder that is read anyway: one within `tops`, one that contains one of `tops`
    (a loop), or one that an earlier link led to.

    Attributes:
        root: the folder to which paths are relative.
        tops: real paths of the folders that are read, by this scan or by that of the other split.
        places: real paths of the folders outside of `tops` that links led to.
        left_out: number of files by suffix that are not images by their suffix, without hidden ones.
        not_followed: a line for each link that was not followed.
        not_permitted: folders that this user may not read.
        folders: number of folders read.
    """

    root: str
    tops: Sequence[str]
    places: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    not_followed: list[str] = field(default_factory=list)
    not_permitted: list[str] = field(default_factory=list)
    folders: int = 0
    _visited: set[str] = field(default_factory=set)

    def images(self, *folders: Folder) -> Iterator[list[str]]:
        """Lists all image files in a folder and its subfolders, in natural order.

        Args:
            folders: one, or several whose names have the same sort key, to be merged.

        Yields:
            Lists of paths relative to the root.
        """
        paths, subfolders = [], []
        names: list[str] = []
        for folder in folders:
            files, below = self.list_folder(folder)
            names += files
            paths += [folder / name for name in files]
            subfolders += below
        key_of = dict(zip(paths, _keys(names), strict=True))
        paths.sort()
        paths.sort(key=key_of.__getitem__)
        done = 0
        for key, group in _grouped(subfolders):
            upto = bisect_right(paths, key, key=key_of.__getitem__)
            yield paths[done:upto]
            yield from self.images(*group)
            done = upto
        yield paths[done:]

    def list_folder(self, folder: Folder) -> tuple[list[str], list[Folder]]:
        """Returns the names of a folder's image files, and the subfolders to be read."""
        images, folders = [], []
        self.folders += 1
        try:
            entries = os.scandir(os.path.join(self.root, folder.path))
        except PermissionError:
            self.not_permitted.append(folder.path)
            return [], []
        with entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if entry.is_dir():
                    folders.append(entry)
                elif name[name.rfind(".") :].lower() in SUFFIXES and (entry.is_file() or entry.is_symlink()):
                    images.append(name)
                else:
                    self.left_out[os.path.splitext(name)[1].lower()] += 1
        folders.sort(key=lambda entry: entry.name)  # so that of two links to a folder always the same one is followed
        entered = (self._enter(folder, entry) for entry in folders)
        return images, [below for below in entered if below is not None]

    def _enter(self, folder: Folder, entry: os.DirEntry) -> Folder | None:
        path = folder / entry.name
        if not entry.is_symlink():
            if not folder.target:
                return Folder(path)
            target = os.path.join(folder.target, entry.name)
        else:
            target = os.path.realpath(entry.path)
            if any(is_within(target, top) or is_within(top, target) for top in self.tops):
                self.not_followed.append(f"{path} -> {target}")
                return None
        if target in self._visited:
            self.not_followed.append(f"{path} -> {target}")
            return None
        self._visited.add(target)
        if entry.is_symlink():
            self.places.append(target)
        return Folder(path, target)


def _grouped(folders: Sequence[Folder]) -> list[tuple[str, list[Folder]]]:
    groups: dict[str, list[Folder]] = {}
    keys = _keys([folder.path.rpartition("/")[2] for folder in folders])
    for key, folder in zip(keys, folders, strict=True):
        groups.setdefault(key, []).append(folder)
    return sorted(groups.items())


def is_within(path: str, folder: str) -> bool:
    """Whether a real path is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def shared_folder(places: Iterable[str], others: Iterable[str]) -> str | None:
    """Finds a folder that lies in both of two sets of folders, given by real paths; None if there is none."""
    places, others = set(places), set(others)
    for one, other in ((places, others), (others, places)):
        for path in sorted(one):
            above = path
            while above not in other and above != os.path.dirname(above):
                above = os.path.dirname(above)
            if above in other:
                return path
    return None
