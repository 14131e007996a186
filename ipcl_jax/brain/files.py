"""Files of arrays: HDF5, `.npz`, and `.mat` of version 5. (`.mat` of version 7.3 and files by rsatoolbox are HDF5.)

`FILE:NAME` chooses an array or a group in a file. Nothing is unpickled.
"""

import contextlib
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from ipcl_jax.brain.names import is_text
from ipcl_jax.errors import ConfigError
from ipcl_jax.system.files import expand_home
from ipcl_jax.system.probe import check_memory, check_readable, free_memory

_SUFFIXES = (".h5", ".hdf5", ".hdf", ".mat", ".npz")
_SPEC = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf|mat|npz))(?::(?P<name>[^:]+))?", re.IGNORECASE)

Place = tuple[slice, ...]


@dataclass(frozen=True)
class StoredArray:
    """A numeric array of two axes or more in an HDF5 file, which stays there until parts of it are read.

    Attributes:
        path: the file.
        key: name of the dataset, `group/name`.
        shape: of the array; of one written by MATLAB, as MATLAB shows it.
        dtype: of its numbers.
        chunks: shape of the parts that the file stores together, along the same axes; None if it stores all together.
        reversed: whether the file stores the axes in reversed order, as MATLAB does.
    """

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None
    reversed: bool

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


Arrays = dict[str, np.ndarray]
"""A file's arrays by `group/name`, and its attributes that hold text by `group/name@attribute`."""


def open_file(spec: str) -> tuple[Path, Arrays, str | None]:
    """Reads all arrays of a file.

    Args:
        spec: `FILE` or `FILE:NAME`.

    Returns:
        The file's path, its arrays, and NAME.

    Raises:
        ConfigError: if there is no such file, or it can't be read, or its arrays don't fit into memory.
    """
    return _open(spec, lambda path: _from_hdf5(path, whole=True))


def open_lazily(spec: str) -> tuple[Path, dict[str, np.ndarray | StoredArray], str | None]:
    """As `open_file`, but numeric arrays of two axes or more in HDF5 files stay there.

    Of an array with one axis, or one long axis, all is read, and so is text.
    """
    return _open(spec, lambda path: _from_hdf5(path, whole=False))


@contextlib.contextmanager
def reading(array: np.ndarray | StoredArray) -> Iterator[Callable[[Place], np.ndarray]]:
    """Opens an array for reading in parts.

    Yields:
        A function that returns the part at a place: a slice for each axis.

    Raises:
        ConfigError: if the file has gone, has changed or is damaged.
    """
    if isinstance(array, np.ndarray):
        yield array.__getitem__
        return
    try:
        file = h5py.File(array.path)
        data = file[array.key]
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{array.path} can't be read: {error}") from error
    shape = data.shape[::-1] if array.reversed else data.shape
    if shape != array.shape or data.dtype != array.dtype:
        raise ConfigError(f"{array.path}:{array.key} has changed since it was opened; start again.")

    def read(place: Place) -> np.ndarray:
        try:
            return data[place[::-1]].T if array.reversed else data[place]
        except Exception as error:
            raise ConfigError(f"{array.path}:{array.key} can't be read: {error}") from error

    with file:
        yield read


def describe(array: np.ndarray | StoredArray) -> str:
    """Describes an array for messages: its shape and dtype."""
    return f"{list(array.shape)} {array.dtype}"


def not_found(path: Path, arrays: Mapping, name: str | None, usual: Sequence[str]) -> ConfigError:
    """Returns the error for a file without the array asked for.

    Args:
        path: the file.
        arrays: its arrays.
        name: the array asked for, or None for one of the usual names.
        usual: names that are found without being asked for.
    """
    what = f"no array {name!r}" if name else f"no single array of that kind (named {', '.join(usual)})"
    listing = ", ".join(f"{key} {describe(array)}" for key, array in arrays.items())
    return ConfigError(f"{path} has {what}; give {path}:NAME. It has: {listing or 'nothing'}.")


def _open(spec: str, from_hdf5: Callable[[Path], dict]) -> tuple[Path, dict, str | None]:
    match = _SPEC.fullmatch(spec)
    if not match:
        raise ConfigError(
            f"{spec} is no file of brain data; its name ends in {', '.join(_SUFFIXES)}, with :NAME after it."
        )
    path, name = expand_home(match["file"]), match["name"]
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.")
    try:
        if h5py.is_hdf5(path):
            arrays = from_hdf5(path)
        elif path.suffix.lower() == ".npz":
            arrays = _from_npz(path)
        elif path.suffix.lower() == ".mat":
            check_readable(path, "mat", whole=True)
            arrays = _flatten(scipy.io.loadmat(path, simplify_cells=True))
        else:
            raise ValueError("it is not HDF5")
    except ConfigError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise ConfigError(f"{path} can't be read: {error}") from error
    return path, arrays, name and name.strip("/")


def _from_npz(path: Path) -> Arrays:
    with zipfile.ZipFile(path) as archive:
        check_memory(sum(member.file_size for member in archive.infolist()), free_memory())
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _from_hdf5(path: Path, *, whole: bool) -> dict:
    check_readable(path, "hdf5", whole=whole)
    arrays: dict[str, np.ndarray | StoredArray] = {}
    with h5py.File(path) as file:
        matlab, room = file.userblock_size >= 512, free_memory()

        def note(name: str, item: h5py.HLObject) -> None:
            nonlocal room
            for key, text in item.attrs.items():
                if np.ndim(text) and is_text(np.asarray(text)):
                    arrays[f"{name}@{key}"] = np.asarray(text)
            if not isinstance(item, h5py.Dataset) or name.startswith("#") or item.shape is None:
                return
            if not whole and (stored := _stored(path, name, item, matlab)):
                check_memory(math.prod(stored.chunks or ()) * item.dtype.itemsize, room)
                arrays[name] = stored
                return
            if not whole:
                check_memory(item.nbytes, room)
                room -= item.nbytes
            value = item[()]
            if matlab:
                value = _from_matlab(file, item, value)
            arrays[name] = np.asarray(value)

        note("", file)
        file.visititems(note)
    return arrays


def _stored(path: Path, name: str, item: h5py.Dataset, matlab: bool) -> StoredArray | None:
    """Returns an array that can stay in its file; None if it is text, or a vector."""
    shape = item.shape
    if item.dtype.kind not in "biufc" or max(shape, default=0) == item.size or len(shape) < 2:
        return None
    if matlab and item.attrs.get("MATLAB_class") == b"char":
        return None
    chunks = item.chunks
    if matlab:
        shape, chunks = shape[::-1], chunks and chunks[::-1]
    return StoredArray(path, name, shape, item.dtype, chunks, matlab)


def _from_matlab(file: h5py.File, item: h5py.Dataset, value: np.ndarray) -> np.ndarray:
    """Converts an array of MATLAB: axes are stored reversed, text as numbers, and cells as references."""
    if item.dtype.kind == "O":
        return np.array(["".join(map(chr, file[reference][()].ravel())) for reference in value.T.ravel()])
    if item.attrs.get("MATLAB_class") == b"char":
        return np.array(["".join(map(chr, row)) for row in value.T])
    return value.T


def _flatten(tree: dict, prefix: str = "") -> Arrays:
    arrays: Arrays = {}
    for name, value in tree.items():
        if name.startswith("__"):
            continue
        if isinstance(value, dict):
            arrays |= _flatten(value, f"{prefix}{name}/")
        else:
            arrays[prefix + name] = np.asarray(value)
    return arrays
